package channel

import "slices"

// forgetAfter is how long a channel that nobody follows and that holds no
// messages is remembered, ms: long enough for a subscriber on its way.
const forgetAfter = 10_000

// trim drops what the log of ch has too much, and, past the budget, the oldest
// chunks of any log. Writer only.
func (h *Hub) trim(ch *Channel) {
	over := h.budget.used.Load() > h.budget.Limit()
	deadline := h.now - h.cfg.Grace.Milliseconds()
	if over {
		deadline = h.now + 1
	}
	before := len(ch.chunks)
	ch.trim(h.cfg.Keep, deadline)
	h.Counters.Trimmed.Add(uint64(before - len(ch.chunks)))
	for over && h.budget.used.Load() > h.budget.Limit() && h.evictOldest(ch) {
	}
	h.compact()
}

// evictOldest drops the oldest chunk of all logs but the only one of busy, whose
// newest message nobody has read yet. It reports false when there is none.
func (h *Hub) evictOldest(busy *Channel) bool {
	for range len(h.fifo) {
		o := h.fifo[0]
		h.fifo[0] = nil
		h.fifo = h.fifo[1:]
		if len(o.ch.chunks) == 0 || o.ch.chunks[0] != o.c {
			if o.live() {
				h.fifo = append(h.fifo, o) // behind a chunk that was passed over
			}
			continue
		}
		if o.ch == busy && len(o.ch.chunks) == 1 {
			h.fifo = append(h.fifo, o)
			continue
		}
		o.ch.dropOldest()
		h.Counters.Evicted.Add(1)
		return true
	}
	return false
}

// live reports whether the chunk is still in its log. Writer only.
func (o *logChunk) live() bool {
	return len(o.ch.chunks) > 0 && o.ch.chunks[0].first <= o.c.first
}

// compact forgets trimmed chunks at the front of the age list, so that it is no
// longer than the chunks there are, give or take the untrimmed in between.
func (h *Hub) compact() {
	for len(h.fifo) > 0 {
		if h.fifo[0].live() {
			return
		}
		h.fifo[0] = nil
		h.fifo = h.fifo[1:]
	}
}

// Tick trims quiet channels and forgets empty ones. Call it about once a
// second, from any goroutine.
func (h *Hub) Tick() {
	h.write.Lock()
	defer h.write.Unlock()
	h.now = h.cfg.Now()
	all := h.all()
	for _, ch := range all {
		h.trim(ch)
	}
	h.hush(all)
	h.sweepFIFO()
	h.full = false
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sorted = slices.DeleteFunc(h.sorted, func(ch *Channel) bool {
		if len(ch.chunks) > 0 || h.needs(ch) {
			return false
		}
		h.gone(ch)
		return true
	})
}

// sweepFIFO drops entries of trimmed chunks behind a live one.
func (h *Hub) sweepFIFO() {
	kept := h.fifo[:0]
	for _, o := range h.fifo {
		if o.live() {
			kept = append(kept, o)
		}
	}
	clear(h.fifo[len(kept):])
	h.fifo = kept
}

// gone forgets a channel that was taken out of sorted. What it held can't be
// resumed from here any more. Writer only, with h.mu held.
func (h *Hub) gone(ch *Channel) {
	delete(h.channels, ch.Name)
	if ch.seq != ch.Origin() {
		h.raiseBase(ch.seq)
	}
	if ch.bare {
		h.bare--
	}
	h.Counters.ChannelsGone.Add(1)
}

// needs reports whether a channel may not be forgotten: it has followers, or will have
// once a shard has looked, or somebody has just asked for it. Writer only.
func (h *Hub) needs(ch *Channel) bool {
	return ch.followed() || ch.unseen.Load() != 0 || h.now-ch.added <= forgetAfter
}

// forgetOne makes room for a channel by forgetting one that nobody follows.
// Writer only, with h.mu held.
func (h *Hub) forgetOne() bool {
	if h.full {
		return false // until Tick: a flood of new names must not scan them all each time
	}
	for name, ch := range h.channels {
		if h.needs(ch) {
			continue
		}
		for len(ch.chunks) > 0 {
			ch.dropOldest()
		}
		i := h.place(name)
		h.sorted = slices.Delete(h.sorted, i, i+1)
		h.gone(ch)
		return true
	}
	h.full = true
	return false
}
