package gateway

import (
	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// tokenUnit is how many parts a command's token has: one tick of a rate of
	// one a second brings one part.
	tokenUnit = 10
	// maxWarnings is how many commands of a client may be refused for their
	// rate, without its bucket ever filling up again, before it is cut.
	maxWarnings = 10
	// maxErrors is how many protocol-level errors a client may make: the third
	// ends the connection.
	maxErrors = 3
	// largeCommand is from how many bytes on a command is parsed in the pool,
	// so that a bulk subscribe doesn't hold up the shard.
	largeCommand = 8 << 10
)

// message acts on one text message. payload is borrowed.
func (s *shard) message(r connRef, c *slot, payload []byte, deflated bool) {
	tokens := 1
	if deflated {
		tokens = min(1+(len(payload)-1)/inflateToken, s.live.RateBurst)
	}
	if !s.takeTokens(c, tokens) {
		if deflated {
			payload = nil // not worth inflating, for an id
		}
		s.overRate(r, c, tokens, payload)
		return
	}
	if deflated {
		s.inflateCommand(r, c, payload)
		return
	}
	if len(payload) >= largeCommand {
		s.parseInPool(r, c, payload, false)
		return
	}
	s.parse(r, c, payload)
}

// parse reads a command and carries it out. payload is borrowed.
func (s *shard) parse(r connRef, c *slot, payload []byte) {
	s.command = wire.Command{}
	if cerr := wire.ParseCommand(payload, &s.command); cerr != nil {
		s.protocolError(r, c, cerr)
		return
	}
	s.dispatch(r, c, &s.command)
}

// dispatch carries a command out, or sends it to the pool.
func (s *shard) dispatch(r connRef, c *slot, cmd *wire.Command) {
	switch cmd.Op {
	case "ping":
		s.wbuf = wire.AppendPong(s.wbuf[:0], cmd.ID)
		s.send(r, c, s.wbuf)
	case "sub":
		if s.stranger(r, c, cmd) {
			return
		}
		if q := s.questions(r, c, cmd); !q.none() {
			s.askInPool(r, c, cmd, q)
			return
		}
		s.sub(r, c, cmd, reach{})
	case "unsub":
		s.unsub(r, c, cmd)
	case "list":
		s.list(r, c, cmd)
	case "replay":
		if !s.stranger(r, c, cmd) {
			s.replayCommand(r, c, cmd)
		}
	case "auth":
		s.authCommand(r, c, cmd)
	}
}

// refuseCommand answers err without counting it as the client's mistake.
func (s *shard) refuseCommand(r connRef, c *slot, id wire.ID, code, message string) {
	s.g.count.CommandErrors.Add(1)
	s.wbuf = wire.AppendErr(s.wbuf[:0], id, code, message, 0)
	s.send(r, c, s.wbuf)
}

// protocolError answers a command that can't be understood; the third closes.
func (s *shard) protocolError(r connRef, c *slot, cerr *wire.CommandError) {
	s.g.count.CommandErrors.Add(1)
	s.wbuf = wire.AppendErr(s.wbuf[:0], cerr.ID, cerr.Code, cerr.Message, 0)
	if !s.send(r, c, s.wbuf) {
		return
	}
	if c.errs++; c.errs >= maxErrors {
		s.fail(r, c, closeAbuse, "too many bad commands")
	}
}

// refill brings a connection's tokens up to now.
func (s *shard) refill(c *slot) {
	full := uint64(s.live.RateBurst) * tokenUnit
	have := uint64(c.tokens) + uint64(s.now-c.refillAt)*uint64(s.live.RatePerSec)
	c.refillAt = s.now
	if have >= full {
		have = full
		c.warnings = 0
	}
	c.tokens = uint32(have)
}

// takeTokens reports whether the rate limit allows one more command that takes n, at
// most RateBurst.
func (s *shard) takeTokens(c *slot, n int) bool {
	s.refill(c)
	if c.tokens < uint32(n)*tokenUnit {
		return false
	}
	c.tokens -= uint32(n) * tokenUnit
	return true
}

// overRate refuses a command that takes n tokens for its rate, and after warnings its
// client.
func (s *shard) overRate(r connRef, c *slot, n int, payload []byte) {
	s.g.count.RateLimited.Add(1)
	if c.warnings++; c.warnings > maxWarnings {
		s.fail(r, c, closeRateLimit, "rate limit")
		return
	}
	var id wire.ID
	if len(payload) < largeCommand {
		var cmd wire.Command
		if cerr := wire.ParseCommand(payload, &cmd); cerr == nil {
			id = cmd.ID
		}
	}
	missing := n*tokenUnit - int(c.tokens)
	ticks := (missing + s.live.RatePerSec - 1) / s.live.RatePerSec
	s.wbuf = wire.AppendErr(s.wbuf[:0], id, "rate_limited", "", max(1, ticks)*int(tick.Milliseconds()))
	s.send(r, c, s.wbuf)
}

// parseInPool parses a large command off the shard, or one of unknown size that came
// compressed.
func (s *shard) parseInPool(r connRef, c *slot, payload []byte, deflated bool) {
	held, err := s.g.pool.Get(len(payload))
	if err != nil {
		s.fail(r, c, closeBusy, "no buffer left")
		return
	}
	copy(held, payload)
	under := s.work(r, c, func() func(*shard, *slot) {
		defer func() {
			s.g.pool.Put(held)
			held = nil
		}()
		text := held
		if deflated {
			inflated, cerr := s.g.inflate(held, true)
			if cerr != nil {
				return func(s *shard, c *slot) { s.badDeflated(r, c, cerr) }
			}
			defer s.g.pool.Put(inflated)
			text = inflated
		}
		cmd := new(wire.Command)
		if cerr := wire.ParseCommand(text, cmd); cerr != nil {
			return func(s *shard, c *slot) { s.protocolError(r, c, cerr) }
		}
		return func(s *shard, c *slot) { s.dispatch(r, c, cmd) }
	}, func() { s.g.pool.Put(held) })
	if !under {
		s.g.pool.Put(held)
		s.poolFull(r, c, wire.ID{})
	}
}

// askInPool asks the broker what this node doesn't know, then carries the
// subscribe out.
func (s *shard) askInPool(r connRef, c *slot, cmd *wire.Command, q questions) {
	own := *cmd // cmd is the shard's scratch
	g := s.g
	if len(q.unknown) == 1 && !q.positions && len(q.heads)+len(q.prefixes) == 0 {
		// Thousands may ask for a new channel at once: one asks the broker.
		name := q.unknown[0]
		waiting, under := s.lookups[name]
		s.lookups[name] = append(waiting, lookup{r, &own})
		c.flags |= flagBusy
		if under {
			return
		}
		answer := func(f func(r connRef, c *slot, cmd *wire.Command)) {
			all := s.lookups[name]
			delete(s.lookups, name) // first: who is answered may ask again
			for _, w := range all {
				s.unbusy(w.connRef, func(c *slot) { f(w.connRef, c, w.cmd) })
			}
		}
		err := g.submit(func() {
			then := func(r connRef, c *slot, _ *wire.Command) { s.fail(r, c, closeInternal, "internal error") }
			defer func() { s.post(func(*shard) { answer(then) }) }() // also after a panic
			known := g.ask(q, &own)
			then = func(r connRef, c *slot, cmd *wire.Command) { s.sub(r, c, cmd, known) }
		})
		if err != nil {
			answer(func(r connRef, c *slot, cmd *wire.Command) { s.poolFull(r, c, cmd.ID) })
		}
		return
	}
	if !s.work(r, c, func() func(*shard, *slot) {
		known := g.ask(q, &own)
		return func(s *shard, c *slot) { s.sub(r, c, &own, known) }
	}, func() {}) {
		s.poolFull(r, c, own.ID)
	}
}

// work runs f in the pool, and what it returns on the shard, if the connection is
// still there. Until then its bytes wait. free gives back what f and its result have
// been lent, however that ends: it is called once, after both. work reports false
// when the pool is full; then neither is called.
func (s *shard) work(r connRef, c *slot, f func() func(*shard, *slot), free func()) bool {
	c.flags |= flagBusy
	err := s.g.submit(func() {
		done := func(s *shard, c *slot) {
			s.fail(r, c, closeInternal, "internal error")
		}
		// A panic in f is logged by the pool; the connection hears of it here.
		defer func() {
			posted := s.post(func(s *shard) {
				freed := false
				s.unbusy(r, func(c *slot) {
					freed = true
					defer free()
					done(s, c)
				})
				if !freed { // nobody was there
					free()
				}
			})
			if !posted {
				free()
			}
		}()
		done = f()
	})
	if err != nil {
		c.flags &^= flagBusy
		return false
	}
	return true
}

// lookup is a subscribe that waits for the broker to say where a channel stands.
type lookup struct {
	connRef
	cmd *wire.Command
}

// unbusy ends a connection's wait with f, and goes on with its bytes.
func (s *shard) unbusy(r connRef, f func(*slot)) {
	c := s.slots.get(r)
	if c == nil {
		return
	}
	c.flags &^= flagBusy
	if c.state != stateOpen {
		return
	}
	func() {
		defer s.survive(r)
		f(c)
	}()
	if c = s.slots.get(r); c != nil && c.state == stateOpen {
		s.resume(r, c)
	}
}

// poolFull answers a command the pool had no place for.
func (s *shard) poolFull(r connRef, c *slot, id wire.ID) {
	s.g.count.PoolOverloads.Add(1)
	s.wbuf = wire.AppendErr(s.wbuf[:0], id, "limit", "the server is busy; repeat the command", retryAfter())
	s.send(r, c, s.wbuf)
}
