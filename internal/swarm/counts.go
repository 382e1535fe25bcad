package swarm

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Breakdown counts what happened, by name.
type Breakdown map[string]int

// Sum is of all counts.
func (b Breakdown) Sum() int {
	n := 0
	for _, c := range b {
		n += c
	}
	return n
}

// String is one line of JSON, its keys sorted: {"ECONNRESET": 96, "http_503": 7720}.
func (b Breakdown) String() string {
	var s strings.Builder
	s.WriteByte('{')
	for i, k := range slices.Sorted(maps.Keys(b)) {
		if i > 0 {
			s.WriteString(", ")
		}
		s.WriteString(strconv.Quote(k) + ": " + strconv.Itoa(b[k]))
	}
	s.WriteByte('}')
	return s.String()
}

// add merges, into a map made when needed.
func (b *Breakdown) add(o Breakdown) {
	for k, n := range o {
		b.count(k, n)
	}
}

func (b *Breakdown) count(what string, n int) {
	if *b == nil {
		*b = Breakdown{}
	}
	(*b)[what] += n
}

// RoleCounts is what became of one role's connections.
type RoleCounts struct {
	Attempts  int       `json:"attempts"` // begun
	Connected int       `json:"connected"`
	Open      int       `json:"open"` // connected and not ended
	Errors    Breakdown `json:"errors,omitempty"`
	Ended     Breakdown `json:"ended_early,omitempty"`   // by the server, after they were connected
	Stalled   Breakdown `json:"ended_stalled,omitempty"` // the same, while they had stopped reading
}

// Counts is what a swarm has seen so far.
type Counts struct {
	Roles [roles]RoleCounts `json:"-"`

	Frames   uint64 `json:"frames"`   // text and binary, on connections that are connected
	Bytes    uint64 `json:"bytes"`    // of their payloads
	Messages uint64 `json:"messages"` // "msg" frames among them
	Gaps     uint64 `json:"gaps"`     // "gap" frames among them
	Skipped  uint64 `json:"skipped"`  // conflated, as the messages' "skip" says; with a ledger only
	Pings    uint64 `json:"pings"`    // of the server's, on the WebSocket level
	Answers  uint64 `json:"answers"`  // to volleys
	Retries  uint64 `json:"retries"`  // subscriptions that the server was too busy for, and asked to repeat
	LastNS   int64  `json:"last_ns"`  // when the last frame was read, Unix nanoseconds

	// Settled is how long after the start the last attempt had succeeded or
	// failed, 0 before.
	Settled time.Duration `json:"settled_ns"`

	CPU float64 `json:"cpu_seconds"` // of the swarm's processes
	RSS int64   `json:"rss_bytes"`
}

// clone is independent of c.
func (c *Counts) clone() Counts {
	d := *c
	for i := range d.Roles {
		r := &d.Roles[i]
		r.Errors, r.Ended, r.Stalled = maps.Clone(r.Errors), maps.Clone(r.Ended), maps.Clone(r.Stalled)
	}
	return d
}

func (c *Counts) add(o *Counts) {
	for i := range c.Roles {
		r, p := &c.Roles[i], &o.Roles[i]
		r.Attempts += p.Attempts
		r.Connected += p.Connected
		r.Open += p.Open
		r.Errors.add(p.Errors)
		r.Ended.add(p.Ended)
		r.Stalled.add(p.Stalled)
	}
	c.Frames += o.Frames
	c.Bytes += o.Bytes
	c.Messages += o.Messages
	c.Gaps += o.Gaps
	c.Skipped += o.Skipped
	c.Pings += o.Pings
	c.Answers += o.Answers
	c.Retries += o.Retries
	c.LastNS = max(c.LastNS, o.LastNS)
	c.Settled = max(c.Settled, o.Settled)
	c.CPU += o.CPU
	c.RSS += o.RSS
}

// Total is all roles together.
func (c *Counts) Total() RoleCounts {
	var t RoleCounts
	for i := range c.Roles {
		r := &c.Roles[i]
		t.Attempts += r.Attempts
		t.Connected += r.Connected
		t.Open += r.Open
		t.Errors.add(r.Errors)
		t.Ended.add(r.Ended)
		t.Stalled.add(r.Stalled)
	}
	return t
}

// over reports whether nothing is left to happen to n attempts.
func (c *Counts) over(n int) bool {
	t := c.Total()
	return t.Open == 0 && t.Connected+t.Errors.Sum() == n
}

// ProgressLine is the first of the two lines a stress run ends with. A share
// below one is never rounded to 100 %.
func ProgressLine(connected, of int) string {
	rate := fmt.Sprintf("%.1f", 100*float64(connected)/float64(max(1, of)))
	if rate == "100.0" && connected < of {
		rate = "99.9"
	}
	return fmt.Sprintf("Progress: %d/%d connections (%s%% success rate)", connected, of, rate)
}

// Delays is a histogram of durations, exact to 3 %.
type Delays struct {
	buckets []uint64 // grown as needed
	n       uint64
	most    int64
	stop    bool // note no more
}

// subBits says into how many parts a power of two is divided.
const subBits = 5

func (d *Delays) note(ns int64) {
	ns = max(0, ns)
	d.n++
	d.most = max(d.most, ns)
	i := int(ns)
	if ns >= 1<<subBits {
		e := bits.Len64(uint64(ns)) - 1 - subBits
		i = e<<subBits + int(ns>>e)
	}
	for len(d.buckets) <= i {
		d.buckets = append(d.buckets, 0)
	}
	d.buckets[i]++
}

func (d *Delays) add(o *Delays) {
	for len(d.buckets) < len(o.buckets) {
		d.buckets = append(d.buckets, 0)
	}
	for i, n := range o.buckets {
		d.buckets[i] += n
	}
	d.n += o.n
	d.most = max(d.most, o.most)
}

// N is how many were measured.
func (d *Delays) N() uint64 { return d.n }

// Max is the longest.
func (d *Delays) Max() time.Duration { return time.Duration(d.most) }

// Quantile is the duration that a part q of them did not exceed.
func (d *Delays) Quantile(q float64) time.Duration {
	left := uint64(q * float64(d.n))
	for i, n := range d.buckets {
		if n > left {
			ns := int64(i)
			if i >= 2<<subBits {
				e := i>>subBits - 1
				ns = (int64(i)-int64(e)<<subBits)<<e + 1<<e - 1
			}
			return time.Duration(min(ns, d.most))
		}
		left -= n
	}
	return d.Max()
}
