package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/odin-ws/odin/internal/market"
)

// The bounds of one batch, and of the pauses between attempts.
const (
	batchEvents = 512
	batchBytes  = 1 << 20
	retryFirst  = 100 * time.Millisecond
	retryMost   = 5 * time.Second
)

// feeder plays events at their own pace. All that are due go out as one batch,
// in order; the next batch follows when that one is answered, so a target that
// is slower than the market makes larger batches, and lag, never a queue.
//
// A batch that was refused for now (503, broker_down, no gateway there) is sent
// again with back-off, and the clock runs on. Within a partly refused batch
// that can change the order of events. What may or may not be stored
// (uncertain) is counted and not repeated.
type feeder struct {
	next  func() (market.Event, error) // io.EOF ends the feed
	to    target
	speed float64       // times the events' own pace; 0 is flat out
	limit int           // events to send; 0 is all
	retry time.Duration // how long one batch is tried again before the feed gives up
	note  func(string)  // told when retrying begins and ends

	mu    sync.Mutex
	stats feedStats // guarded by mu
}

// feedStats is what a feed did. Sent = Acked + the sum of Failed once it has
// ended.
type feedStats struct {
	Sent    int            `json:"sent"`
	Acked   int            `json:"acked"`
	Failed  map[string]int `json:"failed"` // by code; "uncertain" ones may be stored
	Retries int            `json:"retries"`
	Batches int            `json:"batches"`
	Elapsed time.Duration  `json:"elapsed_ns"`
	Rate    float64        `json:"rate_per_sec"` // acked a second
	Lag     time.Duration  `json:"lag_ns"`       // of the last batch behind its schedule
	MaxLag  time.Duration  `json:"max_lag_ns"`
	LastErr string         `json:"last_error,omitempty"`

	started time.Time
}

// run feeds until the events, limit or ctx end; these are no errors. A batch
// under way is finished first.
func (f *feeder) run(ctx context.Context) error {
	f.set(func(s *feedStats) { s.started, s.Failed = time.Now(), map[string]int{} })
	defer f.set(func(s *feedStats) { s.finish() })

	ahead, err := f.next()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	started, base := time.Now(), ahead.TS
	due := func(e market.Event) time.Time {
		if f.speed == 0 {
			return time.Time{}
		}
		return started.Add(time.Duration(float64(e.TS-base) / f.speed))
	}
	batch := make([]market.Event, 0, batchEvents)
	for sent := 0; err == nil; {
		if !waitUntil(ctx, due(ahead)) {
			return nil
		}
		batch, size := batch[:0], 0
		first, now := due(ahead), time.Now()
		for err == nil && len(batch) < batchEvents && size < batchBytes &&
			(f.limit == 0 || sent < f.limit) && !due(ahead).After(now) {
			batch = append(batch, ahead)
			size += len(ahead.Data) + len(ahead.Channel)
			sent++
			ahead, err = f.next()
		}
		if f.speed > 0 {
			f.set(func(s *feedStats) { s.Lag = now.Sub(first); s.MaxLag = max(s.MaxLag, s.Lag) })
		}
		if bad := f.send(ctx, batch); bad != nil {
			return bad
		}
		if f.limit > 0 && sent >= f.limit {
			return nil
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// send publishes one batch until every event has an answer that lasts.
func (f *feeder) send(ctx context.Context, batch []market.Event) error {
	f.set(func(s *feedStats) { s.Sent += len(batch); s.Batches++ })
	began, pause := time.Now(), retryFirst
	for attempt := 0; ; attempt++ {
		again, why, wait, err := f.try(ctx, batch)
		if err != nil || len(again) == 0 {
			if attempt > 0 && err == nil {
				f.note(fmt.Sprintf("%s takes events again after %s", f.to.where(), time.Since(began).Round(time.Millisecond)))
			}
			return err
		}
		batch = again
		if time.Since(began) >= f.retry {
			f.fail(batch, why.Code, why.Message)
			return fmt.Errorf("gave up after %s: %s", time.Since(began).Round(time.Millisecond), why.Message)
		}
		if attempt == 0 {
			f.note(fmt.Sprintf("%d events refused (%s), trying again: %s", len(batch), why.Code, why.Message))
		}
		f.set(func(s *feedStats) { s.Retries++ })
		wait = max(wait, pause/2+rand.N(pause/2))
		wait = min(wait, max(time.Until(began.Add(f.retry)), 0))
		if !waitUntil(ctx, time.Now().Add(wait)) {
			f.fail(batch, why.Code, why.Message)
			return nil
		}
		if why.Code == codeBusy {
			pause = retryFirst // the store takes for moments: who comes seldom never meets one
		} else {
			pause = min(2*pause, retryMost)
		}
	}
}

// try publishes once. It returns what may be tried again, why, and how long to
// wait at least; an error ends the feed.
func (f *feeder) try(ctx context.Context, batch []market.Event) (again []market.Event, why outcome, wait time.Duration, err error) {
	// The batch under way is finished even when the feed is interrupted: cut
	// off, it would be uncertain.
	results, err := f.to.publish(context.WithoutCancel(ctx), batch)
	if err != nil {
		var whole *batchError
		if !errors.As(err, &whole) {
			return nil, why, 0, err
		}
		why = whole.outcome()
		if whole.retry {
			return batch, why, whole.after, nil
		}
		f.fail(batch, whole.code, whole.Error())
		if whole.code == codeUncertain {
			return nil, why, 0, nil
		}
		return nil, why, 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range results {
		switch {
		case r.Code == "":
			f.stats.Acked++
		case retryable(r.Code):
			again = append(again, batch[i])
			why = r
		default:
			f.stats.Failed[r.Code]++
			f.stats.LastErr = fmt.Sprintf("%s: %s %s", batch[i].Channel, r.Code, r.Message)
		}
	}
	return again, why, 0, nil
}

func (f *feeder) fail(batch []market.Event, code, message string) {
	f.set(func(s *feedStats) { s.Failed[code] += len(batch); s.LastErr = message })
}

func (f *feeder) set(change func(*feedStats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.stats)
}

// snapshot is the state so far.
func (f *feeder) snapshot() feedStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Failed = maps.Clone(s.Failed)
	if s.Elapsed == 0 && !s.started.IsZero() {
		s.finish()
	}
	return s
}

func (s *feedStats) finish() {
	s.Elapsed = time.Since(s.started)
	if s.Elapsed > 0 {
		s.Rate = float64(s.Acked) / s.Elapsed.Seconds()
	}
}

func (s feedStats) failures() int {
	n := 0
	for _, c := range s.Failed {
		n += c
	}
	return n
}

// String is the summary.
func (s feedStats) String() string {
	failed := "none"
	if len(s.Failed) > 0 {
		var parts []string
		for _, code := range slices.Sorted(maps.Keys(s.Failed)) {
			parts = append(parts, fmt.Sprintf("%s %d", code, s.Failed[code]))
		}
		failed = strings.Join(parts, ", ")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "sent      %d events in %d batches, %d retries\n", s.Sent, s.Batches, s.Retries)
	fmt.Fprintf(&b, "acked     %d\n", s.Acked)
	fmt.Fprintf(&b, "failed    %s\n", failed)
	fmt.Fprintf(&b, "elapsed   %s, %.0f acked a second\n", s.Elapsed.Round(time.Millisecond), s.Rate)
	fmt.Fprintf(&b, "lag       %s at the end, %s at most", s.Lag.Round(10*time.Microsecond), s.MaxLag.Round(10*time.Microsecond))
	if s.LastErr != "" {
		fmt.Fprintf(&b, "\nlast error: %s", s.LastErr)
	}
	if n := s.Failed[codeUncertain]; n > 0 {
		fmt.Fprintf(&b, "\n%d uncertain events were sent but not acknowledged: they may be stored or not, and were not sent twice.", n)
	}
	return b.String()
}

// waitUntil waits for a moment; false means that ctx ended first.
func waitUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
