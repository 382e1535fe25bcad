package odin

import "fmt"

func spanned(why string, after, before uint64) string {
	return fmt.Sprintf("%s (after %d, before %d)", why, after, before)
}

// repair begins to fill the hole before a message: what comes of the channel is
// held back until the server has answered. Within mu.
func (c *Client) repair(ch *chain, f *frame) {
	ch.hole = &hole{to: *f.Prev}
	ch.hole.hold(f)
	from, to, epoch := ch.at()+1, *f.Prev, ch.epoch
	l := c.link
	if l == nil {
		return // the next connection resumes before the hole
	}
	c.push(l, &command{op: "replay", chain: ch}, func(id uint64) []byte {
		return marshal(map[string]any{"op": "replay", "id": id, "ch": ch.name, "epoch": epoch, "from": from, "to": to})
	})
}

// replayed is the end of a repair.
func (c *Client) replayed(ch *chain, answered bool) {
	h := ch.hole
	if h == nil || c.chains[ch.name] != ch {
		return
	}
	if answered && !h.bad && ch.at() >= h.to {
		c.stats.Repaired++
		ch.hole = nil
		c.release(ch, h)
		return
	}
	if ch.tried != ch.at()+1 {
		c.reconnect(ch, "a hole could not be filled by replay")
		return
	}
	ch.hole = nil
	c.giveUp(ch, firstSeq(h))
	c.release(ch, h)
}

// reconnect fills a hole the other way: a new connection resumes before it.
func (c *Client) reconnect(ch *chain, why string) {
	ch.tried = ch.at() + 1
	if l := c.link; l != nil && l.bad == nil {
		l.again = true
	}
	c.fail(&Error{Code: "unexplained", Channel: ch.name, Message: why + "; reconnecting before it"})
}

// giveUp tells of a hole that stays.
func (c *Client) giveUp(ch *chain, before uint64) {
	after := ch.at()
	ch.missing(before, WhyUnexplained, "")
	c.gap(ch.follow, ch, Gap{ch.name, after, before, WhyUnexplained, ""})
}

// release goes on with what was held back; another hole among it holds the rest.
func (c *Client) release(ch *chain, h *hole) {
	for i := range h.held {
		f := &h.held[i]
		switch {
		case ch.hole != nil:
			if !ch.hole.hold(f) {
				c.reconnect(ch, "too much came while a hole was being filled")
				return
			}
		case f.T == "gap":
			c.channelGap(ch, Gap{f.name, *f.After, *f.Before, f.Why, f.Epoch})
		default:
			c.takeMsg(ch, f)
		}
	}
}

// firstSeq is the number the first held message has.
func firstSeq(h *hole) uint64 {
	for i := range h.held {
		if h.held[i].Seq != nil {
			return *h.held[i].Seq
		}
	}
	return h.to + 1
}
