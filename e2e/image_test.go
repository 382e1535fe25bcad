package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestImage builds the container image and runs it, as `make e2e-image` does, but for the
// part with 10 000 clients.
func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds an image")
	}
	if why := noImage(); why != "" {
		needs(t, "ODIN_REQUIRE_IMAGE", why)
	}
	dir := t.TempDir()
	rig, err := build("image", "./image")
	if err != nil {
		t.Fatal(err)
	}
	// As `make build` does it: the image's binary must be the same.
	shipped := filepath.Join(dir, "odin")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=test", "-o", shipped, "../cmd/odin")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd = exec.CommandContext(ctx, rig, "--quick", "--odin", shipped, "--source", "..", "--tmp", dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it has containers and a namespace to undo
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// noImage says why no image can be built and run here, "" if it can.
func noImage() string {
	if os.Geteuid() != 0 {
		return "only root may make cgroups and containers"
	}
	for _, p := range [][]string{{"buildah"}, {"runc", "crun"}, {"busybox"}, {"ip"}} {
		found := false
		for _, name := range p {
			_, err := exec.LookPath(name)
			found = found || err == nil
		}
		if !found {
			return fmt.Sprintf("no %s here (Debian: apt-get install buildah runc busybox-static iproute2)", p[0])
		}
	}
	// What a container's root often may not: v1 has a directory for memory, v2 one for all.
	root := "/sys/fs/cgroup/memory"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		root = "/sys/fs/cgroup"
	}
	try := filepath.Join(root, fmt.Sprintf("odin-try-%d", os.Getpid()))
	if err := os.Mkdir(try, 0o755); err != nil {
		return err.Error()
	}
	_ = os.Remove(try)
	if !mayMakeNamespaces() {
		return "no network namespaces or mounts may be made here"
	}
	return ""
}
