//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// memoryGroup is a memory cgroup of this machine's kernel, of either version.
type memoryGroup struct {
	dir, file string // file is the limit's
}

// newMemoryGroup makes one with a limit, bytes; without the right to, the test is
// skipped. It is removed after what the test started has ended.
func newMemoryGroup(t *testing.T, limit int64) *memoryGroup {
	t.Helper()
	g := &memoryGroup{dir: "/sys/fs/cgroup/memory", file: "memory.limit_in_bytes"}
	if _, err := os.Stat(filepath.Join(g.dir, g.file)); err != nil {
		g = &memoryGroup{dir: "/sys/fs/cgroup", file: "memory.max"}
		_ = os.WriteFile(filepath.Join(g.dir, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	g.dir = filepath.Join(g.dir, fmt.Sprintf("odin-e2e-test-%d", os.Getpid()))
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			t.Skipf("needs a memory cgroup of its own: %v", err)
		}
		t.Skipf("no memory cgroup here: %v", err)
	}
	t.Cleanup(func() {
		for range 50 {
			if os.Remove(g.dir) == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("%s could not be removed", g.dir)
	})
	if _, err := os.Stat(filepath.Join(g.dir, g.file)); err != nil {
		t.Skipf("no memory controller in %s: %v", g.dir, err)
	}
	g.set(t, limit)
	return g
}

func (g *memoryGroup) set(t *testing.T, limit int64) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, g.file), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		t.Fatal(err)
	}
}

// A memory limit that shrinks under a running server is noticed: nobody is cut
// for it, nobody is let in until the number fits, and when nothing fits /readyz
// says why. When it grows back all is as before.
func TestMemoryLimitShrinks(t *testing.T) {
	const mib, fixed = 1 << 20, 49 << 20 // overhead and backlog
	// room is a limit that n connections fit in and n+1 do not, whole pages.
	room := func(n int64) int64 { return fixed + n*6<<10 + 4<<10 - (fixed+n*6<<10)%(4<<10) }
	g := newMemoryGroup(t, 64*mib)
	srv := startServerBy(t, []string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.dir, "cgroup.procs")}, freePort(t),
		"--runtime-overhead", "48MiB", "--backlog", "1MiB")
	if n := srv.Stat(t, "maxConnections"); n != 2560 {
		t.Fatalf("64 MiB hold %d", n)
	}
	max := func(want int64) {
		t.Helper()
		n := int64(-1)
		for end := time.Now().Add(5 * time.Second); n != want; time.Sleep(20 * time.Millisecond) {
			if n = srv.Stat(t, "maxConnections"); n != want && time.Now().After(end) {
				t.Fatalf("the maximum is %d 5 s after the limit changed, want %d", n, want)
			}
		}
	}
	ready := func() (int, string, string) {
		resp, err := once.Get("http://" + srv.Addr + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body struct{ Reason, Detail string }
		b, _ := io.ReadAll(resp.Body)
		_ = json.Unmarshal(b, &body)
		return resp.StatusCode, body.Reason, body.Detail
	}
	inside := make([]*rawClient, 5)
	for i := range inside {
		c, err := dialRaw(srv.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Recv(); err != nil { // hello
			t.Fatal(err)
		}
		inside[i] = c
	}
	refused := func(when string) {
		t.Helper()
		c, err := dialRaw(srv.Addr)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("%s: a sixth client: %v, want 503", when, err)
		}
	}

	g.set(t, room(3))
	max(3)
	refused("five in where three fit")
	if n := srv.Stat(t, "currentConnections"); n != 5 {
		t.Errorf("%d of 5 are left after the limit shrank", n)
	}
	if code, reason, _ := ready(); code != http.StatusOK {
		t.Errorf("full, and not ready: %d %s", code, reason)
	}
	leave := func(want int64) {
		t.Helper()
		last := len(inside) - 1
		inside[last].Close()
		inside = inside[:last]
		for end := time.Now().Add(5 * time.Second); srv.Stat(t, "currentConnections") != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never %d connections", want)
			}
		}
	}
	leave(4)
	leave(3)
	refused("three in where three fit")
	leave(2)
	c, err := dialRaw(srv.Addr)
	if err != nil {
		t.Errorf("two in where three fit: %v", err)
	} else {
		c.Close()
	}

	g.set(t, 48*mib)
	max(0)
	refused("nothing fits")
	if code, reason, detail := ready(); code != http.StatusServiceUnavailable || reason != "memory_limit" || !strings.Contains(detail, "48MB") {
		t.Errorf("readyz: %d %q %q", code, reason, detail)
	}
	if err := inside[0].Send(`{"op":"ping","id":1}`); err != nil {
		t.Error(err)
	}
	if b, err := inside[0].Recv(); err != nil || !strings.Contains(string(b), "pong") {
		t.Errorf("who is in is served no more: %s %v", b, err)
	}

	g.set(t, 64*mib)
	max(2560)
	if code, reason, detail := ready(); code != http.StatusOK {
		t.Errorf("readyz: %d %q %q", code, reason, detail)
	}
	if c, err = dialRaw(srv.Addr); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}
