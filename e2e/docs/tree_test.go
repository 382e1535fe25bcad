package docs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// repo is the checkout the documents belong to. Static after openRepo.
type repo struct {
	root    string
	files   []string          // all that is or could be committed, from the root, with slashes
	targets map[string]string // of the Makefile, and what its help says of each
	tests   map[string]bool   // names of Go tests, benchmarks and fuzz targets
	source  string            // every file that is no document, to look things up in
	words   map[string]bool   // its words
	// toolFlags are the flags that a Go program of the repository defines.
	toolFlags map[string]bool
}

var (
	target   = regexp.MustCompile(`(?m)^([a-z0-9-]+):(?:[^=\n#]*)(?:## (.*))?$`)
	flagDef  = regexp.MustCompile(`\b(?:Var|String|Bool|Int|Uint|Float64|Duration)\w*\([^"\n]*"([a-z][a-z0-9-]+)"`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)\w*)\(`)
)

// openRepo reads the checkout at root.
func openRepo(root string) (*repo, error) {
	r := &repo{root: root, targets: map[string]string{}, tests: map[string]bool{}, toolFlags: map[string]bool{}}
	var err error
	if r.files, err = listFiles(root); err != nil {
		return nil, err
	}
	var source strings.Builder
	for _, f := range r.files {
		switch filepath.Ext(f) {
		case ".go", ".ts", ".mjs", ".yml", ".yaml", ".json", ".cpp", ".conf", ".cfg", "":
		default:
			continue
		}
		if strings.HasPrefix(f, "docs/") || strings.Contains(f, "testdata/") || strings.HasPrefix(f, "e2e/docs/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			continue // deleted, and not committed yet
		}
		source.Write(b)
		if strings.HasSuffix(f, "_test.go") {
			for _, m := range testFunc.FindAllSubmatch(b, -1) {
				r.tests[string(m[1])] = true
			}
		}
		if f == "Makefile" {
			for _, m := range target.FindAllSubmatch(b, -1) {
				r.targets[string(m[1])] = string(m[2])
			}
		}
	}
	r.source = source.String()
	r.words = map[string]bool{}
	for w := range strings.FieldsFuncSeq(r.source, func(c rune) bool { return c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) }) {
		r.words[w] = true
	}
	for _, m := range flagDef.FindAllStringSubmatch(r.source, -1) {
		r.toolFlags[m[1]] = true
	}
	if len(r.targets) == 0 {
		return nil, fmt.Errorf("%s: no Makefile with targets", root)
	}
	return r, nil
}

// listFiles is what git would take, or without git all but what is built or installed.
func listFiles(root string) ([]string, error) {
	cmd := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if out, err := cmd.Output(); err == nil && len(out) > 0 {
		files := strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
		slices.Sort(files)
		return slices.DeleteFunc(slices.Compact(files), func(f string) bool {
			info, err := os.Lstat(filepath.Join(root, f))
			return err != nil || !info.Mode().IsRegular()
		}), nil
	}
	var files []string
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && slices.Contains([]string{".git", ".tools", "bin", "node_modules"}, e.Name()) {
			return filepath.SkipDir
		}
		if e.Type().IsRegular() {
			rel, err := filepath.Rel(root, p)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	return files, err
}

// has reports whether a path, from the root and with slashes, is a file or a
// directory of the repository, or a pattern that fits some.
func (r *repo) has(p string) bool {
	p = strings.TrimSuffix(filepath.ToSlash(filepath.Clean(p)), "/...")
	if p == "." {
		return true
	}
	return slices.ContainsFunc(r.files, func(f string) bool {
		if f == p || strings.HasPrefix(f, p+"/") {
			return true
		}
		ok, _ := filepath.Match(p, f)
		return ok
	})
}

// below reports whether a path begins with a directory of the repository.
func (r *repo) below(p string) bool {
	first, _, nested := strings.Cut(p, "/")
	return nested && first != "" && slices.ContainsFunc(r.files, func(f string) bool {
		return strings.HasPrefix(f, first+"/")
	})
}

// copyTo writes the repository's files below dir.
func (r *repo) copyTo(dir string) error {
	for _, f := range r.files {
		if strings.Contains(f, "testdata/fuzz/") {
			continue // thousands, and no document is about them
		}
		if err := copyFile(filepath.Join(r.root, f), filepath.Join(dir, f)); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies a file with its mode, and makes the directories above it.
func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, info.Mode().Perm())
}
