package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// testGateway is a gateway on loopback over an in-memory broker.
type testGateway struct {
	*Gateway
	t      *testing.T
	broker *brokertest.Fake
}

// newTestGateway starts a gateway; change may adjust its configuration.
func newTestGateway(t *testing.T, change func(*Config)) *testGateway {
	t.Helper()
	return newTestGatewayOver(t, brokertest.NewFake(), change)
}

// newTestGatewayOver is newTestGateway with a broker that may hold something.
func newTestGatewayOver(t *testing.T, fake *brokertest.Fake, change func(*Config)) *testGateway {
	t.Helper()
	g := startTestGateway(t, fake, change)
	g.eventually("the broker's epoch", func() bool { return g.hub.Epoch() != "" })
	return g
}

// startTestGateway is newTestGatewayOver without waiting for the broker.
func startTestGateway(t *testing.T, fake *brokertest.Fake, change func(*Config)) *testGateway {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Addr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Broker = fake
	cfg.Drain = 0
	cfg.Shards = 2
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return &testGateway{Gateway: g, t: t, broker: fake}
}

// eventually waits for a condition.
func (g *testGateway) eventually(what string, ok func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			g.t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// publish stores a message and returns its sequence.
func (g *testGateway) publish(ch, data string) uint64 {
	g.t.Helper()
	ack, err := g.broker.Publish(g.t.Context(), broker.Publication{Channel: ch, Data: []byte(data)})
	if err != nil {
		g.t.Fatalf("publish to %s: %v", ch, err)
	}
	return ack.Seq
}

// frame is any server frame.
type frame struct {
	T      string          `json:"t"`
	ID     uint64          `json:"id"`
	Ch     json.RawMessage `json:"ch"`
	Rej    map[string]string
	Seq    uint64
	Prev   uint64
	Skip   uint64
	TS     int64
	D      json.RawMessage
	After  uint64
	Before uint64
	Why    string
	Epoch  string
	Code   json.RawMessage
	Conn   string

	RetryMs int `json:"retry_ms"`
	raw     string
}

type ackEntry struct {
	Epoch     string
	Seq       uint64
	Recovered *bool
}

func (f frame) channel() string {
	var s string
	json.Unmarshal(f.Ch, &s)
	return s
}

func (f frame) acks() map[string]ackEntry {
	var m map[string]ackEntry
	json.Unmarshal(f.Ch, &m)
	return m
}

// client is a WebSocket client that has had its hello.
type client struct {
	t *testing.T
	*websocket.Conn
	hello frame
}

func (g *testGateway) dial() *client {
	g.t.Helper()
	return g.dialMode(websocket.CompressionDisabled)
}

// dialMode is dial with an offer of compression.
func (g *testGateway) dialMode(mode websocket.CompressionMode) *client {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+g.Addr()+"/ws", &websocket.DialOptions{Subprotocols: []string{"odin.v1.json"}, CompressionMode: mode, CompressionThreshold: 1})
	if err != nil {
		g.t.Fatalf("dial: %v", err)
	}
	c.SetReadLimit(32 << 20)
	g.t.Cleanup(func() { c.CloseNow() })
	cl := &client{t: g.t, Conn: c}
	cl.hello = cl.want("hello")
	return cl
}

func (c *client) say(format string, args ...any) {
	c.t.Helper()
	if err := c.Write(c.t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// next reads one frame.
func (c *client) next() (frame, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		return frame{}, err
	}
	f := frame{raw: string(b)}
	if err := json.Unmarshal(b, &f); err != nil {
		c.t.Fatalf("bad frame %q: %v", b, err)
	}
	return f, nil
}

// want reads one frame, which must be of type t.
func (c *client) want(t string) frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", t, err)
	}
	if f.T != t {
		c.t.Fatalf("got %s, want a %s", f.raw, t)
	}
	return f
}

// wantClose reads to the close frame, which must have code.
func (c *client) wantClose(code websocket.StatusCode) {
	c.t.Helper()
	for {
		_, err := c.next()
		if err == nil {
			continue
		}
		if got := websocket.CloseStatus(err); got != code {
			c.t.Fatalf("closed with %d (%v), want %d", got, err, code)
		}
		return
	}
}

func TestMessagesArriveNumberedAndWhole(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["trade.BTC-USD","none"]}`)
	ack := c.want("ack")
	if len(ack.acks()) != 2 || ack.ID != 1 {
		t.Fatalf("ack %s", ack.raw)
	}
	last := uint64(0)
	for i := range 300 {
		data := fmt.Sprintf(`{"p": %d, "s":"é" }`, i)
		seq := g.publish("trade.BTC-USD", data)
		g.publish("other", `1`)
		m := c.want("msg")
		if m.Seq != seq || string(m.D) != data || m.channel() != "trade.BTC-USD" || m.TS == 0 {
			t.Fatalf("message %d: %s", i, m.raw)
		}
		if i > 0 && m.Prev != last {
			t.Fatalf("prev %d after seq %d", m.Prev, last)
		}
		last = m.Seq
	}
}

func TestPlainHTTPOnThePublicPort(t *testing.T) {
	g := newTestGateway(t, nil)
	for path, status := range map[string]int{"/healthz": 200, "/readyz": 200, "/stats": 200, "/metrics": 404, "/": 404, "/ws": 426, "/../admin": 404} {
		req, _ := http.NewRequest("GET", "http://"+g.Addr(), nil)
		req.URL.Opaque = path
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
		}
	}
	g.broker.SetDown(fmt.Errorf("gone"))
	g.eventually("readyz to say so", func() bool {
		resp, err := http.Get("http://" + g.Addr() + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var body struct{ Reason string }
		json.NewDecoder(resp.Body).Decode(&body)
		return resp.StatusCode == 503 && body.Reason == "broker_down"
	})
}

func TestTheOneTooMany(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.MaxConnections = 3 })
	for range 3 {
		g.dial()
	}
	_, resp, err := websocket.Dial(t.Context(), "ws://"+g.Addr()+"/ws", nil)
	if err == nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("the fourth: %v, %v", resp, err)
	}
	var body struct {
		Code, Message string
		RetryAfterMs  int `json:"retry_after_ms"`
	}
	if json.NewDecoder(resp.Body).Decode(&body); body.Code != "at_capacity" || body.Message != "Server at capacity" || body.RetryAfterMs < 1000 {
		t.Fatalf("body %+v", body)
	}
}

func TestCommands(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	c.say(`{"op":"ping","id":5}`)
	if f := c.want("pong"); f.ID != 5 {
		t.Fatal(f.raw)
	}
	c.say(`{"op":"sub","id":6,"ch":["a","b.c","bad channel","$SYS.x","_sys.x","*","a"]}`)
	f := c.want("ack")
	if len(f.acks()) != 2 || len(f.Rej) != 4 {
		t.Fatal(f.raw)
	}
	c.say(`{"op":"list","id":7}`)
	if f := c.want("ack"); len(f.acks()) != 2 {
		t.Fatal(f.raw)
	}
	c.say(`{"op":"unsub","id":8,"ch":["a"]}`)
	c.want("ack")
	g.publish("a", `1`)
	g.publish("b.c", `2`)
	if m := c.want("msg"); m.channel() != "b.c" {
		t.Fatal(m.raw)
	}
	for i := range 3 {
		c.say(`{"op":"nonsense","id":9}`)
		if f := c.want("err"); string(f.Code) != `"bad_request"` || f.ID != 9 {
			t.Fatal(i, f.raw)
		}
	}
	c.wantClose(1008)
}

func TestWildcards(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	old := g.publish("trade.old", `0`)
	g.eventually("it to be here", func() bool { return g.hub.Head() >= old })
	c.say(`{"op":"sub","id":1,"ch":["trade.*","trade.named"]}`)
	c.want("ack")
	for _, ch := range []string{"trade.old", "trade.new", "trade.a.b", "trade.new", "trade.named", "quote.x", "trade", "trade.old"} {
		g.publish(ch, `"`+ch+`"`)
		if !strings.HasPrefix(ch, "trade.") {
			continue
		}
		if m := c.want("msg"); m.channel() != ch || string(m.D) != `"`+ch+`"` {
			t.Fatalf("%s: %s", ch, m.raw)
		}
	}
	c.say(`{"op":"unsub","id":2,"ch":["trade.*"]}`)
	c.want("ack")
	g.publish("trade.old", `1`)
	g.publish("trade.newer", `1`)
	g.publish("trade.named", `1`)
	if m := c.want("msg"); m.channel() != "trade.named" {
		t.Fatal(m.raw)
	}
	if n := g.count.Subscriptions.Load(); n != 1 {
		t.Fatalf("%d subscriptions left", n)
	}
}

func TestGapsAreAnnounced(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"]}`)
	c.want("ack")
	first := g.publish("x", `1`)
	c.want("msg")
	bad := g.broker.Inject("x", []byte("\xff not JSON"))
	if f := c.want("gap"); f.Why != "invalid" || f.After != first || f.Before != bad+1 {
		t.Fatal(f.raw)
	}
	g.publish("x", `2`)
	if m := c.want("msg"); m.Prev != bad {
		t.Fatal(m.raw)
	}
	g.broker.SetDown(fmt.Errorf("gone"))
	c.want("stale")
	g.broker.SetUp()
	c.want("live")
	g.broker.NewEpoch()
	if f := c.want("gap"); f.Why != "epoch" {
		t.Fatal(f.raw)
	}
}

func TestResumeFromTheLog(t *testing.T) {
	g := newTestGateway(t, nil)
	a := g.dial()
	a.say(`{"op":"sub","id":1,"ch":["x"]}`)
	a.want("ack")
	var seqs []uint64
	for i := range 50 {
		seqs = append(seqs, g.publish("x", fmt.Sprint(i)))
		a.want("msg")
	}
	b := g.dial()
	b.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[19])
	f := b.want("ack")
	if e := f.acks()["x"]; e.Recovered == nil || !*e.Recovered || e.Seq != seqs[49] {
		t.Fatal(f.raw)
	}
	for i := 20; i < 50; i++ {
		if m := b.want("msg"); m.Seq != seqs[i] || m.Prev != seqs[i-1] {
			t.Fatalf("%d: %s", i, m.raw)
		}
	}
	b.say(`{"op":"unsub","id":1,"ch":["x"]}`)
	b.want("ack")
	b.say(`{"op":"sub","id":2,"ch":["x"],"snap":true}`)
	b.want("ack")
	if m := b.want("msg"); m.Seq != seqs[49] {
		t.Fatal(m.raw)
	}
	b.say(`{"op":"sub","id":3,"ch":["y"],"since":{"y":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), 1<<40)
	if f := b.want("ack"); f.Rej["y"] != "bad_position" {
		t.Fatal(f.raw)
	}
	b.say(`{"op":"sub","id":4,"ch":["z"],"since":{"z":{"epoch":"old","seq":5}}}`)
	if f := b.want("ack"); *f.acks()["z"].Recovered {
		t.Fatal(f.raw)
	}
	if f := b.want("gap"); f.Why != "epoch" {
		t.Fatal(f.raw)
	}
}

func TestEchoLargeMessages(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.Echo = true; c.MaxMessage = 17 << 20 })
	c, _, err := websocket.Dial(t.Context(), "ws://"+g.Addr()+"/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(32 << 20)
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20, 16 << 20} {
		msg := strings.Repeat("0123456789abcdef", n/16+1)[:n]
		go c.Write(t.Context(), websocket.MessageBinary, []byte(msg))
		_, b, err := c.Read(t.Context())
		if err != nil || string(b) != msg {
			t.Fatalf("%d bytes: got %d, %v", n, len(b), err)
		}
	}
	if n := g.pool.InUse(); n != 0 {
		t.Errorf("%d pooled bytes are still lent", n)
	}
}

func TestRateLimit(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.RateBurst, c.RatePerSec = 5, 1 })
	c := g.dial()
	for range 40 {
		c.Write(t.Context(), websocket.MessageText, []byte(`{"op":"ping","id":1}`))
	}
	limited := 0
	for {
		f, err := c.next()
		if err != nil {
			if websocket.CloseStatus(err) != 4102 {
				t.Fatal(err)
			}
			break
		}
		if f.T == "err" && string(f.Code) == `"rate_limited"` && f.RetryMs > 0 && f.ID == 1 {
			limited++
		}
	}
	if limited != maxWarnings {
		t.Fatalf("%d warnings, want %d", limited, maxWarnings)
	}
}

func TestDrainSaysWhenToComeBack(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	go g.Shutdown(t.Context())
	f := c.want("bye")
	// All must be back within 5 s of the last goodbye, handshake and all.
	if string(f.Code) != "1012" || f.RetryMs < 500 || f.RetryMs >= 3500 {
		t.Fatal(f.raw)
	}
	c.wantClose(1012)
}

// A peer that vanished says nothing and acknowledges nothing: the last that is
// sent to it is a heartbeat, at most Heartbeat and one sweep after the one before.
func TestVanishedPeersAreGoneIn30s(t *testing.T) {
	silence := DefaultConfig().Heartbeat + sweepTicks*tick
	if d := silence + userTimeout(DefaultConfig().Ping); d > 30*time.Second {
		t.Errorf("an idle peer that vanished is kept for %v", d)
	}
	if d := userTimeout(DefaultConfig().Ping); d < 10*time.Second {
		t.Errorf("a peer that is out of reach for %v is given up", d)
	}
}
