package odin

import (
	"bytes"
	"context"
	"testing"
	"time"
)

// FuzzTake lets any server say anything, a frame a line, to a client that follows
// a channel and a wildcard. It may not panic, nor deliver a channel out of order.
func FuzzTake(f *testing.F) {
	for _, seed := range []string{
		`{"t":"ack","id":1,"ch":{"a":{"epoch":"e7","seq":5},"w.*":{"epoch":"e7","seq":9}}}
{"t":"msg","ch":"a","seq":6,"prev":5,"ts":1,"d":{}}
{"t":"msg","ch":"a","seq":9,"prev":8,"ts":1,"d":{}}
{"t":"msg","ch":"a","seq":8,"prev":6,"ts":1,"d":{}}
{"t":"ack","id":2}
{"t":"gap","ch":"w.*","after":9,"before":12,"why":"evicted"}
{"t":"msg","ch":"w.x","seq":12,"prev":11,"ts":1,"d":{}}`,
		`{"t":"ack","id":1,"ch":{"a":{"epoch":"e8","seq":1}},"rej":{"w.*":"limit"}}
{"t":"gap","ch":"a","after":0,"before":0,"why":"epoch"}
{"t":"err","id":2,"code":"rate_limited","retry_ms":-5}
{"t":"err","code":"rate_limited"}
{"t":"bye","code":1012,"retry_ms":1}
{"t":"stale","ch":"w.x"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		c := &Client{byName: map[string]*follow{}, chains: map[string]*chain{}, clock: defaultClock()}
		c.opts = Options{MaxMessage: 64 << 10, Checkpoint: time.Minute, OnGap: func(Gap) {}, OnError: func(*Error) {}}
		c.ctx, c.cancel = context.WithCancel(context.Background())
		defer c.cancel()
		l := &link{wake: make(chan struct{}, 1), tokens: 1e9, tick: time.Now().Add(time.Hour)}
		l.ctx, l.cancel = context.WithCancel(c.ctx)
		c.link = l
		last := map[string]uint64{}
		s := &Subscription{client: c, ready: make(chan struct{}), opts: SubscribeOptions{
			Channels: []string{"a", "w.*"},
			OnGap: func(g Gap) {
				if g.Why == WhyEpoch || g.Why == WhyPosition {
					// Numbers begin again
					clear(last)
				}
			},
			OnMessage: func(m Message) {
				if m.Seq <= last[m.Channel] {
					t.Errorf("%s %d after %d", m.Channel, m.Seq, last[m.Channel])
				}
				last[m.Channel] = m.Seq
			},
		}}
		if err := c.add(s); err != nil {
			t.Fatal(err)
		}
		for line := range bytes.SplitSeq(said, []byte("\n")) {
			c.mu.Lock()
			c.plan(l, time.Now())
			c.due(l, time.Now())
			if frame, err := parseFrame(line); err == nil {
				c.take(l, frame)
			}
			c.mu.Unlock()
			c.fire()
			if l.bad != nil {
				return
			}
		}
		c.Positions()
	})
}
