package gateway

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/capacity"
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
