package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/internal/market"
)

// recording is a market file as its lines say, read by this test and not by the
// code that plays it.
type recording struct {
	path     string
	events   int
	channels []string            // sorted
	data     map[string][][]byte // each channel's payloads in file order
}

// TestReplayRecordings is the promise in full: recorded market data goes
// through the real path to many clients, and every client's every channel is an
// unbroken chain of numbers over exactly the file's bytes, nothing missing,
// nothing twice. Without the recordings a synthetic market of their shape plays.
func TestReplayRecordings(t *testing.T) {
	const sends, flatOut = "8192", "200000"
	long := os.Getenv("ODIN_LONG") != ""
	runs := []struct {
		name      string
		file      string // in the directory of recordings
		synth     market.SynthConfig
		events    int // of the synthetic stand-in
		speed     string
		sendQueue string
		some, all int // clients on 20 channels, and on every channel
		long      bool
	}{
		{"burst, its busiest second, real time", "binance-burst-peak1s.ndjson",
			market.SynthConfig{Symbols: 6, Rate: 5000, Seed: 1}, 5_000, "1", sends, 100, 10, false},
		{"many venues, first 2000, real time", "multi-venue-head2000.ndjson",
			market.SynthConfig{Symbols: 200, Rate: 1500, Seed: 2}, 2_000, "1", sends, 100, 10, false},
		{"burst, flat out", "binance-burst-60s.ndjson.gz",
			market.SynthConfig{Symbols: 6, Rate: 1300, Seed: 3}, 50_000, "0", flatOut, 5, 5, false},
		{"many venues, flat out", "multi-venue-31s.ndjson.gz",
			market.SynthConfig{Symbols: 200, Rate: 1900, Seed: 4}, 50_000, "0", flatOut, 5, 5, false},
		{"burst, real time", "binance-burst-60s.ndjson.gz",
			market.SynthConfig{Symbols: 6, Rate: 1300, Seed: 5}, 78_000, "1", sends, 100, 10, true},
		{"many venues, real time", "multi-venue-31s.ndjson.gz",
			market.SynthConfig{Symbols: 200, Rate: 1900, Seed: 6}, 60_000, "1", sends, 100, 10, true},
	}
	for _, run := range runs {
		t.Run(run.name, func(t *testing.T) {
			if run.long && !long {
				t.Skip("takes a minute: set ODIN_LONG=1, or make e2e-replay")
			}
			path := filepath.Join(t.TempDir(), "synthetic.ndjson")
			if dir, ok := market.TestData(); ok {
				path = filepath.Join(dir, run.file)
			} else {
				writeSynthetic(t, path, run.synth, run.events)
			}
			rec := readRecording(t, path)
			srv := startServer(t, "--send-queue", run.sendQueue)
			replay(t, srv, rec, run.speed, run.some, run.all)
		})
	}
}

// replay subscribes some clients to 20 channels each and others to all, plays
// the recording and waits until each client has had what it asked for.
func replay(t *testing.T, srv *Server, rec *recording, speed string, some, all int) {
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	readers := make([]*chainReader, 0, some+all)
	want := 0
	for i := range some + all {
		channels := slices.Clone(rec.channels)
		if i < some {
			rng.Shuffle(len(channels), func(a, b int) { channels[a], channels[b] = channels[b], channels[a] })
			channels = channels[:min(20, len(channels))]
		}
		r, err := subscribeReader(srv, rec, channels)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		defer r.c.Close()
		readers = append(readers, r)
		want += r.want
	}

	// How long it may take is judged once the file has been fed.
	for _, r := range readers {
		_ = r.c.conn.SetDeadline(time.Time{})
	}
	var wg sync.WaitGroup
	for i, r := range readers {
		wg.Go(func() {
			if err := r.readAll(); err != nil {
				t.Errorf("client %d of %d, on %d channels: %v", i, len(readers), len(r.chains), err)
			}
		})
	}

	start := time.Now()
	feed := exec.Command(odin(t), "feed", "replay", rec.path, "--speed", speed, "--admin-addr", srv.Admin)
	feed.Env = cleanEnv()
	out, err := feed.CombinedOutput()
	fed := time.Since(start)
	patience := time.Now().Add(30 * time.Second)
	if err != nil {
		t.Errorf("odin feed replay: %v\n%s", err, out)
		patience = time.Now()
	}
	for _, r := range readers {
		_ = r.c.conn.SetReadDeadline(patience)
	}
	wg.Wait()
	took := time.Since(start)
	if !t.Failed() {
		t.Logf("%d events on %d channels fed in %.2f s; %d frames to %d clients in %.2f s, %.0f frames/s; each chain whole, each byte as in the file",
			rec.events, len(rec.channels), fed.Seconds(), want, len(readers), took.Seconds(), float64(want)/took.Seconds())
	}
	if n := readers[0].stale; n > 0 {
		t.Logf("on the way the gateway lost its broker: the first client was told so %d times", n)
	}
	if n := srv.Stat(t, "slowClientsDisconnected"); n != 0 {
		t.Errorf("the server counts %d slow clients, want none", n)
	}
}

// chainReader checks what one client gets against the recording.
type chainReader struct {
	c      *rawClient
	want   int               // messages in all
	stale  int               // times it was told that a channel may be behind
	chains map[string]*chain // by channel
}

// chain is how far one channel of one client is.
type chain struct {
	data [][]byte // what is to come, in order
	next int      // of data
	last uint64   // seq of the message before; 0 before the first
}

// subscribeReader connects and subscribes to channels of a gateway that has
// never had a message, in bulk.
func subscribeReader(srv *Server, rec *recording, channels []string) (*chainReader, error) {
	c, err := dialRaw(srv.Addr)
	if err != nil {
		return nil, err
	}
	r := &chainReader{c: c, chains: make(map[string]*chain, len(channels))}
	for _, ch := range channels {
		r.chains[ch] = &chain{data: rec.data[ch]}
		r.want += len(rec.data[ch])
	}
	if err := r.subscribe(channels); err != nil {
		c.Close()
		return nil, err
	}
	return r, nil
}

func (r *chainReader) subscribe(channels []string) error {
	names, err := json.Marshal(channels)
	if err != nil {
		return err
	}
	if err := r.c.Send(fmt.Sprintf(`{"op":"sub","id":1,"ch":%s}`, names)); err != nil {
		return err
	}
	for _, want := range []string{"hello", "ack"} {
		b, err := r.c.Recv()
		if err != nil {
			return err
		}
		f, err := parseFrame(b)
		if err != nil {
			return err
		}
		if f.T != want {
			return fmt.Errorf("got %v, want %s", f, want)
		}
		if want == "ack" && (len(f.positions()) != len(channels) || len(f.Rej) != 0) {
			return fmt.Errorf("ack of %d channels, %d rejected, want all %d", len(f.positions()), len(f.Rej), len(channels))
		}
	}
	return nil
}

// readAll reads until every chain is complete, then makes sure that nothing
// follows.
func (r *chainReader) readAll() error {
	for got := range r.want {
		m, err := r.nextMessage()
		if err != nil {
			return fmt.Errorf("after %d of %d messages: %w", got, r.want, err)
		}
		if err := r.check(m); err != nil {
			return fmt.Errorf("message %d of %d: %w", got+1, r.want, err)
		}
	}
	// Commands take effect in order and so do their answers: what comes before
	// the pong is all there was.
	if err := r.c.Send(`{"op":"ping","id":2}`); err != nil {
		return err
	}
	for {
		b, err := r.c.Recv()
		if err != nil {
			return fmt.Errorf("waiting for the pong: %w", err)
		}
		f, err := parseFrame(b)
		switch {
		case err != nil:
			return err
		case f.T == "pong":
			return nil
		case f.T != "hb" && f.T != "stale" && f.T != "live":
			return fmt.Errorf("after the last message came %v", f)
		}
	}
}

// nextMessage passes over heartbeats, and over stale and live: on a machine that
// is short of CPU the gateway may lose sight of its broker for a moment, says so,
// and misses nothing for it. Nothing else may come between messages.
func (r *chainReader) nextMessage() (message, error) {
	for {
		b, err := r.c.Recv()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return message{}, errors.New("the rest did not come")
			}
			return message{}, err
		}
		if m, ok := parseMessage(b); ok {
			return m, nil
		}
		f, err := parseFrame(b)
		switch {
		case err != nil:
			return message{}, err
		case f.T == "msg": // its members in an order of their own
			return message{ch: []byte(f.channel()), seq: f.Seq, prev: f.Prev, d: f.D}, nil
		case f.T == "stale":
			r.stale++
		case f.T != "hb" && f.T != "live":
			return message{}, fmt.Errorf("got %v", f)
		}
	}
}

func (r *chainReader) check(m message) error {
	c := r.chains[string(m.ch)]
	switch {
	case c == nil:
		return fmt.Errorf("channel %s was not asked for", m.ch)
	case c.next == len(c.data):
		return fmt.Errorf("%s: seq %d is one message more than the file has", m.ch, m.seq)
	case m.seq <= c.last:
		return fmt.Errorf("%s: seq %d after %d", m.ch, m.seq, c.last)
	case m.prev != c.last && c.next > 0:
		return fmt.Errorf("%s: seq %d has prev %d, the one before was %d", m.ch, m.seq, m.prev, c.last)
	case !bytes.Equal(m.d, c.data[c.next]):
		return fmt.Errorf("%s: message %d (seq %d) is %.300q, the file has %.300q", m.ch, c.next, m.seq, m.d, c.data[c.next])
	}
	c.next++
	c.last = m.seq
	return nil
}

// readRecording reads a file by its fixed line shape
// {"ts":…,"channel":"…","data":…}, taking the payload as the bytes stand there.
func readRecording(t *testing.T, path string) *recording {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	rec := &recording{path: path, data: make(map[string][][]byte)}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		_, rest, ok1 := bytes.Cut(lines.Bytes(), []byte(`"channel":"`))
		ch, rest, ok2 := bytes.Cut(rest, []byte(`","data":`))
		d, ok3 := bytes.CutSuffix(bytes.TrimRight(rest, " \r"), []byte("}"))
		if !ok1 || !ok2 || !ok3 {
			t.Fatalf("%s:%d: not a recording's line", path, rec.events+1)
		}
		rec.data[string(ch)] = append(rec.data[string(ch)], bytes.Clone(d))
		rec.events++
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	for ch := range rec.data {
		rec.channels = append(rec.channels, ch)
	}
	slices.Sort(rec.channels)
	return rec
}

func writeSynthetic(t *testing.T, path string, c market.SynthConfig, events int) {
	t.Helper()
	var out bytes.Buffer
	synth := market.NewSynth(c)
	for range events {
		e := synth.Next()
		fmt.Fprintf(&out, `{"ts":%d,"channel":%q,"data":%s}`+"\n", e.TS, e.Channel, e.Data)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
