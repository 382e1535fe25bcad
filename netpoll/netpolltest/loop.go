package netpolltest

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/odin-ws/odin/netpoll"
)

// Loop is a netpoll.Loop that the test turns by hand.
type Loop struct {
	k *Kernel
	h netpoll.Handler

	depth   int // handler calls under way
	stopped bool
	late    time.Duration
	regs    []*Socket // registered, in the order of Add

	woken atomic.Bool // Wake may come from any goroutine
}

var _ netpoll.Loop = (*Loop)(nil)

// NewLoop makes a loop over the kernel's descriptors.
func (k *Kernel) NewLoop() *Loop { return &Loop{k: k} }

// Event is one entry of a batch, as epoll_wait fills it.
type Event struct {
	Token uint64
	Ev    netpoll.Event
	fd    int
}

// String is for failures.
func (e Event) String() string { return fmt.Sprintf("fd %d token %#x %v", e.fd, e.Token, e.Ev) }

// Batch takes the events there are now, in the order the descriptors were
// added; the test may fire them in another.
func (l *Loop) Batch() []Event {
	var b []Event
	for _, s := range l.regs {
		if s.edges != 0 {
			// What was ready at the edge may be so no longer; what wasn't is
			// reported all the same.
			ev := s.ready()
			if ev != 0 {
				b = append(b, Event{Token: s.token, Ev: ev, fd: s.fd})
			}
			if s.edges&^ev&netpoll.Out != 0 {
				s.armed = true // the test took the room back; the edge is still owed
			}
			s.edges = 0
		}
	}
	return b
}

// Pending reports whether Batch would return any, or RunMail run.
func (l *Loop) Pending() bool {
	for _, s := range l.regs {
		if s.edges != 0 {
			return true
		}
	}
	return l.woken.Load()
}

// Fire delivers one event, also when its descriptor was deleted since.
func (l *Loop) Fire(e Event) { l.call(func() { l.h.Ready(e.Token, e.Ev) }) }

// Woken reports whether Mail is due.
func (l *Loop) Woken() bool { return l.woken.Load() }

// RunMail calls Mail if Wake was called since the last time.
func (l *Loop) RunMail() bool {
	if !l.woken.Swap(false) {
		return false
	}
	l.call(l.h.Mail)
	return true
}

// Tick calls Tick.
func (l *Loop) Tick(n int) { l.call(func() { l.h.Tick(n) }) }

// SetLate sets what Late says from now on.
func (l *Loop) SetLate(d time.Duration) { l.late = d }

// Late implements netpoll.Loop.
func (l *Loop) Late() time.Duration { return l.late }

// Registered is the number of descriptors registered.
func (l *Loop) Registered() int { return len(l.regs) }

func (l *Loop) call(f func()) {
	if l.h == nil || l.stopped {
		panic("netpolltest: the loop does not run")
	}
	if l.depth > 0 {
		panic("netpolltest: a handler is called from a handler")
	}
	l.depth++
	defer func() { l.depth-- }()
	f()
}

// inTurn checks that a call comes from a handler, or after Stop.
func (l *Loop) inTurn(call string) {
	if l.depth == 0 && !l.stopped {
		panic("netpolltest: " + call + " outside a handler")
	}
}

// own returns the open socket fd, which must not be another loop's.
func (l *Loop) own(call string, fd int) *Socket {
	l.inTurn(call)
	s := l.k.get(call, fd)
	if s.loop != nil && s.loop != l {
		panic(fmt.Sprintf("netpolltest: %s on descriptor %d, which is another loop's", call, fd))
	}
	return s
}

// Start implements netpoll.Loop.
func (l *Loop) Start(h netpoll.Handler) error {
	if l.h != nil {
		panic("netpolltest: Start twice")
	}
	l.h = h
	return nil
}

// Stop implements netpoll.Loop.
func (l *Loop) Stop() error {
	if l.depth > 0 {
		panic("netpolltest: Stop from a handler")
	}
	if l.stopped {
		return netpoll.ErrStopped
	}
	l.stopped = true
	return nil
}

// Wake implements netpoll.Loop.
func (l *Loop) Wake() { l.woken.Store(true) }

// Add implements netpoll.Loop.
func (l *Loop) Add(fd int, token uint64) error {
	s := l.own("Add", fd)
	if s.loop != nil {
		panic(fmt.Sprintf("netpolltest: Add of descriptor %d twice", fd))
	}
	if l.stopped {
		return netpoll.ErrStopped
	}
	if s.refuse != nil {
		return s.refuse
	}
	s.loop, s.token = l, token
	s.edges = s.ready()
	l.regs = append(l.regs, s)
	return nil
}

// Del implements netpoll.Loop.
func (l *Loop) Del(fd int) error {
	s := l.own("Del", fd)
	if s.loop == nil {
		panic(fmt.Sprintf("netpolltest: Del of descriptor %d, which is not registered", fd))
	}
	s.loop, s.edges = nil, 0
	for i, r := range l.regs {
		if r == s {
			l.regs = append(l.regs[:i], l.regs[i+1:]...)
			break
		}
	}
	return nil
}

// Read implements netpoll.Loop.
func (l *Loop) Read(fd int, p []byte) (int, error) {
	if len(p) == 0 {
		panic("netpolltest: a read of nothing")
	}
	return l.own("Read", fd).read(p)
}

// Write implements netpoll.Loop.
func (l *Loop) Write(fd int, p []byte) (int, error) { return l.own("Write", fd).write(p) }

// Writev implements netpoll.Loop, and insists on what netpoll merely truncates:
// at most MaxIovecs buffers.
func (l *Loop) Writev(fd int, bufs [][]byte) (int, error) {
	if len(bufs) > netpoll.MaxIovecs {
		panic(fmt.Sprintf("netpolltest: Writev of %d buffers", len(bufs)))
	}
	return l.own("Writev", fd).write(bufs...)
}

// CloseWrite implements netpoll.Loop.
func (l *Loop) CloseWrite(fd int) error {
	l.own("CloseWrite", fd).shut = true
	return nil
}

// Close implements netpoll.Loop.
func (l *Loop) Close(fd int) error {
	l.release("Close", fd)
	return nil
}

// Abort implements netpoll.Loop.
func (l *Loop) Abort(fd int) error {
	l.release("Abort", fd).aborted = true
	return nil
}

func (l *Loop) release(call string, fd int) *Socket {
	s := l.own(call, fd)
	if s.loop != nil && !l.stopped {
		panic(fmt.Sprintf("netpolltest: %s of descriptor %d before Del", call, fd))
	}
	s.loop, s.closed = nil, true
	l.k.socks[fd-firstFD] = nil
	l.k.Closed++
	return s
}
