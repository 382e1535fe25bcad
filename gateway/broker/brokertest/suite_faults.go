package brokertest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

func blockedSink(t *testing.T, r *rig) {
	r.start()
	n := max(3*r.Queue, 1000)
	unblock := r.sink.Block()
	defer unblock()
	acks := r.publishMany(n) // must not depend on the Sink
	if r.Queue > 0 {
		Wait(t, "the live queue to run over", func() bool { return r.Broker.Counters().Overflows > 0 })
	}
	unblock()
	since := time.Now()
	// Nothing is published from here on: the last ones, dropped too, must come
	// without another message to show the hole.
	r.reached(acks[n-1].Seq)
	if ms := r.sink.Messages(); len(ms) != n {
		t.Errorf("%d messages delivered, %d stored", len(ms), n)
	}
	c := r.Broker.Counters()
	if r.Queue > 0 && (c.Overflows == 0 || c.Refetched == 0) {
		t.Errorf("nothing overflowed: %+v", c)
	}
	if c.Lost != 0 {
		t.Errorf("lost %d", c.Lost)
	}
	t.Logf("%d messages, %d of them fetched again, in %v", n, c.Refetched, time.Since(since))
}

func evictedWhileBlocked(t *testing.T, r *rig) {
	r.skipWithout(r.Evict != nil, "eviction")
	r.start()
	r.sink.AllowZeroPrev()
	n := max(3*r.Queue, 1000)
	unblock := r.sink.Block()
	defer unblock()
	acks := r.publishMany(n)
	if r.Queue > 0 {
		Wait(t, "the live queue to run over", func() bool { return r.Broker.Counters().Overflows > 0 })
	} else {
		time.Sleep(20 * time.Millisecond)
	}
	last := acks[n-1].Seq
	r.Evict(last - 9)
	unblock()
	r.reached(last)
	sum := uint64(len(r.sink.Messages()))
	lost := uint64(0)
	for _, l := range r.sink.Losses() {
		lost += l.Before - l.After - 1
	}
	if lost == 0 || sum+lost != uint64(n) || r.Broker.Counters().Lost != lost {
		t.Errorf("%d delivered + %d lost of %d, counters %+v", sum, lost, n, r.Broker.Counters())
	}
	if ms := r.sink.Messages(); len(ms) < 10 || ms[len(ms)-1].Seq != last || ms[len(ms)-10].Seq != last-9 {
		t.Error("the last ten were still there and didn't come")
	}
}

func evictedPredecessor(t *testing.T, r *rig) {
	r.skipWithout(r.Evict != nil, "eviction")
	r.start()
	r.sink.AllowZeroPrev()
	first := r.publish("a", `1`, "")
	r.reached(first.Seq)
	r.Evict(first.Seq + 1)
	second := r.publish("a", `2`, "")
	r.reached(second.Seq)
	if second.Seq != first.Seq+1 || len(r.sink.Losses()) != 0 {
		t.Errorf("seq %d after %d, losses %v: what was delivered and then evicted isn't lost", second.Seq, first.Seq, r.sink.Losses())
	}
}

func stopAndRestart(t *testing.T, r *rig) {
	r.skipWithout(r.Stop != nil, "log that can be stopped")
	r.start()
	acks := r.publishMany(100)
	r.reached(acks[99].Seq)
	open := r.sink.Opens()[0]

	since := time.Now()
	r.Stop()
	Wait(t, "the sink hears Down", func() bool { return !r.sink.Up() })
	if d := time.Since(since); d > 2*time.Second {
		t.Errorf("Down came after %v", d)
	}
	if s := r.Broker.State(); s.Connected || s.Err == nil || s.Epoch != open.Epoch || s.Head != acks[99].Seq {
		t.Errorf("state %+v", s)
	}
	since = time.Now()
	for i, res := range r.Broker.PublishBatch(r.ctx(), many(10)) {
		if !errors.Is(res.Err, broker.ErrDown) {
			t.Errorf("item %d while down: %v", i, res.Err)
		}
	}
	if _, err := r.Broker.Last(r.ctx(), "trade.S1"); !errors.Is(err, broker.ErrDown) {
		t.Errorf("last while down: %v", err)
	}
	r.quickly("refusing", since)

	r.Restart()
	missed := 0
	if r.Inject != nil { // what others store before we are back
		for missed < 50 {
			r.Inject(fmt.Sprintf("trade.S%d", missed%7), []byte(`"missed"`))
			missed++
		}
	}
	r.waitUp()
	opens := r.sink.Opens()
	if o := opens[len(opens)-1]; o.Epoch != open.Epoch {
		t.Errorf("epoch %s became %s", open.Epoch, o.Epoch)
	}
	r.reached(acks[99].Seq + uint64(missed))
	ack := r.publish("trade.S0", `"back"`, "")
	if want := acks[99].Seq + uint64(missed) + 1; ack.Seq != want || ack.Epoch != open.Epoch {
		t.Errorf("ack %+v, want seq %d", ack, want)
	}
	r.reached(ack.Seq)
	if c := r.Broker.Counters(); c.Reconnects == 0 || c.Lost != 0 {
		t.Errorf("counters %+v", c)
	}
	if n := len(r.sink.Downs()); n != 1 {
		t.Errorf("%d times Down: %v", n, r.sink.Downs())
	}
}

func recreated(t *testing.T, r *rig) {
	r.skipWithout(r.Recreate != nil, "stream that can be made anew")
	r.start()
	old := r.publishMany(20)
	r.reached(old[19].Seq)
	r.Recreate()
	var ack broker.Ack
	for i := range 5 { // at once: some may be stored before anyone noticed
		ack = r.publish("new", fmt.Sprintf(`%d`, i), "")
		if ack.Epoch == old[0].Epoch || ack.Epoch == "" || ack.Seq != uint64(i)+1 {
			t.Errorf("ack %d of the new stream: %+v", i, ack)
		}
	}
	r.afterRecreation(ack, 5)
}

func recreatedWhileStopped(t *testing.T, r *rig) {
	r.skipWithout(r.Recreate != nil && r.Stop != nil && r.Inject != nil, "way to do that")
	r.start()
	old := r.publishMany(20)
	r.reached(old[19].Seq)
	r.Stop()
	Wait(t, "the sink hears Down", func() bool { return !r.sink.Up() })
	r.Restart()
	r.Recreate()
	for range 30 { // past the old position
		r.Inject("new", []byte(`1`))
	}
	Wait(t, "the new epoch is open", func() bool {
		s := r.Broker.State()
		return s.Connected && s.Epoch != old[0].Epoch
	})
	r.waitUp()
	ack := r.publish("new", `2`, "")
	r.afterRecreation(ack, 31)
}

// afterRecreation checks that n messages came in ack's epoch, all of them.
func (r *rig) afterRecreation(ack broker.Ack, n uint64) {
	r.t.Helper()
	Wait(r.t, "the new epoch is open", func() bool {
		o := r.sink.Opens()
		return o[len(o)-1].Epoch == ack.Epoch
	})
	r.reached(n)
	ms := r.sink.Messages()
	if uint64(len(ms)) != n || ack.Seq != n {
		r.t.Errorf("%d messages of the new stream delivered, ack %+v, want %d", len(ms), ack, n)
	}
	for _, m := range ms {
		if m.Channel != "new" {
			r.t.Errorf("old message delivered: %+v", m)
		}
	}
	if s := r.Broker.State(); s.Epoch != ack.Epoch || s.Head != n {
		r.t.Errorf("state %+v, ack %+v", s, ack)
	}
}

func startAndClose(t *testing.T, r *rig) {
	if _, err := r.Broker.Publish(r.ctx(), broker.Publication{Channel: "a", Data: []byte(`1`)}); !errors.Is(err, broker.ErrDown) {
		t.Errorf("publish before Start: %v", err)
	}
	r.start()
	if err := r.Broker.Start(r.sink); err == nil {
		t.Error("a second Start is accepted")
	}
	ack := r.publish("a", `1`, "")
	r.reached(ack.Seq)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := r.Broker.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	wg.Wait()
	calls := r.sink.Calls()
	since := time.Now()
	if _, err := r.Broker.Publish(r.ctx(), broker.Publication{Channel: "a", Data: []byte(`1`)}); !errors.Is(err, broker.ErrDown) {
		t.Errorf("publish after Close: %v", err)
	}
	if _, err := r.Broker.Get(r.ctx(), "a", 1); !errors.Is(err, broker.ErrDown) {
		t.Errorf("get after Close: %v", err)
	}
	r.quickly("refusing", since)
	if s := r.Broker.State(); s.Connected || s.Err == nil {
		t.Errorf("state after Close: %+v", s)
	}
	if r.sink.Calls() != calls {
		t.Error("the sink was called after Close")
	}
}
