package brokertest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

// history reads one page or fails the test, and checks what every page owes.
func (r *rig) history(req broker.HistoryRequest) broker.Page {
	r.t.Helper()
	p, err := r.Broker.History(r.ctx(), req)
	if err != nil {
		r.t.Fatalf("history %+v: %v", req, err)
	}
	if len(p.Messages) > max(req.Messages, 1) {
		r.t.Errorf("history %+v: %d messages", req, len(p.Messages))
	}
	for i, m := range p.Messages {
		if m.Channel != req.Channel || m.Seq < req.From || m.Seq > req.To {
			r.t.Errorf("history %+v: got %d on %q", req, m.Seq, m.Channel)
		}
		if i > 0 && m.Prev != p.Messages[i-1].Seq || m.Prev >= m.Seq {
			r.t.Errorf("history %+v: %d has prev %d", req, m.Seq, m.Prev)
		}
		if m.Seq > p.Last {
			r.t.Errorf("history %+v: %d is beyond the stream's last %d", req, m.Seq, p.Last)
		}
	}
	return p
}

// seqs are a page's sequences.
func seqs(p broker.Page) []uint64 {
	var s []uint64
	for _, m := range p.Messages {
		s = append(s, m.Seq)
	}
	return s
}

func historyPages(t *testing.T, r *rig) {
	r.start()
	open := r.sink.Opens()[0]
	r.publish("b", `"b"`, "")
	var a []uint64 // sequences on channel a
	for i := range 10 {
		a = append(a, r.publish("a", fmt.Sprintf(`"a%d"`, i), "").Seq)
		r.publish("ab", `"ab"`, "")
		r.publish("a.b", `"a.b"`, "")
	}
	last := a[9] + 2
	r.reached(last)
	times := map[uint64]int64{}
	for _, m := range r.sink.Messages() {
		times[m.Seq] = m.Time
	}
	const all = math.MaxUint64
	for _, c := range []struct {
		what     string
		from, to uint64
		messages int
		want     []uint64
		more     bool
	}{
		{"all of it", 0, all, 100, a, false},
		{"all of it, exactly", a[0], a[9], 10, a, false},
		{"to the stream's last", 1, last, 100, a, false},
		{"fewer than there are", 1, all, 4, a[:4], true},
		{"one", 1, all, 1, a[:1], true},
		{"the rest", a[4], all, 100, a[4:], false},
		{"from between two", a[3] + 1, all, 2, a[4:6], true},
		{"to one of it", 1, a[5], 100, a[:6], false},
		{"to between two", 1, a[5] + 1, 100, a[:6], false},
		{"as many as to To", a[2], a[5], 4, a[2:6], false},
		{"one fewer than to To", a[2], a[5], 3, a[2:5], true},
		{"between two", a[3] + 1, a[4] - 1, 100, nil, false},
		{"after the last", a[9] + 1, all, 100, nil, false},
		{"beyond the stream", last + 1000, all, 100, nil, false},
		{"before the first", 0, a[0] - 1, 100, nil, false},
		{"backwards", a[5], a[2], 100, nil, false},
	} {
		p := r.history(broker.HistoryRequest{Channel: "a", From: c.from, To: c.to, Messages: c.messages, Bytes: 1 << 20})
		if !slices.Equal(seqs(p), c.want) || p.More != c.more {
			t.Errorf("%s: %v, more %v, want %v, %v", c.what, seqs(p), p.More, c.want, c.more)
			continue
		}
		if p.Epoch != open.Epoch || p.First != open.Head+1 || p.Last != last {
			t.Errorf("%s: epoch %s, %d to %d", c.what, p.Epoch, p.First, p.Last)
		}
		for i, m := range p.Messages {
			at := slices.Index(a, m.Seq)
			prev := uint64(0)
			if at > 0 {
				prev = a[at-1]
			}
			if m.Prev != prev || string(m.Data) != fmt.Sprintf(`"a%d"`, at) || m.Time != times[m.Seq] {
				t.Errorf("%s: message %d is %+v, want prev %d", c.what, i, m, prev)
			}
		}
	}
	p := r.history(broker.HistoryRequest{Channel: "none", To: all, Messages: 10, Bytes: 1 << 20})
	if len(p.Messages) != 0 || p.More || p.Epoch != open.Epoch || p.Last != last {
		t.Errorf("of a channel with nothing: %+v", p)
	}
}

// stream asks how far the stream goes, or fails the test.
func (r *rig) stream() broker.StreamState {
	r.t.Helper()
	s, err := r.Broker.Stream(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func streamState(t *testing.T, r *rig) {
	r.start()
	open := r.sink.Opens()[0]
	if s, want := r.stream(), (broker.StreamState{Epoch: open.Epoch, First: 1}); s != want {
		t.Errorf("empty: %+v, want %+v", s, want)
	}
	last := r.publishMany(10)[9].Seq
	if s, want := r.stream(), (broker.StreamState{Epoch: open.Epoch, First: 1, Last: last}); s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
	if r.Evict != nil {
		r.Evict(4)
		if s, want := r.stream(), (broker.StreamState{Epoch: open.Epoch, First: 4, Last: last}); s != want {
			t.Errorf("evicted: %+v, want %+v", s, want)
		}
		r.Evict(last + 1)
		if s, want := r.stream(), (broker.StreamState{Epoch: open.Epoch, First: last + 1, Last: last}); s != want {
			t.Errorf("all evicted: %+v, want %+v", s, want)
		}
	}
}

func historyOfNothing(t *testing.T, r *rig) {
	r.start()
	p := r.history(broker.HistoryRequest{Channel: "a", To: 100, Messages: 10, Bytes: 1000})
	if o := r.sink.Opens()[0]; len(p.Messages) != 0 || p.More || p.Epoch != o.Epoch || p.Last != o.Head || p.First != p.Last+1 {
		t.Errorf("of an empty stream: %+v", p)
	}
}

// historyWalk reads a long channel page by page, by messages and by bytes.
func historyWalk(t *testing.T, r *rig) {
	r.start()
	const n = 2500 // more than any broker asks its log for at once
	ps := make([]broker.Publication, 0, 2*n)
	for i := range n {
		data := fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", 100))
		ps = append(ps, broker.Publication{Channel: "a", Data: []byte(data)}, broker.Publication{Channel: "b", Data: []byte(`1`)})
	}
	acks := r.Broker.PublishBatch(r.ctx(), ps)
	if err := acks[2*n-1].Err; err != nil {
		t.Fatal(err)
	}
	to := acks[2*n-1].Ack.Seq
	for _, c := range []struct{ messages, bytes, pages int }{
		{1000, 1 << 30, 3},
		{math.MaxInt, 1 << 30, 1},
		{math.MaxInt, math.MaxInt, 1},
		{77, 1 << 30, 33},
		{math.MaxInt, 64 << 10, 0},
		{math.MaxInt, 5000, 0},
	} {
		var prev, seen uint64
		pages := 0
		for from, more := uint64(1), true; more; pages++ {
			p := r.history(broker.HistoryRequest{Channel: "a", From: from, To: to, Messages: c.messages, Bytes: c.bytes})
			size := 0
			for _, m := range p.Messages {
				if want := acks[2*seen].Ack.Seq; m.Seq != want || m.Prev != prev {
					t.Fatalf("%+v: page %d has %d after %d, want %d after %d", c, pages, m.Seq, m.Prev, want, prev)
				}
				prev = m.Seq
				seen++
				size += len(m.Data)
			}
			if more = p.More; more {
				if len(p.Messages) == 0 {
					t.Fatalf("%+v: page %d is empty and not the last", c, pages)
				}
				if size > c.bytes+len(p.Messages[0].Data)+10 {
					t.Errorf("%+v: page %d has %d bytes", c, pages, size)
				}
				if len(p.Messages) < c.messages && size < c.bytes/3 {
					t.Errorf("%+v: page %d has only %d bytes", c, pages, size)
				}
			}
			from = prev + 1
		}
		if seen != n || c.pages > 0 && pages != c.pages {
			t.Errorf("%+v: %d messages in %d pages", c, seen, pages)
		}
	}
}

func historyOfBigMessages(t *testing.T, r *rig) {
	r.start()
	big := `"` + strings.Repeat("x", 300_000) + `"`
	var acks []broker.Ack
	for range 6 {
		acks = append(acks, r.publish("a", big, ""))
	}
	from, prev := uint64(0), uint64(0)
	for i, ack := range acks {
		p := r.history(broker.HistoryRequest{Channel: "a", From: from, To: acks[5].Seq, Messages: 100, Bytes: 1})
		if !slices.Equal(seqs(p), []uint64{ack.Seq}) || p.Messages[0].Prev != prev || string(p.Messages[0].Data) != big || p.More != (i < 5) {
			t.Fatalf("page %d: %v, more %v", i, seqs(p), p.More)
		}
		from, prev = ack.Seq+1, ack.Seq
	}
	if p := r.history(broker.HistoryRequest{Channel: "a", To: math.MaxUint64, Messages: 100, Bytes: 64 << 20}); len(p.Messages) != 6 || p.More {
		t.Errorf("%v, more %v", seqs(p), p.More)
	}
}

func historyEvicted(t *testing.T, r *rig) {
	r.skipWithout(r.Evict != nil, "eviction")
	r.start()
	var a []uint64
	for range 10 {
		a = append(a, r.publish("a", `1`, "").Seq)
		r.publish("b", `2`, "")
	}
	r.reached(a[9] + 1)
	req := broker.HistoryRequest{Channel: "a", To: math.MaxUint64, Messages: 100, Bytes: 1 << 20}
	r.Evict(a[4] + 1) // b's message after it is the first that stays
	p := r.history(req)
	if !slices.Equal(seqs(p), a[5:]) || p.Messages[0].Prev != 0 || p.First != a[4]+1 || p.Last != a[9]+1 || p.More {
		t.Errorf("%v, first prev %d, %d to %d", seqs(p), p.Messages[0].Prev, p.First, p.Last)
	}
	req.From = a[6]
	if p = r.history(req); !slices.Equal(seqs(p), a[6:]) || p.Messages[0].Prev != a[5] {
		t.Errorf("%v, first prev %d", seqs(p), p.Messages[0].Prev)
	}
	r.Evict(a[9] + 1)
	req.From = 0
	if p = r.history(req); len(p.Messages) != 0 || p.More || p.First != a[9]+1 || p.Last != a[9]+1 {
		t.Errorf("the channel is gone: %+v", p)
	}
	if hs := r.channels("", 10); fmt.Sprint(hs) != fmt.Sprintf("[{b %d}]", a[9]+1) {
		t.Errorf("the channel is gone: %v", hs)
	}
	r.Evict(a[9] + 2)
	req.Channel = "b"
	if p = r.history(req); len(p.Messages) != 0 || p.More || p.First != a[9]+2 || p.Last != a[9]+1 {
		t.Errorf("all is gone: %+v", p)
	}
	if hs := r.channels("", 10); len(hs) != 0 {
		t.Errorf("all is gone: %v", hs)
	}
}

func historyRecreated(t *testing.T, r *rig) {
	r.skipWithout(r.Recreate != nil, "stream that can be made anew")
	r.start()
	old := r.publishMany(20)
	r.reached(old[19].Seq)
	r.Recreate()
	req := broker.HistoryRequest{Channel: "trade.S1", To: math.MaxUint64, Messages: 100, Bytes: 1 << 20}
	// Whenever it is noticed: never an old message under the new epoch.
	Wait(t, "the new epoch is read", func() bool {
		p, err := r.Broker.History(r.ctx(), req)
		if err != nil {
			return false // the stream is being made
		}
		if p.Epoch == old[0].Epoch {
			return false
		}
		if len(p.Messages) != 0 || p.More || p.Last != 0 || p.First != 1 {
			t.Fatalf("of the new stream: %+v", p)
		}
		return true
	})
	ack := r.publish("trade.S1", `"new"`, "")
	p := r.history(req)
	if p.Epoch != ack.Epoch || fmt.Sprint(seqs(p)) != "[1]" || p.Messages[0].Prev != 0 || p.First != 1 || p.Last != 1 {
		t.Errorf("%+v, acked %+v", p, ack)
	}
	if hs := r.channels("", 10); fmt.Sprint(hs) != "[{trade.S1 1}]" {
		t.Errorf("channels %v", hs)
	}
}

func historyWhileDown(t *testing.T, r *rig) {
	down := func(when string) {
		t.Helper()
		since := time.Now()
		p, err := r.Broker.History(r.ctx(), broker.HistoryRequest{Channel: "a", To: 10, Messages: 1, Bytes: 1})
		if !errors.Is(err, broker.ErrDown) {
			t.Errorf("history %s: %+v, %v", when, p, err)
		}
		if hs, err := r.Broker.Channels(r.ctx(), "", 10); !errors.Is(err, broker.ErrDown) {
			t.Errorf("channels %s: %v, %v", when, hs, err)
		}
		if s, err := r.Broker.Stream(r.ctx()); !errors.Is(err, broker.ErrDown) {
			t.Errorf("stream %s: %v, %v", when, s, err)
		}
		r.quickly("refusing", since)
	}
	down("before Start")
	r.start()
	ack := r.publish("a", `1`, "")
	if r.Stop != nil {
		r.Stop()
		Wait(t, "the sink hears Down", func() bool { return !r.sink.Up() })
		down("while down")
		r.Restart()
		r.waitUp()
		if p := r.history(broker.HistoryRequest{Channel: "a", To: 10, Messages: 1, Bytes: 1}); !slices.Equal(seqs(p), []uint64{ack.Seq}) {
			t.Errorf("back again: %+v", p)
		}
	}
	if err := r.Broker.Close(); err != nil {
		t.Error(err)
	}
	down("after Close")
}

// historyConcurrent reads while others publish: pages stay whole and their own.
func historyConcurrent(t *testing.T, r *rig) {
	r.start()
	const readers = 6
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for c := range readers {
		wg.Go(func() {
			ch := fmt.Sprintf("trade.S%d", c)
			for stopped := false; !stopped; {
				select {
				case <-stop:
					stopped = true // and once more, with all there is
				default:
				}
				p, err := r.Broker.History(r.ctx(), broker.HistoryRequest{Channel: ch, To: math.MaxUint64, Messages: 60, Bytes: 1 << 20})
				if err != nil {
					t.Errorf("%s: %v", ch, err)
					return
				}
				if stopped && len(p.Messages) != 50 {
					t.Errorf("%s: %d messages in the end", ch, len(p.Messages))
				}
				for i, m := range p.Messages {
					prev := uint64(0)
					if i > 0 {
						prev = p.Messages[i-1].Seq
					}
					if m.Channel != ch || string(m.Data) != fmt.Sprintf(`{"i":%d}`, 7*i+c) || m.Prev != prev {
						t.Errorf("%s: message %d is %+v %s, want prev %d", ch, i, m, m.Data, prev)
						return
					}
				}
			}
		})
	}
	ps := many(350) // over 7 channels
	for i := 0; i < len(ps); i += 35 {
		for _, res := range r.Broker.PublishBatch(r.ctx(), ps[i:i+35]) {
			if res.Err != nil {
				t.Error(res.Err)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// channels lists channels sorted by name, or fails the test.
func (r *rig) channels(prefix string, limit int) []broker.ChannelHead {
	r.t.Helper()
	hs, err := r.Broker.Channels(r.ctx(), prefix, limit)
	for range 3 { // on a busy machine an answer may take longer than it is waited for
		if errors.Is(err, broker.ErrDown) {
			hs, err = r.Broker.Channels(r.ctx(), prefix, limit)
		}
	}
	if err != nil {
		r.t.Fatalf("channels of %q: %v", prefix, err)
	}
	slices.SortFunc(hs, func(a, b broker.ChannelHead) int { return cmp.Compare(a.Channel, b.Channel) })
	return hs
}

func channels(t *testing.T, r *rig) {
	r.start()
	if hs := r.channels("", 0); len(hs) != 0 {
		t.Errorf("of an empty stream: %v", hs)
	}
	names := []string{"a", "a.b", "a.b.c", "a.b.c.d.e", "a.bc", "ab", "ab.c", "b.a.b"}
	last := map[string]uint64{}
	for round := range 2 {
		for i, ch := range names {
			if i%2 == 0 || round == 0 {
				last[ch] = r.publish(ch, `1`, "").Seq
			}
		}
	}
	for prefix, want := range map[string][]string{
		"":         names,
		"a.":       {"a.b", "a.b.c", "a.b.c.d.e", "a.bc"},
		"a.b.":     {"a.b.c", "a.b.c.d.e"},
		"ab.":      {"ab.c"},
		"b.a.":     {"b.a.b"},
		"b.a.b.":   nil,
		"nothing.": nil,
	} {
		hs := r.channels(prefix, len(want))
		var got []string
		for _, h := range hs {
			got = append(got, h.Channel)
			if h.Last != last[h.Channel] {
				t.Errorf("%s ends at %d, listed with %d", h.Channel, last[h.Channel], h.Last)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("channels of %q: %v, want %v", prefix, got, want)
		}
		if len(want) == 0 {
			continue
		}
		if hs, err := r.Broker.Channels(r.ctx(), prefix, len(want)-1); !errors.Is(err, broker.ErrTooMany) {
			t.Errorf("channels of %q, one too many: %v, %v", prefix, hs, err)
		}
	}
	if hs, err := r.Broker.Channels(r.ctx(), "a", 100); err == nil {
		t.Errorf("a prefix inside a token: %v", hs)
	}
}

func manyChannels(t *testing.T, r *rig) {
	r.start()
	const n = 2300 // more than any broker asks its log for at once
	ps := make([]broker.Publication, 2*n)
	for i := range ps {
		ps[i] = broker.Publication{Channel: fmt.Sprintf("m.%04d", i%n), Data: []byte(`1`)}
	}
	rs := r.Broker.PublishBatch(r.ctx(), ps)
	if err := rs[2*n-1].Err; err != nil {
		t.Fatal(err)
	}
	hs := r.channels("m.", n)
	if len(hs) != n {
		t.Fatalf("%d channels", len(hs))
	}
	for i, h := range hs {
		if h.Channel != ps[i].Channel || h.Last != rs[n+i].Ack.Seq {
			t.Fatalf("%d is %+v, want %s, %d", i, h, ps[i].Channel, rs[n+i].Ack.Seq)
		}
	}
}
