package secure

import (
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/odin-ws/odin/internal/tlsrec"
)

// goodbyeWait bounds how long Stream.Close waits for room for its goodbye.
const goodbyeWait = time.Second

// Stream is a detached connection for blocking use, over a net.Conn of its socket.
// One goroutine may read while others write and close: net/http waits for the
// client to hang up while a handler writes.
type Stream struct {
	net.Conn
	c     *Conn
	count *Counters

	// The reader's, and so is c.in.
	plain []byte // opened and not read
	buf   []byte

	// mu guards the session, for the time of opening or sealing. It is taken last.
	mu sync.Mutex

	// order is held while records go to the socket, in which they must be in the
	// order of their numbers. It guards c.out and err.
	order sync.Mutex
	err   error // what writing ended with
}

// Stream goes on with a detached connection.
func (c *Conn) Stream(over net.Conn, count *Counters) *Stream {
	return &Stream{Conn: over, c: c, count: count}
}

func (s *Stream) Read(p []byte) (int, error) {
	if s.c.session == nil {
		return s.Conn.Read(p)
	}
	for len(s.plain) == 0 {
		record, err := s.record()
		if err != nil {
			return 0, err
		}
		if err := s.open(record); err != nil {
			return 0, err // io.EOF after a goodbye
		}
	}
	n := copy(p, s.plain)
	s.plain = s.plain[n:]
	return n, nil
}

// open opens a record. Nothing is answered here: a KeyUpdate goes before what is
// written next.
func (s *Stream) open(record []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind, data, err := s.c.session.Open(record)
	switch {
	case err != nil:
		s.count.BadRecords.Add(1)
		return err
	case kind == tlsrec.Data:
		s.plain = append(s.plain, data...)
		return nil
	}
	if err := s.c.session.Control(kind, data); err != nil || kind != tlsrec.Handshake {
		return err
	}
	err = s.c.renewed(s.c.window, 1) // without a clock: so many in all
	if err != nil {
		s.count.KeyFloods.Add(1)
	}
	return err
}

// record reads a whole one, good until the next.
func (s *Stream) record() ([]byte, error) {
	for {
		n, err := s.c.session.Length(s.c.in)
		if err != nil {
			s.count.BadRecords.Add(1)
			return nil, err
		}
		if n > 0 && n <= len(s.c.in) {
			r := s.c.in[:n:n]
			s.c.in = s.c.in[n:]
			return r, nil
		}
		if s.buf == nil {
			s.buf = make([]byte, 4096)
		}
		n, err = s.Conn.Read(s.buf)
		if err != nil {
			return nil, err
		}
		s.c.in = append(s.c.in, s.buf[:n]...)
	}
}

func (s *Stream) Write(p []byte) (int, error) {
	if s.c.session == nil {
		return s.Conn.Write(p)
	}
	s.order.Lock()
	defer s.order.Unlock()
	if s.err != nil {
		return 0, s.err // a record may have gone in part
	}
	out, err := s.seal(p)
	if err == nil {
		_, err = s.Conn.Write(out)
	}
	if err != nil {
		s.err = err
		return 0, err
	}
	return len(p), nil
}

// seal returns what the socket is owed, and p in records. order is held.
func (s *Stream) seal(p []byte) (out []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, s.c.out = s.c.out, nil
	if s.c.session.Owes() {
		if out, err = s.c.session.AppendKeyUpdate(out, false); err != nil {
			return nil, err
		}
	}
	for len(p) > 0 {
		n, at := min(len(p), recordPlain), len(out)
		out = s.c.session.Seal(append(s.c.session.Begin(out), p[:n]...), at, tlsrec.Data)
		p = p[n:]
	}
	return out, nil
}

// Close says goodbye first, unless a write is under way: then FIN must do.
func (s *Stream) Close() error {
	if s.c.session != nil {
		if s.order.TryLock() {
			s.goodbye()
			s.order.Unlock()
		}
	} else if over, ok := s.Conn.(syscall.Conn); ok {
		if raw, err := over.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = tlsrec.SendAlert(int(fd), tlsrec.CloseNotify) })
		}
	}
	return s.Conn.Close()
}

// goodbye says close_notify, once. order is held.
func (s *Stream) goodbye() {
	if s.err != nil {
		return
	}
	s.err = net.ErrClosed
	s.mu.Lock()
	out := s.c.session.AppendAlert(s.c.out, tlsrec.CloseNotify)
	s.mu.Unlock()
	s.c.out = nil
	_ = s.Conn.SetWriteDeadline(time.Now().Add(goodbyeWait))
	_, _ = s.Conn.Write(out) // FIN must do else
}
