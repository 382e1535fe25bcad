package odin

import (
	"slices"
	"time"
)

// take acts on one frame of the server. Within mu; the run loop's only.
func (c *Client) take(l *link, f *frame) {
	switch f.T {
	case "msg":
		if ch := c.chainOf(f.name); ch != nil {
			c.takeMsg(ch, f)
		} else {
			c.stats.Strays++
		}
	case "gap":
		c.takeGap(f)
	case "stale", "live":
		if fo, live := c.owner(f.name); live && fo.sub.opts.OnStale != nil {
			call := fo.sub.opts.OnStale
			c.events = append(c.events, event{call: func() { call(f.name, f.T == "stale") }})
		}
	case "ack", "pong", "err":
		c.takeAnswer(l, f)
	case "bye":
		d := time.Duration(max(0, f.RetryMS)) * time.Millisecond
		l.bye = &d
	}
	// hb says only that there is somebody; others are not known here.
}

func (c *Client) takeMsg(ch *chain, f *frame) {
	fo := ch.follow
	seq, prev := *f.Seq, *f.Prev
	if h := ch.hole; h != nil {
		switch {
		case seq > h.to: // newer than the hole
			if !h.hold(f) {
				c.reconnect(ch, "too much came while a hole was being filled")
			}
			return
		case seq <= ch.seq:
			c.stats.Duplicates++
			return
		case h.bad || prev > ch.at():
			h.bad = true
			return
		}
		if c.link != nil {
			c.link.answered = time.Now() // the replay goes on
		}
		c.deliver(ch, f)
		return
	}
	if ch.next != "" {
		// The ack named another epoch. The gap that says so came for the
		// wildcard, or not at all.
		old := ch.at()
		if fo.began == ch.next {
			ch.missing(fo.told+1, WhyEpoch, "")
		} else {
			c.unexplain(ch, old, seq, "the epoch changed and no gap said so")
			ch.missing(prev+1, WhyEpoch, "")
			c.gap(fo, ch, Gap{ch.name, old, seq, WhyEpoch, ch.epoch})
		}
	}
	skipped := f.Skip > 0 && (fo.sub.opts.Mode == Latest || fo.sub.opts.SlowLatest)
	switch ch.check(seq, prev, skipped, fo.told) {
	case duplicate:
		c.stats.Duplicates++
	case accept:
		c.deliver(ch, f)
	case inconsistent:
		c.report(&Error{Code: "chain", Channel: ch.name, Message: "the server names another message before this one than it sent"})
		c.deliver(ch, f)
	case unexplained:
		c.unexplain(ch, ch.at(), seq, "")
		if fo.sub.opts.Mode == Latest {
			// Newer is all that was wanted, and here it is.
			c.giveUp(ch, seq)
			c.deliver(ch, f)
			return
		}
		c.repair(ch, f)
	}
}

// deliver makes a message due.
func (c *Client) deliver(ch *chain, f *frame) {
	ch.have(*f.Seq)
	c.stats.Messages++
	c.stats.Skipped += f.Skip
	m := Message{Channel: ch.name, Seq: *f.Seq, Prev: *f.Prev, Skip: f.Skip, Time: time.UnixMilli(f.TS), Data: f.D}
	call := ch.follow.sub.opts.OnMessage
	c.events = append(c.events, event{call: func() { call(m) }, chain: ch, at: ch.position()})
}

func (c *Client) takeGap(f *frame) {
	g := Gap{f.name, *f.After, *f.Before, f.Why, f.Epoch}
	if isWildcard(f.name) {
		if fo := c.byName[f.name]; fo != nil && fo.state == on {
			c.wildGap(fo, g)
			return
		}
	}
	ch := c.chainOf(f.name)
	if ch == nil {
		c.stats.Strays++
		return
	}
	if h := ch.hole; h != nil && g.After >= h.to {
		if !h.hold(f) {
			c.reconnect(ch, "too much came while a hole was being filled")
		}
		return
	}
	c.channelGap(ch, g)
}

// channelGap passes a gap on. One that begins later than where the channel
// stands leaves something out itself.
func (c *Client) channelGap(ch *chain, g Gap) {
	if at := max(ch.at(), ch.follow.told); g.Why != WhyEpoch && g.After > at && ch.hole == nil {
		c.unexplain(ch, at, g.After+1, "a gap begins later than the last message")
		ch.missing(g.After+1, WhyUnexplained, "")
		c.gap(ch.follow, ch, Gap{ch.name, at, g.After + 1, WhyUnexplained, ""})
	}
	live := ch.next == "" // nothing had named the new epoch
	ch.missing(g.Before, g.Why, g.Epoch)
	if g.Why == WhyEpoch && live {
		if ch.follow.wild {
			ch.follow.reborn(g.Epoch, g.Before-min(1, g.Before))
		}
		if g.Epoch == "" && c.link != nil {
			c.askList(c.link)
		}
	}
	c.gap(ch.follow, ch, g)
}

// reborn notes, for a wildcard, that one of its channels was told of a new epoch:
// its name, if it is known, and up to where nothing more comes of it. Of several
// such places the first is the wildcard's, for the channels not seen.
func (f *follow) reborn(epoch string, at uint64) {
	switch {
	case epoch == "" && f.voided, epoch != "" && f.pos.Epoch == epoch && !f.voided:
		if at >= f.pos.Seq {
			return
		}
	case epoch == "":
		f.voided = true
	default:
		f.pos.Epoch, f.voided, f.began, f.listed = epoch, false, "", Position{}
	}
	f.pos.Seq, f.told = at, 0
	f.done = f.pos
}

// wildGap passes on a gap of a wildcard: for its channels not seen, and those
// seen that the node does not remember.
func (c *Client) wildGap(fo *follow, g Gap) {
	if g.Why == WhyEpoch {
		epoch := g.Epoch
		if epoch == "" {
			epoch = fo.next
		}
		if epoch != "" {
			live := fo.next == ""
			fo.pos.Epoch, fo.next, fo.voided = epoch, "", false
			fo.began = epoch
			for _, ch := range c.chains {
				if live && ch.follow == fo && ch.epoch != epoch {
					ch.next = epoch // known to the node or not: if it is, its own gap follows
				}
			}
		} else {
			fo.voided = true
		}
		fo.pos.Seq = 0
	}
	fo.told = g.Before - min(1, g.Before)
	if g.Why == WhyEpoch || g.After <= fo.pos.Seq {
		// Else messages before After may still be on their way, of channels not seen.
		fo.pos.Seq = max(fo.pos.Seq, fo.told)
	}
	c.gap(fo, nil, g)
}

// unexplain reports a hole.
func (c *Client) unexplain(ch *chain, after, before uint64, why string) {
	if why == "" {
		why = "messages are missing and no gap said so"
	}
	c.stats.Unexplained++
	c.report(&Error{Code: "unexplained", Channel: ch.name, Message: spanned(why, after, before)})
}

// takeAnswer ends a command. Answers come in the commands' order.
func (c *Client) takeAnswer(l *link, f *frame) {
	i := -1
	switch {
	case f.ID != nil:
		i = slices.IndexFunc(l.waiting, func(cmd *command) bool { return cmd.id == *f.ID })
	case f.T == "err" && f.code() == "rate_limited" && len(l.waiting) > 0:
		i = 0 // too long to be read before it was refused
	}
	if i < 0 {
		if f.T == "err" {
			c.report(&Error{Code: f.code(), Message: f.Message, Channel: f.name})
			if fo := c.byName[f.name]; fo != nil && f.code() == "forbidden" {
				fo.state = refused // a new token does not allow it
			}
		}
		return
	}
	cmd := l.waiting[i]
	l.waiting = slices.Delete(l.waiting, i, i+1)
	l.answered = time.Now()
	l.nudge()
	if f.T == "err" {
		c.takeErr(l, cmd, f)
		return
	}
	switch cmd.op {
	case "sub":
		if !cmd.sub.gone {
			c.subscribed(cmd, f)
		}
	case "list":
		c.checkpoint(f)
	case "replay":
		c.replayed(cmd.chain, true)
	}
}

func (c *Client) takeErr(l *link, cmd *command, f *frame) {
	code, now := f.code(), time.Now()
	retry := time.Duration(f.RetryMS) * time.Millisecond
	if code == "rate_limited" || code == "limit" && retry > 0 {
		c.stats.RateLimited++
		if until := now.Add(max(retry, 10*time.Millisecond)); until.After(l.paused) {
			l.paused = until
		}
		switch {
		case cmd.op == "unsub":
			// But for what is wanted again: the server has had that command too.
			names := slices.DeleteFunc(slices.Clone(cmd.names), func(name string) bool { return c.byName[name] != nil })
			l.unsubs = slices.Concat(names, l.unsubs)
		case cmd.sub == nil || !cmd.sub.gone:
			l.outbox = slices.Insert(l.outbox, 0, cmd)
		}
		return
	}
	switch cmd.op {
	case "sub":
		for _, name := range cmd.names {
			if fo := c.byName[name]; fo != nil && fo.sub == cmd.sub && fo.state == asked {
				c.reject(fo, code, f.Message)
			}
		}
		c.settleIf(cmd.sub)
	case "replay":
		c.replayed(cmd.chain, false)
	case "auth":
		c.report(&Error{Code: code, Message: f.Message})
		if code == "unauthorized" || code == "forbidden" {
			c.fail(&Error{Code: code, Status: 4001, Message: f.Message})
		}
	default:
		c.report(&Error{Code: code, Message: f.Message})
	}
}

// subscribed takes the ack of a sub.
func (c *Client) subscribed(cmd *command, f *frame) {
	for _, name := range cmd.names {
		fo := c.byName[name]
		if fo == nil || fo.sub != cmd.sub || fo.state != asked {
			continue
		}
		if a, ok := f.acks[name]; ok {
			asked, with := cmd.since[name]
			c.joined(fo, Position(a), asked, with)
		} else if code, ok := f.Rej[name]; ok {
			c.reject(fo, code, "")
		} else {
			c.reject(fo, "unrecoverable", "the ack doesn't mention it")
		}
	}
	c.settleIf(cmd.sub)
}

// joined notes that a name is followed, from where it was asked for if it was.
func (c *Client) joined(fo *follow, at, since Position, with bool) {
	fo.state, fo.tries = on, 0
	switch {
	case fo.void && fo.wild:
		fo.void = false
		for name, ch := range c.chains {
			if ch.follow == fo {
				delete(c.chains, name)
			}
		}
		fo.pos, fo.told, fo.voided = at, at.Seq, false
		c.gap(fo, nil, Gap{fo.name, fo.lost, at.Seq + 1, WhyPosition, ""})
	case fo.void:
		fo.void = false
		ch := c.chains[fo.name]
		ch.epoch, ch.seq, ch.exact, ch.told, ch.voided = at.Epoch, 0, false, at.Seq, false
		c.gap(fo, ch, Gap{fo.name, fo.lost, at.Seq + 1, WhyPosition, ""})
	case fo.wild:
		switch {
		case !with:
			fo.pos, fo.done = at, at
		case at.Epoch != since.Epoch:
			fo.next = at.Epoch
		}
		fo.voided = false
		for _, ch := range c.chains {
			if ch.follow == fo && ch.epoch != at.Epoch {
				ch.next = at.Epoch
			}
		}
		c.endBriefs(fo)
	default:
		ch := c.chains[fo.name]
		if ch == nil && fo.brief {
			return
		}
		if ch == nil {
			ch = &chain{name: fo.name, follow: fo}
			c.chains[fo.name] = ch
		}
		switch {
		case !with:
			ch.start(at)
		case at.Epoch != since.Epoch:
			ch.next = at.Epoch
		}
		ch.voided = false
	}
}

// endBriefs gives back the names that carried a wildcard's positions.
func (c *Client) endBriefs(wild *follow) {
	for name, f := range c.byName {
		if f.brief && matches(wild.name, name) {
			delete(c.byName, name)
			if f.state == on && c.link != nil {
				c.link.unsubs = append(c.link.unsubs, name)
			}
		}
	}
	c.nudge()
}

// reject deals with a name the server would not give.
func (c *Client) reject(fo *follow, code, message string) {
	now := time.Now()
	err := &Error{Code: code, Channel: fo.name, Message: message}
	if fo.brief {
		c.report(err)
		fo.state = refused
		return
	}
	if fo.tries++; fo.tries == 1 {
		fo.since = now
	}
	fo.state = wanted
	fo.retryAt = now.Add(c.clock.retry << min(fo.tries-1, 4))
	waited := now.Sub(fo.since) >= c.clock.patience
	switch {
	case code == "unrecoverable" || code == "bad_position" && !waited:
		// The node has not reached its broker yet, or not what others have.
		if fo.tries == 1 {
			c.report(err)
		}
	case !fo.sub.settled:
		c.settle(fo.sub, err)
	case code == "bad_position":
		c.report(err)
		fo.void, fo.retryAt, fo.lost = true, time.Time{}, fo.pos.Seq
		if ch := c.chains[fo.name]; ch != nil {
			fo.lost = ch.at()
		}
	case code == "limit":
		c.report(err)
		fo.retryAt = now.Add(c.clock.retry << 4)
	default:
		c.report(err)
		fo.state = refused
	}
}

// settleIf ends the wait of Subscribe once all is followed.
func (c *Client) settleIf(s *Subscription) {
	for _, f := range s.follows {
		if f.state != on {
			return
		}
	}
	c.settle(s, nil)
}

// checkpoint takes the answer to list. It brings a wildcard up to the head of
// the answer before this one: what was then new to the node has been listed, or
// given, by now.
func (c *Client) checkpoint(f *frame) {
	for name, a := range f.acks {
		at := Position(a)
		if !isWildcard(name) {
			c.listed(name, at)
			continue
		}
		fo := c.byName[name]
		if fo == nil || fo.state != on {
			continue
		}
		switch {
		case fo.voided:
			fo.pos.Epoch, fo.voided, fo.listed = at.Epoch, false, Position{}
			fo.done = fo.pos
		case at.Epoch != fo.pos.Epoch:
			// Its channels have been quiet since the stream was made anew.
			old := fo.pos.Seq
			fo.pos, fo.told, fo.began, fo.listed = Position{at.Epoch, 0}, 0, at.Epoch, Position{}
			c.gap(fo, nil, Gap{name, old, 1, WhyEpoch, at.Epoch})
		default:
			if fo.listed.Epoch == at.Epoch && fo.listed.Seq > fo.pos.Seq {
				fo.pos = fo.listed
				fo.done = fo.pos
			}
			fo.listed = at
		}
	}
}

// listed notes how far a channel has been given, where nothing better is known.
func (c *Client) listed(name string, at Position) {
	fo, live := c.owner(name)
	if !live {
		return
	}
	switch ch := c.chains[name]; {
	case ch == nil && fo.wild && at.Epoch == fo.pos.Epoch && !fo.voided && len(c.chains) < maxFollows:
		ch = &chain{name: name, follow: fo}
		ch.start(at)
		c.chains[name] = ch
	case ch != nil && ch.voided:
		ch.epoch, ch.voided = at.Epoch, false
		ch.done = ch.position()
	}
}
