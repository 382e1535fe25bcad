package gateway

import (
	"container/heap"
	"time"

	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// variant is a way to follow a channel. Those who follow one in the same way
// have one member array, so that a subscription costs 24 bytes whatever its way.
type variant struct {
	latest   bool   // conflated: the newest message, with the number of those passed over
	yields   bool   // not conflated, but may be when it is slow
	slow     bool   // conflated for that reason
	deflated bool   // compressed: its connection's, whatever the subscription
	every    uint32 // latest: at most one message in so many ms; 0: as fast as the socket takes them
}

// variantOf is how a sub command of a connection wants its channels.
func (c *slot) variantOf(cmd *wire.Command) variant {
	v := variant{yields: cmd.Slow == "latest"}
	if cmd.Mode == "latest" {
		v = variant{latest: true, every: uint32(cmd.MS)}
	}
	v.deflated = c.flags&flagDeflate != 0
	return v
}

// calmSweeps is after how many sweeps, a second each, without a full socket a
// client that was conflated for being slow gets every message again.
const calmSweeps = 10

// gateGrain is what the times of gated variants are rounded up to, ms: a shard
// wakes for them at most so often.
const gateGrain = 10

// gatedHeap has the variants whose time has not come, the first on top.
type gatedHeap []*shardChan

func (h gatedHeap) Len() int           { return len(h) }
func (h gatedHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h gatedHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *gatedHeap) Push(x any) { *h = append(*h, x.(*shardChan)) }

// Pop implements heap.Interface.
func (h *gatedHeap) Pop() any {
	n := len(*h) - 1
	x := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	return x
}

// gate reports whether a variant with something new must wait for its time, and
// has it queued then. All of its members have the interval in common.
func (s *shard) gate(sc *shardChan) (wait bool) {
	if sc.every == 0 {
		return false
	}
	if sc.waiting {
		return true
	}
	now := s.g.clock()
	if now >= sc.due {
		sc.due = now + int64(sc.every)
		return false
	}
	sc.waiting = true
	first := len(s.gated) == 0 || sc.due < s.gated[0].due
	heap.Push(&s.gated, sc)
	if first {
		s.arm(sc.due - now)
	}
	return true
}

// arm has the shard woken in so many ms.
func (s *shard) arm(ms int64) {
	d := time.Duration((ms+gateGrain-1)/gateGrain*gateGrain) * time.Millisecond
	switch {
	case s.g.byHand:
	case s.timer == nil:
		s.timer = time.AfterFunc(d, s.ring)
	default:
		s.timer.Reset(d)
	}
}

// ring wakes the shard when its timer has run out, unless it has ended.
func (s *shard) ring() {
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	if !s.box.closed {
		s.loop.Wake()
	}
}

// openGates queues the variants whose time has come.
func (s *shard) openGates() {
	if len(s.gated) == 0 {
		return
	}
	now := s.g.clock()
	for len(s.gated) > 0 && s.gated[0].due <= now {
		sc := heap.Pop(&s.gated).(*shardChan)
		sc.waiting = false
		if !sc.gone {
			sc.due = now + int64(sc.every)
			s.enqueueOne(sc)
		}
	}
	if len(s.gated) > 0 {
		s.arm(s.gated[0].due - now)
	}
}

// gatherLatest collects what is next for a conflated member: the envelope with
// "skip" is built here, its data is the log's. ok is false when the member has
// fallen off the log.
func (s *shard) gatherLatest(sc *shardChan, index uint32) (seg segment, ok bool) {
	m := sc.At(index)
	next, _ := sc.ch.Head()
	span, skip, ok := sc.readLatest(m.Ord(next))
	seg = segment{sc: sc, index: index, span: span, skip: skip}
	if !ok || skip == 0 {
		return seg, ok
	}
	if sc.deflated && len(span.Bytes) > 0 {
		if frame := s.deflateSkip(sc, span, skip); frame != nil {
			seg.span.Bytes, seg.own = frame, true
			return seg, true
		}
	}
	seg.from = len(s.envs)
	s.envs, seg.span.Bytes = wire.AppendMsgSkip(s.envs, span.Bytes, skip)
	seg.to = len(s.envs)
	return seg, true
}

// change moves a subscription to another variant of its channel; at is its place
// in c.subs. It stands where it stood: the caller lets it catch up, because what
// was marked for the variant it left is not for the other.
func (s *shard) change(c *slot, at int, v variant) {
	n := c.subs[at]
	from := s.chans[n.chanID]
	if from.variant == v {
		return
	}
	to := s.attach(from.ch, v) // the channel is attached, so there is one
	if to == nil {
		return
	}
	m := *from.At(n.member())
	c.subs = append(c.subs[:at], c.subs[at+1:]...)
	s.removeMember(from, n.member())
	at, _ = c.findSub(to.id)
	c.addSub(at, sub{chanID: to.id, index: to.Add(m) | n.index&subFlags})
}

// changeAll moves every subscription whose variant is from.
func (s *shard) changeAll(c *slot, from, to variant) (changed int) {
	var of []*channel.Channel
	for _, n := range c.subs {
		if sc := s.chans[n.chanID]; sc.variant == from && !n.past() {
			of = append(of, sc.ch)
		}
	}
	for _, ch := range of {
		if at, ok := s.subOf(c, ch); ok {
			s.change(c, at, to)
		}
	}
	return len(of)
}

// conflate makes a slow client's subscriptions that allow it conflated, and
// reports whether there were any.
func (s *shard) conflate(r connRef, c *slot) bool {
	z := c.flags&flagDeflate != 0
	n := s.changeAll(c, variant{yields: true, deflated: z}, variant{latest: true, slow: true, deflated: z})
	if n == 0 {
		return false
	}
	c.flags |= flagConflated
	c.calm = 0
	s.g.count.SlowConflated.Add(1)
	s.g.sampled("conflate", "slow client conflated", "conn", s.connID(r), "subscriptions", n)
	return true
}

// calmed gives a client that was conflated every message again, once its socket
// has not been full for a while.
func (s *shard) calmed(r connRef, c *slot) {
	if c.flags&flagBlocked != 0 {
		c.calm = 0
		return
	}
	if c.calm++; c.calm >= calmSweeps {
		z := c.flags&flagDeflate != 0
		s.changeAll(c, variant{latest: true, slow: true, deflated: z}, variant{yields: true, deflated: z})
		c.flags &^= flagConflated
		s.g.count.SlowRestored.Add(1)
		s.catchUp(r)
	}
}
