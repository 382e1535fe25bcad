package channel

import (
	"sort"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/wire"
)

// Block is a piece of a channel's past as frames, the same bytes that its log
// held when they were news. It never changes, and any goroutine may read it.
// Nothing in it is charged to the logs' Budget: its owner counts Size.
type Block struct {
	// After and Through say what it covers: all there is of the channel with
	// After < seq ≤ Through.
	After, Through uint64
	// First is the stream's oldest sequence when it was read: what is not in the
	// block and was before First may have been dropped by retention.
	First uint64

	buf  []byte
	offs []uint32
	seqs []uint64 // the channel's head after each entry
	gap  bool     // it begins with a gap that is true from After on only
}

// Size is what the block costs, bytes.
func (b *Block) Size() int64 {
	return chunkCost + int64(cap(b.buf)) + int64(cap(b.offs))*blockEntry
}

// Empty reports whether there is nothing in it.
func (b *Block) Empty() bool { return len(b.seqs) == 0 }

// Lost reports whether a reader that has everything up to seq misses something
// before the block's first message, or, where it is empty, up to Through:
// retention may have dropped it.
func (b *Block) Lost(seq uint64) bool {
	return seq == b.After && (b.gap || b.Empty() && b.First > seq+1)
}

// Has reports whether a reader that has everything up to seq goes on here. Where
// the block begins with a gap, the message behind it gives the gap's begin as its
// prev: that is true for a reader from After only.
func (b *Block) Has(seq uint64) bool {
	return seq >= b.After && seq < b.Through && (!b.gap || seq == b.After || len(b.seqs) > 1 && seq >= b.seqs[1])
}

// Read returns the entries after seq, up to and with sequence to, as one span;
// without Bytes when there are none.
func (b *Block) Read(seq, to uint64) Span {
	i := sort.Search(len(b.seqs), func(i int) bool { return b.seqs[i] > seq })
	j := sort.Search(len(b.seqs), func(i int) bool { return b.seqs[i] > to })
	if i >= j {
		return Span{}
	}
	end := len(b.buf)
	if j < len(b.offs) {
		end = int(b.offs[j])
	}
	return Span{
		Bytes: b.buf[b.offs[i]:end:end],
		First: uint64(i),
		Next:  uint64(j),
		Seq:   b.seqs[j-1],
		Gap:   b.gap && i == 0,
		base:  b.offs[i],
		offs:  b.offs[i:j],
		seqs:  b.seqs[i:j],
	}
}

func (b *Block) add(seq uint64, frame func(dst []byte) []byte) {
	b.offs = append(b.offs, uint32(len(b.buf)))
	b.buf = frame(b.buf)
	b.seqs = append(b.seqs, seq)
}

// NewBlock encodes a page of name's stored messages, read for From = after+1 and
// To = to. Before its first message a gap says what the stream no longer holds,
// and so are messages that no node may deliver, as they were in the log.
func NewBlock(name string, after, to uint64, page *broker.Page, maxPayload int) *Block {
	b := &Block{After: after, Through: to, First: page.First}
	size := 0
	for i := range page.Messages {
		size += wire.MsgFrameLen(name, page.Last, page.Last, page.Messages[i].Time, len(page.Messages[i].Data))
	}
	b.buf = make([]byte, 0, size+128)
	b.offs = make([]uint32, 0, len(page.Messages)+1)
	b.seqs = make([]uint64, 0, len(page.Messages)+1)
	// What is gone is what the stream had before its first, unless the message
	// before ours is still there: then nothing lay between.
	whole := page.First <= after+1
	for i := range page.Messages {
		m := &page.Messages[i]
		prev := m.Prev
		if i == 0 && prev == 0 && page.First > 1 {
			// Nothing is stored before it: it followed the reader's own position,
			// or what is gone since.
			if prev = after; !whole && m.Seq > after+1 {
				b.gap = true
				b.add(m.Seq-1, func(dst []byte) []byte { return wire.AppendGap(dst, name, after, m.Seq, WhyEvicted) })
			}
		}
		b.add(m.Seq, func(dst []byte) []byte {
			if len(m.Data) > maxPayload || !wire.ValidPayload(m.Data) {
				return wire.AppendGap(dst, name, prev, m.Seq+1, WhyInvalid)
			}
			return wire.AppendMsg(dst, name, m.Seq, prev, m.Time, m.Data)
		})
	}
	switch n := len(page.Messages); {
	case n > 0:
		b.Through = page.Messages[n-1].Seq
	case page.More:
		b.Through = after
	default:
		b.Through = max(after, min(to, page.Last))
	}
	return b
}

// Copy makes a block of what the log has with after < seq ≤ to, as far as about
// max bytes go; nil when the log's memory does not reach back to after. What
// is no message and no gap is left out.
func (ch *Channel) Copy(after, to uint64, max int) *Block {
	ord, _, complete := ch.After(after)
	if !complete {
		return nil
	}
	b := &Block{After: after, Through: to}
	head := after // the channel's head before the entry looked at
	for len(b.buf) < max {
		span, ok := ch.Read(ord)
		if !ok {
			return nil // trimmed this moment
		}
		if len(span.Bytes) == 0 {
			return b
		}
		for i, seq := range span.seqs {
			if len(b.buf) >= max {
				b.Through = b.seqs[len(b.seqs)-1]
				return b
			}
			end := len(span.Bytes)
			if i+1 < len(span.offs) {
				end = int(span.offs[i+1] - span.base)
			}
			frame := span.Bytes[span.offs[i]-span.base : end]
			switch {
			case seq > to && wire.IsGap(frame) && head < to:
				// A hole that begins in the range and ends behind it.
				b.add(to, func(dst []byte) []byte { return wire.AppendGap(dst, ch.Name, head, to+1, WhyBroker) })
				return b
			case seq > to:
				return b
			case seq > after && wire.IsContent(frame):
				b.add(seq, func(dst []byte) []byte { return append(dst, frame...) })
			}
			head = seq
		}
		ord = span.Next
	}
	b.Through = b.seqs[len(b.seqs)-1]
	return b
}
