package jetstream

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// forgedBlocks are header blocks of publishers who want to be taken for the
// server.
var forgedBlocks = map[string]string{
	"values of its own":       "NATS/1.0\r\n" + forged + "\r\n",
	"blank line in the block": "NATS/1.0\r\n" + forged + "\r\nX: y\r\n\r\n",
	"status":                  "NATS/1.0\r\nStatus: 204\r\n\r\n",
	"inline status":           "NATS/1.0 404 Message Not Found\r\n\r\n",
	"status, blank line":      "NATS/1.0\r\nStatus: 204\r\nDescription: EOB\r\nNats-Num-Pending: 0\r\n\r\nX: y\r\n\r\n",
	"no colon":                "NATS/1.0\r\nnonsense\r\n\r\n",
	"no space":                "NATS/1.0\r\nKey:value\r\n\r\n",
	"not even a version":      "HTTP/1.1\r\n\r\n",
}

const forged = "Nats-Stream: ODIN\r\nNats-Subject: odin.in.victim\r\nNats-Sequence: 999999\r\nNats-Time-Stamp: 2031-01-01T00:00:00Z\r\nNats-Last-Sequence: 999998\r\nNats-Num-Pending: 7\r\n"

// walk reads a channel from a sequence on by pages and returns the sequences.
// It checks the prevs, the first of which must be prev.
func (r *rig) walk(t *testing.T, channel string, from, prev uint64, messages int) (seqs []uint64) {
	t.Helper()
	for more := true; more; {
		p, err := r.History(t.Context(), broker.HistoryRequest{Channel: channel, From: from, To: math.MaxUint64, Messages: messages, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range p.Messages {
			if m.Prev != prev || m.Channel != channel {
				t.Errorf("%d on %s has prev %d, want %d", m.Seq, m.Channel, m.Prev, prev)
			}
			seqs = append(seqs, m.Seq)
			prev, from = m.Seq, m.Seq+1
		}
		more = p.More
	}
	return seqs
}

// TestForgedHistory: whatever a publisher's headers claim, history has all
// messages under their own numbers, and the list of channels is right.
func TestForgedHistory(t *testing.T) {
	for name, block := range forgedBlocks {
		t.Run(name, func(t *testing.T) {
			r := start(t, nil)
			var want []uint64
			seq := uint64(0)
			for i := range 12 {
				switch i % 4 {
				case 0:
					seq = r.put(t, "evil", `"good"`).Seq
				case 1, 2:
					rawPublish(t, r.Broker, "evil", block, `"payload"`)
					seq++
				case 3:
					rawPublish(t, r.Broker, "evil", block, "") // an end of batch has no data either
					seq++
				}
				want = append(want, seq)
				seq = r.put(t, "other", `1`).Seq
			}
			brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(seq) })
			for _, messages := range []int{1, 2, 5, 100} {
				for at := range want {
					prev := uint64(0)
					if at > 0 {
						prev = want[at-1]
					}
					if got := r.walk(t, "evil", want[at], prev, messages); !slices.Equal(got, want[at:]) {
						t.Errorf("%d a page, from %d: %v, want %v", messages, want[at], got, want[at:])
					}
				}
			}
			p, err := r.History(t.Context(), broker.HistoryRequest{Channel: "victim", To: math.MaxUint64, Messages: 10, Bytes: 1000})
			if err != nil || len(p.Messages) != 0 {
				t.Errorf("of the victim: %+v, %v", p, err)
			}
			hs, err := r.Channels(t.Context(), "", 10)
			slices.SortFunc(hs, func(a, b broker.ChannelHead) int { return int(a.Last) - int(b.Last) })
			if want := fmt.Sprintf("[{evil %d} {other %d}]", want[11], seq); err != nil || fmt.Sprint(hs) != want {
				t.Errorf("channels %v, %v, want %s", hs, err, want)
			}
		})
	}
}

// straggler makes some of the direct gets be answered by a replica that has
// only the stream's first n messages: a mirror that is full. It returns when
// the mirror has them and a share of the answers comes from it.
func (r *rig) straggler(t *testing.T, n int64) {
	t.Helper()
	_, err := r.js.AddStream(&nats.StreamConfig{
		Name: "STRAGGLER", Mirror: &nats.StreamSource{Name: streamName}, MirrorDirect: true, AllowDirect: true,
		MaxMsgs: n, Discard: nats.DiscardNew,
	})
	if err != nil {
		t.Fatal(err)
	}
	brokertest.Wait(t, "the straggler has its messages", func() bool {
		si, err := r.js.StreamInfo("STRAGGLER")
		return err == nil && si.State.LastSeq == uint64(n)
	})
	brokertest.Wait(t, "the straggler answers", func() bool {
		m, err := r.nc.Request(directGet, fmt.Appendf(nil, `{"seq":%d}`, n), time.Second)
		return err == nil && lastValue(m.Header, hdrStream) == "STRAGGLER"
	})
}

// TestReplicaBehind: reads that a replica answers which has only the beginning
// of the stream are as whole as any other.
func TestReplicaBehind(t *testing.T) {
	r := start(t, nil)
	seqs := map[string][]uint64{}
	put := func(ch string) {
		seqs[ch] = append(seqs[ch], r.put(t, ch, `1`).Seq)
	}
	for i := range 40 { // the straggler has these
		put(fmt.Sprintf("c%d", i%3))
	}
	r.straggler(t, 40)
	for range 10 {
		put("c0")
		put("c1")
		put("new")
	}
	for range 40 { // chance decides who answers
		for ch, want := range seqs {
			for _, at := range []int{0, 5, len(want) - 8, len(want) - 1} {
				at := max(at, 0)
				prev := uint64(0)
				if at > 0 {
					prev = want[at-1]
				}
				if got := r.walk(t, ch, want[at], prev, 4); !slices.Equal(got, want[at:]) {
					t.Fatalf("%s from %d: %v, want %v", ch, want[at], got, want[at:])
				}
			}
			if m, err := r.Get(t.Context(), ch, want[len(want)-1]); err != nil || m.Seq != want[len(want)-1] {
				t.Fatalf("get the last of %s: %+v, %v", ch, m, err)
			}
		}
		for ch, want := range seqs {
			if m, err := r.Last(t.Context(), ch); err != nil || m.Seq != want[len(want)-1] {
				t.Fatalf("last of %s: %+v, %v, want %d", ch, m, err, want[len(want)-1])
			}
		}
		hs, err := r.Channels(t.Context(), "", 10)
		if err != nil || len(hs) != len(seqs) {
			t.Fatalf("channels %v, %v", hs, err)
		}
		for _, h := range hs {
			if want := seqs[h.Channel]; h.Last != want[len(want)-1] {
				t.Fatalf("%s ends at %d, listed with %d", h.Channel, want[len(want)-1], h.Last)
			}
		}
	}
}

// TestLeaderPrev: the bisection finds the message before each, and no other.
func TestLeaderPrev(t *testing.T) {
	r := start(t, nil)
	var on []uint64
	for i := range 60 {
		ch := "other"
		if i%7 == 3 || i > 50 {
			ch = "a"
		}
		ack := r.put(t, ch, `1`)
		if ch == "a" {
			on = append(on, ack.Seq)
		}
	}
	for before := uint64(1); before < 62; before++ {
		want := uint64(0)
		for _, s := range on {
			if s < before {
				want = s
			}
		}
		got, err := r.leaderPrev(t.Context(), inPrefix+"a", before)
		if err != nil || got != want {
			t.Errorf("before %d: %d, %v, want %d", before, got, err, want)
		}
	}
}

// TestRefillReplicaBehind: a node that has just come and fetches what it missed
// gets no wrong prevs from a replica that has only the beginning, and the right
// ones from another.
func TestRefillReplicaBehind(t *testing.T) {
	a := start(t, func(c *Config) { c.Listen = "127.0.0.1:0" })
	const channels, rounds = 12, 8
	prevs := map[uint64]uint64{}
	last := map[string]uint64{}
	put := func() (seq uint64) {
		for i := range channels {
			ch := fmt.Sprintf("c%d", i)
			seq = a.put(t, ch, `1`).Seq
			prevs[seq], last[ch] = last[ch], seq
		}
		return seq
	}
	put()
	a.straggler(t, channels)
	put()
	unknown := 0
	for range rounds {
		b := start(t, func(c *Config) { c.URL, c.DataDir, c.Queue, c.Ping = a.ClientURL(), "", 1, 5*time.Second })
		unblock := b.sink.Block()
		seq := put()
		brokertest.Wait(t, "the queue has run over", func() bool { return b.Counters().Overflows > 0 })
		unblock()
		brokertest.Wait(t, "all arrive", func() bool { return b.sink.Reached(seq) })
		some := false
		for _, m := range b.sink.Messages() {
			some = some || m.Prev == 0
			if m.Prev != 0 && m.Prev != prevs[m.Seq] {
				t.Errorf("message %d has prev %d, want %d", m.Seq, m.Prev, prevs[m.Seq])
			}
		}
		if some {
			unknown++
		}
		if b.Counters().Refetched == 0 || len(b.sink.Losses()) != 0 {
			t.Errorf("counters %+v", b.Counters())
		}
		_ = b.Close()
	}
	if unknown > 1 { // each by a chance of 1 in 256
		t.Errorf("%d of %d refills went without prevs", unknown, rounds)
	}
}
