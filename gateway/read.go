package gateway

import (
	"net/netip"

	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/netpoll"
)

// Close codes, RFC 6455 section 7.4 and docs/protocol.md.
const (
	closeNormal    = 1000
	closeAbuse     = 1008
	closeRestart   = 1012
	closeBusy      = 1013
	closeToken     = 4001
	closeSlow      = 4101
	closeRateLimit = 4102
	closeNoPong    = 4201
	// closeGone is counted, not sent: the peer left without a close frame.
	closeGone = 1006
)

// maxControlPerSec is how many pings and pongs a client may send in a second.
const maxControlPerSec = 200

// readable reads a connection, as far as its turn goes.
func (s *shard) readable(r connRef, c *slot) {
	switch c.state {
	case stateHead:
		s.readHead(r, c)
		return
	case stateWaiting:
		s.readWaiting(r, c)
		return
	case stateClosing:
		s.discard(r, c)
		return
	}
	for range readRounds {
		if c.paused() {
			return // resume comes back for it
		}
		if c.flags&flagReadable == 0 {
			return
		}
		n, err := s.loop.Read(int(c.fd), s.rbuf)
		switch {
		case err != nil && netpoll.Again(err):
			c.flags &^= flagReadable
			return
		case err != nil:
			s.gone(r, c)
			return
		case n == 0:
			s.gone(r, c)
			return
		}
		c.readAt = s.now
		c.flags &^= flagPinged
		s.g.count.BytesIn.Add(uint64(n))
		// A read that did not fill the buffer emptied the socket: more bytes
		// raise a new edge (epoll(7)). Not so the peer's end.
		if n < len(s.rbuf) && c.flags&flagHangup == 0 {
			c.flags &^= flagReadable
		}
		s.feed(r, c, s.rbuf[:n])
		if c = s.slots.get(r); c == nil || c.state != stateOpen {
			return
		}
	}
	s.again(r, c)
}

// paused reports whether the connection's bytes must wait: a command is under
// way, or its answers have not been taken yet.
func (c *slot) paused() bool {
	return c.flags&flagBusy != 0 || c.ext != nil && c.ext.out != nil
}

// feed parses bytes of an open connection and acts on them, in order. data is
// modified, and not kept.
func (s *shard) feed(r connRef, c *slot, data []byte) {
	p := &s.parser
	if c.ext != nil && c.ext.parser.Mid() {
		p = &c.ext.parser
	}
	lim := s.limits
	if c.flags&flagEcho != 0 {
		lim = s.echoLimits
	}
	lim.Deflate = c.flags&flagDeflate != 0
	for len(data) > 0 {
		if c.paused() {
			s.stash(r, c, p, data)
			return
		}
		ev, n, cerr := p.Next(data, &lim, s.g.pool)
		data = data[n:]
		if cerr != nil {
			p.Release(s.g.pool)
			s.fail(r, c, cerr.Code, cerr.Reason)
			return
		}
		if ev.Kind == wire.None {
			break
		}
		s.event(r, c, ev)
		if c = s.slots.get(r); c == nil || c.state != stateOpen {
			if p == &s.parser {
				p.Release(s.g.pool)
			}
			return // what comes after a close is ignored
		}
		if c.ext != nil && !p.Mid() {
			c.ext.since = s.now // the next message has its own time
		}
	}
	s.keep(c, p)
}

// keep puts the parser away: into the ext while a message is unfinished.
func (s *shard) keep(c *slot, p *wire.Parser) {
	if !p.Mid() {
		p.Release(s.g.pool)
		if c.ext != nil {
			c.ext.timed = false
			s.settle(c)
		}
		return
	}
	e := s.extOf(c)
	if p != &e.parser {
		e.parser, *p = *p, wire.Parser{}
	}
	// A conformance suite's messages take as long as its client does to make them:
	// on /echo silence counts, not length.
	if !e.timed || c.flags&flagEcho != 0 {
		e.timed, e.since = true, s.now
	}
}

// stash keeps bytes that may not be parsed yet. Between messages the parser has
// nothing to keep; in one, its state goes to the ext as always.
func (s *shard) stash(r connRef, c *slot, p *wire.Parser, data []byte) {
	in, err := s.g.pool.Get(len(data))
	if err != nil {
		p.Release(s.g.pool)
		s.fail(r, c, closeBusy, "no buffer left")
		return
	}
	copy(in, data)
	e := s.extOf(c)
	e.in = in
	s.keep(c, p)
}

// resume goes on with a connection that was paused, if it no longer is.
func (s *shard) resume(r connRef, c *slot) {
	for c.state == stateOpen && !c.paused() && c.ext != nil && c.ext.in != nil {
		in := c.ext.in
		c.ext.in = nil
		s.feed(r, c, in)
		s.g.pool.Put(in)
		if c = s.slots.get(r); c == nil {
			return
		}
	}
	s.settle(c)
	if c.flags&flagReadable != 0 && !c.paused() {
		s.again(r, c)
	}
}

// event acts on one message or control frame.
func (s *shard) event(r connRef, c *slot, ev wire.Event) {
	defer s.survive(r)
	switch ev.Kind {
	case wire.Message:
		s.g.count.CommandsIn.Add(1)
		if c.flags&flagEcho != 0 {
			s.echo(r, c, ev)
			return
		}
		s.message(r, c, ev.Payload, ev.Deflated)
	case wire.Ping:
		if !s.controlFrame(r, c) {
			return
		}
		s.wbuf = wire.AppendFrame(s.wbuf[:0], wire.OpPong, ev.Payload)
		s.send(r, c, s.wbuf)
	case wire.Pong:
		s.controlFrame(r, c)
	case wire.Close:
		code := ev.Code
		if code == 1005 {
			s.wbuf = wire.AppendFrame(s.wbuf[:0], wire.OpClose, nil)
			code = closeNormal
		} else {
			s.wbuf = wire.AppendClose(s.wbuf[:0], code, "")
		}
		s.g.count.closed(code)
		s.goodbye(r, c, s.wbuf, code)
	}
}

// controlFrame counts a ping or pong; it reports false when the connection was
// closed for too many.
func (s *shard) controlFrame(r connRef, c *slot) bool {
	c.control++
	if c.flags&flagEcho == 0 && c.control > maxControlPerSec {
		s.fail(r, c, closeAbuse, "too many control frames")
		return false
	}
	return true
}

// echo sends a message back as one frame.
func (s *shard) echo(r connRef, c *slot, ev wire.Event) {
	if c.flags&flagDeflate != 0 && (ev.Deflated || len(ev.Payload) >= wire.MinDeflated) {
		s.echoDeflated(r, c, ev)
		return
	}
	s.echoPlain(r, c, ev)
}

func (s *shard) echoPlain(r connRef, c *slot, ev wire.Event) {
	s.wbuf = wire.AppendHeader(s.wbuf[:0], ev.Op, len(ev.Payload))
	s.sendv(r, c, s.wbuf, ev.Payload)
}

// gone ends a connection whose peer has closed or reset.
func (s *shard) gone(r connRef, c *slot) {
	s.g.count.closed(closeGone)
	s.closeFreed(r, c)
}

// fail closes a connection with a close frame that says why.
func (s *shard) fail(r connRef, c *slot, code uint16, reason string) {
	s.g.count.closed(code)
	if code != closeRestart { // a drain's and --max-age's goodbyes would push the others out
		s.g.recent.note(code, reason, func() netip.Addr { return s.addr(r, c) })
	}
	s.wbuf = wire.AppendClose(s.wbuf[:0], code, reason)
	s.goodbye(r, c, s.wbuf, code)
}
