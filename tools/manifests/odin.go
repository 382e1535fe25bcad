package manifests

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Odin is the binary that is asked what it takes. Any goroutine may use it.
type Odin struct {
	// Path is where it is.
	Path string
}

// Settings has `odin config print` read an environment and the flags of serve. It returns
// the effective settings by their keys, or what the binary says is wrong.
func (o Odin) Settings(env map[string]string, flags []string) (map[string]string, error) {
	out, err := o.run(env, append([]string{"config", "print"}, flags...)...)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		value, _, _ = strings.Cut(value, " #")
		all[key] = strings.Trim(strings.TrimSpace(value), `"'`)
	}
	return all, nil
}

// Takes has a command parse its arguments, and do no more. It returns what the binary
// says is wrong with them.
func (o Odin) Takes(args ...string) error {
	help, err := o.run(nil, append(slices.Clone(args), "--help")...)
	if err != nil {
		return err
	}
	// The help of a command with others below it: what was asked is none of them.
	if _, usage, _ := strings.Cut(help, "\nUsage:\n"); strings.Contains(strings.SplitN(usage, "\n\n", 2)[0], "[command]") {
		return fmt.Errorf("odin %s: unknown command", strings.Join(args, " "))
	}
	return nil
}

// run runs it with an environment of its own.
func (o Odin) run(env map[string]string, args ...string) (string, error) {
	cmd := exec.Command(o.Path, args...)
	cmd.Env = []string{"HOME=/nonexistent"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("odin %s: %s", strings.Join(args, " "), strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// margin is what a container's grace has to have beyond the drain: the kernel and the
// disk may be slow.
const margin = 5 * time.Second

// enoughGrace says what is wrong with the time a gateway is given to stop, nothing if it
// is enough for what comes before the signal, its drain, and the margin.
func enoughGrace(grace, before time.Duration, settings map[string]string) []string {
	drain, err := time.ParseDuration(settings["drain"])
	if err != nil {
		return []string{fmt.Sprintf("drain: %v", err)}
	}
	if need := before + drain + margin; grace < need {
		return []string{fmt.Sprintf("it is killed after %s, and may take %s before the signal, %s to drain and %s besides", grace, before, drain, margin)}
	}
	return nil
}

// pinned says whether an image names a version.
func pinned(image string) bool {
	_, tag, ok := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	return strings.Contains(image, "@sha256:") || ok && tag != "" && tag != "latest"
}

// portOf is the port of HOST:PORT, 0 without one.
func portOf(addr string) int {
	n, _ := strconv.Atoi(addr[strings.LastIndexByte(addr, ':')+1:]) // 0 is no port anything has
	return n
}
