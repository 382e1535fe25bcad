package swarm

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/gateway"
)

func TestEveryoneGetsEverything(t *testing.T) {
	g := newSite(t, nil)
	s := start(t, Config{URL: g.url(), Connections: 200, Channels: []string{"stress.0", "other.*"}, Check: true, Mark: g.mark})
	g.publish(s, "stress.0", 20) // while they come
	settled(t, s, 200)
	g.publish(s, "stress.0", 100)
	g.publish(s, "other.a", 50)
	g.publish(s, "other.b", 50)
	rep := finish(t, s, End{Last: g.last, Settle: 10 * time.Second})
	wantTotals(t, rep, 200, 200, "{}")
	l := rep.Ledger
	if l.Faults.Sum() != 0 || l.Published != 220 || l.Checked < 200*200 || l.Unchecked != 0 {
		t.Errorf("%+v", l)
	}
	if rep.Messages != l.Checked || rep.Delays().N() != l.Checked || rep.Delays().Quantile(.5) <= 0 {
		t.Errorf("%d messages, %d delays, p50 %s", rep.Messages, rep.Delays().N(), rep.Delays().Quantile(.5))
	}
	if total := rep.Total(); total.Open != 200 || len(total.Ended) > 0 {
		t.Errorf("%+v", total)
	}
}

// Volleys keep so many in the air, over all connections and processes, until
// they are ended.
func TestVolleys(t *testing.T) {
	g := newSite(t, nil)
	s := start(t, Config{
		URL: g.url(), Connections: 40, Volley: `{"op":"ping","id":1}`,
		Processes: 2, Child: []string{os.Args[0], "swarm-child"},
	})
	settled(t, s, 40)
	s.Volley(10)
	// Well below the burst of 100 commands that a gateway allows each.
	eventually(t, "answers", func() bool { return s.Counts().Answers > 300 })
	s.Volley(0)
	var still uint64
	eventually(t, "no answer more", func() bool {
		was := still
		still = s.Counts().Answers
		time.Sleep(300 * time.Millisecond)
		return s.Counts().Answers == was
	})
	rep := finish(t, s, End{})
	wantTotals(t, rep, 40, 40, "{}")
	if total := rep.Total(); total.Open != 40 {
		t.Errorf("%+v", total)
	}
}

// Of a plain server nothing is expected but the upgrade, and its echo answers.
func TestPlain(t *testing.T) {
	url := webSocket(t, func(ctx context.Context, c *websocket.Conn) {
		if c.Subprotocol() != "" {
			t.Errorf("offered %s", c.Subprotocol())
		}
		for {
			kind, text, err := c.Read(ctx)
			if err != nil || c.Write(ctx, kind, text) != nil {
				return
			}
		}
	})
	s := start(t, Config{URL: url, Plain: true, Connections: 3, Volley: strings.Repeat("e", 128)})
	settled(t, s, 3)
	s.Volley(6)
	eventually(t, "echoes", func() bool { return s.Counts().Answers > 100 })
	wantTotals(t, finish(t, s, End{}), 3, 3, "{}")
	if _, err := Start(Config{URL: url, Plain: true, Connections: 1, Channels: []string{"a"}}); err == nil {
		t.Error("channels of a plain server")
	}
}

func TestDealtChannels(t *testing.T) {
	g := newSite(t, nil)
	s := start(t, Config{URL: g.url(), Connections: 6, Channels: []string{"a", "b", "stress.0", "other.a"}, Deal: 2})
	settled(t, s, 6)
	g.publish(s, "stress.0", 10) // to the second, fourth and sixth
	g.publish(s, "a", 1)         // to the others
	eventually(t, "33 messages", func() bool { return s.Counts().Messages >= 33 })
	if rep := finish(t, s, End{}); rep.Messages != 33 {
		t.Errorf("%d messages", rep.Messages)
	}
	for _, c := range []Config{{Deal: 3, Channels: []string{"a"}}, {Deal: 1, Channels: []string{"a"}, Check: true}} {
		c.URL, c.Connections = g.url(), 1
		if _, err := Start(c); err == nil {
			t.Errorf("%+v", c)
		}
	}
}

func TestTheFullGatewaysRefusalsAddUp(t *testing.T) {
	g := newSite(t, func(c *gateway.Config) { c.MaxConnections = 50 })
	s := start(t, Config{URL: g.url(), Connections: 180, Channels: []string{"stress.0"}})
	settled(t, s, 180)
	rep := finish(t, s, End{})
	wantTotals(t, rep, 180, 50, `{"http_503": 130}`)
}

func TestSeveralProcesses(t *testing.T) {
	g := newSite(t, func(c *gateway.Config) { c.MaxConnections = 100 })
	s := start(t, Config{
		URL: g.url(), Connections: 151, Slow: 3, Channels: []string{"stress.0"}, Check: true, Mark: g.mark,
		Processes: 3, Child: []string{os.Args[0], "swarm-child"},
	})
	settled(t, s, 151)
	g.publish(s, "stress.0", 100)
	rep := finish(t, s, End{Last: g.last, Settle: 10 * time.Second})
	wantTotals(t, rep, 151, 100, `{"http_503": 51}`)
	l := rep.Ledger
	if l.Faults.Sum() != 0 || l.Published != 100 || l.Matched != 100 || l.Checked < 97*100 || rep.Delays().N() < 97*100 {
		t.Errorf("%+v, %d delays", l, rep.Delays().N())
	}
	if rep.Roles[Slow].Attempts != 3 || rep.RSS == 0 || rep.CPU == 0 {
		t.Errorf("%+v", rep.Counts)
	}
}

func TestAProcessThatDiesIsAnError(t *testing.T) {
	s := start(t, Config{URL: "ws://127.0.0.1:1/ws", Connections: 4, Processes: 2, Child: []string{"/bin/false"}})
	<-s.Done()
	if _, err := s.Finish(End{}); err == nil || !strings.Contains(err.Error(), "ended before its time") {
		t.Errorf("%v", err)
	}
	if _, err := Start(Config{URL: "ws://127.0.0.1:1/ws", Connections: 4, Processes: 2}); err == nil {
		t.Error("several processes without a command")
	}
	if err := Child(strings.NewReader("hello"), io.Discard); err == nil {
		t.Error("a child told nonsense")
	}
}

func TestRolesAtAGateway(t *testing.T) {
	g := newSite(t, func(c *gateway.Config) {
		c.HandshakeTimeout, c.FrameTimeout, c.SlowTimeout = 2*time.Second, 2*time.Second, 2*time.Second
	})
	s := start(t, Config{
		URL: g.url(), Connections: 40, Slow: 5, Flood: 5, Drip: 10, SlowRead: 1,
		Channels: []string{"stress.0"}, Check: true, Mark: g.mark,
	})
	eventually(t, "the misbehaving are cut", func() bool {
		g.publish(s, "stress.0", 20)
		time.Sleep(20 * time.Millisecond)
		c := s.Counts()
		return c.Roles[Slow].Ended.Sum() == 5 && c.Roles[Flood].Ended.Sum() == 5 &&
			c.Roles[Drip].Ended.Sum()+c.Roles[Drip].Errors.Sum() == 10
	})
	rep := finish(t, s, End{Last: g.last, Settle: 10 * time.Second})
	wantTotals(t, rep, 40, 35, `{"http_408": 5}`)
	if r := rep.Roles[Normal]; r.Connected != 20 || r.Open != 20 {
		t.Errorf("normal: %+v", r)
	}
	if r := rep.Roles[Drip]; r.Connected != 5 || r.Ended["close_1008"] != 5 {
		t.Errorf("drip: %+v", r)
	}
	for why := range rep.Roles[Slow].Ended {
		if why != "close_4101" && why != "ECONNRESET" {
			t.Errorf("slow: %s", rep.Roles[Slow].Ended)
		}
	}
	if l := rep.Ledger; l.Faults.Sum() != 0 {
		t.Errorf("%+v", l)
	}
}

// Clients that stall and go on either catch up, by what the log still has or
// with a gap, or were cut; the ledger is whole all the same.
func TestStall(t *testing.T) {
	g := newSite(t, func(c *gateway.Config) { c.Replay, c.SendQueue, c.SlowTimeout = 10, 10, 30*time.Second })
	s := start(t, Config{
		URL: g.url(), Connections: 10, Channels: []string{"stress.0"}, Check: true, Mark: g.mark, RcvBuf: 4096,
		StallAfter: 500 * time.Millisecond, ResumeAfter: time.Second,
	})
	settled(t, s, 10)
	time.Sleep(600 * time.Millisecond)
	g.publish(s, "stress.0", 20)
	before := s.Counts().Frames
	time.Sleep(200 * time.Millisecond)
	if now := s.Counts().Frames; now != before {
		t.Errorf("%d frames were read during the stall", now-before)
	}
	eventually(t, "they read again", func() bool { return s.Counts().Messages >= 200 })
	g.publish(s, "stress.0", 20)
	rep := finish(t, s, End{Last: g.last, Settle: 10 * time.Second})
	wantTotals(t, rep, 10, 10, "{}")
	if l := rep.Ledger; l.Faults.Sum() != 0 || rep.Total().Open != 10 {
		t.Errorf("%+v %+v", l, rep.Total())
	}

	g = newSite(t, func(c *gateway.Config) { c.SlowTimeout = time.Second })
	s = start(t, Config{URL: g.url(), Connections: 10, Channels: []string{"stress.0"}, RcvBuf: 4096, Processes: 2, Child: []string{os.Args[0], "swarm-child"}})
	settled(t, s, 10)
	s.Stall()
	time.Sleep(500 * time.Millisecond)
	g.publish(s, "stress.0", 1000)
	select {
	case <-s.Done():
	case <-time.After(15 * time.Second):
		t.Error("the stalled were not cut")
	}
	total := finish(t, s, End{}).Total()
	if total.Connected != 10 || total.Stalled.Sum() != 10 || len(total.Ended) != 0 {
		t.Errorf("%+v", total)
	}
}

func TestErrorsAreNamed(t *testing.T) {
	head := func(c net.Conn) {
		b := make([]byte, 1024)
		for n := 0; !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")); {
			m, err := c.Read(b[n:])
			if err != nil {
				return
			}
			n += m
		}
	}
	answer := func(text string) string {
		return rawServer(t, func(c net.Conn) { head(c); io.WriteString(c, text) })
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	upgrade := func(serve func(ctx context.Context, c *websocket.Conn)) string { return webSocket(t, serve) }
	hello := func(ctx context.Context, c *websocket.Conn) {
		_ = c.Write(ctx, websocket.MessageText, []byte(`{"t":"hello"}`))
		_, _, _ = c.Read(ctx)
	}
	for name, c := range map[string]struct{ url, want string }{
		"refused": {"ws://" + closed.Addr().String() + "/ws", "ECONNREFUSED"},
		"reset":   {rawServer(t, func(c net.Conn) { head(c); _ = c.(*net.TCPConn).SetLinger(0) }), "ECONNRESET"},
		"hung up": {rawServer(t, head), "eof"},
		"silent":  {rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "timeout"},
		"503":     {answer("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), "http_503"},
		"429":     {answer("HTTP/1.1 429 Too Many Requests\r\n\r\nbody"), "http_429"},
		"at once": {rawServer(t, func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\n\r\n")
			time.Sleep(time.Millisecond)
		}), "http_503"},
		"no HTTP":   {answer("SSH-2.0-OpenSSH_9.2\r\n\r\n"), "bad_handshake"},
		"endless":   {answer("HTTP/1.1 101 X\r\n" + strings.Repeat("a: b\r\n", 4000)), "bad_handshake"},
		"accept":    {answer("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"), "bad_handshake"},
		"no accept": {answer("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), "bad_handshake"},
		"1013":      {upgrade(func(_ context.Context, c *websocket.Conn) { _ = c.Close(1013, "full") }), "close_1013"},
		"forbidden": {upgrade(func(ctx context.Context, c *websocket.Conn) {
			hello(ctx, c)
			_ = c.Write(ctx, websocket.MessageText, []byte(`{"t":"err","id":1,"code":"forbidden"}`))
			_, _, _ = c.Read(ctx)
		}), "err_forbidden"},
		"rejected": {upgrade(func(ctx context.Context, c *websocket.Conn) {
			hello(ctx, c)
			_ = c.Write(ctx, websocket.MessageText, []byte(`{"t":"ack","id":1,"rej":{"stress.0":"limit"}}`))
			_, _, _ = c.Read(ctx)
		}), "rej_limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Config{URL: c.url, Connections: 3, Channels: []string{"stress.0"}, Timeout: time.Second})
			<-s.Done()
			wantTotals(t, finish(t, s, End{}), 3, 0, `{"`+c.want+`": 3}`)
		})
	}
}

func TestABusyServerIsAskedAgain(t *testing.T) {
	url := webSocket(t, func(ctx context.Context, c *websocket.Conn) {
		for _, answer := range []string{
			`{"t":"err","id":1,"code":"limit","message":"busy","retry_ms":50}`,
			`{"t":"ack","id":1,"ch":{"stress.0":{"epoch":"e1","seq":0}}}`,
		} {
			if _, b, err := c.Read(ctx); err != nil || !bytes.Contains(b, []byte(`"sub"`)) {
				t.Errorf("%s: %v", b, err)
			}
			_ = c.Write(ctx, websocket.MessageText, []byte(answer))
		}
		_, _, _ = c.Read(ctx)
	})
	s := start(t, Config{URL: url, Connections: 3, Channels: []string{"stress.0"}})
	settled(t, s, 3)
	rep := finish(t, s, End{})
	wantTotals(t, rep, 3, 3, "{}")
	if rep.Retries != 3 {
		t.Errorf("%d retries", rep.Retries)
	}
}

func TestWhatIsNotDoneAtTheEndIsNamed(t *testing.T) {
	silent := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	s := start(t, Config{URL: silent, Connections: 10, InFlight: 4})
	eventually(t, "four are under way", func() bool { c := s.Counts(); return c.Total().Attempts == 4 })
	wantTotals(t, finish(t, s, End{}), 10, 0, `{"not_attempted": 6, "unfinished": 4}`)

	s = start(t, Config{URL: silent, Connections: 1000, Rate: 20})
	time.Sleep(500 * time.Millisecond)
	if n := finish(t, s, End{}).Total().Attempts; n < 3 || n > 20 {
		t.Errorf("%d attempts in half a second at 20 a second", n)
	}
}

// A plain WebSocket server: no hello, fragments, pings, long frames, a close.
func TestAPlainServer(t *testing.T) {
	long := make([]byte, 300<<10)
	_, _ = rand.Read(long)
	done := make(chan error, 2)
	url := webSocket(t, func(ctx context.Context, c *websocket.Conn) {
		go func() { _, _, _ = c.Read(ctx) }() // for the pong
		err := c.Write(ctx, websocket.MessageBinary, long)
		w, _ := c.Writer(ctx, websocket.MessageText)
		for range 3 {
			_, _ = io.WriteString(w, strings.Repeat("x", 5000))
		}
		_ = w.Close()
		if err == nil {
			err = c.Ping(ctx)
		}
		done <- err
		_ = c.Close(4101, "slow")
	})
	s := start(t, Config{URL: url, Connections: 2})
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	<-s.Done()
	rep := finish(t, s, End{})
	// The subprotocol was taken, so hello was waited for: what came is not it.
	if total := rep.Total(); total.Errors["close_4101"]+total.Ended["close_4101"] != 2 || rep.Pings != 2 {
		t.Errorf("%+v, %d pings", total, rep.Pings)
	}
}

func TestBadFrames(t *testing.T) {
	for name, bytes := range map[string]string{
		"masked": "\x81\x85\x00\x00\x00\x00hello", "reserved": "\xc1\x00", "opcode": "\x83\x00", "long ping": "\x89\x7e\x00\x80",
		"fragmented ping": "\x09\x00", "continuation": "\x80\x00", "not minimal": "\x81\x7e\x00\x05hello", "huge": "\x81\x7f\x7f\x00\x00\x00\x00\x00\x00\x00",
		"inside": "\x01\x00\x81\x00",
	} {
		for cut := range bytes { // wherever it is cut, the verdict is the same
			fragmented := false
			in := []byte(bytes)
			verdict := ""
			for len(in) > 0 && verdict == "" {
				h, ok, bad := readHeader(in[:min(len(in), cut)], fragmented)
				if bad == "" && !ok {
					h, _, bad = readHeader(in, fragmented)
				}
				verdict = bad
				if bad == "" {
					fragmented = !h.fin
					in = in[min(len(in), h.start+h.size):]
				}
			}
			if verdict == "" {
				t.Errorf("%s, cut at %d: accepted", name, cut)
			}
		}
	}
}

func TestFrames(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 100_000} {
		payload := make([]byte, n)
		_, _ = rand.Read(payload)
		f := appendFrame(nil, opText, payload, 0xdeadbeef)
		if f[1]&0x80 == 0 {
			t.Fatal("not masked")
		}
		plain := append([]byte(nil), f...)
		plain[1] &^= 0x80
		h, ok, bad := readHeader(plain, false)
		if !ok || bad != "" || h.size != n || !h.fin || h.op != opText || len(f) != h.start+4+n {
			t.Errorf("%d: %+v %v %q", n, h, ok, bad)
		}
		mask, got := f[h.start:h.start+4], f[h.start+4:]
		for i := range got {
			got[i] ^= mask[i&3]
		}
		if !bytes.Equal(got, payload) {
			t.Errorf("%d: not what was framed", n)
		}
	}
}

func TestRolesAreSpread(t *testing.T) {
	for _, c := range []Config{
		{Connections: 1}, {Connections: 10, Slow: 10}, {Connections: 7, Slow: 2, Flood: 3, Drip: 2},
		{Connections: 10_000, Slow: 5000, Flood: 10, Drip: 1000}, {Connections: 3, Drip: 1},
	} {
		var got [roles]int
		for g := range c.Connections {
			r, nth := c.role(g)
			if nth != got[r] {
				t.Fatalf("%+v: attempt %d is %s number %d, after %d", c, g, r, nth, got[r])
			}
			got[r]++
		}
		if got[Slow] != c.Slow || got[Flood] != c.Flood || got[Drip] != c.Drip {
			t.Errorf("%+v: %v", c, got)
		}
	}
	sum := 0
	for i := range 7 {
		sum += part{i, 7}.size(100)
	}
	if sum != 100 {
		t.Errorf("%d of 100 attempts dealt out", sum)
	}
}

func TestSources(t *testing.T) {
	s := newSources([]netip.Prefix{netip.MustParsePrefix("127.0.0.9/32"), netip.MustParsePrefix("127.1.0.0/30"), netip.MustParsePrefix("10.0.0.4/31")})
	var got []string
	for g := range 6 {
		a, ok := s.of(g)
		if !ok {
			t.Fatal("none")
		}
		got = append(got, a.String())
	}
	if want := "127.0.0.9 127.1.0.1 127.1.0.2 10.0.0.4 10.0.0.5 127.0.0.9"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", got, want)
	}
	wide := newSources([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	if a, _ := wide.of(300); a.String() != "127.0.1.45" {
		t.Error(a)
	}
	none := newSources(nil)
	if _, ok := none.of(3); ok {
		t.Error("an address out of nowhere")
	}

	seen := make(chan string, 8)
	url := rawServer(t, func(c net.Conn) { h, _, _ := net.SplitHostPort(c.RemoteAddr().String()); seen <- h })
	sw := start(t, Config{URL: url, Connections: 4, Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.40/30")}})
	<-sw.Done()
	finish(t, sw, End{})
	from := map[string]int{}
	for range 4 {
		from[<-seen]++
	}
	if from["127.0.0.41"] != 2 || from["127.0.0.42"] != 2 {
		t.Errorf("%v", from)
	}
	sw = start(t, Config{URL: url, Connections: 2, Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}})
	<-sw.Done()
	wantTotals(t, finish(t, sw, End{}), 2, 0, `{"EADDRNOTAVAIL": 2}`)
}

func TestStartRefuses(t *testing.T) {
	for _, c := range []Config{
		{URL: "ws://127.0.0.1/ws"}, {URL: "nonsense", Connections: 1},
		{URL: "ws://127.0.0.1/ws", Connections: 2, Slow: 3}, {URL: "ws://127.0.0.1/ws", Connections: 2, Drip: -1},
	} {
		if _, err := Start(c); err == nil {
			t.Errorf("%+v was started", c)
		}
	}
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		connected, of int
		want          string
	}{
		{2184, 10000, "Progress: 2184/10000 connections (21.8% success rate)"},
		{2184, 2185, "Progress: 2184/2185 connections (99.9% success rate)"},
		{2184, 2184, "Progress: 2184/2184 connections (100.0% success rate)"},
		{0, 7, "Progress: 0/7 connections (0.0% success rate)"},
		{2, 3, "Progress: 2/3 connections (66.7% success rate)"},
	} {
		if got := ProgressLine(c.connected, c.of); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	for _, c := range []struct {
		b    Breakdown
		want string
	}{
		{nil, "{}"}, {Breakdown{}, "{}"}, {Breakdown{"http_503": 7816}, `{"http_503": 7816}`},
		{Breakdown{"http_503": 7720, "ECONNRESET": 96, "close_4101": 3}, `{"ECONNRESET": 96, "close_4101": 3, "http_503": 7720}`},
	} {
		if got := c.b.String(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

func TestDelays(t *testing.T) {
	var a, b Delays
	for ns := range int64(100_000) {
		if ns%2 == 0 {
			a.note(ns * 1000)
		} else {
			b.note(ns * 1000)
		}
	}
	a.add(&b)
	for _, q := range []float64{0, .01, .5, .9, .99, .999} {
		want := q * 100_000 * 1000
		if got := float64(a.Quantile(q)); got < want*.99 || got > want*1.04+40_000 {
			t.Errorf("quantile %g: %g, want %g", q, got, want)
		}
	}
	if a.N() != 100_000 || a.Max() != 99_999*1000 || a.Quantile(1) != a.Max() {
		t.Errorf("%d, %s, %s", a.N(), a.Max(), a.Quantile(1))
	}
}
