package secure

import (
	"bytes"
	"syscall"

	"github.com/odin-ws/odin/internal/tlsrec"
	"github.com/odin-ws/odin/netpoll"
)

// Write implements netpoll.Loop.
func (l *Loop) Write(fd int, p []byte) (int, error) {
	c := l.conns[fd]
	if c == nil || c.session == nil && len(p) <= recordPlain {
		return l.Loop.Write(fd, p)
	}
	l.one[0] = p
	n, err := l.writes(c)(fd, c, l.one[:])
	l.one[0] = nil
	return n, err
}

// Writev implements netpoll.Loop.
func (l *Loop) Writev(fd int, bufs [][]byte) (int, error) {
	c := l.conns[fd]
	if c == nil {
		return l.Loop.Writev(fd, bufs)
	}
	return l.writes(c)(fd, c, bufs)
}

func (l *Loop) writes(c *Conn) func(int, *Conn, [][]byte) (int, error) {
	if c.session == nil {
		return l.writeKernel
	}
	return l.write
}

// writeKernel writes as much at once as goes into a record of ours, which bounds
// what the kernel keeps of one that its socket takes in part: it would make records
// of 16 KiB.
func (l *Loop) writeKernel(fd int, _ *Conn, bufs [][]byte) (taken int, err error) {
	from := cursor{bufs: bufs}
	for from.more() && err == nil {
		n, want := 0, 0
		l.iov, want = from.slices(l.iov[:0], recordPlain)
		if n, err = l.Loop.Writev(fd, l.iov); err == nil {
			taken += n
			if n < want {
				break
			}
		}
	}
	clear(l.iov)
	if taken > 0 {
		return taken, nil // the next write finds the error too
	}
	return 0, err
}

// write seals bufs into records and writes these, until all is taken or the socket
// is full.
func (l *Loop) write(fd int, c *Conn, bufs [][]byte) (taken int, err error) {
	if err := l.before(fd, c); err != nil {
		return 0, err
	}
	from := cursor{bufs: bufs}
	for from.more() {
		l.seal(c, &from)
		n, err := l.Loop.Write(fd, l.out)
		if err != nil && !netpoll.Again(err) {
			if taken > 0 {
				return taken, nil // the next write finds it too
			}
			return 0, err
		}
		taken += l.wrote(c, n)
		if n < len(l.out) {
			break
		}
	}
	if taken == 0 {
		return 0, syscall.EAGAIN
	}
	return taken, nil
}

// before writes what must go before data: what is kept, and a KeyUpdate that the peer
// has asked for. EAGAIN: the socket does not take it all.
func (l *Loop) before(fd int, c *Conn) (err error) {
	for {
		if len(c.out) > 0 {
			if err := l.flush(fd, c); err != nil {
				return err
			}
		}
		switch {
		case len(c.out) > 0:
			return syscall.EAGAIN
		case !c.session.Owes():
			return nil
		}
		// Only now that nothing else is kept: one at most waits, however often a peer
		// asks that reads nothing.
		if c.out, err = c.session.AppendKeyUpdate(nil, false); err != nil {
			c.out = nil
			return syscall.EPROTO
		}
	}
}

// seal fills out with records of what comes next.
func (l *Loop) seal(c *Conn, from *cursor) {
	l.out, l.ends = l.out[:0], l.ends[:0]
	for from.more() && len(l.out) < batch {
		at := len(l.out)
		l.out = c.session.Begin(l.out)
		body := len(l.out)
		l.out = from.take(l.out, recordPlain)
		plain := len(l.out) - body
		l.out = c.session.Seal(l.out, at, tlsrec.Data)
		l.ends = append(l.ends, record{len(l.out), plain})
	}
}

// wrote notes that the socket took the first n bytes of out, and returns how many
// bytes its records carry. The rest of the last one is kept; those after it have
// not been sent.
func (l *Loop) wrote(c *Conn, n int) (taken int) {
	begin := 0
	for i, r := range l.ends {
		if n <= begin {
			c.session.Unseal(len(l.ends) - i)
			return taken
		}
		taken += r.plain
		if n < r.end {
			l.cfg.Counters.Rests.Add(1)
			c.out = bytes.Clone(l.out[n:r.end])
			c.session.Unseal(len(l.ends) - i - 1)
			return taken
		}
		begin = r.end
	}
	return taken
}

// flush writes what is kept. FIN follows it where that waited.
func (l *Loop) flush(fd int, c *Conn) error {
	n, err := l.Loop.Write(fd, c.out)
	if err != nil && !netpoll.Again(err) {
		return err
	}
	if c.out = c.out[n:]; len(c.out) > 0 {
		return nil
	}
	c.out = nil
	if c.fin {
		c.fin = false
		return l.Loop.CloseWrite(fd)
	}
	return nil
}

// cursor walks the bytes of several slices.
type cursor struct {
	bufs [][]byte
	at   int // in bufs[0]
}

// more reports whether there are bytes left.
func (c *cursor) more() bool {
	for len(c.bufs) > 0 && c.at == len(c.bufs[0]) {
		c.bufs, c.at = c.bufs[1:], 0
	}
	return len(c.bufs) > 0
}

// take appends up to n of them to dst.
func (c *cursor) take(dst []byte, n int) []byte {
	for n > 0 && c.more() {
		k := min(n, len(c.bufs[0])-c.at)
		dst = append(dst, c.bufs[0][c.at:c.at+k]...)
		c.at += k
		n -= k
	}
	return dst
}

// slices appends what take would, not copied, and returns how many bytes it is.
func (c *cursor) slices(dst [][]byte, n int) (into [][]byte, size int) {
	for size < n && len(dst) < netpoll.MaxIovecs && c.more() {
		b := c.bufs[0][c.at:]
		b = b[:min(len(b), n-size)]
		dst = append(dst, b)
		c.at += len(b)
		size += len(b)
	}
	return dst, size
}
