package capacity

import (
	"context"
	"math/bits"
	"time"
)

// State is what the memory in use allows.
type State uint8

const (
	// Normal: nothing is asked for.
	Normal State = iota
	// Hold: take no more publications than the store's share of the memory has room
	// for; clients notice nothing.
	Hold
	// Refuse: admit no one.
	Refuse
	// Evict: admit no one, and cut who makes no progress, most-lagged first.
	Evict
)

func (s State) String() string {
	switch s {
	case Normal:
		return "normal"
	case Hold:
		return "hold"
	case Refuse:
		return "refuse"
	case Evict:
		return "evict"
	}
	return "unknown"
}

// Thresholds are parts of the limit in percent. Each state is entered at one
// and left below another, so that it does not flutter.
type Thresholds struct {
	Hold, Ease    int // into Hold at ≥ Hold, out of it below Ease
	Refuse, Calm  int // into Refuse at ≥ Refuse, out of it below Calm
	Evict, Relent int // into Evict at ≥ Evict, out of it below Relent

	// LiveHold and LiveEase are as Hold and Ease, but of GOMEMLIMIT, for the heap that
	// the collector can't free: near the limit it would run all the time, for nothing.
	LiveHold, LiveEase int
}

// DefaultThresholds are those of the gateway: publishers wait before anyone is
// refused, and callers are refused before anyone is cut (ADR 17).
var DefaultThresholds = Thresholds{Hold: 85, Ease: 80, Refuse: 92, Calm: 88, Evict: 96, Relent: 92, LiveHold: 75, LiveEase: 70}

// Next is the state after a sample. It is a function of its arguments alone. A limit
// of 0 or less is always passed; without a heap limit the heap does not count.
func (t Thresholds) Next(s State, now Sample) State {
	used, limit := now.Used, now.Of.Bytes
	switch {
	case reaches(used, limit, t.Evict), s == Evict && reaches(used, limit, t.Relent):
		return Evict
	case reaches(used, limit, t.Refuse), s >= Refuse && reaches(used, limit, t.Calm):
		return Refuse
	case reaches(used, limit, t.Hold), s >= Hold && reaches(used, limit, t.Ease):
		return Hold
	case now.HeapLimit > 0 && (reaches(now.HeapLive, now.HeapLimit, t.LiveHold) ||
		s >= Hold && reaches(now.HeapLive, now.HeapLimit, t.LiveEase)):
		return Hold
	}
	return Normal
}

// reaches reports whether used is at least so much percent of limit, exactly.
func reaches(used, limit int64, percent int) bool {
	if limit <= 0 {
		return true
	}
	uh, ul := bits.Mul64(uint64(max(used, 0)), 100)
	lh, ll := bits.Mul64(uint64(limit), uint64(max(percent, 0)))
	return uh > lh || uh == lh && ul >= ll
}

// Watch holds the memory in use against its limit. It is the second line: the
// first is that the formula's terms are enforced. Not for concurrent use.
type Watch struct {
	read  func() Sample
	t     Thresholds
	state State
}

// NewWatch returns a watch over what read returns, most often Usage.Read.
func NewWatch(read func() Sample, t Thresholds) *Watch { return &Watch{read: read, t: t} }

// Step takes a sample and returns the state after it.
func (w *Watch) Step() (State, Sample) {
	s := w.read()
	w.state = w.t.Next(w.state, s)
	return w.state, s
}

// Run calls f with each sample and the state after it, at once and then every
// interval until ctx ends. Samples missed because f was slow are not made up for.
//
// A caller looks at three things: the state, at every call; Sample.Changed, to
// have Result.Recompute give the gate its new maximum (0 if it has an error);
// and Sample.Err, to count and log it.
func (w *Watch) Run(ctx context.Context, interval time.Duration, f func(State, Sample)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		f(w.Step())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() != nil {
			return
		}
	}
}
