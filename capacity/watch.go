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
	// Refuse: admit no one.
	Refuse
	// Evict: admit no one, and cut who makes no progress, most-lagged first.
	Evict
)

func (s State) String() string {
	switch s {
	case Normal:
		return "normal"
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
	Refuse, Calm  int // into Refuse at ≥ Refuse, out of it below Calm
	Evict, Relent int // into Evict at ≥ Evict, out of it below Relent
}

// DefaultThresholds are those of the gateway.
var DefaultThresholds = Thresholds{Refuse: 92, Calm: 88, Evict: 96, Relent: 92}

// Next is the state after a sample of used bytes of limit. It is a function of
// its arguments alone. A limit of 0 or less is always passed.
func (t Thresholds) Next(s State, used, limit int64) State {
	switch {
	case reaches(used, limit, t.Evict), s == Evict && reaches(used, limit, t.Relent):
		return Evict
	case reaches(used, limit, t.Refuse), s != Normal && reaches(used, limit, t.Calm):
		return Refuse
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
	w.state = w.t.Next(w.state, s.Used, s.Of.Bytes)
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
