package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/internal/market"
)

// admin is a gateway's admin port as the commands see it.
type admin struct {
	*httptest.Server

	mu    sync.Mutex
	got   []market.Event // stored, in order; guarded by mu
	conns int            // connections made; guarded by mu
	// answer decides over one request before its events are stored: a status
	// other than 200 refuses it whole, a code refuses the event at an index.
	answer func(request int) (status int, refused map[int]string)
	reqs   int // guarded by mu
	key    string
	most   int // longest item, 0 for any
}

func newAdmin(t *testing.T) *admin {
	t.Helper()
	a := &admin{}
	a.Server = httptest.NewUnstartedServer(a)
	a.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			a.mu.Lock()
			a.conns++
			a.mu.Unlock()
		}
	}
	a.Start()
	t.Cleanup(a.Close)
	return a
}

func (a *admin) addr() string { return strings.TrimPrefix(a.URL, "http://") }

func (a *admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reqs++
	body, _ := io.ReadAll(r.Body)
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"code":%q,"message":"because"}`, code)
	}
	if a.key != "" && r.Header.Get("Authorization") != "Bearer "+a.key {
		refuse(401, "unauthorized")
		return
	}
	var items [][]byte
	kind := r.Header.Get("Content-Type")
	switch {
	case r.URL.Path == "/v1/publish":
		items = [][]byte{body}
	case kind == "application/x-ndjson":
		items = bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	default:
		var raw []json.RawMessage
		_ = json.Unmarshal(body, &raw)
		for _, m := range raw {
			items = append(items, m)
		}
	}
	for _, item := range items {
		if a.most > 0 && len(item) > a.most {
			refuse(400, "bad_request")
			return
		}
	}
	var codes map[int]string
	if a.answer != nil {
		status, refused := a.answer(a.reqs)
		if status == 0 { // the connection breaks
			c, _, _ := w.(http.Hijacker).Hijack()
			_ = c.Close()
			return
		}
		if status != 200 {
			refuse(status, "broker_down")
			return
		}
		codes = refused
	}
	out := make([]outcome, len(items))
	for i, item := range items {
		e, err := market.ParseEvent(item)
		switch {
		case err != nil:
			out[i] = outcome{Code: "bad_request", Message: err.Error()}
		case codes[i] != "":
			out[i] = outcome{Code: codes[i], Message: "because"}
		default:
			a.got = append(a.got, e)
			out[i] = outcome{Epoch: "e1", Seq: uint64(len(a.got))}
		}
	}
	enc := json.NewEncoder(w)
	switch {
	case r.URL.Path == "/v1/publish":
		if out[0].Code != "" {
			w.WriteHeader(400)
		}
		_ = enc.Encode(out[0])
	case kind == "application/x-ndjson":
		for _, o := range out {
			_ = enc.Encode(o)
		}
	default:
		_ = enc.Encode(out)
	}
}

func events(n int) []market.Event {
	s := market.NewSynth(market.SynthConfig{Seed: 9, Rate: 5000})
	all := make([]market.Event, n)
	for i := range all {
		all[i] = s.Next()
	}
	return all
}

// recordingOf writes events as a recording, with payloads no encoder would
// write like that.
func recordingOf(t *testing.T, all []market.Event) string {
	t.Helper()
	var b bytes.Buffer
	for _, e := range all {
		fmt.Fprintf(&b, `{"ts":%d,"channel":%q,"data":%s}`+"\n", e.TS, e.Channel, e.Data)
	}
	return writeFile(t, "rec.ndjson", b.String())
}

// same compares channel, payload and key, byte for byte.
func same(t *testing.T, got, want []market.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d events were stored, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if g.Channel != w.Channel || !bytes.Equal(g.Data, w.Data) || g.Key != w.Key {
			t.Fatalf("event %d is %s %s, want %s %s", i, g.Channel, g.Data, w.Channel, w.Data)
		}
	}
}

func TestFeedReplay(t *testing.T) {
	a := newAdmin(t)
	all := events(2000)
	for i, d := range []string{`{ "a" : 1.00 }`, `{"s":"\u00e9<>&\/"}`, `[1,  2]`, `"é\u2028"`, `1e3`, `{"b":"` + strings.Repeat("x", 30_000) + `"}`} {
		all[100*i].Data = []byte(d)
	}
	r := odin(t, nil, "", "feed", "replay", recordingOf(t, all), "--admin-addr", a.addr(), "--speed", "0")
	if r.code != 0 || !strings.Contains(r.out, "sent      2000 events") || !strings.Contains(r.out, "acked     2000\nfailed    none\n") {
		t.Fatalf("%+v", r)
	}
	same(t, a.got, all)
	if a.conns != 1 || a.reqs < 4 || a.reqs > 20 {
		t.Errorf("%d requests over %d connections", a.reqs, a.conns)
	}
}

func TestFeedReplayFlags(t *testing.T) {
	a := newAdmin(t)
	a.key = "k1"
	all := events(10)
	rec := recordingOf(t, all)
	r := odin(t, []string{"ODIN_ADMIN_ADDR=" + a.addr(), "ODIN_API_KEY=k1"}, "", "feed", "replay", "--loop", "--limit", "25", "--speed", "0", "--json", rec)
	var s feedStats
	if err := json.Unmarshal([]byte(r.out), &s); err != nil || r.code != 0 || s.Sent != 25 || s.Acked != 25 {
		t.Fatalf("%+v %v", r, err)
	}
	same(t, a.got, append(append(append([]market.Event{}, all...), all...), all[:5]...))

	r = odin(t, nil, "", "feed", "replay", rec, "--admin-addr", a.addr())
	if r.code != 1 || !strings.Contains(r.err, "unauthorized") || !strings.Contains(r.err, "--api-key") || !strings.Contains(r.out, "failed    unauthorized") {
		t.Errorf("without the key: %+v", r)
	}
	a.got = nil
	text, _ := os.ReadFile(rec)
	r = odin(t, nil, string(text), "feed", "replay", "-", "--admin-addr", a.URL, "--api-key", "k1", "--speed", "100")
	if r.code != 0 {
		t.Errorf("from standard input: %+v", r)
	}
	same(t, a.got, all)
	if r := odin(t, nil, "", "feed", "replay", "/none", "--admin-addr", a.addr()); r.code != exitUsage || !strings.Contains(r.err, "/none") {
		t.Errorf("no file: %+v", r)
	}
}

// A bad line ends the feed after the events before it.
func TestFeedReplayBadLine(t *testing.T) {
	a := newAdmin(t)
	rec := writeFile(t, "rec.ndjson", `{"ts":1,"channel":"a","data":1}`+"\n"+`{"ts":2,"channel":"a"}`+"\n"+`{"ts":3,"channel":"a","data":3}`+"\n")
	r := odin(t, nil, "", "feed", "replay", rec, "--admin-addr", a.addr(), "--speed", "0")
	if r.code != 1 || !strings.Contains(r.err, `rec.ndjson:2: no "data"`) || len(a.got) != 1 {
		t.Errorf("%d stored, %+v", len(a.got), r)
	}
}

func TestFeedSynth(t *testing.T) {
	a := newAdmin(t)
	args := []string{"feed", "synth", "--admin-addr", a.addr(), "--speed", "0", "--symbols", "7", "--rate", "500", "--seed", "4"}
	if r := odin(t, nil, "", append(args, "--limit", "700")...); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	s := market.NewSynth(market.SynthConfig{Symbols: 7, Rate: 500, Seed: 4})
	var want []market.Event
	for range 700 {
		want = append(want, s.Next())
	}
	same(t, a.got, want)
	a.got = nil
	if r := odin(t, nil, "", append(args, "--duration", "1s")...); r.code != 0 || len(a.got) < 100 || len(a.got) > 2000 {
		t.Errorf("1s of 500/s: %d events, %+v", len(a.got), r)
	}
}

// What was refused for now is sent again, in order; what is refused for good
// is counted; what may be stored is not repeated.
func TestFeedRefusals(t *testing.T) {
	all := events(600)
	for _, c := range []struct {
		name   string
		most   int
		answer func(request int) (int, map[int]string)
		code   int
		stored int
		retry  string // 1s
		out    string
	}{
		{name: "503 at first", stored: 600, out: "acked     600\nfailed    none",
			answer: func(n int) (int, map[int]string) { return map[bool]int{true: 503, false: 200}[n <= 2], nil }},
		{name: "events broker_down", stored: 600, out: "acked     600\nfailed    none",
			answer: func(n int) (int, map[int]string) {
				if n == 1 {
					return 200, map[int]string{510: codeBrokerDown, 511: codeBrokerDown}
				}
				return 200, nil
			}},
		{name: "events held back", stored: 600, out: "acked     600\nfailed    none",
			answer: func(n int) (int, map[int]string) {
				return 200, map[bool]map[int]string{true: {510: codeBusy, 511: codeBusy}}[n == 1]
			}},
		{name: "held back for a while", stored: 600, out: "acked     600\nfailed    none", retry: "3s",
			answer: func(n int) (int, map[int]string) {
				if n > 14 { // with longer and longer pauses, 6 s
					return 200, nil
				}
				busy := map[int]string{}
				for i := range batchEvents {
					busy[i] = codeBusy
				}
				return 200, busy
			}},
		{name: "event refused", stored: 599, code: 1, out: "acked     599\nfailed    too_large 1",
			answer: func(n int) (int, map[int]string) {
				return 200, map[bool]map[int]string{true: {5: codeTooLarge}}[n == 1]
			}},
		{name: "connection breaks", stored: 88, code: 1, out: "acked     88\nfailed    uncertain 512",
			answer: func(n int) (int, map[int]string) { return map[bool]int{true: 0, false: 200}[n == 1], nil }},
		{name: "one unreadable", stored: 599, code: 1, most: 20_000, out: "acked     599\nfailed    bad_request 1"},
		{name: "server error", code: 1, out: "failed    broker_down 512",
			answer: func(int) (int, map[int]string) { return 500, nil }},
		{name: "always 503", code: 1, out: "failed    broker_down 512",
			answer: func(int) (int, map[int]string) { return 503, nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAdmin(t)
			a.answer, a.most = c.answer, c.most
			in := append([]market.Event{}, all...)
			if c.most > 0 {
				in[77].Data = []byte(`"` + strings.Repeat("x", c.most) + `"`)
			}
			r := odin(t, nil, "", "feed", "replay", recordingOf(t, in), "--admin-addr", a.addr(), "--speed", "0", "--retry", cmp.Or(c.retry, "1s"))
			if r.code != c.code || !strings.Contains(r.out, c.out) || len(a.got) != c.stored {
				t.Errorf("%d stored, want %d; %+v", len(a.got), c.stored, r)
			}
			if c.stored == len(all) {
				same(t, a.got, in)
			}
		})
	}
}

// fakeTarget stores with a given delay.
type fakeTarget struct {
	delay   time.Duration
	at      []time.Time // of each event's arrival
	batches []int
	got     []market.Event
	fail    func(batch int) error
}

func (f *fakeTarget) where() string { return "fake" }
func (f *fakeTarget) close()        {}
func (f *fakeTarget) publish(_ context.Context, events []market.Event) ([]outcome, error) {
	f.batches = append(f.batches, len(events))
	if f.fail != nil {
		if err := f.fail(len(f.batches)); err != nil {
			return nil, err
		}
	}
	for _, e := range events {
		f.at = append(f.at, time.Now())
		f.got = append(f.got, e)
	}
	time.Sleep(f.delay)
	return make([]outcome, len(events)), nil
}

func sequence(all []market.Event) func() (market.Event, error) {
	return func() (market.Event, error) {
		if len(all) == 0 {
			return market.Event{}, io.EOF
		}
		e := all[0]
		all = all[1:]
		return e, nil
	}
}

// Events leave when they are due, none before; a slow target makes batches.
func TestFeederPace(t *testing.T) {
	var all []market.Event
	for i := range 100 {
		all = append(all, market.Event{TS: int64(i) * int64(10*time.Millisecond), Channel: "a", Data: []byte("1")})
	}
	for _, c := range []struct {
		speed   float64
		delay   time.Duration
		elapsed time.Duration
		batches int
		lag     time.Duration
	}{
		{speed: 1, elapsed: 990 * time.Millisecond, batches: 100},
		{speed: 10, elapsed: 99 * time.Millisecond, batches: 100},
		{speed: .5, elapsed: 1980 * time.Millisecond, batches: 100},
		// The first alone, then what gathered in 100 ms: 1, 10, 20 … 90, 99.
		{speed: 1, delay: 100 * time.Millisecond, elapsed: 1100 * time.Millisecond, batches: 11, lag: 90 * time.Millisecond},
		{speed: 0, delay: 5 * time.Millisecond, elapsed: 5 * time.Millisecond, batches: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			to := &fakeTarget{delay: c.delay}
			f := &feeder{next: sequence(all), to: to, speed: c.speed, retry: time.Second, note: func(string) {}}
			began := time.Now()
			if err := f.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := f.snapshot()
			if s.Acked != 100 || s.Elapsed != c.elapsed || s.Batches != c.batches || s.MaxLag != c.lag {
				t.Errorf("speed %g: %+v, want %+v", c.speed, s, c)
			}
			for i, at := range to.at {
				if c.speed > 0 && at.Sub(began) < time.Duration(float64(all[i].TS)/c.speed) {
					t.Fatalf("speed %g: event %d came at %v", c.speed, i, at.Sub(began))
				}
			}
			same(t, to.got, all)
		})
	}
}

// The clock runs on while the target refuses: afterwards all that is due goes
// out at once, and the pauses grow.
func TestFeederBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []market.Event
		for i := range 100 {
			all = append(all, market.Event{TS: int64(i) * int64(100*time.Millisecond), Channel: "a", Data: []byte("1")})
		}
		began := time.Now()
		to := &fakeTarget{fail: func(int) error {
			if at := time.Since(began); at > time.Second && at < 4*time.Second {
				return &batchError{code: codeUnreachable, retry: true, err: errors.New("nobody there")}
			}
			return nil
		}}
		var notes []string
		f := &feeder{next: sequence(all), to: to, speed: 1, retry: time.Minute, note: func(s string) { notes = append(notes, s) }}
		if err := f.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := f.snapshot()
		if s.Acked != 100 || s.Retries < 4 || s.Retries > 10 || s.MaxLag < 2*time.Second || s.Lag != 0 || s.Elapsed != 9900*time.Millisecond {
			t.Errorf("%+v", s)
		}
		if len(notes) != 2 || !strings.Contains(notes[0], "trying again: nobody there") || !strings.Contains(notes[1], "takes events again after") {
			t.Errorf("notes %q", notes)
		}
		same(t, to.got, all)
	})
}

func TestFeederInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := market.NewSynth(market.SynthConfig{})
		to := &fakeTarget{delay: 10 * time.Millisecond}
		f := &feeder{next: func() (market.Event, error) { return s.Next(), nil }, to: to, speed: 1, note: func(string) {}}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := f.run(ctx); err != nil {
			t.Fatal(err)
		}
		got := f.snapshot()
		if got.Sent != got.Acked || got.Acked < 500 || got.Elapsed > 2*time.Second+10*time.Millisecond {
			t.Errorf("%+v", got)
		}
	})
}

// brokerFunc is a broker that answers by a function.
type brokerFunc func(p broker.Publication) broker.Result

func (f brokerFunc) PublishBatch(_ context.Context, ps []broker.Publication) []broker.Result {
	out := make([]broker.Result, len(ps))
	for i, p := range ps {
		out[i] = f(p)
	}
	return out
}

func TestBrokerTarget(t *testing.T) {
	b := &brokerTarget{name: "here", to: brokerFunc(func(p broker.Publication) broker.Result {
		err := map[string]error{
			"down": broker.ErrDown, "full": broker.ErrFull, "busy": broker.ErrBusy, "large": broker.ErrTooLarge,
			"unsure": broker.ErrUncertain, "late": context.DeadlineExceeded, "odd": errors.New("odd"),
		}[p.Channel]
		if err != nil {
			return broker.Result{Err: fmt.Errorf("wrapped: %w", err)}
		}
		return broker.Result{Ack: broker.Ack{Epoch: "e", Seq: 7, Duplicate: p.Key == "k"}}
	})}
	in := []market.Event{{Channel: "ok"}, {Channel: "ok", Key: "k"}, {Channel: "down"}, {Channel: "full"}, {Channel: "large"}, {Channel: "unsure"}, {Channel: "late"}, {Channel: "odd"}, {Channel: "busy"}}
	got, err := b.publish(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got[:2], []outcome{{Epoch: "e", Seq: 7}, {Epoch: "e", Seq: 7, Duplicate: true}}) {
		t.Errorf("%+v", got[:2])
	}
	for i, want := range []string{codeBrokerDown, codeFull, codeTooLarge, codeUncertain, codeUncertain, "error", codeBusy} {
		if got[i+2].Code != want {
			t.Errorf("%s: %+v, want %s", in[i+2].Channel, got[i+2], want)
		}
	}
}

// The real thing: a second of a recording, at its pace, arrives byte for byte.
func TestFeedRecording(t *testing.T) {
	dir, ok := market.TestData()
	if !ok {
		t.Skip("no recordings: set ODIN_TESTDATA")
	}
	a := newAdmin(t)
	path := filepath.Join(dir, "binance-burst-peak1s.ndjson")
	r := odin(t, nil, "", "feed", "replay", path, "--admin-addr", a.addr())
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if len(lines) != len(a.got) {
		t.Fatalf("%d stored of %d", len(a.got), len(lines))
	}
	for i, l := range lines {
		if !bytes.HasSuffix(l, append(append([]byte(`"data":`), a.got[i].Data...), '}')) {
			t.Fatalf("line %d: %s became %s", i+1, l, a.got[i].Data)
		}
	}
	t.Log(r.out)
}
