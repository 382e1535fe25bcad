// Command licences lists the licences of the modules that commands and libraries
// are built from, and fails when one is not allowed.
//
//	licences [-check] [-out FILE] [-texts FILE] DIR:PACKAGE…
//
// DIR is a module's directory and PACKAGE what is built in it, for every platform
// there is an image of. With -check the file must be what would be written. A
// licence is what github.com/google/licensecheck makes of the files of that name
// in a module, and in the directories of its packages that are built in; text it
// does not know is as bad as a licence that is not allowed: somebody has to read
// it. -texts writes what has to go with the binary instead: the texts themselves, and
// the notices that Apache-2.0 asks for (section 4 d).
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are licences under which anybody may use, change and pass on, also in
// binaries, and which ask nothing of the rest of the program. By SPDX identifier.
var allowed = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "Unlicense"}

// enough is how much of a file must be the text of licences, percent: the rest is
// names, years and headlines.
const enough = 75

// platforms are those of the images; a package for another is not passed on.
var platforms = []string{"linux/amd64", "linux/arm64"}

func main() {
	check := flag.Bool("check", false, "fail unless the file is up to date")
	out := flag.String("out", "", "the file; default: standard output")
	texts := flag.String("texts", "", "write the texts of all licences into this file, and nothing else")
	flag.Parse()
	if err := run(flag.Args(), *out, *check, *texts, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(args []string, out string, check bool, texts string, stdout io.Writer) error {
	var parts []part
	var bad []error
	for _, arg := range args {
		dir, pkg, ok := strings.Cut(arg, ":")
		if !ok {
			return fmt.Errorf("%q: want DIR:PACKAGE", arg)
		}
		p, err := read(dir, pkg)
		if err != nil {
			return err
		}
		for _, m := range p.modules {
			bad = append(bad, m.judge()...)
		}
		parts = append(parts, p)
	}
	if err := errors.Join(bad...); err != nil {
		return err
	}
	if texts != "" {
		return writeTexts(parts, texts)
	}
	text := render(parts)
	if !check {
		if out == "" {
			_, err := stdout.Write(text)
			return err
		}
		return os.WriteFile(out, text, 0o644)
	}
	old, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	if !bytes.Equal(old, text) {
		return fmt.Errorf("%s is out of date: run make licences and commit it", out)
	}
	return nil
}

// part is what one package is built from.
type part struct {
	pkg     string // import path
	modules []module
}

// module is one of its modules, with the files that speak of licences.
type module struct {
	path, version string
	files         []file
	notices       []file // NOTICE files: they grant nothing, and go with the binary
}

type file struct {
	name    string   // below the module's directory
	ids     []string // SPDX identifiers of what it contains, in order of appearance
	percent float64  // of the text that is theirs
	text    []byte
}

// listed is the part of `go list -json` looked at here.
type listed struct {
	ImportPath string
	Dir        string
	DepOnly    bool
	Standard   bool
	Module     *struct {
		Path, Version, Dir string
		Main               bool
		Replace            *struct{ Path, Version, Dir string }
	}
}

// read asks the go command what a package is built from.
func read(dir, pkg string) (part, error) {
	var p part
	dirs := map[string]map[string]bool{} // of packages, by module directory
	found := map[string]*module{}        // by the same
	for _, platform := range platforms {
		goos, goarch, _ := strings.Cut(platform, "/")
		cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,DepOnly,Standard,Module", pkg)
		cmd.Dir = dir
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch, "GOFLAGS=-mod=readonly")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		b, err := cmd.Output()
		if err != nil {
			return p, fmt.Errorf("go list %s in %s: %w\n%s", pkg, dir, err, stderr.Bytes())
		}
		for dec := json.NewDecoder(bytes.NewReader(b)); ; {
			var l listed
			err := dec.Decode(&l)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return p, err
			}
			if !l.DepOnly {
				p.pkg = l.ImportPath
			}
			if l.Standard || l.Module == nil || l.Module.Main {
				continue
			}
			m := &module{path: l.Module.Path, version: l.Module.Version}
			at := l.Module.Dir
			if r := l.Module.Replace; r != nil {
				m.version, at = strings.TrimSpace(r.Path+" "+r.Version), r.Dir
			}
			if found[at] == nil {
				found[at], dirs[at] = m, map[string]bool{at: true}
			}
			for d := l.Dir; len(d) > len(at) && strings.HasPrefix(d, at); d = filepath.Dir(d) {
				dirs[at][d] = true
			}
		}
	}
	for at, m := range found {
		for d := range dirs[at] {
			files, err := licences(at, d, named)
			if err != nil {
				return p, err
			}
			notices, err := licences(at, d, noticed)
			if err != nil {
				return p, err
			}
			m.files, m.notices = append(m.files, files...), append(m.notices, notices...)
		}
		for _, files := range [][]file{m.files, m.notices} {
			slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
		}
		p.modules = append(p.modules, *m)
	}
	slices.SortFunc(p.modules, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return p, nil
}

// named matches the files that licences are in. NOTICE and PATENTS say more, but
// grant nothing without one.
var (
	named   = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)s?([-._].*)?$`)
	noticed = regexp.MustCompile(`(?i)^notices?([-._].*)?$`)
)

// licences reads the files of such names of a directory of a module.
func licences(root, dir string, named *regexp.Regexp) (files []file, err error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if e.IsDir() || !named.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		name, err := filepath.Rel(root, filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, scan(name, text))
	}
	return files, nil
}

func scan(name string, text []byte) file {
	c := licensecheck.Scan(text)
	f := file{name: name, percent: c.Percent, text: text}
	for _, m := range c.Match {
		if !m.IsURL && !slices.Contains(f.ids, m.ID) {
			f.ids = append(f.ids, m.ID)
		}
	}
	return f
}

// judge says what is wrong with a module's licences. All that are in its files
// must be allowed: whether they are alternatives, a program can't tell.
func (m *module) judge() (bad []error) {
	if len(m.files) == 0 {
		return []error{fmt.Errorf("%s %s has no licence", m.path, m.version)}
	}
	for _, f := range m.files {
		if len(f.ids) == 0 || f.percent < enough {
			bad = append(bad, fmt.Errorf("%s %s: %s is not all known (%.0f %% are %v): somebody has to read it", m.path, m.version, f.name, f.percent, f.ids))
		}
		for _, id := range f.ids {
			if !slices.Contains(allowed, id) {
				bad = append(bad, fmt.Errorf("%s %s: %s has %s, which is not among those allowed (%s)", m.path, m.version, f.name, id, strings.Join(allowed, ", ")))
			}
		}
	}
	return bad
}

func render(parts []part) []byte {
	var b bytes.Buffer
	b.WriteString("# Licences\n\nWritten by `make licences`, which CI repeats: it fails when this page is out of date or\n" +
		"a licence is none of " + strings.Join(allowed, ", ") + ".\nOdin itself is under Apache-2.0 ([LICENSE](../LICENSE)).\n")
	for _, p := range parts {
		fmt.Fprintf(&b, "\n## %s\n\n", p.pkg)
		if len(p.modules) == 0 {
			b.WriteString("Only Go's standard library (BSD-3-Clause).\n")
			continue
		}
		b.WriteString("| module | version | licence | in |\n| --- | --- | --- | --- |\n")
		for _, m := range p.modules {
			var ids, names []string
			for _, f := range m.files {
				names = append(names, f.name)
				for _, id := range f.ids {
					if !slices.Contains(ids, id) {
						ids = append(ids, id)
					}
				}
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", m.path, m.version, strings.Join(ids, ", "), strings.Join(names, ", "))
		}
		b.WriteString("| Go's standard library | of the toolchain | BSD-3-Clause | LICENSE |\n")
	}
	return b.Bytes()
}

// writeTexts writes the texts of all licences, each under the name of what it is of.
func writeTexts(parts []part, out string) error {
	var b bytes.Buffer
	b.WriteString("What this program is made of, and under which licences. Odin itself: see LICENSE.\n")
	put := func(of string, text []byte) {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), of, bytes.TrimSpace(text))
	}
	seen := map[string]bool{}
	for _, p := range parts {
		for _, m := range p.modules {
			of := m.path + " " + m.version
			if seen[of] {
				continue
			}
			seen[of] = true
			for _, f := range slices.Concat(m.files, m.notices) {
				put(of+", "+f.name, f.text)
			}
		}
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "LICENSE"))
	if err != nil {
		return err
	}
	put("Go's standard library, LICENSE", text)
	return os.WriteFile(out, b.Bytes(), 0o644)
}
