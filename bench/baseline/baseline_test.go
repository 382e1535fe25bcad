package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/odin-ws/odin/internal/swarm"
)

// site is a running baseline.
type site struct {
	t           *testing.T
	s           *server
	ws, publish string
}

func newSite(t *testing.T, change func(*config)) *site {
	t.Helper()
	c := config{maxConnections: 1000, wait: 100 * time.Millisecond, burst: 100, perSec: 10, ping: time.Minute, heartbeat: time.Minute}
	if change != nil {
		change(&c)
	}
	s := newServer(c)
	go s.care(t.Context())
	public, private := httptest.NewServer(s.public()), httptest.NewServer(s.private())
	t.Cleanup(public.Close)
	t.Cleanup(private.Close)
	return &site{t, s, "ws" + strings.TrimPrefix(public.URL, "http") + "/ws", private.URL + "/v1/publish"}
}

func (s *site) post(ch, data string) (seq uint64) {
	s.t.Helper()
	resp, err := http.Post(s.publish, "application/json", strings.NewReader(fmt.Sprintf(`{"ch":%q,"data":%s}`, ch, data)))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var res result
	if err := json.NewDecoder(resp.Body).Decode(&res); err != nil || res.Seq == 0 {
		s.t.Fatalf("%s: %v", resp.Status, err)
	}
	return res.Seq
}

// visitor is one client.
type visitor struct {
	t *testing.T
	*websocket.Conn
}

func (s *site) visit() visitor {
	s.t.Helper()
	c, _, err := (&websocket.Dialer{Subprotocols: []string{protocol}}).Dial(s.ws, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	v := visitor{s.t, c}
	v.want(`{"t":"hello"`)
	return v
}

func (v visitor) say(text string) {
	v.t.Helper()
	if err := v.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		v.t.Fatal(err)
	}
}

// want reads a frame that has all these parts.
func (v visitor) want(parts ...string) {
	v.t.Helper()
	_ = v.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, b, err := v.ReadMessage()
	if err != nil || !json.Valid(b) {
		v.t.Fatalf("%s %v; want %q", b, err, parts)
	}
	for _, p := range parts {
		if !bytes.Contains(b, []byte(p)) {
			v.t.Fatalf("%s; want %q in it", b, p)
		}
	}
}

// wantClose reads on until the server has closed.
func (v visitor) wantClose(code int) {
	v.t.Helper()
	_ = v.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, _, err := v.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, code) {
				v.t.Errorf("%v, want %d", err, code)
			}
			return
		}
	}
}

func TestCommands(t *testing.T) {
	s := newSite(t, nil)
	v := s.visit()
	v.say(`{"op":"ping","id":5}`)
	v.want(`{"t":"pong","id":5}`)
	v.say(`{"op":"sub","id":1,"ch":["trade.A","quote.*","no good"]}`)
	v.want(`"t":"ack","id":1`, `"trade.A":{"epoch":"`+s.s.epoch+`","seq":0}`, `"quote.*":`, `"rej":{"no good":"bad_channel"}`)
	first, second := s.post("trade.A", `{"p":1}`), s.post("trade.A", `{"p":2}`)
	s.post("other", `0`)
	s.post("quote.new", `3`)
	v.want(fmt.Sprintf(`{"t":"msg","ch":"trade.A","seq":%d,"prev":0,"ts":`, first), `"d":{"p":1}}`)
	v.want(fmt.Sprintf(`"seq":%d,"prev":%d,`, second, first))
	v.want(`"ch":"quote.new"`)
	v.say(`{"op":"list","id":2}`)
	v.want(`"id":2`, fmt.Sprintf(`"trade.A":{"epoch":"%s","seq":%d}`, s.s.epoch, second), `"quote.*":`)
	v.say(`{"op":"unsub","id":3,"ch":["trade.A"]}`)
	v.want(`"t":"ack","id":3`)
	s.post("trade.A", `4`)
	s.post("quote.new", `5`)
	v.want(`"ch":"quote.new"`, `"d":5`)
	v.say(fmt.Sprintf(`{"op":"replay","id":4,"ch":"trade.A","from":1,"to":%d}`, second))
	v.want(`"d":{"p":1}`)
	v.want(`"d":{"p":2}`)
	v.want(`"t":"ack","id":4`)
	v.say(`{"op":"sub","ch":["trade.A"],"mode":"latest"}`)
	v.want(`"err"`, `bad_request`)
	v.say(`what`)
	v.want(`"err"`)
	v.say(`{"op":"dance"}`)
	v.want(`"err"`)
	v.wantClose(1008)
}

func TestBatch(t *testing.T) {
	s := newSite(t, nil)
	for _, c := range []struct{ kind, body, want string }{
		{"application/json", `[{"ch":"a","data":1},{"ch":"no good","data":2},{"ch":"a","data":3}]`, `[{"epoch":"E","seq":1},{"code":"bad_channel"},{"epoch":"E","seq":2}]`},
		{"application/x-ndjson", "{\"ch\":\"a\",\"data\":1}\n{\"ch\":\"b\",\"data\":{}}\n", `{"epoch":"E","seq":3}` + "\n" + `{"epoch":"E","seq":4}`},
	} {
		resp, err := http.Post(s.publish+"/batch", c.kind, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := strings.ReplaceAll(strings.TrimSpace(string(b)), s.s.epoch, "E"); got != c.want || resp.Header.Get("Content-Type") != c.kind {
			t.Errorf("%s\n%s\nwant %s", c.kind, got, c.want)
		}
	}
}

func TestSince(t *testing.T) {
	s := newSite(t, nil)
	var seqs []uint64
	for i := range replayKeep + 10 {
		seqs = append(seqs, s.post("a", fmt.Sprint(i)))
	}
	sub := func(epoch string, seq uint64) visitor {
		v := s.visit()
		v.say(fmt.Sprintf(`{"op":"sub","id":1,"ch":["a"],"since":{"a":{"epoch":%q,"seq":%d}}}`, epoch, seq))
		return v
	}
	v := sub(s.s.epoch, seqs[len(seqs)-3])
	v.want(`"recovered":true`)
	v.want(`"d":108}`)
	v.want(`"d":109}`)
	v = sub(s.s.epoch, seqs[0])
	v.want(`"recovered":false`)
	v.want(fmt.Sprintf(`{"t":"gap","ch":"a","after":%d,"before":%d,"why":"evicted"}`, seqs[0], seqs[10]))
	v.want(`"d":10}`)
	v = sub("before", 7)
	v.want(`"recovered":false`)
	v.want(`"gap"`, `"why":"epoch"`)
	v.want(`"d":10}`)
}

func TestRateLimit(t *testing.T) {
	s := newSite(t, func(c *config) { c.burst, c.perSec = 3, 0.1 })
	v := s.visit()
	for range 3 {
		v.say(`{"op":"ping"}`)
		v.want(`pong`)
	}
	v.say(`{"op":"ping"}`)
	v.want(`rate_limited`)
	v.say(`{"op":"ping"}`)
	v.wantClose(4102)
}

func TestHeartbeatAndSilence(t *testing.T) {
	s := newSite(t, func(c *config) { c.heartbeat, c.ping = 500*time.Millisecond, 1200*time.Millisecond })
	s.visit().want(`"hb"`)
	v := s.visit()
	v.SetPingHandler(func(string) error { return nil })
	v.wantClose(4201)
}

func TestSemaphore(t *testing.T) {
	s := newSite(t, func(c *config) { c.maxConnections = 1 })
	v := s.visit()
	_, resp, err := websocket.DefaultDialer.Dial(s.ws, nil)
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%v, %v", resp, err)
	}
	v.Close()
	for deadline := time.Now().Add(10 * time.Second); len(s.s.places) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a client that left still has its place")
		}
	}
	s.visit()
}

// Whoever does not read is cut after three strikes, and nobody else notices; a
// loss that a client survives is announced.
func TestSlow(t *testing.T) {
	s := newSite(t, nil)
	v := s.visit()
	v.say(`{"op":"sub","id":1,"ch":["a"]}`)
	v.want(`"ack"`)
	big := []byte(`"` + strings.Repeat("x", 60<<10) + `"`)
	for deadline := time.Now().Add(30 * time.Second); s.s.slow.Load() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("never cut")
		}
		s.s.hub.publish("a", big)
	}
	_ = v.SetReadDeadline(time.Now().Add(10 * time.Second))
	var err error
	for err == nil {
		_, err = io.Copy(io.Discard, v.NetConn())
		if err == nil {
			break // the end of the stream
		}
	}

	c := &client{s: s.s, send: make(chan *message, 1)}
	ch := &channel{name: "a"}
	for seq := range uint64(3) { // the second and third are lost: two strikes
		c.give(&message{ch: ch, seq: seq + 1, prev: seq, frame: []byte("m")})
	}
	<-c.send
	c.give(&message{ch: ch, seq: 4, prev: 3, frame: []byte("m")})
	if m := <-c.send; !bytes.Contains(m.frame, []byte(`"gap","ch":"a","after":1,"before":4,"why":"slow"`)) || c.strikes != 0 {
		t.Errorf("%s, %d strikes", m.frame, c.strikes)
	}
}

// The ledger that judges the gateway judges its baseline: every message once, in
// order, byte for byte, on every connection.
func TestLedger(t *testing.T) {
	s := newSite(t, nil)
	mark := swarm.NewMark()
	sw, err := swarm.Start(swarm.Config{URL: s.ws, Connections: 100, Channels: []string{"stress.0", "other.*"}, Check: true, Mark: mark})
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]uint64{}
	for n := range uint64(300) {
		ch := [...]string{"stress.0", "other.a", "other.b"}[n%3]
		data := swarm.AppendPayload(nil, mark, n, 120)
		swarm.Stamp(data, mark, time.Now())
		last[ch] = s.post(ch, string(data))
		sw.Published([]swarm.Entry{{Epoch: s.s.epoch, Channel: ch, Seq: last[ch], Hash: swarm.Hash(data)}})
	}
	for deadline := time.Now().Add(20 * time.Second); sw.Counts().Roles[swarm.Normal].Connected < 100; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c := sw.Counts()
			t.Fatalf("%+v", c.Total())
		}
	}
	rep, err := sw.Finish(swarm.End{Last: last, Settle: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if l := rep.Ledger; l.Faults.Sum() > 0 || l.Checked < 1000 {
		t.Errorf("%+v", l)
	}
	if total := rep.Total(); total.Open != 100 {
		t.Errorf("%+v", total)
	}
}
