package jetstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// TestUnreachable: the Sink hears of it within 2 s, and it heals by itself.
func TestUnreachable(t *testing.T) {
	out := startOutside(t)
	out.stop()
	cfg := testConfig()
	cfg.URL = out.url
	b, sink := newBroker(t, cfg), brokertest.NewRecorder(t)
	since := time.Now()
	if err := b.Start(sink); err != nil {
		t.Fatal(err)
	}
	brokertest.Wait(t, "Down", func() bool { return len(sink.Downs()) > 0 })
	if d := time.Since(since); d > 2*time.Second {
		t.Errorf("Down after %v", d)
	}
	if s := b.State(); s.Connected || s.Err == nil || !strings.Contains(s.Err.Error(), "connect") {
		t.Errorf("state %+v", s)
	}
	out.start()
	brokertest.Wait(t, "up", sink.Up)
	if n := len(sink.Downs()); n != 1 {
		t.Errorf("Down %d times", n)
	}
}

// relay is a TCP relay that can be frozen: what SIGSTOP and a cut cable look like.
type relay struct {
	ln     net.Listener
	frozen atomic.Bool
	wg     sync.WaitGroup
	ctx    context.Context
}

func startRelay(t *testing.T, to string) *relay {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{ln: ln, ctx: ctx}
	r.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			r.wg.Go(func() { r.pump(out, in) })
			r.wg.Go(func() { r.pump(in, out) })
		}
	})
	t.Cleanup(func() { cancel(); ln.Close(); r.wg.Wait() })
	return r
}

func (r *relay) pump(dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	stop := context.AfterFunc(r.ctx, func() { src.Close(); dst.Close() })
	defer stop()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		for r.frozen.Load() && r.ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil && !errors.Is(err, io.EOF) {
			return
		}
	}
}

// TestFrozen: a broker that stops without a word, under load, is noticed
// within 2 s; what was under way is uncertain, what comes later refused.
func TestFrozen(t *testing.T) {
	out := startOutside(t)
	rel := startRelay(t, strings.TrimPrefix(out.url, "nats://"))
	r := start(t, func(c *Config) { c.URL, c.DataDir = "nats://"+rel.ln.Addr().String(), "" })
	r.put(t, "a", `1`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	sums := map[string]uint64{} // acked data by seq
	big := `"` + strings.Repeat("x", 8000) + `"`
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				ps := make([]broker.Publication, 200)
				for i := range ps {
					ps[i] = broker.Publication{Channel: "load", Data: []byte(big)}
				}
				for _, res := range r.PublishBatch(ctx, ps) {
					mu.Lock()
					switch {
					case res.Err == nil:
						sums["acked"]++
					case errors.Is(res.Err, broker.ErrUncertain):
						sums["uncertain"]++
					case errors.Is(res.Err, broker.ErrDown), errors.Is(res.Err, context.Canceled):
						sums["down"]++
					default:
						t.Errorf("%v", res.Err)
					}
					mu.Unlock()
				}
			}
		})
	}
	brokertest.Wait(t, "some are acked", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return sums["acked"] > 0
	})
	since := time.Now()
	rel.frozen.Store(true)
	brokertest.Wait(t, "Down", func() bool { return !r.sink.Up() })
	if d := time.Since(since); d > 2*time.Second {
		t.Errorf("noticed after %v", d)
	}
	time.Sleep(100 * time.Millisecond)
	cancel()
	since = time.Now()
	wg.Wait()
	if d := time.Since(since); d > time.Second {
		t.Errorf("publishers were let go after %v", d)
	}
	rel.frozen.Store(false)
	brokertest.Wait(t, "up", r.sink.Up)
	ack := r.put(t, "a", `2`)
	brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(ack.Seq) })
	mu.Lock()
	defer mu.Unlock()
	stored := uint64(len(r.sink.Messages())) - 2
	if sums["down"] == 0 || sums["acked"] > stored || stored > sums["acked"]+sums["uncertain"] || r.Counters().Lost != 0 {
		t.Errorf("%d stored of %v, counters %+v", stored, sums, r.Counters())
	}
	t.Logf("%v, %d stored", sums, stored)
}

// TestNoAck: the ack is missing, the connection stands.
func TestNoAck(t *testing.T) {
	out := startOutside(t)
	rel := startRelay(t, strings.TrimPrefix(out.url, "nats://"))
	r := start(t, func(c *Config) {
		c.URL, c.DataDir, c.AckTimeout = "nats://"+rel.ln.Addr().String(), "", 200*time.Millisecond
	})
	rel.frozen.Store(true)
	_, err := r.Publish(t.Context(), broker.Publication{Channel: "a", Data: []byte(`1`)})
	rel.frozen.Store(false)
	if !errors.Is(err, broker.ErrUncertain) {
		t.Errorf("%v", err)
	}
	brokertest.Wait(t, "it was stored after all", func() bool { return r.sink.Reached(1) })
}

// TestStreamLostItsEnd: restored from a backup, the stream gives numbers out
// again, so it gets another epoch, the same on every node.
func TestStreamLostItsEnd(t *testing.T) {
	out := startOutside(t)
	var nodes []*rig
	for range 2 {
		r := start(t, func(c *Config) { c.URL, c.DataDir, c.rollbackGrace = out.url, "", 200*time.Millisecond })
		nodes = append(nodes, r)
	}
	r := nodes[0]
	for range 5 {
		r.put(t, "a", `1`)
	}
	out.stop()
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(out.opts.StoreDir)); err != nil {
		t.Fatal(err)
	}
	brokertest.Wait(t, "down", func() bool { return !r.State().Connected })
	out.start()
	brokertest.Wait(t, "up", func() bool { return r.State().Connected })
	old := r.put(t, "a", `2`)
	for _, n := range nodes {
		brokertest.Wait(t, "it arrives", func() bool { return n.sink.Reached(old.Seq) })
	}
	out.stop()
	if err := os.RemoveAll(filepath.Join(out.opts.StoreDir, "jetstream")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(out.opts.StoreDir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	out.start()
	for _, n := range nodes {
		brokertest.Wait(t, "another epoch", func() bool {
			s := n.State()
			return s.Connected && s.Epoch != old.Epoch
		})
	}
	if a, b := nodes[0].State().Epoch, nodes[1].State().Epoch; a != b {
		t.Errorf("epochs %s and %s", a, b)
	}
	ack := r.put(t, "a", `3`)
	if ack.Seq != 6 || ack.Epoch != r.State().Epoch {
		t.Errorf("ack %+v", ack)
	}
	brokertest.Wait(t, "it arrives", func() bool { return nodes[1].sink.Reached(6) })
}

// TestNodesStartTogether: over an empty server, one stream comes of it.
func TestNodesStartTogether(t *testing.T) {
	out := startOutside(t)
	const n = 4
	var bs [n]*Broker
	var sinks [n]*brokertest.Recorder
	for i := range n {
		cfg := testConfig()
		cfg.URL = out.url
		bs[i], sinks[i] = newBroker(t, cfg), brokertest.NewRecorder(t)
	}
	for i := range n {
		if err := bs[i].Start(sinks[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		brokertest.Wait(t, "up", sinks[i].Up)
		if bs[i].State().Epoch != bs[0].State().Epoch {
			t.Errorf("epochs %s and %s", bs[i].State().Epoch, bs[0].State().Epoch)
		}
	}
	for i := range n {
		ack, err := bs[i].Publish(t.Context(), broker.Publication{Channel: "a", Data: []byte(`1`)})
		if err != nil || ack.Seq != uint64(i)+1 {
			t.Errorf("%+v, %v", ack, err)
		}
	}
	for i := range n {
		brokertest.Wait(t, "all arrive", func() bool { return sinks[i].Reached(n) })
	}
}

// serverDir tells the test binary to be a nats-server over that directory.
const serverDir = "ODIN_TEST_SERVER_DIR"

// serverChild runs a nats-server, prints its URL and stays until its standard
// input ends, as it does when its parent goes.
func serverChild(dir string) {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	srv.Start()
	if srv.ReadyForConnections(10 * time.Second) {
		fmt.Println(srv.ClientURL())
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
	os.Exit(0)
}

// TestStopped: a nats-server that is stopped, not closed, is noticed within
// 2 s; publishers are refused meanwhile, and what they weren't acked isn't there
// later, unless they were told that it may be. It stops for 5 s, or as long as
// ODIN_TEST_STOP says.
func TestStopped(t *testing.T) {
	pause := 5 * time.Second
	if s := os.Getenv("ODIN_TEST_STOP"); s != "" {
		var err error
		if pause, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		in.Close()
		_ = cmd.Wait()
	}()
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, func(c *Config) { c.URL, c.DataDir = strings.TrimSpace(url), "" })
	acked, uncertain := map[uint64]string{}, map[string]bool{}
	n := 0
	publish := func() error {
		n++
		data := fmt.Sprint(n)
		ack, err := r.Publish(t.Context(), broker.Publication{Channel: "a", Data: []byte(data)})
		if err == nil {
			acked[ack.Seq] = data
		} else if errors.Is(err, broker.ErrUncertain) {
			uncertain[data] = true
		} else if !errors.Is(err, broker.ErrDown) {
			t.Errorf("%v", err)
		}
		return err
	}
	for range 50 {
		if err := publish(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	brokertest.Wait(t, "not connected", func() bool { return !r.State().Connected })
	noticed := time.Since(since)
	if noticed > 2*time.Second {
		t.Errorf("noticed after %v", noticed)
	}
	refused := 0
	for time.Since(since) < pause {
		begun := time.Now()
		if err := publish(); !errors.Is(err, broker.ErrDown) {
			t.Errorf("while stopped: %v", err)
		} else if d := time.Since(begun); d > 200*time.Millisecond {
			t.Errorf("refused after %v", d)
		}
		refused++
		time.Sleep(20 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	since = time.Now()
	brokertest.Wait(t, "connected", func() bool { return r.State().Connected })
	brokertest.Wait(t, "publishes are acked", func() bool { return publish() == nil })
	back := time.Since(since)
	if back > 10*time.Second {
		t.Errorf("back after %v", back)
	}
	brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(r.head.Load()) })
	for _, m := range r.sink.Messages() {
		if data := string(m.Data); acked[m.Seq] != data && !uncertain[data] {
			t.Errorf("%d is %s, which was refused", m.Seq, data)
		}
		delete(acked, m.Seq)
	}
	if len(acked) != 0 || len(r.sink.Losses()) != 0 {
		t.Errorf("not delivered: %v, losses %v", acked, r.sink.Losses())
	}
	t.Logf("stopped for %v: noticed after %v, %d publishes refused, %d uncertain, back %v after it went on", pause, noticed, refused, len(uncertain), back)
}
