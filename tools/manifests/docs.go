package manifests

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Block is a fenced block of commands in a document, for Docker or Kubernetes: one that is
// checked instead of run.
type Block struct {
	File  string // of the document
	Line  int    // of its first line
	Kind  string // docker or kubectl
	Lines []string
}

var fence = regexp.MustCompile("^```(\\S*)\\s*(\\S*)")

// Blocks finds the blocks of a document that begin ```sh docker or ```sh kubectl. Lines
// that a backslash joins are one.
func Blocks(file string) ([]Block, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []Block
	var in *Block
	open, n := false, 0
	joining := ""
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimRight(line, "\n")
		if m := fence.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			if open = !open; open && m[1] == "sh" && (m[2] == "docker" || m[2] == "kubectl") {
				in = &Block{File: file, Line: n + 1, Kind: m[2]}
			} else if in != nil {
				all, in = append(all, *in), nil
			}
			continue
		}
		if in == nil {
			continue
		}
		line = strings.TrimSpace(joining + line)
		if joining = ""; strings.HasSuffix(line, `\`) {
			joining = strings.TrimSuffix(line, `\`) + " "
			continue
		}
		if line, _, _ = strings.Cut(line, " #"); line != "" && !strings.HasPrefix(line, "#") {
			in.Lines = append(in.Lines, strings.TrimSpace(line))
		}
	}
	return all, nil
}

// docs are what commands in documents are checked against.
type docs struct {
	root  string // of the repository
	image *Dockerfile
	odin  Odin
}

// CheckBlock returns what is wrong with the commands of a block, which are run in root.
func CheckBlock(b Block, root string, image *Dockerfile, odin Odin) (wrong []string) {
	d := docs{root, image, odin}
	if len(b.Lines) == 0 {
		wrong = append(wrong, "it has no command")
	}
	for _, line := range b.Lines {
		for _, w := range d.command(words(line)) {
			wrong = append(wrong, line+": "+w)
		}
	}
	return wrong
}

// words splits a command as a shell does, as far as quotes go.
func words(line string) []string {
	var all []string
	var word strings.Builder
	quote, some := rune(0), false
	for _, r := range line {
		switch {
		case quote == 0 && (r == '\'' || r == '"'):
			quote, some = r, true
		case r == quote:
			quote = 0
		case quote == 0 && r == ' ':
			if some {
				all, some = append(all, word.String()), false
				word.Reset()
			}
		default:
			word.WriteRune(r)
			some = true
		}
	}
	if some {
		all = append(all, word.String())
	}
	return all
}

func (d docs) command(w []string) []string {
	switch w[0] {
	case "docker":
		if len(w) > 2 && w[1] == "compose" {
			return d.compose(w[2:])
		}
		if len(w) > 2 && (w[1] == "run" || w[1] == "build") {
			return d.docker(w[1], w[2:])
		}
		if len(w) > 3 && w[1] == "exec" {
			return d.inside(w[2:])
		}
		if len(w) == 5 && w[1] == "kill" && w[2] == "-s" {
			return d.signal(w[3])
		}
	case "kubectl":
		return d.kubectl(w[1:])
	case "gcloud":
		return d.gcloud(w[1:])
	case "kustomize", "helm", "buildah":
		return d.paths(w[1:])
	case "odin", "bin/odin":
		return d.takes(w[1:])
	}
	return []string{"no check knows this command: add one"}
}

func (d docs) takes(args []string) []string {
	if i := slices.IndexFunc(args, func(a string) bool { return a == "|" || strings.HasPrefix(a, ">") }); i >= 0 {
		args = args[:i]
	}
	if err := d.odin.Takes(args...); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// inside checks what is run in a running container: odin's commands.
func (d docs) inside(w []string) []string {
	if i := slices.Index(w, d.image.Entrypoint[0]); i >= 0 {
		return d.takes(w[i+1:])
	}
	return []string{"the image has no other program than " + d.image.Entrypoint[0]}
}

// signal checks what is sent to a gateway: what it does on another is not said anywhere.
func (d docs) signal(name string) []string {
	if !slices.Contains([]string{"HUP", "TERM"}, name) {
		return []string{"a gateway is not told by " + name}
	}
	return nil
}

// docker checks docker build and docker run of our image.
func (d docs) docker(verb string, w []string) (wrong []string) {
	env := maps.Clone(d.image.Env)
	// The flags that are used; true has a value.
	flags := map[string]bool{
		"--build-arg": true, "--tag": true, "-t": true, "--platform": true,
		"--rm": false, "-d": false, "--detach": false, "--read-only": false,
		"--name": true, "-p": true, "-v": true, "--memory": true, "--memory-swap": true, "--ulimit": true, "--tmpfs": true, "--env": true, "-e": true,
		"--cap-drop": true, "--security-opt": true, "--stop-timeout": true, "--network": true, "--entrypoint": true, "--user": true,
	}
	for i := 0; i < len(w); i++ {
		name, value, joined := strings.Cut(w[i], "=")
		has, known := flags[name]
		switch {
		case !strings.HasPrefix(w[i], "-"):
			if verb == "build" {
				return append(wrong, d.paths(w[i:])...)
			}
			return append(wrong, d.ran(env, w[i+1:])...)
		case !known:
			return append(wrong, "no check knows "+name+": add it")
		case has && !joined && i+1 < len(w):
			i++
			value = w[i]
		}
		k, v, _ := strings.Cut(value, "=")
		switch name {
		case "--build-arg":
			if !slices.Contains(d.image.Args, k) {
				wrong = append(wrong, "the Dockerfile has no argument "+k)
			}
		case "-e", "--env":
			env[k] = v
		}
	}
	return append(wrong, "it names no image")
}

// ran checks what the image is run with.
func (d docs) ran(env map[string]string, args []string) []string {
	if len(args) == 0 {
		args = d.image.Cmd
	}
	if args[0] != "serve" {
		return d.takes(args)
	}
	if _, err := d.odin.Settings(env, args[1:]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// compose checks docker compose -f FILE VERB …: the file, and the services named.
func (d docs) compose(w []string) (wrong []string) {
	if len(w) < 3 || w[0] != "-f" {
		return []string{"it must name its file first: -f FILE"}
	}
	p, err := Compose(filepath.Join(d.root, w[1]))
	if err != nil {
		return []string{err.Error()}
	}
	if w = w[2:]; w[0] == "--profile" && len(w) > 2 {
		found := false
		for _, s := range p.Services {
			found = found || slices.Contains(s.Profiles, w[1])
		}
		if !found {
			wrong = append(wrong, "no service has the profile "+w[1])
		}
		w = w[2:]
	}
	verb, rest := w[0], w[1:]
	var services []string
	for i, a := range rest {
		if strings.HasPrefix(a, "-") {
			continue
		}
		service, _, copied := strings.Cut(a, ":")
		services = append(services, service)
		switch verb {
		case "cp":
			if !copied {
				wrong = append(wrong, "copy SERVICE:FILE")
			}
		case "exec":
			wrong = append(wrong, d.inside(rest[i+1:])...)
		case "run":
			wrong = append(wrong, d.takes(rest[i+1:])...)
		default:
			continue
		}
		break
	}
	if !slices.Contains([]string{"up", "down", "stop", "kill", "restart", "logs", "ps", "pull", "build", "exec", "run", "cp", "config"}, verb) {
		wrong = append(wrong, "no check knows "+verb+": add it")
	}
	for _, s := range services {
		if _, ok := p.Services[s]; !ok {
			wrong = append(wrong, "there is no service "+s)
		}
	}
	return wrong
}

// kubectl checks that what is applied can be built, and what is run in a pod.
func (d docs) kubectl(w []string) (wrong []string) {
	for i, a := range w {
		switch a {
		case "-k":
			if i+1 == len(w) {
				return []string{"-k wants a directory"}
			}
			if _, err := Kustomize(filepath.Join(d.root, w[i+1])); err != nil {
				return []string{err.Error()}
			}
		case "--":
			return d.inside(w[i+1:])
		}
	}
	if i := slices.IndexFunc(w, func(a string) bool { return !strings.HasPrefix(a, "-") }); i < 0 ||
		!slices.Contains([]string{"apply", "create", "delete", "diff", "exec", "get", "describe", "logs", "port-forward", "rollout", "scale", "kustomize"}, w[i]) {
		wrong = append(wrong, "no check knows this verb: add it")
	}
	return append(wrong, d.paths(w)...)
}

// gcloud checks the environment that a service is given.
func (d docs) gcloud(w []string) []string {
	env := maps.Clone(d.image.Env)
	for _, a := range w {
		if list, ok := strings.CutPrefix(a, "--set-env-vars="); ok {
			for one := range strings.SplitSeq(list, ",") {
				k, v, _ := strings.Cut(one, "=")
				env[k] = v
			}
		}
		if list, ok := strings.CutPrefix(a, "--set-secrets="); ok {
			k, _, _ := strings.Cut(list, "=")
			env[k] = "nats://user:password@nats.example:4222"
		}
	}
	if _, err := d.odin.Settings(env, nil); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// paths checks that what looks like a path of the repository is one.
func (d docs) paths(w []string) (wrong []string) {
	for _, a := range w {
		for _, top := range []string{"deploy/", "docs/", "tools/"} {
			if strings.HasPrefix(a, top) {
				if _, err := os.Stat(filepath.Join(d.root, a)); err != nil {
					wrong = append(wrong, fmt.Sprint(err))
				}
			}
		}
	}
	return wrong
}
