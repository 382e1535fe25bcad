package market

import (
	"errors"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// shape is what a stretch of events looks like from outside.
type shape struct {
	rate              float64            // events a second
	burst             map[string]float64 // percentiles of events in 100 ms / mean
	corr              float64            // lag-1 autocorrelation of those
	gapCV             float64
	gap50, gap99      time.Duration
	line50, line90    int
	line99            int
	clump, clump99    float64 // events less than 100 µs apart: mean, p99
	kinds             map[string]float64
	topSymbol, top10  float64
	events, nChannels int
}

// measure reads n events (or all, n < 0) and describes them.
func measure(t testing.TB, n int, next func() (Event, error)) shape {
	t.Helper()
	var ts []int64
	var lines []int
	kinds, symbols, channels := map[string]int{}, map[string]int{}, map[string]bool{}
	for len(ts) != n {
		e, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		ts = append(ts, e.TS)
		lines = append(lines, len(`{"ts":1723161501051162096,"channel":"","data":}`)+len(e.Channel)+len(e.Data))
		kind, sym, _ := strings.Cut(e.Channel, ".")
		kinds[kind]++
		symbols[sym]++
		channels[e.Channel] = true
	}
	total := len(ts)
	span := float64(ts[total-1]-ts[0]) / 1e9
	s := shape{events: total, rate: float64(total) / span, nChannels: len(channels), kinds: map[string]float64{}, burst: map[string]float64{}}
	for k, c := range kinds {
		s.kinds[k] = float64(c) / float64(total)
	}

	gaps := make([]float64, 0, total)
	var clumps []float64
	size := 1.0
	for i := 1; i < total; i++ {
		g := float64(ts[i] - ts[i-1])
		gaps = append(gaps, g)
		if g < 100_000 {
			size++
		} else {
			clumps, size = append(clumps, size), 1
		}
	}
	m, sd := meanSD(gaps)
	s.gapCV = sd / m
	s.gap50, s.gap99 = time.Duration(at(gaps, .5)), time.Duration(at(gaps, .99))
	s.clump, _ = meanSD(clumps)
	s.clump99 = at(clumps, .99)

	windows := make([]float64, int((ts[total-1]-ts[0])/1e8)+1)
	for _, v := range ts {
		windows[(v-ts[0])/1e8]++
	}
	m, sd = meanSD(windows)
	for i := 1; i < len(windows); i++ {
		s.corr += (windows[i] - m) * (windows[i-1] - m) / float64(len(windows)-1) / (sd * sd)
	}
	for name, p := range map[string]float64{"p10": .1, "p50": .5, "p90": .9, "p99": .99, "max": 1} {
		s.burst[name] = at(windows, p) / m
	}

	s.line50, s.line90, s.line99 = at(lines, .5), at(lines, .9), at(lines, .99)
	counts := make([]int, 0, len(symbols))
	for _, c := range symbols {
		counts = append(counts, c)
	}
	slices.Sort(counts)
	slices.Reverse(counts)
	s.topSymbol = float64(counts[0]) / float64(total)
	for _, c := range counts[:min(10, len(counts))] {
		s.top10 += float64(c) / float64(total)
	}
	return s
}

func at[T int | float64](v []T, p float64) T {
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, int(float64(len(v))*p))]
}

func meanSD(v []float64) (mean, sd float64) {
	for _, x := range v {
		mean += x / float64(len(v))
	}
	for _, x := range v {
		sd += (x - mean) * (x - mean) / float64(len(v))
	}
	return mean, math.Sqrt(sd)
}

func recording(t testing.TB, name string) *Reader {
	t.Helper()
	dir, ok := TestData()
	if !ok {
		t.Skip("no recordings: set ODIN_TESTDATA")
	}
	r, err := Open(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// Five minutes of the synthetic market must look like the recordings did when
// its constants were chosen; the figures are in synth.go's comment.
func TestSynthShape(t *testing.T) {
	t.Parallel()
	s := NewSynth(SynthConfig{Seed: 1})
	got := measure(t, 300_000, func() (Event, error) { return s.Next(), nil })
	t.Logf("synth: %+v", got)
	for _, c := range []struct {
		what         string
		got, min, up float64
	}{
		{"rate", got.rate, 800, 1200},
		{"burst p10", got.burst["p10"], .15, .4},
		{"burst p50", got.burst["p50"], .35, .7},
		{"burst p90", got.burst["p90"], 1.7, 2.8},
		{"burst p99", got.burst["p99"], 5, 10},
		{"burst max", got.burst["max"], 10, 60},
		{"autocorrelation", got.corr, .35, .65},
		{"gap CV", got.gapCV, 1.7, 3},
		{"gap p99 ms", got.gap99.Seconds() * 1e3, 5, 20},
		{"clump", got.clump, 1.8, 3.2},
		{"clump p99", got.clump99, 10, 30},
		{"line p50", float64(got.line50), 200, 260},
		{"line p90", float64(got.line90), 380, 520},
		{"line p99", float64(got.line99), 1200, 2600},
		{"top symbol", got.topSymbol, .1, .16},
		{"top ten", got.top10, .4, .5},
		{"bbo share", got.kinds["bbo"], .3, .7},
		{"trade share", got.kinds["trade"], .15, .35},
		{"book share", got.kinds["book"], .1, .4},
		{"channels", float64(got.nChannels), 300, 300},
	} {
		if c.got < c.min || c.got > c.up {
			t.Errorf("%s = %.3g, want %g to %g", c.what, c.got, c.min, c.up)
		}
	}
}

// The recording whose bursts the constants follow must still have them.
func TestRecordingShape(t *testing.T) {
	t.Parallel()
	got := measure(t, -1, recording(t, "binance-burst-60s.ndjson.gz").Next)
	t.Logf("recording: %+v", got)
	if got.events != 76_005 || got.nChannels != 18 {
		t.Errorf("%d events on %d channels, want 76005 on 18", got.events, got.nChannels)
	}
	want := map[string]float64{"p10": .25, "p50": .49, "p90": 2.2, "p99": 7.35}
	for p, w := range want {
		if math.Abs(got.burst[p]-w) > .05*w {
			t.Errorf("burst %s = %.2f, want %.2f", p, got.burst[p], w)
		}
	}
}
