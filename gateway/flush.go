package gateway

import (
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/netpoll"
)

// connRounds is how many gathered writes one connection gets in a turn before
// the others have theirs.
const connRounds = 4

// segment is one span of a gathered write and whose position it moves.
type segment struct {
	sc    *shardChan
	index uint32 // of the member
	span  channel.Span
	// Of a conflated message: from and to are where in shard.envs what goes before
	// the span's bytes is, skip how many messages it passes over.
	from, to int
	skip     uint64
	past     bool // the span is a Block's: it moves the sequence only
	replay   bool // the span is the log's, and no news to this member
	own      bool // the span's bytes are no chunk's: a conflated message, compressed
	gap      bool // and begins with a gap of what retention has dropped
}

// size is what it writes, bytes.
func (g *segment) size() int { return g.to - g.from + len(g.span.Bytes) }

// A flush goes in rounds. A round collects, from every channel with something
// new, the connections that are behind on it, each once with a list of its
// channels; then it writes them, flushTurn to a turn, all channels of a
// connection in one writev. What is published meanwhile marks its channel again
// and joins the next round, or this one where the connection is still to come.

// enqueue notes that a channel has something new, as it is or compressed.
func (s *shard) enqueue(ch *channel.Channel, deflated bool) {
	// None: its last member here left after the mark.
	for sc := s.chanOf[ch]; sc != nil; sc = sc.next {
		if sc.deflated == deflated && !s.gate(sc) {
			s.enqueueOne(sc)
		}
	}
}

func (s *shard) enqueueOne(sc *shardChan) {
	if sc.queued {
		sc.again = true
		return
	}
	sc.queued = true
	sc.Restart()
	s.queue = append(s.queue, sc)
}

// flush writes for one turn.
func (s *shard) flush() {
	defer s.delivery.settle()
	s.turn++
	s.packs = packTurn
	budget := s.flushTurn
	for budget > 0 {
		if s.nextConn == len(s.touched) {
			s.touched, s.nextConn = s.touched[:0], 0
			if len(s.queue) == 0 {
				return
			}
			s.collect()
			continue
		}
		r := s.touched[s.nextConn]
		s.nextConn++
		if c := s.slots.get(r); c != nil && c.pend != noNode {
			s.flushConn(r, c)
			budget--
		}
	}
}

// collect links the members that are behind to their connections, for as many
// channels as there are nodes.
func (s *shard) collect() {
	s.nodes = s.nodes[:0]
	done := 0
	for _, sc := range s.queue {
		next := sc.head()
		for len(s.nodes) < s.flushNodes {
			_, m := sc.Walk()
			if m == nil {
				if !sc.again {
					break
				}
				sc.again = false
				sc.Restart()
				next = sc.head()
				continue
			}
			if !m.Behind(next) {
				continue
			}
			c := s.slots.at(m.Conn)
			if c.flags&flagBlocked != 0 || c.state != stateOpen {
				continue // its writable edge comes back for it
			}
			s.link(connRef{m.Conn, c.gen}, c, sc.id)
		}
		if len(s.nodes) >= s.flushNodes {
			break // this channel goes on in the next round
		}
		sc.queued = false
		done++
	}
	n := copy(s.queue, s.queue[done:])
	clear(s.queue[n:])
	s.queue = s.queue[:n]
}

// link notes that a connection has something pending on a channel.
func (s *shard) link(r connRef, c *slot, chanID uint32) {
	if c.pend == noNode {
		s.touched = append(s.touched, r)
	}
	s.nodes = append(s.nodes, node{chanID: chanID, next: c.pend})
	c.pend = int32(len(s.nodes) - 1)
}

// unlink forgets what is pending for a connection.
func (s *shard) unlink(c *slot) { c.pend = noNode }

// flushConn writes what is pending for a connection, from the logs.
func (s *shard) flushConn(r connRef, c *slot) {
	first := c.pend
	c.pend = noNode
	if c.state != stateOpen || c.flags&flagBlocked != 0 {
		return
	}
	if c.owes() && !s.settleDebts(r, c) {
		return
	}
	for range connRounds {
		more := s.gather(r, c, first)
		if c.state != stateOpen || len(s.segs) == 0 {
			return
		}
		if !s.writeSegs(r, c) || !more {
			return
		}
	}
	// It takes all it is given, and there is more: the others first.
	c.pend = first
	s.touched = append(s.touched, r)
}

// flushBehind writes everything a connection is behind on, whatever was linked.
func (s *shard) flushBehind(r connRef, c *slot) {
	if c.state != stateOpen || c.flags&flagBlocked != 0 {
		return
	}
	mark := len(s.nodes)
	c.pend = noNode // it may have been linked before; once is enough
	for _, sub := range c.subs {
		sc := s.chans[sub.chanID]
		if !sc.waiting && sc.At(sub.member()).Behind(sc.head()) || sub.past() {
			s.nodes = append(s.nodes, node{chanID: sub.chanID, next: c.pend})
			c.pend = int32(len(s.nodes) - 1)
		}
	}
	if c.pend == noNode {
		return
	}
	s.flushConn(r, c)
	s.delivery.settle()
	if c.pend == noNode || c.state == stateFree {
		s.nodes = s.nodes[:mark]
	}
}

// gather collects the spans pending for a connection. It reports whether there
// is more behind them.
func (s *shard) gather(r connRef, c *slot, first int32) (more bool) {
	s.segs, s.envs = s.segs[:0], s.envs[:0]
	s.gathers++
	parts := 0
	for n := first; n != noNode; n = s.nodes[n].next {
		i, ok := c.findSub(s.nodes[n].chanID)
		if !ok {
			continue // unsubscribed since it was linked
		}
		if parts+2 > netpoll.MaxIovecs { // a conflated message has two
			return true
		}
		sc := s.chans[c.subs[i].chanID]
		if sc.gathered == s.gathers {
			continue // linked twice: its number was another channel's before
		}
		sc.gathered = s.gathers
		seg, ok := s.pick(r, c, sc, i)
		if c.state != stateOpen {
			return false
		}
		if ok && len(seg.span.Bytes) > 0 {
			s.segs = append(s.segs, seg)
			parts += 2
			more = more || seg.span.More || seg.past
		}
	}
	return more
}

// pick is what a connection is to be given next of one channel, at its place in
// c.subs: of the channel's past, of its log, or of the past again when its
// position has been trimmed away. ok is false when there is nothing for now, or
// the connection is gone.
func (s *shard) pick(r connRef, c *slot, sc *shardChan, at int) (seg segment, ok bool) {
	index := c.subs[at].member()
	for range 2 {
		if c.subs[at].past() {
			span, ready, live := s.past(r, c, sc, at)
			if !live {
				return segment{sc: sc, index: index, span: span, past: true, gap: span.Gap}, ready
			}
		}
		if seg, ok = s.next(sc, index); ok {
			if seg.replay = c.subs[at].replay(); seg.replay && len(seg.span.Bytes) == 0 {
				c.subs[at].index &^= replaySub
			}
			return seg, true
		}
		if !s.fallOff(r, c, sc, at) {
			return seg, false
		}
	}
	return seg, false // trimmed again this moment; marked again too
}

// next is what a member is to be given next, of its channel's log.
func (s *shard) next(sc *shardChan, index uint32) (seg segment, ok bool) {
	if sc.latest {
		return s.gatherLatest(sc, index)
	}
	span, ok := s.read(sc, index)
	return segment{sc: sc, index: index, span: span}, ok
}

// read is Log.Read from a member's position. Members of one channel mostly
// stand at the same place: the last span read is kept for the turn.
func (s *shard) read(sc *shardChan, index uint32) (channel.Span, bool) {
	m := sc.At(index)
	if sc.turn == s.turn && len(sc.span.Bytes) > 0 && m.Ord(sc.span.First) == sc.span.First {
		return sc.span, true
	}
	next, _ := sc.ch.Head()
	span, ok := sc.read(m.Ord(next))
	if ok && len(span.Bytes) > 0 {
		sc.span, sc.turn = span, s.turn
	}
	return span, ok
}

// fallOff deals with a member whose position was trimmed away: it goes on from
// the stream's past, where that is possible, else it is told what it misses. It
// reports false when the connection is gone or takes no more for now.
func (s *shard) fallOff(r connRef, c *slot, sc *shardChan, at int) bool {
	m := sc.At(c.subs[at].member())
	next, _ := sc.ch.Head()
	if sc.latest || sc.ch.Reborn(m.Ord(next)) {
		return s.rejoin(r, c, sc, c.subs[at].member(), channel.WhySlow)
	}
	m.Move(next, m.Seq)
	c.subs[at].index |= pastSub | fellSub
	s.g.count.FellBehind.Add(1)
	return true
}

// rejoin tells a connection what it misses of a channel whose log no longer has
// its position, and why unless the epoch ended, and sets it to the log's start.
// It reports false when the connection is gone.
func (s *shard) rejoin(r connRef, c *slot, sc *shardChan, index uint32, why string) bool {
	m := sc.At(index)
	next, _ := sc.ch.Head()
	ord, before, newEpoch := sc.ch.Rejoin(m.Ord(next))
	after := m.Seq
	m.Move(ord, before-1)
	if newEpoch != "" {
		s.g.count.gap(channel.WhyEpoch)
		s.wbuf = wire.AppendEpochGap(s.wbuf[:0], sc.ch.Name, after, before, newEpoch)
	} else {
		s.g.count.gap(why)
		s.wbuf = wire.AppendGap(s.wbuf[:0], sc.ch.Name, after, before, why)
	}
	return s.send(r, c, s.wbuf) && c.state == stateOpen
}

// writeSegs writes the gathered spans and moves the positions by what was
// taken. It reports whether all was, and the connection lives.
func (s *shard) writeSegs(r connRef, c *slot) bool {
	if c.flags&flagBlocked != 0 || c.owes() {
		return false // a gap didn't fit: what it explains goes after it
	}
	total := 0
	s.iov = s.iov[:0]
	for i := range s.segs {
		seg := &s.segs[i]
		if seg.to > seg.from {
			s.iov = append(s.iov, s.envs[seg.from:seg.to])
		}
		s.iov = append(s.iov, seg.span.Bytes)
		total += seg.size()
	}
	if !s.afford(r, c, total) {
		return false
	}
	var n int
	var err error
	if len(s.iov) == 1 {
		n, err = s.loop.Write(int(c.fd), s.iov[0])
	} else {
		n, err = s.loop.Writev(int(c.fd), s.iov)
	}
	if err != nil {
		if netpoll.Again(err) {
			s.block(r, c)
		} else {
			s.gone(r, c)
		}
		return false
	}
	s.took(c, n)
	if !s.advance(r, c, n) {
		return false
	}
	if n < total {
		s.block(r, c)
		return false
	}
	return true
}

// advance moves the positions of the gathered spans by n written bytes, and
// keeps the rest of the frame in which they end.
func (s *shard) advance(r connRef, c *slot, n int) bool {
	frames, skipped := uint64(0), uint64(0)
	defer func() {
		s.g.count.MessagesOut.Add(frames)
		if skipped > 0 {
			s.g.count.Skipped.Add(skipped)
		}
		s.delivery.wrote()
	}()
	for i := range s.segs {
		seg := &s.segs[i]
		if n == 0 {
			return true
		}
		m := seg.sc.At(seg.index)
		next, seq := seg.span.Next, seg.span.Seq
		var rest []byte
		switch {
		case n >= seg.size():
			n -= seg.size()
		case seg.past:
			next, seq, rest = seg.span.Cut(n)
			n = 0
		case seg.own:
			rest = seg.span.Bytes[n:]
			n = 0
		case seg.to > seg.from:
			env := s.envs[seg.from+min(n, seg.to-seg.from) : seg.to]
			rest = seg.span.Bytes[max(0, n-(seg.to-seg.from)):]
			n = 0
			if !s.queueOut(r, c, env, rest) {
				return false
			}
			rest = nil
		default:
			var pin channel.Pin
			next, seq, pin = seg.span.Split(n)
			if len(pin.Rest()) > 0 {
				s.extOf(c).pin = pin
			}
			n = 0
		}
		frames += next - seg.span.First
		skipped += seg.skip
		if seg.news() {
			s.delivery.note(seg.span.Times[:next-seg.span.First])
		}
		if seg.gap {
			s.g.count.gap(channel.WhyEvicted)
		}
		if seg.past {
			m.Read(seq)
		} else {
			m.Move(next, seq)
		}
		if seg.replay && !m.Behind(seg.sc.head()) {
			s.caughtUp(c, seg.sc)
		}
		if len(rest) > 0 && !s.queueOut(r, c, rest, nil) {
			return false
		}
	}
	return true
}
