package secure

import (
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/odin-ws/odin/internal/tlsrec"
	"github.com/odin-ws/odin/netpoll"
)

// Read implements netpoll.Loop. p must have room for a record, tlsrec.MaxRecord.
func (l *Loop) Read(fd int, p []byte) (int, error) {
	c := l.conns[fd]
	if c == nil {
		return l.Loop.Read(fd, p)
	}
	if c.err != nil {
		return l.ended(c)
	}
	read := l.readRecords
	if c.session == nil {
		read = l.readKernel
	}
	n, err := read(fd, c, p)
	if err != nil {
		c.err = err
		if n == 0 {
			return l.ended(c)
		}
		l.readLater(fd, c)
	} else if n == 0 {
		return 0, syscall.EAGAIN
	}
	return n, nil
}

// ended is what reading gives after the end.
func (l *Loop) ended(c *Conn) (int, error) {
	if errors.Is(c.err, errEnd) {
		return 0, nil
	}
	return 0, c.err
}

// readRecords reads and opens records until there are some bytes in p, or nothing
// is left to read: then n is 0. The records are read into p, where they are opened:
// what comes out is shorter, and moves to the front.
func (l *Loop) readRecords(fd int, c *Conn, p []byte) (n int, err error) {
	for n == 0 && err == nil {
		have := copy(p, c.in)
		got, rerr := l.Loop.Read(fd, p[have:])
		switch {
		case netpoll.Again(rerr):
			return 0, nil
		case rerr != nil:
			return 0, rerr
		case got == 0:
			return 0, errEnd
		}
		var rest []byte
		n, rest, err = l.open(fd, c, p[:have+got])
		if err == nil {
			err = l.keep(fd, c, rest, len(rest) < have+got)
		}
		if err == nil && n > 0 && have+got == len(p) {
			l.readLater(fd, c) // there may be more, and n doesn't show it
		}
	}
	return n, err
}

// open opens the whole records of data, and puts what they carried at its front.
func (l *Loop) open(fd int, c *Conn, data []byte) (n int, rest []byte, err error) {
	rest = data
	for {
		size, err := c.session.Length(rest)
		if err == nil && (size == 0 || size > len(rest)) {
			return n, rest, nil
		}
		var kind tlsrec.Kind
		var b []byte
		if err == nil {
			kind, b, err = c.session.Open(rest[:size])
		}
		if err == nil && kind == tlsrec.Data && len(b) > 0 {
			n += copy(data[n:], b)
			rest = rest[size:]
			continue
		}
		if err == nil {
			rest = rest[size:]
			err = c.session.Control(kind, b)
		}
		if err == nil && kind == tlsrec.Handshake {
			err = c.renewed(l.now, uint32(max(1, time.Second/l.cfg.Tick)))
		}
		if err != nil {
			return n, nil, l.fail(fd, c, err)
		}
	}
}

// keep keeps the beginning of a record; anew says that one before it has been opened.
func (l *Loop) keep(fd int, c *Conn, rest []byte, anew bool) error {
	if len(rest) == 0 {
		l.cfg.Pool.Put(c.in)
		c.in = nil
		return nil
	}
	if anew || len(c.in) == 0 {
		c.since = l.now
	}
	in, err := l.cfg.Pool.Grow(c.in, len(rest))
	if err != nil {
		l.cfg.Counters.NoBuffer.Add(1)
		return syscall.ENOBUFS
	}
	copy(in, rest)
	c.in = in
	if !c.listed {
		c.listed = true
		l.partial = append(l.partial, c.ours(fd))
	}
	return nil
}

// fail turns what the records say into what Read ends with, and tells the peer.
func (l *Loop) fail(fd int, c *Conn, err error) error {
	var alert tlsrec.Alert
	switch {
	case errors.Is(err, io.EOF):
		return errEnd
	case errors.Is(err, tlsrec.ErrPeerAlert):
		l.cfg.Counters.PeerAlerts.Add(1)
		return syscall.EPROTO
	case errors.Is(err, tlsrec.ErrKeyUpdate):
		l.cfg.Counters.KeyUpdates.Add(1)
		return syscall.EPROTO
	case errors.Is(err, errKeyFlood):
		l.cfg.Counters.KeyFloods.Add(1)
		l.tell(fd, c, tlsrec.UnexpectedMessage)
		return syscall.EPROTO
	case errors.As(err, &alert):
		l.cfg.Counters.BadRecords.Add(1)
		l.tell(fd, c, alert)
		return syscall.EPROTO
	}
	return err
}

// tell sends the alert that ends a connection.
func (l *Loop) tell(fd int, c *Conn, alert tlsrec.Alert) {
	if c.session == nil {
		_ = l.alert(fd, alert)
	} else {
		c.out = c.session.AppendAlert(c.out, alert)
		_ = l.flush(fd, c)
	}
	c.told = true
}

// readKernel reads until the kernel has no more: its reads end where a kind of
// record does, so a short one says nothing of the socket.
func (l *Loop) readKernel(fd int, c *Conn, p []byte) (n int, err error) {
	control := 0
	for n < len(p) {
		got, err := l.Loop.Read(fd, p[n:])
		switch {
		case err == nil && got > 0:
			n += got
			continue
		case err == nil:
			return n, errEnd
		case netpoll.Again(err):
			return n, nil
		case errors.Is(err, syscall.EIO):
			if err = l.receive(fd, c.v12); err == nil && control < maxControl {
				control++
				continue
			}
			if err == nil || netpoll.Again(err) { // too many, or none where there must be one
				err = tlsrec.UnexpectedMessage
			}
		case errors.Is(err, syscall.EBADMSG), errors.Is(err, syscall.EMSGSIZE), errors.Is(err, syscall.EINVAL):
			// The kernel has found a record that doesn't open, is too long, or is none.
			l.cfg.Counters.BadRecords.Add(1)
			return n, syscall.EPROTO
		}
		return n, l.fail(fd, c, err)
	}
	l.readLater(fd, c)
	return n, nil
}
