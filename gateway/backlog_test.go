package gateway

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
	"github.com/odin-ws/odin/netpoll"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

// stalledShard is one shard over a scripted kernel with n subscribed clients.
type stalledShard struct {
	*shard
	t     testing.TB
	k     *netpolltest.Kernel
	turns *netpolltest.Loop
	socks []*netpolltest.Socket
	seq   uint64
}

func newStalledShard(t testing.TB, n int, backlog int64) *stalledShard {
	return newScriptedShard(t, n, backlog, func(l *netpolltest.Loop) netpoll.Loop { return l })
}

// newScriptedShard is one whose loop is what wrap makes of the scripted one.
func newScriptedShard(t testing.TB, n int, backlog int64, wrap func(*netpolltest.Loop) netpoll.Loop) *stalledShard {
	k := netpolltest.NewKernel()
	l := k.NewLoop()
	cfg := DefaultConfig()
	cfg.AdminAddr, cfg.Broker, cfg.Shards, cfg.Backlog = "127.0.0.1:0", brokertest.NewFake(), 1, 64<<20
	g, err := newGateway(cfg, func(netpoll.Config) (netpoll.Loop, error) { return wrap(l), nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.workers.Release)
	l.Start(g.shards[0])
	s := &stalledShard{shard: g.shards[0], t: t, k: k, turns: l}
	g.hub.Open("e1", 0)
	g.hub.Live()
	s.publish(`0`)
	for range n {
		s.socks = append(s.socks, s.connect())
	}
	s.post(func(s *shard) { s.reclaim(n) }) // nobody would, as far from the budget as this
	s.settle()
	if used := g.backlog.used.Load(); used != 0 {
		t.Fatalf("%d bytes charged to sockets that hold nothing", used)
	}
	g.backlog.limit.Store(backlog)
	return s
}

// connect is one more client, subscribed.
func (s *stalledShard) connect() *netpolltest.Socket {
	sock := s.k.Socket()
	s.hand([]int{sock.FD()})
	s.settle()
	sock.Send([]byte("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"))
	sub := `{"op":"sub","id":1,"ch":["x"]}`
	sock.Send(append([]byte{0x81, 0x80 | byte(len(sub)), 0, 0, 0, 0}, sub...))
	s.settle()
	if got := string(sock.Taken()); !strings.Contains(got, `"t":"ack"`) {
		s.t.Fatalf("no ack: %q", got)
	}
	return sock
}

func (s *stalledShard) publish(data string) {
	prev := s.seq
	s.seq++
	s.g.hub.Message(&broker.Message{Channel: "x", Seq: s.seq, Prev: prev, Time: 1, Data: []byte(data)})
}

// settle runs mail and events until there are none.
func (s *stalledShard) settle() {
	for s.turns.Pending() {
		s.turns.RunMail()
		for _, ev := range s.turns.Batch() {
			s.turns.Fire(ev)
		}
	}
}

func (s *stalledShard) tick(n int) {
	for range n {
		s.turns.Tick(1)
		s.settle()
	}
}

// given is how many clients have been given a message since it was last asked.
func (s *stalledShard) given(data string) (n int) {
	for _, sock := range s.socks {
		if strings.Contains(string(sock.Taken()), `"d":`+data+`}`) {
			n++
		}
	}
	return n
}

// Nobody acknowledges: no more is written than the budget allows, the others
// lag and are not cut; when memory is free again they get what they missed, in
// the order they came.
func TestBacklogHoldsBack(t *testing.T) {
	const clients, pages = 50, 20
	s := newStalledShard(t, clients, pages*page)
	for _, sock := range s.socks {
		sock.SetQueued(page)
	}
	s.publish(`1`)
	s.settle()
	if n := s.given(`1`); n != pages {
		t.Fatalf("%d were written to, want %d", n, pages)
	}
	s.tick(5)
	if used := s.g.backlog.used.Load(); used != pages*page || s.held.len() != clients-pages {
		t.Fatalf("%d bytes charged, %d held back", used, s.held.len())
	}
	if cut := s.g.count.SlowCut.Load() + s.g.count.Evicted.Load(); cut != 0 {
		t.Fatalf("%d cut", cut)
	}
	for _, sock := range s.socks {
		sock.SetQueued(0)
	}
	s.tick(3)
	if n := s.given(`1`); n != clients-pages || s.held.len() != 0 {
		t.Fatalf("%d were written to later, %d are held back", n, s.held.len())
	}
	s.tick(sweepTicks)
	if used := s.g.backlog.used.Load(); used != 0 {
		t.Fatalf("%d bytes charged at rest", used)
	}
}

// acking is a loop whose sockets hold something else each time they are asked.
type acking struct {
	*netpolltest.Loop
	rng *rand.Rand
}

func (l acking) Queued(int) (int, error) { return l.rng.IntN(3) * page, nil }

// What is charged to all is what each is charged, whatever the sockets hold when they
// are asked, also those that are about to be written to.
func TestBacklogAddsUp(t *testing.T) {
	const clients, pages = 30, 12
	rng := rand.New(rand.NewPCG(1, 2))
	for name, s := range map[string]*stalledShard{
		"asked between": newStalledShard(t, clients, pages*page),
		"acknowledged meanwhile": func() *stalledShard {
			l := acking{rng: rng}
			s := newScriptedShard(t, 0, pages*page, func(scripted *netpolltest.Loop) netpoll.Loop { l.Loop = scripted; return l })
			for range clients {
				s.socks = append(s.socks, s.connect())
			}
			return s
		}(),
	} {
		for step := range 5000 {
			for _, sock := range s.socks {
				if rng.IntN(3) == 0 {
					sock.SetQueued(rng.IntN(3) * page)
				}
			}
			if rng.IntN(2) == 0 {
				s.publish(`1`)
			}
			s.settle()
			if rng.IntN(4) == 0 {
				s.tick(1)
			}
			sum := int64(0)
			for i := range s.slots.size() {
				sum += int64(s.slots.at(i).charge) * page
			}
			if used := s.g.backlog.used.Load(); used != sum {
				t.Fatalf("%s, step %d: %d bytes charged in all, %d to connections", name, step, used, sum)
			}
		}
		if s.g.count.HeldBack.Load() == 0 {
			t.Errorf("%s: the budget was never spent", name)
		}
	}
}

// Far from the budget no socket is asked what it holds, and those that come and go
// leave nothing behind.
func TestBacklogFarFromBudget(t *testing.T) {
	s := newStalledShard(t, 1, 64<<20)
	s.socks[0].SetQueued(0)
	s.publish(`1`)
	s.settle()
	for range 20 * reclaimHard {
		s.connect().Reset()
		s.settle()
	}
	s.tick(1)
	if n := s.charged.len(); n > 2+reclaimHard+1 {
		t.Errorf("%d connections are queued as charged, and one is there", n)
	}
	if used := s.g.backlog.used.Load(); used == 0 || used > int64(s.sendPages(s.slots.at(0)))*page {
		t.Errorf("%d bytes charged to one connection, which nobody asked", used)
	}
}

// Those who hold memory without progress give it up to those who wait, and
// never more of it is charged than there is.
func TestBacklogEvicts(t *testing.T) {
	const clients, pages = 50, 20
	s := newStalledShard(t, clients, pages*page)
	for i, sock := range s.socks {
		if i < 25 {
			sock.SetQueued(page)
		}
	}
	s.publish(`1`)
	for range 3 * evictAfter {
		s.tick(1)
		if used := s.g.backlog.used.Load(); used > pages*page {
			t.Fatalf("%d bytes charged", used)
		}
	}
	if s.held.len() != 0 {
		t.Fatalf("%d are held back for ever", s.held.len())
	}
	given, aborted := s.given(`1`), 0
	for i, sock := range s.socks {
		if sock.Aborted() {
			aborted++
			if i >= 25 {
				t.Errorf("client %d acknowledged everything and was evicted", i)
			}
		}
	}
	if given != clients || aborted == 0 || uint64(aborted) != s.g.count.Evicted.Load() {
		t.Fatalf("%d were given it, %d evicted", given, aborted)
	}
	for _, sock := range s.socks {
		if !sock.Closed() {
			sock.Reset()
		}
	}
	s.settle()
	if used := s.g.backlog.used.Load(); used != 0 {
		t.Fatalf("%d bytes charged with no connection left", used)
	}
}

// A client that fills its socket and acknowledges what it holds gets a larger
// buffer, and loses it under pressure; one that only takes what a larger buffer
// has room for does not get one.
func TestSendBufferGrows(t *testing.T) {
	s := newStalledShard(t, 1, 64<<20)
	sock := s.socks[0]
	sock.SetQueued(page)
	acked := uint64(0)
	for i := range 24 {
		if i == 12 && sock.SendBuffer() != 0 {
			t.Fatalf("send buffer %d of a client that acknowledged nothing", sock.SendBuffer())
		}
		if i >= 12 {
			acked += uint64(max(s.g.cfg.SndBuf, sock.SendBuffer()))
			sock.SetAcked(acked)
		}
		sock.SetRoom(100)
		for range 10 {
			s.publish(fmt.Sprintf(`"%0200d"`, i))
		}
		s.settle()
		s.tick(1)
	}
	if want := s.g.cfg.SndBuf << maxSendShift; sock.SendBuffer() != want {
		t.Fatalf("send buffer %d, want %d", sock.SendBuffer(), want)
	}
	s.g.backlog.limit.Store(page)
	s.tick(sweepTicks)
	if sock.SendBuffer() != s.g.cfg.SndBuf {
		t.Fatalf("send buffer %d under pressure", sock.SendBuffer())
	}
}

// A node that catches up after an outage gives its clients more in a second than
// they take in many. They are not slow for it while it lasts; who then doesn't
// come nearer is.
func TestCatchingUpMakesNobodySlow(t *testing.T) {
	s := newStalledShard(t, 1, 64<<20)
	sock := s.socks[0]
	sock.SetRoom(0)
	second := func() {
		for range 2 * s.live.SendQueue {
			s.publish(`1`)
		}
		s.settle()
		sock.Give(200) // it reads, and less than what comes
		s.settle()
		s.tick(slowEvery)
	}
	s.g.hub.Down(nil)
	for range 3 * slowStrikes {
		second()
	}
	if n := s.g.count.SlowStrikes.Load(); n != 0 || sock.Closed() {
		t.Fatalf("%d strikes while the node catches up; closed: %v", n, sock.Closed())
	}
	s.g.hub.Live()
	for range 2 * slowStrikes {
		second()
	}
	if s.g.count.SlowCut.Load() != 1 {
		t.Fatalf("%d strikes and not cut, though it falls behind all the time", s.g.count.SlowStrikes.Load())
	}
}
