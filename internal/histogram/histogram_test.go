package histogram

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"
)

// Every duration is in the one bucket whose bounds enclose it.
func TestBuckets(t *testing.T) {
	if least, most := Bound(0), Bound(Buckets-2); least > 10e-6 || most < 60 || !math.IsInf(Bound(Buckets-1), 1) {
		t.Fatalf("from %v to %v s", least, most)
	}
	check := func(ns uint64) {
		t.Helper()
		i := bucketOf(ns)
		if s := float64(ns) / 1e9; s > Bound(i)*(1+1e-12) || i > 0 && s <= Bound(i-1)*(1-1e-9) && ns > bounds[i-1] || i > 0 && ns <= bounds[i-1] {
			t.Fatalf("%d ns in bucket %d, up to %v", ns, i, Bound(i))
		}
	}
	for i, b := range bounds {
		for _, ns := range []uint64{b - 1, b, b + 1} {
			check(ns)
		}
		if got := bucketOf(b); got != i {
			t.Errorf("the bound of bucket %d is in bucket %d", i, got)
		}
		if i > 0 {
			if width := float64(b) / float64(bounds[i-1]); math.Abs(width-math.Exp2(0.25)) > 1e-3 {
				t.Errorf("bucket %d is %v times as far as the one before", i, width)
			}
		}
	}
	for shift := range 64 {
		check(1 << shift)
		check(1<<shift - 1)
		check(rand.Uint64() >> shift)
	}
	check(0)
	check(math.MaxUint64)
}

// A quantile is off by a tenth at most, whatever the durations are like.
func TestQuantile(t *testing.T) {
	for name, draw := range map[string]func() float64{
		"one value":   func() float64 { return 0.00305 },
		"exponential": func() float64 { return rand.ExpFloat64() * 0.002 },
		"log-normal":  func() float64 { return math.Exp(rand.NormFloat64()*2 - 6) },
		"two humps":   func() float64 { return []float64{90e-6, 1.7}[rand.IntN(2)] * (1 + rand.Float64()/10) },
	} {
		var h Histogram
		all := make([]float64, 20000)
		sum := 0.0
		for i := range all {
			d := time.Duration(1e9 * min(60, max(8e-6, draw())))
			all[i] = d.Seconds()
			sum += d.Seconds()
			h.Add(d, 1)
		}
		h.Publish()
		slices.Sort(all)
		var s Snapshot
		s.Take(&h)
		if s.Count != uint64(len(all)) || math.Abs(s.Sum-sum) > 1e-6*sum || s.Max.Seconds() != all[len(all)-1] {
			t.Errorf("%s: %d, %v s, %v", name, s.Count, s.Sum, s.Max)
		}
		for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
			want := all[max(0, int(math.Ceil(q*float64(len(all))))-1)]
			if got := s.Quantile(q).Seconds(); math.Abs(got/want-1) > 0.1 {
				t.Errorf("%s: quantile %v is %v s, want %v", name, q, got, want)
			}
		}
	}
}

// What is outside of the bounds is counted, and does not spoil the sums.
func TestOutside(t *testing.T) {
	var h Histogram
	if s := (Snapshot{}); s.Quantile(0.5) != 0 {
		t.Error("the median of nothing")
	}
	h.Add(-time.Hour, 2)
	h.Add(3*time.Microsecond, 1)
	h.Publish()
	var s Snapshot
	s.Take(&h)
	if s.Counts[0] != 3 || s.Count != 3 || s.Sum < 2.9e-6 || s.Sum > 3.1e-6 || s.Quantile(1) != 3*time.Microsecond {
		t.Errorf("%d of %d, %v s, %v", s.Counts[0], s.Count, s.Sum, s.Quantile(1))
	}
	h.Add(2*time.Hour, 7)
	h.Publish()
	s = Snapshot{}
	s.Take(&h)
	if s.Counts[Buckets-1] != 7 || s.Quantile(0.5) != 2*time.Hour || math.Abs(s.Sum-7*7200) > 1e-3 {
		t.Errorf("%d, %v, %v s", s.Counts[Buckets-1], s.Quantile(0.5), s.Sum)
	}
}

// One counts, others read, and several make one.
func TestReadMeanwhile(t *testing.T) {
	hs := [2]Histogram{}
	const n = 20000
	var wg sync.WaitGroup
	for i := range hs {
		wg.Go(func() {
			for range n {
				hs[i].Add(time.Millisecond, 1)
				hs[i].Publish()
			}
		})
	}
	wg.Go(func() {
		last := uint64(0)
		for last < 2*n {
			var s Snapshot
			s.Take(&hs[0])
			s.Take(&hs[1])
			if s.Count < last {
				t.Errorf("%d after %d", s.Count, last)
				return
			}
			last = s.Count
		}
	})
	wg.Wait()
	var s Snapshot
	s.Take(&hs[0])
	s.Take(&hs[1])
	if s.Count != 2*n || math.Abs(s.Sum-2*n*0.001) > 1e-6 {
		t.Errorf("%d, %v s", s.Count, s.Sum)
	}
	if n := testing.AllocsPerRun(100, func() { hs[0].Add(time.Second, 3); hs[0].Publish() }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if size := unsafe.Sizeof(hs[0]); size%64 != 0 {
		t.Errorf("%d bytes are no whole cache lines", size)
	}
}

func BenchmarkAdd(b *testing.B) {
	var h Histogram
	d := time.Duration(0)
	for b.Loop() {
		h.Add(d, 1)
		d = (d*5 + 12345) & (1<<28 - 1)
	}
}
