package brokertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/odin-ws/odin/gateway/broker"
)

func numbers(t *testing.T, r *rig) {
	r.start()
	open := r.sink.Opens()[0]
	for i := range 50 {
		ack := r.publish(fmt.Sprintf("c%d", i%3), fmt.Sprintf(`{"i":%d}`, i), "")
		if want := open.Head + uint64(i) + 1; ack.Seq != want || ack.Epoch != open.Epoch || ack.Duplicate {
			t.Fatalf("ack %+v, want seq %d in epoch %s", ack, want, open.Epoch)
		}
	}
	r.reached(open.Head + 50)
	var time int64
	for i, m := range r.sink.Messages() {
		if m.Channel != fmt.Sprintf("c%d", i%3) || string(m.Data) != fmt.Sprintf(`{"i":%d}`, i) {
			t.Errorf("message %d is %s %s", i, m.Channel, m.Data)
		}
		if i < 3 && m.Prev != 0 || i >= 3 && m.Prev != m.Seq-3 {
			t.Errorf("message %d has prev %d", m.Seq, m.Prev)
		}
		if m.Time < time {
			t.Errorf("message %d has time %d after %d", m.Seq, m.Time, time)
		}
		time = m.Time
	}
	if s := r.Broker.State(); s.Head != open.Head+50 || s.Epoch != open.Epoch || s.Err != nil {
		t.Errorf("state %+v", s)
	}
	if c := r.Broker.Counters(); c.Delivered != 50 || c.Lost != 0 {
		t.Errorf("counters %+v", c)
	}
}

func batchOrder(t *testing.T, r *rig) {
	r.start()
	const n = 10_000 // more than any broker keeps under way at once
	acks := r.publishMany(n)
	for i := 1; i < n; i++ {
		if acks[i].Seq != acks[i-1].Seq+1 {
			t.Fatalf("item %d has seq %d after %d", i, acks[i].Seq, acks[i-1].Seq)
		}
	}
	r.reached(acks[n-1].Seq)
	for i, m := range r.sink.Messages() {
		if string(m.Data) != fmt.Sprintf(`{"i":%d}`, i) {
			t.Fatalf("message %d is %s", i, m.Data)
		}
	}
	if rs := r.Broker.PublishBatch(r.ctx(), nil); len(rs) != 0 {
		t.Errorf("an empty batch has %d results", len(rs))
	}
}

func batchResults(t *testing.T, r *rig) {
	r.start()
	ps := many(5)
	ps[2].Data = []byte(`"` + strings.Repeat("x", 40<<20) + `"`)
	rs := r.Broker.PublishBatch(r.ctx(), ps)
	if len(rs) != len(ps) {
		t.Fatalf("%d results", len(rs))
	}
	for i, res := range rs {
		if i == 2 {
			if !errors.Is(res.Err, broker.ErrTooLarge) {
				t.Errorf("40 MiB: %v", res.Err)
			}
		} else if res.Err != nil {
			t.Errorf("item %d: %v", i, res.Err)
		}
	}
	if rs[4].Ack.Seq != rs[0].Ack.Seq+3 {
		t.Errorf("seqs %d … %d", rs[0].Ack.Seq, rs[4].Ack.Seq)
	}
}

func dedupe(t *testing.T, r *rig) {
	r.start()
	first := r.publish("a", `1`, "k")
	again := r.publish("a", `2`, "k")
	if !again.Duplicate || again.Seq != first.Seq || again.Epoch != first.Epoch {
		t.Errorf("again %+v after %+v", again, first)
	}
	other := r.publish("b", `3`, "k")
	if other.Duplicate || other.Seq != first.Seq+1 {
		t.Errorf("the same key on another channel: %+v", other)
	}
	plain := r.publish("a", `4`, "")
	if plain.Duplicate || plain.Seq != first.Seq+2 {
		t.Errorf("without key: %+v", plain)
	}
	r.reached(plain.Seq)
	if ms := r.sink.Messages(); len(ms) != 3 {
		t.Errorf("%d messages delivered, 3 stored", len(ms))
	}
}

func concurrent(t *testing.T, r *rig) {
	r.start()
	const callers, each = 8, 200
	type stored struct{ channel, data string }
	var (
		mu   sync.Mutex
		acks = map[uint64]stored{}
		wg   sync.WaitGroup
	)
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				p := broker.Publication{Channel: fmt.Sprintf("c%d", c), Data: fmt.Appendf(nil, `%d`, i)}
				ack, err := r.Broker.Publish(r.ctx(), p)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acks[ack.Seq] = stored{p.Channel, string(p.Data)}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(acks) != callers*each {
		t.Fatalf("%d different seqs for %d messages", len(acks), callers*each)
	}
	r.reached(r.sink.Opens()[0].Head + callers*each)
	for _, m := range r.sink.Messages() {
		if got := (stored{m.Channel, string(m.Data)}); got != acks[m.Seq] {
			t.Errorf("seq %d delivered as %v, acked for %v", m.Seq, got, acks[m.Seq])
		}
	}
}

func cancelled(t *testing.T, r *rig) {
	r.start()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for i, res := range r.Broker.PublishBatch(ctx, many(3)) {
		if res.Err == nil {
			continue // acked before anyone looked
		}
		if !errors.Is(res.Err, context.Canceled) {
			t.Errorf("item %d: %v", i, res.Err)
		}
	}
	r.publish("after", `1`, "")
}

func lastAndGet(t *testing.T, r *rig) {
	r.start()
	if _, err := r.Broker.Last(r.ctx(), "none"); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("last of nothing: %v", err)
	}
	if _, err := r.Broker.Get(r.ctx(), "none", 1); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	a1 := r.publish("a", `"a1"`, "")
	r.publish("b", `"b1"`, "")
	a2 := r.publish("a", `"a2"`, "")
	r.publish("ab", `"ab1"`, "")
	r.reached(a2.Seq)
	times := map[uint64]int64{}
	for _, m := range r.sink.Messages() {
		times[m.Seq] = m.Time
	}
	for _, c := range []struct {
		what string
		get  func() (broker.Message, error)
		seq  uint64
		data string
	}{
		{"last", func() (broker.Message, error) { return r.Broker.Last(r.ctx(), "a") }, a2.Seq, `"a2"`},
		{"get 0", func() (broker.Message, error) { return r.Broker.Get(r.ctx(), "a", 0) }, a1.Seq, `"a1"`},
		{"get the first", func() (broker.Message, error) { return r.Broker.Get(r.ctx(), "a", a1.Seq) }, a1.Seq, `"a1"`},
		{"get the next", func() (broker.Message, error) { return r.Broker.Get(r.ctx(), "a", a1.Seq+1) }, a2.Seq, `"a2"`},
	} {
		m, err := c.get()
		if err != nil || m.Seq != c.seq || m.Prev != 0 || m.Channel != "a" || string(m.Data) != c.data || m.Time != times[c.seq] {
			t.Errorf("%s: %+v, %v", c.what, m, err)
		}
	}
	if m, err := r.Broker.Get(r.ctx(), "a", a2.Seq+1); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("get beyond the last: %+v, %v", m, err)
	}
}

func anyBytes(t *testing.T, r *rig) {
	r.skipWithout(r.Inject != nil, "native publishers")
	r.start()
	head := r.sink.Opens()[0].Head
	data := []string{"", "not json", "\xff\xfe\x00", strings.Repeat("z", 500_000)}
	for _, d := range data {
		r.Inject("any.thing", []byte(d))
	}
	r.Inject("UPPER.$odd.ch@nnel", []byte(`1`))
	r.reached(head + uint64(len(data)) + 1)
	ms := r.sink.Messages()
	for i, d := range data {
		if string(ms[i].Data) != d {
			t.Errorf("payload %d changed: %.20q", i, ms[i].Data)
		}
	}
	if ms[len(data)].Channel != "UPPER.$odd.ch@nnel" {
		t.Errorf("channel %q", ms[len(data)].Channel)
	}
}

// While memory is short a store in this process takes its share and refuses the rest,
// a native publisher's too; once it is not, all is taken again. What was acked is there.
func throttled(t *testing.T, r *rig) {
	r.start()
	data := []byte(`"` + strings.Repeat("x", 256<<10) + `"`)
	var last uint64
	publish := func() error {
		ack, err := r.Broker.Publish(r.ctx(), broker.Publication{Channel: "c", Data: data})
		if err == nil {
			last = ack.Seq
		}
		return err
	}
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	busy := 0
	for range 256 { // 64 MiB; more than any share
		r.reached(last)
		r.Broker.Throttle(true)
		switch err := publish(); {
		case errors.Is(err, broker.ErrBusy):
			busy++
		case err != nil:
			t.Fatal(err)
		case busy > 0:
			t.Fatal("taken again while memory is short")
		}
	}
	if r.Throttles != (busy > 0) || r.Broker.State().Throttled != r.Throttles {
		t.Errorf("%d refused, throttled is %v", busy, r.Broker.State().Throttled)
	}
	Wait(t, "all is taken again", func() bool { r.Broker.Throttle(false); return publish() == nil })
	if r.Broker.State().Throttled {
		t.Error("still throttled")
	}
	r.Inject("native", []byte(`1`))
	r.reached(last + 1)
	// A message counts as delivered when the Sink has had it.
	Wait(t, "all is delivered", func() bool { return r.Broker.Counters().Delivered >= last+1 })
	if n := r.Broker.Counters().Delivered; n != last+1 {
		t.Errorf("%d delivered of %d", n, last+1)
	}
}
