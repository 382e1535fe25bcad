package netpolltest

import (
	"fmt"
	"syscall"

	"github.com/odin-ws/odin/netpoll"
)

// firstFD is the lowest descriptor a Kernel gives: 0 to 2 are taken, as ever.
const firstFD = 3

// Kernel owns descriptors. It is not safe for concurrent use.
type Kernel struct {
	socks []*Socket // by descriptor less firstFD; nil where free
	// Opened and Closed count sockets.
	Opened, Closed int
}

// NewKernel returns a kernel without sockets.
func NewKernel() *Kernel { return &Kernel{} }

// Open is the number of descriptors not closed.
func (k *Kernel) Open() int { return k.Opened - k.Closed }

// Socket returns a connected socket on the lowest free descriptor, with no
// bytes in it and unlimited room.
func (k *Kernel) Socket() *Socket {
	s := &Socket{k: k, room: Unlimited}
	k.Opened++
	for i, old := range k.socks {
		if old == nil {
			s.fd = i + firstFD
			k.socks[i] = s
			return s
		}
	}
	s.fd = len(k.socks) + firstFD
	k.socks = append(k.socks, s)
	return s
}

// get returns the open socket with a descriptor.
func (k *Kernel) get(call string, fd int) *Socket {
	if i := fd - firstFD; i >= 0 && i < len(k.socks) && k.socks[i] != nil {
		return k.socks[i]
	}
	panic(fmt.Sprintf("netpolltest: %s on descriptor %d, which is not open", call, fd))
}

// Unlimited is room that is never used up.
const Unlimited = 1 << 40

// Socket is one connection, seen from the peer. Its methods stay good after the
// code under test closed the descriptor.
type Socket struct {
	k  *Kernel
	fd int

	loop   *Loop // registered there
	token  uint64
	refuse error
	edges  netpoll.Event // to be reported by the next batch

	in    []byte // sent by the peer, not read yet
	eof   bool   // FIN behind in
	reset bool

	room     int  // bytes taken before EAGAIN
	maxWrite int  // of one call; 0 is unlimited
	armed    bool // a write came back short: room brings an Out edge
	taken    []byte

	shut, closed, aborted bool

	queued, sndbuf int    // see sockmem.go
	acked          uint64 // the same
}

// FD is the descriptor; after the close it may be another socket's.
func (s *Socket) FD() int { return s.fd }

// RefuseAdd makes epoll refuse the socket with err.
func (s *Socket) RefuseAdd(err error) { s.refuse = err }

// Send makes bytes arrive.
func (s *Socket) Send(b []byte) {
	if s.eof || s.reset || len(b) == 0 {
		return
	}
	s.in = append(s.in, b...)
	s.edge(netpoll.In)
}

// Finish makes the peer's FIN arrive, behind what was sent.
func (s *Socket) Finish() {
	if s.eof || s.reset {
		return
	}
	s.eof = true
	s.edge(netpoll.In | netpoll.RdHup)
}

// Reset makes a reset arrive: what was sent and not read is gone.
func (s *Socket) Reset() {
	if s.reset {
		return
	}
	s.reset, s.in = true, nil
	s.edge(netpoll.In | netpoll.Out | netpoll.RdHup | netpoll.Err | netpoll.Hup)
}

// SetRoom sets how many bytes the socket takes from now on. Room where a write
// had found none brings the writable edge.
func (s *Socket) SetRoom(n int) {
	s.room = n
	s.writable()
}

// Give adds n bytes of room.
func (s *Socket) Give(n int) { s.SetRoom(min(s.room+n, Unlimited)) }

// Room is how many bytes the socket would take.
func (s *Socket) Room() int { return s.room }

// SetMaxWrite bounds each write; 0 lifts the bound. A write cut by it arms the
// edge like one that ran out of room.
func (s *Socket) SetMaxWrite(n int) { s.maxWrite = n }

// Armed reports whether a write has come back short and no edge followed yet.
func (s *Socket) Armed() bool { return s.armed }

// Unread is the number of bytes sent and not read.
func (s *Socket) Unread() int { return len(s.in) }

// Taken returns the bytes written since the last call.
func (s *Socket) Taken() []byte {
	b := s.taken
	s.taken = nil
	return b
}

// Closed reports whether the descriptor was closed, by Close or Abort.
func (s *Socket) Closed() bool { return s.closed }

// Aborted reports whether it was closed with a reset.
func (s *Socket) Aborted() bool { return s.aborted }

// WriteClosed reports whether CloseWrite was called, or the descriptor closed.
func (s *Socket) WriteClosed() bool { return s.shut || s.closed }

func (s *Socket) edge(ev netpoll.Event) {
	if s.loop != nil {
		s.edges |= ev
	}
}

func (s *Socket) writable() {
	if s.armed && s.room > 0 && s.loop != nil {
		s.armed = false
		s.edges |= netpoll.Out
	}
}

// ready is what epoll would report of the socket now.
func (s *Socket) ready() (ev netpoll.Event) {
	if len(s.in) > 0 || s.eof {
		ev |= netpoll.In
	}
	if s.room > 0 {
		ev |= netpoll.Out
	}
	if s.eof {
		ev |= netpoll.RdHup
	}
	if s.eof && s.shut {
		ev |= netpoll.Hup
	}
	if s.reset {
		ev |= netpoll.In | netpoll.Out | netpoll.RdHup | netpoll.Err | netpoll.Hup
	}
	return ev
}

func (s *Socket) read(p []byte) (int, error) {
	switch {
	case s.reset:
		return 0, syscall.ECONNRESET
	case len(s.in) > 0:
		n := copy(p, s.in)
		s.in = s.in[n:]
		return n, nil
	case s.eof:
		return 0, nil
	}
	return 0, syscall.EAGAIN
}

func (s *Socket) write(bufs ...[]byte) (int, error) {
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	if total == 0 {
		panic("netpolltest: a write of nothing")
	}
	if s.reset || s.shut {
		return 0, syscall.EPIPE
	}
	n := min(total, max(0, s.room))
	if s.maxWrite > 0 {
		n = min(n, s.maxWrite)
	}
	if s.room < Unlimited {
		s.room -= n
	}
	left := n
	for _, b := range bufs {
		k := min(left, len(b))
		s.taken = append(s.taken, b[:k]...)
		left -= k
	}
	if n < total {
		s.armed = true
		s.writable()
	}
	if n == 0 {
		return 0, syscall.EAGAIN
	}
	return n, nil
}
