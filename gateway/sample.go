package gateway

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sampledLines is how many lines of one kind are logged in a sampleWindow.
	sampledLines = 5
	sampleWindow = time.Second
)

// sampler bounds the log lines that a client can cause: so many of a kind a second,
// and, when the second is over, one that says how many were left out. Kinds are
// words in the code, so the map has a bound.
type sampler struct {
	leftOut atomic.Uint64 // lines, since the start

	mu    sync.Mutex
	kinds map[string]*sampledKind
}

type sampledKind struct {
	began   time.Time // of the window
	lines   int       // in it
	leftOut int       // in it
}

// admit reports whether a line of a kind may be logged now, and how many of the
// window before were left out and have not been told of.
func (s *sampler) admit(kind string, now time.Time) (ok bool, untold int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[kind]
	if k == nil {
		if s.kinds == nil {
			s.kinds = make(map[string]*sampledKind)
		}
		k = new(sampledKind)
		s.kinds[kind] = k
	}
	if now.Sub(k.began) >= sampleWindow {
		untold = k.leftOut
		*k = sampledKind{began: now}
	}
	if k.lines >= sampledLines {
		k.leftOut++
		s.leftOut.Add(1)
		return false, untold
	}
	k.lines++
	return true, untold
}

// ended returns the kinds whose window is over, with how many lines of each were left
// out.
func (s *sampler) ended(now time.Time) (leftOut map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind, k := range s.kinds {
		if k.leftOut > 0 && now.Sub(k.began) >= sampleWindow {
			if leftOut == nil {
				leftOut = make(map[string]int)
			}
			leftOut[kind] = k.leftOut
			k.leftOut = 0
		}
	}
	return leftOut
}

// sampled logs a warning that a client can cause.
func (g *Gateway) sampled(kind, message string, args ...any) {
	g.sampledAt(slog.LevelWarn, kind, message, args...)
}

// sampledAt is sampled at another level.
func (g *Gateway) sampledAt(level slog.Level, kind, message string, args ...any) {
	if !g.log.Enabled(context.Background(), level) {
		return // nobody misses it
	}
	ok, untold := g.sampler.admit(kind, time.Now())
	if untold > 0 {
		g.tellLeftOut(kind, untold)
	}
	if ok {
		g.log.Log(context.Background(), level, message, args...)
	}
}

// tellSampled says of floods that are over how many lines were left out; once a
// second.
func (g *Gateway) tellSampled(now time.Time) {
	// Without the sampler's lock: shards ask it, and a log that nobody reads blocks.
	for kind, n := range g.sampler.ended(now) {
		g.tellLeftOut(kind, n)
	}
}

func (g *Gateway) tellLeftOut(kind string, n int) {
	g.log.Warn("log lines of one kind were left out", "kind", kind, "lines", n)
}
