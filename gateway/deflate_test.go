package gateway

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"

	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// compressing is for tests that let clients wait until the others have read, on
// machines of any load.
func compressing(c *Config) {
	c.Compression, c.deflateLate, c.SendQueue, c.SlowTimeout, c.Ping = true, time.Minute, 100_000, time.Minute, time.Minute
}

const offer = "+Sec-WebSocket-Extensions: permessage-deflate"

// rawDeflating is rawOpen with compression negotiated.
func (g *testGateway) rawDeflating(t *testing.T) *raw {
	t.Helper()
	r := g.raw(t)
	r.send(g.head(offer), 0)
	if ext := r.wantStatus(http.StatusSwitchingProtocols).Header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(ext, "permessage-deflate;") {
		t.Fatalf("the offer was answered %q", ext)
	}
	r.text()
	return r
}

// squeezed is a message of a client, compressed.
func squeezed(text string) string { return masked(fin|0x40|opText, string(deflated([]byte(text)))) }

// quote is a payload like a market's, some 300 to 3000 bytes.
func quote(rng *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"e":"depthUpdate","s":"BTCUSDT","U":%d,"b":[["61080.10","0.000"]`, rng.Uint32())
	for range 10 + rng.IntN(100) {
		fmt.Fprintf(&b, `,["%d.%d0","%d.%03d"]`, 61000+rng.IntN(900), rng.IntN(10), rng.IntN(3), rng.IntN(1000))
	}
	return b.String() + "]}"
}

func TestCompressionIsOffByDefault(t *testing.T) {
	g := newTestGateway(t, nil)
	r := g.raw(t)
	r.send(g.head(offer), 0)
	if ext := r.wantStatus(http.StatusSwitchingProtocols).Header.Get("Sec-WebSocket-Extensions"); ext != "" {
		t.Errorf("accepted: %q", ext)
	}
	r.text()
	r.send(squeezed(`{"op":"ping","id":1}`), 0)
	r.wantClose(1002)
}

// Whoever negotiated it is given the same messages as who did not, and each is
// compressed once for all of them, on all shards.
func TestMessagesAreCompressedOnce(t *testing.T) {
	g := newTestGateway(t, compressing)
	for i := range 5 { // known, so that they are followed from the first on
		g.publish(fmt.Sprint("t.", 4*i), "1")
	}
	g.eventually("the channels", func() bool { return g.hub.Len() == 5 })
	var clients []*client
	for i := range 6 {
		mode := []websocket.CompressionMode{websocket.CompressionNoContextTakeover, websocket.CompressionContextTakeover, websocket.CompressionDisabled}[i%3]
		c := g.dialMode(mode)
		c.say(`{"op":"sub","id":1,"ch":["t.*","x"]}`)
		c.want("ack")
		clients = append(clients, c)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	const n = 100
	var want []string
	before := g.Stats().BytesOut
	bytes := 0
	for i := range n {
		ch, data := "x", quote(rng)
		if i%4 == 0 {
			ch = fmt.Sprint("t.", i%20)
		}
		g.publish(ch, data)
		want = append(want, data)
		bytes += len(data)
	}
	for i, c := range clients {
		last := map[string]uint64{}
		got := map[string]bool{}
		for range n {
			m := c.want("msg")
			if prev, has := last[m.channel()]; has && m.Prev != prev {
				t.Fatalf("client %d: %s after %d", i, m.raw, prev)
			}
			last[m.channel()] = m.Seq
			got[string(m.D)] = true
		}
		for _, data := range want {
			if !got[data] {
				t.Fatalf("client %d was not given %s", i, data)
			}
		}
	}
	st := g.Stats()
	if z := st.Compression; z.Messages != n || z.Connections != 4 || z.BytesAfter*2 > z.BytesBefore || z.BytesBefore < uint64(bytes) {
		t.Errorf("%d messages to %d clients: %+v", n, len(clients), z)
	}
	if out := st.BytesOut - before; out < uint64(2*bytes) || out > uint64(2*bytes+n*2*200)+4*st.Compression.BytesAfter {
		t.Errorf("%d B went out for %d B to 2 and %d B to 4", out, bytes, st.Compression.BytesAfter)
	}
	for _, c := range clients {
		c.CloseNow()
	}
	g.eventually("the clients to be gone", func() bool { return g.Stats().Compression.Connections == 0 })
	g.publish("x", quote(rng))
	if n := g.Stats().Compression.Messages; n != st.Compression.Messages {
		t.Error("compressed for nobody")
	}
}

// Commands may come compressed as well, short and long, and their answers do not.
func TestCompressedCommands(t *testing.T) {
	g := newTestGateway(t, compressing)
	r := g.rawDeflating(t)
	r.send(squeezed(`{"op":"ping","id":1}`)+say(`{"op":"ping","id":2}`)+squeezed(`{"op":"list","id":3}`), 7)
	for _, want := range []string{`{"t":"pong","id":1}`, `{"t":"pong","id":2}`, `{"t":"ack","id":3,"ch":{}}`} {
		if got := r.text(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	// In fragments, with a ping in between; one that is inflated to more than what
	// is parsed on a shard; one that is long as it comes.
	z := string(deflated([]byte(`{"op":"ping","id":4}`)))
	r.send(masked(0x40|opText, z[:5])+masked(fin|opPing, "p")+masked(fin, z[5:]), 0)
	if op, p, _ := r.frame(); op != opPong || p != "p" {
		t.Fatalf("op %d %q", op, p)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	long := make([]byte, 20_000)
	for i := range long {
		long[i] = byte('a' + rng.IntN(26))
	}
	r.send(squeezed(`{"op":"ping","id":5,"pad":"`+strings.Repeat(" ", 60_000)+`"}`)+squeezed(`{"op":"ping","id":6,"pad":"`+string(long)+`"}`)+squeezed(`{"op":"ping","id":7}`), 0)
	for id := 4; id <= 7; id++ {
		if got := r.text(); got != fmt.Sprintf(`{"t":"pong","id":%d}`, id) {
			t.Fatalf("%s, want pong %d", got, id)
		}
	}
	if st := g.Stats().Compression; st.Inflated != 6 || st.InflateRefused != 0 {
		t.Errorf("%+v", st)
	}
	g.eventually("all buffers", func() bool { return g.pool.InUse() == 0 })
}

func TestCompressedBadInput(t *testing.T) {
	g := newTestGateway(t, compressing)
	bomb := func(n int) string { return string(deflated(bytes.Repeat([]byte{' '}, n))) }
	good := `{"op":"ping","id":1}`
	for name, c := range map[string]struct {
		in   string
		code int
	}{
		"RSV1 on a ping":            {masked(fin|0x40|opPing, "p"), 1002},
		"RSV1 on a close":           {masked(fin|0x40|opClose, ""), 1002},
		"RSV1 on a continuation":    {masked(0x40|opText, "\x00") + masked(fin|0x40, "\x00"), 1002},
		"RSV2":                      {masked(fin|0x20|opText, "{}"), 1002},
		"binary":                    {masked(fin|0x40|opBinary, "\x00"), 1003},
		"a bomb":                    {squeezed(strings.Repeat(" ", 16<<20)), 1009},
		"a bomb, one byte too long": {masked(fin|0x40|opText, bomb(64<<10+1)), 1009},
		"a bomb in fragments":       {masked(0x40|opText, bomb(16 << 20)[:5000]) + masked(fin, bomb(16 << 20)[5000:]), 1009},
		"too long as it comes":      {masked(fin|0x40|opText, strings.Repeat("x", 70_000)), 1009},
		"noise":                     {masked(fin|0x40|opText, "\xff\xff\xff"), 1007},
		"long noise":                {masked(fin|0x40|opText, strings.Repeat("\xff", 5000)), 1007},
		"cut":                       {masked(fin|0x40|opText, string(deflated([]byte(good)))[:9]), 1007},
		"not UTF-8":                 {squeezed("{\"op\":\"\xff\"}"), 1007},
		"not UTF-8, long":           {squeezed("{\"op\":\"\xff\"}" + strings.Repeat(" ", 30_000)), 1007},
	} {
		r := g.rawDeflating(t)
		r.send(c.in, 0)
		code, before := r.closed()
		if code != c.code || len(before) > 0 {
			t.Errorf("%s: closed with %d after %.200q, want %d", name, code, before, c.code)
		}
	}
	// Exactly the longest is no bomb; it is no command either.
	r := g.rawDeflating(t)
	r.send(masked(fin|0x40|opText, bomb(64<<10))+squeezed(good), 0)
	if got := r.text(); !strings.Contains(got, `"bad_request"`) {
		t.Errorf("the longest message: %s", got)
	}
	if got := r.text(); got != `{"t":"pong","id":1}` {
		t.Errorf("after it: %s", got)
	}
	if st := g.Stats().Compression; st.InflateRefused != 8 {
		t.Errorf("%+v", st)
	}
	g.eventually("all buffers", func() bool { return g.pool.InUse() == 0 })
}

// Nothing is inflated for a client that sends faster than it may; nor do bombs cost
// the others anything much.
func TestBombsAreRateLimited(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.Compression, c.RateBurst, c.RatePerSec = true, 5, 1 })
	stop := g.probe(t)
	bomb := squeezed(`{"op":"ping","id":9,"pad":"` + strings.Repeat(" ", 60_000) + `"}`)
	for range 5 {
		r := g.rawDeflating(t)
		r.send(strings.Repeat(bomb, 50), 0)
		if code, _ := r.closed(); code != 4102 {
			t.Errorf("closed with %d", code)
		}
	}
	stop()
	if n := g.Stats().Compression.Inflated; n > 5*7 {
		t.Errorf("%d inflated for 5 clients that may send 5 at once", n)
	}
}

// A compressed command takes a token for each KiB it comes as, because inflating it
// may take long; as many as there can be are enough for any.
func TestCompressedCommandsTakeTokensBySize(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.Compression, c.RateBurst, c.RatePerSec = true, 8, 1 })
	r := g.rawDeflating(t)
	long := make([]byte, 30_000)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range long {
		long[i] = byte('a' + rng.IntN(26))
	}
	r.send(squeezed(`{"op":"ping","id":1,"pad":"`+string(long)+`"}`)+squeezed(`{"op":"ping","id":2}`), 0)
	if got := r.text(); got != `{"t":"pong","id":1}` {
		t.Fatal(got)
	}
	if got := r.text(); !strings.Contains(got, `"rate_limited"`) || strings.Contains(got, `"id"`) {
		t.Errorf("behind a command that took every token: %s", got)
	}
	two := g.rawDeflating(t)
	// One token, five, and more than the two that are left.
	two.send(squeezed(`{"op":"ping","id":1}`)+squeezed(`{"op":"ping","id":2,"pad":"`+string(long[:8000])+`"}`)+squeezed(`{"op":"ping","id":3,"pad":"`+string(long[:8000])+`"}`), 0)
	for _, want := range []string{`{"t":"pong","id":1}`, `{"t":"pong","id":2}`} {
		if got := two.text(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	if got := two.text(); !strings.Contains(got, `"rate_limited"`) {
		t.Error(got)
	} else if _, ms, _ := strings.Cut(got, `"retry_ms":`); len(ms) < 4 || ms[0] < '2' { // three tokens of one a second are missing
		t.Errorf("when to come again: %s", got)
	}
}

// What is resumed, of the log or of the stream, what comes first with snap, what a
// wildcard matches and what is conflated: all as without compression.
func TestCompressedPositions(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { smallLogs(c); c.Compression = true })
	seqs := g.fill("x", 120)
	rng := rand.New(rand.NewPCG(2, 2))

	past := g.dialMode(websocket.CompressionNoContextTakeover)
	past.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[3])
	past.want("ack")
	snap := g.dialMode(websocket.CompressionNoContextTakeover)
	snap.say(`{"op":"sub","id":1,"ch":["x"],"snap":true}`)
	snap.want("ack")
	n := len(seqs)
	for range 50 {
		seqs = append(seqs, g.publish("x", quote(rng)))
	}
	past.wantSeqs(seqs[4:], seqs[3])
	snap.wantSeqs(seqs[n-1:], seqs[n-2])

	again := g.dialMode(websocket.CompressionContextTakeover)
	again.say(`{"op":"sub","id":1,"ch":["x"],"since":{"x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seqs[len(seqs)-10])
	again.want("ack")
	seqs = append(seqs, g.publish("x", quote(rng)))
	again.wantSeqs(seqs[len(seqs)-10:], seqs[len(seqs)-11])

	again.say(`{"op":"replay","id":2,"ch":"x","epoch":%q,"from":%d,"to":%d}`, g.hub.Epoch(), seqs[0], seqs[5])
	again.wantSeqs(seqs[:6], 0)
	again.want("ack")
}

// Conflated messages are compressed with their skip, once for those who passed over
// as many.
func TestCompressedLatest(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { compressing(c); c.Shards = 1 })
	const clients = 8
	var all []*client
	for range clients {
		c := g.dialMode(websocket.CompressionNoContextTakeover)
		c.say(`{"op":"sub","id":1,"ch":["q.*"],"mode":"latest","ms":100}`)
		c.want("ack")
		all = append(all, c)
	}
	rng := rand.New(rand.NewPCG(3, 3))
	var seqs []uint64
	for range 200 {
		seqs = append(seqs, g.publish("q.a", quote(rng)))
		time.Sleep(2 * time.Millisecond)
	}
	frames := 0
	for _, c := range all {
		frames = max(frames, c.followLatest(seqs))
	}
	st := g.Stats().Compression
	if st.Conflated == 0 || st.Conflated > uint64(2*frames) {
		t.Errorf("%d compressed for %d clients that were given %d each", st.Conflated, clients, frames)
	}
}

// What is kept of conflated messages, of however many channels, is bounded and gone
// after a tick; and what a turn compresses is.
func TestPackedIsBounded(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { compressing(c); c.Shards = 1 })
	rng := rand.New(rand.NewPCG(3, 3))
	g.onShard(0, func(s *shard) {
		var scs []*shardChan
		for i := range 2000 {
			sc := &shardChan{variant: variant{latest: true, deflated: true}}
			scs = append(scs, sc)
			span := channel.Span{First: uint64(i), Bytes: wire.AppendMsg(nil, "x", 9, 8, 0, []byte(quote(rng)))}
			s.packs = packTurn
			frame := s.deflateSkip(sc, span, 7)
			if frame == nil || len(frame) >= len(span.Bytes) {
				t.Fatalf("%d B for %d", len(frame), len(span.Bytes))
			}
			if again := s.deflateSkip(sc, span, 7); &again[0] != &frame[0] || s.packs != packTurn-len(span.Bytes) {
				t.Fatal("compressed again for the next of its readers")
			}
			for skip := range uint64(9) {
				s.deflateSkip(sc, span, skip)
			}
			sum := 0
			for _, sc := range scs {
				if sc.packed != nil {
					sum += cap(sc.packed.frame)
				}
			}
			if sum > packKept || s.packedBytes != sum || len(s.packers) > len(scs) {
				t.Fatalf("%d B of %d channels are kept, %d counted", sum, len(s.packers), s.packedBytes)
			}
			s.packs = len(span.Bytes) - 1
			if s.deflateSkip(scs[0], channel.Span{First: 1 << 20, Bytes: span.Bytes}, 7) != nil || s.packs != len(span.Bytes)-1 {
				t.Fatal("more compressed than a turn may")
			}
		}
		s.Tick(1)
		for _, sc := range scs {
			if sc.packed != nil || s.packedBytes != 0 || len(s.packers) > 0 {
				t.Fatalf("still kept after a tick: %d B", s.packedBytes)
			}
		}
	})
}

// A compressed message that a socket takes in parts arrives whole: a client that reads
// slowly, and one that is conflated for it.
func TestCompressedToSlowReaders(t *testing.T) {
	g := newTestGateway(t, compressing)
	var rs []*raw
	for _, mode := range []string{`"mode":"all"`, `"mode":"latest"`} {
		r := g.rawSmall(t)
		r.send(g.head(offer), 0)
		r.wantStatus(http.StatusSwitchingProtocols)
		r.text()
		r.send(sayf(`{"op":"sub","id":1,"ch":["x"],%s}`, mode), 0)
		r.text()
		rs = append(rs, r)
	}
	rng := rand.New(rand.NewPCG(4, 4))
	want := map[string]bool{}
	last := ""
	for range 400 {
		last = quote(rng)
		want[last] = true
		g.publish("x", last)
	}
	for i, r := range rs {
		n, passed, z := 0, 0, 0
		for d := ""; d != last; n++ {
			text, deflated := r.inflated()
			if deflated {
				z++
			}
			var ok bool
			if _, d, ok = strings.Cut(strings.TrimSuffix(text, "}"), `,"d":`); !ok || !want[d] {
				t.Fatalf("client %d: %s", i, text)
			}
			if _, skip, has := strings.Cut(text, `,"skip":`); has {
				k := 0
				fmt.Sscan(skip, &k)
				passed += k
			}
		}
		if n+passed != 400 || z == 0 || i == 0 && passed > 0 {
			t.Errorf("client %d: %d messages, %d passed over, %d compressed", i, n, passed, z)
		}
	}
}

// inflated reads a text frame, compressed or not.
func (r *raw) inflated() (text string, deflated bool) {
	r.t.Helper()
	first, err := r.in.Peek(1)
	if err != nil {
		r.t.Fatal(err)
	}
	if first[0]&0x40 == 0 {
		return r.text(), false
	}
	first[0] &^= 0x40 // in the reader's buffer
	z := flate.NewReader(io.MultiReader(strings.NewReader(r.text()), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
	b, err := io.ReadAll(z)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b), true
}

func TestCompressedEcho(t *testing.T) {
	g := newTestGateway(t, func(c *Config) {
		c.Compression, c.Echo, c.MaxMessage, c.FrameTimeout = true, true, 17<<20, time.Minute
	})
	url := "ws://" + g.Addr() + "/echo"
	dialer := gorilla.Dialer{EnableCompression: true}
	gc, resp, err := dialer.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer gc.Close()
	if ext := resp.Header.Get("Sec-WebSocket-Extensions"); ext == "" {
		t.Fatal("compression was not negotiated")
	}
	cc, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover, CompressionThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer cc.CloseNow()
	cc.SetReadLimit(32 << 20)
	rng := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20, 3 << 20} {
		noise := make([]byte, n)
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		for kind, msg := range map[string][]byte{"text": []byte(strings.Repeat("0123456789abcdef", n/16+1)[:n]), "noise": noise} {
			op := websocket.MessageText
			if kind == "noise" {
				op = websocket.MessageBinary
			}
			wrote := make(chan error, 2)
			go func() { wrote <- cc.Write(t.Context(), op, msg) }()
			if got, b, err := cc.Read(t.Context()); err != nil || got != op || !bytes.Equal(b, msg) {
				t.Fatalf("coder, %s of %d B: got %d B, %v", kind, n, len(b), err)
			}
			go func() { wrote <- gc.WriteMessage(int(op), msg) }()
			if got, b, err := gc.ReadMessage(); err != nil || got != int(op) || !bytes.Equal(b, msg) {
				t.Fatalf("gorilla, %s of %d B: got %d B, %v", kind, n, len(b), err)
			}
			if err := errors.Join(<-wrote, <-wrote); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.eventually("all buffers", func() bool { return g.pool.InUse() == 0 })
}

// busyPool occupies every worker until free is called: also one that has answered and
// isn't back in the pool yet.
func (g *testGateway) busyPool(t *testing.T) (free func()) {
	t.Helper()
	wait := make(chan struct{})
	var busy atomic.Int64
	g.eventually("every worker to be busy", func() bool {
		for g.submit(func() { busy.Add(1); <-wait }) == nil {
		}
		return busy.Load() == int64(g.workers.Cap())
	})
	return sync.OnceFunc(func() { close(wait) })
}

// /echo needs neither the pool nor the one compressor: without them what came as it is
// goes back so. What came compressed waits for the pool.
func TestCompressedEchoOfABusyServer(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.Compression, c.Echo, c.Shards = true, true, 1 })
	dial := func() *raw {
		r := g.raw(t)
		r.send(g.head("=GET /echo HTTP/1.1", offer), 0)
		r.wantStatus(http.StatusSwitchingProtocols)
		return r
	}
	text := strings.Repeat("0123456789", 100)
	r := dial()
	r.send(say(text), 0)
	if got, z := r.inflated(); got != text || !z {
		t.Fatalf("compressed %v: %.100s", z, got)
	}
	g.echoing.Lock()
	r.send(say(text)+squeezed(text), 0)
	for range 2 {
		if got, z := r.inflated(); got != text || z {
			t.Errorf("while another is compressed: compressed %v: %.100s", z, got)
		}
	}
	g.echoing.Unlock()

	free := g.busyPool(t)
	defer free()
	r.send(say(text), 0)
	if got, z := r.inflated(); got != text || z {
		t.Errorf("with a full pool: compressed %v: %.100s", z, got)
	}
	gone := dial()
	gone.send(squeezed(text), 0)
	r.send(squeezed(text)+say("the next"), 0)
	g.eventually("both to wait", func() bool { return g.Stats().PoolOverloads == 2 })
	gone.reset()
	g.onShard(0, func(s *shard) { s.Tick(1) }) // in vain
	free()
	for _, want := range []string{text, "the next"} {
		if got, _ := r.inflated(); got != want {
			t.Errorf("with a place in the pool: %.100s", got)
		}
	}
	g.eventually("all buffers", func() bool { return g.pool.InUse() == 0 })
}

// Whose connection is over before the pool is done with his message has taken no
// buffer along.
func TestBuffersOfThoseWhoLeft(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.Compression, c.Echo, c.Shards = true, true, 1 })
	text := strings.Repeat("0123456789", 100)
	for name, end := range map[string]func(s *shard, r connRef, c *slot){
		"closed":  func(s *shard, r connRef, c *slot) { s.close(r, c, true) },
		"closing": func(s *shard, r connRef, c *slot) { s.fail(r, c, closeSlow, "") },
	} {
		r := g.raw(t)
		r.send(g.head("=GET /echo HTTP/1.1", offer), 0)
		r.wantStatus(http.StatusSwitchingProtocols)
		free := g.busyInflaters()
		r.send(squeezed(text), 0)
		g.eventually("the message to be at the pool", func() bool { return g.workers.Running() > 0 && g.pool.InUse() > 0 })
		g.onShard(0, func(s *shard) {
			for i := range s.slots.size() {
				if c := s.slots.at(i); c.state == stateOpen {
					end(s, connRef{i, c.gen}, c)
				}
			}
		})
		free()
		g.eventually("all buffers, "+name, func() bool { return g.pool.InUse() == 0 })
		r.reset()
		g.eventually("the client to be gone", func() bool { return g.held() == 0 })
	}
}

// What the pool was lent is given back once, whatever its work comes to.
func TestWorkFreesOnce(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.Shards = 1 })
	nothing := func(*shard, *slot) {}
	for name, f := range map[string]func() func(*shard, *slot){
		"done":                 func() func(*shard, *slot) { return nothing },
		"a panic on the shard": func() func(*shard, *slot) { return func(*shard, *slot) { panic("a test") } },
		"a panic in the pool":  func() func(*shard, *slot) { panic("a test") },
	} {
		r := g.rawOpen(t)
		var freed atomic.Int32
		g.onShard(0, func(s *shard) {
			for i := range s.slots.size() {
				if c := s.slots.at(i); c.state == stateOpen && !s.work(connRef{i, c.gen}, c, f, func() { freed.Add(1) }) {
					t.Errorf("%s: the pool is full", name)
				}
			}
		})
		g.eventually(name, func() bool { return freed.Load() > 0 })
		r.reset()
		g.eventually("the client to be gone", func() bool { return g.held() == 0 })
		if n := freed.Load(); n != 1 {
			t.Errorf("%s: freed %d times", name, n)
		}
	}
}

// busyInflaters lets nothing be inflated in the pool until free is called.
func (g *testGateway) busyInflaters() (free func()) {
	var all []*wire.Inflater
	for range cap(g.inflaters) {
		all = append(all, <-g.inflaters)
	}
	return func() {
		for _, f := range all {
			g.inflaters <- f
		}
	}
}

// The formula counts at least what the gateway may have at once.
func TestCompressionMemory(t *testing.T) {
	for _, shards := range []int{1, 2, 64} {
		if got := CompressionMemory(shards); got < int64(shards+2)*wire.DeflaterSize+int64(2*shards)*wire.InflaterSize+int64(shards)*packKept {
			t.Errorf("%d shards: %d", shards, got)
		}
	}
	g := newTestGateway(t, func(c *Config) { compressing(c); c.Shards = 3 })
	if cap(g.inflaters) != 3 || len(g.inflaters) != 3 {
		t.Errorf("the pool has %d of %d decompressors", len(g.inflaters), cap(g.inflaters))
	}
}
