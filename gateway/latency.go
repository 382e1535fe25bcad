package gateway

import (
	"math"
	"strconv"
	"time"

	"github.com/odin-ws/odin/internal/histogram"
)

// LatencyStats is a histogram of durations since the start. Quantiles are off by a
// tenth at most.
type LatencyStats struct {
	Count   uint64          `json:"count"`
	Sum     float64         `json:"sumSeconds"`
	P50Ms   float64         `json:"p50Ms"`
	P90Ms   float64         `json:"p90Ms"`
	P99Ms   float64         `json:"p99Ms"`
	MaxMs   float64         `json:"maxMs"`
	Buckets []LatencyBucket `json:"buckets"` // always the same ones, by bound
}

// LatencyBucket is how many of them took longer than the bucket before, and no longer
// than this.
type LatencyBucket struct {
	LE *float64 `json:"le"` // seconds; nil, the last one: without bound
	N  uint64   `json:"n"`
}

// latencyBounds are the bounds of LatencyBuckets: every second one of the histogram's,
// which is plenty for a picture.
var latencyBounds = func() (les []*float64) {
	for i := 0; i < histogram.Buckets-1; i += 2 {
		le, _ := strconv.ParseFloat(strconv.FormatFloat(histogram.Bound(i), 'g', 6, 64), 64)
		les = append(les, &le)
	}
	return append(les, nil)
}()

func latencyStats(s histogram.Snapshot) LatencyStats {
	ms := func(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e3 }
	st := LatencyStats{
		Count: s.Count, Sum: s.Sum,
		P50Ms: ms(s.Quantile(0.5)), P90Ms: ms(s.Quantile(0.9)), P99Ms: ms(s.Quantile(0.99)), MaxMs: ms(s.Max),
		Buckets: make([]LatencyBucket, len(latencyBounds)),
	}
	for i := range st.Buckets {
		st.Buckets[i].LE = latencyBounds[i]
	}
	for i, n := range s.Counts {
		st.Buckets[(i+1)/2].N += n
	}
	return st
}

// deliveryTimes is what all shards have counted of deliveries; any goroutine.
func (g *Gateway) deliveryTimes() (s histogram.Snapshot) {
	for _, shard := range g.shards {
		s.Take(shard.delivery.hist)
	}
	return s
}

// loopLags is how late the event loops came to their ticks; any goroutine.
func (g *Gateway) loopLags() (s histogram.Snapshot) {
	for _, shard := range g.shards {
		s.Take(shard.loopLag)
	}
	return s
}

// maxLagTicks bounds how many missed ticks are counted for one: a minute of them.
const maxLagTicks = 600

// noteLag counts how late a tick is. It comes ten times a second whatever the loop
// does, so it is a fair sample of how long anything that becomes ready waits for the
// loop. It stands for n ticks: those missed count too, each with its own lateness, or
// a stall would be one bad value among many good ones.
func (s *shard) noteLag(n int) {
	late := s.loop.Late()
	for range min(n, maxLagTicks) {
		s.loopLag.Add(late, 1)
		late -= tick
	}
	s.loopLag.Publish()
}
