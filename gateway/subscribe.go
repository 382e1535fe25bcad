package gateway

import (
	"sort"
	"strings"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// joined is what the ack says of one name.
type joined struct {
	seq       uint64
	recovered *bool
	reject    string
}

var yes, no = true, false

// attach returns the shard's side of a channel, making one; nil when the hub
// has forgotten the channel.
func (s *shard) attach(ch *channel.Channel) *shardChan {
	if id, ok := s.chanIDs[ch]; ok {
		return s.chans[id]
	}
	if !s.g.hub.Attach(s.id, ch) {
		return nil
	}
	sc := &shardChan{ch: ch}
	if n := len(s.freeChans); n > 0 {
		sc.id = s.freeChans[n-1]
		s.freeChans = s.freeChans[:n-1]
		s.chans[sc.id] = sc
	} else {
		sc.id = uint32(len(s.chans))
		s.chans = append(s.chans, sc)
	}
	s.chanIDs[ch] = sc.id
	return sc
}

// detach undoes attach after the last member left.
func (s *shard) detach(sc *shardChan) {
	s.g.hub.Detach(s.id, sc.ch)
	delete(s.chanIDs, sc.ch)
	s.chans[sc.id] = nil
	s.freeChans = append(s.freeChans, sc.id)
	if sc.queued {
		for i, q := range s.queue {
			if q == sc {
				s.queue = append(s.queue[:i], s.queue[i+1:]...)
				break
			}
		}
	}
}

// addSub puts a subscription in its place.
func (c *slot) addSub(at int, n sub) {
	if c.subs == nil {
		c.subs = make([]sub, 0, 1) // most have one
	}
	c.subs = append(c.subs, sub{})
	copy(c.subs[at+1:], c.subs[at:])
	c.subs[at] = n
}

// leave takes a connection out of a channel; at is the index in c.subs.
func (s *shard) leave(c *slot, at int) {
	n := c.subs[at]
	if len(c.subs) > capacity.IncludedSubscriptions {
		s.g.more.Add(-1)
	}
	c.subs = append(c.subs[:at], c.subs[at+1:]...)
	if len(c.subs) == 0 {
		c.subs = nil
	}
	s.g.count.Subscriptions.Add(-1)
	s.removeMember(s.chans[n.chanID], n.member())
}

func (s *shard) removeMember(sc *shardChan, index uint32) {
	sc.Remove(index, func(conn, index uint32) {
		c := s.slots.at(conn)
		if i, ok := c.findSub(sc.id); ok {
			c.subs[i].index = index | c.subs[i].index&explicitSub
		}
	})
	if sc.Len() == 0 {
		s.detach(sc)
	}
}

// leaveAll takes a connection out of everything.
func (s *shard) leaveAll(r connRef, c *slot) {
	s.g.count.Subscriptions.Add(-int64(len(c.subs)))
	s.g.more.Add(-int64(max(0, len(c.subs)-capacity.IncludedSubscriptions)))
	subs := c.subs
	for _, n := range subs {
		s.removeMember(s.chans[n.chanID], n.member())
	}
	c.subs = nil
	if c.ext != nil {
		for _, prefix := range c.ext.wild {
			s.dropWild(r, prefix)
		}
		c.ext.wild = nil
	}
}

// join makes a connection a member of a channel, or finds that it is one.
func (s *shard) join(c *slot, r connRef, ch *channel.Channel, explicit bool, from uint64, gap []byte) (out []byte, ok bool) {
	sc := s.attach(ch)
	if sc == nil {
		return gap, false
	}
	at, is := c.findSub(sc.id)
	if is {
		if explicit {
			c.subs[at].index |= explicitSub
		}
		return gap, true
	}
	ord, before, complete := ch.After(from)
	if !complete {
		gap = wire.AppendGap(gap, ch.Name, from, before, channel.WhyEvicted)
		s.g.count.GapsEvicted.Add(1)
		from = before - 1
	}
	return s.enter(c, r, sc, at, explicit, ord, from, gap), true
}

// enter makes a connection a member that stands at ord, after sequence seq; at
// is its place in c.subs.
func (s *shard) enter(c *slot, r connRef, sc *shardChan, at int, explicit bool, ord, seq uint64, gap []byte) []byte {
	m := channel.Member{Conn: r.index}
	m.Move(ord, seq)
	index := sc.Add(m)
	if explicit {
		index |= explicitSub
	}
	c.addSub(at, sub{chanID: sc.id, index: index})
	s.g.count.Subscriptions.Add(1)
	if len(c.subs) > capacity.IncludedSubscriptions {
		s.g.more.Add(1)
	}
	if s.g.hub.Follow(sc.ch) {
		gap = wire.AppendStale(gap, sc.ch.Name)
	}
	return gap
}

// isMember reports whether a connection follows a channel.
func (s *shard) isMember(c *slot, ch *channel.Channel) bool {
	id, ok := s.chanIDs[ch]
	if !ok {
		return false
	}
	_, is := c.findSub(id)
	return is
}

// sub carries out a sub command whose channels the hub knows by now.
func (s *shard) sub(r connRef, c *slot, cmd *wire.Command) {
	var frame, gaps []byte
	// The ack's epoch, heads and positions are of one moment.
	s.g.hub.Steady(func() { frame, gaps = s.subSteady(r, c, cmd) })
	s.wbuf = frame[:0]
	s.gaps = gaps[:0]
	if !s.send(r, c, frame) {
		return
	}
	if len(gaps) > 0 && !s.send(r, c, gaps) {
		return
	}
	s.catchUp(r)
}

// subSteady makes the memberships of a sub command and the frames that answer
// it: the ack, and what explains the positions. Within Hub.Steady.
func (s *shard) subSteady(r connRef, c *slot, cmd *wire.Command) (frame, gaps []byte) {
	hub := s.g.hub
	epoch, head := hub.Epoch(), hub.Head()
	ack := wire.NewAck(s.wbuf[:0], cmd.ID)
	gaps = s.gaps[:0]
	seen := make(map[string]struct{}, len(cmd.Ch))
	for _, name := range cmd.Ch {
		if _, twice := seen[name]; twice {
			continue
		}
		seen[name] = struct{}{}
		prefix, wildcard, ok := wire.ParsePattern(name)
		if !ok {
			ack.Reject(name, "bad_channel")
			continue
		}
		var pos *wire.Position
		if p, has := cmd.Since[name]; has {
			pos = &p
		}
		if pos != nil && epoch == "" {
			ack.Reject(name, "unrecoverable") // the broker hasn't been reached yet: try again later
			continue
		}
		if pos != nil && pos.Epoch == epoch && pos.Seq > hub.Head() {
			ack.Reject(name, "bad_position")
			continue
		}
		if wildcard {
			var j joined
			gaps, j = s.subWild(r, c, name, prefix, pos, cmd, epoch, head, gaps)
			if j.reject != "" {
				ack.Reject(name, j.reject)
			} else {
				ack.Channel(name, epoch, j.seq, j.recovered)
			}
			continue
		}
		ch := hub.Lookup(name)
		if ch == nil {
			ack.Reject(name, "limit") // the pool made it known, unless the node is full
			continue
		}
		if !s.isMember(c, ch) && !s.roomFor(c, 1) {
			ack.Reject(name, "limit")
			continue
		}
		var j joined
		gaps, j = s.subOne(r, c, ch, pos, cmd.Snap, true, epoch, gaps)
		if j.reject != "" {
			ack.Reject(name, j.reject)
		} else {
			ack.Channel(name, epoch, j.seq, j.recovered)
		}
	}
	return ack.Done(), gaps
}

// catchUp writes what a new position has behind it.
func (s *shard) catchUp(r connRef) {
	if c := s.slots.get(r); c != nil {
		s.flushBehind(r, c)
	}
}

// subOne subscribes to one channel.
func (s *shard) subOne(r connRef, c *slot, ch *channel.Channel, pos *wire.Position, snap, explicit bool, epoch string, gaps []byte) ([]byte, joined) {
	_, head := ch.Head()
	j := joined{seq: head}
	from := head
	switch {
	case s.isMember(c, ch):
		// Once is enough; where it stands is not changed.
	case pos != nil && pos.Epoch != epoch:
		j.recovered = &no
		gaps = wire.AppendGap(gaps, ch.Name, pos.Seq, head+1, channel.WhyEpoch)
		s.g.count.GapsEpoch.Add(1)
	case pos != nil:
		_, _, complete := ch.After(pos.Seq)
		j.recovered = &yes
		if !complete {
			j.recovered = &no
		}
		from = pos.Seq
	case snap && head > 0:
		// The last message, if the log has it, comes first.
		if _, _, complete := ch.After(head - 1); complete {
			from = head - 1
		}
	}
	gaps, ok := s.join(c, r, ch, explicit, from, gaps)
	if !ok {
		j.reject = "limit"
	}
	return gaps, j
}

// subCount is what counts against MaxSubscriptions.
func (s *shard) subCount(c *slot) int {
	n := len(c.subs)
	if c.ext != nil {
		n += len(c.ext.wild)
	}
	return n
}

// roomFor reports whether a connection may have n more subscriptions: its own
// limit, and, beyond those included, what all share.
func (s *shard) roomFor(c *slot, n int) bool {
	have := s.subCount(c)
	if have+n > s.g.cfg.MaxSubscriptions {
		return false
	}
	more := max(0, have+n-capacity.IncludedSubscriptions) - max(0, have-capacity.IncludedSubscriptions)
	return more == 0 || s.g.more.Load()+int64(more) <= int64(s.g.cfg.MoreSubscriptions)
}

// subWild subscribes to every channel of a prefix, existing now or later.
func (s *shard) subWild(r connRef, c *slot, name, prefix string, pos *wire.Position, cmd *wire.Command, epoch string, head uint64, gaps []byte) ([]byte, joined) {
	hub := s.g.hub
	j := joined{seq: head}
	e := s.extOf(c)
	for _, w := range e.wild {
		if w == prefix {
			return gaps, j
		}
	}
	var matches []*channel.Channel
	fresh, room := 1, s.g.cfg.MaxSubscriptions-s.subCount(c)
	hub.Match(prefix, func(ch *channel.Channel) bool {
		matches = append(matches, ch)
		if !s.isMember(c, ch) {
			fresh++
		}
		return fresh <= room
	})
	if fresh > room || !s.roomFor(c, fresh) {
		s.settle(c)
		j.reject = "limit"
		return gaps, j
	}
	if pos != nil {
		// Channels this node has not heard of, or has forgotten, may have had
		// messages up to the base: it can't vouch for them, and says so.
		j.recovered = &yes
		switch base := hub.Base(); {
		case pos.Epoch != epoch:
			j.recovered = &no
			gaps = wire.AppendGap(gaps, name, pos.Seq, head+1, channel.WhyEpoch)
			s.g.count.GapsEpoch.Add(1)
		case pos.Seq < base:
			j.recovered = &no
			gaps = wire.AppendGap(gaps, name, pos.Seq, base+1, channel.WhyEvicted)
			s.g.count.GapsEvicted.Add(1)
		}
	}
	e.wild = append(e.wild, prefix)
	s.wild[prefix] = append(s.wild[prefix], wildMember{r})
	for _, ch := range matches {
		if own, has := cmd.Since[ch.Name]; has {
			var one joined
			gaps, one = s.subOne(r, c, ch, &own, cmd.Snap, false, epoch, gaps)
			if one.recovered != nil && !*one.recovered {
				j.recovered = &no
			}
			continue
		}
		p := pos
		if p == nil && !cmd.Snap {
			// What came after the ack's head was counted in, before the channels
			// were listed, is owed.
			p = &wire.Position{Epoch: epoch, Seq: head}
		}
		var one joined
		gaps, one = s.subOne(r, c, ch, p, cmd.Snap, false, epoch, gaps)
		if pos != nil && one.recovered != nil && !*one.recovered {
			j.recovered = &no
		}
	}
	return gaps, j
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
				s.wbuf = wire.AppendErr(s.wbuf[:0], wire.ID{}, "limit", "a wildcard matches a new channel beyond this connection's limit: "+ch.Name, 0)
				s.send(w.connRef, c, s.wbuf)
				continue
			}
			sc := s.attach(ch)
			if sc == nil {
				return // forgotten again
			}
			// Whatever the log has, or had and trimmed, came after the wildcard's
			// ack, or the channel would have been listed then: it stands at the
			// log's very first entry.
			at, _ := c.findSub(sc.id)
			var gaps []byte
			s.g.hub.Steady(func() { gaps = s.enter(c, w.connRef, sc, at, false, 0, ch.Origin, s.gaps[:0]) })
			s.gaps = gaps[:0]
			if len(gaps) > 0 {
				s.send(w.connRef, c, gaps)
			}
			s.catchUp(w.connRef)
		}
	}
}

// tellRefused tells those whose wildcards match a channel that the node had no
// place for what they miss of it.
func (s *shard) tellRefused() {
	if len(s.wild) == 0 {
		return
	}
	for _, m := range s.g.hub.TakeRefused(s.id) {
		for i := 0; i < len(m.Channel); i++ {
			if m.Channel[i] != '.' {
				continue
			}
			for _, w := range s.wild[m.Channel[:i+1]] {
				if c := s.slots.get(w.connRef); c != nil && c.state == stateOpen {
					s.g.count.GapsEvicted.Add(1)
					s.wbuf = wire.AppendGap(s.wbuf[:0], m.Channel, m.Prev, m.Seq+1, channel.WhyEvicted)
					s.send(w.connRef, c, s.wbuf)
				}
			}
		}
	}
}

// unsub carries out an unsub command. A frame half written is finished all the
// same: its rest is pinned, not the subscription.
func (s *shard) unsub(r connRef, c *slot, cmd *wire.Command) {
	epoch := s.g.hub.Epoch()
	ack := wire.NewAck(s.wbuf[:0], cmd.ID)
	seen := make(map[string]struct{}, len(cmd.Ch))
	for _, name := range cmd.Ch {
		if _, twice := seen[name]; twice {
			continue
		}
		seen[name] = struct{}{}
		prefix, wildcard, ok := wire.ParsePattern(name)
		if !ok {
			ack.Reject(name, "bad_channel")
			continue
		}
		seq := s.g.hub.Head()
		if wildcard {
			s.unsubWild(r, c, prefix)
		} else if ch := s.g.hub.Lookup(name); ch != nil {
			_, seq = ch.Head()
			s.unsubOne(c, ch)
		} else {
			seq = 0
		}
		ack.Channel(name, epoch, seq, nil)
	}
	frame := ack.Done()
	s.wbuf = frame[:0]
	s.settle(c)
	s.send(r, c, frame)
}

// unsubOne takes the channel's own subscription back; a wildcard that matches
// it keeps delivering.
func (s *shard) unsubOne(c *slot, ch *channel.Channel) {
	id, ok := s.chanIDs[ch]
	if !ok {
		return
	}
	at, is := c.findSub(id)
	if !is {
		return
	}
	if c.ext != nil {
		for _, w := range c.ext.wild {
			if strings.HasPrefix(ch.Name, w) {
				c.subs[at].index &^= explicitSub
				return
			}
		}
	}
	s.leave(c, at)
}

// unsubWild takes a wildcard back, with the channels only it matched.
func (s *shard) unsubWild(r connRef, c *slot, prefix string) {
	if c.ext == nil {
		return
	}
	found := false
	for i, w := range c.ext.wild {
		if w == prefix {
			c.ext.wild = append(c.ext.wild[:i], c.ext.wild[i+1:]...)
			found = true
			break
		}
	}
	if !found {
		return
	}
	s.dropWild(r, prefix)
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
		if strings.HasPrefix(name, w) {
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

// list answers with everything the connection follows.
func (s *shard) list(r connRef, c *slot, cmd *wire.Command) {
	epoch := s.g.hub.Epoch()
	type line struct {
		name string
		seq  uint64
	}
	lines := make([]line, 0, len(c.subs))
	for _, n := range c.subs {
		sc := s.chans[n.chanID]
		lines = append(lines, line{sc.ch.Name, sc.At(n.member()).Seq})
	}
	if c.ext != nil {
		for _, prefix := range c.ext.wild {
			lines = append(lines, line{prefix + "*", s.g.hub.Head()})
		}
	}
	sort.Slice(lines, func(i, j int) bool { return lines[i].name < lines[j].name })
	ack := wire.NewAck(s.wbuf[:0], cmd.ID)
	for _, l := range lines {
		ack.Channel(l.name, epoch, l.seq, nil)
	}
	frame := ack.Done()
	s.wbuf = frame[:0]
	s.send(r, c, frame)
}
