package docs

import (
	"bytes"
	"regexp"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// command is one statement of a shell block.
type command struct {
	line  int
	text  string // as a shell takes it, without comments
	note  string // the comment behind it
	calls [][]string
	back  bool // ends with &
}

// parseShell takes a block apart. Words of calls are without their quotes; what only
// the shell knows, such as a variable's value, is "1" in them.
func parseShell(f fence) ([]command, error) {
	file, err := syntax.NewParser(syntax.KeepComments(true), syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(f.text), "")
	if err != nil {
		return nil, err
	}
	var all []command
	for _, stmt := range file.Stmts {
		c := command{line: f.line + int(stmt.Pos().Line()) - 1, back: stmt.Background}
		for _, comment := range stmt.Comments {
			if comment.Hash.Line() == stmt.End().Line() {
				c.note = strings.TrimSpace(comment.Text)
			}
		}
		stmt.Comments = nil
		var b bytes.Buffer
		if err := syntax.NewPrinter(syntax.SingleLine(false)).Print(&b, stmt); err != nil {
			return nil, err
		}
		c.text = strings.TrimSpace(b.String())
		syntax.Walk(stmt, func(n syntax.Node) bool {
			if call, ok := n.(*syntax.CallExpr); ok && len(call.Args) > 0 {
				words := make([]string, len(call.Args))
				for i, w := range call.Args {
					words[i] = literal(w)
				}
				c.calls = append(c.calls, words)
			}
			return true
		})
		all = append(all, c)
	}
	return all, nil
}

// literal is a word's text as far as it can be known without a shell.
func literal(w *syntax.Word) string {
	var b strings.Builder
	var add func(parts []syntax.WordPart)
	add = func(parts []syntax.WordPart) {
		for _, p := range parts {
			switch p := p.(type) {
			case *syntax.Lit:
				b.WriteString(strings.ReplaceAll(p.Value, "\\\n", ""))
			case *syntax.SglQuoted:
				b.WriteString(p.Value)
			case *syntax.DblQuoted:
				add(p.Parts)
			default:
				b.WriteString("1")
			}
		}
	}
	add(w.Parts)
	return b.String()
}

// name is a call's command: what odin is called by is "odin".
func name(call []string) string {
	if call[0] == "bin/odin" || call[0] == "./bin/odin" {
		return "odin"
	}
	return call[0]
}

// commandLike fits a line that is a command, whatever the fence calls it.
var commandLike = regexp.MustCompile(`^\s*(?:\$ |(?:make|odin|bin/\w+|\.ci/run|curl|docker|kubectl|kustomize|helm|podman|buildah|go|npm|npx|node|nats|git|sudo|sysctl|systemctl|apt-get|ulimit|export|promtool|python3)(?: +[-\w./:'"]|$))`)

// calls finds a call of one of the named commands.
func (c command) call(names ...string) []string {
	for _, call := range c.calls {
		for _, n := range names {
			if name(call) == n {
				return call
			}
		}
	}
	return nil
}

// serves returns the words of `odin serve` or `make run` in a command.
func (c command) serves() []string {
	for _, call := range c.calls {
		if len(call) > 1 && (name(call) == "odin" && call[1] == "serve" || call[0] == "make" && call[1] == "run") && !has(call, "--help") {
			return call
		}
	}
	return nil
}

// endless reports whether a command ends only when it is told to: it prints what
// comes, and nothing says how long.
func (c command) endless() bool {
	for _, call := range c.calls {
		n := len(call)
		switch {
		case name(call) == "odin" && n > 1 && call[1] == "tail":
			if !has(call, "--count") && !has(call, "--duration") && !has(call, "--help") {
				return true
			}
		case name(call) == "odin" && n > 2 && call[1] == "feed" && call[2] == "synth":
			if !has(call, "--limit") && !has(call, "--duration") && !has(call, "--help") {
				return true
			}
		}
	}
	return false
}

// flagValue is what a call gives a flag, or def.
func flagValue(call []string, flag, def string) string {
	for i, w := range call {
		if w == flag && i+1 < len(call) {
			return call[i+1]
		}
		if v, ok := strings.CutPrefix(w, flag+"="); ok {
			return v
		}
	}
	return def
}

func has(call []string, flag string) bool {
	return flagValue(append(call, ""), flag, "\x00") != "\x00"
}
