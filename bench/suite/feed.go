package suite

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/odin-ws/odin/internal/market"
)

// Of a feed: so many of the busiest channels, and at most so many events.
const (
	feedChannels = 500
	feedEvents   = 50_000
)

// feedSource is events in order, played again from the start when they end.
// Static once it is open.
type feedSource struct {
	name     string
	events   []market.Event
	channels []string // the busiest first
}

// openFeed reads a recording, or makes a market whose channels are as popular as
// Zipf's law has it.
func openFeed(path string) (*feedSource, error) {
	f := &feedSource{name: "synthetic market"}
	synth := market.NewSynth(market.SynthConfig{Symbols: feedChannels/3 + 1, Seed: 1})
	next := func() (market.Event, error) { return synth.Next(), nil }
	if path != "" {
		r, err := market.Open(path)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		f.name, next = "recording "+filepath.Base(path), r.Next
	}
	seen := map[string]int{}
	var all []market.Event
	for len(all) < feedEvents {
		e, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		all = append(all, e)
		seen[e.Channel]++
	}
	f.channels = slices.SortedFunc(maps.Keys(seen), func(a, b string) int {
		return cmp.Or(seen[b]-seen[a], cmp.Compare(a, b))
	})
	f.channels = f.channels[:min(feedChannels, len(f.channels))]
	for i, ch := range f.channels {
		seen[ch] = -1 - i
	}
	for _, e := range all {
		if seen[e.Channel] < 0 {
			f.events = append(f.events, e)
		}
	}
	if len(f.events) == 0 {
		return nil, errors.New(f.name + " has no events")
	}
	return f, nil
}
