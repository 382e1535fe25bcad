//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// container is a run of the image. One goroutine uses it.
type container struct {
	r    *rig
	id   string // also its cgroup's name
	log  string // a file
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of the runtime, which ends as the container's process does; after done
}

// ociRuntime is the program that runs bundles, "" without one.
func ociRuntime() string {
	for _, name := range []string{"runc", "crun"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// start runs the image with more environment and, unless args is nil, other arguments
// than its own, and waits until the gateway in it is ready.
func (r *rig) start(ctx context.Context, name string, net *network, data string, env, args []string) (*container, error) {
	c := &container{r: r, id: fmt.Sprintf("odin-image-%d-%s", os.Getpid(), name), done: make(chan struct{})}
	dir := filepath.Join(r.tmp, name)
	c.log = filepath.Join(dir, "log")
	if err := r.bundle(dir, c.id, net, data, env, args); err != nil {
		return nil, err
	}
	f, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c.cmd = c.runtime(context.Background(), "run", "--bundle", dir, c.id) // it is ended by remove, not by ctx
	c.cmd.Stdout, c.cmd.Stderr = f, f
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.err = c.cmd.Wait(); close(c.done) }()
	// What the health check of the image asks, but for readiness.
	for end := time.Now().Add(time.Minute); ; {
		_, err := c.exec(ctx, "/odin", "health", "--ready", "--url", "http://127.0.0.1:8080")
		if err == nil {
			return c, nil
		}
		select {
		case <-c.done:
			err = fmt.Errorf("it ended: %w", c.err)
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(100 * time.Millisecond):
			if time.Now().Before(end) {
				continue
			}
		}
		log := tail(c.text())
		c.remove()
		return nil, fmt.Errorf("the container %s is not ready: %w\n%s", name, err, log)
	}
}

// runtime is a command of the OCI runtime, which keeps its state below the rig's
// directory.
func (c *container) runtime(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, ociRuntime(), append([]string{"--root", filepath.Join(c.r.tmp, "state")}, args...)...)
}

// exec runs a program of the image in the container, as its user.
func (c *container) exec(ctx context.Context, args ...string) (string, error) {
	return output(c.runtime(ctx, append([]string{"exec", c.id}, args...)...))
}

// pid is its first process, as the host numbers it.
func (c *container) pid(ctx context.Context) (int, error) {
	text, err := output(c.runtime(ctx, "state", c.id))
	if err != nil {
		return 0, err
	}
	var state struct{ Pid int }
	return state.Pid, json.Unmarshal([]byte(text), &state)
}

// text is what it has printed.
func (c *container) text() string {
	b, _ := os.ReadFile(c.log) // none: nothing was printed
	return string(b)
}

// line is the first line of its log with s in it, "" without one.
func (c *container) line(s string) string {
	for l := range strings.Lines(c.text()) {
		if strings.Contains(l, s) {
			return strings.TrimSpace(l)
		}
	}
	return ""
}

// stop does what `docker stop` does, and returns the exit code and how long it took.
func (c *container) stop(ctx context.Context, grace time.Duration) (int, time.Duration, error) {
	start := time.Now()
	if _, err := output(c.runtime(ctx, "kill", c.id, c.r.image.config.Config.StopSignal)); err != nil {
		return -1, 0, err
	}
	select {
	case <-c.done:
	case <-time.After(grace):
		return -1, grace, fmt.Errorf("it still runs %s after %s", grace, c.r.image.config.Config.StopSignal)
	}
	var exit *exec.ExitError
	if c.err != nil && !errors.As(c.err, &exit) {
		return -1, 0, c.err
	}
	return c.cmd.ProcessState.ExitCode(), time.Since(start), nil
}

// remove ends what still runs and forgets the container, its cgroup too.
func (c *container) remove() {
	_ = c.runtime(context.Background(), "delete", "--force", c.id).Run() // gone already after a clean end
	select {
	case <-c.done:
	case <-time.After(20 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}
