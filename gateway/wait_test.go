package gateway

import (
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestAdmissionWait(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.MaxConnections, c.MaxHandshakes, c.AdmissionWait = 2, 4, time.Second })
	first, second := g.dial(), g.dial()
	type outcome struct {
		c      *websocket.Conn
		status int
		after  time.Duration
	}
	results := make(chan outcome, 10)
	try := func() {
		begin := time.Now()
		c, resp, err := websocket.Dial(t.Context(), "ws://"+g.Addr()+"/ws", nil)
		status := 0
		if resp != nil {
			status = resp.StatusCode
		}
		if err != nil {
			c = nil
		}
		results <- outcome{c, status, time.Since(begin)}
	}
	waiting := func(n int64) {
		t.Helper()
		g.eventually("callers in the waiting room", func() bool { return int64(g.room.Counts().Waiting) == n })
	}

	// One comes while the house is full, and is let in when somebody leaves.
	go try()
	waiting(1)
	first.CloseNow()
	if r := <-results; r.c == nil || r.status != 101 {
		t.Fatalf("%+v", r)
	} else {
		defer r.c.CloseNow()
		c := &client{t: t, Conn: r.c}
		c.want("hello")
		c.say(`{"op":"ping","id":1}`)
		c.want("pong")
	}

	// Four wait, the room is full: the fifth is refused at once, one of the four
	// is let in, one goes by itself, two are refused in the end.
	leaver := g.raw(t)
	leaver.send(g.head(), 0)
	waiting(1)
	for range 3 {
		go try()
	}
	waiting(4)
	go try()
	if r := <-results; r.status != 503 || r.after > 500*time.Millisecond {
		t.Fatalf("the one too many: %+v", r)
	}
	leaver.conn.Close()
	waiting(3)
	second.CloseNow()
	if r := <-results; r.c == nil {
		t.Fatalf("%+v", r)
	} else {
		defer r.c.CloseNow()
	}
	for range 2 {
		if r := <-results; r.status != 503 || r.after < 900*time.Millisecond {
			t.Fatalf("%+v", r)
		}
	}
	if g.gate.InUse() != 2 {
		t.Fatalf("%d at the gate", g.gate.InUse())
	}
}

func TestRejectInside(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.MaxConnections, c.RejectWS = 1, true })
	g.dial()
	c, _, err := websocket.Dial(t.Context(), "ws://"+g.Addr()+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != 1013 {
		t.Fatal(err)
	}
	if n := g.Stats().Rejected["503"]; n != 1 || g.gate.InUse() != 1 {
		t.Errorf("%d refusals, %d at the gate", n, g.gate.InUse())
	}
}
