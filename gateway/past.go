package gateway

import (
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// A subscription whose position is older than its channel's log is given the
// stream's past first, block by block, and joins the log at the sequence where
// that begins. Until then nothing newer of the channel goes to it; its position
// is a sequence alone (pastSub), and its ordinal is the log's next when it began,
// which tells whether the epoch is still the same.

const (
	// retryTicks is how long a failed read of the past waits to be repeated.
	retryTicks = 5
	// maxRetries is how often, with the broker there, before the connection is
	// told that it misses what could not be read.
	maxRetries = 20
)

// retry is a connection whose read of the past failed.
type retry struct {
	connRef
	at uint32 // tick
}

// past returns what a subscription that is behind the log is to be sent next.
// With ready it is span; otherwise, with live, it has joined the log; otherwise
// it must wait, or the connection is gone. at is its place in c.subs.
func (s *shard) past(r connRef, c *slot, sc *shardChan, at int) (span channel.Span, ready, live bool) {
	m := sc.At(c.subs[at].member())
	epoch := s.g.hub.Epoch() // before the log is looked at: it is reborn before the epoch is said
	next, _ := sc.ch.Head()
	if sc.ch.Reborn(m.Ord(next)) {
		return span, false, s.missPast(r, c, sc, at, channel.WhyEvicted) // and the epoch
	}
	ord, before, complete := sc.ch.After(m.Seq)
	if sc.ch.Reborn(m.Ord(next)) {
		return span, false, s.missPast(r, c, sc, at, channel.WhyEvicted) // between the two
	}
	if complete {
		m.Move(ord, m.Seq)
		c.subs[at].index = c.subs[at].index&^(pastSub|fellSub) | replaySub
		return span, false, s.sayFresh(r, c, sc.ch)
	}
	if c.flags&flagFetching != 0 {
		return span, false, false
	}
	var b *channel.Block
	if f := s.fresh; f.is(epoch, sc.ch.Name, m.Seq) {
		b = f.block
	} else {
		b = s.g.history.find(epoch, sc.ch.Name, m.Seq)
	}
	switch {
	case b == nil:
		s.fetch(r, c, epoch, sc.ch.Name, m.Seq)
		return span, false, false
	case b.Empty() && !b.Lost(m.Seq) && b.Through+1 >= before && sc.ch.Guess() && before == sc.ch.Origin()+1:
		// The log begins at a guess, and the stream knows that nothing was there.
		m.Read(before - 1)
		return s.past(r, c, sc, at)
	case b.Empty() && (b.Through+1 >= before || b.Lost(m.Seq)):
		// The log knows of something there, and the stream has it no longer.
		return span, false, s.missPast(r, c, sc, at, channel.WhyEvicted)
	case b.Empty():
		// The log has moved on since it was read, or is ahead of the stream's word.
		c.flags |= flagFetching
		s.retries = append(s.retries, retry{r, s.now + retryTicks})
		return span, false, false
	}
	// No further than the log has come: what this node has not been given yet will
	// come from there.
	_, head := sc.ch.Head()
	if span = b.Read(m.Seq, min(b.Through, head)); len(span.Bytes) == 0 {
		return span, false, s.missPast(r, c, sc, at, channel.WhyEvicted)
	}
	return span, true, false
}

// sayFresh tells a connection that joins a log at a sequence what the log said
// before of how fresh the channel is. It reports false when the connection is
// gone.
func (s *shard) sayFresh(r connRef, c *slot, ch *channel.Channel) bool {
	switch ch.Freshness() {
	case channel.Stale:
		s.wbuf = wire.AppendStale(s.wbuf[:0], ch.Name)
	case channel.Live:
		s.wbuf = wire.AppendLive(s.wbuf[:0], ch.Name)
	default:
		return true
	}
	return s.send(r, c, s.wbuf) && c.state == stateOpen
}

// missPast gives up on the past: the connection is told what it misses, and its
// subscription joins the log at its start. It reports false when the connection
// takes no more for now, or is gone.
func (s *shard) missPast(r connRef, c *slot, sc *shardChan, at int, why string) bool {
	if c.subs[at].index&fellSub != 0 && why == channel.WhyEvicted {
		why = channel.WhySlow
	}
	index := c.subs[at].member()
	c.subs[at].index = c.subs[at].index&^(pastSub|fellSub) | replaySub
	return s.rejoin(r, c, sc, index, why)
}

// fetch has the past of a channel read, for a connection that can't go on
// without.
func (s *shard) fetch(r connRef, c *slot, epoch, name string, after uint64) {
	c.flags |= flagFetching
	if !s.g.broker.State().Connected || !s.g.history.request(epoch, name, after, waiter{s, r}) {
		s.retries = append(s.retries, retry{r, s.now + retryTicks})
	}
}

// landed goes on with a connection whose read has ended.
func (s *shard) landed(r connRef, res fetched) {
	c := s.slots.get(r)
	if c == nil || c.flags&flagFetching == 0 {
		return
	}
	if c.state != stateOpen {
		c.flags &^= flagFetching
		return
	}
	if res.err != nil {
		s.tries[r.index]++
		s.retries = append(s.retries, retry{r, s.now + retryTicks})
		return
	}
	delete(s.tries, r.index)
	c.flags &^= flagFetching
	s.fresh = &res
	s.goOn(r, c)
	s.fresh = nil
}

// goOn writes what a connection was waiting for.
func (s *shard) goOn(r connRef, c *slot) {
	s.flushBehind(r, c)
	if c = s.slots.get(r); c != nil {
		s.replayOn(r, c)
	}
}

// sweepRetries repeats the reads whose time has come.
func (s *shard) sweepRetries() {
	if len(s.retries) == 0 {
		return
	}
	due := s.retries
	s.retries = nil
	for _, t := range due {
		c := s.slots.get(t.connRef)
		switch {
		case c == nil || c.state != stateOpen || c.flags&flagFetching == 0:
		case s.now < t.at:
			s.retries = append(s.retries, t)
		case !s.g.broker.State().Connected:
			t.at = s.now + retryTicks // stale was said; it comes back when the broker does
			s.retries = append(s.retries, t)
		case s.tries[t.index] >= maxRetries:
			delete(s.tries, t.index)
			c.flags &^= flagFetching
			s.missAll(t.connRef, c)
		default:
			c.flags &^= flagFetching
			s.goOn(t.connRef, c)
		}
	}
}

// missAll tells a connection that its pasts can't be had.
func (s *shard) missAll(r connRef, c *slot) {
	for i := 0; i < len(c.subs); i++ {
		if !c.subs[i].past() {
			continue
		}
		if !s.missPast(r, c, s.chans[c.subs[i].chanID], i, channel.WhyBroker) {
			if s.slots.get(r) == nil || c.state != stateOpen {
				return
			}
		}
	}
	if c.ext != nil && c.ext.replay != nil {
		c.ext.replay.miss(s, r, c, channel.WhyBroker)
	}
	if c = s.slots.get(r); c != nil {
		s.goOn(r, c)
	}
}

// distance is how far a subscription to the past is behind, in messages of the
// whole stream: enough to see whether it comes nearer.
func (s *shard) distance(seq uint64) uint32 {
	head := s.g.hub.Head()
	return uint32(min(head-min(head, seq), 1<<31))
}

// replay is a replay command under way: the messages of a channel with
// after < seq ≤ to, outside of any subscription. Its connection's other commands
// wait for it.
type replay struct {
	epoch     string
	ord       uint64 // the log's next when it began
	name      string
	after, to uint64
	id        wire.ID
	missed    bool // a part of it could not be had
}

// replayCommand begins a replay command.
func (s *shard) replayCommand(r connRef, c *slot, cmd *wire.Command) {
	hub := s.g.hub
	name := cmd.Ch[0]
	refuse := func(code, why string) {
		s.g.count.Replays[replayRefused].Add(1)
		s.refuseCommand(r, c, cmd.ID, code, why)
	}
	if !wire.ValidChannel(name) {
		refuse("bad_channel", "")
		return
	}
	if !s.mayRead(r, name) { // first, so that nothing is said of what there is
		refuse("forbidden", "")
		return
	}
	epoch := hub.Epoch()
	switch {
	case epoch == "":
		refuse("unrecoverable", "the broker has not been reached yet; try again later")
		return
	case cmd.Epoch != epoch:
		s.g.count.Replays[replayGap].Add(1)
		s.g.count.GapsEpoch.Add(1)
		s.wbuf = wire.AppendGap(s.wbuf[:0], name, cmd.From-min(cmd.From, 1), cmd.To+1, channel.WhyEpoch)
		s.wbuf = wire.AppendAck(s.wbuf, cmd.ID)
		s.send(r, c, s.wbuf)
		return
	case cmd.To > hub.Head():
		refuse("bad_position", "")
		return
	}
	var ord uint64
	if ch := hub.Lookup(name); ch != nil {
		ord, _ = ch.Head()
		if hub.Epoch() != epoch {
			ord = 0 // reborn this moment: as if it had always been another's
		}
	}
	c.flags |= flagBusy
	s.extOf(c).replay = &replay{epoch: epoch, ord: ord, name: name, after: cmd.From - min(cmd.From, 1), to: cmd.To, id: cmd.ID}
	s.replayOn(r, c)
}

// replayOn goes on with a connection's replay command, as far as its socket and
// what is at hand go.
func (s *shard) replayOn(r connRef, c *slot) {
	for c.state == stateOpen && c.ext != nil && c.ext.replay != nil {
		p := c.ext.replay
		if p.after >= p.to {
			s.replayed(r, c, p)
			return
		}
		if s.g.hub.Epoch() != p.epoch {
			p.miss(s, r, c, channel.WhyEpoch)
			continue
		}
		if c.flags&(flagBlocked|flagFetching) != 0 || c.owes() {
			return
		}
		if !s.mayRead(r, p.name) { // a reload has taken it back meanwhile
			s.g.count.Replays[replayRefused].Add(1)
			s.g.count.CommandErrors.Add(1)
			s.endReplay(r, c, wire.AppendErr(s.wbuf[:0], p.id, "forbidden", "", 0))
			return
		}
		b := s.replayBlock(p)
		if b == nil {
			s.fetch(r, c, p.epoch, p.name, p.after)
			return
		}
		span := b.Read(p.after, p.to)
		if len(span.Bytes) == 0 {
			if b.Lost(p.after) {
				p.miss(s, r, c, channel.WhyEvicted)
				continue
			}
			p.after = max(b.Through, p.after+1) // nothing up to there
			continue
		}
		if !s.writeReplay(r, c, p, span) {
			return
		}
		if b.Through >= p.to {
			p.after = p.to
		}
	}
}

// replayBlock is a block at hand for a replay: from the log, which remembers
// what is new, or from what was read of the stream; nil when there is none.
func (s *shard) replayBlock(p *replay) *channel.Block {
	if f := s.fresh; f.is(p.epoch, p.name, p.after) {
		return f.block
	}
	if ch := s.g.hub.Lookup(p.name); ch != nil {
		// Looked at afterwards: a log is reborn before the epoch is said.
		if b := ch.Copy(p.after, p.to, pageBytes); b != nil && !ch.Reborn(p.ord) && s.g.hub.Epoch() == p.epoch {
			return b
		}
	}
	return s.g.history.find(p.epoch, p.name, p.after)
}

// writeReplay writes a block's span. What the socket doesn't take of its last
// frame is kept as any control frame is; it reports whether all was taken.
func (s *shard) writeReplay(r connRef, c *slot, p *replay, span channel.Span) bool {
	n := 0
	all := s.push(r, c, span.Bytes, func(took int) { n = took })
	if n > 0 {
		next, seq, rest := span.Cut(n)
		p.after = seq
		s.g.count.MessagesOut.Add(next - span.First)
		s.g.count.Replayed.Add(next - span.First)
		if span.Gap {
			s.g.count.gap(channel.WhyEvicted)
			p.missed = true
		}
		if len(rest) > 0 {
			s.queueOut(r, c, rest, nil)
		}
	}
	return all
}

// miss tells that the rest of a replay can't be had.
func (p *replay) miss(s *shard, r connRef, c *slot, why string) {
	p.missed = true
	s.g.count.gap(why)
	s.wbuf = wire.AppendGap(s.wbuf[:0], p.name, p.after, p.to+1, why)
	p.after = p.to
	s.send(r, c, s.wbuf)
}

// replayed ends a replay command that was carried out.
func (s *shard) replayed(r connRef, c *slot, p *replay) {
	how := replayDone
	if p.missed {
		how = replayGap
	}
	s.g.count.Replays[how].Add(1)
	s.endReplay(r, c, wire.AppendAck(s.wbuf[:0], p.id))
}

// endReplay ends a replay command with its answer, which is s.wbuf's.
func (s *shard) endReplay(r connRef, c *slot, answer []byte) {
	c.ext.replay = nil
	s.wbuf = answer
	if !s.send(r, c, s.wbuf) {
		return
	}
	s.unbusy(r, func(*slot) {})
}
