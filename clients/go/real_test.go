package odin

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests here run the client against the real binary: the one ODIN_BIN names,
// or one built from the repository around this module.

// scratch holds what the tests build; TestMain removes it.
var scratch string

var buildOdin = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("ODIN_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	if _, err := os.Stat("../../cmd/odin"); err != nil {
		return "", errNoBinary
	}
	dir, err := os.MkdirTemp("", "odin-client-")
	if err != nil {
		return "", err
	}
	scratch = dir
	bin := filepath.Join(dir, "odin")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/odin")
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/odin: %w\n%s", err, out)
	}
	return bin, nil
})

var errNoBinary = errors.New("this isn't Odin's repository, and ODIN_BIN is not set")

// server is a running gateway. Its fields are static; a restart is a new one
// with the same arguments.
type server struct {
	addr, admin string
	args        []string
	cmd         *exec.Cmd
	done        chan struct{}
}

// startServer runs `odin serve` with a data directory of its own until the test
// ends.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	return runServer(t, freePort(t), freePort(t), append([]string{"--data-dir", t.TempDir(), "--drain", "1s"}, args...))
}

func runServer(t *testing.T, addr, admin string, args []string) *server {
	t.Helper()
	bin, err := buildOdin()
	if errors.Is(err, errNoBinary) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: addr, admin: admin, args: args, done: make(chan struct{})}
	s.cmd = exec.Command(bin, append([]string{"serve", "--addr", addr, "--admin-addr", admin}, args...)...)
	var log bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &log, &log
	s.cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "ODIN_") })
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("odin %q\n%s", args, log.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if res, err := http.Get("http://" + addr + "/readyz"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s
			}
		}
	}
	t.Fatalf("odin is not ready:\n%s", log.String())
	return nil
}

// kill is kill -9.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// restart runs the same again.
func (s *server) restart(t *testing.T) *server {
	t.Helper()
	return runServer(t, s.addr, s.admin, s.args)
}

func (s *server) url() string { return "ws://" + s.addr + "/ws" }

// freePort finds one below the range the kernel hands out to outgoing
// connections.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// ledger is what was published and acknowledged, by channel.
type ledger map[string][]entry

type entry struct {
	seq  uint64
	data string
}

// publish stores count messages on each channel, in one batch.
func (l ledger) publish(t *testing.T, s *server, count int, channels ...string) {
	t.Helper()
	var body bytes.Buffer
	var items []string
	for i := range count {
		for _, ch := range channels {
			items = append(items, fmt.Sprintf(`{"n":%d, "i":%d}`, len(l[ch])+i, i))
			fmt.Fprintf(&body, `{"ch":%q,"data":%s}`+"\n", ch, items[len(items)-1])
		}
	}
	res, err := http.Post("http://"+s.admin+"/v1/publish/batch", "application/x-ndjson", &body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for i, item := range items {
		var a struct{ Seq uint64 }
		if err := dec.Decode(&a); err != nil || a.Seq == 0 {
			t.Fatalf("publishing %s: %v %+v", item, err, a)
		}
		ch := channels[i%len(channels)]
		l[ch] = append(l[ch], entry{a.Seq, item})
	}
}

// checker is a user who compares what they are given, and told, with a ledger.
type checker struct {
	mu     sync.Mutex
	got    map[string]map[uint64]string // guarded by mu
	last   map[string]uint64            // guarded by mu
	gaps   []Gap                        // guarded by mu
	faults []string                     // guarded by mu
	errors []string                     // guarded by mu
	states []State                      // guarded by mu
}

func newChecker() *checker {
	return &checker{got: map[string]map[uint64]string{}, last: map[string]uint64{}}
}

func (k *checker) options(fallback ...string) Options {
	return Options{
		Fallback:   fallback,
		MinBackoff: 20 * time.Millisecond, MaxBackoff: 300 * time.Millisecond,
		OnGap:   func(g Gap) { k.mu.Lock(); k.gaps = append(k.gaps, g); k.mu.Unlock() },
		OnError: func(e *Error) { k.mu.Lock(); k.errors = append(k.errors, e.Error()); k.mu.Unlock() },
		OnState: func(s State) { k.mu.Lock(); k.states = append(k.states, s); k.mu.Unlock() },
	}
}

func (k *checker) message(m Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.Seq <= k.last[m.Channel] {
		k.faults = append(k.faults, fmt.Sprintf("%s %d after %d", m.Channel, m.Seq, k.last[m.Channel]))
	}
	k.last[m.Channel] = m.Seq
	if k.got[m.Channel] == nil {
		k.got[m.Channel] = map[uint64]string{}
	}
	k.got[m.Channel][m.Seq] = string(m.Data)
}

// told reports whether a gap has announced a message.
func (k *checker) told(ch string, seq uint64) bool {
	for _, g := range k.gaps {
		if (g.Channel == ch || matches(g.Channel, ch)) && g.After < seq && seq < g.Before {
			return true
		}
	}
	return false
}

// gapOf is told, of the channel's own gaps: a wildcard's may take in messages
// that came.
func (k *checker) gapOf(ch string, seq uint64) bool {
	return slices.ContainsFunc(k.gaps, func(g Gap) bool { return g.Channel == ch && g.After < seq && seq < g.Before })
}

// lacks says what of a ledger was neither given nor announced, and what was both
// or wrong.
func (k *checker) lacks(l ledger) (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out = append(out, k.faults...)
	for ch, entries := range l {
		for _, e := range entries {
			switch data, had := k.got[ch][e.seq]; {
			case !had && !k.told(ch, e.seq):
				out = append(out, fmt.Sprintf("%s %d is missing", ch, e.seq))
			case had && k.gapOf(ch, e.seq):
				out = append(out, fmt.Sprintf("%s %d was given, and announced as missing", ch, e.seq))
			case had && data != e.data:
				out = append(out, fmt.Sprintf("%s %d is %s, want %s", ch, e.seq, data, e.data))
			}
		}
	}
	return out
}

// announced counts the messages of a ledger that only a gap speaks of.
func (k *checker) announced(l ledger) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for ch, entries := range l {
		for _, e := range entries {
			if _, had := k.got[ch][e.seq]; !had && k.told(ch, e.seq) {
				n++
			}
		}
	}
	return n
}

// whole waits until a ledger has been accounted for to its end: the last message
// of each channel was given.
func (k *checker) whole(t *testing.T, l ledger) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for ; time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		k.mu.Lock()
		ends := true
		for ch, entries := range l {
			ends = ends && k.last[ch] >= entries[len(entries)-1].seq
		}
		k.mu.Unlock()
		if ends {
			break
		}
	}
	if lacks := k.lacks(l); len(lacks) > 0 {
		k.mu.Lock()
		defer k.mu.Unlock()
		t.Fatalf("%d faults, such as %q; gaps %+v, errors %q", len(lacks), lacks[:min(5, len(lacks))], k.gaps, k.errors)
	}
}

func dialReal(t *testing.T, url string, opts Options) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, c) })
	return c
}

func TestRealDeliver(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	k, l := newChecker(), ledger{}
	c := dialReal(t, s.url(), k.options())
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"quote.A", "trade.*"}, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	l.publish(t, s, 200, "quote.A", "trade.A", "trade.B.C")
	k.whole(t, l)
	if n := k.announced(l); n > 0 {
		t.Errorf("%d are only announced", n)
	}
	if p := c.Positions(); p["quote.A"].Seq != l["quote.A"][199].seq || p["trade.*"].Epoch == "" {
		t.Errorf("positions are %v", p)
	}
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"_sys.x"}, OnMessage: k.message}); asError(err).Code != "bad_channel" {
		t.Errorf("_sys.x: %v", err)
	}
}

// Another process goes on from saved positions; the last message comes first
// where there is none.
func TestRealSavedPositions(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	k, l := newChecker(), ledger{}
	first := dialReal(t, s.url(), k.options())
	if _, err := first.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a", "w.*"}, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	l.publish(t, s, 20, "a", "w.x")
	k.whole(t, l)
	waitFor(t, "positions", func() bool { return first.Positions()["w.x"].Seq == l["w.x"][19].seq })
	saved := first.Positions()
	ended(t, first)

	l.publish(t, s, 20, "a", "w.x", "w.new")
	second := dialReal(t, s.url(), k.options())
	if _, err := second.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a", "w.*"}, Since: saved, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	k.whole(t, l)
	if n := k.announced(l); n > 0 {
		t.Errorf("%d are only announced", n)
	}
	snap := make(chan Message, 10)
	third := dialReal(t, s.url(), k.options())
	if _, err := third.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a"}, Snapshot: true, OnMessage: func(m Message) { snap <- m }}); err != nil {
		t.Fatal(err)
	}
	if m := <-snap; m.Seq != l["a"][39].seq {
		t.Errorf("the snapshot is %d", m.Seq)
	}
}

// kill -9, and again over the same data: what a subscriber then lacks it is told,
// and nothing else. A node that has not opened its stream yet when the client is
// back may not know a wildcard's channels, and says evicted of what it has.
func TestRealKill(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	k, l := newChecker(), ledger{}
	c := dialReal(t, s.url(), k.options())
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a", "b", "w.*"}, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		l.publish(t, s, 50, "a", "w.x")
		s.kill()
		s = s.restart(t)
		// What is published before the client is back is for it to fetch.
		l.publish(t, s, 20, "a", "b", "w.x", fmt.Sprint("w.new", round))
		waitFor(t, "reconnect", func() bool { return c.Stats().Connects == uint64(round+2) })
	}
	l.publish(t, s, 1, "a", "b", "w.x", "w.new0", "w.new1", "w.new2")
	k.whole(t, l)
	t.Logf("%d messages given, %d announced in %+v", c.Stats().Messages, k.announced(l), k.gaps)
	if st := c.Stats(); st.Unexplained > 0 {
		t.Errorf("stats are %+v, errors %q", st, k.errors)
	}
}

// Two nodes on one NATS: when one dies the other goes on, without a gap.
func TestRealTwoNodes(t *testing.T) {
	t.Parallel()
	nats := freePort(t)
	home := startServer(t, "--nats-listen", nats) // only holds the stream
	a := runServer(t, freePort(t), freePort(t), []string{"--nats-url", "nats://" + nats, "--drain", "1s"})
	b := runServer(t, freePort(t), freePort(t), []string{"--nats-url", "nats://" + nats, "--drain", "1s"})
	k, l := newChecker(), ledger{}
	c := dialReal(t, a.url(), k.options(b.url()))
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a", "w.*"}, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				l.publish(t, home, 1, "a", fmt.Sprint("w.", i%10))
			}
		}
	}()
	time.Sleep(200 * time.Millisecond)
	a.kill()
	waitFor(t, "the other node", func() bool { return c.Stats().Connects >= 2 })
	time.Sleep(200 * time.Millisecond)
	close(stop)
	<-stopped
	k.whole(t, l)
	if n := k.announced(l); n > 0 || c.Stats().Unexplained > 0 {
		t.Errorf("%d are only announced: %+v", n, k.gaps)
	}
}

// A drained node sends its clients elsewhere when it said.
func TestRealDrain(t *testing.T) {
	t.Parallel()
	nats := freePort(t)
	home := startServer(t, "--nats-listen", nats)
	a := runServer(t, freePort(t), freePort(t), []string{"--nats-url", "nats://" + nats, "--drain", "1s"})
	k, l := newChecker(), ledger{}
	c := dialReal(t, a.url(), k.options(home.url()))
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a"}, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	l.publish(t, home, 10, "a")
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	<-a.done
	l.publish(t, home, 10, "a")
	k.whole(t, l)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.gaps) > 0 {
		t.Errorf("gaps: %+v", k.gaps)
	}
	for _, s := range k.states {
		if e := (*Error)(nil); !s.Connected && errors.As(s.Err, &e) && e.Status == 1012 {
			if s.RetryIn < 400*time.Millisecond || s.RetryIn > 30*time.Second || s.URL != home.url() {
				t.Errorf("comes back to %s in %v", s.URL, s.RetryIn)
			}
			return
		}
	}
	t.Errorf("never drained: %+v", k.states)
}

func TestRealLatest(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	k, l := newChecker(), ledger{}
	c := dialReal(t, s.url(), k.options())
	opts := SubscribeOptions{Channels: []string{"a"}, Mode: Latest, Every: 100 * time.Millisecond, OnMessage: k.message}
	if _, err := c.Subscribe(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		l.publish(t, s, 20, "a")
		time.Sleep(10 * time.Millisecond)
	}
	last := l["a"][len(l["a"])-1].seq
	waitFor(t, "the last value", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.last["a"] == last
	})
	st := c.Stats()
	if st.Messages > 100 || st.Messages+st.Skipped != 400 || st.Unexplained > 0 || st.Gaps > 0 {
		t.Errorf("stats are %+v, errors %q", st, k.errors)
	}
}

// What a server with no token keys says to one is no reason to go.
func TestRealToken(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	k := newChecker()
	opts := k.options()
	opts.Token, _ = tokens(50 * time.Millisecond)
	c := dialReal(t, s.url(), opts)
	l := ledger{}
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a"}, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	l.publish(t, s, 10, "a")
	k.whole(t, l)
	if n := c.Stats().Connects; n != 1 {
		t.Errorf("%d connections: %q", n, k.errors)
	}
}

// signed is a token as the server's --token-key-file wants it.
func signed(secret string, channels string, life time.Duration) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256"}`)) + "." +
		encode(fmt.Appendf(nil, `{"sub":"ann","channels":%q,"exp":%d}`, channels, time.Now().Add(life).Unix()))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// Where a token is needed it is shown in the handshake, and the next one by op:
// what that does not allow ends, the rest goes on over one connection.
func TestRealTokenNeeded(t *testing.T) {
	t.Parallel()
	const secret = "a secret of thirty-two bytes, or more"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, "--token-key-file", file)
	if _, err := Dial(t.Context(), s.url(), Options{OnGap: func(Gap) {}}); asError(err) == nil || asError(err).Status != 401 {
		t.Errorf("without a token: %v", err)
	}
	k := newChecker()
	opts := k.options()
	patterns, life := "trade.* book.a", time.Second
	opts.Token = func(context.Context) (Token, error) {
		next := Token{Value: signed(secret, patterns, time.Hour), Expires: time.Now().Add(life)}
		patterns, life = "trade.*", time.Hour
		return next, nil
	}
	ended := make(chan *Error, 10)
	opts.OnError = func(e *Error) { ended <- e }
	c := dialReal(t, s.url(), opts)
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"quote.a"}, OnMessage: k.message}); asError(err) == nil || asError(err).Code != "forbidden" {
		t.Errorf("a channel that is forbidden: %v", err)
	}
	for _, name := range []string{"trade.*", "book.a"} {
		if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{name}, OnMessage: k.message}); err != nil {
			t.Fatal(err)
		}
	}
	for e := range ended {
		if e.Code == "forbidden" && e.Channel == "book.a" {
			break
		}
	}
	l := ledger{}
	l.publish(t, s, 10, "trade.a", "trade.b")
	k.whole(t, l)
	if n := c.Stats().Connects; n != 1 {
		t.Errorf("%d connections", n)
	}
}

// A thousand channels with positions, and a wildcard over a thousand, come back.
func TestRealThousand(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--max-subscriptions", "3000")
	k, l := newChecker(), ledger{}
	c := dialReal(t, s.url(), k.options())
	var names, wild []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("explicit.INSTRUMENT-%04d", i))
		wild = append(wild, fmt.Sprintf("wild.INSTRUMENT-%04d", i))
	}
	for _, n := range [][]string{names, {"wild.*"}} {
		if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: n, OnMessage: k.message}); err != nil {
			t.Fatal(err)
		}
	}
	l.publish(t, s, 1, append(names, wild...)...)
	k.whole(t, l)
	c.mu.Lock()
	c.fail(&Error{Code: "network"}) // a loss
	c.mu.Unlock()
	l.publish(t, s, 2, append(names, wild...)...)
	k.whole(t, l)
	if n := k.announced(l); n > 0 || c.Stats().Unexplained > 0 {
		t.Errorf("%d are only announced: %+v", n, k.gaps[:min(3, len(k.gaps))])
	}
	// The names that carried the positions have been given back.
	waitFor(t, "unsub", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.link != nil && len(c.link.unsubs) == 0 && len(c.link.waiting) == 0 && len(c.link.outbox) == 0
	})
	l.publish(t, s, 1, wild...)
	k.whole(t, l)
}
