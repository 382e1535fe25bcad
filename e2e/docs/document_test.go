package docs

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// problem is what is wrong with a document, and where.
type problem struct {
	path string // of the document, from the repository's root
	line int
	what string
}

func (p problem) String() string { return fmt.Sprintf("%s:%d: %s", p.path, p.line, p.what) }

// document is a Markdown file taken apart. Static after parse.
type document struct {
	path    string // from the repository's root, with slashes
	src     []byte
	fences  []fence
	spans   []span          // code in running text
	links   []span          // where links and pictures point
	anchors map[string]bool // of its headings, as GitHub makes them
}

// fence is a block of code.
type fence struct {
	line    int    // of its first line of code
	lang    string // first word behind the fence; "indented" without one
	mark    string // the words after it
	text    string
	follows bool // nothing stands between it and the sh fence before
}

// span is a piece of text and where it stands.
type span struct {
	line int
	text string
}

func (d *document) bad(line int, format string, args ...any) problem {
	return problem{d.path, line, fmt.Sprintf(format, args...)}
}

// readDocument parses the file at name, a path from root.
func readDocument(root, name string) (*document, error) {
	src, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	return parse(name, src), nil
}

// fileLinks finds where raw HTML points: <picture>, <img>, <a>.
var fileLinks = regexp.MustCompile(`(?:src|srcset|href)="([^"]+)"`)

func parse(name string, src []byte) *document {
	d := &document{path: name, src: src, anchors: map[string]bool{}}
	line := func(offset int) int { return 1 + bytes.Count(src[:offset], []byte("\n")) }
	root := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(src))
	html := func(at int, raw []byte) {
		for _, m := range fileLinks.FindAllSubmatch(raw, -1) {
			d.links = append(d.links, span{at, string(m[1])})
		}
	}
	at := 1 // the line of the block we are in, for what has none of its own
	_ = ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		if n.Type() == ast.TypeBlock && n.Lines().Len() > 0 {
			at = line(n.Lines().At(0).Start)
		}
		switch n := n.(type) {
		case *ast.Heading:
			d.anchor(plain(n, src))
		case *ast.FencedCodeBlock:
			f := fence{line: at, text: string(n.Lines().Value(src))}
			if n.Info != nil {
				info := strings.TrimSpace(string(n.Info.Value(src)))
				f.lang, f.mark, _ = strings.Cut(info, " ")
				f.mark = strings.TrimSpace(f.mark)
			}
			_, next := n.PreviousSibling().(*ast.FencedCodeBlock)
			f.follows = next && d.fences[len(d.fences)-1].lang == "sh"
			d.fences = append(d.fences, f)
		case *ast.CodeBlock:
			d.fences = append(d.fences, fence{line: at, lang: "indented", text: string(n.Lines().Value(src))})
		case *ast.CodeSpan:
			s := span{line: at, text: strings.ReplaceAll(plain(n, src), "\n", " ")}
			if first, ok := n.FirstChild().(*ast.Text); ok {
				s.line = line(first.Segment.Start)
			}
			d.spans = append(d.spans, s)
		case *ast.Link:
			d.links = append(d.links, span{at, string(n.Destination)})
		case *ast.Image:
			d.links = append(d.links, span{at, string(n.Destination)})
		case *ast.HTMLBlock:
			html(at, n.Lines().Value(src))
		case *ast.RawHTML:
			html(at, n.Segments.Value(src))
		}
		return ast.WalkContinue, nil
	})
	return d
}

// plain is the text below n without its markup.
func plain(n ast.Node, src []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Segment.Value(src))
			if t.SoftLineBreak() {
				b.WriteByte('\n')
			}
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// anchor notes a heading under the name GitHub gives it: in small letters, spaces as
// hyphens, no punctuation, and -1, -2… behind a name that was there before.
func (d *document) anchor(heading string) {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ' || r == '\n':
			b.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(r)
		}
	}
	name := b.String()
	for i := 1; d.anchors[name]; i++ {
		name = fmt.Sprintf("%s-%d", b.String(), i)
	}
	d.anchors[name] = true
}

// looked are the documents the test looks at, by path from the root.
var looked = []string{
	"*.md", "docs/*.md", "docs/*/*.md", "bench/README.md", "clients/*/README.md", "e2e/README.md", "e2e/*/README.md",
	"deploy/*.md", "deploy/*/*.md", "deploy/*/*/*.md",
}

// documents are the paths of the files of a tree that are documents, sorted.
func documents(files []string) []string {
	var found []string
	for _, f := range files {
		if slices.ContainsFunc(looked, func(p string) bool { ok, _ := path.Match(p, f); return ok }) {
			found = append(found, f)
		}
	}
	slices.Sort(found)
	return found
}
