// Package netpoll is the kernel as an event loop sees it: descriptors, bytes
// and readiness. It knows no WebSocket and no connection.
//
// A Loop is one goroutine around one epoll instance. Everything a Handler is
// told, it is told on that goroutine, so what belongs to a loop needs no lock.
// Other goroutines reach a loop by Wake alone.
//
//	l, err := netpoll.New(netpoll.Config{Tick: 100 * time.Millisecond})
//	err = l.Start(handler)        // Ready, Mail and Tick from now on
//	err = l.Add(fd, token)        // on the loop's goroutine
//	n, err := l.Write(fd, bytes)  // never blocks
//
// Descriptors are registered once, edge-triggered, for reading and writing,
// and never modified: a write that comes back short, or EAGAIN, arms the next
// writable edge by itself (epoll(7)). Events are hints: only the result of a
// read or write decides. Bytes left unread raise no second event, so a handler
// that stops reading early must come back by its own account.
//
// The backend is the raw-descriptor half of easygo's netpoll. Its Handle, Desc
// and Poller are not used: they duplicate every descriptor and clear
// O_NONBLOCK on it (docs/adr/0001).
//
// netpolltest.Loop is the same interface over a scripted kernel, for tests.
package netpoll

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// Event is a set of readiness hints.
type Event uint32

// The events of epoll_ctl(2) that a Handler sees.
const (
	In     Event = 0x1
	Out    Event = 0x4
	Err    Event = 0x8
	Hup    Event = 0x10
	RdHup  Event = 0x2000
	Closed       = Err | Hup | RdHup // any of these: the peer, or the socket, is going away
)

// String lists the set's names, for logs and test failures.
func (e Event) String() string {
	var names []string
	for _, n := range []struct {
		bit  Event
		name string
	}{{In, "in"}, {Out, "out"}, {Err, "err"}, {Hup, "hup"}, {RdHup, "rdhup"}} {
		if e&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, "|")
}

// ErrStopped is returned by a Loop's methods after Stop.
var ErrStopped = errors.New("netpoll: loop is stopped")

// Handler is told what happens on a Loop. All methods run on the loop's
// goroutine and must not block.
type Handler interface {
	// Ready says that the descriptor added with token has events. It may still
	// be called once for a descriptor deleted earlier in the same turn: the
	// token is how to tell.
	Ready(token uint64, ev Event)
	// Mail says that Wake was called at least once since the last Mail.
	Mail()
	// Tick comes every Config.Tick, late when the loop was busy; n is the
	// number of ticks since the last call, at least 1.
	Tick(n int)
}

// Loop is an event loop and the system calls made from it. Wake and Stop may be
// called from any goroutine; all else only on the loop's own, from a Handler.
//
// Errors of Read, Write and Writev are syscall.Errno values, EAGAIN when the
// kernel has nothing, or no room; EINTR is retried inside.
type Loop interface {
	// Start begins calling h. Call it once, from any goroutine.
	Start(h Handler) error
	// Stop ends the loop and waits for the handler's last call to return. It
	// must not be called from the handler. Registered descriptors stay open.
	Stop() error
	// Wake makes Mail be called soon. Wakes before that are one.
	Wake()
	// Late is, in Handler.Tick, for how long that tick had been due when the loop
	// came to it: the first of them when it stands for several. So long does whatever
	// else becomes ready wait.
	Late() time.Duration

	// Add registers fd for In, Out and RdHup, edge-triggered. On error nothing
	// stays registered.
	Add(fd int, token uint64) error
	// Del forgets fd. It must come before Close.
	Del(fd int) error

	// Read reads into p; 0 and nil is the end of the stream.
	Read(fd int, p []byte) (int, error)
	// Write writes some of p.
	Write(fd int, p []byte) (int, error)
	// Writev writes some of bufs, in order; more than MaxIovecs are left for
	// the next call.
	Writev(fd int, bufs [][]byte) (int, error)
	// Peer is the address at the other end, getpeername(2).
	Peer(fd int) (netip.Addr, error)
	// Queued is the kernel memory the socket's send side holds, bytes: 0 when
	// the peer has acknowledged everything (SO_MEMINFO, sock_diag(7)).
	Queued(fd int) (int, error)
	// Unread is how many bytes have come that nobody has read, SIOCINQ, tcp(7).
	Unread(fd int) (int, error)
	// Acked is how many bytes the peer has acknowledged since the connection
	// began (TCP_INFO, tcp(7)).
	Acked(fd int) (uint64, error)
	// SetSendBuffer sets SO_SNDBUF; the kernel doubles the value and allows at
	// most net.core.wmem_max.
	SetSendBuffer(fd, bytes int) error
	// CloseWrite sends FIN after what is queued, shutdown(2).
	CloseWrite(fd int) error
	// Close closes fd; what is queued in the kernel is still sent.
	Close(fd int) error
	// Abort closes fd with a reset and frees what is queued in the kernel:
	// SO_LINGER {1, 0}, socket(7).
	Abort(fd int) error
}

// MaxIovecs bounds the buffers of one Writev.
const MaxIovecs = 64

// Again reports whether err is EAGAIN: not an error, but the kernel's "not now".
func Again(err error) bool { return err == syscall.EAGAIN }
