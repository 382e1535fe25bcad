package odin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// fakeServer is a gateway whose every frame the test decides. Each connection
// is handed to the test by accept.
type fakeServer struct {
	t     *testing.T
	http  *httptest.Server
	conns chan *fakeConn

	mu      sync.Mutex
	refuse  func(http.ResponseWriter, *http.Request) bool // guarded by mu
	dials   int                                           // guarded by mu
	headers []http.Header                                 // guarded by mu
}

// fakeConn is one connection. A nil close frame is a reset.
type fakeConn struct {
	t    *testing.T
	ws   *websocket.Conn
	in   chan op // what the client sends
	over chan struct{}
	code websocket.StatusCode // the client's close code, readable after over
}

// op is a client's command.
type op struct {
	Op    string    `json:"op"`
	ID    uint64    `json:"id"`
	Ch    any       `json:"ch"`
	Since Positions `json:"since"`
	Mode  string    `json:"mode"`
	MS    int       `json:"ms"`
	Slow  string    `json:"slow"`
	Snap  bool      `json:"snap"`
	Token string    `json:"token"`
	Epoch string    `json:"epoch"`
	From  uint64    `json:"from"`
	To    uint64    `json:"to"`
	size  int
}

func (o op) names() (out []string) {
	list, _ := o.Ch.([]any)
	for _, n := range list {
		out = append(out, n.(string))
	}
	return out
}

const fakeHello = `{"t":"hello","conn":"c","node":"n","v":1,"ping_ms":20000,"replay":100,"max_ch":1024,"rate":{"burst":1000,"per_sec":1000}}`

func newFake(t *testing.T) *fakeServer {
	s := &fakeServer{t: t, conns: make(chan *fakeConn, 16)}
	ended := make(chan struct{})
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.dials++
		s.headers = append(s.headers, r.Header)
		refuse := s.refuse
		s.mu.Unlock()
		if refuse != nil && refuse(w, r) {
			return
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"odin.v1.json"}})
		if err != nil {
			return
		}
		ws.SetReadLimit(1 << 20)
		c := &fakeConn{t: t, ws: ws, in: make(chan op, 1024), over: make(chan struct{})}
		select {
		case s.conns <- c:
		case <-ended:
			return
		}
		for {
			_, b, err := ws.Read(context.Background())
			if err != nil {
				c.code = websocket.CloseStatus(err)
				close(c.over)
				return
			}
			o := op{size: len(b)}
			if err := json.Unmarshal(b, &o); err != nil {
				t.Errorf("the client sent %s", b)
			}
			c.in <- o
		}
	}))
	t.Cleanup(func() {
		close(ended)
		for {
			select {
			case c := <-s.conns:
				_ = c.ws.CloseNow()
				continue
			default:
			}
			break
		}
		s.http.Close()
	})
	return s
}

func (s *fakeServer) url() string { return "ws" + strings.TrimPrefix(s.http.URL, "http") + "/ws" }

func (s *fakeServer) refuseWith(f func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

func (s *fakeServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

const patience = 20 * time.Second

// accept waits for the next connection and greets it.
func (s *fakeServer) accept() *fakeConn {
	s.t.Helper()
	c := s.acceptSilent()
	c.send(fakeHello)
	return c
}

func (s *fakeServer) acceptSilent() *fakeConn {
	s.t.Helper()
	select {
	case c := <-s.conns:
		s.t.Cleanup(func() { _ = c.ws.CloseNow() })
		return c
	case <-time.After(patience):
		s.t.Fatal("no connection came")
		return nil
	}
}

func (c *fakeConn) send(frame string, args ...any) {
	c.t.Helper()
	if len(args) > 0 {
		frame = fmt.Sprintf(frame, args...)
	}
	_ = c.ws.Write(context.Background(), websocket.MessageText, []byte(frame))
}

func (c *fakeConn) msg(ch string, seq, prev uint64) {
	c.t.Helper()
	c.send(`{"t":"msg","ch":%q,"seq":%d,"prev":%d,"ts":1767000000123,"d":{"n":%d}}`, ch, seq, prev, seq)
}

// expect waits for the next command, which must be this op.
func (c *fakeConn) expect(name string) op {
	c.t.Helper()
	select {
	case o := <-c.in:
		if o.Op != name {
			c.t.Fatalf("the client sent %+v, want %s", o, name)
		}
		return o
	case <-c.over:
		c.t.Fatalf("the connection ended (%d), want %s", c.code, name)
	case <-time.After(patience):
		c.t.Fatalf("no %s came", name)
	}
	return op{}
}

// ackAt answers a sub: every name stands at this position.
func (c *fakeConn) ackAt(o op, epoch string, seq uint64) {
	c.t.Helper()
	acks := map[string]ackEntry{}
	for _, n := range o.names() {
		acks[n] = ackEntry{epoch, seq}
	}
	b, _ := json.Marshal(map[string]any{"t": "ack", "id": o.ID, "ch": acks})
	c.send(string(b))
}

// closed waits until the client has gone, and returns its close code, -1 without.
func (c *fakeConn) closed() int {
	c.t.Helper()
	select {
	case <-c.over:
		return int(c.code)
	case <-time.After(patience):
		c.t.Fatal("the client keeps the connection")
		return 0
	}
}

// recorder writes down what a client tells its user.
type recorder struct {
	t  *testing.T
	ch chan string
}

func newRecorder(t *testing.T) *recorder { return &recorder{t, make(chan string, 10_000)} }

func (r *recorder) say(format string, args ...any) { r.ch <- fmt.Sprintf(format, args...) }

func (r *recorder) options() Options {
	return Options{
		OnGap: func(g Gap) { r.say("gap %s %d %d %s", g.Channel, g.After, g.Before, g.Why) },
		OnError: func(e *Error) {
			switch {
			case e.Fatal:
				r.say("fatal %s %d", e.Code, e.Status)
			case e.Status != 0:
				r.say("error %s %d", e.Code, e.Status)
			default:
				r.say("error %s", e.Code)
			}
		},
		MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
	}
}

func (r *recorder) follow(names ...string) SubscribeOptions {
	return SubscribeOptions{
		Channels: names,
		OnMessage: func(m Message) {
			if m.Skip > 0 {
				r.say("%s %d skip %d", m.Channel, m.Seq, m.Skip)
				return
			}
			r.say("%s %d", m.Channel, m.Seq)
		},
		OnStale: func(ch string, stale bool) { r.say("stale %s %v", ch, stale) },
	}
}

// want waits for exactly these, in order.
func (r *recorder) want(all ...string) {
	r.t.Helper()
	for i, w := range all {
		select {
		case got := <-r.ch:
			if got != w {
				r.t.Fatalf("the user was told %q, want %q (%d of %q)", got, w, i, all)
			}
		case <-time.After(patience):
			r.t.Fatalf("the user was not told %q", w)
		}
	}
}

func (r *recorder) nothing() {
	r.t.Helper()
	select {
	case got := <-r.ch:
		r.t.Fatalf("the user was told %q", got)
	case <-time.After(30 * time.Millisecond):
	}
}

// testClock is the client's clock, a hundred times as fast where it is waited for.
func testClock() clock {
	k := defaultClock()
	k.handshake = 2 * time.Second
	k.retry = 5 * time.Millisecond
	k.stable = time.Hour
	k.patience = 50 * time.Millisecond
	return k
}

// connected is a client that has been greeted, and its connection.
func connected(t *testing.T, s *fakeServer, opts Options, k clock) (*Client, *fakeConn) {
	t.Helper()
	got := make(chan *fakeConn, 1)
	go func() { got <- s.accept() }()
	c, err := dial(t.Context(), s.url(), opts, k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, c) })
	return c, <-got
}

// ended closes a client and waits for its goroutines.
func ended(t *testing.T, c *Client) {
	t.Helper()
	c.Close()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the client doesn't end")
	}
}

// subscribed makes a subscription while answer plays the server.
func subscribed(t *testing.T, c *Client, opts SubscribeOptions, answer func()) *Subscription {
	t.Helper()
	type result struct {
		s   *Subscription
		err error
	}
	done := make(chan result, 1)
	go func() {
		s, err := c.Subscribe(t.Context(), opts)
		done <- result{s, err}
	}()
	answer()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.s
	case <-time.After(patience):
		t.Fatal("Subscribe doesn't return")
		return nil
	}
}

// following is a client that follows names from an ack at e7:100.
func following(t *testing.T, names ...string) (*fakeServer, *Client, *fakeConn, *recorder) {
	t.Helper()
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	subscribed(t, c, r.follow(names...), func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	return s, c, conn, r
}

// asError is the *Error in err, an empty one without.
func asError(err error) *Error {
	e := new(Error)
	errors.As(err, &e)
	return e
}
