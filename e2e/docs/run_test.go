package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// typed is what became of a document's commands.
type typed struct {
	problems []problem
	ran      int
	unrun    []string // commands that were not run, and why
	missing  []string // programs that this machine has not
}

// commandTime is how long one command may take, a build on a loaded machine included.
const commandTime = 4 * time.Minute

// needsGateway reports whether a document wants a gateway that it doesn't start.
func needsGateway(blocks [][]command) bool {
	needs := false
	for _, block := range blocks {
		for _, cmd := range block {
			if cmd.serves() != nil {
				return false
			}
			if cmd.call("curl", "node") != nil {
				needs = true
			}
			if call := cmd.call("odin"); len(call) > 1 && !slices.Contains([]string{"capacity", "config", "key", "version", "completion"}, call[1]) {
				needs = true
			}
		}
	}
	return needs
}

// whyUnrun is why a command isn't run, or "".
func whyUnrun(m mark, cmd command) string {
	if m.unrun != "" {
		return m.unrun
	}
	for _, call := range cmd.calls {
		if why := unrunReason(strings.Join(call, " ")); why != "" && !has(call, "--help") {
			return why
		}
	}
	return ""
}

// run types a document's commands in a copy of the repository at dir, and compares
// what is printed with what the document shows.
func (c *checker) run(d *document, dir string, env []string) (typed, error) {
	var t typed
	blocks := make([][]command, len(d.fences))
	toRun := 0
	for i, f := range d.fences {
		if f.lang != "sh" {
			continue
		}
		commands, err := parseShell(f)
		if err != nil {
			continue // static says so
		}
		m := readMark(f.mark)
		for _, cmd := range commands {
			if why := whyUnrun(m, cmd); why != "" {
				first, _, _ := strings.Cut(cmd.text, "\n")
				t.unrun = append(t.unrun, fmt.Sprintf("%s:%d: %s: %s", d.path, cmd.line, first, why))
				continue
			}
			toRun++
			blocks[i] = append(blocks[i], cmd)
		}
	}
	if toRun == 0 {
		return t, nil
	}
	if err := c.copyTo(dir); err != nil {
		return t, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return t, err
	}
	// Not by this process: what it has open for writing, a child of another test may
	// hold for a moment, and nobody could execute it (ETXTBSY, execve(2)).
	if out, err := exec.Command("cp", c.odin, filepath.Join(dir, "bin", "odin")).CombinedOutput(); err != nil {
		return t, fmt.Errorf("cp: %w: %s", err, out)
	}
	sh, err := newShell(dir, env)
	if err != nil {
		return t, err
	}
	defer sh.close()
	// A reader sees that he is answered 404; curl alone would end well all the same.
	if _, _, err := sh.run(`curl() { command curl --fail-with-body "$@"; }`, commandTime); err != nil {
		return t, err
	}
	if needsGateway(blocks) {
		exit, printed, err := sh.background("odin serve --demo --data-dir .typed/data", c.ready(nil))
		if err != nil {
			return t, fmt.Errorf("the gateway for %s: %w\n%s", d.path, err, printed)
		}
		if exit != 0 {
			return t, fmt.Errorf("the gateway for %s ends with %d:\n%s", d.path, exit, printed)
		}
	}
	printed := ""
	for i, f := range d.fences {
		m := readMark(f.mark)
		switch {
		case m.file != "":
			to := filepath.Join(dir, m.file)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return t, err
			}
			if err := os.WriteFile(to, []byte(f.text), 0o644); err != nil {
				return t, err
			}
		case f.lang == "sh":
			printed = ""
			for n, cmd := range blocks[i] {
				want := 0
				if n == len(blocks[i])-1 {
					want = m.exit
				}
				exit, out, err := c.typeOne(sh, cmd, want)
				printed += out
				t.ran++
				if err != nil {
					t.problems = append(t.problems, d.bad(cmd.line, "%s: %v\n%s", cmd.text, err, out))
					return t, nil // nothing behind it can be run
				}
				if tool := absent(cmd, exit, out); tool != "" {
					t.ran--
					t.missing = append(t.missing, tool)
					t.unrun = append(t.unrun, fmt.Sprintf("%s:%d: %s: %s is not installed here", d.path, cmd.line, cmd.text, tool))
					printed = ""
					continue
				}
				if exit != want {
					t.problems = append(t.problems, d.bad(cmd.line, "%s: exits with %d, not %d, and prints:\n%s", cmd.text, exit, want, out))
				}
			}
		case f.lang == "console" && len(blocks) > 0 && i > 0 && len(blocks[i-1]) > 0 && len(t.missing) == 0:
			if line := missing(f.text, printed, m.numbers); line != "" {
				t.problems = append(t.problems, d.bad(f.line, "shown as output, but not printed (in this place):\n%s\nprinted was:\n%s", line, printed))
			}
		}
	}
	return t, nil
}

// typeOne runs one command in the way its kind wants.
func (c *checker) typeOne(sh *shell, cmd command, want int) (int, string, error) {
	switch serve := cmd.serves(); {
	case serve != nil && want == 0:
		// Another gateway in its place would answer for it.
		exit, out, err := sh.run("! "+c.alive(serve), commandTime)
		if err != nil || exit != 0 {
			return exit, out + "something answers on its admin port already\n", err
		}
		if serve[0] == "make" { // it builds first, which with an empty cache is minutes
			if exit, out, err := sh.run("make build", commandTime); err != nil || exit != 0 {
				return exit, out, err
			}
		}
		return sh.background(cmd.text, c.ready(serve))
	case cmd.back:
		// It runs on, or has ended well: nobody else would see that it did not even begin.
		return sh.run(cmd.text+`
for ((typed = 0; typed < 10; typed++)); do
  kill -0 $! 2>/dev/null || { wait $!; return; }
  sleep 0.05
done`, commandTime)
	case cmd.endless():
		exit, out, err := sh.background(cmd.text, `[ -s "$typed" ]`)
		if err != nil || exit != 0 {
			return exit, out, err
		}
		exit, more, err := sh.run("kill -INT -- -$job; wait $job", commandTime)
		return exit, out + more, err
	default:
		return sh.run(cmd.text, commandTime)
	}
}

// ready is the condition that a gateway started by the words serve answers.
func (c *checker) ready(serve []string) string {
	return c.odin + " health --ready --timeout 5s --url http://" + adminOf(serve) + ` >"$typed.ready" 2>&1`
}

// alive is the condition that something answers where that gateway is to.
func (c *checker) alive(serve []string) string {
	return c.odin + " health --timeout 5s --url http://" + adminOf(serve) + " >/dev/null 2>&1"
}

func adminOf(serve []string) string { return flagValue(serve, "--admin-addr", "127.0.0.1:8081") }

// optional are programs that a machine without them need not have for `make test`.
var optional = []string{"node", "npm", "python3", "jq", "curl", "git", "openssl"}

// absent names the program for want of which a command failed.
func absent(cmd command, exit int, out string) string {
	if exit != 127 {
		return ""
	}
	for _, tool := range optional {
		if cmd.call(tool) != nil && strings.Contains(out, tool+": command not found") {
			return tool
		}
	}
	return ""
}
