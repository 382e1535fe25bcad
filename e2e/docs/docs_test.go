package docs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestMain runs the tests, or, started again by one of them, becomes a document's shell.
func TestMain(m *testing.M) {
	if os.Getenv(shellRole) != "" {
		becomeShell()
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// built is the directory of the binary, if it was built here; theChecker sets it.
var built string

// required makes what this machine lacks a failure, as on CI.
func required() bool { return os.Getenv("ODIN_REQUIRE_DOCS") != "" }

var theChecker = sync.OnceValues(func() (*checker, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	r, err := openRepo(root)
	if err != nil {
		return nil, err
	}
	odin := os.Getenv("ODIN_BIN")
	if odin == "" {
		dir, err := os.MkdirTemp("", "odin-docs-")
		if err != nil {
			return nil, err
		}
		built, odin = dir, filepath.Join(dir, "odin")
		// As make build has it, so that its parts come from the cache.
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=dev", "-o", odin, "./cmd/odin")
		cmd.Dir = root
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, errors.New("go build ./cmd/odin: " + string(out))
		}
	}
	if odin, err = filepath.Abs(odin); err != nil {
		return nil, err
	}
	return &checker{repo: r, odin: odin}, nil
})

func newChecker(t *testing.T) *checker {
	t.Helper()
	c, err := theChecker()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// goEnv is what the go command needs to find what is built and fetched already, for
// an environment with another home.
var goEnv = sync.OnceValues(func() ([]string, error) {
	names := []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOTOOLCHAIN", "GOROOT"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	if err != nil {
		return nil, err
	}
	var env []string
	for i, v := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		if v != "" {
			env = append(env, names[i]+"="+v)
		}
	}
	return append(env, "GOPROXY=off", "GOFLAGS=", "GONOSUMDB=*", "GOWORK=off"), nil
})

// environ is a reader's: a home of its own, odin on the path, and where the stream is
// kept out of the machine's /var/lib.
func environ(t *testing.T, dir string) []string {
	t.Helper()
	env, err := goEnv()
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, ".typed", "home")
	for _, d := range []string{home, filepath.Join(home, "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return append(slices.Clone(env), // each test has its own
		"PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+home, "TMPDIR="+filepath.Join(home, "tmp"),
		"STATE_DIRECTORY="+filepath.Join(dir, ".typed", "state"), "LANG=C.UTF-8", "NO_COLOR=1",
	)
}

// all reads every document.
func all(t *testing.T, c *checker) []*document {
	t.Helper()
	var docs []*document
	for _, name := range documents(c.files) {
		d, err := readDocument(c.root, name)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, d)
	}
	if len(docs) < 10 {
		t.Fatalf("only %d documents were found", len(docs))
	}
	return docs
}

// hasCommands reports whether there is a block of commands in the document.
func (d *document) hasCommands() bool {
	return slices.ContainsFunc(d.fences, func(f fence) bool { return f.lang == "sh" })
}

func report(t *testing.T, problems []problem) {
	t.Helper()
	for _, p := range problems {
		t.Error(p)
	}
}

// TestText checks what needs nothing to be run: links, marks, names of targets,
// commands, flags, files and tests, JSON and JavaScript.
func TestText(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	for _, d := range all(t, c) {
		report(t, c.fencesOf(d))
		report(t, c.linksOf(d))
		report(t, c.static(d))
		report(t, c.jsonOf(d))
		problems, err := c.jsOf(d, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		report(t, problems)
	}
}

// TestGo compiles the examples in Go.
func TestGo(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	dir := t.TempDir()
	env := append(environ(t, dir), "CGO_ENABLED=0")
	problems, err := c.goOf(all(t, c), dir, env)
	if err != nil {
		t.Fatal(err)
	}
	report(t, problems)
}

// TestCommands types every command of every document that can be typed here, and
// lists the others.
func TestCommands(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	for _, d := range all(t, c) {
		if !d.hasCommands() {
			continue
		}
		t.Run(d.path, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			seen, err := c.run(d, dir, environ(t, dir))
			if errors.Is(err, errNoNamespace) {
				if required() {
					t.Fatal(err)
				}
				t.Skip("note: the commands of the documents were not run: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			report(t, seen.problems)
			if len(seen.missing) > 0 && required() {
				t.Errorf("not installed here: %s", strings.Join(seen.missing, ", "))
			}
			t.Logf("%d commands run, %d not", seen.ran, len(seen.unrun))
			for _, u := range seen.unrun {
				t.Log("not run: " + u)
			}
		})
	}
}
