package capacity

import (
	"bytes"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The terms are the formula, not a story beside it.
func TestTermsAddUp(t *testing.T) {
	for _, p := range []Profile{EventLoop, Goroutine} {
		for _, replay := range []int{0, 1, 20, 100, 100_000} {
			for _, limit := range []int64{512 * MiB, 2 * GiB} {
				in := Input{Limit: mem(limit), Profile: p, Replay: replay, Backlog: DefaultBacklog}
				for _, per := range []int64{0, 7000} {
					in.BytesPerConnection = per
					r, err := Compute(in)
					if err != nil {
						t.Fatal(err)
					}
					if got := sum(r.ConnectionTerms()); got != r.BytesPerConnection {
						t.Errorf("%s, replay %d: terms of a connection are %d of %d bytes", p, replay, got, r.BytesPerConnection)
					}
					terms, err := r.ProcessTerms()
					if err != nil {
						t.Fatal(err)
					}
					if got := sum(terms); got != r.Overhead {
						t.Errorf("%s: terms of the process are %d of %d bytes", p, got, r.Overhead)
					}
					checkTerms(t, r.ConnectionTerms(), PerConnection)
					checkTerms(t, terms, PerProcess)
				}
			}
		}
	}
}

func checkTerms(t *testing.T, terms []Term, per string) {
	t.Helper()
	for _, term := range terms {
		if term.Name == "" || term.What == "" || term.Source == "" || term.Per != per {
			t.Errorf("%+v says too little", term)
		}
		if term.Bytes < 0 {
			t.Errorf("%s is negative: %d", term.Name, term.Bytes)
		}
	}
}

// The default profile's slack is not what holds the sum together.
func TestModelHasSlack(t *testing.T) {
	for _, term := range EventLoop.ConnectionTerms(DefaultReplay) {
		least := int64(0)
		switch term.Name {
		case "kernel: charged on top":
			least = KernelPerConnection / 10
		case "slack":
			least = OwnPerConnection / 8
		}
		if term.Bytes < least {
			t.Errorf("%s is down to %d bytes, want %d", term.Name, term.Bytes, least)
		}
	}
}

// The model's terms cover the structs they stand for, as the source has them
// today. If this fails, a struct grew: raise its term in model.go, which takes
// it out of the slack, and say so in docs/capacity.md.
func TestModelCoversTheStructs(t *testing.T) {
	if testing.Short() {
		t.Skip("asks the go command for export data")
	}
	load := exportData(t, "../gateway")
	slab := structs(t, load, "../gateway/slab.go")
	members := structs(t, load, "../gateway/channel/members.go")
	terms := map[string]int64{}
	for _, term := range EventLoop.ConnectionTerms(DefaultReplay) {
		terms[term.Name] = term.Bytes
	}
	const freeList, handshake = 4, 8 // a uint32 and, while it lasts, a connRef
	for _, c := range []struct {
		term  string
		holds int64
	}{
		{"slot", slab["slot"] + freeList + handshake},
		{"unfinished business", slab["ext"]},
		{"first subscription", slab["sub"] + members["Member"]},
		{"subscriptions 2 to 16", (IncludedSubscriptions - 1) * (slab["sub"] + members["Member"])},
	} {
		if c.holds == 0 || terms[c.term] < c.holds {
			t.Errorf("term %q is %d bytes, and its structs are %d", c.term, terms[c.term], c.holds)
		}
	}
	if one := slab["sub"] + members["Member"]; SubscriptionCost < one+one/2 {
		t.Errorf("SubscriptionCost is %d for %d bytes of structs", SubscriptionCost, one)
	}
	t.Logf("slot %d, ext %d, sub %d, Member %d bytes", slab["slot"], slab["ext"], slab["sub"], members["Member"])
}

// exportData compiles a package's dependencies and returns an importer for them.
func exportData(t *testing.T, dir string) types.Importer {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", dir).Output()
	if err != nil {
		t.Skipf("go list -export: %v", err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 {
			files[f[0]] = f[1]
		}
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		b, err := os.ReadFile(files[path])
		return io.NopCloser(bytes.NewReader(b)), err
	})
}

// structs returns the size of each struct declared in a file, bytes.
func structs(t *testing.T, load types.Importer, path string) map[string]int64 {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, filepath.FromSlash(path), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var bad []error
	cfg := types.Config{Importer: load, Error: func(err error) { bad = append(bad, err) }}
	pkg, _ := cfg.Check("p", fset, []*ast.File{f}, nil) // what other files declare is missing, and no struct needs it
	sizes := map[string]int64{}
	for _, name := range pkg.Scope().Names() {
		typ := pkg.Scope().Lookup(name).Type()
		if _, ok := typ.Underlying().(*types.Struct); ok {
			sizes[name] = types.SizesFor("gc", "amd64").Sizeof(typ)
		}
	}
	if slices.ContainsFunc(bad, func(err error) bool { return strings.Contains(err.Error(), "import") }) {
		t.Fatal(bad)
	}
	return sizes
}

func TestResultGoMemLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		in   Input
		like bool // what GoMemLimit returns, but for rounding
		want int64
	}{
		"512 MiB":              {Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: DefaultBacklog}, true, 0},
		"few connections":      {Input{Limit: mem(32 * GiB), Profile: EventLoop, Backlog: DefaultBacklog, Configured: 100}, false, 28*GiB - 500*KiB - 128*MiB*4/10},
		"512 MiB, goroutine":   {Input{Limit: mem(512 * MiB), Profile: Goroutine, Backlog: DefaultBacklog, Replay: 100}, true, 0},
		"96 MiB":               {Input{Limit: mem(96 * MiB), Profile: EventLoop, Backlog: DefaultBacklog, RuntimeOverhead: 48 * MiB}, false, 48*MiB*6/10 + 6144*KiB},
		"8 GiB":                {Input{Limit: mem(8 * GiB), Profile: EventLoop, Backlog: DefaultBacklog}, false, 128*MiB*6/10 + 1201493*KiB},
		"few descriptors":      {Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: DefaultBacklog, Descriptors: 1256}, true, 0},
		"kernel share is less": {Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: 0, BytesPerConnection: 4 * KiB}, false, 128 * MiB * 6 / 10},
	} {
		r, err := Compute(tc.in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, want := r.GoMemLimit(), tc.want
		if tc.like {
			want = GoMemLimit(r.Limit.Bytes, r.Max, KernelPerConnection, r.Backlog)
		}
		if diff := got - want; diff < -256*KiB || diff > 256*KiB {
			t.Errorf("%s: %s, want %s", name, FormatSize(got), FormatSize(want))
		}
	}
	r, err := Compute(Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: DefaultBacklog})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = r.Recompute(mem(1)); err == nil || r.GoMemLimit() < 64*MiB {
		t.Errorf("where nothing fits: %d, %v", r.GoMemLimit(), err)
	}
}
