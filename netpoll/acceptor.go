package netpoll

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	easygo "github.com/mailru/easygo/netpoll"
	"golang.org/x/sys/unix"
)

const (
	// acceptTurn is how many connections one readiness event may bring before
	// their descriptors are handed on.
	acceptTurn = 64
	// acceptBackoff is the pause after the process, or the host, ran out of
	// descriptors or memory. The kernel's backlog holds who comes meanwhile.
	acceptBackoff = 10 * time.Millisecond
)

// AcceptorConfig configures an Acceptor.
type AcceptorConfig struct {
	// Accepted receives a batch of new nonblocking descriptors, which are the
	// callee's from then on; the slice is valid during the call only.
	Accepted func(fds []int)
	// Refusal appends what is written to a connection that came when no descriptor
	// was left, before it is closed; nil: nothing. Called on the acceptor's goroutine.
	Refusal func(dst []byte) []byte
	// OnFatal is called when epoll_wait fails; nil panics.
	OnFatal func(error)
}

// AcceptCounters are monotonic.
type AcceptCounters struct {
	Accepted  uint64 // handed on
	Refused   uint64 // accepted with the reserve descriptor, told Refusal and closed
	Exhausted uint64 // accept4 said EMFILE, ENFILE, ENOBUFS or ENOMEM
	Aborted   uint64 // gone, or refused by the kernel, before they were accepted
}

// Acceptor accepts from one Listener on a goroutine of its own.
type Acceptor struct {
	// Static after NewAcceptor.
	cfg AcceptorConfig
	ln  *Listener
	ep  *easygo.Epoll

	// Owned by the acceptor's goroutine.
	reserve int // a descriptor given up to accept and refuse with; -1 when it couldn't be had back
	batch   [acceptTurn]int

	// Any goroutine.
	closed                                atomic.Bool
	accepted, refused, exhausted, aborted atomic.Uint64
}

// NewAcceptor starts accepting.
func NewAcceptor(ln *Listener, cfg AcceptorConfig) (*Acceptor, error) {
	if cfg.Refusal == nil {
		cfg.Refusal = func(dst []byte) []byte { return dst }
	}
	if cfg.OnFatal == nil {
		cfg.OnFatal = func(err error) { panic(fmt.Sprintf("netpoll: epoll_wait: %v", err)) }
	}
	a := &Acceptor{cfg: cfg, ln: ln}
	a.reserve = openReserve()
	ep, err := easygo.EpollCreate(&easygo.EpollConfig{OnWaitError: cfg.OnFatal})
	if err != nil {
		a.closeReserve()
		return nil, fmt.Errorf("netpoll: epoll_create: %w", err)
	}
	a.ep = ep
	// Level-triggered: who is left in the backlog brings the next event.
	if err := ep.Add(ln.fd, easygo.EPOLLIN, a.ready); err != nil {
		ep.Close()
		a.closeReserve()
		return nil, fmt.Errorf("netpoll: registering the listener: %w", err)
	}
	return a, nil
}

// Close stops accepting and waits for the last Accepted to return. The
// Listener stays open. Idempotent.
func (a *Acceptor) Close() error {
	if a.closed.Swap(true) {
		return nil
	}
	err := a.ep.Close()
	a.closeReserve()
	return err
}

// Counters may be called from any goroutine.
func (a *Acceptor) Counters() AcceptCounters {
	return AcceptCounters{
		Accepted:  a.accepted.Load(),
		Refused:   a.refused.Load(),
		Exhausted: a.exhausted.Load(),
		Aborted:   a.aborted.Load(),
	}
}

func (a *Acceptor) ready(ev easygo.EpollEvent) {
	if ev&epollClosed != 0 {
		return
	}
	if a.reserve < 0 {
		a.reserve = openReserve() // before the last one is given away
	}
	n := 0
	pause := false
	for n < acceptTurn {
		fd, err := rawAccept(a.ln.fd)
		if err == nil {
			a.batch[n] = fd
			n++
			continue
		}
		switch err {
		case syscall.EAGAIN:
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
			a.exhausted.Add(1)
			a.refuse()
			pause = true
		default:
			// accept(2): errors already pending on the new socket, and those of
			// the network, are that connection's own. The event comes again.
			a.aborted.Add(1)
		}
		break
	}
	if n > 0 {
		a.accepted.Add(uint64(n))
		a.cfg.Accepted(a.batch[:n])
	}
	if pause {
		time.Sleep(acceptBackoff)
	}
}

// refuse takes one connection with the reserve descriptor, so that it hears
// why, and the backlog does not fill with the silent.
func (a *Acceptor) refuse() {
	if a.reserve >= 0 {
		unix.Close(a.reserve)
		a.reserve = -1
		if fd, err := rawAccept(a.ln.fd); err == nil {
			// Its request is waited for, though not long, and read: an answer that
			// comes first is noise to many clients, and a close with the request
			// unread would send a reset that overtakes it.
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(acceptBackoff.Milliseconds()))
			var request [4096]byte
			rawRecv(fd, request[:])
			rawSend(fd, a.cfg.Refusal(request[:0]))
			unix.Shutdown(fd, unix.SHUT_WR)
			unix.Close(fd)
			a.refused.Add(1)
		}
	}
	a.reserve = openReserve()
}

func openReserve() int {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

func (a *Acceptor) closeReserve() {
	if a.reserve >= 0 {
		unix.Close(a.reserve)
	}
}
