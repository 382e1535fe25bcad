package gateway

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/gateway/broker"
)

// slack is what a loaded machine under the race detector may add to a bound.
const slack = 700 * time.Millisecond

// raw is a TCP connection that says whatever a test wants. It shares no code
// with the server, nor with a well-behaved client.
type raw struct {
	t    *testing.T
	conn *net.TCPConn
	in   *bufio.Reader
}

// raw connects; nothing is sent yet.
func (g *testGateway) raw(t *testing.T) *raw {
	return g.rawVia(t, &net.Dialer{Timeout: 5 * time.Second})
}

// rawSmall is raw with a receive buffer so small that the server soon can't
// write to who doesn't read.
func (g *testGateway) rawSmall(t *testing.T) *raw {
	return g.rawVia(t, &net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) })
	}})
}

func (g *testGateway) rawVia(t *testing.T, d *net.Dialer) *raw {
	t.Helper()
	r, err := dialVia(g.Addr(), d)
	if err != nil {
		t.Fatal(err)
	}
	r.t = t
	t.Cleanup(func() { r.conn.Close() })
	return r
}

// dialRaw is for other goroutines than a test's: what fails the test is not to
// be used.
func dialRaw(addr string) (*raw, error) { return dialVia(addr, &net.Dialer{Timeout: 5 * time.Second}) }

func dialVia(addr string, d *net.Dialer) (*raw, error) {
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{conn: conn.(*net.TCPConn), in: bufio.NewReader(conn)}, nil
}

// rawOpen connects and upgrades.
func (g *testGateway) rawOpen(t *testing.T) *raw { return g.raw(t).open(g) }

// open upgrades.
func (r *raw) open(g *testGateway) *raw {
	t := r.t
	t.Helper()
	r.send(g.head(), 0)
	r.wantStatus(http.StatusSwitchingProtocols)
	if f := r.text(); !strings.HasPrefix(f, `{"t":"hello"`) {
		t.Fatalf("instead of hello: %s", f)
	}
	return r
}

// send writes b, whole or in segments of n bytes. An error is the server's
// having closed: what it said before is still there to be read.
func (r *raw) send(b string, n int) error {
	if n == 0 {
		n = max(1, len(b))
	}
	for len(b) > 0 {
		k := min(n, len(b))
		if _, err := io.WriteString(r.conn, b[:k]); err != nil {
			return err
		}
		b = b[k:]
	}
	return nil
}

// reset closes with a RST.
func (r *raw) reset() {
	r.conn.SetLinger(0)
	r.conn.Close()
}

// answer reads one HTTP answer.
func (r *raw) answer() (*http.Response, string) {
	r.t.Helper()
	resp, err := http.ReadResponse(r.in, &http.Request{Method: "GET"})
	if err != nil {
		r.t.Fatalf("no HTTP answer: %v", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("half an answer: %v", err)
	}
	return resp, string(body)
}

// wantStatus reads an HTTP answer. A refusal must be readable, by programs too,
// and followed by the end of the connection.
func (r *raw) wantStatus(status int) *http.Response {
	r.t.Helper()
	resp, body := r.answer()
	if resp.StatusCode != status {
		r.t.Fatalf("%d %s, want %d", resp.StatusCode, body, status)
	}
	if status == http.StatusSwitchingProtocols {
		return resp
	}
	if status >= 400 {
		var e struct{ Code, Message string }
		if json.Unmarshal([]byte(body), &e) != nil || e.Code == "" || e.Message == "" {
			r.t.Errorf("unreadable body %q", body)
		}
		if !resp.Close {
			r.t.Error("no Connection: close")
		}
	}
	r.wantEOF()
	return resp
}

// wantEOF expects the server's end of the connection at once.
func (r *raw) wantEOF() {
	r.t.Helper()
	r.conn.SetReadDeadline(time.Now().Add(time.Second + slack))
	if b, err := r.in.ReadByte(); err != io.EOF {
		r.t.Errorf("after the last word: byte %q, error %v; want the end", b, err)
	}
}

// frame reads one frame.
func (r *raw) frame() (op byte, payload string, err error) {
	var h [8]byte
	if _, err := io.ReadFull(r.in, h[:2]); err != nil {
		return 0, "", err
	}
	if h[0]&0xf0 != 0x80 || h[1]&0x80 != 0 {
		return 0, "", fmt.Errorf("frame header %x", h[:2])
	}
	op = h[0] & 0x0f
	n := uint64(h[1])
	switch n {
	case 126:
		if _, err := io.ReadFull(r.in, h[:2]); err != nil {
			return 0, "", err
		}
		n = uint64(binary.BigEndian.Uint16(h[:]))
	case 127:
		if _, err := io.ReadFull(r.in, h[:8]); err != nil {
			return 0, "", err
		}
		n = binary.BigEndian.Uint64(h[:])
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r.in, b)
	return op, string(b), err
}

// text reads a text frame.
func (r *raw) text() string {
	r.t.Helper()
	op, s, err := r.frame()
	if err != nil || op != opText {
		r.t.Fatalf("op %d %q, error %v; want a text", op, s, err)
	}
	return s
}

// closed reads to the close frame and the end after it, and returns its code:
// 1005 for an empty one, 0 when the connection ended without one.
func (r *raw) closed() (code int, before []string) {
	r.t.Helper()
	for {
		op, s, err := r.frame()
		switch {
		case err != nil:
			if errors.Is(err, os.ErrDeadlineExceeded) {
				r.t.Fatalf("not closed; before: %.300q", before)
			}
			return 0, before
		case op != opClose:
			before = append(before, s)
			continue
		}
		r.wantEOF()
		if len(s) < 2 {
			return 1005, before
		}
		return int(binary.BigEndian.Uint16([]byte(s))), before
	}
}

// wantClose expects a close frame, and nothing before it but what want lists,
// by what each frame begins with.
func (r *raw) wantClose(code int, want ...string) {
	r.t.Helper()
	got, before := r.closed()
	if got != code {
		r.t.Errorf("closed with %d, want %d; before: %.300q", got, code, before)
	}
	if len(before) != len(want) {
		r.t.Fatalf("%d frames before the close, want %d: %.300q", len(before), len(want), before)
	}
	for i, w := range want {
		if !strings.HasPrefix(before[i], w) {
			r.t.Errorf("frame %d: %.300s, want %s…", i, before[i], w)
		}
	}
}

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
	fin      = 0x80
)

// masked is a frame as a client sends it; first is its first byte.
func masked(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return string(b) + maskBytes(payload)
}

// maskBytes is a mask and the payload under it.
func maskBytes(payload string) string {
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b := append(make([]byte, 0, 4+len(payload)), mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i&3])
	}
	return string(b)
}

// say is a whole text message.
func say(text string) string { return masked(fin|opText, text) }

func sayf(format string, args ...any) string { return say(fmt.Sprintf(format, args...)) }

// closeFrame is a client's close.
func closeFrame(code int, reason string) string {
	return masked(fin|opClose, string([]byte{byte(code >> 8), byte(code)})+reason)
}

// head is a good handshake with changes: "=LINE" is another request line,
// "-Name" takes a header away, "+Name: v" adds a line, and "Name: v" replaces
// one. {host} stands for the gateway's address.
func (g *testGateway) head(changes ...string) string {
	lines := []string{"GET /ws HTTP/1.1", "Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	for _, c := range changes {
		kind, rest := c[0], c[1:]
		name, _, _ := strings.Cut(c, ":")
		at := func(name string) int {
			return slices.IndexFunc(lines[1:], func(l string) bool { return strings.HasPrefix(l, name+":") }) + 1
		}
		switch kind {
		case '=':
			lines[0] = rest
		case '+':
			lines = append(lines, rest)
		case '-':
			i := at(rest)
			lines = append(lines[:i], lines[i+1:]...)
		default:
			lines[at(name)] = c
		}
	}
	return g.atHost(strings.Join(lines, "\r\n") + "\r\n\r\n")
}

func (g *testGateway) atHost(s string) string { return strings.ReplaceAll(s, "{host}", g.Addr()) }

// held is how many connections the shards have, in whatever state.
func (g *testGateway) held() int {
	n := int64(0)
	for _, s := range g.shards {
		n += s.conns.Load()
	}
	return int(n)
}

// wantNothingHeld waits until nothing is left of the clients but those that
// stay, and of their subscriptions.
func (g *testGateway) wantNothingHeld(t *testing.T, stay, subs int) {
	t.Helper()
	what := func() string {
		return fmt.Sprintf("connections %d, at the gate %d, pooled %d, subscriptions %d",
			g.held(), g.gate.InUse(), g.pool.InUse(), g.count.Subscriptions.Load())
	}
	ok := func() bool {
		return g.held() == stay && g.gate.InUse() == stay && g.pool.InUse() == 0 && g.count.Subscriptions.Load() == int64(subs)
	}
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %s; want %d connections, %d subscriptions", what(), stay, subs)
		}
	}
	if n, m := g.count.PoolPanics.Load(), g.count.LoopPanics.Load(); n+m != 0 {
		t.Errorf("%d panics in the pool, %d on the loops", n, m)
	}
}

// highWater watches the pooled bytes until stop, which returns the most seen.
func (g *testGateway) highWater() (stop func() int64) {
	done, ended := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		for {
			most = max(most, g.pool.InUse())
			select {
			case <-done:
				ended <- most
				return
			case <-time.After(50 * time.Microsecond):
			}
		}
	}()
	return func() int64 {
		close(done)
		return <-ended
	}
}

// canary is a well-behaved client on a busy channel: whatever others do, it
// gets every message, in order and soon.
type canary struct {
	g    *testGateway
	t    *testing.T
	c    *client
	sent atomic.Uint64 // the last sequence published
	quit chan struct{}
	all  sync.WaitGroup

	late []time.Duration
	err  error
}

// canary starts one; it counts as one connection and one subscription.
func (g *testGateway) canary(t *testing.T) *canary {
	t.Helper()
	return g.canaryOf(t, g.dial())
}

// canaryAs is canary with a token.
func (g *testGateway) canaryAs(t *testing.T, token string) *canary {
	t.Helper()
	return g.canaryOf(t, g.dialAs(token))
}

func (g *testGateway) canaryOf(t *testing.T, c *client) *canary {
	t.Helper()
	k := &canary{g: g, t: t, c: c, quit: make(chan struct{})}
	k.c.say(`{"op":"sub","id":1,"ch":["canary"]}`)
	k.c.want("ack")
	k.all.Add(2)
	go k.publish()
	go k.read()
	return k
}

func (k *canary) publish() {
	defer k.all.Done()
	for {
		select {
		case <-k.quit:
			k.c.Write(k.t.Context(), websocket.MessageText, []byte(`{"op":"ping","id":99}`))
			return
		case <-time.After(2 * time.Millisecond):
		}
		data := strconv.FormatInt(time.Now().UnixNano(), 10)
		ack, err := k.g.broker.Publish(k.t.Context(), broker.Publication{Channel: "canary", Data: []byte(data)})
		if err != nil {
			return
		}
		k.sent.Store(ack.Seq)
	}
}

func (k *canary) read() {
	defer k.all.Done()
	last := uint64(0)
	ending := false
	for !ending || last < k.sent.Load() {
		f, err := k.c.next()
		switch {
		case err != nil:
			k.err = err
			return
		case f.T == "pong":
			ending = true
		case f.T != "msg" || last != 0 && f.Prev != last:
			k.err = fmt.Errorf("after %d: %s", last, f.raw)
			return
		default:
			at, _ := strconv.ParseInt(string(f.D), 10, 64)
			k.late = append(k.late, time.Since(time.Unix(0, at)))
			last = f.Seq
		}
	}
}

// stop ends the canary and says how it fared. Its own bound is generous, since
// tests share two cores; bench measures what it should be.
func (k *canary) stop() {
	k.t.Helper()
	close(k.quit)
	k.all.Wait()
	if k.err != nil {
		k.t.Errorf("the canary: %v", k.err)
		return
	}
	slices.Sort(k.late)
	if len(k.late) == 0 {
		k.t.Error("the canary heard nothing")
		return
	}
	half, most := k.late[len(k.late)/2], k.late[len(k.late)*99/100]
	k.t.Logf("canary: %d messages, half within %v, 99 %% within %v, all within %v", len(k.late), half, most, k.late[len(k.late)-1])
	if half > 250*time.Millisecond {
		k.t.Errorf("half of the canary's messages took more than %v", half)
	}
	k.c.CloseNow()
}

// within returns how long the slowest but one in a hundred of d took.
func within(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)*99/100]
}
