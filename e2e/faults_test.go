package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var buildFaults = sync.OnceValues(func() (dir string, err error) {
	for _, b := range []struct{ in, name, pkg string }{
		{".", "nats-server", "github.com/nats-io/nats-server/v2"},
		{"faults", "faults", "."},
	} {
		cmd := exec.Command("go", "build", "-C", b.in, "-o", filepath.Join(scratch, b.name), b.pkg)
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go build %s: %w\n%s", b.pkg, err, out)
		}
	}
	return scratch, nil
})

// TestFaults plays the short form of the scenarios of e2e/faults that have one;
// the rest, and all at full length, is `make e2e-faults`.
func TestFaults(t *testing.T) { playFaults(t, 10) }

// TestHostile does the same for what clients do wrong: `make e2e-hostile`.
func TestHostile(t *testing.T) { playFaults(t, 6, "--hostile") }

// playFaults plays the short forms, of which there must be some.
func playFaults(t *testing.T, least int, set ...string) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	dir, err := buildFaults()
	if err != nil {
		t.Fatal(err)
	}
	faults := func(args ...string) *exec.Cmd {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, filepath.Join(dir, "faults"), slices.Concat(set, []string{
			"--odin", odin(t), "--nats-server", filepath.Join(dir, "nats-server"), "--source", "..",
			"--haproxy-cfg", "../deploy/haproxy/haproxy.cfg", "--haproxy", haproxy(), "--tmp", t.TempDir(),
		}, args)...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it has namespaces and mounts to undo
		cmd.WaitDelay = 20 * time.Second
		return cmd
	}
	list, err := faults("--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for line := range strings.Lines(string(list)) {
		name, about, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(about, "(also fast)") {
			continue
		}
		ran++
		t.Run(name, func(t *testing.T) {
			switch {
			case name == "rolling" && haproxy() == "":
				needs(t, "ODIN_REQUIRE_HAPROXY", "no HAProxy here (Debian: apt-get install haproxy)")
			case name == "syscalls":
				mayTrace(t)
			case strings.Contains(about, "(root)") && !mayMakeNamespaces():
				t.Skip("needs root, and to be allowed network namespaces and mounts")
			}
			out, err := faults("--fast", "--only", name).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
	if ran < least {
		t.Fatalf("only %d scenarios have a short form:\n%s", ran, list)
	}
}

// mayTrace skips the test where strace is missing, or may not do its work.
func mayTrace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if out, err := exec.Command("strace", "-q", "-o", os.DevNull, "-e", "inject=getppid:error=ENOSPC", "true").CombinedOutput(); err != nil {
		t.Skipf("strace can't be used here (Debian: apt-get install strace): %v\n%s", err, out)
	}
}

func haproxy() string {
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// mayMakeNamespaces tries what the scenarios do: a container's root often may not.
var mayMakeNamespaces = sync.OnceValue(func() bool {
	if os.Geteuid() != 0 {
		return false
	}
	name := fmt.Sprintf("odin-try-%d", os.Getpid())
	if exec.Command("ip", "netns", "add", name).Run() != nil {
		return false
	}
	defer func() { _ = exec.Command("ip", "netns", "del", name).Run() }()
	dir, err := os.MkdirTemp(scratch, "mount")
	if err != nil || exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "odin-try", dir).Run() != nil {
		return false
	}
	_ = exec.Command("umount", dir).Run()
	return exec.Command("ip", "netns", "exec", name, "iptables", "-w", "-A", "INPUT", "-p", "tcp", "-j", "DROP").Run() == nil
})
