package capacity

import (
	"context"
	"errors"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

func TestThresholds(t *testing.T) {
	for name, tc := range map[string]struct {
		percent []float64 // of 10 000 bytes
		want    []State
	}{
		"up by one":              {[]float64{0, 84.99, 85, 91.99, 92, 95.99, 96, 150}, []State{Normal, Normal, Hold, Hold, Refuse, Refuse, Evict, Evict}},
		"down by one":            {[]float64{96, 92, 91.99, 88, 87.99, 80, 79.99, 92}, []State{Evict, Evict, Refuse, Refuse, Hold, Hold, Normal, Refuse}},
		"calm below, not at":     {[]float64{92, 88, 91, 88, 87.99}, []State{Refuse, Refuse, Refuse, Refuse, Hold}},
		"no flutter around 85":   {[]float64{84.9, 85.1, 84.9, 85.1, 79.9, 84.9}, []State{Normal, Hold, Hold, Hold, Normal, Normal}},
		"straight to evict":      {[]float64{10, 99, 10}, []State{Normal, Evict, Normal}},
		"evict falls to refuse":  {[]float64{97, 90, 93, 95.99, 96}, []State{Evict, Refuse, Refuse, Refuse, Evict}},
		"no flutter around 92":   {[]float64{91.9, 92.1, 91.9, 92.1, 91.9}, []State{Hold, Refuse, Refuse, Refuse, Refuse}},
		"no flutter around 96":   {[]float64{96.1, 95.9, 96.1, 95.9}, []State{Evict, Evict, Evict, Evict}},
		"between, from normal":   {[]float64{80, 84, 80}, []State{Normal, Normal, Normal}},
		"evict to normal at one": {[]float64{96, 79.99}, []State{Evict, Normal}},
	} {
		t.Run(name, func(t *testing.T) {
			s := Normal
			for i, p := range tc.percent {
				if s = DefaultThresholds.Next(s, of(int64(math.Round(p*100)), 10_000)); s != tc.want[i] {
					t.Fatalf("sample %d, %v %%: %v, want %v", i, p, s, tc.want[i])
				}
			}
		})
	}
	for name, tc := range map[string]struct {
		used, limit int64
		want        State
	}{
		"no limit left":   {1, 0, Evict},
		"nothing at all":  {0, 0, Evict},
		"negative limit":  {1, -1, Evict},
		"negative use":    {-1, 100, Normal},
		"huge":            {math.MaxInt64, math.MaxInt64, Evict},
		"huge and empty":  {1 << 40, math.MaxInt64, Normal},
		"exact with huge": {math.MaxInt64 / 100 * 92, math.MaxInt64 / 100 * 100, Refuse},
		"a byte below it": {math.MaxInt64/100*92 - 1, math.MaxInt64 / 100 * 100, Hold},
	} {
		if got := DefaultThresholds.Next(Normal, of(tc.used, tc.limit)); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// of is a sample of so much memory in use.
func of(used, limit int64) Sample { return Sample{Used: used, Of: Limit{Bytes: limit}} }

// A heap that the collector can't free holds publishers back, and nobody else.
func TestHeapThresholds(t *testing.T) {
	s := Normal
	for i, c := range []struct {
		used, live, limit int64
		want              State
	}{
		{50, 749, 1000, Normal}, {50, 750, 1000, Hold}, {50, 700, 1000, Hold}, {50, 699, 1000, Normal},
		{50, 2000, 0, Normal}, // no GOMEMLIMIT
		{50, 2000, 1000, Hold}, {93, 2000, 1000, Refuse}, {70, 2000, 1000, Hold}, {70, 0, 1000, Normal},
	} {
		sample := of(c.used, 100)
		sample.HeapLive, sample.HeapLimit = c.live, c.limit
		if s = DefaultThresholds.Next(s, sample); s != c.want {
			t.Fatalf("sample %d: %v, want %v", i, s, c.want)
		}
	}
}

func TestHeapIsRead(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	var h heap
	runtime.GC()
	if live, limit := h.read(); live <= 0 || limit != 0 {
		t.Errorf("%d bytes live of %d", live, limit)
	}
	kept := make([]byte, 32*MiB)
	debug.SetMemoryLimit(GiB)
	runtime.GC()
	if live, limit := h.read(); live < 32*MiB || limit != GiB {
		t.Errorf("%d bytes live of %d", live, limit)
	}
	runtime.KeepAlive(kept)
	if n := testing.AllocsPerRun(100, func() { h.read() }); n != 0 {
		t.Errorf("a reading allocates %v times", n)
	}
}

// Whatever the states before, hysteresis holds: a state is only left below its
// own lower threshold.
func FuzzThresholds(f *testing.F) {
	f.Add(uint8(1), int64(90), int64(100))
	f.Add(uint8(2), int64(1)<<62, int64(1)<<62+5)
	f.Fuzz(func(t *testing.T, from uint8, used, limit int64) {
		s := State(from % 4)
		next := DefaultThresholds.Next(s, of(used, limit))
		if limit <= 0 {
			if next != Evict {
				t.Fatalf("limit %d: %v", limit, next)
			}
			return
		}
		r := float64(max(used, 0)) / float64(limit) * 100
		const e = 1e-6
		switch {
		case r > 96+e && next != Evict, r > 92+e && next < Refuse, r > 85+e && next == Normal,
			r < 80-e && next != Normal, r < 88-e && next > Hold, r < 92-e && next == Evict,
			s == Normal && r < 85-e && next != Normal, s < Refuse && r < 92-e && next > Hold,
			s == Evict && r > 92+e && next != Evict, s >= Refuse && r > 88+e && next < Refuse, s >= Hold && r > 80+e && next == Normal:
			t.Fatalf("%v at %v %%: %v", s, r, next)
		}
		if DefaultThresholds.Next(next, of(used, limit)) != next {
			t.Fatal("the same sample again changes the state")
		}
	})
}

func TestWatchRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		feed := []Sample{
			{Used: 10, Of: Limit{Bytes: 100}},
			{Used: 93, Of: Limit{Bytes: 100}},
			{Used: 93, Of: Limit{Bytes: 200}, Changed: true},
			{Used: 196, Of: Limit{Bytes: 200}, Err: boom},
		}
		n := 0
		w := NewWatch(func() Sample { n++; return feed[n-1] }, DefaultThresholds)
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var got []State
		w.Run(ctx, 100*time.Millisecond, func(s State, sample Sample) {
			if sample != feed[n-1] {
				t.Errorf("sample %d: %+v", n, sample)
			}
			if at := time.Since(start); at != time.Duration(n-1)*100*time.Millisecond {
				t.Errorf("sample %d after %v", n, at)
			}
			if got = append(got, s); n == len(feed) {
				cancel()
			}
		})
		want := []State{Normal, Refuse, Normal, Evict}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("states %v, want %v", got, want)
				break
			}
		}
	})
}

func TestStateString(t *testing.T) {
	for s, want := range map[State]string{Normal: "normal", Hold: "hold", Refuse: "refuse", Evict: "evict", 9: "unknown"} {
		if s.String() != want {
			t.Errorf("%d is %q", s, s)
		}
	}
}
