package jetstream

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// countingSink counts and does no more.
type countingSink struct {
	n    atomic.Int64
	lost atomic.Int64
	open atomic.Int64
}

func (s *countingSink) Open(string, uint64)       { s.open.Add(1) }
func (s *countingSink) Live()                     {}
func (s *countingSink) Message(*broker.Message)   { s.n.Add(1) }
func (s *countingSink) Lost(after, before uint64) { s.lost.Add(int64(before - after - 1)) }
func (s *countingSink) Down(error)                {}

func waitUntil(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			tb.Fatalf("never: %s", what)
		}
	}
}

func startedBroker(tb testing.TB, cfg Config, sink broker.Sink) *Broker {
	tb.Helper()
	b, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := b.Start(sink); err != nil {
		tb.Fatal(err)
	}
	waitUntil(tb, "connected", func() bool { return b.State().Connected })
	return b
}

// BenchmarkPipeline is publish (acked) to Sink through the embedded server: 500
// channels, 300 bytes, batches of 256 from one caller.
func BenchmarkPipeline(b *testing.B) {
	for _, batch := range []int{1, 64, 256, 1024} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			sink := &countingSink{}
			br := startedBroker(b, Config{DataDir: b.TempDir()}, sink)
			ps := make([]broker.Publication, 500)
			for i := range ps {
				ps[i] = broker.Publication{Channel: fmt.Sprintf("trade.SYM%d", i), Data: make([]byte, 300)}
			}
			b.ReportAllocs()
			b.ResetTimer()
			callers := 4
			if batch == 1 {
				callers = 256
			}
			var next atomic.Int64
			done := make(chan error, callers)
			for range callers {
				go func() {
					buf := make([]broker.Publication, 0, batch)
					for {
						at := next.Add(int64(batch)) - int64(batch)
						if at >= int64(b.N) {
							done <- nil
							return
						}
						buf = buf[:0]
						for i := range min(int64(batch), int64(b.N)-at) {
							buf = append(buf, ps[(at+i)%500])
						}
						for _, r := range br.PublishBatch(context.Background(), buf) {
							if r.Err != nil {
								done <- r.Err
								return
							}
						}
					}
				}()
			}
			for range callers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			acked := b.Elapsed()
			waitUntil(b, "all delivered", func() bool { return sink.n.Load() == int64(b.N) })
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64(b.N)/acked.Seconds(), "acked/s")
			c := br.Counters()
			b.ReportMetric(float64(c.Refetched), "refetched")
		})
	}
}

// BenchmarkRefill is a hole of 10 000 messages over 500 channels none of which
// is remembered: from the moment the Sink takes messages again until it has all.
func BenchmarkRefill(b *testing.B) {
	const n = 10_000
	ps := make([]broker.Publication, n)
	for i := range ps {
		ps[i] = broker.Publication{Channel: fmt.Sprintf("trade.SYM%d", i%500), Data: make([]byte, 300)}
	}
	for range b.N {
		b.StopTimer()
		sink := brokertest.NewRecorder(b)
		br := startedBroker(b, Config{DataDir: b.TempDir(), Queue: 1, Audit: 20 * time.Millisecond, Log: quiet()}, sink)
		br.PublishBatch(context.Background(), ps[:500])
		waitUntil(b, "delivered", func() bool { return sink.Reached(500) })
		unblock := sink.Block()
		br.PublishBatch(context.Background(), ps)
		b.StartTimer()
		unblock()
		waitUntil(b, "filled", func() bool { return sink.Reached(n + 500) })
		b.StopTimer()
		b.ReportMetric(float64(br.Counters().Refetched), "refetched")
		_ = br.Close()
	}
}

// BenchmarkPublishOne is one caller that waits for each ack.
func BenchmarkPublishOne(b *testing.B) {
	br := startedBroker(b, Config{DataDir: b.TempDir(), Log: quiet()}, &countingSink{})
	p := broker.Publication{Channel: "trade.SYM1", Data: make([]byte, 300)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.Publish(context.Background(), p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLast is one direct get.
func BenchmarkLast(b *testing.B) {
	br := startedBroker(b, Config{DataDir: b.TempDir(), Log: quiet()}, &countingSink{})
	if _, err := br.Publish(context.Background(), broker.Publication{Channel: "a", Data: make([]byte, 300)}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.Last(context.Background(), "a"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDeliver is the delivery goroutine's own work for one live message.
func BenchmarkDeliver(b *testing.B) {
	br, err := New(Config{DataDir: b.TempDir(), Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	br.sink = &countingSink{}
	d := newDelivery(br)
	d.epoch = "e"
	msgs := make([]*nats.Msg, 1000)
	b.ReportAllocs()
	b.StopTimer()
	for i := range b.N {
		if i%len(msgs) == 0 {
			b.StopTimer()
			for j := range msgs {
				ch := fmt.Sprintf("trade.SYM%d", j%500)
				msgs[j] = &nats.Msg{Subject: outPrefix + ch, Header: nats.Header{
					hdrStream: {streamName}, hdrSubject: {inPrefix + ch}, hdrSequence: {fmt.Sprint(i + j + 1)},
					hdrTime: {"2026-11-23T18:54:27.123456789Z"}, hdrPrev: {"1"},
				}}
			}
			b.StartTimer()
		}
		if err := d.take(b.Context(), msgs[i%len(msgs)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHistory is one page of 64 KiB, 300 bytes a message, out of 60 000
// messages (18 MB, three of the store's blocks): in the middle of a channel that
// has every 500th of them, at its end, and in the middle of one that has every
// second.
func BenchmarkHistory(b *testing.B) {
	br := startedBroker(b, Config{DataDir: b.TempDir(), Log: quiet()}, &countingSink{})
	const n = 60_000
	ps := make([]broker.Publication, 1000)
	for i := range ps {
		ps[i] = broker.Publication{Channel: fmt.Sprintf("trade.SYM%d", i/2), Data: make([]byte, 300)}
		if i%2 == 0 {
			ps[i].Channel = "trade.all"
		}
	}
	for range n / len(ps) {
		for _, r := range br.PublishBatch(context.Background(), ps) {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
	for _, c := range []struct {
		name     string
		r        broker.HistoryRequest
		messages int
		more     bool
	}{
		{"sparse", broker.HistoryRequest{Channel: "trade.SYM7", From: n / 2, To: n}, 30, false},
		{"dense", broker.HistoryRequest{Channel: "trade.all", From: n / 2, To: n}, 180, true},
		{"dense,first", broker.HistoryRequest{Channel: "trade.all", From: 1, To: n}, 180, true},
		{"last10", broker.HistoryRequest{Channel: "trade.all", From: n - 20, To: n + 1000}, 10, false},
		{"none", broker.HistoryRequest{Channel: "nothing", From: n / 2, To: n}, 0, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			c.r.Messages, c.r.Bytes = 1000, 64<<10
			b.ReportAllocs()
			for b.Loop() {
				p, err := br.History(context.Background(), c.r)
				if err != nil || len(p.Messages) < c.messages || p.More != c.more {
					b.Fatalf("%d messages, more %v, %v", len(p.Messages), p.More, err)
				}
			}
		})
	}
}

// BenchmarkChannels lists 1000 channels of 10 000.
func BenchmarkChannels(b *testing.B) {
	br := startedBroker(b, Config{DataDir: b.TempDir(), Log: quiet()}, &countingSink{})
	ps := make([]broker.Publication, 10_000)
	for i := range ps {
		ps[i] = broker.Publication{Channel: fmt.Sprintf("trade.G%d.SYM%d", i%10, i), Data: make([]byte, 300)}
	}
	br.PublishBatch(context.Background(), ps)
	b.ReportAllocs()
	for b.Loop() {
		if hs, err := br.Channels(context.Background(), "trade.G3.", 1000); err != nil || len(hs) != 1000 {
			b.Fatalf("%d, %v", len(hs), err)
		}
	}
}
