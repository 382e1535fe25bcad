package docs

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

// ours is where the repository itself is published: such links are to files here.
var ours = []string{"https://github.com/odin-ws/odin/blob/main/", "https://github.com/odin-ws/odin/tree/main/"}

// linksOf wants every link to a file of the repository to be to one that is there, and
// every anchor to be a heading's.
func (c *checker) linksOf(d *document) []problem {
	var bad []problem
	for _, l := range d.links {
		u, err := url.Parse(l.text)
		if err != nil {
			bad = append(bad, d.bad(l.line, "link %s: %v", l.text, err))
			continue
		}
		at := path.Join(path.Dir(d.path), u.Path)
		for _, prefix := range ours {
			if rest, ok := strings.CutPrefix(l.text, prefix); ok {
				at, _, _ = strings.Cut(rest, "#")
				u.Scheme, u.Host = "", ""
			}
		}
		switch {
		case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "mailto":
			bad = append(bad, d.bad(l.line, "link %s: no such scheme", l.text))
			continue
		case u.Scheme != "":
			continue // somebody else's
		case u.Path == "":
			at = d.path
		case strings.HasPrefix(at, ".."):
			bad = append(bad, d.bad(l.line, "link %s leads out of the repository", l.text))
			continue
		}
		if !c.has(at) {
			bad = append(bad, d.bad(l.line, "link %s: there is no %s", l.text, at))
			continue
		}
		if u.Fragment == "" || !strings.HasSuffix(at, ".md") {
			continue
		}
		to := d
		if at != d.path {
			if to, err = readDocument(c.root, at); err != nil {
				bad = append(bad, d.bad(l.line, "link %s: %v", l.text, err))
				continue
			}
		}
		if !to.anchors[u.Fragment] {
			bad = append(bad, d.bad(l.line, "link %s: %s has no heading #%s", l.text, at, u.Fragment))
		}
	}
	return bad
}

// TestIndex wants every document of docs to be found from its index.
func TestIndex(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	index, err := readDocument(c.root, "docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]bool{index.path: true}
	for _, l := range index.links {
		at, _, _ := strings.Cut(l.text, "#")
		linked[path.Join("docs", at)] = true
	}
	for _, f := range c.files {
		if ok, _ := path.Match("docs/*.md", f); ok && !linked[f] {
			t.Error(index.bad(1, "no link leads to %s", f))
		}
	}
}
