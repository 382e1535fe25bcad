package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/channel"
)

// smallLogs keeps so little in memory that the stream has to be asked.
func smallLogs(c *Config) {
	c.Replay, c.SendQueue = 1, 1
	c.LogBudget = 1 << 20
	c.grace = 2 * tick
}

// pad makes payloads that push others out of a log.
var pad = `"` + strings.Repeat("x", 2000) + `"`

// fill publishes n messages of which the log forgets the first, and returns
// their sequences.
func (g *testGateway) fill(ch string, n int) (seqs []uint64) {
	g.t.Helper()
	for range n {
		seqs = append(seqs, g.publish(ch, pad))
	}
	time.Sleep(6 * tick) // younger ones are kept
	seqs = append(seqs, g.publish(ch, pad))
	g.eventually("delivery", func() bool { return g.hub.Head() >= seqs[n] })
	if ch := g.hub.Lookup(ch); ch != nil {
		g.eventually("the log to forget the first", func() bool { // it is trimmed after the head has moved
			_, _, complete := ch.After(seqs[0])
			return !complete
		})
	}
	return seqs
}

func (c *client) wantSeqs(seqs []uint64, prev uint64) {
	c.t.Helper()
	for i, seq := range seqs {
		if m := c.want("msg"); m.Seq != seq || m.Prev != prev {
			c.t.Fatalf("%d of %d: got seq %d prev %d, want %d and %d", i, len(seqs), m.Seq, m.Prev, seq, prev)
		}
		prev = seq
	}
}

func TestResumeFromTheStream(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	seqs := g.fill("x", 300)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[3])
	f := c.want("ack")
	if e := f.acks()["x"]; e.Recovered == nil || !*e.Recovered || e.Seq != seqs[len(seqs)-1] {
		t.Fatal(f.raw)
	}
	c.wantSeqs(seqs[4:], seqs[3])
	// And live.
	next := g.publish("x", `1`)
	c.wantSeqs([]uint64{next}, seqs[len(seqs)-1])
	if st := g.Stats(); st.Replays["complete"] != 1 || st.HistoryReads == 0 || st.MessageReplayRequests != 1 {
		t.Errorf("%+v", st.Replays)
	}
}

// Messages that come while the past is being read join without a seam.
func TestResumeWhilePublished(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	seqs := g.fill("x", 50)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				g.publish("x", pad)
			}
		}
	}()
	for range 20 {
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[0])
		c.want("ack")
		last := seqs[0]
		for range 300 {
			m := c.want("msg")
			if m.Prev != last {
				t.Fatalf("seq %d has prev %d, want %d", m.Seq, m.Prev, last)
			}
			last = m.Seq
		}
		c.CloseNow()
	}
	close(stop)
	<-done
}

// What retention has dropped is said, and what it has not is given.
func TestResumeBeyondRetention(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	seqs := g.fill("x", 100)
	g.broker.Evict(seqs[40])
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[3])
	if f := c.want("ack"); *f.acks()["x"].Recovered {
		t.Fatal(f.raw)
	}
	if f := c.want("gap"); f.After != seqs[3] || f.Before != seqs[40] || f.Why != channel.WhyEvicted {
		t.Fatal(f.raw)
	}
	c.wantSeqs(seqs[40:], seqs[3])
	g.eventually("the count", func() bool { return g.Stats().Gaps["evicted"] == 1 })
}

// What no node may deliver is a gap in the past as it was in the present.
func TestResumeAcrossInvalid(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	first := g.publish("x", `1`)
	bad := g.broker.Inject("x", []byte("not JSON"))
	second := g.publish("x", `2`)
	g.fill("x", 20)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), first)
	c.want("ack")
	if f := c.want("gap"); f.After != first || f.Before != bad+1 || f.Why != channel.WhyInvalid {
		t.Fatal(f.raw)
	}
	c.wantSeqs([]uint64{second}, bad)
}

// A wildcard's position holds for channels that this node has never heard of.
func TestWildcardResumeFromTheStream(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	first := g.publish("t.a", `1`)
	g.publish("t.b", `1`)
	g.publish("t.b.c", `1`)
	g.publish("u.a", `1`)
	last := g.publish("t.a", `2`)
	g.eventually("delivery", func() bool { return g.hub.Head() == last })
	epoch := g.hub.Epoch()
	// Another node on the same stream, which has heard none of it.
	h := newTestGatewayOver(t, g.broker.Reader(), smallLogs)
	c := h.dial()
	c.say(`{"op":"sub","id":1,"ch":["t.*"],"since":{"t.*":{"epoch":%q,"seq":%d}}}`, epoch, first)
	f := c.want("ack")
	if e := f.acks()["t.*"]; e.Recovered == nil || !*e.Recovered {
		t.Fatal(f.raw)
	}
	got := map[string]uint64{}
	for range 3 {
		m := c.want("msg")
		got[m.channel()] = m.Seq
	}
	if got["t.a"] != last || got["t.b"] != first+1 || got["t.b.c"] != first+2 {
		t.Fatal(got)
	}
	// The last of each first.
	s := h.dial()
	s.say(`{"op":"sub","id":1,"ch":["u.*"],"snap":true}`)
	s.want("ack")
	if m := s.want("msg"); m.channel() != "u.a" {
		t.Fatal(m.raw)
	}
}

// A client that comes from a node that is ahead waits for this one.
func TestResumeAheadOfThisNode(t *testing.T) {
	g := newTestGateway(t, nil)
	seq := g.publish("x", `1`)
	g.eventually("delivery", func() bool { return g.hub.Head() == seq })
	g.broker.Hold(true)
	ahead := g.publish("x", `2`)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), ahead)
	time.Sleep(50 * time.Millisecond)
	g.broker.Hold(false)
	f := c.want("ack")
	if e := f.acks()["x"]; e.Recovered == nil || !*e.Recovered || e.Seq != ahead {
		t.Fatal(f.raw)
	}
	next := g.publish("x", `3`)
	c.wantSeqs([]uint64{next}, ahead)
}

// The stream may be ahead of this node: what it has not been given yet comes from
// its log, once.
func TestPastDoesNotOvertakeTheNode(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	seqs := g.fill("x", 100)
	g.broker.Hold(true)
	for range 5 {
		seqs = append(seqs, g.publish("x", pad))
	}
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[80])
	c.want("ack")
	c.wantSeqs(seqs[81:101], seqs[80])
	g.broker.Hold(false)
	c.wantSeqs(seqs[101:], seqs[100])
}

// The past can't be read while the broker is away: it comes when the broker does.
func TestResumeWhileTheBrokerIsAway(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	seqs := g.fill("x", 100)
	g.broker.SetDown(errors.New("gone"))
	g.eventually("the loss", func() bool { return g.hub.Stale() })
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[0])
	if f := c.want("ack"); *f.acks()["x"].Recovered {
		t.Fatal(f.raw) // nobody knows
	}
	c.want("stale")
	g.broker.SetUp()
	for last := seqs[0]; last != seqs[len(seqs)-1]; {
		f, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.T == "msg" {
			if f.Prev != last {
				t.Fatal(f.raw)
			}
			last = f.Seq
		} else if f.T != "live" {
			t.Fatal(f.raw)
		}
	}
}

func TestReplayCommand(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	seqs := g.fill("x", 200)
	epoch := g.hub.Epoch()
	c := g.dial()
	ask := func(id int, from, to uint64) {
		c.say(`{"op":"replay","id":%d,"ch":"x","epoch":%q,"from":%d,"to":%d}`, id, epoch, from, to)
	}
	ended := func(id uint64) {
		t.Helper()
		if f := c.want("ack"); f.ID != id || len(f.acks()) != 0 {
			t.Fatal(f.raw)
		}
	}
	ask(1, seqs[5], seqs[150])
	c.say(`{"op":"ping","id":2}`) // commands take effect in order
	c.wantSeqs(seqs[5:151], seqs[4])
	ended(1)
	c.want("pong")
	// From the log, and nothing at all.
	ask(3, seqs[200], seqs[200])
	c.wantSeqs(seqs[200:], seqs[199])
	ended(3)
	ask(4, 0, 0)
	ended(4)
	// What is gone.
	g.broker.Evict(seqs[10])
	g.history.mu.Lock()
	g.history.epoch = "none" // the cache is of another life
	g.history.mu.Unlock()
	ask(5, seqs[2], seqs[12])
	if f := c.want("gap"); f.After != seqs[2]-1 || f.Before != seqs[10] || f.Why != channel.WhyEvicted {
		t.Fatal(f.raw)
	}
	c.wantSeqs(seqs[10:13], seqs[2]-1)
	ended(5)
	ask(6, seqs[2], seqs[6])
	if f := c.want("gap"); f.After != seqs[2]-1 || f.Before != seqs[6]+1 {
		t.Fatal(f.raw)
	}
	ended(6)
	// What there can't be.
	ask(7, 1, 1<<40)
	if f := c.want("err"); string(f.Code) != `"bad_position"` {
		t.Fatal(f.raw)
	}
	epoch = "old"
	ask(8, 3, 5)
	if f := c.want("gap"); f.Why != channel.WhyEpoch || f.After != 2 || f.Before != 6 {
		t.Fatal(f.raw)
	}
	ended(8)
	c.say(`{"op":"replay","id":9,"ch":"_sys.x","epoch":"e1","from":1,"to":1}`)
	if f := c.want("err"); string(f.Code) != `"bad_channel"` {
		t.Fatal(f.raw)
	}
	// Each counts once, as how it went.
	if st := g.Stats(); st.Replays["complete"] != 3 || st.Replays["gap"] != 3 || st.Replays["refused"] != 2 || st.MessageReplayRequests != 8 {
		t.Errorf("%v, %d in all", st.Replays, st.MessageReplayRequests)
	}
}

// A thousand channels with positions in one frame: one ack, all resumed.
func TestThousandPositionsInOneFrame(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.MaxMessage = 256 << 10 })
	const n = 1000
	first := make([]uint64, n)
	for i := range n {
		first[i] = g.publish(fmt.Sprintf("t.%d", i), `1`)
	}
	last := uint64(0)
	for i := range n {
		last = g.publish(fmt.Sprintf("t.%d", i), `2`)
	}
	g.eventually("delivery", func() bool { return g.hub.Head() == last })
	cmd := struct {
		Op    string         `json:"op"`
		ID    int            `json:"id"`
		Ch    []string       `json:"ch"`
		Since map[string]any `json:"since"`
	}{Op: "sub", ID: 1, Since: map[string]any{}}
	for i := range n {
		name := fmt.Sprintf("t.%d", i)
		cmd.Ch = append(cmd.Ch, name)
		cmd.Since[name] = map[string]any{"epoch": g.hub.Epoch(), "seq": first[i]}
	}
	text, _ := json.Marshal(cmd)
	c := g.dial()
	c.SetReadLimit(1 << 20)
	c.say("%s", text)
	f := c.want("ack")
	if len(f.acks()) != n || len(f.Rej) != 0 {
		t.Fatalf("%d acked, %d rejected", len(f.acks()), len(f.Rej))
	}
	for range n {
		m := c.want("msg")
		var i int
		fmt.Sscanf(m.channel(), "t.%d", &i)
		if m.Prev != first[i] {
			t.Fatal(m.raw)
		}
	}
}

func TestHistoryEndpoint(t *testing.T) {
	g := newTestGateway(t, smallLogs)
	var seqs []uint64
	for i := range 20 {
		seqs = append(seqs, g.publish("x", fmt.Sprint(i)))
	}
	get := func(query string, status int) (a struct {
		historyAnswer
		Code string
	}) {
		t.Helper()
		resp, err := http.Get("http://" + g.AdminAddr() + "/v1/channels/" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != status || json.Unmarshal(b, &a) != nil {
			t.Fatalf("%s: %d %s", query, resp.StatusCode, b)
		}
		return a
	}
	a := get("x/history", 200)
	if len(a.Messages) != 20 || a.More || a.Messages[0].Prev != 0 || a.Messages[19].Prev != seqs[18] || string(a.Messages[3].D) != "3" {
		t.Fatalf("%+v", a)
	}
	a = get(fmt.Sprintf("x/history?epoch=%s&from=%d&limit=5", g.hub.Epoch(), seqs[3]), 200)
	if len(a.Messages) != 5 || !a.More || a.Next != seqs[7]+1 || a.Messages[0].Prev != seqs[2] {
		t.Fatalf("%+v", a)
	}
	if a = get("none/history", 200); len(a.Messages) != 0 || a.More || len(a.Gaps) != 0 {
		t.Fatalf("%+v", a)
	}
	g.broker.Evict(seqs[5])
	a = get(fmt.Sprintf("x/history?from=%d", seqs[2]), 200)
	if len(a.Gaps) != 1 || a.Gaps[0] != (historyGap{seqs[2] - 1, seqs[5], channel.WhyEvicted}) || len(a.Messages) != 15 {
		t.Fatalf("%+v", a)
	}
	for query, status := range map[string]int{
		"x/history?epoch=old": 409, "x/history?from=-1": 400, "x/history?from=9&to=8": 400,
		"x/history?limit=0": 400, "x/history?from=99999": 400, "a..b/history": 400,
	} {
		get(query, status)
	}
	g.broker.SetDown(errors.New("gone"))
	if a := get("x/history", 503); a.Code != "broker_down" {
		t.Fatalf("%+v", a)
	}
}
