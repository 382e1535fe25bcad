package sysfeed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/odin-ws/odin/bufpool"
	"github.com/odin-ws/odin/gateway/wire"
)

// TestMain fails when a feed that was closed left a goroutine.
func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

const ch = "_sys.stats"

type server struct {
	*Feed
	t    *testing.T
	addr string
	pool *bufpool.Pool
}

func newServer(t *testing.T, change func(*Config)) *server {
	t.Helper()
	s := &server{t: t, pool: bufpool.New(1 << 20)}
	cfg := Config{
		Channel: ch, Every: 5 * time.Millisecond, Most: 100, Sample: func() []byte { return []byte(`{"x":1}`) },
		Node: "n1", Rate: func() (int, int) { return 100, 1000 }, Pool: s.pool, Retry: func() int { return 700 },
		Heartbeat: func() time.Duration { return 0 },
	}
	if change != nil {
		change(&cfg)
	}
	s.Feed = New(cfg)
	srv := httptest.NewServer(s.Feed)
	s.addr = strings.TrimPrefix(srv.URL, "http://")
	t.Cleanup(func() {
		s.Close()
		srv.Close()
		if n := s.Stats(); n.Connections != 0 || n.Subscribers != 0 || s.pool.InUse() != 0 {
			t.Errorf("left: %+v, %d bytes", n, s.pool.InUse())
		}
	})
	return s
}

type client struct {
	*websocket.Conn
	t *testing.T
}

type frame struct {
	T      string
	ID     uint64
	Ch     json.RawMessage
	Rej    map[string]string
	Seq    uint64
	Prev   uint64
	D      json.RawMessage
	After  uint64
	Before uint64
	Why    string
	Epoch  string
	Code   json.RawMessage

	RetryMs int `json:"retry_ms"`
}

type position struct {
	Epoch     string
	Seq       uint64
	Recovered *bool
}

func (f frame) at() (p position) {
	var all map[string]position
	_ = json.Unmarshal(f.Ch, &all)
	return all[ch]
}

func (s *server) dial() *client {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://"+s.addr, &websocket.DialOptions{Subprotocols: []string{wire.Subprotocol}})
	if err != nil {
		s.t.Fatal(err)
	}
	if c.Subprotocol() != wire.Subprotocol {
		s.t.Errorf("subprotocol %q", c.Subprotocol())
	}
	c.SetReadLimit(-1)
	s.t.Cleanup(func() { c.CloseNow() })
	cl := &client{c, s.t}
	cl.want("hello")
	return cl
}

func (c *client) say(format string, args ...any) {
	c.t.Helper()
	if err := c.Write(c.t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) next() (f frame, err error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	return f, err
}

func (c *client) want(t string) frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil || f.T != t {
		c.t.Fatalf("got %+v, %v, want a %s", f, err, t)
	}
	return f
}

// closed is the code the connection ends with, whatever comes before.
func (c *client) closed() int {
	c.t.Helper()
	for {
		if _, err := c.next(); err != nil {
			var end websocket.CloseError
			if !errors.As(err, &end) {
				c.t.Fatalf("%v, want a close code", err)
			}
			return int(end.Code)
		}
	}
}

// raw upgrades a connection that then does as the test likes.
func (s *server) raw() (net.Conn, *bufio.Reader) {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", s.addr)
	r := bufio.NewReader(c)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		s.t.Fatal(resp, err)
	}
	return c, r
}

// masked is a client's frame.
func masked(op byte, payload string) []byte {
	b := []byte{0x80 | op, 0x80 | byte(len(payload)), 0, 0, 0, 0}
	return append(b, payload...)
}

func (s *server) eventually(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("timed out waiting for %s", what)
		}
	}
}

// Every subscriber is given each message once, in one chain; a message is made once,
// and none when nobody follows.
func TestFeed(t *testing.T) {
	var samples atomic.Int64
	var idle atomic.Int64
	s := newServer(t, func(c *Config) {
		c.Sample = func() []byte { return fmt.Appendf(nil, "%d", samples.Add(1)) }
		c.Idle = func() { idle.Add(1) }
	})
	a, b := s.dial(), s.dial()
	if n := samples.Load(); n != 0 {
		t.Errorf("%d samples for nobody", n)
	}
	last := map[*client]uint64{}
	for _, c := range []*client{a, b} {
		c.say(`{"op":"sub","id":7,"ch":[%q],"snap":true}`, ch)
		ack := c.want("ack")
		if ack.ID != 7 || ack.at().Epoch != s.epoch {
			t.Errorf("%+v", ack)
		}
		last[c] = ack.at().Seq - 1 // the snapshot is the newest
	}
	for range 20 {
		for _, c := range []*client{a, b} {
			f := c.want("msg")
			if f.Prev != last[c] || f.Seq != f.Prev+1 || string(f.D) != fmt.Sprint(f.Seq) {
				t.Fatalf("%+v after %d", f, last[c])
			}
			last[c] = f.Seq
		}
	}
	for _, c := range []*client{a, b} {
		c.say(`{"op":"unsub","id":8,"ch":[%q]}`, ch)
	}
	s.eventually("the feed to rest", func() bool { return idle.Load() == 1 })
	if n := uint64(samples.Load()); n != s.Stats().Samples || n > s.seq {
		t.Errorf("%d samples for %d messages", n, s.seq)
	}
}

func TestPositions(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Every = time.Hour }) // messages come when asked for only
	for name, c := range map[string]struct {
		seq       uint64 // the newest
		since     string
		recovered bool
		gap       frame
		msg       bool
		rej       string
	}{
		"the newest":    {5, `{"epoch":"E","seq":5}`, true, frame{}, false, ""},
		"one behind":    {5, `{"epoch":"E","seq":4}`, true, frame{}, true, ""},
		"further":       {5, `{"epoch":"E","seq":2}`, false, frame{Why: "evicted", After: 2, Before: 5}, true, ""},
		"another epoch": {5, `{"epoch":"X","seq":90}`, false, frame{Why: "epoch", After: 90, Before: 5, Epoch: "E"}, true, ""},
		"ahead":         {5, `{"epoch":"E","seq":6}`, false, frame{}, false, "bad_position"},
	} {
		t.Run(name, func(t *testing.T) {
			s.mu.Lock()
			s.seq = c.seq - 1
			s.next()
			s.mu.Unlock()
			cl := s.dial()
			cl.say(`{"op":"sub","id":1,"ch":[%q],"since":{%q:%s}}`, ch, ch, strings.Replace(c.since, "E", s.epoch, 1))
			ack := cl.want("ack")
			if ack.Rej[ch] != c.rej || c.rej == "" && *ack.at().Recovered != c.recovered {
				t.Errorf("%+v", ack)
			}
			if c.gap.Why != "" {
				g := cl.want("gap")
				if g.Why != c.gap.Why || g.After != c.gap.After || g.Before != c.gap.Before || g.Epoch != strings.Replace(c.gap.Epoch, "E", s.epoch, 1) {
					t.Errorf("%+v", g)
				}
			}
			if c.msg {
				if f := cl.want("msg"); f.Seq != c.seq {
					t.Errorf("%+v", f)
				}
			}
			cl.say(`{"op":"ping","id":2}`)
			cl.want("pong") // and nothing else before it
		})
	}
}

func TestCommands(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Every = time.Hour })
	c := s.dial()
	c.say(`{"op":"sub","id":1,"ch":["a.b","x y",%q,"a.b","trade.*","_sys.*"]}`, ch)
	ack := c.want("ack")
	if len(ack.Rej) != 4 || ack.Rej["a.b"] != "forbidden" || ack.Rej["x y"] != "bad_channel" || ack.Rej["trade.*"] != "forbidden" || ack.Rej["_sys.*"] != "bad_channel" {
		t.Errorf("%+v", ack)
	}
	c.say(`{"op":"list","id":2}`)
	if l := c.want("ack"); l.at().Epoch != s.epoch {
		t.Errorf("%+v", l)
	}
	c.say(`{"op":"replay","id":3,"ch":%q,"epoch":%q,"from":1,"to":1}`, ch, s.epoch)
	if g := c.want("gap"); g.After != 0 || g.Before != 2 || g.Why != "evicted" {
		t.Errorf("%+v", g)
	}
	c.want("ack")
	c.say(`{"op":"replay","id":3,"ch":%q,"epoch":%q,"from":1,"to":9}`, ch, s.epoch)
	if e := c.want("err"); string(e.Code) != `"bad_position"` {
		t.Errorf("%s", e.Code)
	}
	c.say(`{"op":"auth","id":4,"token":"x"}`)
	if e := c.want("err"); string(e.Code) != `"bad_request"` {
		t.Errorf("%s", e.Code)
	}
	for range 2 {
		c.say(`{"op":"nonsense"}`)
		c.want("err")
	}
	c.say(`[]`)
	if code := c.closed(); code != 1008 {
		t.Errorf("%d", code)
	}
}

// What is wrong ends a connection with the code that docs/protocol.md has for it.
func TestEndings(t *testing.T) {
	t.Parallel()
	allowed := func(c *Config) { c.Allowed = func(key string) bool { return key == "good" } }
	for name, c := range map[string]struct {
		change func(*Config)
		do     func(c *client)
		want   int
	}{
		"binary":         {nil, func(c *client) { c.Write(c.t.Context(), websocket.MessageBinary, []byte("x")) }, 1003},
		"too long":       {nil, func(c *client) { c.say("%s", bytes.Repeat([]byte(" "), maxMessage+1)) }, 1009},
		"too many":       {func(c *Config) { c.Rate = func() (int, int) { return 2, 1 } }, func(c *client) { flood(c, maxWarnings+4) }, 4102},
		"no key":         {allowed, func(c *client) { c.say(`{"op":"sub","id":1,"ch":[%q]}`, ch) }, 4001},
		"a bad key":      {allowed, func(c *client) { c.say(`{"op":"auth","id":1,"token":"bad"}`) }, 4001},
		"a list, no key": {allowed, func(c *client) { c.say(`{"op":"list","id":1}`) }, 4001},
		"half a message": {func(c *Config) { c.FrameTimeout = 30 * time.Millisecond }, half, 1008},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, c.change)
			cl := s.dial()
			c.do(cl)
			if code := cl.closed(); code != c.want {
				t.Errorf("%d, want %d", code, c.want)
			}
		})
	}
}

func flood(c *client, n int) {
	for range n {
		if c.Write(c.t.Context(), websocket.MessageText, []byte(`{"op":"ping"}`)) != nil {
			return
		}
	}
}

func half(c *client) {
	w, err := c.Writer(c.t.Context(), websocket.MessageText)
	if err != nil {
		c.t.Fatal(err)
	}
	w.Write(bytes.Repeat([]byte(" "), 5000)) // more than the writer buffers: a fragment goes out
}

// The peer's goodbye is answered, behind what was asked for before it.
func TestGoodbye(t *testing.T) {
	s := newServer(t, nil)
	c, r := s.raw()
	c.Write(append(masked(1, `{"op":"ping","id":1}`), masked(8, "\x03\xe8")...))
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.HasSuffix(rest, []byte("{\"t\":\"pong\",\"id\":1}\x88\x02\x03\xe8")) {
		t.Errorf("%q, %v", rest, err)
	}
}

// A key is asked for again with every message.
func TestKeyTakenBack(t *testing.T) {
	var good atomic.Bool
	good.Store(true)
	var refused atomic.Int64
	s := newServer(t, func(c *Config) {
		c.Allowed = func(key string) bool { return key == "k" && good.Load() }
		c.Refused = func(string) { refused.Add(1) }
	})
	c := s.dial()
	c.say(`{"op":"auth","id":1,"token":"k"}`)
	c.want("ack")
	c.say(`{"op":"sub","id":2,"ch":[%q]}`, ch)
	c.want("ack")
	c.want("msg")
	good.Store(false)
	if code := c.closed(); code != closeToken {
		t.Errorf("%d", code)
	}
	if n := refused.Load(); n != 0 {
		t.Errorf("%d counted as a bad key", n)
	}
}

// One that reads nothing is reset when its queue is full, and the others have all of
// their messages meanwhile.
func TestStuckReaderIsCut(t *testing.T) {
	t.Parallel()
	big := fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), 64<<10))
	s := newServer(t, func(c *Config) {
		c.Sample = func() []byte { return big }
		c.Every = 25 * time.Millisecond // one that reads must keep pace on a busy machine
	})
	stuck, _ := s.raw()
	if _, err := stuck.Write(masked(1, `{"op":"sub","ch":["`+ch+`"]}`)); err != nil {
		t.Fatal(err)
	}
	s.eventually("the stuck one to be given something", func() bool { return s.Stats().Subscribers == 1 })
	c := s.dial()
	c.say(`{"op":"sub","id":1,"ch":[%q]}`, ch)
	last := c.want("ack").at().Seq
	for s.Stats().Cut == 0 || s.Stats().Connections != 1 {
		f := c.want("msg")
		if f.Prev != last {
			t.Fatalf("%d after %d", f.Prev, last)
		}
		last = f.Seq
	}
	if n := s.Stats().Cut; n != 1 {
		t.Errorf("%d were cut", n)
	}
}

// A peer that vanished is noticed by its silence; one that answers pings stays.
func TestPing(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(c *Config) { c.Ping = 50 * time.Millisecond })
	conn, r := s.raw()
	pings := 0
	for {
		head, err := r.Peek(2)
		if err != nil {
			t.Fatal(err)
		}
		n := int(head[1]) // short frames, but hello
		if n == 126 {
			long, _ := r.Peek(4)
			n = 2 + int(long[2])<<8 + int(long[3])
		}
		frame := make([]byte, 2+n)
		for i := range frame {
			frame[i], _ = r.ReadByte()
		}
		switch op := frame[0] & 0xf; op {
		case wire.OpPing:
			if pings++; pings <= 3 {
				conn.Write(masked(wire.OpPong, ""))
			}
		case wire.OpClose:
			if code := int(frame[2])<<8 + int(frame[3]); code != closeNoPong || pings != 4 {
				t.Errorf("closed with %d after %d pings", code, pings)
			}
			return
		}
	}
}

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	var every atomic.Int64 // 0: never
	s := newServer(t, func(c *Config) { c.Heartbeat = func() time.Duration { return time.Duration(every.Load()) } })
	c := s.dial()
	every.Store(int64(10 * time.Millisecond))
	c.say(`{"op":"ping","id":1}`)
	c.want("pong") // the frame after which it holds
	for range 3 {
		c.want("hb")
	}
}

// Close tells all who listen, resets those who don't, and refuses who comes later.
func TestClose(t *testing.T) {
	t.Parallel()
	big := fmt.Appendf(nil, "%q", bytes.Repeat([]byte("x"), 64<<10))
	s := newServer(t, func(c *Config) { c.Sample = func() []byte { return big } })
	idle, busy := s.dial(), s.dial()
	busy.say(`{"op":"sub","id":1,"ch":[%q]}`, ch)
	busy.want("ack")
	s.raw() // never says goodbye
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Close()
	}()
	if bye := idle.want("bye"); bye.RetryMs != 700 || string(bye.Code) != "1012" {
		t.Errorf("%+v", bye)
	}
	for _, c := range []*client{idle, busy} {
		if code := c.closed(); code != closeRestart {
			t.Errorf("%d", code)
		}
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits")
	}
	late, resp, err := websocket.Dial(t.Context(), "ws://"+s.addr, nil)
	if err != nil {
		t.Fatal(resp, err)
	}
	if code := (&client{late, t}).closed(); code != closeRestart {
		t.Errorf("%d", code)
	}
	s.Close()
}

// One too many is told so, and has a place once somebody has left.
func TestPlaces(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Most = 2 })
	a, _ := s.dial(), s.dial()
	_, resp, err := websocket.Dial(t.Context(), "ws://"+s.addr, nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("%v, %v", resp, err)
	}
	a.CloseNow()
	s.eventually("the first one to have left", func() bool { return s.taken.Load() == 1 })
	s.dial()
}

// A request that is no handshake is answered as on the public port.
func TestRefusals(t *testing.T) {
	s := newServer(t, nil)
	for name, c := range map[string]struct {
		change func(http.Header)
		want   int
	}{
		"plain":    {func(h http.Header) { h.Del("Upgrade") }, 426},
		"version":  {func(h http.Header) { h.Set("Sec-WebSocket-Version", "12") }, 426},
		"no key":   {func(h http.Header) { h.Del("Sec-WebSocket-Key") }, 400},
		"two keys": {func(h http.Header) { h.Add("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==") }, 400},
	} {
		req, _ := http.NewRequest("GET", "http://"+s.addr+"/ws", nil)
		req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
		c.change(req.Header)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var e struct{ Code, Message string }
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || resp.StatusCode != c.want || e.Code == "" {
			t.Errorf("%s: %d %+v %v", name, resp.StatusCode, e, err)
		}
		resp.Body.Close()
	}
}
