package channel

import (
	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/wire"
)

// The reasons of a gap frame that a hub gives; the others are a connection's own.
const (
	WhyBroker  = "broker"
	WhyInvalid = "invalid"
	WhyEpoch   = "epoch"
	WhyEvicted = "evicted"
	WhySlow    = "slow"
)

var _ broker.Sink = (*Hub)(nil)

// Open implements broker.Sink.
func (h *Hub) Open(epoch string, head uint64) {
	h.write.Lock()
	defer h.write.Unlock()
	h.now = h.cfg.Now()
	old := h.Epoch()
	if old == epoch {
		return
	}
	was := h.head.Swap(head)
	h.base.Store(head)
	h.hole = 0
	if old != "" {
		h.Counters.Epochs.Add(1)
	}
	h.beginEpoch(epoch, head)
	for s := range h.inboxes {
		h.leave(s, nil, nil, &Missed{After: was, Before: head + 1, Epoch: epoch})
	}
	// Last: who reads the new epoch finds every log reborn.
	h.mu.Lock()
	h.epoch = epoch
	h.mu.Unlock()
}

// Live implements broker.Sink: those who were told that what they see may be
// old have caught up.
func (h *Hub) Live() {
	h.write.Lock()
	defer h.write.Unlock()
	h.now = h.cfg.Now()
	h.stale.Store(false)
	for _, ch := range h.all() {
		if ch.told {
			ch.told = false
			if !ch.quiet {
				h.say(ch, Live)
			}
		}
	}
}

// beginEpoch voids every channel's numbers, and says so: also at the first, to who
// was there before the broker was reached and has a position in no epoch.
func (h *Hub) beginEpoch(epoch string, head uint64) {
	for _, ch := range h.all() {
		old := ch.seq
		ch.mu.Lock()
		ch.seq, ch.newest, ch.epochOrd, ch.epochPrev, ch.reborn = head, 0, ch.next, old, epoch
		ch.mu.Unlock()
		ch.from, ch.upTo = 0, head
		ch.origin.Store(head)
		ch.guess.Store(true)
		h.appendEntry(ch, wire.AppendEpochGap(h.scratch[:0], ch.Name, old, head+1, epoch), head)
	}
}

// Down implements broker.Sink: everyone is told that what they see may be old.
func (h *Hub) Down(error) {
	h.write.Lock()
	defer h.write.Unlock()
	if h.stale.Swap(true) { // with the lock held: Follow waits until all are told
		return
	}
	h.now = h.cfg.Now()
	for _, ch := range h.all() {
		if ch.followed() && !ch.told {
			ch.told = true
			if !ch.quiet {
				h.say(ch, Stale)
			}
		}
	}
}

// hush tells the followers of channels that have been silent for too long.
// Writer only.
func (h *Hub) hush(all []*Channel) {
	for _, ch := range all {
		if ch.still == 0 || ch.quiet || h.now-ch.heard < ch.still {
			continue
		}
		ch.quiet = true
		h.Counters.Silences.Add(1)
		if ch.followed() && !ch.told {
			h.say(ch, Stale)
		}
	}
}

// wakeUp notes that a channel has a message; who was told that it is stale is
// told that it no longer is. Writer only.
func (h *Hub) wakeUp(ch *Channel) {
	ch.heard = h.now
	if !ch.quiet {
		return
	}
	ch.quiet = false
	if ch.followed() && !ch.told {
		h.say(ch, Live)
	}
}

// Lost implements broker.Sink. Nothing says which channels the lost messages
// were on, so every channel's log says that there may have been some, for its
// followers and for who resumes there; for channels not known those who follow
// wildcards are told, and for who resumes there is the base.
func (h *Hub) Lost(after, before uint64) {
	h.write.Lock()
	defer h.write.Unlock()
	h.now = h.cfg.Now()
	h.hole = before
	h.head.Store(max(h.head.Load(), before-1))
	h.raiseBase(before - 1)
	for _, ch := range h.all() {
		if ch.seq+1 < before {
			h.gap(ch, before)
		}
	}
	for s := range h.inboxes {
		h.leave(s, nil, nil, &Missed{After: after, Before: before})
	}
}

// gap announces that messages between ch's head and before may be missing. It
// moves the head to the hole's end, so that who resumes before it, or loses this
// entry to the budget, is told of the hole too; the chain goes on from any prev
// in it. Writer only.
func (h *Hub) gap(ch *Channel, before uint64) {
	h.Counters.Gaps.Add(1)
	after := ch.seq
	if ch.seq != ch.upTo {
		ch.from = ch.seq
	}
	ch.upTo = before - 1
	h.appendEntry(ch, wire.AppendGap(h.scratch[:0], ch.Name, after, before, WhyBroker), ch.upTo)
}

// Message implements broker.Sink: it numbers nothing, it checks the broker's
// numbers against the channel's chain, and explains every jump.
func (h *Hub) Message(m *broker.Message) {
	h.write.Lock()
	defer h.write.Unlock()
	h.now = h.cfg.Now()
	h.head.Store(max(h.head.Load(), m.Seq))

	ch := h.Lookup(m.Channel)
	if ch == nil {
		if !wire.ValidChannel(m.Channel) {
			h.Counters.BadChannel.Add(1)
			return
		}
		// With nothing stored before it, the channel is new, or what it had has aged
		// out: up to the base only the stream can say.
		seq, guess := m.Prev, m.Prev == 0
		if guess {
			seq = min(h.base.Load(), m.Seq-1)
		}
		if ch = h.add(m.Channel, seq, false, guess); ch == nil {
			h.refuse(m)
			return
		}
	}
	if ch.bare {
		ch.bare = false
		h.bare--
		ch.debut.ord, ch.debut.seq = ch.Head()
		h.announce(ch)
	}
	if m.Seq <= ch.seq {
		h.Counters.Late.Add(1)
		return
	}
	prev := h.chain(ch, m)
	h.wakeUp(ch)
	if len(m.Data) > h.cfg.MaxPayload || !wire.ValidPayload(m.Data) {
		h.Counters.Invalid.Add(1)
		h.appendEntry(ch, wire.AppendGap(h.scratch[:0], ch.Name, ch.seq, m.Seq+1, WhyInvalid), m.Seq)
		return
	}
	n := wire.MsgFrameLen(ch.Name, m.Seq, prev, m.Time, len(m.Data))
	entry := wire.AppendMsg(h.room(ch, n), ch.Name, m.Seq, prev, m.Time, m.Data)
	h.Counters.Messages.Add(1)
	h.publish(ch, entry, m.Seq, m.Stored(), false)
}

// refuse passes over a message whose channel there is no place for. Those whose
// wildcards match it are told. Writer only.
func (h *Hub) refuse(m *broker.Message) {
	h.Counters.NoChannel.Add(1)
	h.raiseBase(m.Seq)
	for s := range h.inboxes {
		h.leave(s, nil, nil, &Missed{Channel: m.Channel, After: m.Prev, Before: m.Seq + 1})
	}
}

// raiseBase notes that this node can no longer vouch for channels it doesn't
// know, up to with seq. Writer only.
func (h *Hub) raiseBase(seq uint64) { h.base.Store(max(h.base.Load(), seq)) }

// chain returns the prev that m's frame is to carry, after announcing a hole
// where there is one. Writer only.
func (h *Hub) chain(ch *Channel, m *broker.Message) uint64 {
	prev := ch.seq
	if ch.seq == ch.upTo {
		prev = ch.from // the head is the end of a hole
	}
	switch {
	case m.Prev > ch.seq:
		h.gap(ch, m.Seq)
		return m.Prev
	case m.Prev < prev && ch.seq+1 < min(h.hole, m.Seq):
		// The one before has aged out of the stream, or the broker went back on
		// its word; our own head is the truth only if we saw everything.
		h.gap(ch, m.Seq)
		return prev
	default:
		return max(m.Prev, prev)
	}
}

// appendEntry appends frames that carry no message. seq is the channel's head
// after them. Writer only.
func (h *Hub) appendEntry(ch *Channel, frame []byte, seq uint64) {
	h.scratch = frame
	h.publish(ch, append(h.room(ch, len(frame)), frame...), seq, 0, true)
}

// say appends word of how fresh a channel is. Writer only.
func (h *Hub) say(ch *Channel, f Freshness) {
	frame := wire.AppendStale
	if f == Live {
		frame = wire.AppendLive
	}
	h.appendEntry(ch, frame(h.scratch[:0], ch.Name), ch.seq)
	ch.fresh.Store(uint32(f))
}

// room is Log.room, remembering a new chunk's age. Writer only.
func (h *Hub) room(ch *Channel, n int) []byte {
	k := len(ch.chunks)
	var newest *chunk
	if k > 0 {
		newest = ch.chunks[k-1]
	}
	room := ch.room(n, ch.seq, h.now)
	if c := ch.chunks[len(ch.chunks)-1]; c != newest {
		h.fifo = append(h.fifo, &logChunk{ch, c})
	}
	return room
}

// publish makes an entry visible, trims, and marks; stored as in Log.publish. Writer
// only.
func (h *Hub) publish(ch *Channel, entry []byte, seq uint64, stored int64, note bool) {
	ch.publish(entry, seq, h.now, stored, note)
	h.Counters.Bytes.Add(uint64(len(entry)))
	h.trim(ch)
	h.mark(ch)
}

// all returns the channels, so that the map's lock isn't held while their logs
// are written. Writer only, and rare.
func (h *Hub) all() []*Channel {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]*Channel, 0, len(h.channels))
	for _, ch := range h.channels {
		all = append(all, ch)
	}
	return all
}
