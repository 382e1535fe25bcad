package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/auth"
)

// page follows _sys.stats as the status page does. A key is shown in the handshake;
// "" is none.
func (g *testGateway) page(key string) (*client, int) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 10*time.Second)
	defer cancel()
	opts := &websocket.DialOptions{Subprotocols: []string{"odin.v1.json"}}
	if key != "" {
		opts.Subprotocols = append(opts.Subprotocols, "odin.token."+key)
	}
	c, resp, err := websocket.Dial(ctx, "ws://"+g.AdminAddr()+"/ws", opts)
	if err != nil {
		if resp == nil {
			g.t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	c.SetReadLimit(1 << 20)
	g.t.Cleanup(func() { c.CloseNow() })
	cl := &client{t: g.t, Conn: c}
	cl.hello = cl.want("hello")
	return cl, http.StatusSwitchingProtocols
}

// pageAnswer is what becomes of who wants the live figures: the status of a refused
// handshake, a close code, or "ack".
func (g *testGateway) pageAnswer(key string, inBand bool) string {
	g.t.Helper()
	shown := key
	if inBand {
		shown = ""
	}
	c, status := g.page(shown)
	if c == nil {
		return strconv.Itoa(status)
	}
	defer c.CloseNow()
	if inBand {
		c.say(`{"op":"auth","id":1,"token":%q}`, max(key, "-"))
	}
	c.say(`{"op":"sub","id":2,"ch":["_sys.stats"]}`)
	for {
		f, err := c.next()
		var end websocket.CloseError
		switch {
		case errors.As(err, &end):
			return strconv.Itoa(int(end.Code))
		case err != nil:
			g.t.Fatal(err)
		case f.T == "ack" && f.ID == 2:
			return "ack"
		}
	}
}

// live is the next message of _sys.stats.
func (c *client) live() (f frame, s liveStats) {
	c.t.Helper()
	f = c.want("msg")
	if err := json.Unmarshal(f.D, &s); err != nil {
		c.t.Fatalf("%v: %s", err, f.D)
	}
	return f, s
}

// What the page is told is what /stats says, with what only an admin is told; numbered
// by the feed's own count, under an epoch that another process does not have.
func TestLiveStats(t *testing.T) {
	t.Parallel()
	sum, err := capacity.Compute(capacity.Input{Limit: capacity.Limit{Bytes: 512 << 20, Source: "--memory-limit"}, Profile: capacity.EventLoop, Backlog: capacity.DefaultBacklog})
	if err != nil {
		t.Fatal(err)
	}
	report, err := sum.Report()
	if err != nil {
		t.Fatal(err)
	}
	g := newTestGateway(t, func(c *Config) {
		c.Version, c.MaxConnections = "v9", 3
		c.Capacity = func() *capacity.Report { return &report }
		c.Memory = func() capacity.Sample {
			of := capacity.Limit{Bytes: 512 << 20, Source: "cgroup v2 /sys/fs/cgroup/memory.max"}
			return capacity.Sample{Used: 300 << 20, Of: of, Limit: of}
		}
	})
	var held []*client
	for range 3 {
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":["hot.a","hot.b"]}`)
		c.want("ack")
		held = append(held, c)
	}
	if _, status := g.tryAs(""); status != http.StatusServiceUnavailable {
		t.Fatalf("the gate is not full: %d", status)
	}
	c, _ := g.page("") // its place is the admin port's
	c.say(`{"op":"sub","id":1,"ch":["_sys.stats","trade.a","_sys.other","trade.a","no..name"],"snap":true}`)
	ack := c.want("ack")
	at := ack.acks()[statsChannel]
	if at.Epoch == "" || at.Seq != 1 || ack.Rej["trade.a"] != "forbidden" || ack.Rej["_sys.other"] != "bad_channel" || ack.Rej["no..name"] != "bad_channel" {
		t.Errorf("%+v", ack)
	}
	f, s := c.live()
	if f.Seq != 1 || f.Prev != 0 || time.Since(time.UnixMilli(f.TS)).Abs() > time.Minute {
		t.Errorf("%+v", f)
	}
	if s.CurrentConnections != 3 || s.MaxConnections != 3 || s.Version != "v9" || s.Node != g.node || s.Feed.Connections != 1 || s.NotReady != "" {
		t.Errorf("%+v", s)
	}
	if s.Capacity == nil || s.Capacity.Max != 54613 || len(s.Capacity.Terms) != len(report.Terms) {
		t.Errorf("%+v", s.Capacity)
	}
	total := int64(0)
	for _, term := range s.Memory.Terms {
		total += term.Bytes
	}
	if s.Memory.Account != "cgroup" || s.MemoryUsedBytes != 300<<20 || total != s.MemoryUsedBytes {
		t.Errorf("the terms come to %d of %d: %+v", total, s.MemoryUsedBytes, s.Memory)
	}
	if r := s.Recent.Refusals; len(r) != 1 || r[0].What != "503" || r[0].Why != "at_capacity" || r[0].From != "127.0.0.1" || r[0].N != 1 {
		t.Errorf("%+v", r)
	}
	// Between two looks: the channels, the busiest first, and who follows them.
	for i := range 30 {
		g.publish("hot.a", `1`)
		if i < 10 {
			g.publish("hot.b", `1`)
		}
	}
	for prev := f.Seq; ; prev = f.Seq {
		if f, s = c.live(); f.Prev != prev || f.Seq != prev+1 {
			t.Fatalf("%d, %d after %d", f.Prev, f.Seq, prev)
		}
		if len(s.Top) > 0 || f.Seq > 20 {
			break
		}
	}
	if len(s.Top) == 0 || s.Top[0].Channel != "hot.a" || s.Top[0].Members != 3 || s.Top[0].In <= 0 {
		t.Errorf("%+v", s.Top)
	}
	// The same keys and, but for what moves, the same values as /stats.
	resp, err := http.Get("http://" + g.Addr() + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var plain, live map[string]json.RawMessage
	if err := errors.Join(json.NewDecoder(resp.Body).Decode(&plain), json.Unmarshal(f.D, &live)); err != nil {
		t.Fatal(err)
	}
	for key, value := range plain {
		if live[key] == nil {
			t.Errorf("%s is not told", key)
		}
		switch key {
		case "maxConnections", "capacity", "rejected", "node", "subscriptions", "messagesIn", "closes", "gaps", "settings":
			if string(live[key]) != string(value) {
				t.Errorf("%s: %s, and /stats says %s", key, live[key], value)
			}
		}
	}
	for _, secret := range []string{"recent", "topChannels"} {
		if plain[secret] != nil {
			t.Errorf("the public port tells %s", secret)
		}
	}
	other := newTestGateway(t, nil)
	o, _ := other.page("")
	o.say(`{"op":"sub","id":1,"ch":["_sys.stats"],"since":{"_sys.stats":{"epoch":%q,"seq":%d}}}`, at.Epoch, f.Seq)
	next := o.want("ack").acks()[statsChannel]
	if next.Epoch == at.Epoch || next.Recovered == nil || *next.Recovered {
		t.Errorf("another process goes on with the epoch: %+v", next)
	}
	if gap := o.want("gap"); gap.Why != "epoch" || gap.Epoch != next.Epoch {
		t.Errorf("%+v", gap)
	}
	for _, c := range held {
		c.CloseNow()
	}
}

// Nothing is sampled while nobody follows.
func TestNobodyLooksNothingIsSampled(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	c, _ := g.page("")
	c.say(`{"op":"ping","id":1}`)
	c.want("pong")
	if n := g.Stats().Feed.Samples; n != 0 {
		t.Errorf("%d samples for nobody", n)
	}
	c.say(`{"op":"sub","id":2,"ch":["_sys.stats"]}`)
	c.want("ack")
	c.want("msg")
	c.say(`{"op":"unsub","id":3,"ch":["_sys.stats"]}`)
	c.want("ack")
	g.eventually("the last subscriber's leaving", func() bool { return g.Stats().Feed.Subscribers == 0 })
}

// A page is told when to come back, and one that is stuck holds nothing up.
func TestDrainTellsPages(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	c, _ := g.page("")
	c.say(`{"op":"sub","id":1,"ch":["_sys.stats"]}`)
	c.want("ack")
	stuck, err := net.Dial("tcp", g.AdminAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	fmt.Fprintf(stuck, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", g.AdminAddr())
	if resp, err := http.ReadResponse(bufio.NewReader(stuck), nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended <- g.Shutdown(ctx)
	}()
	if bye := c.want("bye"); bye.RetryMs < 500 {
		t.Errorf("%+v", bye)
	}
	c.wantClose(1012)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A key that is taken out of the file ends the pages it let in; a page of another
// site gets nothing; one without a key is let in no further than to show one.
func TestPagesAndKeys(t *testing.T) {
	t.Parallel()
	key, line := made(t, "ops", auth.RoleAdmin)
	_, other := made(t, "feed", auth.RolePublish, "a")
	file := writeFile(t, t.TempDir()+"/keys", line+"\n"+other+"\n")
	keys, err := auth.NewAPIKeys(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	g := newTestGateway(t, func(c *Config) { c.APIKeys = keys })
	header := http.Header{"Origin": {"http://evil.example"}, "X-Api-Key": {key}}
	_, resp, err := websocket.Dial(t.Context(), "ws://"+g.AdminAddr()+"/ws", &websocket.DialOptions{HTTPHeader: header})
	if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("another site's page: %v", err)
	}
	c, _ := g.page("")
	c.say(`{"op":"auth","id":1,"token":%q}`, key)
	c.want("ack")
	c.say(`{"op":"sub","id":2,"ch":["_sys.stats"]}`)
	c.want("ack")
	c.want("msg")
	writeFile(t, file, other+"\n")
	for {
		if _, err := c.next(); err != nil {
			var end websocket.CloseError
			if !errors.As(err, &end) || end.Code != closeToken {
				t.Error(err)
			}
			break
		}
	}
}

// The page is there for who has no key: it asks for one. What it consists of may not
// be framed, and is not asked for twice.
func TestStatusPage(t *testing.T) {
	t.Parallel()
	_, line := made(t, "ops", auth.RoleAdmin)
	keys := keysOf(t, line)
	g := newTestGateway(t, func(c *Config) { c.APIKeys = keys })
	get := func(path, etag string) *http.Response {
		t.Helper()
		req, _ := http.NewRequest("GET", "http://"+g.AdminAddr()+path, nil)
		if etag != "" {
			req.Header.Set("If-None-Match", etag)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	resp := get("/", "")
	h := resp.Header
	if resp.StatusCode != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/html") || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %v", resp.StatusCode, h)
	}
	if again := get("/", h.Get("ETag")); again.StatusCode != http.StatusNotModified {
		t.Errorf("%d for what is known", again.StatusCode)
	}
	for _, path := range []string{"/index.html", "/assets/", "/assets/none.js", "/../go.mod"} {
		if resp := get(path, ""); resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}
