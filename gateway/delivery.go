package gateway

import (
	"time"

	"github.com/odin-ws/odin/internal/histogram"
)

// How long messages take, from the stream's timestamp until a socket was given them.
// What is counted is news: every log entry that is a message, once for each
// connection it was written to, whole or begun. Not counted are
//
//   - what somebody asked for of the past: replays, and after a subscription what the
//     log had by then and what came until that was written,
//   - what was read from the stream again for who fell off a log (fellBehind),
//   - conflated messages with an interval: they wait for as long as was asked for.
//
// Other conflated messages count, those they passed over don't.
//
// The clock is read once in deliveryWrites writes and at a flush's end, so a message
// is counted as up to seven writes later than it was: some 35 µs. With brokers on other
// machines it is their clock against this one's.

const (
	// deliveryWrites is how many writes share a reading of the clock. A write takes
	// about 5 µs, a reading 45 ns.
	deliveryWrites = 8
	// deliverySpans is how many different spans are noted between two readings; one
	// write may gather more.
	deliverySpans = 16
)

// delivery is what a shard has written and not counted yet. Owned by the loop, but
// for the histogram, which any goroutine reads.
type delivery struct {
	now    func() int64 // Unix ns
	hist   *histogram.Histogram
	writes int // since the clock was read
	used   int // of spans
	spans  [deliverySpans]deliveredSpan
}

// deliveredSpan is a span, or its begin, and to how many it was written.
type deliveredSpan struct {
	times []int64 // channel.Span.Times
	to    uint64
}

// wrote says that a write has ended, and what it took is noted.
func (d *delivery) wrote() {
	if d.writes++; d.writes >= deliveryWrites {
		d.settle()
	}
}

// note notes entries that the write just made took. Members of one channel mostly
// stand at the same place, and are then noted as one.
func (d *delivery) note(times []int64) {
	if len(times) == 0 {
		return
	}
	if d.used > 0 {
		if last := &d.spans[d.used-1]; len(last.times) == len(times) && &last.times[0] == &times[0] {
			last.to++
			return
		}
	}
	if d.used == deliverySpans {
		d.settle()
	}
	d.spans[d.used] = deliveredSpan{times, 1}
	d.used++
}

// settle counts what was noted as delivered now.
func (d *delivery) settle() {
	d.writes = 0
	if d.used == 0 {
		return
	}
	now := d.now()
	for i := range d.spans[:d.used] {
		w := &d.spans[i]
		for _, t := range w.times {
			if t != 0 {
				d.hist.Add(time.Duration(now-t), w.to)
			}
		}
		w.times = nil // keep no chunk alive
	}
	d.used = 0
	d.hist.Publish()
}

// news reports whether what is written of a segment counts as delivered.
func (g *segment) news() bool {
	return !g.past && !g.replay && g.sc.every == 0
}

// caughtUp notes that a subscription has been given what there was when it began:
// from now on it is given news.
func (s *shard) caughtUp(c *slot, sc *shardChan) {
	if at, ok := c.findSub(sc.id); ok {
		c.subs[at].index &^= replaySub
	}
}
