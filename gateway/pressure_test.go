package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/broker"
)

// At 92 % of the limit nobody is admitted, those who are in stay; a limit that
// shrinks lowers the gate's maximum, one that holds nothing closes it.
func TestMemoryPressure(t *testing.T) {
	var used, limit atomic.Int64
	used.Store(50)
	limit.Store(100)
	last := int64(100)
	g := newTestGateway(t, func(c *Config) {
		c.MaxConnections = 1000
		c.Memory = func() capacity.Sample {
			l := capacity.Limit{Bytes: limit.Load(), Source: "test"}
			s := capacity.Sample{Used: used.Load(), Of: l, Limit: l, Changed: l.Bytes != last}
			last = l.Bytes
			return s
		}
		c.Recompute = func(l capacity.Limit) (int, int64, error) {
			if l.Bytes < 60 {
				return 0, 0, errors.New("nothing fits")
			}
			return int(l.Bytes) * 10, l.Bytes << 20, nil
		}
	})
	status := func() int {
		c, resp, err := websocket.Dial(t.Context(), "ws://"+g.Addr()+"/ws", nil)
		if err == nil {
			c.CloseNow()
		}
		if resp == nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	inside := g.dial()
	wait := func(what string, want int) {
		t.Helper()
		g.eventually(what, func() bool { return status() == want })
	}
	wait("admission at half", 101)
	used.Store(93)
	wait("refusal at 93 %", 503)
	used.Store(90)
	if status() != 503 {
		t.Error("admitted between the thresholds")
	}
	used.Store(80)
	wait("admission at 80 %", 101)
	limit.Store(90)
	g.eventually("the new maximum", func() bool { return g.gate.Max() == 900 })
	used.Store(10)
	limit.Store(50)
	wait("refusal when nothing fits", 503)
	resp, err := http.Get("http://" + g.Addr() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 503 || !strings.Contains(string(body), `"reason":"memory_limit"`) || !strings.Contains(string(body), `"detail":"nothing fits"`) {
		t.Errorf("readyz: %d %s", resp.StatusCode, body)
	}
	limit.Store(100)
	wait("admission under the old limit", 101)
	inside.say(`{"op":"ping","id":1}`)
	inside.want("pong")
}

// Before anyone is refused a place, publishers wait, and are told when to come back if
// that takes long, before their bodies are read. Who is subscribed, and who comes, notices nothing.
func TestPublishersAreHeld(t *testing.T) {
	var used atomic.Int64
	used.Store(50)
	g := newTestGateway(t, func(c *Config) {
		c.Memory = func() capacity.Sample {
			l := capacity.Limit{Bytes: 100, Source: "test"}
			return capacity.Sample{Used: used.Load(), Of: l, Limit: l}
		}
	})
	const one = `{"ch":"c","data":1}`
	inside := g.dial()
	inside.say(`{"op":"sub","id":1,"ch":["c"]}`)
	inside.want("ack")
	if status, answer := g.post(t, "/v1/publish", one, nil); status != 200 {
		t.Fatal(status, answer)
	}
	inside.want("msg")
	used.Store(86)
	g.eventually("the hold", func() bool { return g.Stats().Pressure == "hold" && g.broker.State().Throttled })
	for path, body := range map[string]string{"/v1/publish": one, "/v1/publish/batch": "[" + one + "]"} {
		resp, err := http.Post("http://"+g.AdminAddr()+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		wantRefusal(t, resp.StatusCode, 503, string(answer), "busy")
		if resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After %q", path, resp.Header.Get("Retry-After"))
		}
	}
	g.dial().say(`{"op":"ping","id":1}`)
	waiting := make(chan int)
	go func() { status, _ := g.post(t, "/v1/publish", one, nil); waiting <- status }()
	g.eventually("one that waits", func() bool { return g.Stats().PublishWaited == 3 })
	if st := g.Stats(); st.PublishBusy != 2 || st.Published != 1 || st.CurrentConnections != 2 {
		t.Errorf("%d refused, %d stored, %d connected", st.PublishBusy, st.Published, st.CurrentConnections)
	}
	used.Store(79)
	if status := <-waiting; status != 200 {
		t.Errorf("who waited is answered %d at 79 %%", status)
	}
	inside.want("msg")

	// Not more wait than there are places.
	g.heldBack.Add(maxHeldBack)
	used.Store(86)
	g.eventually("the hold", func() bool { return g.Stats().Pressure == "hold" && g.broker.State().Throttled })
	began := time.Now()
	if status, _ := g.post(t, "/v1/publish", one, nil); status != 503 || time.Since(began) > heldFor {
		t.Errorf("one too many: %d after %v", status, time.Since(began))
	}
	g.heldBack.Add(-maxHeldBack)
	used.Store(79)
	g.eventually("the end of it", func() bool { return !g.broker.State().Throttled })

	// What the store itself refuses, as it does for another node's memory, is tried
	// again for a while.
	g.broker.FailNext(2, broker.ErrBusy)
	if status, answer := g.post(t, "/v1/publish", one, nil); status != 200 {
		t.Error(status, answer)
	}
	// But never so that a channel's messages change their order.
	for _, c := range []struct {
		fail   int
		second string
		stored int
	}{
		{1, `{"ch":"d","data":1}`, 2}, // another channel
		{2, one, 2},                   // both, one behind the other
		{1, one, 1},
	} {
		g.broker.FailNext(c.fail, broker.ErrBusy)
		status, answer := g.post(t, "/v1/publish/batch", "["+one+","+c.second+"]", nil)
		var items []struct {
			Seq  uint64
			Code string
		}
		if err := json.Unmarshal([]byte(answer), &items); status != 200 || err != nil || len(items) != 2 || strings.Count(answer, `"seq"`) != c.stored {
			t.Errorf("%d refused of %s: %d %s", c.fail, c.second, status, answer)
		} else if c.second == one && (c.stored == 2 && items[0].Seq > items[1].Seq || c.stored == 1 && items[0].Code != "busy") {
			t.Errorf("%d refused of %s: order %s", c.fail, c.second, answer)
		}
	}
	g.broker.FailNext(1<<20, broker.ErrBusy)
	if status, answer := g.post(t, "/v1/publish", one, nil); status != 503 {
		t.Error(status, answer)
	} else {
		wantRefusal(t, status, 503, answer, "busy")
	}
	g.broker.FailNext(0, nil)
	if st := g.Stats(); st.PublishHeld != 2 || st.PublishFailed != 0 {
		t.Errorf("%d held, %d failed", st.PublishHeld, st.PublishFailed)
	}
}

// Where memory is small a batch may be too large for it ever, and is told so.
func TestSmallPublishBudget(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.PublishBudget = 1 << 20 })
	status, answer := g.post(t, "/v1/publish/batch", "["+strings.Repeat(" ", 1<<20/3)+"]", nil)
	wantRefusal(t, status, 413, answer, "too_large")
	if status, answer := g.post(t, "/v1/publish/batch", "["+strings.Repeat(" ", 300<<10)+"]", nil); status != 200 {
		t.Errorf("300 KiB: %d %s", status, answer)
	}
	if _, err := New(func() Config { c := DefaultConfig(); c.Broker, c.PublishBudget = g.broker, 1000; return c }()); err == nil || !strings.Contains(err.Error(), "PublishBudget") {
		t.Errorf("1000 bytes: %v", err)
	}
}
