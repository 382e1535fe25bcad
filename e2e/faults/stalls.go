//go:build linux

package main

import (
	"sync"
	"time"
)

// stalls watches how late this process is run: a machine that stands still for
// half a second moves what is counted by the second into the next one.
type stalls struct {
	stop chan struct{}

	mu   sync.Mutex
	seen []stall // guarded by mu
}

type stall struct {
	at   time.Time
	late time.Duration
}

// leastStall is how late is worth noting.
const leastStall = 150 * time.Millisecond

func watchStalls() *stalls {
	s := &stalls{stop: make(chan struct{})}
	go func() {
		const every = 10 * time.Millisecond
		for last := time.Now(); ; {
			select {
			case <-s.stop:
				return
			case <-time.After(every):
			}
			now := time.Now()
			if late := now.Sub(last) - every; late > leastStall {
				s.mu.Lock()
				if len(s.seen) < 10_000 {
					s.seen = append(s.seen, stall{now, late})
				}
				s.mu.Unlock()
			}
			last = now
		}
	}()
	return s
}

// worst is the longest since a moment.
func (s *stalls) worst(since time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var w time.Duration
	for _, x := range s.seen {
		if x.at.After(since) {
			w = max(w, x.late)
		}
	}
	return w
}
