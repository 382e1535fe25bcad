package gateway

import (
	"context"
	"slices"
	"time"

	"github.com/odin-ws/odin/gateway/channel"
)

const (
	// topKept is how many channels are the top.
	topKept = 10
	// topWait is how long the shards have to say who follows them.
	topWait = 200 * time.Millisecond
)

// topChannel is one of the channels with the most messages.
type topChannel struct {
	Channel string  `json:"ch"`
	In      float64 `json:"in"`      // messages a second, since the look before
	Members int     `json:"members"` // subscribers, those by wildcards too; -1: a shard did not say in time
}

// topChannels finds the channels with the most messages, by where their logs stood at
// the look before: a pass over all channels, a list and two maps of them while
// somebody looks. Owned by the one who samples.
type topChannels struct {
	at     time.Time
	all    []*channel.Channel // scratch
	before map[*channel.Channel]uint64
	spare  map[*channel.Channel]uint64
}

// forget frees what was remembered for the next look.
func (t *topChannels) forget() { *t = topChannels{} }

// look returns the top since the look before, the busiest first; none at the first.
func (t *topChannels) look(g *Gateway) []topChannel {
	type entry struct {
		ch *channel.Channel
		n  uint64
	}
	now := time.Now()
	after := t.spare
	if after == nil {
		after = make(map[*channel.Channel]uint64, g.hub.Len())
	}
	top := make([]entry, 0, topKept+1)
	// The hub's lock is held for the list only: a new channel waits for it, and then
	// whoever delivers.
	t.all = t.all[:0]
	g.hub.Each(func(ch *channel.Channel) { t.all = append(t.all, ch) })
	for _, ch := range t.all {
		next, _ := ch.Head()
		after[ch] = next
		was, known := t.before[ch]
		if !known || next <= was {
			continue
		}
		n := next - was
		if len(top) == topKept && n <= top[topKept-1].n {
			continue
		}
		at, _ := slices.BinarySearchFunc(top, n, func(e entry, n uint64) int {
			if e.n >= n {
				return -1
			}
			return 1
		})
		top = slices.Insert(top, at, entry{ch, n})
		top = top[:min(len(top), topKept)]
	}
	clear(t.all)
	span := now.Sub(t.at).Seconds()
	clear(t.before)
	t.spare, t.before, t.at = t.before, after, now
	out := make([]topChannel, len(top))
	chans := make([]*channel.Channel, len(top))
	for i, e := range top {
		chans[i] = e.ch
		out[i] = topChannel{Channel: e.ch.Name, In: float64(e.n) / span}
	}
	members, err := g.members(chans)
	for i := range out {
		if out[i].Members = -1; err == nil {
			out[i].Members = members[i]
		}
	}
	return out
}

// members counts who follows channels, over all shards.
func (g *Gateway) members(chans []*channel.Channel) ([]int, error) {
	total := make([]int, len(chans))
	if len(chans) == 0 {
		return total, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), topWait)
	defer cancel()
	answers := make(chan []int, len(g.shards)) // room for one that comes too late
	for _, s := range g.shards {
		if !s.post(func(s *shard) {
			n := make([]int, len(chans))
			for i, ch := range chans {
				for sc := s.chanOf[ch]; sc != nil; sc = sc.next {
					n[i] += sc.Len()
				}
			}
			answers <- n
		}) {
			return nil, context.Canceled // the shard has ended
		}
	}
	for range g.shards {
		select {
		case n := <-answers:
			for i := range total {
				total[i] += n[i]
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return total, nil
}
