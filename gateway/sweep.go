package gateway

import (
	"math"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// slowStrikes is at how many looks in a row a client must be too far
	// behind, and no nearer than at the look before, to be cut; slowEvery is how
	// many ticks lie between two. TCP doubles what is on its way once a round
	// trip, and its send buffer once a tick: a client 80 ms away takes a second to
	// get up to the pace of a burst, and is as healthy as one next door. Behind
	// longer than the log reaches it is told of a gap.
	slowStrikes = 3
	slowEvery   = sweepTicks
)

// Tick implements netpoll.Handler.
func (s *shard) Tick(n int) {
	s.now += uint32(n)
	s.beat.Store(time.Now().UnixNano())
	s.noteLag(n)
	if n > 1 {
		s.g.count.LateTicks.Add(uint64(n - 1))
	}
	s.g.room.Expire(time.Now())
	s.sweepBacklog()
	s.sweepSlow()
	s.sweepLeaving()
	s.sweepRetries()
	s.sweepChecks()
	s.openGates()
	s.forgetPacked()
	s.sweepEchoes()
	size := s.slots.size()
	// A late tick looks at as many slots as the ticks it stands for.
	for range min(uint32(min(n, sweepTicks))*((size+sweepTicks-1)/sweepTicks), size) {
		if s.sweepAt >= size {
			s.sweepAt = 0
		}
		i := s.sweepAt
		s.sweepAt++
		if c := s.slots.at(i); c.state != stateFree {
			s.sweep(connRef{i, c.gen}, c)
		}
	}
	if s.pending() {
		s.loop.Wake()
	}
}

// ticks is a duration in ticks, rounded up.
func ticks(d time.Duration) uint32 { return uint32((d + tick - 1) / tick) }

// sweep looks at one connection's clocks, about once a second.
func (s *shard) sweep(r connRef, c *slot) {
	cfg := &s.g.cfg
	switch c.state {
	case stateHead:
		if s.now-c.opened >= s.patience(cfg.HandshakeTimeout) {
			ref := refuseTimeout
			if c.flags&flagBusy != 0 {
				ref = refuseCheckBusy
			}
			s.refuse(r, c, ref)
		}
		return
	case stateWaiting:
		return // the room's clock is its own
	case stateClosing:
		return // sweepLeaving looks at it
	}
	if s.outlived(r, c) || s.now < s.recheckUntil && s.recheck(r, c) {
		return
	}
	c.control = 0
	s.refill(c)
	if c.flags&flagConflated != 0 {
		s.calmed(r, c)
		if c = s.slots.get(r); c == nil || c.state != stateOpen {
			return
		}
	}
	if c.ext != nil && c.ext.timed && s.now-c.ext.since >= s.patience(cfg.FrameTimeout) {
		s.g.count.FrameTimeouts.Add(1)
		s.fail(r, c, closeAbuse, "a message took too long")
		return
	}
	if s.live.MaxAge > 0 && c.flags&flagDrained == 0 && s.now-c.opened >= s.maxAge(r) {
		s.bye(r, c, retryAfter())
		return
	}
	if cfg.Ping > 0 && c.flags&flagBusy == 0 {
		quiet := s.now - c.readAt
		switch {
		case quiet >= 2*ticks(cfg.Ping) && c.flags&flagPinged != 0:
			// One that is blocked is not pinged, and not judged: whether it
			// takes its bytes is the slow timeout's to say.
			s.fail(r, c, closeNoPong, "no pong")
			return
		case quiet >= ticks(cfg.Ping) && c.flags&flagPinged == 0 && c.flags&flagBlocked == 0:
			c.flags |= flagPinged
			s.wbuf = wire.AppendFrame(s.wbuf[:0], wire.OpPing, nil)
			if !s.send(r, c, s.wbuf) {
				return
			}
		}
	}
	if c.flags&(flagEcho|flagBlocked) == 0 && s.now-c.wroteAt >= ticks(s.live.Heartbeat) {
		s.wbuf = wire.AppendHB(s.wbuf[:0], time.Now().UnixMilli())
		s.send(r, c, s.wbuf)
	}
}

// pressedPatience is how long an unfinished head or message may take, in ticks,
// while more than half of the pooled buffers are lent.
const pressedPatience = 10

// patience is how long something unfinished may take. It is short when the
// buffers run out: who holds them must not keep the others from theirs.
func (s *shard) patience(d time.Duration) uint32 {
	if p := s.g.pool; p.InUse() > p.Budget()/2 {
		return min(pressedPatience, ticks(d))
	}
	return ticks(d)
}

// maxAge spreads --max-age by up to a quarter either way, so that those who
// came together don't leave together.
func (s *shard) maxAge(r connRef) uint32 {
	age := uint64(ticks(s.live.MaxAge))
	h := (uint64(r.index)*0x9e3779b97f4a7c15 ^ uint64(r.gen)*0xbf58476d1ce4e5b9) >> 40
	return uint32(age*3/4 + age/2*(h&0xffff)>>16)
}

// sweepSlow looks at those whose sockets filled: three looks in a row too far
// behind and not catching up, or nothing taken for the slow timeout, and they
// are cut. Progress is judged, not size: who resumes a long way back is behind,
// but not slow.
func (s *shard) sweepSlow() {
	kept := s.lagging[:0]
	for _, l := range s.lagging {
		c := s.slots.get(l.connRef)
		if c == nil {
			continue
		}
		if c.flags&flagBlocked == 0 {
			c.flags &^= flagLagging
			c.strikes = 0
			continue
		}
		if c.state == stateOpen && c.flags&flagHeld == 0 && s.now-c.wroteAt <= sweepTicks {
			s.follow(&l, c)
		}
		if c.sendShift > 0 && c.flags&flagCharged != 0 && (s.now+l.index)%sweepTicks == 0 {
			s.measure(c) // for acknowledges: nobody else asks while the budget is far
		}
		kept = append(kept, l)
		switch {
		case c.state != stateOpen || c.flags&flagHeld != 0:
			// Who is held back is not slow; what it holds is the budget's concern.
			continue
		case s.now-c.wroteAt >= ticks(s.live.SlowTimeout) && !s.acknowledges(c):
			s.cut(l.connRef, c, "takes nothing")
			continue
		case s.now-l.at < slowEvery:
			continue
		}
		lag, was := s.lag(c), l.lag
		kept[len(kept)-1].lag, kept[len(kept)-1].at = lag, s.now
		switch {
		case lag <= uint32(s.live.SendQueue) || lag < was:
			c.strikes = 0
		case s.g.hub.Stale():
			// What grows is what this node is catching up on after an outage, as fast
			// as the broker gives it: nobody is slow for that.
			c.strikes = 0
		default:
			s.g.count.SlowStrikes.Add(1)
			if c.strikes++; c.strikes < slowStrikes {
				continue
			}
			if s.conflate(l.connRef, c) {
				c.strikes = 0
				continue
			}
			s.cut(l.connRef, c, "too many messages behind")
		}
	}
	clear(s.lagging[len(kept):])
	s.lagging = kept
}

// acknowledges reports whether a connection's peer has taken bytes lately: a
// large send buffer is writable again only when a third of it is free, which a
// slow reader's may not be for long.
func (s *shard) acknowledges(c *slot) bool {
	return c.sendShift > 0 && uint32(uint16(s.now)-c.ackedAt) < ticks(s.live.SlowTimeout)
}

// lag is how many messages a connection is behind, all channels together. What
// is conflated is never behind; where the log does not reach, the messages of
// the whole stream are counted.
func (s *shard) lag(c *slot) uint32 {
	sum := uint64(0)
	for _, n := range c.subs {
		sc := s.chans[n.chanID]
		m := sc.At(n.member())
		switch {
		case n.past():
			sum += uint64(s.distance(m.Seq))
		case !sc.latest:
			sum += uint64(m.Lag(sc.head()))
		}
	}
	return uint32(min(sum, math.MaxUint32))
}

// bye tells a connection to come back later, or elsewhere.
func (s *shard) bye(r connRef, c *slot, retryMs int) {
	c.flags |= flagDrained
	s.g.count.Drained.Add(1)
	s.gaps = wire.AppendBye(s.gaps[:0], closeRestart, retryMs)
	if !s.send(r, c, s.gaps) {
		return
	}
	if c.state == stateOpen {
		s.fail(r, c, closeRestart, "going away")
	}
}
