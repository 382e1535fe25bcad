package gateway

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// followLatest reads a conflated subscription's messages until it has had message last
// of the n published, and checks that skips account for all others.
func (c *client) followLatest(seqs []uint64) (frames int) {
	c.t.Helper()
	at := map[uint64]int{}
	for i, seq := range seqs {
		at[seq] = i
	}
	last := -1
	for last != len(seqs)-1 {
		m := c.want("msg")
		i, ok := at[m.Seq]
		if !ok || i <= last {
			c.t.Fatalf("after %d: %s", last, m.raw)
		}
		if skip := i - last - 1; m.Skip != uint64(skip) {
			c.t.Fatalf("%s: %d were passed over", m.raw, skip)
		}
		last = i
		frames++
	}
	return frames
}

func TestLatestEveryInterval(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["q.*"],"mode":"latest","ms":250}`)
	c.want("ack")
	var seqs []uint64
	begin := time.Now()
	for time.Since(begin) < 1200*time.Millisecond {
		seqs = append(seqs, g.publish("q.a", `{"bid":1}`))
		time.Sleep(5 * time.Millisecond)
	}
	frames := c.followLatest(seqs)
	if took := time.Since(begin); frames < 3 || frames > int(took/(250*time.Millisecond))+2 {
		t.Errorf("%d frames in %v of %d published", frames, took, len(seqs))
	}
	g.eventually("the count", func() bool { return g.Stats().SkippedMessages == uint64(len(seqs)-frames) })
}

func TestLatestAsFastAsTheSocket(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"mode":"latest"}`)
	c.want("ack")
	// One at a time: none is passed over, and the bytes are the log's.
	for range 5 {
		seq := g.publish("x", `{"bid":1}`)
		if m := c.want("msg"); m.Seq != seq || m.Skip != 0 {
			t.Fatal(m.raw)
		}
	}
	// Subscribed again in another mode, it goes on from where it stands.
	c.say(`{"op":"sub","id":2,"ch":["x"]}`)
	c.want("ack")
	var seqs []uint64
	for range 300 {
		seqs = append(seqs, g.publish("x", `1`))
	}
	c.wantSeqs(seqs, seqs[0]-1)
}

// A gap is never passed over: what was conflated ends before it.
func TestLatestTellsGaps(t *testing.T) {
	g := newTestGateway(t, nil)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"mode":"latest","ms":400}`)
	c.want("ack")
	first := g.publish("x", `1`)
	if m := c.want("msg"); m.Seq != first {
		t.Fatal(m.raw)
	}
	g.publish("x", `2`)
	third := g.publish("x", `3`)
	bad := g.broker.Inject("x", []byte("not JSON"))
	g.publish("x", `4`)
	last := g.publish("x", `5`)
	if m := c.want("msg"); m.Seq != third || m.Skip != 1 {
		t.Fatal(m.raw)
	}
	if f := c.want("gap"); f.After != third || f.Before != bad+1 {
		t.Fatal(f.raw)
	}
	if m := c.want("msg"); m.Seq != last || m.Skip != 1 {
		t.Fatal(m.raw)
	}
}

// A slow client that allows it is conflated instead of cut, and gets every
// message again once its socket is no longer full.
func TestSlowIsConflated(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.SendQueue = 50 })
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"slow":"latest"}`)
	c.want("ack")
	cut := g.dial() // one that does not allow it
	cut.say(`{"op":"sub","id":1,"ch":["x"]}`)
	cut.want("ack")
	var seqs []uint64
	stalled := false
	for range 20_000 {
		seqs = append(seqs, g.publish("x", pad))
		if st := g.Stats(); st.Slow["conflate"] > 0 && st.Slow["cut"] > 0 {
			stalled = true
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	if !stalled {
		t.Fatalf("%+v", g.Stats().Slow)
	}
	seqs = append(seqs, g.publish("x", pad))
	frames := c.followLatest(seqs)
	if frames == len(seqs) {
		t.Error("nothing was conflated")
	}
	for range calmSweeps + 2 {
		for _, s := range g.shards {
			s.post(func(s *shard) {
				for i := range s.slots.size() {
					if k := s.slots.at(i); k.state == stateOpen && k.flags&flagConflated != 0 {
						s.calmed(connRef{i, k.gen}, k)
					}
				}
			})
		}
	}
	g.eventually("every message again", func() bool { return g.Stats().Slow["restore"] == 1 })
	last := seqs[len(seqs)-1]
	seqs = nil
	for range 100 {
		seqs = append(seqs, g.publish("x", `1`))
	}
	c.wantSeqs(seqs, last)
}

func TestConnz(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.SlowTimeout = time.Minute; c.SendQueue = 100_000 })
	slow := g.dial()
	slow.say(`{"op":"sub","id":1,"ch":["x"]}`)
	slow.want("ack")
	for range 5 {
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":["y"]}`)
		c.want("ack")
	}
	get := func(query string, status int) (a struct {
		Total       int
		Connections []connInfo
	}) {
		t.Helper()
		resp, err := http.Get("http://" + g.AdminAddr() + "/connz" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || resp.StatusCode != status {
			t.Fatal(query, resp.StatusCode, err)
		}
		return a
	}
	for range 2000 {
		g.publish("x", pad)
	}
	g.eventually("one that lags", func() bool {
		a := get("?sort=lag&limit=3", 200)
		return a.Total == 6 && len(a.Connections) == 3 && a.Connections[0].Lag > 100 && a.Connections[0].Blocked && a.Connections[1].Lag == 0
	})
	if a := get("?sort=age", 200); len(a.Connections) != 6 || a.Connections[0].Addr == "" {
		t.Fatalf("%+v", a)
	}
	get("?sort=beauty", 400)
	get("?limit=0", 400)
}

// A channel that is silent for longer than its pattern allows is stale until it
// speaks again.
func TestSilence(t *testing.T) {
	g := newTestGateway(t, func(c *Config) {
		c.Silences = []Silence{{"t.*", time.Second}, {"t.calm", time.Hour}}
	})
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["t.a","t.calm"]}`)
	c.want("ack")
	seq := g.publish("t.a", `1`)
	c.wantSeqs([]uint64{seq}, 0)
	if f := c.want("stale"); f.channel() != "t.a" {
		t.Fatal(f.raw)
	}
	late := g.dial()
	late.say(`{"op":"sub","id":1,"ch":["t.a"]}`)
	late.want("ack")
	late.want("stale")
	next := g.publish("t.a", `2`)
	for _, c := range []*client{c, late} {
		if f := c.want("live"); f.channel() != "t.a" {
			t.Fatal(f.raw)
		}
		if m := c.want("msg"); m.Seq != next {
			t.Fatal(m.raw)
		}
	}
}

func TestSilencePatterns(t *testing.T) {
	cfg := DefaultConfig()
	for _, text := range []string{"*=1m", "t.*=5s", "t.a=1s", "t.a.*=2s"} {
		s, err := ParseSilence(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Silences = append(cfg.Silences, s)
	}
	for name, want := range map[string]int64{"x": 60_000, "t.b": 5000, "t.a": 1000, "t.a.b": 2000} {
		if got := cfg.silence(name); got != want {
			t.Errorf("%s: %d ms, want %d", name, got, want)
		}
	}
	for _, text := range []string{"", "t.*", "t.*=", "t.*=-5s", "a..b=5s", "=5s", "t*=5s"} {
		if _, err := ParseSilence(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// batch posts a JSON array of publications.
func (g *testGateway) batch(body string) *http.Response {
	g.t.Helper()
	resp, err := http.Post("http://"+g.AdminAddr()+"/v1/publish/batch", "application/json", strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	return resp
}

func TestPublishRate(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.PublishRate = 10 })
	refused := 0
	for range 3 {
		body := "["
		for i := range 6000 {
			if i > 0 {
				body += ","
			}
			body += `{"ch":"x","data":1}`
		}
		resp := g.batch(body + "]")
		if resp.StatusCode == http.StatusTooManyRequests {
			refused++
			if resp.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		} else if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		resp.Body.Close()
	}
	if st := g.Stats(); refused != 2 || st.PublishLimited != 12000 || st.Published != 6000 {
		t.Errorf("%d refused, %d limited, %d published", refused, st.PublishLimited, st.Published)
	}
}
