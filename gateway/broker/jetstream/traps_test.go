package jetstream

// What JetStream doesn't say of itself, and the test that holds how it is met.
// "Suite" is brokertest, which every broker here passes; what a node makes of
// it for its clients is held in gateway and gateway/channel.
//
//	epoch is the creation time: survives restart and update   TestStreamAsFound, TestReplicasGrow
//	  … and a change of leader                                TestTrio, TestTrioKill9
//	  … compared before a number is judged a late copy        TestLateCopies, suite: recreated stream
//	  … but a restored backup keeps it                        TestStreamLostItsEnd
//	stream deleted and made anew: new epoch, nothing old      suite: recreated stream, recreated while stopped
//	Nats-Last-Sequence is 0 after MaxAge                      TestPrevAfterMaxAge, suite: evicted predecessor
//	stored messages carry no prev                             TestRefillReplicaBehind, suite: blocked sink, history …
//	a publisher's own Nats-* headers come first               TestForgedHeaders, TestForgedHistory, TestLastForgedMessage
//	a position that is gone shows in First                    suite: history after eviction
//	a replica may be behind                                   TestReplicaBehind, TestRefillReplicaBehind, TestLeaderPrev
//	a leader may be none, or cut off from the others          TestLeaderless, TestTrioAlone
//	failover repeats, reorders or loses republishes           TestLateCopies, TestPhantom, TestClusterLeaderKilled, TestTrioKill9
//	the last message of a burst gets lost                     TestLastForgedMessage, suite: blocked sink
//	retention overtakes a slow reader                         suite: evicted while blocked
//	Nats-Msg-Id is one window for the whole stream            TestMessageIDs, suite: deduplication by key
//	stored messages may be anything: not JSON, not UTF-8      suite: any bytes
//	  … larger than we publish or fetch at once               TestStoredTooBig
//	acked is not synced, but survives kill -9                 TestKill9, TestTrioKill9
//	broker away: refused at once, nothing buffers             suite: stop and restart, history while down; TestFrozen, TestStopped
//	a full store refuses until it is opened anew              TestDiskFull
//	two creations at once make two streams over one store     TestNodesStartTogether
//	a stream's own limits by subject cost its memory          TestStreamAsFound (MaxMsgsPerSubject stays off)

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// rig is a started broker over an embedded server, with a stranger's connection.
type rig struct {
	*Broker
	sink *brokertest.Recorder
	nc   *nats.Conn
	js   nats.JetStreamContext
}

func start(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	cfg := testConfig()
	cfg.DataDir = t.TempDir()
	if change != nil {
		change(&cfg)
	}
	r := &rig{Broker: newBroker(t, cfg), sink: brokertest.NewRecorder(t)}
	if err := r.Start(r.sink); err != nil {
		t.Fatal(err)
	}
	brokertest.Wait(t, "connected", func() bool { return r.State().Connected })
	if cfg.URL == "" {
		r.nc = dialEmbedded(t, r.Broker)
	} else {
		r.nc = dial(t, cfg.URL)
	}
	r.js = jetStream(t, r.nc)
	return r
}

func (r *rig) put(t *testing.T, channel, data string) broker.Ack {
	t.Helper()
	ack, err := r.Publish(t.Context(), broker.Publication{Channel: channel, Data: []byte(data)})
	if err != nil {
		t.Fatal(err)
	}
	return ack
}

// rawPublish sends a header block as it is, which no client library would.
func rawPublish(t *testing.T, b *Broker, channel, header, data string) {
	t.Helper()
	conn, err := b.emb.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		_, _ = fmt.Fprintf(conn, "CONNECT {\"headers\":true,\"verbose\":false}\r\nHPUB %s%s %d %d\r\n%s%s\r\nPING\r\n", inPrefix, channel, len(header), len(header)+len(data), header, data)
	}()
	buf := make([]byte, 8192)
	var seen strings.Builder
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	for !strings.Contains(seen.String(), "PONG") {
		n, err := conn.Read(buf)
		if err != nil || strings.Contains(seen.String(), "-ERR") {
			t.Fatalf("raw publish: %v, %q", err, seen.String())
		}
		seen.Write(buf[:n])
	}
}

// TestForgedHeaders holds that a publisher can't pass its own numbers for the
// server's, neither live nor in what is read from the stream.
func TestForgedHeaders(t *testing.T) {
	for name, header := range forgedBlocks {
		t.Run(name, func(t *testing.T) {
			for _, refetched := range []bool{false, true} {
				r := start(t, func(c *Config) { c.Queue = 4 })
				r.put(t, "good", `0`)
				r.put(t, "evil", `0`)
				unblock := func() {}
				if refetched {
					unblock = r.sink.Block()
				}
				for range 3 {
					rawPublish(t, r.Broker, "evil", header, `"payload"`)
				}
				var last broker.Ack
				for range 20 {
					last = r.put(t, "good", `1`)
				}
				unblock()
				brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(last.Seq) })
				if r.Counters().Lost != 0 || last.Seq != 25 {
					t.Errorf("refetched %v: last %d, counters %+v", refetched, last.Seq, r.Counters())
				}
				for i, m := range r.sink.Messages()[2:5] {
					if m.Channel != "evil" || m.Prev != uint64(i)+2 || string(m.Data) != `"payload"` || time.Since(time.UnixMilli(m.Time)).Abs() > time.Minute {
						t.Errorf("refetched %v: %+v", refetched, m)
					}
				}
				got, err := r.Get(t.Context(), "evil", 3)
				if err != nil || got.Seq != 3 || string(got.Data) != `"payload"` {
					t.Errorf("get: %+v, %v", got, err)
				}
				if got, err = r.Last(t.Context(), "evil"); err != nil || got.Seq != 5 {
					t.Errorf("last: %+v, %v", got, err)
				}
				_ = r.Close()
			}
		})
	}
}

// TestOverflowAtTheEnd: what the live queue dropped of a burst's end is fetched at
// once; no message follows that would show the hole, and the audit is a minute away.
func TestOverflowAtTheEnd(t *testing.T) {
	r := start(t, func(c *Config) { c.Queue, c.Audit = 4, time.Minute })
	r.put(t, "a", `0`)
	brokertest.Wait(t, "it arrives", func() bool { return r.sink.Reached(1) })
	unblock := r.sink.Block()
	var last uint64
	for range 50 {
		last = r.put(t, "a", `1`).Seq
	}
	brokertest.Wait(t, "the queue overflows", func() bool { return r.Counters().Overflows > 0 })
	unblock()
	brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(last) })
}

// TestLastForgedMessage: nothing after it shows that it is missing.
func TestLastForgedMessage(t *testing.T) {
	r := start(t, nil)
	rawPublish(t, r.Broker, "evil", "NATS/1.0\r\nnonsense\r\n\r\n", `1`)
	brokertest.Wait(t, "it arrives", func() bool { return r.sink.Reached(1) })
}

// TestPrevAfterMaxAge: once the message before has aged out the server stamps
// Nats-Last-Sequence 0, and numbers go on in the same epoch.
func TestPrevAfterMaxAge(t *testing.T) {
	r := start(t, func(c *Config) { c.MaxAge = 300 * time.Millisecond })
	r.sink.AllowZeroPrev()
	first := r.put(t, "a", `1`)
	brokertest.Wait(t, "the stream is empty", func() bool {
		si, err := r.js.StreamInfo(streamName)
		return err == nil && si.State.Msgs == 0
	})
	second := r.put(t, "a", `2`)
	brokertest.Wait(t, "it arrives", func() bool { return r.sink.Reached(second.Seq) })
	ms := r.sink.Messages()
	if second.Seq != first.Seq+1 || second.Epoch != first.Epoch || ms[1].Prev != 0 {
		t.Errorf("%+v after %+v, prev %d", second, first, ms[1].Prev)
	}
	if len(r.sink.Losses()) != 0 || len(r.sink.Opens()) != 1 {
		t.Errorf("losses %v, opens %v", r.sink.Losses(), r.sink.Opens())
	}
}

// TestMessageIDs: the server's window is one for the whole stream, so the key
// is prefixed with the channel, and it survives a restart.
func TestMessageIDs(t *testing.T) {
	dir := t.TempDir()
	r := start(t, func(c *Config) { c.DataDir = dir })
	publish := func(r *rig, ch string) broker.Ack {
		ack, err := r.Publish(t.Context(), broker.Publication{Channel: ch, Data: []byte(`1`), Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		return ack
	}
	first := publish(r, "a")
	if other := publish(r, "b"); other.Duplicate {
		t.Errorf("another channel's key: %+v", other)
	}
	native := &nats.Msg{Subject: inPrefix + "a", Header: nats.Header{nats.MsgIdHdr: {"a:k"}}}
	if ack, err := r.js.PublishMsg(native); err != nil || !ack.Duplicate || ack.Sequence != first.Seq {
		t.Errorf("the same from a native publisher: %+v, %v", ack, err)
	}
	_ = r.Close()
	r = start(t, func(c *Config) { c.DataDir = dir })
	if again := publish(r, "a"); !again.Duplicate || again != (broker.Ack{Epoch: first.Epoch, Seq: first.Seq, Duplicate: true}) {
		t.Errorf("after a restart: %+v, first was %+v", again, first)
	}
}

// TestStreamAsFound: an existing stream is brought into line, keeps what is the
// operator's, and keeps its epoch.
func TestStreamAsFound(t *testing.T) {
	out := startOutside(t)
	js := jetStream(t, dial(t, out.url))
	si, err := js.AddStream(&nats.StreamConfig{
		Name: streamName, Subjects: []string{"odin.in.>", "other.>"}, Description: "mine",
		Metadata: map[string]string{"team": "a"}, MaxMsgsPerSubject: 5, MaxMsgs: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, func(c *Config) { c.URL, c.DataDir, c.Retention = out.url, "", 7<<20 })
	epoch := r.State().Epoch
	if epoch != epochOf(si.Created, si.Config.Metadata) {
		t.Errorf("epoch %s changed to %s by an update", epochOf(si.Created, si.Config.Metadata), epoch)
	}
	si, err = js.StreamInfo(streamName)
	if err != nil {
		t.Fatal(err)
	}
	c := si.Config
	if c.Description != "mine" || c.Metadata["team"] != "a" || c.Replicas != 1 {
		t.Errorf("the operator's settings are gone: %+v", c)
	}
	if fmt.Sprint(c.Subjects) != "[odin.in.>]" || c.MaxMsgsPerSubject != -1 || c.MaxMsgs != -1 || c.MaxBytes != 7<<20 ||
		c.MaxAge != DefaultMaxAge || !c.AllowDirect || !c.DenyDelete || c.Discard != nats.DiscardOld || c.Duplicates != dedupWindow ||
		c.RePublish == nil || *c.RePublish != (nats.RePublish{Source: "odin.in.>", Destination: "odin.out.>"}) {
		t.Errorf("not as it should be: %+v", c)
	}
	_ = r.Close()
	out.stop()
	out.start()
	if again := start(t, func(c *Config) { c.URL, c.DataDir = out.url, "" }).State().Epoch; again != epoch {
		t.Errorf("epoch %s changed to %s by a restart", epoch, again)
	}
}

// TestRepublishHeaders holds what this package relies on the server for.
func TestRepublishHeaders(t *testing.T) {
	r := start(t, nil)
	sub, err := r.nc.SubscribeSync(outPrefix + ">")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.put(t, fmt.Sprintf("c%d", i%2), `1`)
		m, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		st, ok := readStamp(m)
		want := stamp{subject: fmt.Sprintf("odin.in.c%d", i%2), seq: uint64(i + 1), prev: uint64(max(i-1, 0)), time: st.time}
		if !ok || st != want || time.Since(time.Unix(0, st.time)).Abs() > time.Minute {
			t.Errorf("stamp %+v, %v", st, ok)
		}
	}
}

// TestLateCopies: what is republished twice, or arrives from an earlier life of
// the stream, is delivered once or not at all.
func TestLateCopies(t *testing.T) {
	r := start(t, nil)
	sub, err := r.nc.SubscribeSync(outPrefix + ">")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var copies []*nats.Msg
	for i := range 5 {
		r.put(t, fmt.Sprintf("c%d", i%2), `"old"`)
		m, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data})
	}
	send := func() {
		t.Helper()
		before := r.Counters().Duplicates
		for _, m := range copies {
			if err := r.nc.PublishMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		brokertest.Wait(t, "the copies are seen", func() bool { return r.Counters().Duplicates >= before+uint64(len(copies)) })
	}
	send()
	if ack := r.put(t, "c0", `"next"`); ack.Seq != 6 {
		t.Errorf("%+v", ack)
	}
	brokertest.Wait(t, "it arrives", func() bool { return r.sink.Reached(6) })
	recreate(t, r.js)
	ack := r.put(t, "new", `"new"`)
	brokertest.Wait(t, "the new life", func() bool { return r.State().Epoch == ack.Epoch && r.sink.Reached(ack.Seq) })
	send() // numbers that are free in the new life
	ack = r.put(t, "new", `"newer"`)
	brokertest.Wait(t, "it arrives", func() bool { return r.sink.Reached(ack.Seq) })
	for _, m := range r.sink.Messages() {
		if m.Channel != "new" {
			t.Errorf("delivered in the new life: %+v", m)
		}
	}
	if len(r.sink.Losses()) != 0 {
		t.Errorf("losses %v", r.sink.Losses())
	}
}

// TestPhantom: a republish of something the stream doesn't have costs nothing
// that it has.
func TestPhantom(t *testing.T) {
	r := start(t, func(c *Config) { c.lagGrace = 100 * time.Millisecond })
	last := r.put(t, "a", `1`).Seq
	for i := range uint64(3) {
		phantom := &nats.Msg{Subject: outPrefix + "a", Data: []byte(`"phantom"`), Header: nats.Header{
			hdrStream: {streamName}, hdrSubject: {inPrefix + "a"}, hdrSequence: {fmt.Sprint(last + 1000 + i)},
			hdrTime: {time.Now().UTC().Format(time.RFC3339Nano)}, hdrPrev: {fmt.Sprint(last)},
		}}
		if err := r.nc.PublishMsg(phantom); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * r.cfg.lagGrace) // in which nothing comes that would prove the stream alive
		last = r.put(t, "a", `2`).Seq
		brokertest.Wait(t, "what is real arrives", func() bool { return r.sink.Reached(last) })
	}
	if ms := r.sink.Messages(); len(ms) != 4 || len(r.sink.Losses()) != 0 || r.State().Head != last {
		t.Errorf("%d messages, losses %v, head %d, last %d", len(ms), r.sink.Losses(), r.State().Head, last)
	}
}

// TestStoredTooBig: what a native publisher stored is delivered, fetched and
// read, however large; only our own publishes are held to MaxPayload.
func TestStoredTooBig(t *testing.T) {
	out := startOutside(t, func(o *server.Options) { o.MaxPayload = 8 << 20 })
	r := start(t, func(c *Config) {
		c.URL, c.DataDir, c.MaxPayload, c.Queue, c.Ping = out.url, "", 64<<10, 1, 5*time.Second
	})
	big := make([]byte, fetchBytes+1)
	if _, err := r.Publish(t.Context(), broker.Publication{Channel: "a", Data: big}); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("our own: %v", err)
	}
	r.put(t, "a", `1`)
	brokertest.Wait(t, "it arrives", func() bool { return r.sink.Reached(1) })
	unblock := r.sink.Block()
	for range 3 {
		r.put(t, "b", `2`) // so that the queue overflows
	}
	for range 2 {
		inject(t, r.js, &nats.Msg{Subject: inPrefix + "a", Data: big})
	}
	last := r.put(t, "a", `3`).Seq
	brokertest.Wait(t, "the queue has run over", func() bool { return r.Counters().Overflows > 0 })
	unblock()
	brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(last) })
	ms := r.sink.Messages()
	if len(ms) != 7 || len(ms[4].Data) != len(big) || len(ms[5].Data) != len(big) || len(r.sink.Losses()) != 0 || r.Counters().Refetched == 0 {
		t.Errorf("%d messages, losses %v, %+v", len(ms), r.sink.Losses(), r.Counters())
	}
	if got := fmt.Sprint(r.walk(t, "a", 1, 0, 10)); got != "[1 5 6 7]" {
		t.Errorf("history %s", got)
	}
	if hs, err := r.Channels(t.Context(), "", 10); err != nil || len(hs) != 2 {
		t.Errorf("channels %v, %v", hs, err)
	}
}
