package channel

import "sync/atomic"

const (
	// minChunk and maxChunk bound a chunk's capacity in bytes; a channel's
	// next chunk is twice or half the last, by how fast that one filled. A
	// frame larger than the chunk due gets one of its own size.
	minChunk = 1 << 10
	maxChunk = 64 << 10
	// entryCost is what one index entry costs, bytes, and blockEntry one of a Block's.
	entryCost  = 20
	blockEntry = 12
	// chunkCost is the fixed cost of a chunk's bookkeeping, bytes.
	chunkCost = 160
)

// chunk is an append-only piece of a log. Its slices are replaced only under
// the log's lock; elements below a length read under that lock never change.
type chunk struct {
	first uint64    // ordinal of the first entry
	prev  uint64    // the channel's head before the first entry
	buf   []byte    // frames; len is published, cap is fixed
	offs  []uint32  // where each entry begins in buf
	seqs  []uint64  // the channel's head after each entry
	times []int64   // when the stream stored each entry, Unix ns; 0 where it is no message
	z     *deflated // its entries compressed, from one on; nil: none are
	born  int64     // Unix ms of the first entry
	last  int64     // Unix ms of the newest entry

	cost  int64 // bytes charged to the budget, z's among them
	refs  atomic.Int32
	owner *Budget
}

func (c *chunk) end() uint64 { return c.first + uint64(len(c.offs)) }

// pin keeps the chunk's bytes charged while a half-written frame needs them. A
// chunk trimmed since its span was read is charged again.
func (c *chunk) pin() {
	if c.refs.Add(1) == 1 {
		c.owner.used.Add(c.cost)
	}
}

// unpin undoes a pin, or the log's own hold.
func (c *chunk) unpin() {
	if c.refs.Add(-1) == 0 {
		c.owner.used.Add(-c.cost)
	}
}

// Budget counts the bytes of all logs of a hub. Any goroutine may read it.
type Budget struct {
	limit atomic.Int64 // written by the writer
	used  atomic.Int64
}

// Used is the bytes charged now: chunks, their indexes, and pinned chunks.
func (b *Budget) Used() int64 { return b.used.Load() }

// Limit is the bound in force, bytes.
func (b *Budget) Limit() int64 { return b.limit.Load() }

// Pin holds the rest of a half-written frame. The zero value holds nothing.
type Pin struct {
	c    *chunk
	rest []byte
}

// Rest is what is still to be written.
func (p *Pin) Rest() []byte { return p.rest }

// Advance drops the first n bytes of the rest and gives the chunk up when
// none are left. It reports whether that is so.
func (p *Pin) Advance(n int) (done bool) {
	p.rest = p.rest[n:]
	if len(p.rest) > 0 {
		return false
	}
	p.Drop()
	return true
}

// Drop gives the chunk up.
func (p *Pin) Drop() {
	if p.c != nil {
		p.c.unpin()
	}
	*p = Pin{}
}
