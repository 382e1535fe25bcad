package gateway

import (
	"errors"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/channel"
)

// A Reload does not wait for a shard whose loop has died: who waits for it is who is to
// end the process.
func TestReloadAfterALoopDied(t *testing.T) {
	g := newTestGateway(t, nil)
	held := make(chan struct{})
	g.shards[0].post(func(*shard) { <-held })
	defer close(held)
	g.die(errors.New("epoll is gone"))
	done := make(chan error, 1)
	go func() { done <- g.Reload(*g.live.Load()) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it was taken by a shard that can't have heard of it")
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits")
	}
}

// What was read of the stream keeps to its share of a budget that changes, and the logs
// have the rest.
func TestReloadSharesTheLogBudget(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.LogBudget = 80 << 20 })
	for seq := range uint64(100) {
		page := broker.Page{Epoch: g.hub.Epoch(), Messages: []broker.Message{{Channel: "x", Seq: seq + 1, Data: make([]byte, 60<<10)}}}
		for i := range page.Messages[0].Data {
			page.Messages[0].Data[i] = '1'
		}
		g.history.keep(page.Epoch, "x", channel.NewBlock("x", seq, seq+1, &page, 64<<10))
	}
	if n := g.history.size(); n < 5<<20 {
		t.Fatalf("only %d bytes are held", n)
	}
	for _, c := range []struct{ budget, past int64 }{{8 << 20, 1 << 20}, {80 << 20, 10 << 20}, {1 << 20, 128 << 10}} {
		next := *g.live.Load()
		next.LogBudget = c.budget
		if err := g.Reload(next); err != nil {
			t.Fatal(err)
		}
		if past, logs := g.history.limit.Load(), g.hub.Budget().Limit(); past != c.past || past+logs != c.budget {
			t.Errorf("of %d the logs have %d, what was read of the stream %d, want %d", c.budget, logs, past, c.past)
		}
		if n := g.history.size(); n > c.past {
			t.Errorf("%d bytes are held of %d", n, c.past)
		}
	}
}

// Who is in the middle of a replay of what may no longer be read without a token is given
// no more of it: a slow reader could go on for hours.
func TestReloadEndsReplays(t *testing.T) {
	cfg := auth.Config{Audiences: []string{"odin"}, AnonymousRead: []string{"public.*", "news.*"}}
	g := newKeyedGateway(t, func(c *auth.Config) {
		cfg.Keys = c.Keys
		*c = cfg
	})
	const all = 4000 // of 2 kB: more than the sockets hold
	for range all {
		g.publish("news.a", pad)
	}
	g.eventually("the last one", func() bool { return g.hub.Head() >= all })
	c := g.dialAs("")
	c.say(`{"op":"replay","id":7,"ch":"news.a","epoch":%q,"from":1,"to":%d}`, g.hub.Epoch(), all)
	c.want("msg")
	cfg.AnonymousRead = []string{"public.*"}
	take, err := g.cfg.Tokens.Prepare(cfg)
	if err != nil {
		t.Fatal(err)
	}
	take()
	if err := g.Reload(*g.live.Load()); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		f, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.T == "err" && f.ID == 7 && string(f.Code) == `"forbidden"` {
			break
		}
		if f.T != "msg" || n == all {
			t.Fatalf("after %d messages: %.200s", n, f.raw)
		}
	}
	c.say(`{"op":"ping","id":8}`) // it is no longer busy
	c.want("pong")
}
