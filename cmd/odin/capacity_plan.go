package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/odin-ws/odin/capacity"
)

// whatIf is a change and how many connections would fit by memory after it;
// 0 where it does not apply or nothing fits.
type whatIf struct {
	Name      string `json:"name"`
	Goroutine int    `json:"goroutine"`
	EventLoop int    `json:"event_loop"`
	Note      string `json:"note,omitempty"`
}

// The market that the shared replay is reckoned with: as many channels, each
// with as many messages, of so many bytes.
const (
	sharedChannels = 100
	sharedMessages = 100
	sharedMessage  = 500
)

// whatIfs are the four options the first generation of this service weighed,
// for both profiles, by memory alone. --bytes-per-connection is left out: it
// has no replay in it that could shrink.
func (f *capacityFlags) whatIfs() []whatIf {
	fit := func(p capacity.Profile, change func(*capacity.Input)) int {
		in := f.input(p, f.limit)
		change(&in)
		r, err := capacity.Compute(in)
		if err != nil {
			return 0
		}
		return r.ByMemory
	}
	row := func(name, note string, change func(*capacity.Input)) whatIf {
		return whatIf{name, fit(capacity.Goroutine, change), fit(capacity.EventLoop, change), note}
	}
	as := row("as it is", "", func(*capacity.Input) {})
	all := []whatIf{as}
	if f.replay != 20 {
		all = append(all, row("replay of 20 messages",
			"goroutine: 140KB each, and who was away for longer can't resume; event-loop: no effect, the log is the channel's",
			func(in *capacity.Input) { in.Replay = 20 }))
	}
	four := f.limit.Bytes
	if four <= math.MaxInt64/4 {
		four *= 4
	}
	all = append(all,
		row("four times the memory, "+capacity.FormatSize(four), "", func(in *capacity.Input) { in.Limit.Bytes = four }),
		whatIf{"four instances", 4 * as.Goroutine, 4 * as.EventLoop, "and one that fails takes a quarter of the clients along, not all"},
	)
	const shared = sharedChannels * sharedMessages * sharedMessage
	one := fit(capacity.Goroutine, func(in *capacity.Input) {
		rest := capacity.Goroutine.ConnectionTerms(1) // queue, one message, client
		in.BytesPerConnection = rest[0].Bytes + rest[2].Bytes
		in.Backlog = max(0, in.Backlog) + shared
	})
	return append(all, whatIf{
		fmt.Sprintf("one replay for all, %d × %d × %d B", sharedChannels, sharedMessages, sharedMessage), one, as.EventLoop,
		fmt.Sprintf("%.3g MB in all, and it outlives a disconnect; event-loop: always so, within its budget for channel logs", float64(shared)/1e6),
	})
}

// plan is how many instances hold the users that are connected at once.
type plan struct {
	Users     int       `json:"users"`
	Active    float64   `json:"active_percent"`
	Connected int       `json:"connected"`
	Sizes     []planned `json:"sizes"`
}

// planned is one size of container; 0 instances where nothing fits.
type planned struct {
	Memory    int64   `json:"memory"`
	Goroutine planFor `json:"goroutine"`
	EventLoop planFor `json:"event_loop"`
}

type planFor struct {
	Each      int `json:"connections_each"`
	Instances int `json:"instances"`
}

// maxPlanned bounds the connections of a plan: more than there are people.
const maxPlanned = 1 << 40

func (f *capacityFlags) plan() *plan {
	p := &plan{Users: int(f.users), Active: float64(f.active)}
	p.Connected = int(min(math.Ceil(float64(f.users)*float64(f.active)/100-1e-9), maxPlanned))
	for memory := int64(256 * capacity.MiB); memory <= 8*capacity.GiB; memory *= 2 {
		of := func(profile capacity.Profile) planFor {
			in := f.input(profile, capacity.Limit{Bytes: memory})
			if profile == capacity.Profile(f.profile.word) {
				in.BytesPerConnection = int64(f.perConnection)
			}
			r, err := capacity.Compute(in)
			if err != nil {
				return planFor{}
			}
			return planFor{r.ByMemory, (p.Connected + r.ByMemory - 1) / r.ByMemory}
		}
		p.Sizes = append(p.Sizes, planned{memory, of(capacity.Goroutine), of(capacity.EventLoop)})
	}
	return p
}

func (p *plan) text(b *strings.Builder) {
	fmt.Fprintf(b, "\nPlan: %s users, %s %% of them at once: %s connections\n", grouped(int64(p.Users)), trimFloat(p.Active), grouped(int64(p.Connected)))
	b.WriteString("  container        goroutine: each  instances    event-loop: each  instances\n")
	for _, s := range p.Sizes {
		fmt.Fprintf(b, "  %-10s %21s %10s %19s %10s\n", capacity.FormatSize(s.Memory),
			orDash(s.Goroutine.Each), orDash(s.Goroutine.Instances), orDash(s.EventLoop.Each), orDash(s.EventLoop.Instances))
	}
	b.WriteString("  By memory alone: allow as many descriptors, and one instance more to bear the loss of one.\n")
}

func trimFloat(v float64) string {
	p := percent(v)
	return strings.TrimSuffix(p.String(), "%")
}
