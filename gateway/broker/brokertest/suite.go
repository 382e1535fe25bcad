package brokertest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

// Harness is a broker under test and what can be done to the thing behind it.
// A nil function means that it can't be done; the cases that need it are
// skipped.
type Harness struct {
	// Broker is new: the suite starts and closes it.
	Broker broker.Broker
	// Queue is how many messages must wait for a blocked Sink before some miss
	// their live delivery; 0 when that can't happen.
	Queue int
	// Throttles says that the store is in this process: while memory is short it takes
	// no more than a share of it.
	Throttles bool
	// Stop takes the log away as a crash does; Restart brings it back with what
	// it had.
	Stop, Restart func()
	// Recreate deletes the stream and makes it anew behind the broker's back.
	Recreate func()
	// Evict removes what is stored with Seq < before, as retention does.
	Evict func(before uint64)
	// Inject stores a message as a native publisher does, without the broker.
	Inject func(channel string, data []byte)
}

// Run runs the suite; mk makes a new broker over an empty stream for each case.
func Run(t *testing.T, mk func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *rig)
	}{
		{"numbers and prevs", numbers},
		{"order of a batch", batchOrder},
		{"a result for each item", batchResults},
		{"deduplication by key", dedupe},
		{"concurrent publishers", concurrent},
		{"last and get", lastAndGet},
		{"history by pages", historyPages},
		{"history of nothing", historyOfNothing},
		{"history from end to end", historyWalk},
		{"history of big messages", historyOfBigMessages},
		{"history after eviction", historyEvicted},
		{"history of a recreated stream", historyRecreated},
		{"history while down", historyWhileDown},
		{"history while others publish", historyConcurrent},
		{"the stream's state", streamState},
		{"channels", channels},
		{"many channels", manyChannels},
		{"cancelled context", cancelled},
		{"throttled", throttled},
		{"blocked sink", blockedSink},
		{"evicted while blocked", evictedWhileBlocked},
		{"evicted predecessor", evictedPredecessor},
		{"any bytes", anyBytes},
		{"stop and restart", stopAndRestart},
		{"recreated stream", recreated},
		{"recreated while stopped", recreatedWhileStopped},
		{"start and close", startAndClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := mk(t)
			t.Cleanup(func() {
				if err := h.Broker.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			c.run(t, &rig{Harness: h, t: t, sink: NewRecorder(t)})
		})
	}
}

// rig is a Harness with its Sink.
type rig struct {
	Harness
	t    *testing.T
	sink *Recorder
}

// start starts the broker and waits until it is connected.
func (r *rig) start() {
	r.t.Helper()
	if err := r.Broker.Start(r.sink); err != nil {
		r.t.Fatal(err)
	}
	r.waitUp()
}

func (r *rig) waitUp() {
	r.t.Helper()
	Wait(r.t, "the broker is up", func() bool { return r.sink.Up() && r.Broker.State().Connected })
}

func (r *rig) skipWithout(ok bool, what string) {
	r.t.Helper()
	if !ok {
		r.t.Skip("this broker has no " + what)
	}
}

// publish stores one message or fails the test.
func (r *rig) publish(channel, data, key string) broker.Ack {
	r.t.Helper()
	ack, err := r.Broker.Publish(r.ctx(), broker.Publication{Channel: channel, Data: []byte(data), Key: key})
	if err != nil {
		r.t.Fatalf("publish to %s: %v", channel, err)
	}
	return ack
}

// publishMany stores n messages over 7 channels and returns their acks.
func (r *rig) publishMany(n int) []broker.Ack {
	r.t.Helper()
	acks := make([]broker.Ack, n)
	for i, res := range r.Broker.PublishBatch(r.ctx(), many(n)) {
		if res.Err != nil {
			r.t.Fatalf("item %d: %v", i, res.Err)
		}
		acks[i] = res.Ack
	}
	return acks
}

func many(n int) []broker.Publication {
	ps := make([]broker.Publication, n)
	for i := range ps {
		ps[i] = broker.Publication{Channel: fmt.Sprintf("trade.S%d", i%7), Data: fmt.Appendf(nil, `{"i":%d}`, i)}
	}
	return ps
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return ctx
}

// reached waits until seq was delivered or reported lost.
func (r *rig) reached(seq uint64) {
	r.t.Helper()
	Wait(r.t, fmt.Sprintf("sequence %d reaches the sink", seq), func() bool { return r.sink.Reached(seq) })
}

// quickly fails the test if what took too long for something that must not wait.
func (r *rig) quickly(what string, since time.Time) {
	r.t.Helper()
	if d := time.Since(since); d > time.Second {
		r.t.Errorf("%s took %v", what, d)
	}
}
