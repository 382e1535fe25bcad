package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestMap wants ARCHITECTURE.md to name every package, and every file of the largest one:
// a map that lacks the new house sends the newcomer past it.
func TestMap(t *testing.T) {
	b, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []string
	for p := range strings.FieldsSeq(string(out)) {
		packages = append(packages, strings.TrimPrefix(p, module+"/"))
	}
	// Modules of their own.
	packages = append(packages, "bench/peers", "bench/plot", "tools/licences", "tools/manifests", "e2e/faults", "clients/go", "clients/js")
	for _, p := range unnamed(string(b), packages) {
		t.Errorf("ARCHITECTURE.md does not say what %s is", p)
	}
	files, err := filepath.Glob("../../gateway/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f = filepath.Base(f)
		group, _, _ := strings.Cut(f, "_")
		if strings.HasSuffix(f, "_test.go") || f == "doc.go" || strings.Contains(string(b), f) || strings.Contains(string(b), group+"_….go") {
			continue
		}
		t.Errorf("ARCHITECTURE.md does not say what gateway/%s is", f)
	}
	if got := unnamed("`a` and **`b/c`**, `d/e`", []string{"a", "b/c", "c", "e", "b", "c/d"}); !slices.Equal(got, []string{"b", "c/d"}) {
		t.Errorf("unnamed found %v", got)
	}
}

// unnamed are the packages that a text does not name in code, by their whole path or the
// end of it.
func unnamed(text string, packages []string) (missing []string) {
	for _, p := range packages {
		named := false
		for end := p; end != "" && !named; {
			named = regexp.MustCompile("`(?:[^`\n]*/)?" + regexp.QuoteMeta(end) + "`").MatchString(text)
			if _, rest, ok := strings.Cut(end, "/"); ok {
				end = rest
			} else {
				end = ""
			}
		}
		if !named {
			missing = append(missing, p)
		}
	}
	return missing
}

// TestMakeHelp wants every target of the Makefile to be among those that make lists, with
// a word on what it does.
func TestMakeHelp(t *testing.T) {
	b, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range unhelped(string(b)) {
		t.Errorf("make help says nothing of %s", name)
	}
	if got := unhelped("a: ## what a does\nb: a\n\techo\nc := 1\n"); !slices.Equal(got, []string{"b"}) {
		t.Errorf("unhelped found %v", got)
	}
}

var target = regexp.MustCompile(`^([a-z0-9-]+):([^=].*)?$`)

func unhelped(makefile string) (names []string) {
	for line := range strings.Lines(makefile) {
		line = strings.TrimRight(line, "\n")
		if m := target.FindStringSubmatch(line); m != nil && !strings.Contains(line, " ## ") {
			names = append(names, m[1])
		}
	}
	return names
}
