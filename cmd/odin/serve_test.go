package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/internal/market"
)

// lockedBuffer is written by a command while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// running is an `odin serve` in this process.
type running struct {
	addr, admin string
	out, log    *lockedBuffer
	stop        func() int
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func startServe(t *testing.T, args ...string) *running {
	t.Helper()
	return startServeAs(t, append([]string{"--drain", "0s"}, args...)...)
}

// startServeAs is startServe with the default --drain.
func startServeAs(t *testing.T, args ...string) *running {
	t.Helper()
	procs, limit := runtime.GOMAXPROCS(0), debug.SetMemoryLimit(-1)
	r := &running{addr: freeAddr(t), admin: freeAddr(t), out: &lockedBuffer{}, log: &lockedBuffer{}}
	args = append([]string{"serve", "--addr", r.addr, "--admin-addr", r.admin, "--data-dir", t.TempDir()}, args...)
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() { code <- run(ctx, args, nil, strings.NewReader(""), r.out, r.log) }()
	r.stop = sync.OnceValue(func() int {
		cancel()
		c := <-code
		runtime.GOMAXPROCS(procs)
		debug.SetMemoryLimit(limit)
		http.DefaultClient.CloseIdleConnections()
		return c
	})
	t.Cleanup(func() { r.stop() })
	for range 500 {
		if res, err := http.Get("http://" + r.admin + "/readyz"); err == nil { // plain, whatever --addr is
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return r
			}
		}
		select {
		case c := <-code:
			t.Fatalf("serve ended with %d: %s", c, r.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("serve is not ready: %s", r.log)
	return nil
}

// The commands together: serve, publish, feed, tail --check, health, drain.
func TestServe(t *testing.T) {
	r := startServe(t, "--memory-limit", "512MiB", "--max-connections", "50", "--log-level", "info")
	for _, want := range []string{
		"Calculated max connections: 50 (based on 6KB per connection + 192MB overhead)",
		"Bound by configured: memory allows 54613",
		"memory limit 512MB read from flag --memory-limit",
		"No token key is configured",
	} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, r.log)
		}
	}
	if got := debug.SetMemoryLimit(-1); got <= 0 || got > 512<<20 {
		t.Errorf("GOMEMLIMIT is %d", got)
	}
	if h := odin(t, nil, "", "health", "--ready", "--url", "http://"+r.addr); h.code != 0 {
		t.Errorf("health: %+v", h)
	}

	p := odin(t, nil, "", "publish", "--admin-addr", r.admin, "a.b", `{ "x": 1.0 }`)
	var o outcome
	if err := json.Unmarshal([]byte(p.out), &o); p.code != 0 || err != nil || o.Epoch == "" || o.Seq != 1 {
		t.Fatalf("publish: %+v", p)
	}

	tail := make(chan result, 1)
	go func() {
		tail <- odin(t, nil, "", "tail", "--url", "ws://"+r.addr+"/ws", "--check", "--since", o.Epoch+":1", "--count", "2000", "trade.*", "bbo.*", "book.*")
	}()
	time.Sleep(200 * time.Millisecond)
	f := odin(t, nil, "", "feed", "synth", "--admin-addr", r.admin, "--speed", "0", "--limit", "2000")
	if f.code != 0 {
		t.Fatalf("feed: %+v", f)
	}
	select {
	case got := <-tail:
		if got.code != 0 || !strings.Contains(got.err, "checked 2000 messages") {
			t.Fatalf("tail: code %d, %s", got.code, got.err)
		}
		s := market.NewSynth(market.SynthConfig{Seed: 1})
		sent := map[string]bool{}
		for range 2000 {
			sent[string(s.Next().Data)] = true
		}
		d := regexp.MustCompile(`"d":(.*)}$`)
		for line := range strings.Lines(got.out) {
			m := d.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if m == nil || !sent[m[1]] {
				t.Fatalf("this was not published: %s", line)
			}
		}
	case <-time.After(20 * time.Second):
		t.Fatal("tail did not see 2000 messages")
	}
	if code := r.stop(); code != 0 {
		t.Errorf("serve ended with %d: %s", code, r.log)
	}
	if !strings.Contains(r.log.String(), "Stopped") {
		t.Errorf("log:\n%s", r.log)
	}
}

// Straight to NATS, and the demo.
func TestServeDemoAndNATS(t *testing.T) {
	nats := freeAddr(t)
	r := startServe(t, "--demo", "--nats-listen", nats, "--log-format", "json", "--memory-limit", "1GiB")
	if !strings.Contains(r.out.String(), "odin tail --url ws://"+r.addr+"/ws 'trade.*'") {
		t.Errorf("the demo says %q", r.out)
	}
	p := odin(t, nil, "", "publish", "--nats-url", "nats://"+nats, "x.y", `"hi"`)
	if p.code != 0 || !strings.Contains(p.out, `"seq":`) {
		t.Errorf("publish by NATS: %+v", p)
	}
	got := odin(t, nil, "", "tail", "--url", "ws://"+r.addr+"/ws", "--check", "--count", "20", "trade.*", "bbo.*")
	if got.code != 0 || strings.Count(got.out, "\n") != 20 {
		t.Errorf("tail: %+v", got)
	}
	// The sentence that tools look for is there as it is, in this format, too.
	if sentence := regexp.MustCompile(`"msg":"Calculated max connections: \d+ \(based on 6KB per connection \+ [\d.]+MB overhead\)"`); !sentence.MatchString(r.log.String()) {
		t.Errorf("the log lacks the sum:\n%s", r.log)
	}
	for line := range strings.Lines(r.log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("log line %q", line)
		}
	}
	if code := r.stop(); code != 0 {
		t.Errorf("serve ended with %d: %s", code, r.log)
	}
}

func TestServeFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	procs, limit := runtime.GOMAXPROCS(0), debug.SetMemoryLimit(-1)
	defer func() { runtime.GOMAXPROCS(procs); debug.SetMemoryLimit(limit) }()
	r := odin(t, nil, "", "serve", "--admin-addr", l.Addr().String(), "--addr", freeAddr(t), "--data-dir", t.TempDir(), "--memory-limit", "512MiB")
	if r.code != exitFailure || !strings.Contains(r.err, "address already in use") {
		t.Errorf("%+v", r)
	}
	r = odin(t, nil, "", "serve", "--admin-addr", "0.0.0.0:0", "--data-dir", t.TempDir())
	if r.code != exitUsage || !strings.Contains(r.err, "no loopback address") {
		t.Errorf("%+v", r)
	}
}

func TestDataDir(t *testing.T) {
	if os.Getuid() == 0 {
		l := &loaded{serveConfig: newServeConfig()}
		if dir, _, err := l.dataDir(nil); dir != "/var/lib/odin" || err != nil {
			t.Errorf("root's: %q, %v", dir, err)
		}
	}
	for _, c := range []struct {
		args []string
		env  []string
		want string
	}{
		{[]string{"--data-dir", "/d", "--demo"}, nil, "/d"},
		{[]string{"--nats-url", "nats://h:1", "--data-dir", "/d"}, nil, ""},
		{nil, []string{"STATE_DIRECTORY=/var/lib/odin7:/x"}, "/var/lib/odin7"},
	} {
		l, err := load(t, c.args, c.env)
		if err != nil {
			t.Fatal(err)
		}
		if dir, temporary, err := l.dataDir(c.env); dir != c.want || temporary || err != nil {
			t.Errorf("%v: %q, %v, %v", c.args, dir, temporary, err)
		}
	}
}

// What was set reaches the gateway.
func TestGatewayConfig(t *testing.T) {
	l, err := load(t, []string{
		"--addr=:1", "--replay=7", "--send-queue=8", "--slow-timeout=9s", "--rate-burst=10", "--rate-per-sec=11", "--ping=12s",
		"--max-age=13s", "--max-message=17MiB", "--max-subscriptions=14", "--drain=15s", "--allow-origin=https://a.example",
		"--trusted-proxy=10.1.2.3/8,192.0.2.1", "--echo", "--node=n", "--heartbeat=21s", "--max-channels=16", "--max-handshakes=17",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := l.gatewayConfig(99, 3, nil)
	if c.Addr != ":1" || c.Replay != 7 || c.SendQueue != 8 || c.SlowTimeout != 9*time.Second || c.RateBurst != 10 || c.RatePerSec != 11 ||
		c.Ping != 12*time.Second || c.Heartbeat != 21*time.Second || c.MaxAge != 13*time.Second || c.MaxMessage != 17<<20 || c.MaxSubscriptions != 14 ||
		c.Drain != 15*time.Second || c.AllowOrigin[0] != "https://a.example" || !c.Echo || c.Node != "n" ||
		c.MaxChannels != 16 || c.MaxHandshakes != 17 || c.MaxConnections != 99 || c.Shards != 3 {
		t.Errorf("%+v", c)
	}
	if len(c.TrustedProxies) != 2 || c.TrustedProxies[0].String() != "10.0.0.0/8" || c.TrustedProxies[1].String() != "192.0.2.1/32" {
		t.Errorf("proxies %v", c.TrustedProxies)
	}
}

// The shares fit what the sum leaves to the process, and grow only into memory
// that no connection is admitted for.
func TestStoreCache(t *testing.T) {
	for _, c := range []struct{ limit, logs, want int64 }{
		{math.MaxInt64, 24 << 20, 0}, // no limit, no bound
		{100 << 20, 24 << 20, 38 << 20},
		{20 << 20, 24 << 20, 1}, // nothing is left: the least there is, which is not "no bound"
	} {
		if got := storeCache(c.limit, c.logs); got < c.want-100 || got > c.want+100 || c.want != 0 && got <= 0 {
			t.Errorf("with %d for Go and %d for logs: %d, want %d", c.limit, c.logs, got, c.want)
		}
	}
}

func TestBudgets(t *testing.T) {
	for name, row := range map[string]struct {
		args        []string
		descriptors uint64
		tls         capacity.TLSRecords
		fits        bool
		want        string
	}{
		"container":            {args: []string{"--memory-limit=512MiB"}, descriptors: 1_000_000, fits: true},
		"few descriptors":      {args: []string{"--memory-limit=512MiB"}, descriptors: 20_000},
		"small":                {args: []string{"--memory-limit=96MiB", "--runtime-overhead=48MiB", "--backlog=8MiB"}, descriptors: 1_000_000, fits: true},
		"long messages":        {args: []string{"--memory-limit=512MiB", "--max-message=17MiB"}, descriptors: 1_000_000, fits: true},
		"overhead too small":   {args: []string{"--memory-limit=96MiB", "--runtime-overhead=16MiB", "--backlog=8MiB"}, descriptors: 1_000_000, want: "--runtime-overhead"},
		"tls":                  {args: []string{"--memory-limit=512MiB"}, descriptors: 1_000_000, tls: capacity.TLSOwn, fits: true},
		"tls, few descriptors": {args: []string{"--memory-limit=512MiB"}, descriptors: 20_000, tls: capacity.TLSOwn},
		"tls by the kernel":    {args: []string{"--memory-limit=512MiB"}, descriptors: 1_000_000, tls: capacity.TLSKernel, fits: true},
		"long, with overhead":  {args: []string{"--memory-limit=512MiB", "--max-message=17MiB", "--runtime-overhead=256MiB"}, descriptors: 1_000_000, fits: true},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := load(t, row.args, nil)
			if err != nil {
				t.Fatal(err)
			}
			sum, err := capacity.Compute(capacity.Input{
				Limit: capacity.Limit{Bytes: int64(l.MemoryLimit), Source: "test"}, Profile: capacity.EventLoop,
				RuntimeOverhead: int64(l.RuntimeOverhead), Backlog: int64(l.Backlog), Replay: 100, Descriptors: row.descriptors, TLS: row.tls,
			})
			if err != nil {
				t.Fatal(err)
			}
			c := l.gatewayConfig(sum.Max, 2, nil)
			if usual := c.PublishBudget; usual != 32<<20 {
				t.Fatalf("publishers have %d", usual)
			}
			each := int64(capacity.KernelPerConnection + capacity.OwnPerConnection)
			if row.tls != capacity.TLSNone {
				c.TLS = new(gateway.TLS)
				each = sum.BytesPerConnection
			}
			shares, err := l.budgets(sum, &c)
			if row.want != "" {
				if err == nil || !strings.Contains(err.Error(), row.want) {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if most := min(32<<20, sum.RuntimeOverhead/4); c.PublishBudget != most {
				t.Errorf("publishers have %d, want %d", c.PublishBudget, most)
			}
			own := shares.Runtime + shares.Broker + c.LogBudget + c.BufferBudget +
				int64(c.MoreSubscriptions)*capacity.SubscriptionCost + int64(2*c.MaxHandshakes)*each
			all := own + c.Backlog + int64(sum.Max)*sum.BytesPerConnection
			descriptors := sum.Max + capacity.DefaultReservedDescriptors/2 + 2*c.MaxHandshakes
			if c.TLS != nil {
				all += int64(c.TLS.Handshakes) * capacity.TLSHandshake
				descriptors += 3 * c.TLS.Handshakes // two each, and one that waits
			}
			if descriptors > int(row.descriptors) {
				t.Errorf("%d descriptors of %d: %+v", descriptors, row.descriptors, c)
			}
			if all > sum.Limit.Bytes || row.fits && own > sum.RuntimeOverhead {
				t.Errorf("%d of its own, %d in all: %+v", own, all, c)
			}
			if c.BufferBudget < 4*int64(l.MaxMessage) || c.MaxHandshakes < 16 || c.Backlog != sum.Backlog {
				t.Errorf("%+v", c)
			}
		})
	}
}
