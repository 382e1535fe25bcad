package gateway

import (
	"sync"
	"time"
)

// sampler lets each kind of message through once a second, so that a flood of
// bad clients is not a flood of log lines.
type sampler struct {
	mu      sync.Mutex
	last    map[string]time.Time
	skipped map[string]int
}

// sampled logs a warning, at most one of a kind a second, with how many of the
// kind were left out.
func (g *Gateway) sampled(kind, message string, args ...any) {
	s := &g.sampler
	s.mu.Lock()
	if s.last == nil {
		s.last, s.skipped = make(map[string]time.Time), make(map[string]int)
	}
	now := time.Now()
	if now.Sub(s.last[kind]) < time.Second {
		s.skipped[kind]++
		s.mu.Unlock()
		return
	}
	s.last[kind] = now
	skipped := s.skipped[kind]
	s.skipped[kind] = 0
	s.mu.Unlock()
	if skipped > 0 {
		args = append(args, "more_like_it", skipped)
	}
	g.log.Warn(message, args...)
}
