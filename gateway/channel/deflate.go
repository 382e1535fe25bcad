package channel

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

// Those who negotiated permessage-deflate are given a channel's log compressed. It is
// the same log: a chunk has its entries a second time, so a position, a sequence, a
// trimmed chunk and a pin are what they are for everyone. While such members are
// there, one goroutine compresses what is appended, each entry once, behind the
// writer's back: nobody who is given the log as it is waits for that. What was appended
// before they came, or faster than can be compressed, they are given as it is; RFC
// 7692 section 6 allows that of any message. (docs/adr/0013)

const (
	// deflateBatch is how many bytes of entries are compressed before those who wait
	// for them are marked.
	deflateBatch = 16 << 10
	// deflateLag is how many entries of a channel compression may be behind. It
	// passes over more.
	deflateLag = 1024
	// deflateLate is Config.DeflateLate where it is not given. A round over the channels
	// takes no longer than that and a batch, because nobody in it is younger, and what
	// is left over from one is looked at in the next: nothing is later than twice that.
	deflateLate = 25 * time.Millisecond
	// maxDeflateFrames is how large the buffer of a batch may be between two, bytes.
	maxDeflateFrames = 128 << 10
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
		Times: c.times[i:j],
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

// undeflated returns the entries that are next to be compressed and how many are left
// behind them, or how many were passed over to get there: all of them if late.
func (l *Log) undeflated(late bool) (s Span, left, passed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.deflated
	switch {
	case at == l.next:
		return Span{}, 0, 0
	case late || l.next-at > deflateLag || len(l.chunks) == 0:
		l.deflated = l.next
		return Span{}, 0, l.next - at
	case at < l.chunks[0].first: // trimmed before it was compressed
		l.deflated = l.chunks[0].first
		return Span{}, l.next - l.deflated, l.deflated - at
	}
	c := l.find(at)
	s = c.span(int(at-c.first), len(c.offs))
	return s, l.next - at, 0
}

// publishDeflated makes the entries from ordinal at on visible as frames, each
// beginning at one of offs. It does nothing when compression has begun anew
// meanwhile or the entries have been trimmed. Deflater only: nobody else replaces
// what a chunk has compressed, so it grows without the lock.
func (l *Log) publishDeflated(at uint64, frames []byte, offs []uint32) {
	l.mu.Lock()
	c := l.find(at)
	var size int // of the entries that may still be compressed in this chunk
	if c != nil {
		size = cap(c.buf) - int(c.offs[at-c.first])
	}
	l.mu.Unlock()
	var z *deflated
	var buf []byte
	var begins []uint32
	if c != nil {
		if z = c.z; z == nil || z.end() != int(at-c.first) {
			// Compressed once before, up to somewhere in this chunk: that is given as it
			// is from now on.
			z = &deflated{from: int(at - c.first)}
		}
		buf, begins = z.buf, z.offs
		if need := len(buf) + len(frames); need > cap(buf) {
			// Never more than the entries themselves.
			buf = append(make([]byte, 0, max(need, min(2*need, len(buf)+size))), buf...)
		}
		base := uint32(len(buf))
		buf = append(buf, frames...)
		for _, o := range offs {
			begins = append(begins, base+o)
		}
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deflated != at {
		return
	}
	l.deflated += uint64(len(offs))
	if c == nil || l.find(at) != c {
		return
	}
	was := int64(0)
	if c.z != nil {
		was = c.z.cost()
	}
	z.buf, z.offs, c.z = buf, begins, z
	d := z.cost() - was
	c.cost += d
	l.budget.used.Add(d)
}

// undeflatedNow reports whether there is something to compress.
func (l *Log) undeflatedNow() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deflated < l.next
}

// deflater is the compressing goroutine's side of a hub.
type deflater struct {
	mu    sync.Mutex
	queue []undeflated // with something to compress

	since atomic.Int64 // of the channel being compressed, as in undeflated; 0: none is

	// Owned by the goroutine that calls Hub.Deflate.
	z      wire.Deflater
	work   []undeflated
	frames []byte
	offs   []uint32
}

// undeflated is a channel with something to compress, none of it appended before
// since, Unix ms.
type undeflated struct {
	ch    *Channel
	since int64
}

// toDeflate leaves a channel for the deflater. The writer and the deflater.
func (h *Hub) toDeflate(ch *Channel, since int64) {
	if !ch.toDo.Swap(true) {
		h.deflater.add(undeflated{ch, since}, h.cfg.Deflate)
	}
}

// add queues a channel, and calls first when it is.
func (d *deflater) add(w undeflated, first func()) {
	d.mu.Lock()
	d.queue = append(d.queue, w)
	n := len(d.queue)
	d.mu.Unlock()
	if n == 1 {
		first()
	}
}

// Deflate compresses a batch of each channel that has something to compress. What is
// left over or comes meanwhile is asked for again, with Config.Deflate. One goroutine
// at a time.
func (h *Hub) Deflate() {
	d := &h.deflater
	d.mu.Lock()
	d.work, d.queue = d.queue, d.work[:0]
	d.mu.Unlock()
	for i, w := range d.work {
		d.work[i] = undeflated{}
		now := h.cfg.Now()
		d.since.Store(w.since)
		if h.deflate(w.ch, now-w.since > h.cfg.DeflateLate.Milliseconds()) {
			d.add(w, h.cfg.Deflate) // the others first
			continue
		}
		// What was appended since it was looked at is younger than that.
		w.ch.toDo.Store(false)
		if w.ch.zipped.Load() != 0 && w.ch.undeflatedNow() {
			h.toDeflate(w.ch, now)
		}
	}
	d.since.Store(0)
}

// DeflateLag is for how long what is next to be compressed has waited for it, ms; any
// goroutine.
func (h *Hub) DeflateLag() int64 {
	d := &h.deflater
	since := d.since.Load()
	if since == 0 {
		d.mu.Lock()
		if len(d.queue) > 0 {
			since = d.queue[0].since
		}
		d.mu.Unlock()
	}
	if since == 0 {
		return 0
	}
	return max(0, h.cfg.Now()-since)
}

// deflate compresses a batch of one channel's entries, or passes over them if they
// are late; it reports whether any are left of those there were.
func (h *Hub) deflate(ch *Channel, late bool) (more bool) {
	if ch.zipped.Load() == 0 {
		return false // all who wanted it have left
	}
	s, left, passed := ch.undeflated(late)
	if passed > 0 {
		h.Counters.DeflatePassed.Add(passed)
		h.markDeflated(ch)
		return left > 0
	}
	if left == 0 {
		return false
	}
	d := &h.deflater
	d.frames, d.offs = d.frames[:0], d.offs[:0]
	if cap(d.frames) > maxDeflateFrames {
		d.frames = nil // the last one was exceptional
	}
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
	if h.budget.used.Load() > h.budget.Limit() {
		h.write.Lock()
		h.now = h.cfg.Now()
		h.trim(ch)
		h.write.Unlock()
	}
	h.markDeflated(ch)
	return left > uint64(len(d.offs))
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
