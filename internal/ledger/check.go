package ledger

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Check compares everything with everything. It may be called more than once;
// what is under way when it is called counts as missing.
func (l *Ledger) Check() Report {
	l.mu.Lock()
	clients := slices.Clone(l.clients)
	l.mu.Unlock()
	// A client's lock comes before the ledger's.
	for _, c := range clients {
		c.mu.Lock()
		defer c.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &checking{
		l:      l,
		report: Report{Clients: len(clients), Acked: l.acked, Counts: maps.Clone(l.counts), Faults: slices.Clone(l.faults)},
		seqs:   make([][][]uint64, len(l.epochs)),
	}
	for e := range l.epochs {
		k.stream(e)
	}
	for _, c := range clients {
		k.client(c)
	}
	return k.report
}

// checking is one Check. Within the locks of all clients and the ledger's.
type checking struct {
	l      *Ledger
	report Report
	seqs   [][][]uint64 // by epoch and channel: what was acknowledged or seen, sorted
}

func (k *checking) fault(c *Client, ch uint32, e int, seq uint64, kind, format string, a ...any) {
	k.report.Counts[kind]++
	if len(k.report.Faults) < maxFaults {
		k.report.Faults = append(k.report.Faults, k.l.describe(c, ch, e, seq, kind, fmt.Sprintf(format, a...)))
	}
}

// stream sorts an epoch's messages by channel, and checks what doesn't depend on
// who received it.
func (k *checking) stream(e int) {
	ep := k.l.epochs[e]
	seqs := make([][]uint64, len(k.l.names))
	acked := make([]uint64, len(k.l.names)) // the last so far
	for _, at := range slices.Sorted(maps.Keys(ep.pages)) {
		for n := range ep.pages[at] {
			f := &ep.pages[at][n]
			if f.acked == 0 && f.seen == 0 {
				continue
			}
			seq := at*pageSize + uint64(n)
			if f.prev != 0 && f.prev < acked[f.ch] {
				k.fault(nil, f.ch, e, seq, Prev, "its prev is %d, but %d was acknowledged and lies between them", f.prev, acked[f.ch])
			}
			if f.acked == 0 {
				if ch, ok := k.l.maybes[f.seen]; !ok || ch != f.ch {
					k.fault(k.l.clients[f.first], f.ch, e, seq, Phantom, "nobody published it")
				}
			} else {
				acked[f.ch] = seq
			}
			seqs[f.ch] = append(seqs[f.ch], seq)
		}
	}
	k.seqs[e] = seqs
}

func (k *checking) client(c *Client) {
	k.report.Received += c.received
	k.report.Gaps += c.gaps
	k.report.Conflated += c.skipped
	for ch, chain := range c.chains {
		in := unknown // the epoch before
		for i, s := range chain.segs {
			if s.epoch == unknown {
				if len(s.pending) > 0 {
					k.fault(c, ch, unknown, s.pending[0].seq, Epoch, "%d messages after the end of an epoch are of no later one", len(s.pending))
				}
				// Nothing has come since: all of what followed is owed but for what
				// it was told.
				for e := in + 1; e < len(k.l.epochs) && i == len(chain.segs)-1; e++ {
					k.owed(c, ch, e, s, 0, none)
				}
				continue
			}
			in = s.epoch
			k.segment(c, ch, s)
			// Later epochs are owed too: who is in one was told of its beginning.
			for e := s.epoch + 1; e < len(k.l.epochs) && i == len(chain.segs)-1; e++ {
				k.owed(c, ch, e, &segment{}, 0, none)
			}
		}
	}
	for _, w := range c.wilds {
		for ch := range k.l.names {
			if _, ok := c.chains[uint32(ch)]; ok || !strings.HasPrefix(k.l.names[ch], w.prefix) || c.wild(k.l.names[ch]) != w {
				continue
			}
			s := &segment{epoch: w.epoch, start: w.start, told: w.told}
			if !w.ended {
				k.owed(c, uint32(ch), w.epoch, s, w.start, none)
			}
			for e := w.epoch + 1; e < len(k.l.epochs); e++ {
				k.owed(c, uint32(ch), e, s, 0, none)
			}
		}
	}
}

// none is the end of a channel's numbers.
const none = ^uint64(0)

// segment checks what a client received of a channel in one epoch.
func (k *checking) segment(c *Client, ch uint32, s *segment) {
	at, skips := s.start, s.skips
	for _, r := range s.runs {
		if len(skips) > 0 && skips[0].before == r.from {
			k.skipped(c, ch, s, skips[0])
			skips = skips[1:]
		} else {
			k.owed(c, ch, s.epoch, s, at, r.from)
		}
		all := k.between(s.epoch, ch, r.from-1, r.to+1)
		if n := uint64(len(all)); n != r.n {
			k.report.Counts[Missing] += max(int(n)-int(r.n), 1) - 1
			k.fault(c, ch, s.epoch, r.from, Missing, "of %d messages from %d to %d it has %d, and was told of no gap", n, r.from, r.to, r.n)
		}
		at = r.to
	}
	if !s.void {
		k.owed(c, ch, s.epoch, s, at, none)
	}
}

// between is what is known of a channel with after < seq < before.
func (k *checking) between(e int, ch uint32, after, before uint64) []uint64 {
	if int(ch) >= len(k.seqs[e]) {
		return nil
	}
	s := k.seqs[e][ch]
	from, found := slices.BinarySearch(s, after)
	if found {
		from++
	}
	to, _ := slices.BinarySearch(s, before)
	return s[from:max(from, to)]
}

// owed goes through a span in which the client received nothing: what was
// acknowledged there it must have been told of.
func (k *checking) owed(c *Client, ch uint32, e int, s *segment, after, before uint64) {
	for _, seq := range k.between(e, ch, after, before) {
		switch {
		case k.l.epochs[e].fact(seq).acked == 0, slices.Contains(s.late, seq):
		case s.covers(seq):
			k.report.Told++
		default:
			k.fault(c, ch, e, seq, Missing, "neither received nor told of")
		}
	}
}

// skipped compares the server's count of what it passed over with what there was.
func (k *checking) skipped(c *Client, ch uint32, s *segment, sk skip) {
	var n, sure uint64
	for _, seq := range k.between(s.epoch, ch, sk.after, sk.before) {
		acked := k.l.epochs[s.epoch].fact(seq).acked != 0
		switch {
		case s.covers(seq):
			if acked {
				k.report.Told++
			}
		case acked:
			sure++
			n++
		default:
			n++
		}
	}
	// What is perhaps stored may have been counted, seen by somebody or not.
	if sk.n < sure || sk.n > n+uint64(len(k.l.maybes)) {
		k.fault(c, ch, s.epoch, sk.before, Skip, "says that %d were passed over since %d, and there were %d", sk.n, sk.after, n)
	}
}
