package sysfeed

import (
	"errors"
	"os"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

// serve greets and reads until the connection ends; first is what came behind the
// request. It returns when both of its goroutines are done with the connection.
func (c *conn) serve(first []byte) {
	cfg := &c.f.cfg
	go c.write()
	c.send(wire.AppendHello(nil, &wire.Hello{
		Conn: c.id, Node: cfg.Node, PingMs: int(cfg.Ping.Milliseconds()),
		Replay: 1, MaxCh: 1, Burst: c.commands.Burst(), PerSec: int(c.commands.Limit()),
	}))
	if c.read(first) {
		c.end()
		<-c.wrote // what was queued before the peer's goodbye, and the answer to it
	}
	c.parser.Release(cfg.Pool)
	c.end()
	c.nc.Close()
	<-c.wrote
}

// read returns when nothing more is to be read; orderly says that the peer has said
// goodbye.
func (c *conn) read(first []byte) (orderly bool) {
	if c.feed(first) {
		return true
	}
	opened := time.Now()
	var buf [4096]byte
	for {
		leaving := c.wait(c.due(opened))
		n, err := c.nc.Read(buf[:])
		if n > 0 {
			c.heard, c.pinged = time.Now(), false
			if c.feed(buf[:n]) {
				return true
			}
		}
		switch {
		case err == nil && (n == 0 || !c.begun.IsZero()):
			c.clocks(opened) // who sends a byte at a time has a deadline too
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && !leaving:
			c.clocks(opened)
		default:
			return false
		}
	}
}

// due is when the clocks are to be looked at next.
func (c *conn) due(opened time.Time) time.Time {
	cfg := &c.f.cfg
	at := time.Now().Add(time.Minute)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if cfg.Ping > 0 && c.pinged {
		sooner(c.heard.Add(2 * cfg.Ping))
	} else if cfg.Ping > 0 {
		sooner(c.heard.Add(cfg.Ping))
	}
	if !c.begun.IsZero() && cfg.FrameTimeout > 0 {
		sooner(c.begun.Add(cfg.FrameTimeout))
	}
	if !c.f.allowed(c.key) {
		sooner(opened.Add(keyTime))
	}
	return at
}

// clocks acts on what has taken too long.
func (c *conn) clocks(opened time.Time) {
	cfg, now := &c.f.cfg, time.Now()
	switch {
	case !c.begun.IsZero() && cfg.FrameTimeout > 0 && now.Sub(c.begun) >= cfg.FrameTimeout:
		c.fail(closeAbuse, "a message took too long")
	case now.Sub(opened) >= keyTime && !c.f.allowed(c.key):
		c.fail(closeToken, "an API key is needed")
	case cfg.Ping <= 0:
	case c.pinged && now.Sub(c.heard) >= 2*cfg.Ping:
		c.fail(closeNoPong, "no pong")
	case !c.pinged && now.Sub(c.heard) >= cfg.Ping:
		c.pinged = true
		c.send(wire.AppendFrame(nil, wire.OpPing, nil))
	}
}

// feed parses what was read; it reports whether the peer has said goodbye. What comes
// behind a frame that breaks the rules is read and thrown away: closed with bytes
// unread, the kernel would reset, and the reason might not arrive.
func (c *conn) feed(in []byte) (goodbye bool) {
	for len(in) > 0 && !c.broken {
		ev, n, cerr := c.parser.Next(in, &limits, c.f.cfg.Pool)
		in = in[n:]
		if cerr != nil {
			c.parser.Release(c.f.cfg.Pool)
			c.fail(cerr.Code, cerr.Reason)
			c.broken = true
		}
		switch ev.Kind {
		case wire.None:
		case wire.Close:
			code := ev.Code
			if code == 1005 {
				code = closeNormal
			}
			c.fail(code, "")
			return true
		case wire.Message:
			c.take(ev.Payload)
		case wire.Ping, wire.Pong:
			if !c.control.Allow() {
				c.fail(closeAbuse, "too many control frames")
			} else if ev.Kind == wire.Ping {
				c.send(wire.AppendFrame(nil, wire.OpPong, ev.Payload))
			}
		}
	}
	switch {
	case c.broken || !c.parser.Mid():
		c.parser.Release(c.f.cfg.Pool)
		c.begun = time.Time{}
	case c.begun.IsZero():
		c.begun = time.Now()
	}
	return false
}

// take acts on one command.
func (c *conn) take(payload []byte) {
	cerr := wire.ParseCommand(payload, &c.command)
	if r := c.commands.Reserve(); !r.OK() || r.Delay() > 0 {
		id, wait := c.command.ID, r.Delay()
		if cerr != nil {
			id = cerr.ID
		}
		r.Cancel()
		if c.warnings++; c.warnings > maxWarnings {
			c.fail(closeRateLimit, "too many commands")
			return
		}
		c.send(wire.AppendErr(nil, id, "rate_limited", "", max(1, int(wait.Milliseconds()))))
		return
	}
	if c.commands.Tokens() >= float64(c.commands.Burst())-1 {
		c.warnings = 0 // the bucket was full
	}
	if cerr != nil {
		c.send(wire.AppendErr(nil, cerr.ID, cerr.Code, cerr.Message, 0))
		if c.errs++; c.errs >= maxErrors {
			c.fail(closeAbuse, "too many bad commands")
		}
		return
	}
	c.f.dispatch(c, &c.command)
}
