package channel

import (
	"sort"
	"sync"
)

// Log is one channel's append-only sequence of encoded entries. The hub's
// writer appends and trims; any goroutine may read.
type Log struct {
	mu        sync.Mutex
	chunks    []*chunk // oldest first
	next      uint64   // ordinal of the entry to come
	seq       uint64   // the channel's head: of the newest message, or of the end of a hole behind it
	newest    uint64   // of the newest message; 0: none in this epoch, or not known
	epochOrd  uint64   // ordinal of the first entry of this epoch; a chunk begins there
	epochPrev uint64   // the head when the last epoch ended
	reborn    string   // this epoch's name, if the entry at epochOrd says that there was another
	notes     []uint64 // ordinals of the entries kept that are no messages: gap, stale, live
	lostNote  uint64   // ordinal after the newest of those trimmed away
	deflated  uint64   // ordinal up to which there is something for ReadDeflated

	// Owned by the hub's writer.
	budget *Budget
	size   int // capacity of the next chunk, bytes
}

// Span is a run of whole entries that lie side by side in memory, as published
// when it was read. It stays valid whatever happens to the log.
type Span struct {
	Bytes []byte // whole frames
	First uint64 // ordinal of the first entry
	Next  uint64 // ordinal after the last
	Seq   uint64 // the channel's head after the last entry
	More  bool   // there are entries after Next, in another chunk
	Gap   bool   // of a Block: it begins with a gap of what retention has dropped

	// Times is when the stream stored each entry, Unix ns; 0 of those that are no
	// message. A Block's has none.
	Times []int64

	c    *chunk
	base uint32   // offset of Bytes in the chunk
	offs []uint32 // of the entries in the chunk, from First on
	seqs []uint64
}

// Split says where n written bytes of the span end: next and seq are the
// position after the entry that holds byte n-1, and rest pins what of that
// entry is still unwritten (the zero Pin when n ends at an entry). n is in
// [1, len(Bytes)]. The span is a log's, not a Block's.
func (s *Span) Split(n int) (next, seq uint64, rest Pin) {
	next, seq, tail := s.Cut(n)
	if len(tail) > 0 {
		s.c.pin()
		rest = Pin{c: s.c, rest: tail}
	}
	return next, seq, rest
}

// Cut is Split without the pin: rest is valid as long as the span is.
func (s *Span) Cut(n int) (next, seq uint64, rest []byte) {
	// The first entry that begins at or after n.
	i := sort.Search(len(s.offs), func(i int) bool { return int(s.offs[i]-s.base) >= n })
	next, seq = s.First+uint64(i), s.seqs[i-1]
	end := len(s.Bytes)
	if i < len(s.offs) {
		end = int(s.offs[i] - s.base)
	}
	return next, seq, s.Bytes[n:end]
}

// Read returns the entries from ordinal from on, as one span: what lies in one
// chunk. An empty span (no Bytes) means there are none; ok is false when from
// has been trimmed away.
func (l *Log) Read(from uint64) (s Span, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from >= l.next {
		return Span{First: from, Next: from, Seq: l.seq}, true
	}
	c := l.find(from)
	if c == nil {
		return Span{}, false
	}
	s = c.span(int(from-c.first), len(c.offs))
	s.More = c.end() < l.next
	return s, true
}

// span is the chunk's entries with i ≤ index < j.
func (c *chunk) span(i, j int) Span {
	end := len(c.buf)
	if j < len(c.offs) {
		end = int(c.offs[j])
	}
	return Span{
		Bytes: c.buf[c.offs[i]:end:end],
		First: c.first + uint64(i),
		Next:  c.first + uint64(j),
		Seq:   c.seqs[j-1],
		c:     c,
		base:  c.offs[i],
		offs:  c.offs[i:j],
		seqs:  c.seqs[i:j],
		Times: c.times[i:j],
	}
}

// ReadLatest returns, for a reader at ordinal from that wants only the newest,
// the one entry that is next for it: the first that is no message, or the last
// message before that one; skip is how many messages it passes over. An empty
// span means there are none; ok is false when something that may not be passed
// over, or the entry itself, has been trimmed away.
func (l *Log) ReadLatest(from uint64) (s Span, skip uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, at, ok := l.latest(from, l.next)
	if c == nil {
		return Span{First: from, Next: from, Seq: l.seq}, 0, ok
	}
	s = c.span(int(at-c.first), int(at-c.first)+1)
	s.More = at+1 < l.next
	return s, at - from, true
}

// latest finds the entry that is next for a reader at ordinal from that wants only the
// newest of those before end. c is nil when there is none.
func (l *Log) latest(from, end uint64) (c *chunk, at uint64, ok bool) {
	if from < l.lostNote {
		return nil, 0, false
	}
	if from >= end {
		return nil, 0, true
	}
	at = end - 1
	i := sort.Search(len(l.notes), func(i int) bool { return l.notes[i] >= from })
	if i < len(l.notes) && l.notes[i] < end {
		if at = l.notes[i]; at > from {
			at--
		}
	}
	c = l.find(at)
	return c, at, c != nil
}

// find returns the chunk that holds ordinal ord, nil when it is trimmed.
func (l *Log) find(ord uint64) *chunk {
	// Nearly every reader wants the newest chunk.
	n := len(l.chunks)
	if n > 0 && l.chunks[n-1].first <= ord {
		return l.chunks[n-1]
	}
	i := sort.Search(n, func(i int) bool { return l.chunks[i].end() > ord })
	if i == n || l.chunks[i].first > ord {
		return nil
	}
	return l.chunks[i]
}

// Head returns the ordinal of the entry to come and the newest message's
// sequence.
func (l *Log) Head() (next, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next, l.seq
}

// Newest returns the sequence of the newest message, which is not the head where
// something was lost behind it; 0 when none is known.
func (l *Log) Newest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// Rejoin says where a reader whose position from was trimmed away goes on, and
// that it misses what is before the sequence before; newEpoch names the epoch if
// its own sequence is of one that ended unseen.
func (l *Log) Rejoin(from uint64) (ord, before uint64, newEpoch string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ord, prev := l.start()
	switch {
	case from > l.epochOrd || from == l.epochOrd && l.reborn == "":
		return l.behindEpoch(ord), prev + 1, ""
	case ord == l.epochOrd: // the epoch's own gap is still to come
		return ord, l.epochPrev + 1, ""
	default:
		return ord, prev + 1, l.reborn
	}
}

// Begin returns the log's oldest position of this epoch and the sequence of the
// message before it.
func (l *Log) Begin() (ord, prev uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start()
}

// behindEpoch passes over the entry that says that the epoch is another, for a
// reader whose position is of this one.
func (l *Log) behindEpoch(ord uint64) uint64 {
	if l.reborn != "" && ord == l.epochOrd && ord < l.next {
		return ord + 1
	}
	return ord
}

func (l *Log) start() (ord, prev uint64) {
	for _, c := range l.chunks {
		if c.first >= l.epochOrd {
			return c.first, c.prev
		}
	}
	return l.next, l.seq
}

// After returns the position of a reader that has everything of this epoch up
// to and with sequence seq: the first entry whose sequence is greater. When
// entries after seq were trimmed, complete is false, ord is the log's start and
// the reader misses what lies between seq and before.
func (l *Log) After(seq uint64) (ord, before uint64, complete bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq >= l.seq {
		return l.next, 0, true
	}
	ord, prev := l.start()
	if prev > seq {
		return l.behindEpoch(ord), prev + 1, false
	}
	for _, c := range l.chunks {
		if c.first < l.epochOrd || c.seqs[len(c.seqs)-1] <= seq {
			continue
		}
		j := sort.Search(len(c.seqs), func(j int) bool { return c.seqs[j] > seq })
		return c.first + uint64(j), 0, true
	}
	return l.next, 0, true
}

// room returns where the next entry of n bytes is to be encoded: a slice of
// length 0 and capacity at least n, behind the published bytes of the newest
// chunk. prev is the channel's head before it. Writer only.
func (l *Log) room(n int, prev uint64, now int64) []byte {
	if k := len(l.chunks); k > 0 && l.chunks[k-1].first >= l.epochOrd {
		c := l.chunks[k-1]
		if cap(c.buf)-len(c.buf) >= n {
			return c.buf[len(c.buf):len(c.buf):cap(c.buf)]
		}
		switch took := now - c.born; {
		case took < 1000:
			l.size = min(2*l.size, maxChunk)
		case took > 60_000:
			l.size = max(l.size/2, minChunk)
		}
	}
	size := max(l.size, minChunk, n)
	// An entry is rarely under 64 bytes; the index grows when it is.
	c := &chunk{
		first: l.next,
		prev:  prev,
		buf:   make([]byte, 0, size),
		offs:  make([]uint32, 0, max(1, size/256)),
		seqs:  make([]uint64, 0, max(1, size/256)),
		times: make([]int64, 0, max(1, size/256)),
		born:  now,
		owner: l.budget,
	}
	c.refs.Store(1)
	c.cost = chunkCost + int64(size) + int64(cap(c.offs))*entryCost
	l.budget.used.Add(c.cost)
	l.size = max(l.size, minChunk)
	l.mu.Lock()
	l.chunks = append(l.chunks, c)
	l.mu.Unlock()
	return c.buf[:0:size]
}

// publish makes the entry encoded into room visible; stored is when the stream
// stored it, note says that it is no message. Writer only.
func (l *Log) publish(entry []byte, seq uint64, now, stored int64, note bool) {
	c := l.chunks[len(l.chunks)-1]
	l.mu.Lock()
	if note {
		l.notes = append(l.notes, l.next)
	} else {
		l.newest = seq
	}
	grown := cap(c.offs)
	c.offs = append(c.offs, uint32(len(c.buf)))
	c.seqs = append(c.seqs, seq)
	c.times = append(c.times, stored)
	c.buf = c.buf[:len(c.buf)+len(entry)]
	c.last = now
	l.next++
	l.seq = seq
	if d := int64(cap(c.offs)-grown) * entryCost; d > 0 {
		c.cost += d
		l.budget.used.Add(d)
	}
	l.mu.Unlock()
}

// trim drops the oldest chunks while the log still has keep entries without
// them and they ended before deadline (Unix ms). Writer only.
func (l *Log) trim(keep int, deadline int64) {
	for len(l.chunks) > 1 {
		c := l.chunks[0]
		if l.next-c.end() < uint64(keep) || c.last >= deadline {
			return
		}
		l.dropOldest()
	}
}

// dropOldest drops the oldest chunk, also the only one. Writer only.
func (l *Log) dropOldest() {
	l.mu.Lock()
	c := l.chunks[0]
	l.chunks[0] = nil
	l.chunks = l.chunks[1:]
	gone := sort.Search(len(l.notes), func(i int) bool { return l.notes[i] >= c.end() })
	if gone > 0 {
		l.lostNote = l.notes[gone-1] + 1
		l.notes = append(l.notes[:0], l.notes[gone:]...)
	}
	l.mu.Unlock()
	c.unpin()
}

// Reborn reports whether a new epoch has begun since ordinal ord was the log's
// next: a sequence that was noted with it is void.
func (l *Log) Reborn(ord uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return ord < l.epochOrd || ord == l.epochOrd && l.reborn != ""
}
