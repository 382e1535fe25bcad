package gateway

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// trickBroker looks channels up in its own way: wait.* not before letGo, boom.*
// by panicking, and none.* not at all.
type trickBroker struct {
	*brokertest.Fake
	mu      sync.Mutex
	hold    chan struct{} // guarded by mu
	waiting atomic.Int64
	asked   atomic.Int64 // for wait.*, so far
	names   atomic.Int64
}

// letGo lets those go on that wait now.
func (b *trickBroker) letGo() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.hold)
	b.hold = make(chan struct{})
}

// subWait is a subscribe to a channel nobody knows that waits.
func (b *trickBroker) subWait() string {
	return sayf(`{"op":"sub","id":1,"ch":["wait.%d"]}`, b.names.Add(1))
}

func (b *trickBroker) Last(ctx context.Context, ch string) (broker.Message, error) {
	switch {
	case strings.HasPrefix(ch, "wait."):
		b.asked.Add(1)
		b.waiting.Add(1)
		defer b.waiting.Add(-1)
		b.mu.Lock()
		hold := b.hold
		b.mu.Unlock()
		select {
		case <-hold:
		case <-ctx.Done():
			return broker.Message{}, ctx.Err()
		}
	case strings.HasPrefix(ch, "boom."):
		panic("a broker that panics")
	case strings.HasPrefix(ch, "none."):
		return broker.Message{}, broker.ErrNotFound
	}
	return b.Fake.Last(ctx, ch)
}

// trick makes a gateway's broker a trickBroker.
func trick(c *Config) *trickBroker {
	b := &trickBroker{Fake: c.Broker.(*brokertest.Fake), hold: make(chan struct{})}
	c.Broker = b
	return b
}

// probe dials, subscribes to a channel nobody knows and pings, again and again
// until stop, which returns how long each took.
func (g *testGateway) probe(t *testing.T) (stop func() []time.Duration) {
	quit, ended := make(chan struct{}), make(chan []time.Duration)
	go func() {
		var took []time.Duration
		defer func() { ended <- took }()
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-time.After(5 * time.Millisecond):
			}
			begin := time.Now()
			if err := g.visit(i); err != nil {
				t.Errorf("a legitimate client: %v", err)
				return
			}
			took = append(took, time.Since(begin))
		}
	}()
	return func() []time.Duration {
		close(quit)
		return <-ended
	}
}

// visit is one short legitimate connection.
func (g *testGateway) visit(i int) error {
	r, err := dialRaw(g.Addr())
	if err != nil {
		return err
	}
	defer r.conn.Close()
	r.send(g.head()+sayf(`{"op":"sub","id":1,"ch":["probe.%d"]}`, i)+say(`{"op":"ping","id":2}`)+closeFrame(1000, ""), 0)
	if resp, err := http.ReadResponse(r.in, nil); err != nil || resp.StatusCode != 101 {
		return fmt.Errorf("upgrade: %v, %w", resp, err)
	}
	for _, want := range []string{`{"t":"hello"`, `{"t":"ack"`, `{"t":"pong"`, "\x03\xe8"} {
		if _, f, err := r.frame(); err != nil || !strings.HasPrefix(f, want) {
			return fmt.Errorf("%q instead of %s: %w", f, want, err)
		}
	}
	return nil
}

// More half-sent frames than there are workers, and many who drip, cost nobody
// else anything, and end in their time.
func TestHalfSentAndDrippedFrames(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.FrameTimeout, c.HandshakeTimeout = 2*time.Second, 2*time.Second })
	k, probe, begin := g.canary(t), g.probe(t), time.Now()
	large := say(padded(`{"op":"ping","id":1}`))
	var frames, heads []*raw
	for range poolFactor*runtime.NumCPU() + 1 {
		c := g.rawOpen(t)
		c.send(large[:len(large)/2], 0)
		frames = append(frames, c)
	}
	head := g.head()
	var drips []*raw
	for i := range 200 {
		if i%2 == 0 {
			c := g.raw(t)
			heads, drips = append(heads, c), append(drips, c)
		} else {
			c := g.rawOpen(t)
			frames, drips = append(frames, c), append(drips, c)
		}
	}
	var dripping sync.WaitGroup
	defer dripping.Wait()
	dripping.Go(func() {
		for at := 0; time.Since(begin) < 5*time.Second; at++ {
			for i, c := range drips {
				if i%2 == 0 {
					c.send(head[at:at+1], 0)
				} else {
					c.send(large[at:at+1], 0)
				}
			}
			time.Sleep(500 * time.Millisecond)
		}
	})
	for _, c := range heads {
		c.wantStatus(http.StatusRequestTimeout)
	}
	for _, c := range frames {
		c.wantClose(1008)
	}
	if d := time.Since(begin); d < 1500*time.Millisecond || d > 4*time.Second+slack {
		t.Errorf("all were cut after %v", d)
	}
	t.Logf("legitimate visits: 99 %% within %v", within(probe()))
	g.wantNothingHeld(t, 1, 1)
	if n := g.count.FrameTimeouts.Load(); n != uint64(len(frames)) {
		t.Errorf("%d frame timeouts counted of %d", n, len(frames))
	}
	k.stop()
}

// Who connects and says nothing can take the places of others like it only.
func TestSilentConnects(t *testing.T) {
	t.Parallel()
	const most = 64
	g := newTestGateway(t, func(c *Config) { c.MaxHandshakes, c.Shards = most, 1; c.HandshakeTimeout = 2 * time.Second })
	k := g.canary(t)
	var all []*raw
	for range 3 * most {
		all = append(all, g.raw(t))
		// A shard counts the new one before it drops the oldest.
		if n := g.Stats().Handshakes; n > most+int64(len(g.shards)) {
			t.Fatalf("%d unfinished handshakes, at most %d", n, most)
		}
	}
	var took []time.Duration
	for i := range 50 {
		begin := time.Now()
		if err := g.visit(i); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	t.Logf("legitimate visits: 99 %% within %v", within(took))
	// The oldest were told to make room, the others when their time was up.
	for _, c := range all[:2*most] {
		if resp, body := c.answer(); resp.StatusCode != http.StatusRequestTimeout || !strings.Contains(body, refuseDisplaced.Message) {
			t.Error(resp.Status, body)
		}
	}
	for _, c := range all[2*most:] {
		c.wantStatus(http.StatusRequestTimeout)
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// Those refused that don't leave are as few as handshakes may be.
func TestRefusedThatStay(t *testing.T) {
	t.Parallel()
	const most = 16
	g := newTestGateway(t, func(c *Config) { c.MaxHandshakes = most; c.Shards = 1 })
	var all []*raw
	for range 10 * most {
		c := g.raw(t)
		c.send("\x00", 0)
		if resp, _ := c.answer(); resp.StatusCode != http.StatusBadRequest {
			t.Error(resp.Status)
		}
		if n := g.held(); n > most+1 {
			t.Fatalf("%d connections held", n)
		}
		all = append(all, c)
	}
	if err := g.visit(0); err != nil {
		t.Error(err)
	}
	runtime.KeepAlive(all)
	g.wantNothingHeld(t, 0, 0)
}

// The list of handshakes is of those under way, not of all there ever were.
func TestHandshakeListStaysShort(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.Shards = 1 })
	for i := range 500 {
		if err := g.visit(i); err != nil {
			t.Fatal(err)
		}
	}
	length := make(chan int)
	g.shards[0].post(func(s *shard) { length <- len(s.handshakes.refs) })
	if n := <-length; n > 200 {
		t.Errorf("%d handshakes remembered", n)
	}
}

// A client that never reads is cut; the others on its channel get everything.
func TestClientThatNeverReads(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"takes nothing":    func(c *Config) { c.SlowTimeout = 500 * time.Millisecond; c.SendQueue = 1 << 20 },
		"too far behind":   func(c *Config) { c.SlowTimeout = time.Minute; c.SendQueue = 16 },
		"log budget tight": func(c *Config) { c.SlowTimeout = 500 * time.Millisecond; c.LogBudget = 1 << 20; c.SendQueue = 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			g := newTestGateway(t, change)
			k := g.canary(t)
			slow := g.rawSmall(t).open(g)
			slow.send(say(`{"op":"sub","id":1,"ch":["big"]}`), 0)
			slow.text()
			fast := g.dial()
			fast.say(`{"op":"sub","id":1,"ch":["big"]}`)
			fast.want("ack")
			data := `"` + strings.Repeat("b", 8<<10) + `"`
			begin, last := time.Now(), uint64(0)
			for g.count.SlowCut.Load() == 0 && time.Since(begin) < 5*time.Second {
				seq := g.publish("big", data)
				f := fast.want("msg")
				if f.Seq != seq || last != 0 && f.Prev != last || string(f.D) != data {
					t.Fatalf("%.100s", f.raw)
				}
				last = seq
				time.Sleep(5 * time.Millisecond)
			}
			t.Logf("cut after %v", time.Since(begin))
			if n := g.Stats().SlowClientsDisconnected; n != 1 {
				t.Errorf("%d slow clients disconnected", n)
			}
			code, _ := slow.closed()
			if code != 4101 && code != 0 {
				t.Errorf("closed with %d", code)
			}
			fast.CloseNow()
			g.wantNothingHeld(t, 1, 1)
			k.stop()
		})
	}
}

func TestControlFloods(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.Echo = true; c.SlowTimeout = 500 * time.Millisecond })
	k := g.canary(t)
	for name, frame := range map[string]string{
		"pings": masked(fin|opPing, "p"), "long pings": masked(fin|opPing, strings.Repeat("p", 125)), "pongs": masked(fin|opPong, ""),
	} {
		t.Run(name, func(t *testing.T) {
			c := g.rawOpen(t)
			go c.send(strings.Repeat(frame, 10_000), 0)
			code, before := c.closed()
			if code != 1008 || len(before) > 2*maxControlPerSec { // a sweep may begin a new second
				t.Errorf("closed with %d after %d pongs", code, len(before))
			}
		})
	}
	t.Run("as many a second as allowed", func(t *testing.T) {
		c := g.rawOpen(t)
		for range 15 {
			c.send(strings.Repeat(masked(fin|opPing, ""), maxControlPerSec/20), 0)
			time.Sleep(100 * time.Millisecond)
		}
		c.send(closeFrame(1000, ""), 0)
		if code, before := c.closed(); code != 1000 || len(before) != 15*maxControlPerSec/20 {
			t.Errorf("closed with %d after %d pongs", code, len(before))
		}
	})
	t.Run("echo has no such limit", func(t *testing.T) {
		c := g.raw(t)
		c.send(g.head("=GET /echo HTTP/1.1"), 0)
		c.wantStatus(http.StatusSwitchingProtocols)
		go c.send(strings.Repeat(masked(fin|opPing, "p"), 5000)+closeFrame(1000, ""), 0)
		if code, before := c.closed(); code != 1000 || len(before) != 5000 {
			t.Errorf("closed with %d after %d pongs", code, len(before))
		}
	})
	t.Run("echo, pings never read", func(t *testing.T) {
		c := g.rawSmall(t)
		c.send(g.head("=GET /echo HTTP/1.1"), 0)
		c.wantStatus(http.StatusSwitchingProtocols)
		most := g.highWater()
		c.conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
		for c.send(strings.Repeat(masked(fin|opPing, strings.Repeat("p", 125)), 1000), 0) == nil {
		}
		if n := most(); n > readSize+4096 {
			t.Errorf("%d bytes pooled", n)
		}
	})
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// Who commands and does not read the answers is not read either.
func TestCommandsWhoseAnswersAreNotRead(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"pings": say(`{"op":"ping","id":1}`),
		"lists": say(`{"op":"list","id":1}`),
		"bulk":  say(`{"op":"sub","id":1,"ch":["` + strings.Repeat(`!","`, 100) + strings.Repeat("x", 2000) + `!"]}`),
	} {
		t.Run(name, func(t *testing.T) {
			g := newTestGateway(t, func(c *Config) { c.RateBurst, c.RatePerSec = 1_000_000, 1_000_000; c.SlowTimeout = time.Second })
			k := g.canary(t)
			c := g.rawSmall(t).open(g)
			subscribe, _ := bulk("sub", func(i int) string { return fmt.Sprintf("channel.number.%d", i) })
			if name == "lists" {
				c.send(say(subscribe), 0)
				c.text()
			}
			most, in := g.highWater(), g.count.BytesIn.Load()
			c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
			sent := 0
			for c.send(strings.Repeat(command, 100), 0) == nil {
				sent += 100 * len(command)
			}
			peak := most()
			t.Logf("%d bytes of commands taken, %d pooled at most", g.count.BytesIn.Load()-in, peak)
			// As much as the largest send buffer takes of the answers.
			if read := g.count.BytesIn.Load() - in; read > uint64(4*(g.cfg.SndBuf<<maxSendShift)) {
				t.Errorf("%d bytes of commands were read", read)
			}
			limit := int64(readSize + 64<<10)
			if name == "lists" {
				limit += 128 << 10 // the one answer that waits
			}
			if peak > limit {
				t.Errorf("%d bytes pooled", peak)
			}
			if code, _ := c.closed(); code != 0 && code != 4101 {
				t.Errorf("closed with %d", code)
			}
			g.wantNothingHeld(t, 1, 1)
			if n := g.count.SlowCut.Load(); n != 1 {
				t.Errorf("%d slow clients cut", n)
			}
			k.stop()
		})
	}
}

// However many names clients make up, a node knows MaxChannels and says so.
func TestRandomNames(t *testing.T) {
	t.Parallel()
	const most = 2000
	g := newTestGateway(t, func(c *Config) { trick(c); c.MaxChannels, c.MaxSubscriptions = most, 10_000 })
	k := g.canary(t)
	limited, joined := 0, 0
	for round := 0; limited+joined < 100_000; round++ {
		c := g.rawOpen(t)
		command, n := bulk("sub", func(i int) string { return fmt.Sprintf("none.%d-%d", round, i) })
		c.send(say(command), 0)
		f := c.text()
		acked := strings.Count(f, `{"epoch"`)
		if !strings.HasPrefix(f, `{"t":"ack"`) || acked+strings.Count(f, `:"limit"`) != n {
			t.Fatalf("%d names: %.300s", n, f)
		}
		joined, limited = joined+acked, limited+n-acked
		if n := g.hub.Len(); n > most {
			t.Fatalf("%d channels known", n)
		}
		if round > 0 { // the first stays, and its channels with it
			c.conn.Close()
		}
	}
	t.Logf("%d joined, %d refused", joined, limited)
	// Every command is answered, also for one name again and again.
	r := g.rawOpen(t)
	r.send(strings.Repeat(say(`{"op":"sub","id":1,"ch":["none.again"]}`), 5)+say(`{"op":"ping","id":2}`)+closeFrame(1000, ""), 0)
	ack := `{"t":"ack","id":1,"rej":{"none.again":"limit"}}`
	r.wantClose(1000, ack, ack, ack, ack, ack, `{"t":"pong","id":2}`)
	// Those known can still be followed.
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["canary"]}`)
	c.want("ack")
	c.want("msg")
	c.CloseNow()
	k.stop()
}

// A bulk of wildcards costs what they match, not what the node knows.
func TestBulkOfWildcards(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.Shards = 1 })
	k := g.canary(t) // first: the numbers below are not the broker's
	for i := range 20_000 {
		g.hub.Message(&broker.Message{Channel: fmt.Sprintf("venue%d.SYM-%d", i%7, i), Seq: uint64(i + 1), Data: []byte("1")})
	}
	c := g.dial()
	var took []time.Duration
	for round := range 5 {
		names := strings.Builder{}
		for i := range 1000 {
			fmt.Fprintf(&names, `,"w%d-%d.*"`, round, i)
		}
		begin := time.Now()
		c.say(`{"op":"sub","id":1,"ch":[%s]}`, names.String()[1:])
		if f := c.want("ack"); len(f.acks()) != 1000 {
			t.Fatalf("%.300s", f.raw)
		}
		took = append(took, time.Since(begin))
		c.say(`{"op":"unsub","id":2,"ch":["venue0.*",%s]}`, names.String()[1:])
		c.want("ack")
	}
	if d := slices.Min(took); d > 400*time.Millisecond {
		t.Errorf("the fastest command of 1000 wildcards took %v", d)
	}
	c.say(`{"op":"sub","id":3,"ch":["venue0.*"]}`)
	if f := c.want("ack"); f.Rej["venue0.*"] != "limit" {
		t.Fatal(f.raw)
	}
	c.CloseNow()
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// Names that one client makes up don't use up what the wildcards of others may
// follow.
func TestNamesAreNotForWildcards(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.MaxSubscriptions = 50 })
	victim := g.dial()
	victim.say(`{"op":"sub","id":1,"ch":["trade.*"]}`)
	victim.want("ack")
	for i := range 3 {
		names := ""
		for k := range 45 {
			names += fmt.Sprintf(`,"trade.zz%d-%d"`, i, k)
		}
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":[%s]}`, names[1:])
		if f := c.want("ack"); len(f.acks()) != 45 {
			t.Fatal(f.raw)
		}
	}
	newcomer := g.dial()
	newcomer.say(`{"op":"sub","id":1,"ch":["trade.*"]}`)
	if f := newcomer.want("ack"); f.Rej != nil {
		t.Fatal(f.raw)
	}
	for _, ch := range []string{"trade.NEW", "trade.zz0-0"} { // a name's first message counts
		seq := g.publish(ch, `1`)
		for _, c := range []*client{victim, newcomer} {
			if f := c.want("msg"); f.Seq != seq || f.channel() != ch {
				t.Fatal(f.raw)
			}
		}
	}
}

// Wildcards that match nothing draw on what all connections share.
func TestWildcardsHaveABudget(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.MoreSubscriptions = 1000; c.Shards = 1 })
	taken := 0
	var all []*client
	for i := range 5 {
		names := ""
		for k := range 100 {
			names += fmt.Sprintf(`,"w%d-%d.*"`, i, k)
		}
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":[%s]}`, names[1:])
		taken += len(c.want("ack").acks())
		all = append(all, c)
	}
	if most := 1000 / wildCost("w0-0."); taken > most || taken < most-10 {
		t.Errorf("%d wildcards, the budget is for %d", taken, most)
	}
	for _, c := range all {
		c.CloseNow()
	}
	g.eventually("what they drew", func() bool { return g.more.Load() == 0 })
}

// Pooled buffers are bounded, but not by who holds them. Those who fill the
// budget with half-sent frames are cut within a second or two, and whoever sends
// a head or frame in pieces is served again.
func TestBufferHoldersStarveNobody(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.BufferBudget = 1 << 20 })
	most := g.highWater()
	for _, size := range []int{60 << 10, 7 << 10, 900, 120} {
		for range 20 {
			c := g.rawOpen(t)
			c.send(header(fin|opText, 64<<10, 64)+maskBytes(strings.Repeat(" ", size)), 0)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// On a busy machine the first are cut before the last have come.
	if held, budget := most(), g.pool.Budget(); held <= budget/2 {
		t.Fatalf("only %d of %d bytes pooled: nobody is hindered", held, budget)
	}
	g.eventually("the holders to be cut", func() bool { return g.pool.InUse() <= g.pool.Budget()/2 })
	c := g.raw(t)
	c.send(g.head()[:50], 0)
	time.Sleep(20 * time.Millisecond)
	c.send(g.head()[50:], 0)
	c.wantStatus(http.StatusSwitchingProtocols)
	c.text()
	c.send(say(`{"op":"ping","id":1}`)[:9], 0)
	time.Sleep(20 * time.Millisecond)
	c.send(say(`{"op":"ping","id":1}`)[9:], 0)
	if f := c.text(); f != `{"t":"pong","id":1}` {
		t.Error(f)
	}
}

// A client that closes its side only is done.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	k := g.canary(t)
	for name, row := range map[string]struct {
		sent string
		want []string
	}{
		"nothing":          {"", nil},
		"half a head":      {ownLine, nil},
		"a head":           {g.head(), []string{"hello"}},
		"a command":        {g.head() + say(`{"op":"ping","id":1}`), []string{"hello", "pong"}},
		"at the pool":      {g.head() + say(`{"op":"sub","id":1,"ch":["fresh"]}`) + say(`{"op":"ping","id":1}`), []string{"hello", "ack", "pong"}},
		"half a frame":     {g.head() + say(`{"op":"ping","id":1}`)[:9], []string{"hello"}},
		"half a message":   {g.head() + masked(opText, "{"), []string{"hello"}},
		"after a close":    {g.head() + closeFrame(1000, ""), []string{"hello", "\x03\xe8"}},
		"after a bad head": {"\x00", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := g.raw(t)
			c.send(row.sent, 0)
			c.conn.CloseWrite()
			if name == "after a bad head" {
				c.wantStatus(400)
				return
			}
			if row.want != nil {
				c.wantStatus(101)
			}
			for _, want := range row.want {
				if _, f, err := c.frame(); err != nil || !strings.Contains(f, want) {
					t.Errorf("%q, %v instead of %s", f, err, want)
				}
			}
			c.wantEOF()
		})
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// inEveryState brings connections into every state there is, one in each, and
// returns them by its name. The gateway is to have a trickBroker.
func (g *testGateway) inEveryState(t *testing.T, b *trickBroker) map[string]*raw {
	t.Helper()
	all := make(map[string]*raw)
	asked := b.asked.Load()
	add := func(name string, c *raw, sent string) *raw {
		c.send(sent, 0)
		all[name] = c
		return c
	}
	ping := say(`{"op":"ping","id":1}`)
	add("silent", g.raw(t), "")
	add("half a head", g.raw(t), g.head()[:99])
	add("refused, unread", g.raw(t), "\x00")
	add("refused, read", g.raw(t), "\x00").answer()
	add("plain, half a head", g.raw(t), "GET /stats HTTP/1.1\r\n")
	add("plain, unread", g.raw(t), g.atHost("GET /stats HTTP/1.1\r\nHost: {host}\r\n\r\n"))
	add("upgraded, unread", g.raw(t), g.head())
	add("idle", g.rawOpen(t), "")
	add("half a frame header", g.rawOpen(t), ping[:3])
	add("half a frame", g.rawOpen(t), ping[:12])
	add("half a large frame", g.rawOpen(t), say(padded(""))[:5000])
	add("half a message", g.rawOpen(t), masked(opText, "{")+masked(0, " "))
	add("subscribed", g.rawOpen(t), say(`{"op":"sub","id":1,"ch":["a","b","c"]}`)).text()
	add("wildcard", g.rawOpen(t), say(`{"op":"sub","id":1,"ch":["other.*"]}`)).text()
	add("at the pool", g.rawOpen(t), b.subWait())
	add("at the pool, more behind", g.rawOpen(t), b.subWait()+strings.Repeat(ping, 50)+ping[:9])
	closing := add("told goodbye", g.rawOpen(t), "\x81\x00")
	if _, f, err := closing.frame(); err != nil || !strings.HasPrefix(f, "\x03\xea") {
		t.Fatalf("%q, %v", f, err)
	}
	add("told goodbye, still sending", g.rawOpen(t), "\x81\x00"+strings.Repeat(ping, 1000))
	add("half-closed", g.rawOpen(t), "").conn.CloseWrite()
	add("behind", g.rawSmall(t).open(g), say(`{"op":"sub","id":1,"ch":["state.big"]}`)).text()
	many, _ := bulk("sub", func(i int) string { return fmt.Sprintf("many.%d", i) })
	add("answers unread", g.rawSmall(t).open(g), say(many)+say(`{"op":"list","id":2}`)+ping)
	add("answers unread, gone after", g.rawSmall(t).open(g), say(many)+closeFrame(1000, ""))
	add("unread, behind and pinging", g.rawSmall(t).open(g), say(`{"op":"sub","id":1,"ch":["state.big"]}`)).text()
	for range 20 {
		g.publish("state.big", `"`+strings.Repeat("b", 8<<10)+`"`)
	}
	all["unread, behind and pinging"].send(strings.Repeat(ping, 20), 0)
	g.eventually("two to wait for the broker", func() bool { return b.asked.Load() == asked+2 })
	time.Sleep(20 * time.Millisecond)
	return all
}

// A reset in any state leaves nothing behind.
func TestResetInEveryState(t *testing.T) {
	t.Parallel()
	var b *trickBroker
	g := newTestGateway(t, func(c *Config) { b = trick(c); c.SlowTimeout = time.Minute })
	k := g.canary(t)
	for range 3 {
		for _, c := range g.inEveryState(t, b) {
			c.reset()
		}
	}
	b.letGo()
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// So does a close, in any state, however much is unread.
func TestCloseInEveryState(t *testing.T) {
	t.Parallel()
	var b *trickBroker
	g := newTestGateway(t, func(c *Config) { b = trick(c); c.SlowTimeout = time.Minute })
	k := g.canary(t)
	for range 3 {
		for _, c := range g.inEveryState(t, b) {
			c.conn.Close()
		}
	}
	b.letGo()
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// Beyond the limit everyone hears 503, and nobody more gets in.
func TestConnectStorm(t *testing.T) {
	t.Parallel()
	const limit, storm = 50, 400
	g := newTestGateway(t, func(c *Config) { c.MaxConnections = limit + 1 })
	k := g.canary(t)
	for range 2 {
		over := make(chan int)
		quit := make(chan struct{})
		go func() {
			most := 0
			for {
				most = max(most, g.gate.InUse())
				select {
				case <-quit:
					over <- most
					return
				case <-time.After(20 * time.Microsecond):
				}
			}
		}()
		var in []*raw
		var mu sync.Mutex
		var wg sync.WaitGroup
		refused := 0
		for range storm {
			wg.Add(1)
			go func() {
				defer wg.Done()
				c, err := dialRaw(g.Addr())
				if err != nil {
					t.Error(err)
					return
				}
				c.send(g.head(), 0)
				resp, err := http.ReadResponse(c.in, nil)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Error(err)
				case resp.StatusCode == 101:
					in = append(in, c)
					return
				case resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "":
					refused++
				default:
					t.Error(resp.Status)
				}
				c.conn.Close()
			}()
		}
		wg.Wait()
		close(quit)
		if most := <-over; most > limit+1 {
			t.Errorf("%d at the gate, at most %d", most, limit+1)
		}
		if len(in) != limit || refused != storm-limit {
			t.Errorf("%d got in, %d were refused", len(in), refused)
		}
		for i, c := range in {
			if i%2 == 0 {
				c.reset()
			} else {
				c.conn.Close()
			}
		}
		g.wantNothingHeld(t, 1, 1)
	}
	k.stop()
}

// A panic at the pool is one connection's, and so is a broker that hangs.
func TestPanicAndHangInThePool(t *testing.T) {
	t.Parallel()
	var b *trickBroker
	g := newTestGateway(t, func(c *Config) { b = trick(c) })
	k := g.canary(t)
	for range poolFactor*runtime.NumCPU() + 1 {
		c := g.rawOpen(t)
		c.send(say(`{"op":"sub","id":1,"ch":["boom.a"]}`)+say(`{"op":"ping","id":1}`), 0)
		c.wantClose(1011)
	}
	g.eventually("the panics to be counted", func() bool { return g.count.PoolPanics.Load() == uint64(poolFactor*runtime.NumCPU()+1) })
	g.count.PoolPanics.Store(0)
	if err := g.visit(0); err != nil {
		t.Fatal(err)
	}
	// Every worker hangs; who needs one is told so at once, all others go on.
	var hung []*raw
	for range poolFactor * runtime.NumCPU() {
		c := g.rawOpen(t)
		c.send(b.subWait()+say(`{"op":"ping","id":2}`), 0)
		hung = append(hung, c)
	}
	g.eventually("every worker to hang", func() bool { return b.waiting.Load() == int64(len(hung)) })
	c := g.rawOpen(t)
	c.send(say(`{"op":"sub","id":1,"ch":["new"]}`)+say(`{"op":"sub","id":3,"ch":["canary"]}`)+say(`{"op":"unsub","id":4,"ch":["canary"]}`), 0)
	if f := c.text(); !strings.HasPrefix(f, `{"t":"err"`) || !strings.Contains(f, `"limit"`) || !strings.Contains(f, "retry_ms") {
		t.Error(f)
	} else if !strings.Contains(f, `"id":1`) {
		t.Errorf("whose command? %s", f)
	}
	if f := c.text(); !strings.HasPrefix(f, `{"t":"ack","id":3`) {
		t.Error(f)
	}
	c.conn.Close()
	b.letGo()
	for _, c := range hung {
		if f := c.text(); !strings.HasPrefix(f, `{"t":"ack","id":1`) {
			t.Error(f)
		}
		if f := c.text(); f != `{"t":"pong","id":2}` {
			t.Error(f)
		}
		c.conn.Close()
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// Who doesn't close after the goodbye is closed a second later.
func TestGoodbyeUnanswered(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	k := g.canary(t)
	var told []*raw
	for range 10 {
		c := g.raw(t)
		c.send("\x00", 0)
		c.answer()
		d := g.rawOpen(t)
		d.send("\x81\x00", 0)
		if _, f, err := d.frame(); err != nil || !strings.HasPrefix(f, "\x03\xea") {
			t.Fatalf("%q, %v", f, err)
		}
		told = append(told, c, d)
	}
	begin := time.Now()
	for g.held() > 1 && time.Since(begin) < 3*time.Second {
		time.Sleep(time.Millisecond)
	}
	if d := time.Since(begin); d > time.Second+300*time.Millisecond {
		t.Errorf("closed after %v", d)
	}
	g.wantNothingHeld(t, 1, 1)
	runtime.KeepAlive(told)
	k.stop()
}

// Who reads slowly, but reads, hears why it is closed.
func TestGoodbyeThroughAFullSocket(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.SlowTimeout = time.Minute; c.SendQueue = 1 << 20; c.LogBudget = 64 << 20 })
	full := func(behind string) *raw {
		c := g.rawSmall(t).open(g)
		c.send(say(`{"op":"sub","id":1,"ch":["big"]}`), 0)
		c.text()
		for range 5 {
			g.publish("big", `"`+strings.Repeat("b", 16<<10)+`"`)
		}
		time.Sleep(50 * time.Millisecond)
		c.send(behind, 0)
		time.Sleep(50 * time.Millisecond)
		return c
	}
	for name, row := range map[string]struct {
		behind string
		code   int
	}{
		"its own close": {closeFrame(1000, ""), 1000}, "a bad frame": {"\x81\x00", 1002}, "bad commands": {say("{}") + say("{}") + say("{}"), 1008},
	} {
		t.Run(name, func(t *testing.T) {
			c := full(row.behind)
			code, before := c.closed()
			if code != row.code {
				t.Errorf("closed with %d after %d frames", code, len(before))
			}
			c.conn.Close()
		})
	}
	g.wantNothingHeld(t, 0, 0)
	t.Run("drain", func(t *testing.T) {
		c, stuck := full(""), full("")
		began, down := time.Now(), make(chan error)
		go func() { down <- g.Shutdown(t.Context()) }()
		time.Sleep(100 * time.Millisecond)
		code, before := c.closed()
		if n := len(before); code != 1012 || n == 0 || !strings.HasPrefix(before[n-1], `{"t":"bye","code":1012,"retry_ms":`) {
			t.Errorf("closed with %d after %d frames", code, n)
		}
		c.conn.Close()
		if err := <-down; err != nil || time.Since(began) > 3*time.Second {
			t.Errorf("shut down after %v: %v", time.Since(began), err)
		}
		if code, _ := stuck.closed(); code != 0 {
			t.Errorf("who doesn't read heard %d", code)
		}
	})
}

// descriptors counts this process's.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Not parallel: it counts what the process has.
func TestShutdownInEveryState(t *testing.T) {
	before := goleak.IgnoreCurrent()
	descriptorsBefore := descriptors(t)
	t.Run("gateway", func(t *testing.T) {
		for _, drain := range []time.Duration{0, 500 * time.Millisecond} {
			var b *trickBroker
			g := newTestGateway(t, func(c *Config) { b = trick(c); c.SlowTimeout = time.Minute; c.Drain = drain })
			all := g.inEveryState(t, b)
			begin := time.Now()
			time.AfterFunc(300*time.Millisecond, b.letGo) // the pool is waited for
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := g.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			if d := time.Since(begin); d > drain+5*time.Second {
				t.Errorf("shut down after %v", d)
			}
			if n := g.pool.InUse(); n != 0 {
				t.Errorf("%d bytes still pooled: %v", n, g.pool.Outstanding())
			}
			if n := g.gate.InUse(); n != 0 {
				t.Errorf("%d at the gate", n)
			}
			for name, c := range all {
				code, said := c.closed()
				c.conn.Close()
				switch name {
				case "idle", "half a frame", "half a frame header", "half a large frame", "half a message", "subscribed", "wildcard", "at the pool", "at the pool, more behind":
					if n := len(said); code != 1012 || n == 0 || !strings.HasPrefix(said[n-1], `{"t":"bye"`) {
						t.Errorf("%s: closed with %d after %.100q", name, code, said)
					}
				}
			}
		}
	})
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(3 * time.Second); descriptors(t) > descriptorsBefore; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d before", descriptors(t), descriptorsBefore)
		}
	}
}

// Not parallel, like the one before: after all kinds of ends nothing of the
// clients is left, while the gateway runs on.
func TestNothingIsLeftOfClients(t *testing.T) {
	var b *trickBroker
	g := newTestGateway(t, func(c *Config) { b = trick(c); c.SlowTimeout = time.Minute })
	round := func() {
		for i := range 50 {
			if err := g.visit(i); err != nil {
				t.Fatal(err)
			}
		}
		for _, how := range []func(*raw){(*raw).reset, func(c *raw) { c.conn.Close() }} {
			for _, c := range g.inEveryState(t, b) {
				how(c)
			}
		}
		b.letGo()
		g.eventually("the broker to be asked no more", func() bool { return b.waiting.Load() == 0 })
		g.wantNothingHeld(t, 0, 0)
	}
	round() // makes what stays: workers, pages
	descriptorsBefore, goroutinesBefore := descriptors(t), runtime.NumGoroutine()
	for range 2 {
		round()
	}
	for deadline := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		d, n := descriptors(t), runtime.NumGoroutine()
		if d <= descriptorsBefore && n <= goroutinesBefore+2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d before; %d goroutines, %d before", d, descriptorsBefore, n, goroutinesBefore)
		}
	}
}
