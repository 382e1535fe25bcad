package archtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What docs/conformance.md names exists: every test and fuzz target, every row
// of a table, and every target is named.
func TestConformanceNamesTests(t *testing.T) {
	root := filepath.Join("..", "..")
	doc, err := os.ReadFile(filepath.Join(root, "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{} // of the files that have it, by the test's name
	for _, path := range testFiles(t, root) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(b), -1) {
			sources[m[1]] += string(b)
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)(?:/([^`]+))?`").FindAllStringSubmatch(string(doc), -1)
	if len(named) < 50 {
		t.Fatalf("only %d tests are named: this test would check nothing", len(named))
	}
	for _, m := range named {
		source, there := sources[m[1]]
		switch {
		case !there:
			t.Errorf("there is no %s", m[1])
		case m[2] != "" && !strings.Contains(source, `"`+m[2]+`"`):
			t.Errorf("%s has no row %q", m[1], m[2])
		}
	}
	for name := range sources {
		if strings.HasPrefix(name, "Fuzz") && !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("%s is not named", name)
		}
	}
}

// testFiles are the repository's, other modules' too, without what was installed.
func testFiles(t *testing.T, root string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == ".tools"):
			return filepath.SkipDir
		case strings.HasSuffix(path, "_test.go"):
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
