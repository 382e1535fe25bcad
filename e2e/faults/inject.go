//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// failingSyscalls: a call that the kernel fails is one connection's trouble. Each
// is made to fail by strace: the writes of one socket, and the next few accepts and
// registrations, whosever they are.
func failingSyscalls(r *run) {
	if _, err := exec.LookPath("strace"); err != nil {
		r.must(fmt.Errorf("%w (Debian: apt-get install strace)", err))
	}
	// The store in another process, whose files and sockets are not meant.
	nats := r.broker("nats", "", "")
	n := r.node("a", "--nats-url", nats.url())
	n.waitReady()
	b := r.bystanders(n, true)
	lost := 0
	const sends = "write,writev,sendto,sendmsg" // whichever it is that a socket is written with

	errnos := []string{"ENOSPC", "ENOMEM", "EMFILE", "ECONNABORTED", "ENOBUFS"}
	if r.rig.fast {
		errnos = []string{"ENOSPC", "ENOBUFS"}
	}
	for i, errno := range errnos {
		victim := b.f.members[i]
		back := b.f.reconnects()
		s := r.inject(n, sends, errno, "1+", victim.inode())
		r.within(time.Now(), r.row.limit, "the victim of "+errno+" cut off and back", func() bool { return b.f.reconnects() > back })
		s.end()
		lost++
		r.say("sending %s: %d calls failed", errno, s.injected())
		b.stayed(lost)
	}
	// A write that a signal interrupts is repeated: nobody is cut off.
	s := r.inject(n, sends, "EINTR", "1..20", b.f.members[len(errnos)].inode())
	r.within(time.Now(), r.row.limit, "20 writes interrupted", func() bool { return s.injected() >= 20 })
	s.end()
	b.stayed(lost)
	// Nor when it is the wake-up of a loop. (Of other errors here Go's own runtime, which
	// has such a descriptor too, dies.)
	s = r.inject(n, "write", "EINTR", "1..3", "anon_inode:[eventfd]")
	r.within(time.Now(), r.row.limit, "wake-ups interrupted", func() bool { return s.injected() >= 2 })
	s.end()
	b.stayed(lost)
	now := time.Now()
	b.f.recovers(b.p, now, now, r.row.limit)

	for _, errno := range append(errnos, "EINTR") {
		s := r.inject(n, "accept4", errno, "1..3", "")
		served, failed := r.calls(n, 40)
		s.end()
		bad := s.injected()
		r.say("accept4 %s: %d calls failed, %d visits of 40 did", errno, bad, failed)
		// A visitor may be the one that is refused for want of a descriptor.
		if bad == 0 || failed > bad || served == 0 {
			r.fault("accept4 %s: %d calls failed, %d visits of 40 did", errno, bad, failed)
		}
		if errno == "EINTR" && failed > 0 {
			r.fault("%d visits failed for accepts that were interrupted", failed)
		}
	}
	for _, errno := range errnos {
		// By thread: each thread's first ones fail, whosever they are.
		s := r.inject(n, "epoll_ctl", errno, "1..2", "")
		served, failed := r.calls(n, 40)
		s.end()
		bad := s.injected()
		r.say("epoll_ctl %s: %d calls failed, %d visits of 40 did", errno, bad, failed)
		if bad == 0 || failed > bad || served == 0 {
			r.fault("epoll_ctl %s: %d calls failed, %d visits of 40 did", errno, bad, failed)
		}
	}
	// The admin port, whose accepts are net/http's, must have lived through the like.
	s = r.inject(n, "accept4", "ENOBUFS", "1..3", "")
	for range 5 {
		if resp, err := web.Get("http://" + n.admin + "/healthz"); err == nil {
			_ = resp.Body.Close()
		}
	}
	s.end()
	r.want(s.injected() > 0, "no accept of the admin port failed")
	r.within(time.Now(), r.row.limit, "the admin port answering", func() bool {
		resp, err := web.Get("http://" + n.admin + "/healthz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == 200
	})
	b.stayed(lost)
	served, failed := r.calls(n, 40)
	r.want(served == 40, "%d of 40 visits failed after it all", failed)
	now = time.Now()
	b.f.recovers(b.p, now, now, r.row.limit)
	r.note("%d writes' failures cut off %d clients, those whose they were", len(errnos), lost)
	b.f.finish(b.p)
}

// calls makes visits, one after the other.
func (r *run) calls(n *node, count int) (served, failed int) {
	for i := range count {
		if err := call(n, fmt.Sprintf("visit.c%d", i)); err != nil {
			r.say("a visit: %v", err)
			failed++
		} else {
			served++
		}
	}
	return served, failed
}

// strace is one under way.
type strace struct {
	*proc
	out string
}

var straces int

// inject makes calls of a node fail: set is their names, when counts them in each
// thread, and path, unless "", is the one descriptor that is meant.
func (r *run) inject(n *node, set, errno, when, path string) *strace {
	straces++
	out := filepath.Join(r.dir, fmt.Sprintf("strace-%d", straces))
	args := []string{"strace", "-f", "-q", "-p", strconv.Itoa(n.pid()), "-o", out, "-e", "trace=" + set, "-e", "signal=none",
		"-e", fmt.Sprintf("inject=%s:error=%s:when=%s", set, errno, when)}
	if path != "" {
		args = append(args, "-P", path)
	}
	s := &strace{proc: r.start(fmt.Sprintf("strace-%d", straces), args...), out: out}
	// Attached once each thread says so.
	r.within(time.Now(), 5*time.Second, "strace attached", func() bool {
		r.want(s.alive(), "strace: %s", s.tail())
		return n.traced()
	})
	return s
}

// end detaches.
func (s *strace) end() {
	s.signal(syscall.SIGINT)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		s.kill()
	}
}

// injected is how many calls were made to fail.
func (s *strace) injected() int {
	b, _ := os.ReadFile(s.out)
	return strings.Count(string(b), "(INJECTED)")
}

// traced reports whether every thread of it is.
func (p *proc) traced() bool {
	list, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.pid()))
	for _, file := range list {
		b, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(b), "TracerPid:\t0\n") {
			return false
		}
	}
	return len(list) > 0
}

// inode is the server's end of a member's connection, as /proc names it.
func (m *member) inode() string {
	c := m.conn.Load()
	return m.f.r.socket(c.RemoteAddr().(*net.TCPAddr).Port, c.LocalAddr().(*net.TCPAddr).Port)
}

// socket finds a TCP socket by its ports, in /proc/net/tcp.
func (r *run) socket(local, remote int) string {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", local)) && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", remote)) && f[9] != "0" {
				return "socket:[" + f[9] + "]"
			}
		}
	}
	r.must(fmt.Errorf("no socket from port %d to %d", local, remote))
	return ""
}
