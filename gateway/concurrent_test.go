package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/wire"
)

// TestEveryoneGetsEverything is the model test's other half: real loops, real
// sockets, a publisher in full flight. Clients come, read at their own pace,
// leave and resume; each has every message of its channels, once, in order,
// byte for byte.
func TestEveryoneGetsEverything(t *testing.T) {
	const channels, clients = 6, 24
	messages := 1000
	if testing.Short() {
		messages = 300
	}
	g := newTestGateway(t, func(c *Config) {
		c.Replay, c.SendQueue = 1<<20, 1<<20
		c.SlowTimeout = time.Minute
		c.RateBurst = 1000
	})
	epoch := g.hub.Epoch()
	name := func(i int) string { return fmt.Sprint("feed.c", i) }

	var wg sync.WaitGroup
	for i := range clients {
		follows := []string{name(i % channels), name((i + 1) % channels)}
		if i%4 == 0 {
			follows = []string{"feed.*"}
		}
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 0))
			owed := 2 * messages
			if len(follows) == 1 {
				owed = channels * messages
			}
			last := make(map[string]uint64)
			for got := 0; got < owed; {
				n, err := g.readFor(t.Context(), rng, follows, epoch, last, owed-got)
				if err != nil {
					t.Errorf("client %d, after %d of %d: %v", i, got+n, owed, err)
					return
				}
				got += n
			}
		})
	}
	g.eventually("the first subscriptions", func() bool { return g.count.Subscriptions.Load() > 0 })

	// The publisher: a message to each channel in turn, some of them large.
	for n := range messages {
		for i := range channels {
			size := 20
			if n%97 == 0 {
				size = 5000
			}
			data := fmt.Appendf(nil, `{"n":%d,"pad":"%s"}`, n, strings.Repeat("x", size))
			if _, err := g.broker.Publish(t.Context(), broker.Publication{Channel: name(i), Data: data}); err != nil {
				t.Fatal(err)
			}
		}
	}
	wg.Wait()
	g.eventually("everything to be given back", func() bool {
		return g.pool.InUse() == 0 && g.gate.InUse() == 0 && g.count.Subscriptions.Load() == 0
	})
}

// readFor connects, resumes behind last, and reads some of the owed messages,
// then leaves; it returns how many it got.
func (g *testGateway) readFor(ctx context.Context, rng *rand.Rand, follows []string, epoch string, last map[string]uint64, owed int) (got int, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+g.Addr()+"/ws", nil)
	if err != nil {
		return 0, err
	}
	defer c.CloseNow()
	c.SetReadLimit(1 << 20)
	since := make(map[string]any)
	for _, ch := range follows {
		since[ch] = map[string]any{"epoch": epoch, "seq": 0}
	}
	for ch, seq := range last {
		since[ch] = map[string]any{"epoch": epoch, "seq": seq}
	}
	cmd, _ := json.Marshal(map[string]any{"op": "sub", "id": 1, "ch": follows, "since": since})
	if err := c.Write(ctx, websocket.MessageText, cmd); err != nil {
		return 0, err
	}
	stay := min(owed, 1+rng.IntN(1500))
	acked := false
	for got < stay {
		_, b, err := c.Read(ctx)
		if err != nil {
			return got, err
		}
		var f frame
		if err := json.Unmarshal(b, &f); err != nil {
			return got, fmt.Errorf("%q: %w", b, err)
		}
		switch f.T {
		case "hello":
		case "ack":
			acked = true
		case "err":
			// The pool that looks channels up is bounded, and says so.
			if f.RetryMs == 0 || acked {
				return got, fmt.Errorf("%.200s", b)
			}
			time.Sleep(10 * time.Millisecond)
			if err := c.Write(ctx, websocket.MessageText, cmd); err != nil {
				return got, err
			}
		case "msg":
			ch := f.channel()
			if !acked || f.Prev != last[ch] {
				return got, fmt.Errorf("%.100s after seq %d (acked %v)", b, last[ch], acked)
			}
			if want := wire.AppendMsg(nil, ch, f.Seq, f.Prev, f.TS, f.D); !bytes.HasSuffix(want, b) {
				return got, fmt.Errorf("%.100s is not %.100s", b, want)
			}
			last[ch] = f.Seq
			got++
			if rng.IntN(200) == 0 {
				time.Sleep(time.Duration(rng.IntN(10)) * time.Millisecond)
			}
		default:
			return got, fmt.Errorf("%.200s", b)
		}
	}
	return got, nil
}
