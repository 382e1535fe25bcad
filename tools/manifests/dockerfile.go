package manifests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Dockerfile is what the image's Dockerfile says that others rely on.
type Dockerfile struct {
	Args       []string          // names, of every stage
	Env        map[string]string // of the last stage
	Entrypoint []string
	Cmd        []string
	Health     []string // without CMD
	User       string
	Base       string // the default of BUILD_IMAGE
}

var joined = regexp.MustCompile(`\\\n`)

// ReadDockerfile reads one of the plain kind: no here-documents, commands in JSON.
func ReadDockerfile(file string) (*Dockerfile, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := &Dockerfile{Env: map[string]string{}}
	list := func(s string) (l []string, err error) { return l, json.Unmarshal([]byte(s), &l) }
	for line := range strings.Lines(joined.ReplaceAllString(string(b), " ")) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		var err error
		switch word {
		case "FROM": // a stage of its own
			d.Env, d.Entrypoint, d.Cmd, d.Health, d.User = map[string]string{}, nil, nil, nil, ""
		case "ARG":
			name, value, _ := strings.Cut(rest, "=")
			if !slices.Contains(d.Args, name) {
				d.Args = append(d.Args, name)
			}
			if name == "BUILD_IMAGE" {
				d.Base = value
			}
		case "ENV":
			name, value, _ := strings.Cut(rest, "=")
			d.Env[name] = value
		case "ENTRYPOINT":
			d.Entrypoint, err = list(rest)
		case "CMD":
			d.Cmd, err = list(rest)
		case "HEALTHCHECK":
			_, command, _ := strings.Cut(rest, "CMD ")
			d.Health, err = list(command)
		case "USER":
			d.User = rest
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: want a JSON array: the image has no shell", file, word)
		}
	}
	return d, nil
}

// Check returns what is wrong with it. goVersion is the one of go.mod.
func (d *Dockerfile) Check(odin Odin, goVersion string) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if len(d.Entrypoint) != 1 || len(d.Cmd) == 0 || d.Cmd[0] != "serve" {
		return []string{fmt.Sprintf("it runs %q %q, want /odin serve", d.Entrypoint, d.Cmd)}
	}
	if _, err := odin.Settings(d.Env, d.Cmd[1:]); err != nil {
		bad("%v", err)
	}
	if len(d.Health) < 2 || d.Health[0] != d.Entrypoint[0] {
		bad("no health check by the image's own program: %q", d.Health)
	} else if err := odin.Takes(d.Health[1:]...); err != nil {
		bad("%v", err)
	}
	if d.User != "65532:65532" {
		bad("the user is %q, want 65532:65532", d.User)
	}
	minor := goVersion[:strings.LastIndexByte(goVersion, '.')]
	if !pinned(d.Base) || !strings.Contains(d.Base, ":"+minor+".") {
		bad("the base image %s is not one of Go %s", d.Base, minor)
	}
	return wrong
}

// Ignored reads a .dockerignore.
func Ignored(file string) (*patternmatcher.PatternMatcher, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return patternmatcher.New(patterns)
}

// CheckIgnored returns which files the build of root's cmd/odin needs that are ignored,
// and which others of its repository are not: they would be in the build's cache, and
// make it anew when they change.
func CheckIgnored(root string, m *patternmatcher.PatternMatcher) (wrong []string, err error) {
	needed, err := sources(root)
	if err != nil {
		return nil, err
	}
	for _, file := range needed {
		if ignored, err := m.MatchesOrParentMatches(file); err != nil || ignored {
			wrong = append(wrong, fmt.Sprintf("%s is needed, and ignored (%v)", file, err))
		}
	}
	for _, file := range []string{".git/config", ".tools/x", "bin/odin", "docs/protocol.md", "e2e/doc.go", "clients/js/package.json", "operator.key", ".env", "deploy/compose/compose.yml"} {
		if ignored, err := m.MatchesOrParentMatches(file); err != nil || !ignored {
			wrong = append(wrong, fmt.Sprintf("%s is not needed, and not ignored (%v)", file, err))
		}
	}
	return wrong, nil
}

// sources are the files that the image is built from, from root on.
func sources(root string) ([]string, error) {
	const format = `{{if .Module}}{{if .Module.Main}}{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}
{{end}}{{range .SFiles}}{{$d}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$d}}/{{.}}
{{end}}{{end}}{{end}}`
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "list", "-C", abs, "-deps", "-f", format, "./cmd/odin")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	files := []string{"go.mod", "go.sum", "LICENSE"}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		file, err := filepath.Rel(abs, line)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}
