//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// group is a memory cgroup of our own.
type group struct {
	dir string
	v2  bool
}

// usage is what a group holds at a moment, bytes.
type usage struct {
	total   int64 // usage_in_bytes, memory.current
	working int64 // the same less inactive file pages
	sock    int64 // socket buffers charged to it (v2 only)
}

func newGroup(v2 bool, name string, limit int64) (*group, error) {
	root := "/sys/fs/cgroup/memory"
	if v2 {
		root = "/sys/fs/cgroup"
	}
	g := &group{filepath.Join(root, fmt.Sprintf("odin-e2e-%s-%d", name, os.Getpid())), v2}
	if v2 {
		if err := g.writeAt(filepath.Join(root, "cgroup.subtree_control"), "+memory"); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a memory cgroup (as root?): %w", err)
	}
	live.Store(g, nil)
	file := "memory.limit_in_bytes"
	if v2 {
		file = "memory.max"
	}
	if err := g.writeAt(filepath.Join(g.dir, file), strconv.FormatInt(limit, 10)); err != nil {
		return nil, errors.Join(err, g.remove())
	}
	if v2 { // no way out to swap
		_ = g.writeAt(filepath.Join(g.dir, "memory.swap.max"), "0")
	}
	return g, nil
}

func (g *group) writeAt(path, s string) error { return os.WriteFile(path, []byte(s), 0o644) }

// live are the groups to remove when the rig is interrupted.
var live sync.Map // *group

// onInterrupt ends what runs in our groups, removes them and dir, and exits.
func onInterrupt(dir string) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-c
		live.Range(func(k, _ any) bool {
			g := k.(*group)
			b, _ := os.ReadFile(g.procs())
			for pid := range strings.FieldsSeq(string(b)) {
				if n, err := strconv.Atoi(pid); err == nil && n > 0 {
					_ = syscall.Kill(n, syscall.SIGKILL)
				}
			}
			_ = g.remove()
			return true
		})
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(130)
	}()
}

// remove deletes the group; its processes have ended or are about to.
func (g *group) remove() error {
	live.Delete(g)
	var err error
	for range 50 {
		if err = os.Remove(g.dir); err == nil || os.IsNotExist(err) {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// procs is the file a process joins through.
func (g *group) procs() string { return filepath.Join(g.dir, "cgroup.procs") }

// join puts this process into the group and becomes args.
func join(procs string, args []string) error {
	if err := os.WriteFile(procs, []byte("0"), 0); err != nil {
		return err
	}
	return syscall.Exec(args[0], args, os.Environ())
}

func (g *group) read(name string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// keyed reads a file of "name number" lines.
func (g *group) keyed(name string) (map[string]int64, error) {
	f, err := os.Open(filepath.Join(g.dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := map[string]int64{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if k, v, ok := strings.Cut(sc.Text(), " "); ok {
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				m[k] = n
			}
		}
	}
	return m, nil
}

func (g *group) usage() (usage, error) {
	name, file, sock := "memory.usage_in_bytes", "total_inactive_file", ""
	if g.v2 {
		name, file, sock = "memory.current", "inactive_file", "sock"
	}
	total, err := g.read(name)
	if err != nil {
		return usage{}, err
	}
	stat, err := g.keyed("memory.stat")
	if err != nil {
		return usage{}, err
	}
	return usage{total, max(total-stat[file], 0), stat[sock]}, nil
}

// peak is the most the group ever held, page cache included.
func (g *group) peak() int64 {
	name := "memory.max_usage_in_bytes"
	if g.v2 {
		name = "memory.peak"
	}
	n, err := g.read(name)
	if err != nil {
		return -1
	}
	return n
}

// kills is how often the OOM killer struck in the group.
func (g *group) kills() (int64, error) {
	name := "memory.oom_control"
	if g.v2 {
		name = "memory.events"
	}
	m, err := g.keyed(name)
	if err != nil {
		return 0, err
	}
	n, ok := m["oom_kill"]
	if !ok {
		return 0, fmt.Errorf("%s has no oom_kill", name)
	}
	return n, nil
}
