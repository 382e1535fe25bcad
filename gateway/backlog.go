package gateway

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/odin-ws/odin/gateway/secure"
)

// The kernel charges a socket for what its peer has not acknowledged, by the
// page: 4 KiB from the first byte on, and with SO_SNDBUF at 4096 it says EAGAIN
// only at 12 KiB. One message to every client, none of whom acknowledges, is
// hundreds of megabytes with nobody "blocked". So the memory is counted before
// it is spent, in one budget for all shards, and a write beyond it is not made:
// its connection stays behind in the logs, which costs nothing, until others
// have acknowledged. First come, first served. (docs/adr/0008)
//
// Counting is cheap while the budget is far: a page more for each write, up to
// what the socket can hold at all. From a quarter of the budget on, everyone
// charged is asked once a second what its socket really holds (SO_MEMINFO, 0.2 to
// 0.4 µs), and from half of it on those charged longest ago, a few for each write.

const (
	// page is what socket memory is charged in, bytes.
	page = 4096
	// writeOverhead is what the kernel adds to the bytes of a write, at most.
	writeOverhead = 1024
	// reclaimStep is how many sockets are asked at each write while the budget
	// is more than half spent, and reclaimHard when it is spent.
	reclaimStep = 2
	reclaimHard = 64
	// evictAfter is how many ticks a socket may hold memory of the budget
	// without progress while others are held back for want of it. A segment lost
	// three times takes TCP 200+400+800 ms at best, and a machine that is busy sending
	// to everybody looks at acknowledgements late.
	evictAfter = 40
	// evictStep is the most connections one shard evicts in a tick.
	evictStep = 512
	// maxSendShift bounds how often SO_SNDBUF is doubled, 4 KiB to 256 KiB. 64 KiB
	// were 1.6 MB/s at 80 ms, and a market's busiest second has as much.
	maxSendShift = 6
)

// backlog is the budget for unacknowledged bytes, shared by all shards.
type backlog struct {
	limit atomic.Int64 // bytes; follows a memory limit that changes
	used  atomic.Int64
}

// take charges n bytes; it reports false, and charges nothing, beyond the limit.
func (b *backlog) take(n int64) bool {
	if b.used.Add(n) <= b.limit.Load() {
		return true
	}
	b.used.Add(-n)
	return false
}

// sendPages is the most a connection's socket can hold, pages.
func (s *shard) sendPages(c *slot) int {
	n := 2*(s.g.cfg.SndBuf<<c.sendShift)/page + 1
	if s.tls != nil {
		n += secure.HeldPages // the rest of a record
	}
	return n
}

// price is what a connection is charged with a write of n bytes, pages, and how many
// bytes that is more than it is charged.
func (s *shard) price(c *slot, n int) (want int, more int64) {
	want = min(int(c.charge)+(n+writeOverhead+page-1)/page, s.sendPages(c), 255)
	return want, int64(want-int(c.charge)) * page
}

// afford charges a connection for a write of n bytes about to be made. When the
// budget doesn't allow it, the connection is held back and afford reports false.
func (s *shard) afford(r connRef, c *slot, n int) bool {
	b := &s.g.backlog
	want, more := s.price(c, n)
	if more <= 0 {
		return true // paid for all its socket can hold
	}
	if b.used.Load() > b.limit.Load()/2 {
		s.reclaim(reclaimStep)
		if c.charge > 0 {
			s.measure(c)
		}
		want, more = s.price(c, n)
	}
	if !b.take(more) {
		s.reclaim(reclaimHard)
		want, more = s.price(c, n) // it may have been among those asked
		if !b.take(more) {
			s.hold(r, c)
			return false
		}
	}
	c.charge = uint8(want)
	if c.flags&flagCharged == 0 {
		c.flags |= flagCharged
		s.charged.push(r)
	}
	return true
}

// measure sets a connection's charge to what its socket holds.
func (s *shard) measure(c *slot) {
	n, err := s.loop.Queued(int(c.fd))
	if err != nil {
		return // the connection is going; forget settles it
	}
	pages := min((n+page-1)/page, 255)
	if pages < int(c.charge) {
		c.ackedAt = uint16(s.now)
	}
	s.g.backlog.used.Add(int64(pages-int(c.charge)) * page)
	c.charge = uint8(pages)
}

// reclaim asks up to n sockets, those charged longest ago first, what they
// still hold.
func (s *shard) reclaim(n int) {
	for range min(n, s.charged.len()) {
		r, _ := s.charged.peek()
		s.charged.pop()
		c := s.slots.get(r)
		if c == nil || c.flags&flagCharged == 0 {
			continue
		}
		s.measure(c)
		if c.charge == 0 {
			c.flags &^= flagCharged
			continue
		}
		s.charged.push(r)
	}
}

// dropGone takes connections that have ended out of the queue of the charged,
// where reclaim would have come upon them.
func (s *shard) dropGone() {
	for range s.charged.len() {
		r, _ := s.charged.peek()
		s.charged.pop()
		if c := s.slots.get(r); c != nil && c.flags&flagCharged != 0 {
			s.charged.push(r)
		}
	}
}

// uncharge gives back all a connection was charged; its socket is gone.
func (s *shard) uncharge(c *slot) {
	s.g.backlog.used.Add(-int64(c.charge) * page)
	c.charge = 0
	c.flags &^= flagCharged
}

// hold keeps a connection from writing until the budget allows.
func (s *shard) hold(r connRef, c *slot) {
	c.flags |= flagBlocked | flagHeld
	s.g.count.HeldBack.Add(1)
	s.held.push(r)
}

// freeHeld lets those held back write, in the order they came, as far as the
// budget goes.
func (s *shard) freeHeld() {
	b := &s.g.backlog
	for range s.held.len() {
		if b.used.Load()+page > b.limit.Load() {
			return
		}
		r, _ := s.held.peek()
		s.held.pop()
		if c := s.slots.get(r); c != nil && c.flags&flagHeld != 0 {
			c.flags &^= flagHeld
			c.wroteAt = s.now // it was not the client that kept it waiting
			s.writable(r, c)
		}
	}
}

// sweepBacklog is the budget's part of a tick.
func (s *shard) sweepBacklog() {
	switch b := &s.g.backlog; {
	case b.used.Load() > b.limit.Load()/4:
		// Everyone charged is asked about once a second.
		s.reclaim(max(reclaimHard, s.charged.len()/sweepTicks+1))
	case s.charged.len() > 2*int(s.conns.Load())+reclaimHard:
		s.dropGone()
	}
	s.shrinkCharged()
	if s.held.len() == 0 {
		return
	}
	s.freeHeld()
	if n := s.held.len(); n > 0 {
		s.reclaim(s.charged.len())
		s.freeHeld()
		s.evict(min(s.held.len(), evictStep))
		s.freeHeld()
	}
}

// evict resets up to n connections that hold memory of the budget and make no
// progress, most-lagged first.
func (s *shard) evict(n int) {
	type candidate struct {
		connRef
		lag uint32
	}
	var all []candidate
	for i := s.charged.at; i < len(s.charged.refs); i++ {
		r := s.charged.refs[i]
		c := s.slots.get(r)
		if c == nil || c.flags&flagCharged == 0 || c.state != stateOpen ||
			s.now-c.wroteAt < evictAfter || uint16(s.now)-c.ackedAt < evictAfter {
			continue
		}
		all = append(all, candidate{r, s.lag(c)})
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(b.lag, a.lag) })
	for _, v := range all[:min(n, len(all))] {
		if c := s.slots.get(v.connRef); c != nil {
			s.g.count.Evicted.Add(1)
			s.g.count.closed(closeSlow)
			s.g.recent.note(closeSlow, "holds memory and takes nothing", func() netip.Addr { return s.addr(v.connRef, c) })
			s.g.sampled("evict", "a client that acknowledges nothing gave up its memory to others", "conn", s.connID(v.connRef), "behind", v.lag)
			s.close(v.connRef, c, true)
		}
	}
}

// follow grows the send buffer of a connection whose socket is full, when within
// a second its peer has acknowledged half of what the buffer holds: then it is the
// round trip that fills it. What the socket takes says nothing of the peer: one that
// reads nothing takes as much as it is grown by.
func (s *shard) follow(l *lagged, c *slot) {
	n, err := s.loop.Acked(int(c.fd))
	if err != nil {
		return
	}
	acked := uint32(n)
	if l.ackedAt != 0 && s.now-l.ackedAt <= sweepTicks {
		if acked-l.acked < uint32(s.g.cfg.SndBuf<<c.sendShift)/2 {
			return
		}
		s.grow(c)
	}
	l.acked, l.ackedAt = acked, s.now
}

// grow doubles the send buffer of a connection, while the budget is not half
// spent: 4 KiB is 75 KB/s at 80 ms.
func (s *shard) grow(c *slot) {
	// No one socket may hold so much of the budget that it could never be had.
	b := &s.g.backlog
	if c.sendShift >= maxSendShift || b.used.Load() > b.limit.Load()/2 || int64(s.g.cfg.SndBuf)<<(c.sendShift+1) > b.limit.Load()/32 {
		return
	}
	c.sendShift++
	if s.loop.SetSendBuffer(int(c.fd), s.g.cfg.SndBuf<<c.sendShift) != nil {
		c.sendShift--
		return
	}
	s.g.count.BuffersGrown.Add(1)
}

// shrinkCharged halves grown send buffers while three quarters of the budget are
// spent, once a tick: what is queued stays until it is acknowledged, a round trip
// later, so more haste only took from all what was enough to take from some.
func (s *shard) shrinkCharged() {
	b := &s.g.backlog
	if b.used.Load() < b.limit.Load()/4*3 {
		return
	}
	for _, r := range s.charged.refs[s.charged.at:] {
		c := s.slots.get(r)
		if c == nil || c.flags&flagCharged == 0 || c.sendShift == 0 {
			continue
		}
		if s.loop.SetSendBuffer(int(c.fd), s.g.cfg.SndBuf<<(c.sendShift-1)) == nil {
			c.sendShift--
			s.g.count.BuffersShrunk.Add(1)
		}
	}
}
