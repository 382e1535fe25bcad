package channel

import (
	"sync"

	"github.com/odin-ws/odin/gateway/wire"
)

// Those who negotiated permessage-deflate are given a channel's log compressed. It is
// the same log: a chunk has its entries a second time, so a position, a sequence, a
// trimmed chunk and a pin are what they are for everyone. While such members are
// there, one goroutine compresses what is appended, each entry once, behind the
// writer's back: nobody who is given the log as it is waits for it. What was appended
// before they came, or faster than can be compressed, they are given as it is; RFC
// 7692 section 6 allows that of any message. (docs/adr/0013)

const (
	// deflateBatch is how many bytes of entries are compressed before those who wait
	// for them are marked.
	deflateBatch = 16 << 10
	// deflateLag is how many entries of a channel compression may be behind. It
	// passes over more.
	deflateLag = 1024
	// deflatedCost is the fixed cost of a chunk's deflated, and deflatedEntry that of
	// an entry in it, bytes.
	deflatedCost  = 64
	deflatedEntry = 4
)

// deflated is a chunk's entries from one on, compressed where that makes them
// shorter. It is guarded as the chunk is: what is below its published lengths never
// changes.
type deflated struct {
	from int      // the chunk's first entry that is in it
	buf  []byte   // frames
	offs []uint32 // where each entry begins in buf
}

func (z *deflated) end() int { return z.from + len(z.offs) }

func (z *deflated) cost() int64 {
	return deflatedCost + int64(cap(z.buf)) + int64(cap(z.offs))*deflatedEntry
}

// span is the entries of its chunk c with i ≤ index < j, all of them in z.
func (z *deflated) span(c *chunk, i, j int) Span {
	offs, end := z.offs[i-z.from:j-z.from], len(z.buf)
	if j < z.end() {
		end = int(z.offs[j-z.from])
	}
	return Span{
		Bytes: z.buf[offs[0]:end:end],
		First: c.first + uint64(i),
		Next:  c.first + uint64(j),
		Seq:   c.seqs[j-1],
		c:     c,
		base:  offs[0],
		offs:  offs,
		seqs:  c.seqs[i:j],
	}
}

// Deflated is the ordinal up to which ReadDeflated has something.
func (l *Log) Deflated() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deflated
}

// ReadDeflated is Read for those who negotiated compression.
func (l *Log) ReadDeflated(from uint64) (s Span, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from >= l.next {
		return Span{First: from, Next: from, Seq: l.seq}, true
	}
	c := l.find(from)
	if c == nil {
		return Span{}, false
	}
	if from >= l.deflated {
		return Span{First: from, Next: from, Seq: l.seq}, true
	}
	i, end := int(from-c.first), int(min(c.end(), l.deflated)-c.first)
	switch z := c.z; {
	case z == nil || i >= z.end():
		s = c.span(i, end)
	case i < z.from:
		s = c.span(i, z.from)
	default:
		s = z.span(c, i, z.end())
	}
	s.More = s.Next < l.deflated
	return s, true
}

// ReadLatestDeflated is ReadLatest for those who negotiated compression. The entry is
// compressed only where none is passed over: else it needs another envelope.
func (l *Log) ReadLatestDeflated(from uint64) (s Span, skip uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, at, ok := l.latest(from, l.deflated)
	if c == nil {
		return Span{First: from, Next: from, Seq: l.seq}, 0, ok
	}
	i := int(at - c.first)
	s, skip = c.span(i, i+1), at-from
	if z := c.z; skip == 0 && z != nil && i >= z.from && i < z.end() {
		s = z.span(c, i, i+1)
	}
	s.More = at+1 < l.deflated
	return s, skip, true
}

// beginDeflated has what comes compressed; what is there is given as it is.
func (l *Log) beginDeflated() {
	l.mu.Lock()
	l.deflated = l.next
	l.mu.Unlock()
}

// undeflated returns the entries that are next to be compressed, and how many were
// passed over to get there.
func (l *Log) undeflated() (s Span, passed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.deflated
	if l.next-at > deflateLag {
		l.deflated = l.next
		return Span{}, l.next - at
	}
	if len(l.chunks) == 0 {
		l.deflated = l.next
		return Span{}, l.next - at
	}
	if first := l.chunks[0].first; at < first { // trimmed before it was compressed
		at, l.deflated = first, first
	}
	if at == l.next {
		return Span{}, 0
	}
	c := l.find(at)
	return c.span(int(at-c.first), len(c.offs)), 0
}

// publishDeflated makes the entries from ordinal at on visible as frames, each
// beginning at one of offs. It does nothing when compression has begun anew
// meanwhile or the entries have been trimmed.
func (l *Log) publishDeflated(at uint64, frames []byte, offs []uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.find(at)
	if l.deflated != at {
		return
	}
	l.deflated += uint64(len(offs))
	if c == nil {
		return
	}
	z, was := c.z, int64(0)
	if z != nil {
		was = z.cost()
	}
	if i := int(at - c.first); z == nil || z.end() != i {
		// Compressed once before, up to somewhere in this chunk: that is given as it
		// is from now on.
		z = &deflated{from: i}
		c.z = z
	}
	if need := len(z.buf) + len(frames); need > cap(z.buf) {
		// Never more than the entries themselves.
		most := cap(c.buf) - int(c.offs[z.from])
		z.buf = append(make([]byte, 0, max(need, min(2*need, most))), z.buf...)
	}
	base := uint32(len(z.buf))
	z.buf = append(z.buf, frames...)
	for _, o := range offs {
		z.offs = append(z.offs, base+o)
	}
	d := z.cost() - was
	c.cost += d
	l.budget.used.Add(d)
}

// deflater is the compressing goroutine's side of a hub.
type deflater struct {
	mu    sync.Mutex
	queue []*Channel // with something to compress

	// Owned by the goroutine that calls Hub.Deflate.
	z      wire.Deflater
	work   []*Channel
	frames []byte
	offs   []uint32
}

// toDeflate leaves a channel for the deflater. The writer and the deflater.
func (h *Hub) toDeflate(ch *Channel) {
	if ch.toDo.Swap(true) {
		return
	}
	d := &h.deflater
	d.mu.Lock()
	d.queue = append(d.queue, ch)
	first := len(d.queue) == 1
	d.mu.Unlock()
	if first {
		h.cfg.Deflate()
	}
}

// Deflate compresses what there is to compress. One goroutine at a time.
func (h *Hub) Deflate() {
	d := &h.deflater
	for {
		d.mu.Lock()
		d.work, d.queue = d.queue, d.work[:0]
		d.mu.Unlock()
		if len(d.work) == 0 {
			return
		}
		for i, ch := range d.work {
			d.work[i] = nil
			ch.toDo.Store(false) // first: what is appended from here on comes again
			if h.deflate(ch) {
				h.toDeflate(ch) // the others first
			}
		}
	}
}

// deflate compresses a batch of one channel's entries; it reports false when there
// was nothing left.
func (h *Hub) deflate(ch *Channel) (more bool) {
	if ch.zipped.Load() == 0 {
		return false // all who wanted it have left
	}
	s, passed := ch.undeflated()
	if passed > 0 {
		h.Counters.DeflatePassed.Add(passed)
		h.markDeflated(ch)
		return true
	}
	if len(s.offs) == 0 {
		return false
	}
	d := &h.deflater
	d.frames, d.offs = d.frames[:0], d.offs[:0]
	for i, size := 0, 0; i < len(s.offs) && size < deflateBatch; i++ {
		end := len(s.Bytes)
		if i+1 < len(s.offs) {
			end = int(s.offs[i+1] - s.base)
		}
		frame := s.Bytes[s.offs[i]-s.base : end]
		size += len(frame)
		was := len(d.frames)
		d.offs = append(d.offs, uint32(was))
		var done bool
		if d.frames, done = d.z.Append(d.frames, frame); done {
			h.Counters.Deflated.Add(1)
			h.Counters.DeflatedFrom.Add(uint64(len(frame)))
			h.Counters.DeflatedTo.Add(uint64(len(d.frames) - was))
		}
	}
	ch.publishDeflated(s.First, d.frames, d.offs)
	if h.budget.used.Load() > h.budget.limit {
		h.write.Lock()
		h.now = h.cfg.Now()
		h.trim(ch)
		h.write.Unlock()
	}
	h.markDeflated(ch)
	return true
}

// markDeflated is mark for those who are given the log compressed.
func (h *Hub) markDeflated(ch *Channel) {
	shards := ch.zipped.Load()
	fresh := shards &^ ch.zdirty.Or(shards)
	for s := 0; fresh != 0; s, fresh = s+1, fresh>>1 {
		if fresh&1 == 0 {
			continue
		}
		in := &h.inboxes[s]
		in.mu.Lock()
		in.zips = append(in.zips, ch)
		wake := len(in.zips) == 1
		in.mu.Unlock()
		if wake {
			h.cfg.Wake(s)
		}
	}
}

// TakeDeflated is Take for those who are given the logs compressed.
func (h *Hub) TakeDeflated(shard int, dirty []*Channel) []*Channel {
	in := &h.inboxes[shard]
	in.mu.Lock()
	d := append(dirty, in.zips...)
	clear(in.zips)
	in.zips = in.zips[:0]
	in.mu.Unlock()
	for _, ch := range d[len(dirty):] {
		ch.zdirty.And(^(uint64(1) << shard))
	}
	return d
}
