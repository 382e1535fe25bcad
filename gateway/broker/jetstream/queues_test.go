package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// The queues fit the share they are given, and never keep the largest message
// from passing.
func TestQueuesFollowMemory(t *testing.T) {
	for _, c := range []struct {
		memory     int64
		maxPayload int
		want       queues
	}{
		{0, 64 << 10, queues{16 << 20, 32 << 20, 16 << 20, 32 << 20, 16384, 4 << 20, 4, 4 << 20, 16 << 20}},
		{28 << 20, 64 << 10, queues{14 << 20, 7 << 19, 7 << 18, 7 << 19, 3584, 7 << 19, 4, 7 << 19, 7 << 19}},
		{8 << 20, 64 << 10, queues{4 << 20, 1 << 20, 1 << 19, 1 << 20, 1024, 1 << 20, 4, 1 << 20, 1 << 20}},
		{28 << 20, 500, queues{14 << 20, 7 << 19, 7 << 18, 7 << 19, 3584, 7 << 19, 4, 7 << 19, 7 << 19}},
		// A share too small for the largest message is passed rather than the
		// message refused.
		{1 << 20, 1 << 20, queues{4<<20 + 64<<10, 2<<20 + 32<<10, 1<<20 + 16<<10, 2<<20 + 32<<10, 128, 1 << 17, 1, 1<<20 + 16<<10, 2<<20 + 32<<10}},
	} {
		cfg, err := Config{DataDir: t.TempDir(), Memory: c.memory, MaxPayload: c.maxPayload}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.queues(); got != c.want {
			t.Errorf("memory %d, payload %d:\n got %+v\nwant %+v", c.memory, c.maxPayload, got, c.want)
		}
		opts, _, err := cfg.serverOptions()
		if err != nil {
			t.Fatal(err)
		}
		if opts.MaxPending != c.want.pending || opts.StreamMaxBufferedSize != c.want.stream {
			t.Errorf("memory %d: the server is given %d and %d", c.memory, opts.MaxPending, opts.StreamMaxBufferedSize)
		}
		// What is held at once: for a client, for the store, and live.
		q := c.want
		if sum := q.pending + q.stream + q.stored + q.live + int64(q.liveN)*liveMessage; c.memory >= 8<<20 && sum > c.memory {
			t.Errorf("memory %d: %d in its queues", c.memory, sum)
		}
	}
	if _, err := (Config{DataDir: "x", Memory: -1}).withDefaults(); err == nil {
		t.Error("a negative memory is no error")
	}
}

// With the least share the largest messages pass, many at once, live and read
// again from the stream after the queue ran over; nobody is cut for it.
func TestLargestMessagesInTheLeastMemory(t *testing.T) {
	const payload, n = 256 << 10, 64
	sink := brokertest.NewRecorder(t)
	br := startedBroker(t, Config{
		DataDir: t.TempDir(), Memory: 8 << 20, MaxPayload: payload, Audit: 50 * time.Millisecond,
	}, sink)
	unblock := sync.OnceFunc(sink.Block())
	defer unblock() // Close waits for the Sink
	ps := make([]broker.Publication, n)
	for i := range ps {
		data := make([]byte, payload)
		for j := range data {
			data[j] = '1'
		}
		ps[i] = broker.Publication{Channel: fmt.Sprintf("big.%d", i), Data: data}
	}
	for round := range 2 {
		for i, r := range br.PublishBatch(context.Background(), ps) {
			if r.Err != nil {
				t.Fatalf("round %d, message %d: %v", round, i, r.Err)
			}
		}
	}
	unblock()
	waitUntil(t, "all delivered", func() bool { return sink.Reached(2 * n) })
	c := br.Counters()
	if c.Overflows == 0 || c.Refetched == 0 {
		t.Errorf("32 MiB went through a live queue of 1 MiB without running over: %+v", c)
	}
	if c.Lost != 0 || c.Reconnects != 0 {
		t.Errorf("%+v", c)
	}
	ps[0].Data = append(ps[0].Data, '1')
	if _, err := br.Publish(context.Background(), ps[0]); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
}
