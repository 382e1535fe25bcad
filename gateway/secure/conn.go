package secure

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/odin-ws/odin/internal/tlsrec"
)

// Counters grow only. Any goroutine.
type Counters struct {
	Kernel, Own    atomic.Uint64 // connections attached, by who does their records
	BadRecords     atomic.Uint64 // ended for what is no good TLS
	PeerAlerts     atomic.Uint64 // ended by the peer with an alert that is no goodbye
	KeyUpdates     atomic.Uint64 // ended because the kernel doesn't change keys
	RecordTimeouts atomic.Uint64 // ended for a record that did not come to its end
	NoBuffer       atomic.Uint64 // ended because no buffer was left for one
	Rests          atomic.Uint64 // records that a socket took in part
}

// Conn is one socket that speaks TLS: 1.9 KB with a session, 120 B without.
type Conn struct {
	session *tlsrec.Session // nil: the kernel's
	token   uint64          // the handler's
	gen     uint32
	since   uint32 // tick at which what is in began
	in      []byte // pooled: a record, so far
	out     []byte // what the socket has not taken
	err     error  // what reading ends with, once what came before has been given

	v12, fin, told, listed bool
}

// errEnd is Conn.err for the end of the stream.
var errEnd = errors.New("end of stream")

// Secure begins TLS on a socket that has shaken hands, with kernel by the kernel
// where it takes the suite; the keys are wiped. On error the socket can't be used.
// Any goroutine may call it.
func Secure(fd int, keys *tlsrec.Keys, kernel bool, count *Counters) (*Conn, error) {
	defer keys.Wipe()
	c := &Conn{v12: keys.V12()}
	if kernel {
		err := keys.Offload(fd)
		if err == nil {
			count.Kernel.Add(1)
			return c, nil
		}
		if !errors.Is(err, tlsrec.ErrNotOffloaded) {
			return nil, err
		}
	}
	s, err := keys.Session()
	if err != nil {
		return nil, err
	}
	c.session = s
	count.Own.Add(1)
	return c, nil
}

// ours is the token that the inner loop is given.
func (c *Conn) ours(fd int) uint64 { return uint64(c.gen)<<32 | uint64(uint32(fd)) }

// Stream is a detached connection for blocking use, over a net.Conn of its socket.
type Stream struct {
	net.Conn
	c     *Conn
	plain []byte // opened and not read
	buf   []byte
}

// Stream goes on with a detached connection.
func (c *Conn) Stream(over net.Conn) *Stream { return &Stream{Conn: over, c: c} }

func (s *Stream) Read(p []byte) (int, error) {
	if s.c.session == nil {
		return s.Conn.Read(p)
	}
	for len(s.plain) == 0 {
		record, err := s.record()
		if err != nil {
			return 0, err
		}
		kind, data, err := s.c.session.Open(record)
		if err != nil {
			return 0, err
		}
		if kind == tlsrec.Data {
			s.plain = append(s.plain, data...)
			continue
		}
		answer, err := s.c.session.Control(nil, kind, data)
		if err != nil {
			return 0, err // io.EOF after a goodbye
		}
		if _, err := s.Conn.Write(answer); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.plain)
	s.plain = s.plain[n:]
	return n, nil
}

// record reads a whole one, good until the next.
func (s *Stream) record() ([]byte, error) {
	for {
		n, err := s.c.session.Length(s.c.in)
		if err != nil {
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
	out := s.c.out
	s.c.out = nil
	for rest := p; len(rest) > 0; {
		n, at := min(len(rest), recordPlain), len(out)
		out = s.c.session.Seal(append(s.c.session.Begin(out), rest[:n]...), at, tlsrec.Data)
		rest = rest[n:]
	}
	if _, err := s.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye first.
func (s *Stream) Close() error {
	if s.c.session != nil && !s.c.told {
		s.c.told = true
		_, _ = s.Conn.Write(s.c.session.AppendAlert(s.c.out, tlsrec.CloseNotify)) // FIN must do else
	} else if over, ok := s.Conn.(syscall.Conn); ok && s.c.session == nil {
		if raw, err := over.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = tlsrec.SendAlert(int(fd), tlsrec.CloseNotify) })
		}
	}
	return s.Conn.Close()
}
