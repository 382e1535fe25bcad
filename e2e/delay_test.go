//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/internal/market"
)

// TestDelayedClients is the promise to healthy clients far away: with 80 ms of
// round trip, a hundred of them follow the five busiest channels of a recording in
// real time, with the server's defaults in 512 MiB. Every chain is whole, nobody is cut and
// nobody is told of a gap. It takes send buffers that grow: with the 4 KiB that
// all begin with, 80 ms let through 75 KB/s, and the market here has four times
// as much, and twenty times as much in its busiest second.
func TestDelayedClients(t *testing.T) {
	const (
		clients = 100
		oneWay  = 40 * time.Millisecond
	)
	span := 15 * time.Second
	if os.Getenv("ODIN_LONG") != "" {
		span = time.Minute
	}
	path := filepath.Join(t.TempDir(), "part.ndjson")
	if dir, ok := market.TestData(); ok {
		writeBeginning(t, filepath.Join(dir, "binance-burst-60s.ndjson.gz"), path, span)
	} else {
		writeSynthetic(t, path, market.SynthConfig{Symbols: 6, Rate: 1300, Seed: 8}, int(1300*span/time.Second))
	}
	rec := readRecording(t, path)
	channels, bytes := busiest(rec, 5)

	link := newDelayLink(t, oneWay)
	_, port, _ := net.SplitHostPort(freePort(t))
	srv := startServerAt(t, net.JoinHostPort(link.near.String(), port), "--memory-limit", "512MiB")
	far := &Server{Addr: net.JoinHostPort(link.far.String(), port)}

	readers := make([]*chainReader, clients)
	var wg sync.WaitGroup
	// A few at a time: for channels it does not know yet the server has to ask.
	at := make(chan struct{}, 4)
	for i := range readers {
		wg.Go(func() {
			at <- struct{}{}
			defer func() { <-at }()
			r, err := subscribeReader(far, rec, channels)
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			_ = r.c.conn.SetDeadline(time.Time{})
			readers[i] = r
		})
	}
	wg.Wait()
	for _, r := range readers {
		if r != nil {
			defer r.c.Close()
		}
	}
	if t.Failed() {
		return
	}
	asked := time.Now()
	if err := readers[0].c.Send(`{"op":"ping","id":9}`); err != nil {
		t.Fatal(err)
	}
	if _, err := readers[0].c.Recv(); err != nil {
		t.Fatal(err)
	}
	if rtt := time.Since(asked); rtt < 2*oneWay {
		t.Fatalf("a ping was answered after %v: there is no delay", rtt)
	}

	failed := make([]error, clients)
	for i, r := range readers {
		wg.Go(func() { failed[i] = r.readAll() })
	}
	quit := make(chan struct{})
	most := make(chan int64, 1)
	go func() { // what is on its way counts against the backlog
		top := int64(0)
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-tick.C:
				top = max(top, srv.Stat(t, "backlogBytes"))
			case <-quit:
				tick.Stop()
				most <- top
				return
			}
		}
	}()
	began := time.Now()
	out, err := exec.Command(odin(t), "feed", "replay", path, "--speed", "1", "--admin-addr", srv.Admin).CombinedOutput()
	fed := time.Since(began)
	if err != nil {
		t.Errorf("odin feed replay: %v\n%s", err, out)
	}
	for _, r := range readers {
		_ = r.c.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	}
	wg.Wait()
	took := time.Since(began)
	close(quit)

	stats := srv.Stats(t)
	for i, err := range failed {
		if err == nil {
			continue
		}
		// Then the round trip was not 80 ms but what this machine made of it.
		if late := time.Duration(link.late.Load()); late > 300*time.Millisecond {
			t.Skipf("too busy a machine to tell: the link was up to %v late; client %d: %v", late, i, err)
		}
		t.Errorf("client %d: %v", i, err)
	}
	for _, key := range []string{"slowClientsDisconnected", "evicted"} {
		if n := stats[key].(float64); n != 0 {
			t.Errorf("%s: %v, want none", key, n)
		}
	}
	if n := stats["sendBuffersGrown"].(float64); n < clients {
		t.Errorf("send buffers grew %v times for %d clients: nothing here needed the delay's bytes", n, clients)
	}
	t.Logf("%d events to each of %d clients, %.0f KB/s of payload, fed in %.1f s, all read after %.1f s; send buffers grew %v times and shrank %v times, held back %v, slow strikes %v; most backlog %.1f MiB",
		readers[0].want, clients, float64(bytes)/fed.Seconds()/1000, fed.Seconds(), took.Seconds(), stats["sendBuffersGrown"], stats["sendBuffersShrunk"],
		stats["heldBack"], stats["slowStrikes"], float64(<-most)/(1<<20))
}

// busiest are the n channels of a recording with the most bytes, and how many
// those are.
func busiest(rec *recording, n int) (channels []string, bytes int) {
	sizes := map[string]int{}
	for ch, data := range rec.data {
		for _, d := range data {
			sizes[ch] += len(d)
		}
	}
	channels = slices.SortedFunc(maps.Keys(sizes), func(a, b string) int { return cmp.Compare(sizes[b], sizes[a]) })
	channels = channels[:min(n, len(channels))]
	for _, ch := range channels {
		bytes += sizes[ch]
	}
	return channels, bytes
}

// writeBeginning writes the first part of a gzipped recording.
func writeBeginning(t *testing.T, from, to string, span time.Duration) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	first := int64(0)
	in := bufio.NewReader(gz)
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, _, _ := strings.Cut(strings.TrimPrefix(line, `{"ts":`), ",")
		ts, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: not a recording's line: %.100q", from, line)
		}
		if first == 0 {
			first = ts
		}
		if time.Duration(ts-first) > span {
			break
		}
		out.WriteString(line)
	}
	if err := os.WriteFile(to, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
