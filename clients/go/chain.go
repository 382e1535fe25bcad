package odin

// chain is what a client knows of one channel. Guarded by Client.mu.
type chain struct {
	name   string
	follow *follow // the name it is followed by

	epoch string // of seq and told
	seq   uint64 // the last message; 0: none yet
	exact bool   // seq is a message's own, so the next prev is it and no less
	told  uint64 // up to here everything was delivered, or announced as missing

	next   string // the epoch an ack named instead; its gap is still to come
	voided bool   // the epoch ended, and the new one's name isn't known yet

	done  Position // what Positions says: seq and told, once handled
	hole  *hole    // being repaired
	tried uint64   // where the hole begins that has cost a reconnect already; 0: none
}

// at is where the channel stands: everything up to it is accounted for.
func (c *chain) at() uint64 { return max(c.seq, c.told) }

func (c *chain) position() Position { return Position{c.epoch, c.at()} }

// start begins a chain at a position that is no message's.
func (c *chain) start(at Position) {
	c.epoch, c.seq, c.exact, c.told = at.Epoch, 0, false, at.Seq
	c.next, c.voided = "", false
	c.done = at
}

// resume begins a chain at a position whose messages have been handled.
func (c *chain) resume(at Position) {
	c.start(at)
	c.seq = at.Seq
}

type verdict int

const (
	accept       verdict = iota
	duplicate            // had before
	unexplained          // messages are missing, and nothing said so
	inconsistent         // nothing is missing, but prev is not what it must be
)

// check judges a message by the rule: prev is the last seq, or what lies between
// was announced, by a gap or by skip. toldToo is what a gap of the wildcard has
// announced.
func (c *chain) check(seq, prev uint64, skipped bool, toldToo uint64) verdict {
	switch {
	case seq <= c.seq:
		return duplicate
	case prev <= max(c.seq, c.told, toldToo):
		if c.exact && prev < c.seq {
			return inconsistent
		}
		return accept
	case skipped:
		return accept
	}
	return unexplained
}

// have notes a message as the last.
func (c *chain) have(seq uint64) {
	c.seq, c.exact, c.told = seq, true, 0
}

// missing notes an announced gap. epoch is the new one's name, if the gap says so.
func (c *chain) missing(before uint64, why, epoch string) {
	if why == WhyEpoch {
		if epoch == "" {
			epoch = c.next
		}
		if epoch != "" {
			c.epoch, c.next, c.voided = epoch, "", false
		} else {
			c.voided = true
		}
		c.seq, c.exact, c.told = 0, false, 0
	}
	if before > 0 {
		c.told = max(c.told, before-1)
	}
}

// hole is a jump that nothing explained, while the client tries to fill it.
type hole struct {
	to    uint64  // the last missing number
	held  []frame // what came after it, msg and gap
	bytes int
	bad   bool // the answer has a hole itself: the rest of it is not used
}

// Bounds of what is held back for one hole; beyond them the client reconnects.
const (
	maxHeld      = 4096
	maxHeldBytes = 8 << 20
)

// hold keeps a frame for after the repair, and reports whether it had room.
func (h *hole) hold(f *frame) bool {
	h.bytes += len(f.D) + 64
	if len(h.held) >= maxHeld || h.bytes > maxHeldBytes {
		return false
	}
	h.held = append(h.held, *f)
	return true
}
