package gateway

import (
	"slices"
	"strings"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// subWild subscribes to every channel of a prefix, existing now or later.
func (s *shard) subWild(r connRef, c *slot, cmd *subCommand, name, prefix string, pos *wire.Position) joined {
	hub := s.g.hub
	j := joined{seq: cmd.head}
	e := s.extOf(c)
	for i := range e.wild {
		if e.wild[i].prefix == prefix {
			s.changeWild(r, c, &e.wild[i], c.variantOf(cmd.Command))
			return j
		}
	}
	var matches []*channel.Channel
	fresh, room := 1, s.live.MaxSubscriptions-s.subCount(c)
	hub.Match(prefix, func(ch *channel.Channel) bool {
		if ch.Named() {
			return true
		}
		matches = append(matches, ch)
		if !s.isMember(c, ch) {
			fresh++
		}
		return fresh <= room
	})
	cost := wildCost(prefix)
	if fresh > room || !s.roomFor(c, fresh) || s.g.more.Load()+int64(cost) > int64(s.live.MoreSubscriptions) {
		s.settle(c)
		j.reject = "limit"
		return j
	}
	if pos != nil {
		j.recovered = &yes
		// Channels this node has not heard of, or has forgotten, may have had
		// messages up to the base: unless the stream was asked for them, it can't
		// vouch for them, and says so.
		base, vouched := hub.Base(), cmd.vouched[prefix]
		switch {
		case pos.Epoch != cmd.epoch:
			j.lost()
			cmd.gaps = wire.AppendEpochGap(cmd.gaps, name, pos.Seq, cmd.head+1, cmd.epoch)
			s.g.count.GapsEpoch.Add(1)
		case pos.Seq < base && base > vouched:
			j.lost()
			cmd.gaps = wire.AppendGap(cmd.gaps, name, pos.Seq, base+1, channel.WhyEvicted)
			s.g.count.GapsEvicted.Add(1)
		case pos.Seq < base && !cmd.holds(pos.Seq):
			// A channel all of whose messages have aged out is one nobody knows of.
			j.lost()
			before := base + 1
			if cmd.err == nil {
				before = min(cmd.first, before)
			}
			cmd.gaps = wire.AppendGap(cmd.gaps, name, pos.Seq, before, channel.WhyEvicted)
			s.g.count.GapsEvicted.Add(1)
		}
	}
	v := c.variantOf(cmd.Command)
	s.g.more.Add(int64(cost))
	e.wild = append(e.wild, wildSub{prefix, v})
	s.wild[prefix] = append(s.wild[prefix], wildMember{r, v})
	for _, ch := range matches {
		if s.isMember(c, ch) {
			continue // where it stands, and how it goes on, is not changed
		}
		p := pos
		if own, has := cmd.Since[ch.Name]; has {
			p = &own
		}
		if p == nil && !cmd.Snap {
			// What came after the ack's head was counted in, before the channels
			// were listed, is owed.
			p = &wire.Position{Epoch: cmd.epoch, Seq: cmd.head}
		}
		one := s.subOne(r, c, cmd, ch, p, 0)
		if one.recovered == &no {
			j.lost()
		}
	}
	return j
}

// wildCost is what a wildcard draws on the subscriptions that all share, whether
// it matches anything or not: its prefix, its places with the connection and with
// the shard, and the shard's entry for the prefix, about 350 B.
func wildCost(prefix string) int {
	return (320+2*len(prefix))/capacity.SubscriptionCost + 1
}

// changeWild makes a wildcard, and what only it matched, go on in another way.
func (s *shard) changeWild(r connRef, c *slot, w *wildSub, v variant) {
	if w.variant == v {
		return
	}
	w.variant = v
	for i := range s.wild[w.prefix] {
		if m := &s.wild[w.prefix][i]; m.connRef == r {
			m.variant = v
		}
	}
	var of []*channel.Channel
	for _, n := range c.subs {
		if ch := s.chans[n.chanID].ch; !n.explicit() && strings.HasPrefix(ch.Name, w.prefix) {
			of = append(of, ch)
		}
	}
	for _, ch := range of {
		if at, ok := s.subOf(c, ch); ok {
			s.change(c, at, v)
		}
	}
}

// matchWild subscribes those whose wildcards match a channel that is new to the
// node, from its first message on.
func (s *shard) matchWild(ch *channel.Channel) {
	if len(s.wild) == 0 {
		return
	}
	for i := 0; i < len(ch.Name); i++ {
		if ch.Name[i] != '.' {
			continue
		}
		for _, w := range s.wild[ch.Name[:i+1]] {
			c := s.slots.get(w.connRef)
			if c == nil || s.isMember(c, ch) {
				continue
			}
			if !s.roomFor(c, 1) {
				s.g.count.WildcardOverflow.Add(1)
				s.g.count.GapsEvicted.Add(1)
				_, after := ch.Debut()
				var head uint64
				s.g.hub.Steady(func() { _, head = ch.Head() }) // with the message that made it known
				s.wbuf = wire.AppendGap(s.wbuf[:0], ch.Name, after, head+1, channel.WhyEvicted)
				s.wbuf = wire.AppendRefusedMatch(s.wbuf, ch.Name)
				s.send(w.connRef, c, s.wbuf)
				continue
			}
			sc := s.attach(ch, w.variant)
			if sc == nil {
				return // forgotten again
			}
			// All of it, what was trimmed too, came after the wildcard's ack, or the
			// channel would have been listed then.
			at := place{}
			at.ord, at.seq = ch.Debut()
			var gaps []byte
			s.g.hub.Steady(func() { gaps = s.enter(c, w.connRef, sc, at, s.gaps[:0]) })
			s.gaps = gaps[:0]
			if len(gaps) > 0 {
				s.send(w.connRef, c, gaps)
			}
			s.catchUp(w.connRef)
		}
	}
}

// tellMissed tells those who follow wildcards what they miss of channels that have
// no log here to say it.
func (s *shard) tellMissed() {
	for _, m := range s.g.hub.TakeMissed(s.id) {
		if m.Channel == "" {
			for prefix, members := range s.wild {
				s.tellWild(prefix+"*", members, &m)
			}
			continue
		}
		for i := 0; i < len(m.Channel); i++ {
			if m.Channel[i] == '.' {
				s.tellWild(m.Channel, s.wild[m.Channel[:i+1]], &m)
			}
		}
	}
}

// tellWild tells the followers of a wildcard what they miss of name.
func (s *shard) tellWild(name string, members []wildMember, m *channel.Missed) {
	why := channel.WhyBroker
	if m.Channel != "" {
		why = channel.WhyEvicted
	}
	frame := wire.AppendGap(nil, name, m.After, m.Before, why)
	if m.Epoch != "" {
		why = channel.WhyEpoch
		frame = wire.AppendEpochGap(nil, name, m.After, m.Before, m.Epoch)
	}
	for _, w := range slices.Clone(members) { // who doesn't take it is taken out
		if c := s.slots.get(w.connRef); c != nil && c.state == stateOpen {
			s.g.count.gap(why)
			s.send(w.connRef, c, frame)
		}
	}
}

// unsubWild takes a wildcard back, with the channels only it matched.
func (s *shard) unsubWild(r connRef, c *slot, prefix string) {
	if c.ext == nil {
		return
	}
	found := false
	for i, w := range c.ext.wild {
		if w.prefix == prefix {
			c.ext.wild = append(c.ext.wild[:i], c.ext.wild[i+1:]...)
			found = true
			break
		}
	}
	if !found {
		return
	}
	s.dropWild(r, prefix)
	s.g.more.Add(-int64(wildCost(prefix)))
	for at := 0; at < len(c.subs); {
		n := c.subs[at]
		if name := s.chans[n.chanID].ch.Name; !n.explicit() && strings.HasPrefix(name, prefix) && !c.matched(name) {
			s.leave(c, at)
			continue
		}
		at++
	}
}

// matched reports whether a wildcard of the connection matches a channel.
func (c *slot) matched(name string) bool {
	if c.ext == nil {
		return false
	}
	for _, w := range c.ext.wild {
		if strings.HasPrefix(name, w.prefix) {
			return true
		}
	}
	return false
}

func (s *shard) dropWild(r connRef, prefix string) {
	ms := s.wild[prefix]
	for i := range ms {
		if ms[i].connRef == r {
			ms[i] = ms[len(ms)-1]
			ms = ms[:len(ms)-1]
			break
		}
	}
	if len(ms) == 0 {
		delete(s.wild, prefix)
		return
	}
	s.wild[prefix] = ms
}
