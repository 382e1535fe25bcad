package main

import (
	"os"
	"time"

	"github.com/odin-ws/odin/internal/swarm"
)

// swarmChild as the only argument makes this program a part of a herd.
const swarmChild = "swarm-child"

// herd is the load clients of one trial.
type herd struct{ *swarm.Swarm }

// startHerd opens n connections to url, some at a time, and waits until each is
// ready or has failed.
func startHerd(url, channel string, n int) (herd, error) {
	self, err := os.Executable()
	if err != nil {
		return herd{}, err
	}
	cfg := swarm.Config{
		URL: url, Connections: n, InFlight: 256, Timeout: 10 * time.Second, Child: []string{self, swarmChild},
		// A client asleep in epoll_wait is woken for every frame, at the server's
		// expense. This one lets a burst pile up: what is measured is the server.
		Pause: time.Millisecond,
	}
	if channel != "" {
		cfg.Channels = []string{channel}
	}
	s, err := swarm.Start(cfg)
	if err != nil {
		return herd{}, err
	}
	for {
		c := s.Counts()
		if t := c.Total(); t.Connected+t.Errors.Sum() == n {
			return herd{s}, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (h herd) close() { _, _ = h.Finish(swarm.End{}) }
