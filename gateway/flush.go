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
}

// A flush goes in rounds. A round collects, from every channel with something
// new, the connections that are behind on it, each once with a list of its
// channels; then it writes them, flushTurn to a turn, all channels of a
// connection in one writev. What is published meanwhile marks its channel again
// and joins the next round, or this one where the connection is still to come.

// enqueue notes that a channel has something new.
func (s *shard) enqueue(ch *channel.Channel) {
	id, ok := s.chanIDs[ch]
	if !ok {
		return // its last member here left after the mark
	}
	sc := s.chans[id]
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
	s.turn++
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
		next, _ := sc.ch.Head()
		for len(s.nodes) < s.flushNodes {
			_, m := sc.Walk()
			if m == nil {
				if !sc.again {
					break
				}
				sc.again = false
				sc.Restart()
				next, _ = sc.ch.Head()
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
		if next, _ := sc.ch.Head(); sc.At(sub.member()).Behind(next) {
			s.nodes = append(s.nodes, node{chanID: sub.chanID, next: c.pend})
			c.pend = int32(len(s.nodes) - 1)
		}
	}
	if c.pend == noNode {
		return
	}
	s.flushConn(r, c)
	if c.pend == noNode || c.state == stateFree {
		s.nodes = s.nodes[:mark]
	}
}

// gather collects the spans pending for a connection. It reports whether there
// is more behind them.
func (s *shard) gather(r connRef, c *slot, first int32) (more bool) {
	s.segs = s.segs[:0]
	s.gathers++
	for n := first; n != noNode; n = s.nodes[n].next {
		i, ok := c.findSub(s.nodes[n].chanID)
		if !ok {
			continue // unsubscribed since it was linked
		}
		if len(s.segs) == netpoll.MaxIovecs {
			return true
		}
		index := c.subs[i].member()
		sc := s.chans[c.subs[i].chanID]
		if sc.gathered == s.gathers {
			continue // linked twice: its number was another channel's before
		}
		sc.gathered = s.gathers
		span, ok := s.read(sc, index)
		if !ok {
			if !s.rejoin(r, c, sc, index) {
				return false
			}
			if span, ok = s.read(sc, index); !ok {
				continue // trimmed again this moment; marked again too
			}
		}
		if len(span.Bytes) > 0 {
			s.segs = append(s.segs, segment{sc, index, span})
			more = more || span.More
		}
	}
	return more
}

// read is Log.Read from a member's position. Members of one channel mostly
// stand at the same place: the last span read is kept for the turn.
func (s *shard) read(sc *shardChan, index uint32) (channel.Span, bool) {
	m := sc.At(index)
	if sc.turn == s.turn && len(sc.span.Bytes) > 0 && m.Ord(sc.span.First) == sc.span.First {
		return sc.span, true
	}
	next, _ := sc.ch.Head()
	span, ok := sc.ch.Read(m.Ord(next))
	if ok && len(span.Bytes) > 0 {
		sc.span, sc.turn = span, s.turn
	}
	return span, ok
}

// rejoin tells a connection that has fallen off a log what it misses, and sets
// it to the log's start. It reports false when the connection is gone.
func (s *shard) rejoin(r connRef, c *slot, sc *shardChan, index uint32) bool {
	m := sc.At(index)
	next, _ := sc.ch.Head()
	ord, before, newEpoch := sc.ch.Rejoin(m.Ord(next))
	why, after := channel.WhySlow, m.Seq
	if newEpoch {
		why = channel.WhyEpoch
	}
	m.Move(ord, before-1)
	s.g.count.GapsSlow.Add(1)
	s.wbuf = wire.AppendGap(s.wbuf[:0], sc.ch.Name, after, before, why)
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
		s.iov = append(s.iov, s.segs[i].span.Bytes)
		total += len(s.segs[i].span.Bytes)
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
	left := n
	frames := uint64(0)
	for i := range s.segs {
		seg := &s.segs[i]
		m := seg.sc.At(seg.index)
		if left >= len(seg.span.Bytes) {
			left -= len(seg.span.Bytes)
			frames += seg.span.Next - seg.span.First
			m.Move(seg.span.Next, seg.span.Seq)
			continue
		}
		if left > 0 {
			next, seq, rest := seg.span.Split(left)
			frames += next - seg.span.First
			m.Move(next, seq)
			if len(rest.Rest()) > 0 {
				s.extOf(c).pin = rest
			}
		}
		break
	}
	s.g.count.MessagesOut.Add(frames)
	if n < total {
		s.block(r, c)
		return false
	}
	return true
}
