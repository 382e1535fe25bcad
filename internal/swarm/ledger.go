package swarm

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Entry is one message that was acknowledged to its publisher.
type Entry struct {
	Epoch   string `json:"e"`
	Channel string `json:"c"`
	Seq     uint64 `json:"s"`
	Hash    uint64 `json:"h"` // of its payload, see Hash
}

// LedgerReport is what the ledger found.
type LedgerReport struct {
	Published uint64    `json:"published"` // acknowledged to the publisher
	Checked   uint64    `json:"checked"`   // deliveries
	Matched   uint64    `json:"matched"`   // of the published, those that at least one connection received, in its process
	Skipped   uint64    `json:"skipped"`   // conflated
	Gaps      uint64    `json:"gaps"`      // announced
	Unchecked uint64    `json:"unchecked"` // facts no longer, or not yet, in memory to be compared
	Faults    Breakdown `json:"faults"`
	Examples  []string  `json:"examples,omitempty"` // of faults, some
}

func (r *LedgerReport) add(o *LedgerReport) {
	r.Published = max(r.Published, o.Published) // all were told the same
	r.Checked += o.Checked
	r.Matched = max(r.Matched, o.Matched)
	r.Skipped += o.Skipped
	r.Gaps += o.Gaps
	r.Unchecked += o.Unchecked
	r.Faults.add(o.Faults)
	r.Examples = append(r.Examples, o.Examples...)
	r.Examples = r.Examples[:min(len(r.Examples), maxExamples)]
}

// Bounds of a ledger's memory.
const (
	pageSize    = 512     // messages
	maxPages    = 1 << 11 // the newest million messages, 32 MiB
	maxClaims   = 1 << 16
	maxGaps     = 64 // of one connection and channel, between two messages
	maxExamples = 10
)

// The kinds of faults.
const (
	faultMalformed = "malformed" // not a frame of odin.v1.json, or not UTF-8
	faultUnasked   = "unasked"   // of a channel not subscribed to, or before its ack
	faultDuplicate = "duplicate" // the last seq again
	faultOrder     = "order"     // a seq below the last
	faultPrev      = "prev"      // prev not below seq, or not what others were told
	faultHole      = "hole"      // prev is not the last seq, and nothing explains it
	faultPayload   = "payload"   // not what was published, or what others were told
	faultHidden    = "hidden"    // prev passes over an acknowledged message
	faultClaim     = "claim"     // skip counts wrong, or a gap begins too late
	faultTail      = "tail"      // the last acknowledged message has not come
	faultPhantom   = "phantom"   // the publisher's own, under a seq it was not told
	faultGaps      = "gaps"      // too many gaps for one channel
)

// fact is what is known about one seq.
type fact struct {
	published uint64 // Hash, 0: nothing was
	seen      uint64 // Hash, 0: nobody saw it
	prev      uint64 // as seen
	ch        uint32
	own       bool // bears the run's mark
}

type page [pageSize]fact

// chain is one connection's place on a channel; or, under a wildcard's number,
// where channels not seen yet begin.
type chain struct {
	last    uint64
	ch      uint32
	started bool // last was received; else it is the position of the ack
	free    bool // anything may come next: the epoch changed
}

// claim says that a channel has n messages between two seqs.
type claim struct {
	after, before, n uint64
	ch               uint32
}

type gapKey struct {
	conn int32
	ch   uint32
}

type gap struct{ after, before uint64 }

// ledger checks what one process received. It belongs to the loop's goroutine.
type ledger struct {
	epoch     string // of all facts, "" until the first is known
	numbers   map[string]uint32
	names     []string
	pages     map[uint64]*page // by seq / pageSize
	forgot    uint64           // facts below this seq are gone
	gaps      map[gapKey][]gap // announced, and no message since
	claims    []claim
	recent    uint32 // the channel looked up last
	page      *page  // looked up last
	pageAt    uint64
	uncertain bool // some publications have no ack and may be there all the same
	report    LedgerReport
}

func newLedger() *ledger {
	return &ledger{
		numbers: map[string]uint32{}, pages: map[uint64]*page{}, gaps: map[gapKey][]gap{},
		report: LedgerReport{Faults: Breakdown{}},
	}
}

// number is a channel's or pattern's.
func (l *ledger) number(name []byte) uint32 {
	if len(l.names) > 0 && string(name) == l.names[l.recent] {
		return l.recent
	}
	if n, ok := l.numbers[string(name)]; ok {
		l.recent = n
		return n
	}
	n := uint32(len(l.names))
	l.names = append(l.names, string(name))
	l.numbers[string(name)] = n
	return n
}

func (l *ledger) fault(kind, format string, args ...any) {
	l.report.Faults[kind]++
	if len(l.report.Examples) < maxExamples {
		l.report.Examples = append(l.report.Examples, kind+": "+fmt.Sprintf(format, args...))
	}
}

// fact is where seq's is kept, nil when it is too old to be.
func (l *ledger) fact(seq uint64) *fact {
	if seq < l.forgot {
		l.report.Unchecked++
		return nil
	}
	at := seq / pageSize
	if l.page != nil && l.pageAt == at {
		return &l.page[seq%pageSize]
	}
	p := l.pages[at]
	if p == nil {
		if len(l.pages) >= maxPages && !l.forget(at) {
			l.report.Unchecked++
			return nil
		}
		p = new(page)
		l.pages[at] = p
	}
	l.page, l.pageAt = p, at
	return &p[seq%pageSize]
}

// forget makes room for the page at by dropping the oldest; false when that
// would be the oldest itself.
func (l *ledger) forget(at uint64) bool {
	oldest := at
	for n := range l.pages {
		oldest = min(oldest, n)
	}
	if oldest == at {
		return false
	}
	delete(l.pages, oldest)
	l.page = nil
	l.forgot = (oldest + 1) * pageSize
	return true
}

// published notes what was acknowledged.
func (l *ledger) published(es []Entry) {
	for i := range es {
		e := &es[i]
		l.report.Published++
		if l.epoch == "" {
			l.epoch = e.Epoch
		}
		if e.Epoch != l.epoch {
			l.report.Unchecked++
			continue
		}
		f := l.fact(e.Seq)
		if f == nil {
			continue
		}
		ch := l.number([]byte(e.Channel))
		switch {
		case f.published != 0 && (f.published != e.Hash || f.ch != ch):
			l.fault(faultPayload, "%s: seq %d was acknowledged for two messages", e.Channel, e.Seq)
		case f.seen != 0 && (f.seen != e.Hash || f.ch != ch):
			l.fault(faultPayload, "%s: seq %d is not what was published under it", e.Channel, e.Seq)
		}
		f.published, f.ch = e.Hash, ch
	}
}

// place is a connection's chain of a channel, nil when it has none.
func (k *conn) place(ch uint32) *chain {
	i, ok := slices.BinarySearchFunc(k.chains, ch, func(c chain, ch uint32) int { return int(c.ch) - int(ch) })
	if !ok {
		return nil
	}
	return &k.chains[i]
}

// begin gives a connection a chain.
func (k *conn) begin(c chain) *chain {
	i, ok := slices.BinarySearchFunc(k.chains, c.ch, func(c chain, ch uint32) int { return int(c.ch) - int(ch) })
	if ok {
		k.chains[i] = c
		return &k.chains[i]
	}
	if k.chains == nil {
		k.chains = make([]chain, 0, 1) // most have one
	}
	k.chains = slices.Insert(k.chains, i, c)
	return &k.chains[i]
}

// acked notes the position at which a subscription began.
func (l *ledger) acked(k *conn, name, epoch string, seq uint64) {
	if l.epoch == "" {
		l.epoch = epoch
	}
	if epoch != l.epoch {
		k.flags |= flagStray
	}
	k.begin(chain{ch: l.number([]byte(name)), last: seq})
}

// find is place for the channel of a frame, which may be one of a wildcard's
// that was not seen before; nil when the connection did not ask for it.
func (l *ledger) find(k *conn, ch uint32) *chain {
	if c := k.place(ch); c != nil {
		return c
	}
	name := l.names[ch]
	for _, c := range k.chains {
		if matches(l.names[c.ch], name) {
			return k.begin(chain{ch: ch, last: c.last, free: c.free})
		}
	}
	return nil
}

// matches reports whether pattern is a wildcard that covers a channel.
func matches(pattern, ch string) bool {
	head, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasPrefix(ch, head)
}

// message checks one delivery on connection i.
func (l *ledger) message(i int32, k *conn, m *message, own bool) {
	l.report.Checked++
	l.report.Skipped += m.skip
	if !utf8.Valid(m.d) {
		l.fault(faultMalformed, "%s: seq %d is not UTF-8", m.ch, m.seq)
	}
	ch := l.number(m.ch)
	c := l.find(k, ch)
	if c == nil {
		l.fault(faultUnasked, "%s: seq %d came unasked, or before the ack", m.ch, m.seq)
		return
	}
	l.link(i, k, c, m)
	c.last, c.started, c.free = max(c.last, m.seq), true, false
	if k.flags&flagStray == 0 {
		l.see(m, ch, own)
	}
}

// link checks a message against the one before it on its connection.
func (l *ledger) link(i int32, k *conn, c *chain, m *message) {
	last := c.last
	switch {
	case m.prev >= m.seq:
		l.fault(faultPrev, "%s: seq %d has prev %d", m.ch, m.seq, m.prev)
		return
	case c.free:
		return
	case c.started && m.seq == last:
		l.fault(faultDuplicate, "%s: seq %d came again", m.ch, m.seq)
		return
	case m.seq <= last:
		l.fault(faultOrder, "%s: seq %d came after %d", m.ch, m.seq, last)
		return
	}
	var gaps []gap
	if len(l.gaps) > 0 {
		key := gapKey{i, c.ch}
		gaps = l.gaps[key]
		delete(l.gaps, key)
	}
	switch {
	case m.prev == last, !c.started && m.prev < last:
		if m.skip > 0 {
			l.fault(faultClaim, "%s: seq %d follows %d and says that %d were skipped", m.ch, m.seq, last, m.skip)
		}
		return
	case m.skip > 0 && m.prev > last:
		if len(gaps) == 0 {
			l.claim(k, claim{ch: c.ch, after: last, before: m.seq, n: m.skip})
		}
		return
	}
	// Gaps explain it if prev lies in one; between them, and before the first,
	// there must be nothing.
	covered := last
	for _, g := range gaps {
		if g.after > covered {
			l.claim(k, claim{ch: c.ch, after: covered, before: g.after + 1})
		}
		covered = max(covered, g.before-1)
		if g.after <= m.prev && m.prev < g.before {
			return
		}
	}
	l.fault(faultHole, "%s: seq %d has prev %d, but the last was %d, and no gap or skip explains it", m.ch, m.seq, m.prev, last)
}

// claim remembers what the server says about a channel, to be compared with
// what was published at the end: the ack may come later than the message.
func (l *ledger) claim(k *conn, c claim) {
	if k.flags&flagStray != 0 {
		return
	}
	if len(l.claims) >= maxClaims {
		l.report.Unchecked++
		return
	}
	if n := len(l.claims); n > 0 && l.claims[n-1] == c {
		return
	}
	l.claims = append(l.claims, c)
}

// see checks a message against what others saw, and what was published.
func (l *ledger) see(m *message, ch uint32, own bool) {
	f := l.fact(m.seq)
	if f == nil {
		return
	}
	hash := Hash(m.d)
	switch {
	case f.published != 0 && (f.published != hash || f.ch != ch):
		l.fault(faultPayload, "%s: seq %d is not what was published under it", m.ch, m.seq)
		return
	case f.seen != 0 && (f.seen != hash || f.ch != ch):
		l.fault(faultPayload, "%s: seq %d was another message for others", m.ch, m.seq)
		return
	case f.seen != 0 && f.prev != m.prev:
		l.fault(faultPrev, "%s: seq %d has prev %d, and %d for others", m.ch, m.seq, m.prev, f.prev)
	}
	if f.seen == 0 {
		f.seen, f.prev, f.ch, f.own = hash, m.prev, ch, own
	}
}

// gap takes note of an announced hole on connection i. name may be a wildcard.
func (l *ledger) gap(i int32, k *conn, name []byte, after, before uint64, epoch bool) {
	l.report.Gaps++
	if after >= before {
		if !epoch {
			l.fault(faultMalformed, "%s: gap after %d before %d", name, after, before)
			return
		}
	}
	ch := l.number(name)
	own := l.find(k, ch)
	if own == nil {
		l.fault(faultUnasked, "gap of %s", name)
		return
	}
	if epoch {
		k.flags |= flagStray
	}
	for n := range k.chains {
		c := &k.chains[n]
		switch {
		case c.ch != ch && !matches(string(name), l.names[c.ch]):
		case epoch:
			*c = chain{ch: c.ch, free: true}
			delete(l.gaps, gapKey{i, c.ch})
		case strings.HasSuffix(l.names[c.ch], "*"):
			c.last = max(c.last, before-1)
		default:
			l.addGap(gapKey{i, c.ch}, gap{after, before})
		}
	}
}

func (l *ledger) addGap(key gapKey, g gap) {
	gs := l.gaps[key]
	if n := len(gs); n > 0 && g.after >= gs[n-1].after && g.after < gs[n-1].before {
		gs[n-1].before = max(gs[n-1].before, g.before)
		return
	}
	if len(gs) >= maxGaps {
		l.fault(faultGaps, "%s: more than %d gaps and no message", l.names[key.ch], maxGaps)
		return
	}
	l.gaps[key] = append(gs, g)
}

// tail is a channel's last acknowledged message.
type tail struct {
	ch  uint32
	seq uint64
}

func (l *ledger) tails(last map[string]uint64) []tail {
	var ts []tail
	for name, seq := range last {
		ts = append(ts, tail{l.number([]byte(name)), seq})
	}
	return ts
}

// behind is one of ts that connection i has not come to, nil when there is none.
func (l *ledger) behind(i int32, k *conn, ts []tail) *tail {
	if k.flags&flagStray != 0 {
		return nil
	}
	for n := range ts {
		t := &ts[n]
		c := k.place(t.ch)
		for p := 0; c == nil && p < len(k.chains); p++ {
			if matches(l.names[k.chains[p].ch], l.names[t.ch]) {
				c = &k.chains[p]
			}
		}
		if c == nil || c.last >= t.seq {
			continue
		}
		if gs := l.gaps[gapKey{i, t.ch}]; len(gs) > 0 && gs[len(gs)-1].before > t.seq {
			continue
		}
		return t
	}
	return nil
}

// finish compares what the server said with what was published.
func (l *ledger) finish() LedgerReport {
	order := make([]uint64, 0, len(l.pages))
	for at := range l.pages {
		order = append(order, at)
	}
	slices.Sort(order)
	seqs := make([][]uint64, len(l.names)) // published, by channel
	foreign := make([]bool, len(l.names))  // others publish there too
	for _, at := range order {
		for n := range l.pages[at] {
			f := &l.pages[at][n]
			seq := at*pageSize + uint64(n)
			if f.seen != 0 && (f.published != 0 || !f.own) {
				if s := seqs[f.ch]; len(s) > 0 && f.prev < s[len(s)-1] {
					l.fault(faultHidden, "%s: seq %d has prev %d, but %d was published between them", l.names[f.ch], seq, f.prev, s[len(s)-1])
				}
			}
			switch {
			case f.published != 0:
				seqs[f.ch] = append(seqs[f.ch], seq)
				if f.seen != 0 {
					l.report.Matched++
				}
			case f.seen != 0 && (!f.own || l.uncertain):
				foreign[f.ch] = true
			case f.own && l.report.Published > 0:
				l.fault(faultPhantom, "%s: seq %d is the publisher's, but was not acknowledged to it", l.names[f.ch], seq)
			}
		}
	}
	for _, c := range l.claims {
		if c.after+1 < l.forgot {
			l.report.Unchecked++
			continue
		}
		s := seqs[c.ch]
		from, found := slices.BinarySearch(s, c.after)
		if found {
			from++
		}
		to, _ := slices.BinarySearch(s, c.before)
		switch n := uint64(max(0, to-from)); {
		case n == c.n:
		case len(s) == 0 || n < c.n && (foreign[c.ch] || l.uncertain):
			l.report.Unchecked++ // who did not publish them all can't count them
		default:
			l.fault(faultClaim, "%s: between %d and %d the server passed over %d, but %d were published there", l.names[c.ch], c.after, c.before, c.n, n)
		}
	}
	return l.report
}
