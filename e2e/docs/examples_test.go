package docs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// jsonOf wants what is shown as JSON to be JSON: blocks whole or line by line, and
// objects in running text. "…" stands for a value, or for more of them.
func (c *checker) jsonOf(d *document) []problem {
	var bad []problem
	for _, f := range d.fences {
		if f.lang != "json" {
			continue
		}
		dec := json.NewDecoder(strings.NewReader(fillIn(f.text)))
		for {
			var v any
			if err := dec.Decode(&v); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				bad = append(bad, d.bad(f.line, "no JSON: %v", err))
				break
			}
		}
	}
	for _, s := range d.spans {
		if object.MatchString(s.text) {
			if err := json.Unmarshal([]byte(fillIn(s.text)), new(any)); err != nil {
				bad = append(bad, d.bad(s.line, "`%s` is no JSON: %v", s.text, err))
			}
		}
	}
	return bad
}

// object is how an object in running text begins; {"a","b"} is only a list of keys.
var object = regexp.MustCompile(`^\{"[^"]*":`)

// fillIn makes JSON of JSON with ellipses.
func fillIn(text string) string {
	for _, r := range [][2]string{{"{…}", "{}"}, {"[…]", "[]"}, {`"…"`, `""`}, {":…", ":null"}, {",…", ""}} {
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	return text
}

// std are the packages an example may use without saying so.
var std = map[string]string{
	"bytes": "bytes", "context": "context", "errors": "errors", "fmt": "fmt", "http": "net/http", "json": "encoding/json",
	"log": "log", "os": "os", "strings": "strings", "time": "time", "odin": "github.com/odin-ws/odin/clients/go",
}

// goProgram completes an example: one without a package clause is put into a function
// that has a ctx and returns an error.
func goProgram(text string) (string, error) {
	if strings.Contains(text, "package ") {
		return text, nil
	}
	for _, form := range []string{
		"package example\n\nfunc _(ctx context.Context) error {\n%s\nreturn nil\n}\n",
		"package example\n\n%s\n",
	} {
		src := fmt.Sprintf(form, text)
		file, err := parser.ParseFile(token.NewFileSet(), "", src, 0)
		if err != nil {
			continue
		}
		var imports strings.Builder
		for _, id := range file.Unresolved {
			if path := std[id.Name]; path != "" && !strings.Contains(imports.String(), strconv.Quote(path)) {
				fmt.Fprintf(&imports, "import %s %q\n", id.Name, path)
			}
		}
		return strings.Replace(src, "package example\n", "package example\n\n"+imports.String(), 1), nil
	}
	_, err := parser.ParseFile(token.NewFileSet(), "", fmt.Sprintf("package example\n\nfunc _() error {\n%s\n}\n", text), 0)
	return "", err
}

// goOf vets every Go example of the documents in a copy of the client library's
// module at dir, all in one go.
func (c *checker) goOf(docs []*document, dir string, env []string) ([]problem, error) {
	var bad []problem
	type example struct {
		d    *document
		line int
	}
	var all []example
	for _, f := range c.files {
		if strings.HasPrefix(f, "clients/go/") && !strings.HasSuffix(f, "_test.go") && !strings.Contains(f, "testdata/") {
			if err := copyFile(filepath.Join(c.root, f), filepath.Join(dir, strings.TrimPrefix(f, "clients/go/"))); err != nil {
				return nil, err
			}
		}
	}
	for _, d := range docs {
		for _, f := range d.fences {
			if f.lang != "go" {
				continue
			}
			src, err := goProgram(f.text)
			if err != nil {
				bad = append(bad, d.bad(f.line, "no Go: %v", err))
				continue
			}
			at := filepath.Join(dir, "example", strconv.Itoa(len(all)))
			if err := os.MkdirAll(at, 0o755); err != nil {
				return nil, err
			}
			if err := os.WriteFile(filepath.Join(at, "example.go"), []byte(src), 0o644); err != nil {
				return nil, err
			}
			all = append(all, example{d, f.line})
		}
	}
	if len(all) == 0 {
		return bad, nil
	}
	cmd := exec.Command("go", "vet", "./example/...")
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	if err == nil {
		return bad, nil
	}
	found := len(bad)
	for i, e := range all {
		at := fmt.Sprintf("example/%d/example.go", i)
		var said []string
		for _, l := range strings.Split(string(out), "\n") {
			if strings.Contains(l, at) {
				said = append(said, l)
			}
		}
		if len(said) > 0 {
			bad = append(bad, e.d.bad(e.line, "the example does not compile:\n%s", strings.Join(said, "\n")))
		}
	}
	if len(bad) == found {
		return nil, fmt.Errorf("go vet of the examples: %w\n%s", err, out)
	}
	return bad, nil
}

var jsImport = regexp.MustCompile(`import\s*\{([^}]*)\}\s*from\s*"[^"]*(?:@odin-ws/client|clients/js/dist/index\.js|/index\.js)"`)

// jsOf wants JavaScript to be JavaScript, where node is there to ask, and what it
// imports of the client library to be exported.
func (c *checker) jsOf(d *document, dir string) ([]problem, error) {
	var bad []problem
	index, err := os.ReadFile(filepath.Join(c.root, "clients/js/src/index.ts"))
	if err != nil {
		return nil, err
	}
	node, nodeErr := exec.LookPath("node")
	for _, f := range d.fences {
		text := f.text
		switch f.lang {
		case "js":
		case "html":
			m := script.FindStringSubmatch(text)
			if m == nil {
				continue
			}
			text = m[1]
		default:
			continue
		}
		for _, m := range jsImport.FindAllStringSubmatch(text, -1) {
			for _, n := range strings.Split(m[1], ",") {
				if n = strings.TrimSpace(n); n != "" && !regexp.MustCompile(`\b`+n+`\b`).Match(index) {
					bad = append(bad, d.bad(f.line, "the client library exports no %s", n))
				}
			}
		}
		if nodeErr != nil {
			continue
		}
		file := filepath.Join(dir, "example.mjs")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return nil, err
		}
		if out, err := exec.Command(node, "--check", file).CombinedOutput(); err != nil {
			bad = append(bad, d.bad(f.line, "no JavaScript: %s", bytes.TrimSpace(out)))
		}
	}
	return bad, nil
}

var script = regexp.MustCompile(`(?s)<script[^>]*>(.*?)</script>`)
