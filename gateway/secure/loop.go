package secure

import (
	"bytes"
	"syscall"
	"time"

	"github.com/odin-ws/odin/bufpool"
	"github.com/odin-ws/odin/internal/tlsrec"
	"github.com/odin-ws/odin/netpoll"
)

// Config is what a Loop needs.
type Config struct {
	// Pool lends buffers for records that have come in part.
	Pool *bufpool.Pool
	// Tick is the inner loop's, Timeout how long a record may be on its way; a
	// second when more than half of the pool is lent.
	Tick, Timeout time.Duration
	// Counters are counted up; several loops may share them.
	Counters *Counters
}

const (
	// recordPlain is how much goes into one record: what is kept of one that the
	// socket takes in part is a page at most, and a peer can read the first before
	// the last has come.
	recordPlain = 4096 - tlsrec.MaxOverhead
	// batch is how much is sealed before it is written, bytes.
	batch = 16 << 10
	// kernelRecord is what the kernel may hold of a record that a socket took in part,
	// sealed and not, bytes.
	kernelRecord = 2 * 4096
	// HeldPages is in how many pages the rest of a record can lie, at most.
	HeldPages = kernelRecord / 4096
	// pressedTimeout is Timeout while more than half of the pool is lent.
	pressedTimeout = time.Second
	// maxControl is how many records without data the kernel may show in one read.
	maxControl = 32
)

// Loop is a netpoll.Loop over another. Its methods are that one's but for what
// concerns the bytes of attached sockets.
type Loop struct {
	netpoll.Loop

	// Static after Start.
	cfg Config
	h   netpoll.Handler
	// tlsrec's, but in tests, whose descriptors are no kernel's.
	alert   func(fd int, a tlsrec.Alert) error
	receive func(fd int, v12 bool) error

	// Owned by the loop's goroutine.
	conns   map[int]*Conn // attached, by descriptor
	gen     uint32
	now     uint32   // ticks
	again   []uint64 // tokens of ours: to be read without an event
	partial []uint64 // tokens of those with a record on its way; may name the gone
	out     []byte   // records sealed and not written
	ends    []record // of out
	one     [1][]byte
	iov     [][]byte
}

// record is where one ends in Loop.out, and how many bytes are in it.
type record struct{ end, plain int }

// New makes a Loop over inner, which must not have been started.
func New(inner netpoll.Loop, cfg Config) *Loop {
	if cfg.Counters == nil {
		cfg.Counters = new(Counters)
	}
	return &Loop{
		Loop: inner, cfg: cfg, conns: make(map[int]*Conn),
		alert: tlsrec.SendAlert, receive: tlsrec.Receive,
		out: make([]byte, 0, batch+recordPlain+tlsrec.MaxOverhead),
	}
}

// Start implements netpoll.Loop.
func (l *Loop) Start(h netpoll.Handler) error {
	l.h = h
	return l.Loop.Start(handler{l})
}

// Attach makes a socket that is not yet added speak TLS; c is Secure's.
func (l *Loop) Attach(fd int, c *Conn) { l.conns[fd] = c }

// Detach lets go of an attached socket that has been deleted; Stream goes on with
// it.
func (l *Loop) Detach(fd int) *Conn {
	c := l.conns[fd]
	in := bytes.Clone(c.in)
	l.forget(fd, c)
	c.in = in
	return c
}

// Add implements netpoll.Loop. The token given on is ours: it leads to the conn,
// and to the handler's.
func (l *Loop) Add(fd int, token uint64) error {
	c := l.conns[fd]
	if c == nil {
		return syscall.EBADF // nothing is spoken here but TLS
	}
	l.gen++
	c.token, c.gen = token, l.gen
	return l.Loop.Add(fd, c.ours(fd))
}

// of returns the conn that a token of ours names, nil when it has gone.
func (l *Loop) of(token uint64) (int, *Conn) {
	fd := int(uint32(token))
	if c := l.conns[fd]; c != nil && c.gen == uint32(token>>32) {
		return fd, c
	}
	return fd, nil
}

// handler stands between the inner loop and the handler.
type handler struct{ l *Loop }

// Ready implements netpoll.Handler.
func (t handler) Ready(token uint64, ev netpoll.Event) {
	l := t.l
	fd, c := l.of(token)
	if c == nil {
		return
	}
	switch {
	case ev&netpoll.Out == 0:
	case len(c.out) > 0:
		if err := l.flush(fd, c); err == nil && len(c.out) > 0 {
			ev &^= netpoll.Out // the next edge is armed
		} // with an error the handler's own write finds it
	case c.fin:
		_ = l.CloseWrite(fd) // the kernel's record had no room for the goodbye
	}
	if ev != 0 {
		l.h.Ready(c.token, ev)
	}
}

// Mail implements netpoll.Handler.
func (t handler) Mail() {
	l := t.l
	n := len(l.again) // what is added meanwhile is for the next turn
	for i := range n {
		if _, c := l.of(l.again[i]); c != nil {
			l.h.Ready(c.token, netpoll.In)
		}
	}
	l.again = append(l.again[:0], l.again[n:]...)
	l.h.Mail()
	if len(l.again) > 0 {
		l.Wake()
	}
}

// Tick implements netpoll.Handler.
func (t handler) Tick(n int) {
	l := t.l
	l.now += uint32(n)
	l.expire()
	l.h.Tick(n)
}

// readLater has the handler read a socket that no event will announce.
func (l *Loop) readLater(fd int, c *Conn) {
	l.again = append(l.again, c.ours(fd))
	l.Wake()
}

// expire ends those whose record takes too long. Time in which its bytes are here and
// the handler does not read them is not the peer's.
func (l *Loop) expire() {
	patience := l.cfg.Timeout
	if p := l.cfg.Pool; p.InUse() > p.Budget()/2 {
		patience = min(patience, pressedTimeout)
	}
	ticks := uint32((patience + l.cfg.Tick - 1) / l.cfg.Tick)
	kept := l.partial[:0]
	for _, token := range l.partial {
		fd, c := l.of(token)
		switch {
		case c == nil:
		case len(c.in) == 0 || c.err != nil:
			c.listed = false
		case l.now-c.since < ticks:
			kept = append(kept, token)
		case l.unread(fd):
			c.since = l.now
			kept = append(kept, token)
		default:
			c.listed = false
			l.cfg.Counters.RecordTimeouts.Add(1)
			c.err = syscall.ETIMEDOUT
			l.readLater(fd, c)
		}
	}
	l.partial = kept
}

// unread reports whether bytes wait to be read.
func (l *Loop) unread(fd int) bool {
	n, err := l.Loop.Unread(fd)
	return err == nil && n > 0
}

// Queued implements netpoll.Loop: what is kept of a record, here or by the kernel,
// is queued too.
func (l *Loop) Queued(fd int) (int, error) {
	n, err := l.Loop.Queued(fd)
	if c := l.conns[fd]; c != nil && err == nil {
		if c.session == nil && n > 0 {
			n += kernelRecord
		}
		n += cap(c.out)
	}
	return n, err
}

// CloseWrite implements netpoll.Loop: a goodbye, and FIN when all has gone.
func (l *Loop) CloseWrite(fd int) error {
	c := l.conns[fd]
	if c == nil {
		return l.Loop.CloseWrite(fd)
	}
	if c.fin = !l.goodbye(fd, c); c.fin {
		return nil // Ready goes on
	}
	return l.Loop.CloseWrite(fd)
}

// goodbye says close_notify, once; false: the socket has no room for all of it yet,
// and its writable edge is armed.
func (l *Loop) goodbye(fd int, c *Conn) bool {
	switch {
	case c.told:
	case c.session == nil:
		if netpoll.Again(l.alert(fd, tlsrec.CloseNotify)) {
			return false
		} // with another error FIN must do
	default:
		c.out = c.session.AppendAlert(c.out, tlsrec.CloseNotify)
		_ = l.flush(fd, c)
	}
	c.told = true
	return len(c.out) == 0
}

// Close implements netpoll.Loop.
func (l *Loop) Close(fd int) error {
	if c := l.conns[fd]; c != nil {
		if len(c.out) == 0 {
			l.goodbye(fd, c)
		}
		l.forget(fd, c)
	}
	return l.Loop.Close(fd)
}

// Abort implements netpoll.Loop.
func (l *Loop) Abort(fd int) error {
	if c := l.conns[fd]; c != nil {
		l.forget(fd, c)
	}
	return l.Loop.Abort(fd)
}

func (l *Loop) forget(fd int, c *Conn) {
	l.cfg.Pool.Put(c.in)
	c.in = nil
	delete(l.conns, fd)
}
