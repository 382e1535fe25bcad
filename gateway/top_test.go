package gateway

import (
	"fmt"
	"testing"

	"github.com/odin-ws/odin/gateway/channel"
)

// The top is exact in order and rate, whatever the number of channels; a channel that
// had nothing since the look before is not in it.
func TestTopChannels(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	const n = 3 * topKept
	for i := range n {
		g.publish(fmt.Sprintf("ch.%d", i), `1`)
	}
	seen := func() bool {
		_, seq := g.hub.Lookup(fmt.Sprintf("ch.%d", n-1)).Head()
		return seq > 0
	}
	g.eventually("the channels", func() bool { return g.hub.Len() == n && seen() })
	var top topChannels
	if first := top.look(g.Gateway); len(first) != 0 {
		t.Errorf("a rate at the first look: %+v", first)
	}
	var last uint64
	for i := range n {
		for range i % (topKept + 5) { // ch.14 and ch.29 the most, ch.0 and ch.15 none
			last = g.publish(fmt.Sprintf("ch.%d", i), `1`)
		}
	}
	g.eventually("the messages", func() bool { return g.hub.Head() >= last })
	got := top.look(g.Gateway)
	if len(got) != topKept {
		t.Fatalf("%d channels", len(got))
	}
	for i := 1; i < len(got); i++ {
		if got[i].In > got[i-1].In {
			t.Errorf("%+v", got)
		}
	}
	for i, name := range []string{"ch.14", "ch.29"} {
		if got[i].Channel != name && got[1-i].Channel != name || got[i].Members != 0 {
			t.Errorf("%s is not first: %+v", name, got[:2])
		}
	}
	if ratio := got[0].In / got[topKept-1].In; ratio < 1.39 || ratio > 1.41 { // 14 to 10
		t.Errorf("%v", ratio)
	}
	if quiet := top.look(g.Gateway); len(quiet) != 0 {
		t.Errorf("busy without a message: %+v", quiet)
	}
	top.forget()
	if top.before != nil || top.spare != nil {
		t.Error("it remembers channels for nobody")
	}
}

// A look costs a pass over all channels, once a second while a page is open.
func BenchmarkTopChannels(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			hub := channel.New(channel.Config{Shards: 1, Budget: 1 << 30, MaxChannels: 2 * n})
			for i := range n {
				hub.Ensure(fmt.Sprintf("ch.%d", i), 0)
			}
			if hub.Len() != n {
				b.Fatal(hub.Len())
			}
			g := &Gateway{hub: hub}
			var top topChannels
			top.look(g)
			b.ReportAllocs()
			for b.Loop() {
				top.look(g)
			}
		})
	}
}
