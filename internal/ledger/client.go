package ledger

import (
	"slices"
	"strings"
	"sync"
)

// Client is one client's page. Its methods may be called from any goroutine; what
// they tell is taken to have happened in the order of the calls.
type Client struct {
	l    *Ledger
	id   uint32
	name string

	mu       sync.Mutex
	chains   map[uint32]*chain // guarded by mu
	wilds    []*wild           // guarded by mu
	received uint64            // guarded by mu
	gaps     uint64            // guarded by mu
	skipped  uint64            // guarded by mu
	epochs   int               // gaps that ended one; guarded by mu
	last     uint64            // the newest number received or told of; guarded by mu
}

// chain is a channel of a client, in one epoch after another.
type chain struct{ segs []*segment }

func (c *chain) now() *segment { return c.segs[len(c.segs)-1] }

// unknown is the epoch of a segment whose messages have not shown yet which it is.
const unknown = -1

// segment is a channel of a client in one epoch.
type segment struct {
	epoch   int
	start   uint64 // everything after it is owed
	last    uint64 // the newest received; start before that
	started bool   // something was received
	void    bool   // the epoch ended, and what was still owed of it with it
	byWild  bool   // begun by a wildcard's gap: the channel may have heard of it before
	runs    []run
	told    []span   // gaps, sorted, none touching another
	skips   []skip   // in order
	late    []uint64 // received out of order, a fault of its own
	pending []sighting
}

// run is received messages whose prev was each the seq before: n of them.
type run struct{ from, to, n uint64 }

// span is the numbers after and before two others.
type span struct{ after, before uint64 }

// skip is the server's word that it passed n messages over in a span.
type skip struct {
	span
	n uint64
}

// sighting is a message while its epoch isn't known.
type sighting struct{ seq, prev, skip, sum uint64 }

// maxPending bounds the sightings of a channel of one client.
const maxPending = 1 << 16

// wild is a wildcard of a client.
type wild struct {
	prefix string
	epoch  int
	start  uint64
	ended  bool // that epoch has; which one followed shows with a message
	told   []span
}

// Client adds a client.
func (l *Ledger) Client(name string) *Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &Client{l: l, id: uint32(len(l.clients)), name: name, chains: map[uint32]*chain{}}
	l.clients = append(l.clients, c)
	return c
}

// Start says that from here on everything of a channel, or of the channels of a
// wildcard, is owed to the client that comes after this position.
func (c *Client) Start(name, epoch string, after uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	e := c.l.epoch(epoch)
	if p, ok := strings.CutSuffix(name, "*"); ok {
		c.wilds = append(c.wilds, &wild{prefix: p, epoch: e, start: after})
		return
	}
	c.chains[c.l.number(name)] = &chain{segs: []*segment{{epoch: e, start: after, last: after}}}
}

// Last is the newest number the client has received, or been told it misses, of
// any of its channels, in the newest epoch it was told of.
func (c *Client) Last() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Epochs is how many gaps told the client that an epoch had ended.
func (c *Client) Epochs() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epochs
}

// Received is how many messages it has.
func (c *Client) Received() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.received
}

// find is the chain of a channel, begun if a wildcard covers it; nil when
// nobody asked for it. Within both locks.
func (c *Client) find(ch uint32) *chain {
	if k := c.chains[ch]; k != nil {
		return k
	}
	if w := c.wild(c.l.names[ch]); w != nil {
		s := &segment{epoch: w.epoch, start: w.start, last: w.start, void: w.ended}
		k := &chain{segs: []*segment{s}}
		if w.ended {
			s = &segment{epoch: unknown, byWild: true}
			k.segs = append(k.segs, s)
		}
		s.told = append(s.told, w.told...)
		c.chains[ch] = k
		return k
	}
	return nil
}

func (c *Client) wild(name string) *wild {
	for _, w := range c.wilds {
		if strings.HasPrefix(name, w.prefix) {
			return w
		}
	}
	return nil
}

// Message notes a message received.
func (c *Client) Message(channel string, seq, prev, skipped, sum uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.received++
	c.skipped += skipped
	ch := c.l.number(channel)
	k := c.find(ch)
	if k == nil {
		c.l.fault(c, ch, unknown, seq, Unasked, "nobody asked for it")
		return
	}
	c.last = max(c.last, seq)
	s := k.now()
	m := sighting{seq, prev, skipped, sum}
	if s.epoch != unknown {
		c.take(ch, s, m)
		return
	}
	if len(s.pending) == maxPending {
		c.l.fault(c, ch, unknown, seq, Epoch, "more than %d messages of an epoch that nothing was acknowledged in", maxPending)
		return
	}
	s.pending = append(s.pending, m)
	c.resolve(ch, k)
}

// resolve finds out which epoch a segment is of, by a message in it that was
// acknowledged in that epoch. Within both locks.
func (c *Client) resolve(ch uint32, k *chain) {
	s := k.now()
	last := len(k.segs) - 2
	for k.segs[last].epoch == unknown {
		last-- // the first is always known
	}
	before := k.segs[last]
	for _, m := range s.pending {
		for e := before.epoch; e < len(c.l.epochs); e++ {
			f := c.l.epochs[e].known(m.seq)
			if f == nil || f.acked != m.sum || f.ch != ch {
				continue
			}
			if e == before.epoch {
				if !s.byWild {
					continue // an old message, after the word that they are void
				}
				// The channel had heard of it by itself before.
				k.segs = k.segs[:last+1]
				before.pending, before.void = s.pending, false
				s = before
			}
			s.epoch = e
			all := s.pending
			s.pending = nil
			for _, m := range all {
				c.take(ch, s, m)
			}
			return
		}
	}
}

// take checks a message against the one before it and against what others know.
// Within both locks.
func (c *Client) take(ch uint32, s *segment, m sighting) {
	held := false // the chain held, so its prev is true for all
	switch {
	case m.prev >= m.seq:
		c.l.fault(c, ch, s.epoch, m.seq, Prev, "its prev is %d", m.prev)
		return
	case m.seq <= s.last && s.has(m.seq):
		c.l.fault(c, ch, s.epoch, m.seq, Duplicate, "the last was %d", s.last)
		return
	case m.seq <= s.last:
		c.l.fault(c, ch, s.epoch, m.seq, Order, "came after %d", s.last)
		if len(s.late) < maxFaults {
			s.late = append(s.late, m.seq)
		}
	case m.prev <= s.last && s.covers(m.seq-1) && m.skip == 0:
		// A gap up to it: what the server names instead of what is gone is its own
		// affair, as long as the client had it.
		s.extend(m.seq, true)
	case m.prev == s.last && s.toldWithin(s.last, m.seq):
		s.extend(m.seq, true) // and what the gap doesn't cover is missing
	case m.prev == s.last || !s.started && m.prev < s.last:
		held = true
		if m.skip > 0 {
			c.l.fault(c, ch, s.epoch, m.seq, Skip, "follows %d, and says that %d were skipped", s.last, m.skip)
		}
		s.extend(m.seq, !s.started)
	case m.prev < s.last:
		c.l.fault(c, ch, s.epoch, m.seq, Prev, "its prev is %d, but %d was received", m.prev, s.last)
		s.extend(m.seq, true)
	case m.skip > 0:
		s.skips = append(s.skips, skip{span{s.last, m.seq}, m.skip})
		s.extend(m.seq, true)
	default:
		if !s.covers(m.prev) {
			c.l.fault(c, ch, s.epoch, m.seq, Hole, "its prev is %d, the last was %d, and no gap says why", m.prev, s.last)
		}
		s.extend(m.seq, true)
	}
	f := c.l.epochs[s.epoch].fact(m.seq)
	switch {
	case f.acked != 0 && (f.acked != m.sum || f.ch != ch):
		c.l.fault(c, ch, s.epoch, m.seq, Payload, "received is not what was acknowledged under it")
		return
	case f.seen != 0 && (f.seen != m.sum || f.ch != ch):
		c.l.fault(c, ch, s.epoch, m.seq, Payload, "others received something else under it")
		return
	}
	if f.seen == 0 {
		f.seen, f.ch, f.first = m.sum, ch, c.id
	}
	if !held || m.prev == 0 {
		return
	}
	switch f.prev {
	case 0:
		f.prev = m.prev
	case m.prev:
	default:
		c.l.fault(c, ch, s.epoch, m.seq, Prev, "its prev is %d, and %d for others", m.prev, f.prev)
	}
}

// extend adds a received message.
func (s *segment) extend(seq uint64, anew bool) {
	if anew {
		s.runs = append(s.runs, run{seq, seq, 1})
	} else {
		r := &s.runs[len(s.runs)-1]
		r.to, r.n = seq, r.n+1
	}
	s.last, s.started = seq, true
}

// has reports whether a number lies in what was received.
func (s *segment) has(seq uint64) bool {
	for i := len(s.runs) - 1; i >= 0 && s.runs[i].to >= seq; i-- {
		if s.runs[i].from <= seq {
			return true
		}
	}
	return false
}

// covers reports whether a number lies in a gap.
func (s *segment) covers(seq uint64) bool {
	i, _ := slices.BinarySearchFunc(s.told, seq, func(g span, seq uint64) int {
		if g.before <= seq {
			return -1
		}
		return 1
	})
	return i < len(s.told) && s.told[i].after < seq
}

// toldWithin reports whether there is a gap between two numbers.
func (s *segment) toldWithin(after, before uint64) bool {
	for i := len(s.told) - 1; i >= 0 && s.told[i].before > after+1; i-- {
		if s.told[i].after+1 < before {
			return true
		}
	}
	return false
}

// tell adds a gap.
func (s *segment) tell(g span) {
	i := len(s.told)
	for i > 0 && s.told[i-1].before > g.after {
		i--
	}
	j := i
	for j < len(s.told) && s.told[j].after < g.before {
		g.after, g.before = min(g.after, s.told[j].after), max(g.before, s.told[j].before)
		j++
	}
	s.told = slices.Replace(s.told, i, j, g)
}

// Gap notes that the client was told of missing messages. name may be a
// wildcard; why "epoch" ends the epoch, and epoch is the new one's name, or "" if
// it wasn't told: then it is the next of which a message comes.
func (c *Client) Gap(name string, after, before uint64, why, epoch string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	c.gaps++
	if why == "epoch" {
		c.epochs++
		c.last = 0
	}
	if prefix, ok := strings.CutSuffix(name, "*"); ok {
		c.wildGap(prefix, after, before, why, epoch)
		return
	}
	ch := c.l.number(name)
	k := c.find(ch)
	if k == nil {
		c.l.fault(c, ch, unknown, after, Unasked, "a gap of a channel that nobody asked for")
		return
	}
	s := k.now()
	if why == "epoch" {
		next := c.begun(before, epoch)
		switch {
		case next.epoch == unknown || s.epoch == unknown:
		case next.epoch == s.epoch && s.byWild && !s.started:
			// Told of its wildcard, and now of itself.
			k.segs[len(k.segs)-1] = next
			return
		case next.epoch <= s.epoch:
			c.l.fault(c, ch, s.epoch, after, BadGap, "an epoch gap to %s, which is not newer", epoch)
		}
		if s.epoch == unknown && len(s.pending) == 0 {
			// Said again, to who came back before anything of the new epoch did.
			k.segs[len(k.segs)-1] = next
			return
		}
		s.void = true
		k.segs = append(k.segs, next)
		return
	}
	if after >= before {
		c.l.fault(c, ch, s.epoch, after, BadGap, "a gap after %d and before %d", after, before)
		return
	}
	if s.started && before <= s.last {
		c.l.fault(c, ch, s.epoch, after, BadGap, "a gap up to %d, but %d was received", before, s.last)
	}
	s.tell(span{after, before})
	c.last = max(c.last, before-1)
}

// begun is a channel in an epoch that begins for the client, told that it has
// nothing before a number. Within both locks.
func (c *Client) begun(before uint64, epoch string) *segment {
	s := &segment{epoch: unknown}
	if epoch != "" {
		s.epoch = c.l.epoch(epoch)
	}
	if before > 0 {
		s.told = []span{{0, before}}
	}
	return s
}

// wildGap is a gap of all channels of a wildcard that are not known better.
func (c *Client) wildGap(prefix string, after, before uint64, why, epoch string) {
	found := false
	for _, w := range c.wilds {
		if w.prefix != prefix {
			continue
		}
		found = true
		switch {
		case why != "epoch":
			w.told = append(w.told, span{after, before})
		case epoch != "":
			w.epoch, w.start, w.ended = c.l.epoch(epoch), 0, false
			w.told = c.begun(before, epoch).told
		default:
			// Which epoch follows is known when one of its messages comes.
			w.ended, w.told = true, c.begun(before, "").told
		}
	}
	if !found {
		c.l.fault(c, c.l.number(prefix+"*"), unknown, after, Unasked, "a gap of a wildcard that nobody asked for")
		return
	}
	for ch, k := range c.chains {
		if !strings.HasPrefix(c.l.names[ch], prefix) {
			continue
		}
		s := k.now()
		switch {
		case why != "epoch":
			s.tell(span{after, before})
		case epoch != "" && s.epoch == c.l.epoch(epoch): // it has heard by itself
		case epoch != "":
			s.void = true
			next := c.begun(before, epoch)
			next.byWild = true
			k.segs = append(k.segs, next)
		case s.epoch != unknown:
			s.void = true
			k.segs = append(k.segs, &segment{epoch: unknown, byWild: true})
		}
	}
}
