// Package histogram counts durations in buckets of a fixed relative width. One
// goroutine counts, any may read: counting takes no lock, allocates nothing and
// costs about 10 ns.
//
// The bounds are those of a Prometheus native histogram of schema 2: 2^(i/4)
// seconds, so that what is counted here can be handed on as it is.
// (https://prometheus.io/docs/specs/native_histograms/)
package histogram

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// Schema is that of the native histogram with the same bounds: four buckets for
	// each doubling.
	Schema = 2
	// FirstIndex is the native index of bucket 1; bucket 0 has all that is shorter.
	FirstIndex = -17<<Schema + 1
	// LastIndex is that of the last bucket with a bound, 64 s.
	LastIndex = 6 << Schema
	// Buckets is how many there are: 0 is up to 2^-17 s, 7.6 µs, the last one is what
	// took longer than 64 s.
	Buckets = LastIndex - FirstIndex + 3
)

// bounds are the upper bounds of all buckets but the last, nanoseconds, inclusive.
var bounds = func() (b [Buckets - 1]uint64) {
	for i := range b {
		b[i] = uint64(1e9 * math.Exp2(float64(FirstIndex-1+i)/(1<<Schema)))
	}
	return b
}()

// begin is, by the length of a number of nanoseconds in bits, the first bucket such
// a number may be in. That is at most one doubling below it.
var begin = func() (b [65]uint8) {
	for n := range b {
		least := uint64(1) << max(0, n-1)
		for int(b[n]) < len(bounds) && bounds[b[n]] < least {
			b[n]++
		}
	}
	return b
}()

// Bound is the upper bound of a bucket, seconds, inclusive; +Inf of the last.
func Bound(bucket int) float64 {
	if bucket == Buckets-1 {
		return math.Inf(1)
	}
	return math.Exp2(float64(FirstIndex-1+bucket) / (1 << Schema))
}

// bucketOf is the bucket a duration is counted in.
func bucketOf(ns uint64) int {
	i := int(begin[bits.Len64(ns)])
	for i < len(bounds) && ns > bounds[i] {
		i++
	}
	return i
}

// Histogram counts. The zero value is empty. Its size is a multiple of a cache
// line: what two goroutines count in is apart when each was made by itself.
type Histogram struct {
	// Owned by the goroutine that counts.
	sumNow float64 // ns: seconds would cost a division each
	maxNow time.Duration
	_      [6]uint64

	// Stored by that goroutine, any may load.
	counts [Buckets]atomic.Uint64
	sum    atomic.Uint64 // bits of sumNow when it was published
	max    atomic.Int64  // and maxNow
}

// Add counts n times a duration; one below 0 counts as 0. It is seen by others at
// once, but for the sum and the maximum: those at Publish. One goroutine only.
func (h *Histogram) Add(d time.Duration, n uint64) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))].Add(n)
	h.sumNow += float64(n) * float64(d)
	h.maxNow = max(h.maxNow, d)
}

// Publish ends a run of Adds. One goroutine only, the same.
func (h *Histogram) Publish() {
	h.sum.Store(math.Float64bits(h.sumNow))
	if h.max.Load() != int64(h.maxNow) {
		h.max.Store(int64(h.maxNow))
	}
}

// Snapshot is what one or several histograms had counted when it was taken.
type Snapshot struct {
	Counts [Buckets]uint64 // by bucket, not cumulative
	Count  uint64          // their sum
	Sum    float64         // of all durations, seconds
	Max    time.Duration   // the longest
}

// Take adds what h has counted. Any goroutine. What is not published yet is in
// Count and not in Sum and Max.
func (s *Snapshot) Take(h *Histogram) {
	for i := range h.counts {
		n := h.counts[i].Load()
		s.Counts[i] += n
		s.Count += n
	}
	s.Sum += math.Float64frombits(h.sum.Load()) / 1e9
	s.Max = max(s.Max, time.Duration(h.max.Load()))
}

// Quantile is the duration that a part q of all, in [0, 1], did not exceed; 0
// where nothing was counted. It is off by a tenth at most between 7.6 µs and 64 s.
func (s *Snapshot) Quantile(q float64) time.Duration {
	if s.Count == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(q*float64(s.Count))))
	i, sum := 0, s.Counts[0]
	for sum < rank && i < Buckets-1 {
		i++
		sum += s.Counts[i]
	}
	if i == Buckets-1 {
		return s.Max
	}
	// The geometric middle: as far from either bound.
	middle := time.Duration(1e9 * Bound(i) * math.Exp2(-0.5/(1<<Schema)))
	return min(middle, s.Max)
}
