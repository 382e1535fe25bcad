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

// lost notes that something asked for can't be had.
func (j *joined) lost() { j.recovered = &no }

// attach returns the shard's side of a channel for one variant, making one; nil
// when the hub has forgotten the channel.
func (s *shard) attach(ch *channel.Channel, v variant) *shardChan {
	first := s.chanOf[ch]
	for sc := first; sc != nil; sc = sc.next {
		if sc.variant == v {
			return sc
		}
	}
	if !followed(first, v.deflated) && !s.g.hub.Attach(s.id, ch, v.deflated) {
		return nil
	}
	sc := &shardChan{ch: ch, variant: v, next: first}
	if n := len(s.freeChans); n > 0 {
		sc.id = s.freeChans[n-1]
		s.freeChans = s.freeChans[:n-1]
		s.chans[sc.id] = sc
	} else {
		sc.id = uint32(len(s.chans))
		s.chans = append(s.chans, sc)
	}
	s.chanOf[ch] = sc
	return sc
}

// detach undoes attach after the last member left.
func (s *shard) detach(sc *shardChan) {
	switch first := s.chanOf[sc.ch]; {
	case first != sc:
		for first.next != sc {
			first = first.next
		}
		first.next = sc.next
	case sc.next != nil:
		s.chanOf[sc.ch] = sc.next
	default:
		delete(s.chanOf, sc.ch)
	}
	if !followed(s.chanOf[sc.ch], sc.deflated) {
		s.g.hub.Detach(s.id, sc.ch, sc.deflated)
	}
	sc.gone = true
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

// followed reports whether one of a channel's variants is given it compressed, or as
// it is.
func followed(first *shardChan, deflated bool) bool {
	for sc := first; sc != nil; sc = sc.next {
		if sc.deflated == deflated {
			return true
		}
	}
	return false
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
			c.subs[i].index = index | c.subs[i].index&subFlags
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
		for _, w := range c.ext.wild {
			s.dropWild(r, w.prefix)
			s.g.more.Add(-int64(wildCost(w.prefix)))
		}
		c.ext.wild = nil
	}
}

// subOf finds a connection's subscription to a channel, whatever its variant.
func (s *shard) subOf(c *slot, ch *channel.Channel) (at int, ok bool) {
	for sc := s.chanOf[ch]; sc != nil; sc = sc.next {
		if at, ok = c.findSub(sc.id); ok {
			return at, true
		}
	}
	return 0, false
}

// isMember reports whether a connection follows a channel.
func (s *shard) isMember(c *slot, ch *channel.Channel) bool {
	_, is := s.subOf(c, ch)
	return is
}

// place is where a new member of a channel begins.
type place struct {
	ord, seq uint64
	flags    uint32 // of sub.index
}

// enter makes a connection a member of a channel.
func (s *shard) enter(c *slot, r connRef, sc *shardChan, at place, gaps []byte) []byte {
	m := channel.Member{Conn: r.index}
	m.Move(at.ord, at.seq)
	i, _ := c.findSub(sc.id)
	c.addSub(i, sub{chanID: sc.id, index: sc.Add(m) | at.flags})
	s.g.count.Subscriptions.Add(1)
	if len(c.subs) > capacity.IncludedSubscriptions {
		s.g.more.Add(1)
	}
	if s.g.hub.Follow(sc.ch) {
		gaps = wire.AppendStale(gaps, sc.ch.Name)
	}
	return gaps
}

// subCommand is a sub command being carried out, and what the broker said of it.
type subCommand struct {
	*wire.Command
	reach
	epoch string
	head  uint64 // of the stream, as the ack says it
	gaps  []byte // what explains the positions, sent after the ack

	unfit map[string]string // positions that can't be taken, and why; nil: all can
}

// sub carries out a sub command whose channels the hub knows by now.
func (s *shard) sub(r connRef, c *slot, cmd *wire.Command, known reach) {
	sc := subCommand{Command: cmd, reach: known, gaps: s.gaps[:0]}
	var frame []byte
	// The ack's epoch, heads and positions are of one moment.
	if c = s.steady(r, func() { frame = s.subSteady(r, c, &sc) }); c == nil {
		return
	}
	s.wbuf = frame[:0]
	s.gaps = sc.gaps[:0]
	if !s.send(r, c, frame) {
		return
	}
	if len(sc.gaps) > 0 && !s.send(r, c, sc.gaps) {
		return
	}
	s.catchUp(r)
}

// steady is Hub.Steady at a moment when all followers of wildcards have been told
// what they miss: f's word of where they are then includes it, and who joins in f is
// not told of what was before. It returns the connection, nil when it is gone.
func (s *shard) steady(r connRef, f func()) *slot {
	for {
		s.tellMissed()
		c := s.slots.get(r)
		if c == nil || c.state != stateOpen {
			return nil
		}
		told := false
		s.g.hub.Steady(func() {
			if told = !s.g.hub.Missing(s.id); told {
				f()
			}
		})
		if told {
			return c
		}
	}
}

// subSteady makes the memberships of a sub command and its ack. Within Hub.Steady.
func (s *shard) subSteady(r connRef, c *slot, cmd *subCommand) []byte {
	cmd.epoch, cmd.head = s.g.hub.Epoch(), s.g.hub.Head()
	for name, p := range cmd.Since {
		if why := cmd.judge(p, cmd.head); why != "" {
			if cmd.unfit == nil {
				cmd.unfit = make(map[string]string)
			}
			cmd.unfit[name] = why
		}
	}
	ack := wire.NewAck(s.wbuf[:0], cmd.ID)
	eachName(cmd.Ch, func(name, prefix string, wildcard, ok bool) {
		j := joined{reject: "bad_channel"}
		switch {
		case !ok:
		case !s.mayRead(r, name):
			j.reject = "forbidden"
		default:
			j = s.subName(r, c, cmd, name, prefix, wildcard)
		}
		if j.reject != "" {
			ack.Reject(name, j.reject)
			return
		}
		s.g.count.resumed(j.recovered)
		ack.Channel(name, cmd.epoch, j.seq, j.recovered)
	})
	return ack.Done()
}

// eachName calls f for each name of a command, once.
func eachName(names []string, f func(name, prefix string, wildcard, ok bool)) {
	seen := make(map[string]struct{}, len(names))
	for _, name := range names {
		if _, twice := seen[name]; twice {
			continue
		}
		seen[name] = struct{}{}
		prefix, wildcard, ok := wire.ParsePattern(name)
		f(name, prefix, wildcard, ok)
	}
}

// subName subscribes to one name, a channel's or a wildcard.
func (s *shard) subName(r connRef, c *slot, cmd *subCommand, name, prefix string, wildcard bool) joined {
	var pos *wire.Position
	if p, has := cmd.Since[name]; has {
		pos = &p
		if reject := cmd.unfit[name]; reject != "" {
			return joined{reject: reject}
		}
	}
	if wildcard {
		// A channel of it that can't be given from its own position would be given
		// from another.
		for own, reject := range cmd.unfit {
			if strings.HasPrefix(own, prefix) {
				return joined{reject: reject}
			}
		}
		return s.subWild(r, c, cmd, name, prefix, pos)
	}
	ch := s.g.hub.Lookup(name)
	if ch == nil {
		return joined{reject: "limit"} // the pool made it known, unless the node is full
	}
	if at, is := s.subOf(c, ch); is {
		// Once is enough; where it stands is not changed, only how it goes on.
		c.subs[at].index |= explicitSub
		s.change(c, at, c.variantOf(cmd.Command))
		_, head := ch.Head()
		return joined{seq: head}
	}
	if !s.roomFor(c, 1) {
		return joined{reject: "limit"}
	}
	return s.subOne(r, c, cmd, ch, pos, explicitSub)
}

// judge says why a position can't be taken, or "".
func (cmd *subCommand) judge(p wire.Position, head uint64) (reject string) {
	switch {
	case cmd.epoch == "":
		return "unrecoverable" // the broker hasn't been reached yet: try again later
	case p.Epoch == cmd.epoch && p.Seq <= head:
		return ""
	case !cmd.asked || cmd.err != nil || cmd.streamEpoch != cmd.epoch:
		return "unrecoverable" // perhaps it is this node that has yet to hear of an epoch
	case p.Epoch != cmd.epoch:
		return ""
	case p.Seq > cmd.last:
		return "bad_position"
	default:
		return "unrecoverable" // another node may be ahead of this one: try again
	}
}

// subOne makes a connection a member of a channel that it does not follow yet.
func (s *shard) subOne(r connRef, c *slot, cmd *subCommand, ch *channel.Channel, pos *wire.Position, flags uint32) joined {
	v := c.variantOf(cmd.Command)
	sc := s.attach(ch, v)
	if sc == nil {
		return joined{reject: "limit"}
	}
	next, head := ch.Head()
	j := joined{seq: head}
	to := place{ord: next, seq: head, flags: flags}
	switch {
	case pos != nil && pos.Epoch != cmd.epoch:
		j.lost()
		cmd.gaps = wire.AppendEpochGap(cmd.gaps, ch.Name, pos.Seq, head+1, cmd.epoch)
		s.g.count.GapsEpoch.Add(1)
	case pos != nil:
		j.recovered = &yes
		ord, before, complete := ch.After(pos.Seq)
		switch {
		case complete:
			to.ord, to.seq = ord, pos.Seq
		case v.latest:
			// What it would be given of the past is the number of messages passed
			// over; nobody has that.
			j.lost()
			cmd.gaps = wire.AppendGap(cmd.gaps, ch.Name, pos.Seq, before, channel.WhyEvicted)
			s.g.count.GapsEvicted.Add(1)
			to.ord, to.seq = ord, before-1
		default:
			to.seq, to.flags = pos.Seq, flags|pastSub
			if !cmd.holds(pos.Seq) {
				j.lost()
			}
		}
	case cmd.Snap && head > 0:
		// The last message comes first: from the log, or the stream.
		if at, has := newest(ch); has {
			to.ord, to.seq = at.ord, at.seq
		} else if last := cmd.heads[ch.Name]; last > 0 && last <= head && cmd.reach.epoch == cmd.epoch {
			to.seq, to.flags = last-1, flags|pastSub
		}
	}
	if to.ord < next {
		to.flags |= replaySub
	}
	cmd.gaps = s.enter(c, r, sc, to, cmd.gaps)
	return j
}

// catchUp writes what a new position has behind it.
func (s *shard) catchUp(r connRef) {
	if c := s.slots.get(r); c != nil {
		s.flushBehind(r, c)
	}
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
	if have+n > s.live.MaxSubscriptions {
		return false
	}
	more := max(0, have+n-capacity.IncludedSubscriptions) - max(0, have-capacity.IncludedSubscriptions)
	return more == 0 || s.g.more.Load()+int64(more) <= int64(s.live.MoreSubscriptions)
}

// unsub carries out an unsub command. A frame half written is finished all the
// same: its rest is pinned, not the subscription.
func (s *shard) unsub(r connRef, c *slot, cmd *wire.Command) {
	epoch := s.g.hub.Epoch()
	ack := wire.NewAck(s.wbuf[:0], cmd.ID)
	eachName(cmd.Ch, func(name, prefix string, wildcard, ok bool) {
		seq := uint64(0)
		switch {
		case !ok:
			ack.Reject(name, "bad_channel")
			return
		case !s.mayRead(r, name): // the position would say what there is
			ack.Reject(name, "forbidden")
			return
		}
		switch ch := s.g.hub.Lookup(name); {
		case wildcard:
			seq = s.g.hub.Head()
			s.unsubWild(r, c, prefix)
		case ch != nil:
			_, seq = ch.Head()
			s.unsubOne(c, ch)
		}
		ack.Channel(name, epoch, seq, nil)
	})
	frame := ack.Done()
	s.wbuf = frame[:0]
	s.settle(c)
	if s.send(r, c, frame) {
		s.catchUp(r) // what a wildcard goes on with in another variant
	}
}

// unsubOne takes the channel's own subscription back; a wildcard that matches
// it keeps delivering.
func (s *shard) unsubOne(c *slot, ch *channel.Channel) {
	at, is := s.subOf(c, ch)
	if !is {
		return
	}
	if c.ext != nil {
		for _, w := range c.ext.wild {
			if strings.HasPrefix(ch.Name, w.prefix) {
				c.subs[at].index &^= explicitSub
				s.change(c, at, w.variant)
				return
			}
		}
	}
	s.leave(c, at)
}

// list answers with everything the connection follows, but for what it has not
// been told yet that the epoch ended of: its position there has no name any more.
func (s *shard) list(r connRef, c *slot, cmd *wire.Command) {
	type line struct {
		name string
		seq  uint64
	}
	var epoch string
	lines := make([]line, 0, len(c.subs))
	if c = s.steady(r, func() {
		epoch = s.g.hub.Epoch()
		for _, n := range c.subs {
			sc := s.chans[n.chanID]
			m := sc.At(n.member())
			if next, _ := sc.ch.Head(); !sc.ch.Reborn(m.Ord(next)) {
				lines = append(lines, line{sc.ch.Name, m.Seq})
			}
		}
		if c.ext != nil {
			for _, w := range c.ext.wild {
				lines = append(lines, line{w.prefix + "*", s.g.hub.Head()})
			}
		}
	}); c == nil {
		return
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
