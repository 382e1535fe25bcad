package gateway

import (
	"github.com/odin-ws/odin/netpoll"
)

const (
	// maxOut bounds the control frames that wait for one connection, bytes: an
	// answer to a full bulk subscribe and a few more. Reading stops while any
	// wait, so only the largest single answer comes near it.
	maxOut = 512 << 10
	// closeWait is how long a connection that was told goodbye may take to
	// close, so that the goodbye isn't overtaken by a reset.
	closeWait = 10 // ticks
)

// The order of a socket's bytes: the rest of a half-written log frame, then
// control frames, then the logs. Nothing may enter between the two halves of a
// frame, and answers don't wait behind a backlog.

// send writes a control frame, or keeps what the socket doesn't take. It
// reports false when the connection is gone.
func (s *shard) send(r connRef, c *slot, frame []byte) bool {
	return s.sendv(r, c, frame, nil)
}

// sendv is send for a frame in two parts.
func (s *shard) sendv(r connRef, c *slot, a, b []byte) bool {
	written := 0
	if c.flags&flagBlocked == 0 && !c.owes() && s.afford(r, c, len(a)+len(b)) {
		var err error
		if len(b) == 0 {
			written, err = s.loop.Write(int(c.fd), a)
		} else {
			s.iov = append(s.iov[:0], a, b)
			written, err = s.loop.Writev(int(c.fd), s.iov)
			clear(s.iov)
		}
		if err != nil && !netpoll.Again(err) {
			s.gone(r, c)
			return false
		}
		if written > 0 {
			s.took(c, written)
		}
		if written == len(a)+len(b) {
			return true
		}
		s.block(r, c)
	}
	if written < len(a) {
		a = a[written:]
	} else {
		b = b[written-len(a):]
		a = nil
	}
	return s.queueOut(r, c, a, b)
}

// owes reports whether bytes are kept that go before any other.
func (c *slot) owes() bool {
	return c.ext != nil && (c.ext.out != nil || len(c.ext.pin.Rest()) > 0)
}

// queueOut keeps control bytes until the socket takes them.
func (s *shard) queueOut(r connRef, c *slot, a, b []byte) bool {
	e := s.extOf(c)
	was := len(e.out)
	if was+len(a)+len(b)-e.outAt > max(maxOut, s.live.MaxMessage+16) {
		s.cut(r, c, "control frames pile up")
		return false
	}
	out, err := s.g.pool.Grow(e.out, was+len(a)+len(b))
	if err != nil {
		s.cut(r, c, "no buffer left for its answers")
		return false
	}
	copy(out[was:], a)
	copy(out[was+len(a):], b)
	e.out = out
	return true
}

// took notes that the socket took bytes.
func (s *shard) took(c *slot, n int) {
	c.wroteAt = s.now
	s.g.count.BytesOut.Add(uint64(n))
	// One large write may go past SO_SNDBUF by what the peer's window takes at once:
	// then the socket holds more than it was charged for.
	if n > s.g.cfg.SndBuf<<c.sendShift && c.flags&flagCharged != 0 {
		s.measure(c)
	}
}

// block notes that the socket is full: its writable edge is armed.
func (s *shard) block(r connRef, c *slot) {
	if c.flags&flagBlocked == 0 {
		c.flags |= flagBlocked
		if c.flags&flagLagging == 0 {
			c.flags |= flagLagging
			c.strikes = 0
			// The clock of the slow timeout starts when the socket fills.
			c.wroteAt = s.now
			s.lagging = append(s.lagging, lagged{connRef: r, at: s.now})
		}
	}
}

// writable goes on writing to a connection whose socket has room again.
func (s *shard) writable(r connRef, c *slot) {
	c.flags &^= flagBlocked
	if !s.settleDebts(r, c) {
		return
	}
	if c.state == stateClosing {
		s.said(c)
		s.discard(r, c)
		return
	}
	s.resume(r, c)
	if c = s.slots.get(r); c == nil || c.state != stateOpen || c.flags&flagBlocked != 0 {
		return
	}
	s.goOn(r, c)
}

// settleDebts writes the pinned rest, then the control frames. It reports false
// when the socket filled again or the connection is gone.
func (s *shard) settleDebts(r connRef, c *slot) bool {
	e := c.ext
	if e == nil {
		return true
	}
	for len(e.pin.Rest()) > 0 {
		if !s.push(r, c, e.pin.Rest(), func(n int) { e.pin.Advance(n) }) {
			return false
		}
	}
	for e.out != nil {
		if !s.push(r, c, e.out[e.outAt:], func(n int) {
			if e.outAt += n; e.outAt == len(e.out) {
				s.g.pool.Put(e.out)
				e.out, e.outAt = nil, 0
			}
		}) {
			return false
		}
	}
	s.settle(c)
	return true
}

// push writes b and reports whether all of it was taken.
func (s *shard) push(r connRef, c *slot, b []byte, took func(int)) bool {
	if !s.afford(r, c, len(b)) {
		return false
	}
	n, err := s.loop.Write(int(c.fd), b)
	if err != nil && !netpoll.Again(err) {
		if c.state == stateOpen {
			s.gone(r, c)
		} else {
			s.close(r, c, true)
		}
		return false
	}
	if n > 0 {
		s.took(c, n)
		took(n)
	}
	if n < len(b) {
		s.block(r, c)
		return false
	}
	return true
}

// goodbye writes the last bytes of a connection, an HTTP answer or a close
// frame, and lets the peer close first: a close with unread bytes in the socket
// would send a reset that overtakes them. A socket that is full has closeWait to
// take what is owed and then the last bytes, unless its being full is the
// reason: then, and when it doesn't, the connection is reset.
func (s *shard) goodbye(r connRef, c *slot, last []byte, code uint16) {
	rest := last
	// A slow client's socket was full when last tried; it may take this much.
	if (c.flags&flagBlocked == 0 || code == closeSlow) && !c.owes() {
		n, err := s.loop.Write(int(c.fd), last)
		if err != nil && !netpoll.Again(err) {
			s.unsaid(r, c)
			return
		}
		s.g.count.BytesOut.Add(uint64(n))
		rest = last[n:]
	}
	e := s.extOf(c)
	if len(rest) > 0 {
		out, err := e.out, error(nil)
		if code != closeSlow {
			out, err = s.g.pool.Grow(e.out, len(e.out)+len(rest))
		}
		if code == closeSlow || err != nil {
			s.unsaid(r, c)
			return
		}
		copy(out[len(e.out):], rest)
		e.out = out
		s.block(r, c)
	}
	s.leaveHeads(c)
	if c.flags&flagAdmitted == 0 {
		s.makeRoomRefused()
		s.refused.push(r)
		s.refusedNow++
	}
	// What a live connection holds is given back now, but for what is owed; the
	// socket stays.
	s.leaveAll(r, c)
	s.unlink(c)
	e.parser.Release(s.g.pool)
	s.g.pool.Put(e.in)
	e.in, e.replay = nil, nil
	c.state = stateClosing
	e.why, e.timed, e.since = code, true, s.now
	s.leaving = append(s.leaving, r)
	if len(rest) == 0 {
		s.said(c)
	}
	c.flags |= flagReadable
	s.again(r, c)
	s.loop.Wake()
}

// makeRoomRefused resets the oldest of those that were refused and linger, when
// there are as many as there may be handshakes: the gate doesn't bound them.
func (s *shard) makeRoomRefused() {
	for {
		r, ok := s.refused.peek()
		if !ok {
			return
		}
		c := s.slots.get(r)
		if c != nil && c.state == stateClosing && s.refusedNow < s.g.maxHeads {
			return
		}
		s.refused.pop()
		if c != nil && c.state == stateClosing {
			s.g.count.GoodbyesUnanswered.Add(1)
			s.close(r, c, true)
		}
	}
}

// unsaid resets a connection that was not told why.
func (s *shard) unsaid(r connRef, c *slot) {
	s.g.count.GoodbyesUnsaid.Add(1)
	s.close(r, c, true)
}

// said ends our side of a connection whose socket has taken the last bytes: the
// peer has closeWait to end its own.
func (s *shard) said(c *slot) {
	c.ext.since = s.now
	s.loop.CloseWrite(int(c.fd))
}

// sweepLeaving resets those told goodbye whose time is up.
func (s *shard) sweepLeaving() {
	kept := s.leaving[:0]
	for _, r := range s.leaving {
		c := s.slots.get(r)
		switch {
		case c == nil:
		case s.now-c.ext.since < closeWait:
			kept = append(kept, r)
		case c.owes():
			s.unsaid(r, c)
		default:
			s.g.count.GoodbyesUnanswered.Add(1)
			s.close(r, c, true)
		}
	}
	s.leaving = kept
}

// discard reads what a connection sends after its goodbye, until it closes.
func (s *shard) discard(r connRef, c *slot) {
	for range readRounds {
		n, err := s.loop.Read(int(c.fd), s.rbuf)
		switch {
		case err != nil && netpoll.Again(err):
			c.flags &^= flagReadable
			return
		case err == nil && n == 0 && c.owes():
			c.flags &^= flagReadable // it may still read what it is owed
			return
		case err != nil || n == 0:
			s.closeFreed(r, c)
			return
		case n < len(s.rbuf) && c.flags&flagHangup == 0:
			c.flags &^= flagReadable
			return
		}
	}
	s.again(r, c)
}

// cut ends a connection that takes too little, with 4101 if the socket takes
// that much, else a reset. Counted alike.
func (s *shard) cut(r connRef, c *slot, why string) {
	s.g.count.SlowCut.Add(1)
	s.g.sampled("slow", "slow client cut", "conn", s.connID(r), "why", why)
	s.fail(r, c, closeSlow, why)
}
