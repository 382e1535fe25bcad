package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// trial is what one server cost once.
type trial struct {
	Server         string   `json:"server"`
	Connections    int      `json:"connections"`
	Failed         int      `json:"failed"`
	ConnectSeconds float64  `json:"connect_seconds"` // upgrade and subscription included
	RSSBefore      int64    `json:"rss_before_bytes"`
	RSSAfter       int64    `json:"rss_after_bytes"`
	RSSPerConn     float64  `json:"rss_bytes_per_connection"`
	GoroutinesGrow int      `json:"goroutines_grown"` // of servers that can be asked
	Phases         []result `json:"phases"`
}

// result is one phase of a trial.
type result struct {
	Name         string  `json:"name"`
	Rate         float64 `json:"rate"`
	Expected     int64   `json:"frames_expected"`
	Frames       int64   `json:"frames"`
	Seconds      float64 `json:"seconds"` // from the first publish to the last frame read
	FramesPerSec float64 `json:"frames_per_second"`
	MicrosPerFrm float64 `json:"cpu_us_per_frame"`
	Closed       int64   `json:"closed"` // connections the server ended meanwhile
}

func (t trial) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s %d connections in %.1f s, %.0f B each, goroutines +%d", t.Server, t.Connections, t.ConnectSeconds, t.RSSPerConn, t.GoroutinesGrow)
	for _, r := range t.Phases {
		fmt.Fprintf(&b, "; %g msg/s: %.2f µs/frame, %.0f frames/s, %d of %d frames", r.Rate, r.MicrosPerFrm, r.FramesPerSec, r.Frames, r.Expected)
		if r.Closed > 0 {
			fmt.Fprintf(&b, ", %d cut", r.Closed)
		}
	}
	return b.String()
}

// runTrial starts a server, connects, and plays every phase.
func runTrial(ctx context.Context, k kind, o *options, dataDir string) (trial, error) {
	t := trial{Server: k.name}
	s, err := k.start(ctx, o, dataDir)
	if err != nil {
		return t, err
	}
	defer s.stop()
	if t.RSSBefore, err = s.settledRSS(o.settle); err != nil {
		return t, err
	}
	goroutines, err := s.goroutines()
	if err != nil {
		return t, err
	}
	h, err := startHerd(s.url, s.channel, o.connections)
	if err != nil {
		return t, err
	}
	defer h.close()
	ready := h.Counts()
	all := ready.Total()
	t.Connections, t.Failed, t.ConnectSeconds = all.Connected, all.Errors.Sum(), ready.Settled.Seconds()
	if t.Failed > 0 {
		return t, fmt.Errorf("%d of %d connections failed: %s", t.Failed, o.connections, all.Errors)
	}
	if t.RSSAfter, err = s.settledRSS(o.settle); err != nil {
		return t, err
	}
	t.RSSPerConn = float64(t.RSSAfter-t.RSSBefore) / float64(t.Connections)
	grown, err := s.goroutines()
	if err != nil {
		return t, err
	}
	t.GoroutinesGrow = grown - goroutines
	for _, p := range o.phases {
		r, err := play(ctx, s, h, p)
		if err != nil {
			return t, fmt.Errorf("%g messages a second: %w", p.rate, err)
		}
		t.Phases = append(t.Phases, r)
	}
	return t, nil
}

func (s *server) settledRSS(settle time.Duration) (int64, error) {
	time.Sleep(settle)
	return s.rss()
}

// play runs one phase and waits until its frames have arrived, or none has for a
// second.
func play(ctx context.Context, s *server, h herd, p phase) (result, error) {
	r := result{Name: p.name, Rate: p.rate}
	before := h.Counts()
	open := before.Total().Open
	cpu, err := s.cpu()
	if err != nil {
		return r, err
	}
	start := time.Now()
	messages, err := s.broadcast(ctx, p)
	if err != nil {
		return r, err
	}
	r.Expected = int64(messages) * int64(open)
	now := h.Counts()
	arrived := func() int64 { return int64(now.Frames - before.Frames) }
	for arrived() < r.Expected && time.Since(time.Unix(0, now.LastNS)) < time.Second {
		time.Sleep(20 * time.Millisecond)
		now = h.Counts()
	}
	end, err := s.cpu()
	if err != nil {
		return r, err
	}
	r.Frames = arrived()
	r.Closed = int64(open - now.Total().Open)
	r.Seconds = time.Unix(0, now.LastNS).Sub(start).Seconds()
	if r.Frames == 0 {
		return r, fmt.Errorf("no frame arrived")
	}
	r.FramesPerSec = float64(r.Frames) / r.Seconds
	r.MicrosPerFrm = float64((end - cpu).Microseconds()) / float64(r.Frames)
	return r, nil
}
