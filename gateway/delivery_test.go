package gateway

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/internal/histogram"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

// timedShard is a scripted shard whose clock stands still, and whose messages were
// stored a given time before.
type timedShard struct {
	*stalledShard
	clock int64 // Unix ns
	last  map[string]uint64
}

func newTimedShard(t *testing.T, deflate bool) *timedShard {
	s := &timedShard{newStalledShard(t, 0, 64<<20), 1_700_000_000_123_456_789, map[string]uint64{"x": 1}}
	s.g.cfg.Compression = deflate
	s.delivery.now = func() int64 { return s.clock }
	s.g.clock, s.g.byHand = func() int64 { return s.clock / 1e6 }, true
	return s
}

// store publishes a message that the stream stored so long ago.
func (s *timedShard) store(ch string, age time.Duration) {
	at := s.clock - int64(age)
	s.seq++
	m := &broker.Message{Channel: ch, Seq: s.seq, Prev: s.last[ch], Time: at / 1e6, Nanos: at % 1e6, Data: []byte(`"` + strings.Repeat("x", 200) + `"`)}
	s.last[ch] = s.seq
	s.g.hub.Message(m)
	if s.g.cfg.Compression {
		s.g.hub.Deflate()
	}
}

// open is a client that has sent a command and been given its answer.
func (s *timedShard) open(command string) *netpolltest.Socket {
	sock := s.k.Socket()
	s.hand([]int{sock.FD()})
	s.settle()
	head := "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	if s.g.cfg.Compression {
		head += offer[1:] + "\r\n"
	}
	sock.Send([]byte(head + "\r\n"))
	sock.Send(append([]byte{0x81, 0x80 | byte(len(command)), 0, 0, 0, 0}, command...)) // a short one
	s.settle()
	got := ""
	s.until("the ack", func() bool {
		s.settle()
		got += string(sock.Taken())
		return strings.Contains(got, `"t":"ack"`)
	})
	return sock
}

// until waits for what the pool does.
func (s *timedShard) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// wantDelivered checks that so many deliveries were counted, all after a delay.
func (s *timedShard) wantDelivered(n uint64, after time.Duration) {
	s.t.Helper()
	got := s.g.deliveryTimes()
	i := 0
	for after.Seconds() > histogram.Bound(i) {
		i++
	}
	if got.Count != n || got.Counts[i] != n || math.Abs(got.Sum-float64(n)*after.Seconds()) > 1e-9 {
		s.t.Errorf("%d deliveries counted, %d of them up to %v s, %v s in all; want %d after %v", got.Count, got.Counts[i], histogram.Bound(i), got.Sum, n, after)
	}
}

// A message delivered after a known delay is in the bucket of that delay, in
// whichever way it goes out; what is no news is in none.
func TestDeliveryTimes(t *testing.T) {
	const delay = 137*time.Millisecond + 251*time.Microsecond
	sub := func(more string) string { return `{"op":"sub","id":1,"ch":["x"]` + more + `}` }
	for _, c := range []struct {
		name    string
		deflate bool
		command string
		do      func(s *timedShard, sock *netpolltest.Socket)
		want    uint64
	}{
		{"a message", false, sub(""), func(s *timedShard, _ *netpolltest.Socket) { s.store("x", delay) }, 1},
		{"several in one write", false, sub(""), func(s *timedShard, _ *netpolltest.Socket) {
			for range 20 {
				s.store("x", delay)
			}
		}, 20},
		{"of several channels", false, `{"op":"sub","id":1,"ch":["x","y","z"]}`, func(s *timedShard, _ *netpolltest.Socket) {
			for _, ch := range []string{"x", "y", "z", "y"} {
				s.store(ch, delay)
			}
		}, 4},
		{"matched by a wildcard, the first of its channel too", false, `{"op":"sub","id":1,"ch":["w.*"]}`, func(s *timedShard, _ *netpolltest.Socket) {
			s.store("w.a", delay)
			s.settle()
			s.store("w.a", delay)
		}, 2},
		{"compressed", true, sub(""), func(s *timedShard, sock *netpolltest.Socket) {
			s.store("x", delay)
			s.settle()
			if s.g.hub.Counters.Deflated.Load() != 1 || strings.Contains(string(sock.Taken()), "xxx") {
				s.t.Error("it was not compressed")
			}
		}, 1},
		{"conflated: the newest", false, sub(`,"mode":"latest"`), func(s *timedShard, sock *netpolltest.Socket) { s.conflate(sock, delay, `"skip":2`) }, 1},
		{"conflated, compressed", true, sub(`,"mode":"latest"`), func(s *timedShard, sock *netpolltest.Socket) { s.conflate(sock, delay, "") }, 1},
		{"begun, and finished later", false, sub(""), func(s *timedShard, sock *netpolltest.Socket) {
			sock.SetRoom(100)
			s.store("x", delay)
			s.settle()
			s.clock += int64(time.Hour)
			sock.SetRoom(netpolltest.Unlimited)
		}, 1},
		{"behind one that did not fit", false, sub(""), func(s *timedShard, sock *netpolltest.Socket) {
			sock.SetRoom(0)
			s.store("x", 0)
			s.settle()
			s.clock += int64(delay)
			sock.SetRoom(netpolltest.Unlimited)
		}, 1},
		{"conflated with an interval", false, sub(`,"mode":"latest","ms":100`), func(s *timedShard, sock *netpolltest.Socket) {
			s.store("x", delay)
			s.settle()
			if s.g.count.MessagesOut.Load() != 1 {
				s.t.Error("nothing was sent")
			}
		}, 0},
		{"the last one, asked for", false, sub(`,"snap":true`), func(s *timedShard, sock *netpolltest.Socket) {
			if s.g.count.MessagesOut.Load() != 1 {
				s.t.Error("nothing was sent")
			}
		}, 0},
		{"resumed from the log, and then news", false, sub(`,"since":{"x":{"epoch":"e1","seq":0}}`), func(s *timedShard, sock *netpolltest.Socket) {
			s.settle()
			if s.g.count.MessagesOut.Load() != 1 {
				s.t.Error("nothing was sent")
			}
			s.store("x", delay)
		}, 1},
		{"a gap", false, sub(""), func(s *timedShard, sock *netpolltest.Socket) {
			s.g.hub.Lost(s.seq, s.seq+5)
			s.settle()
			if s.g.count.MessagesOut.Load() != 1 {
				s.t.Error("nothing was sent")
			}
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTimedShard(t, c.deflate)
			sock := s.open(c.command)
			c.do(s, sock)
			s.settle()
			s.wantDelivered(c.want, delay)
		})
	}
}

// conflate makes a client miss two messages and be given the third.
func (s *timedShard) conflate(sock *netpolltest.Socket, delay time.Duration, want string) {
	sock.SetRoom(1)
	s.store("x", time.Hour) // begun: the socket is full
	s.settle()
	s.delivery.hist = new(histogram.Histogram) // that one counted; it is not this test's
	s.store("x", time.Hour)
	s.store("x", time.Hour)
	s.store("x", delay)
	s.settle()
	sock.SetRoom(netpolltest.Unlimited)
	s.settle()
	if got := string(sock.Taken()); !strings.Contains(got, want) {
		s.t.Errorf("no %s in %q", want, got)
	}
}

// What comes from the stream again, in answer to a replay command or because a
// subscription begins there, is no news.
func TestPastIsNotDelivered(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	seqs := g.fill("x", 50)
	c := g.dial()
	c.say(`{"op":"replay","id":1,"ch":"x","epoch":%q,"from":%d,"to":%d}`, g.hub.Epoch(), seqs[0], seqs[len(seqs)-1])
	c.wantSeqs(seqs, 0)
	c.want("ack")
	c.say(`{"op":"sub","id":2,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[3])
	c.want("ack")
	c.wantSeqs(seqs[4:], seqs[3])
	if n := g.Stats().Delivery.Count; n != 0 {
		t.Errorf("%d messages of the past are counted", n)
	}
	prev := seqs[len(seqs)-1]
	for i := range 3 {
		next := g.publish("x", fmt.Sprint(i))
		c.wantSeqs([]uint64{next}, prev)
		prev = next
	}
	// The first came perhaps before the shard had noted that the client was at the head.
	g.eventually("the news", func() bool { n := g.Stats().Delivery.Count; return n == 2 || n == 3 })
	if s := g.Stats().Delivery; s.MaxMs > 10_000 || s.P50Ms <= 0 {
		t.Errorf("%+v", s)
	}
}

// However many connections share a reading of the clock, each is counted.
func TestDeliveriesOfManyClients(t *testing.T) {
	const clients, delay = 1000, 3 * time.Millisecond
	s := newTimedShard(t, false)
	reads := 0
	s.delivery.now = func() int64 { reads++; return s.clock }
	for range clients {
		s.open(`{"op":"sub","id":1,"ch":["x"]}`)
	}
	reads = 0
	s.store("x", delay)
	s.store("x", delay)
	s.settle()
	s.wantDelivered(2*clients, delay)
	if reads < clients/deliveryWrites || reads > clients/deliveryWrites+clients/flushTurn+2 {
		t.Errorf("the clock was read %d times for %d writes", reads, clients)
	}
	for i, w := range s.delivery.spans {
		if w.times != nil {
			t.Errorf("span %d is still held", i)
		}
	}
}

// A tick that stands for several counts as so many, each as late as it was.
func TestLoopLag(t *testing.T) {
	s := newTimedShard(t, false)
	s.turns.SetLate(2 * time.Millisecond)
	s.turns.Tick(1)
	s.turns.SetLate(2*tick + 50*time.Millisecond)
	s.turns.Tick(3)
	got := s.g.Stats().LoopLag
	want := 0.002 + 0.250 + 0.150 + 0.050
	if got.Count != 4 || math.Abs(got.Sum-want) > 1e-9 || got.MaxMs != 250 || math.Abs(got.P50Ms/50-1) > 0.1 {
		t.Errorf("%+v, want 4, %v s", got, want)
	}
	// And of a real loop.
	g := newTestGateway(t, nil)
	g.eventually("ticks", func() bool { return g.Stats().LoopLag.Count >= 4 })
	if lag := g.Stats().LoopLag; lag.MaxMs <= 0 || lag.MaxMs > 10_000 {
		t.Errorf("%+v", lag)
	}
}

// The buckets of /stats are always the same, and add up.
func TestLatencyStats(t *testing.T) {
	var h histogram.Histogram
	for _, d := range []time.Duration{0, 5 * time.Microsecond, 20 * time.Microsecond, time.Millisecond, 1100 * time.Microsecond, time.Second, time.Hour} {
		h.Add(d, 3)
	}
	h.Publish()
	var s histogram.Snapshot
	s.Take(&h)
	empty, full := latencyStats(histogram.Snapshot{}), latencyStats(s)
	if empty.Count != 0 || empty.P99Ms != 0 || len(empty.Buckets) != len(full.Buckets) {
		t.Errorf("%+v", empty)
	}
	sum, least := uint64(0), 0.0
	for i, b := range full.Buckets {
		most := math.Inf(1)
		if i < len(full.Buckets)-1 {
			most = *b.LE
		} else if b.LE != nil {
			t.Error("the last bucket has a bound")
		}
		if most <= least {
			t.Fatalf("bucket %d ends at %v after %v", i, most, least)
		}
		want := uint64(0)
		for _, d := range []float64{0, 5e-6, 20e-6, 1e-3, 1.1e-3, 1, 3600} {
			if d <= most && (d > least || i == 0) {
				want += 3
			}
		}
		if b.N != want {
			t.Errorf("%d between %v and %v s, want %d", b.N, least, most, want)
		}
		sum += b.N
		least = most
	}
	if sum != full.Count || full.Count != 21 || full.MaxMs != 3600e3 {
		t.Errorf("%d in buckets: %+v", sum, full)
	}
}
