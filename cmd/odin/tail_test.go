package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A step is one frame for the checker: a message, a gap or a resume.
type step struct {
	ch        string
	seq, prev uint64
	skip      uint64
	gap       bool // after seq, before prev
	why       string
	resume    bool // from seq
	fault     string
}

func TestChains(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"whole", []step{{ch: "a", seq: 5, prev: 2}, {ch: "b", seq: 6}, {ch: "a", seq: 9, prev: 5}, {ch: "b", seq: 10, prev: 6}}},
		{"first starts anywhere", []step{{ch: "a", seq: 100, prev: 7}}},
		{"hole", []step{{ch: "a", seq: 5}, {ch: "a", seq: 9, prev: 7, fault: "a: seq 9 has prev 7, but the last was 5"}, {ch: "a", seq: 10, prev: 9}}},
		{"prev lost", []step{{ch: "a", seq: 5}, {ch: "a", seq: 9, prev: 0, fault: "has prev 0"}}},
		{"repeated", []step{{ch: "a", seq: 5}, {ch: "a", seq: 5, prev: 3, fault: "seq 5 came after 5"}, {ch: "a", seq: 6, prev: 5}}},
		{"backwards", []step{{ch: "a", seq: 5, prev: 4}, {ch: "a", seq: 3, prev: 2, fault: "seq 3 came after 5"}, {ch: "a", seq: 6, prev: 5}}},
		{"prev not below seq", []step{{ch: "a", seq: 5, prev: 5, fault: "seq 5 has prev 5"}}},
		{"gap explains", []step{{ch: "a", seq: 5}, {ch: "a", gap: true, seq: 5, prev: 9}, {ch: "a", seq: 9, prev: 8}, {ch: "a", seq: 10, prev: 9}}},
		{"gap, prev its first", []step{{ch: "a", seq: 5}, {ch: "a", gap: true, seq: 5, prev: 9}, {ch: "a", seq: 12, prev: 5}}},
		{"gap too short", []step{{ch: "a", seq: 5}, {ch: "a", gap: true, seq: 5, prev: 9}, {ch: "a", seq: 12, prev: 9, fault: "no gap or skip explains it"}}},
		{"gap of another channel", []step{{ch: "a", seq: 5}, {ch: "b", gap: true, seq: 5, prev: 9}, {ch: "a", seq: 9, prev: 8, fault: "prev 8"}}},
		{"gap is used up", []step{{ch: "a", seq: 5}, {ch: "a", gap: true, seq: 5, prev: 9}, {ch: "a", seq: 9, prev: 7}, {ch: "a", seq: 11, prev: 8, fault: "prev 8"}}},
		{"two gaps", []step{{ch: "a", seq: 5}, {ch: "a", gap: true, seq: 5, prev: 9}, {ch: "a", gap: true, seq: 8, prev: 12}, {ch: "a", seq: 12, prev: 11}}},
		{"gap of the wildcard", []step{{ch: "t.a", seq: 5}, {ch: "x", seq: 6}, {ch: "t.*", gap: true, seq: 5, prev: 9}, {ch: "t.a", seq: 9, prev: 8}, {ch: "x", seq: 10, prev: 8, fault: "x:"}}},
		{"new epoch", []step{{ch: "a", seq: 500}, {ch: "a", gap: true, seq: 500, prev: 1, why: "epoch"}, {ch: "a", seq: 2, prev: 1}, {ch: "a", seq: 3, prev: 2}}},
		{"skip explains", []step{{ch: "a", seq: 5}, {ch: "a", seq: 9, prev: 8, skip: 3}, {ch: "a", seq: 10, prev: 9}}},
		{"skip 0 does not", []step{{ch: "a", seq: 5}, {ch: "a", seq: 9, prev: 8, fault: "explains"}}},
		{"skip and still backwards", []step{{ch: "a", seq: 5}, {ch: "a", seq: 4, prev: 3, skip: 3, fault: "came after"}}},
		{"resumed", []step{{ch: "a", resume: true, seq: 5}, {ch: "a", seq: 7, prev: 5}}},
		{"resumed from a later position", []step{{ch: "a", resume: true, seq: 6}, {ch: "a", seq: 7, prev: 5}}},
		{"resumed with a hole", []step{{ch: "a", resume: true, seq: 5}, {ch: "a", seq: 9, prev: 7, fault: "the last was 5"}}},
		{"resumed and repeated", []step{{ch: "a", resume: true, seq: 5}, {ch: "a", seq: 5, prev: 3, fault: "came after 5"}}},
		{"resumed with a gap", []step{{ch: "a", resume: true, seq: 5}, {ch: "a", gap: true, seq: 5, prev: 9}, {ch: "a", seq: 9, prev: 8}}},
		{"resumed wildcard", []step{{ch: "t.*", resume: true, seq: 5}, {ch: "t.a", seq: 7, prev: 4}, {ch: "t.b", seq: 9, prev: 6, fault: "t.b"}, {ch: "x", seq: 20, prev: 18}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newChains()
			faults := 0
			for i, s := range c.steps {
				switch {
				case s.resume:
					k.resumed(s.ch, s.seq)
				case s.gap:
					k.gap(s.ch, s.seq, s.prev, s.why)
				default:
					err := k.message(s.ch, s.seq, s.prev, s.skip)
					if (err != nil) != (s.fault != "") || err != nil && !strings.Contains(err.Error(), s.fault) {
						t.Errorf("step %d: %v, want %q", i, err, s.fault)
					}
					if s.fault != "" {
						faults++
					}
				}
			}
			if k.faults != faults {
				t.Errorf("%d faults counted, want %d", k.faults, faults)
			}
		})
	}
}

// script is a WebSocket server that answers the first sub with frames.
type script struct {
	frames []string
	close  websocket.StatusCode // 0: stay open until the client goes
	sub    chan map[string]any
	header chan http.Header
}

func serveScript(t *testing.T, s *script) string {
	t.Helper()
	s.sub, s.header = make(chan map[string]any, 4), make(chan http.Header, 4)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ws" {
			http.Error(w, `{"code":"at_capacity"}`, http.StatusServiceUnavailable)
			return
		}
		s.header <- r.Header
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"odin.v1.json"}})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		_ = c.Write(r.Context(), websocket.MessageText, []byte(`{"t":"hello","conn":"c","node":"n","v":1}`))
		_, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		var sub map[string]any
		_ = json.Unmarshal(b, &sub)
		s.sub <- sub
		for _, f := range s.frames {
			_ = c.Write(r.Context(), websocket.MessageText, []byte(f))
		}
		if s.close != 0 {
			_ = c.Close(s.close, "")
			return
		}
		_, _, _ = c.Read(r.Context())
	}))
	t.Cleanup(srv.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws"
}

const (
	ackA  = `{"t":"ack","id":1,"ch":{"t.*":{"epoch":"e7","seq":5,"recovered":true}}}`
	msgA1 = `{"t":"msg","ch":"t.a","seq":6,"prev":5,"ts":1767000000123,"d":{ "p": 1.0 }}`
	msgA2 = `{"t":"msg","ch":"t.a","seq":8,"prev":6,"ts":1767000000124,"d":2}`
	msgA3 = `{"t":"msg","ch":"t.a","seq":20,"prev":15,"ts":1767000000125,"d":3}`
	gapA  = `{"t":"gap","ch":"t.a","after":8,"before":20,"why":"evicted"}`
)

func TestTail(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames []string
		close  websocket.StatusCode
		args   []string
		code   int
		out    []string
		err    []string
	}{
		{name: "prints the frames as they came", frames: []string{ackA, msgA1, `{"t":"hb","ts":1}`, `{"t":"stale","ch":"t.a"}`, msgA2},
			args: []string{"--count", "2"}, out: []string{msgA1, `{"t":"stale","ch":"t.a"}`, msgA2}},
		{name: "a good chain", frames: []string{ackA, msgA1, msgA2, gapA, msgA3}, args: []string{"--check", "--count", "3"},
			out: []string{msgA1, msgA2, gapA, msgA3}, err: []string{"checked 3 messages on 1 channels: 0 faults, 1 announced gaps"}},
		{name: "a bad chain", frames: []string{ackA, msgA1, msgA2, msgA3}, args: []string{"--check", "--quiet", "--count", "3"}, code: 1,
			err: []string{"fault: t.a: seq 20 has prev 15, but the last was 8", "1 faults, 0 announced gaps"}},
		{name: "unchecked", frames: []string{ackA, msgA1, msgA3}, args: []string{"-q", "--count", "2"}},
		{name: "resumed with a hole", frames: []string{ackA, msgA2}, args: []string{"--check", "--since", "e7:5", "-q", "--count", "1"}, code: 1,
			err: []string{"seq 8 has prev 6, but the last was 5"}},
		{name: "latest", frames: []string{ackA, msgA1, strings.Replace(msgA3, `"ts"`, `"skip":3,"ts"`, 1)}, args: []string{"--check", "--mode", "latest", "--ms", "50", "-q", "--count", "2"},
			err: []string{"checked 2 messages on 1 channels: 0 faults"}},
		{name: "for a while", frames: []string{ackA, msgA1}, args: []string{"--duration", "200ms"}, out: []string{msgA1}},
		{name: "pretty", frames: []string{ackA, msgA1, gapA, strings.Replace(msgA3, `"ts"`, `"skip":3,"ts"`, 1)}, args: []string{"--pretty", "--count", "2"},
			out: []string{
				time.UnixMilli(1767000000123).Format("15:04:05.000") + ` t.a 6 { "p": 1.0 }`,
				"             t.a gap after 8 before 20: evicted",
				time.UnixMilli(1767000000125).Format("15:04:05.000") + " t.a 20 (3 skipped) 3",
			}},
		{name: "refused", frames: []string{`{"t":"ack","id":1,"ch":{},"rej":{"t.*":"forbidden"}}`}, code: 1, err: []string{"refused t.*: forbidden"}},
		{name: "error", frames: []string{`{"t":"err","id":1,"code":"bad_request","message":"no"}`}, code: 1, err: []string{"bad_request no"}},
		{name: "error of something else", frames: []string{ackA, `{"t":"err","code":"rate_limited"}`, msgA1}, args: []string{"--count", "1"}, out: []string{msgA1}, err: []string{"rate_limited"}},
		{name: "drained", frames: []string{ackA, msgA1, `{"t":"bye","code":1012,"retry_ms":4211}`}, close: 1012, code: 1, out: []string{msgA1},
			err: []string{"1012 the server drains", "come back in 4211 ms"}},
		{name: "too slow", frames: []string{ackA}, close: 4101, code: 1, err: []string{"4101 this client was too slow"}},
		{name: "no JSON", frames: []string{"hello?"}, code: 1, err: []string{"no JSON object"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := serveScript(t, &script{frames: c.frames, close: c.close})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			r := odinContext(ctx, nil, "", append([]string{"tail", "--url", url, "t.*"}, c.args...)...)
			want := ""
			if len(c.out) > 0 {
				want = strings.Join(c.out, "\n") + "\n"
			}
			if r.code != c.code || r.out != want {
				t.Errorf("code %d, want %d; stderr %s\n%s\nwant\n%s", r.code, c.code, r.err, r.out, want)
			}
			for _, e := range c.err {
				if !strings.Contains(r.err, e) {
					t.Errorf("stderr %q, want %q in it", r.err, e)
				}
			}
			if ctx.Err() != nil {
				t.Error("it did not end by itself")
			}
		})
	}
}

func TestTailAsks(t *testing.T) {
	s := &script{frames: []string{ackA, msgA1}}
	url := strings.TrimSuffix(strings.Replace(serveScript(t, s), "ws://", "http://", 1), "/ws")
	r := odin(t, []string{"ODIN_URL=" + url, "ODIN_TOKEN=tok"}, "", "tail", "--since", "e7:1041", "--mode", "latest", "--ms", "250", "--count", "1", "t.*", "b")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	got, _ := json.Marshal(<-s.sub)
	want := `{"ch":["t.*","b"],"id":1,"mode":"latest","ms":250,"op":"sub","since":{"b":{"epoch":"e7","seq":1041},"t.*":{"epoch":"e7","seq":1041}}}`
	if string(got) != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	h := <-s.header
	if h.Get("Authorization") != "Bearer tok" || h.Get("Sec-Websocket-Protocol") != "odin.v1.json" {
		t.Errorf("headers %v", h)
	}

	if r := odin(t, nil, "", "tail", "--url", url+"/other", "a"); r.code != 1 || !strings.Contains(r.err, "503") || !strings.Contains(r.err, "at_capacity") {
		t.Errorf("at capacity: %+v", r)
	}
	if r := odin(t, nil, "", "tail", "--url", "127.0.0.1:1", "a"); r.code != 1 || !strings.Contains(r.err, "no gateway answers at ws://127.0.0.1:1/ws: connection refused") {
		t.Errorf("nobody there: %+v", r)
	}
}

// A frame far longer than the library's default limit arrives.
func TestTailLongFrame(t *testing.T) {
	long := `{"t":"msg","ch":"t.a","seq":6,"prev":5,"ts":1,"d":"` + strings.Repeat("x", 1<<20) + `"}`
	url := serveScript(t, &script{frames: []string{ackA, long}})
	r := odin(t, nil, "", "tail", "--url", url, "--count", "1", "t.*")
	if r.code != 0 || r.out != long+"\n" {
		t.Errorf("code %d, %d bytes, %s", r.code, len(r.out), r.err)
	}
}

// Interrupting a tail is its normal end.
func TestTailInterrupted(t *testing.T) {
	s := &script{frames: []string{ackA, msgA1}}
	url := serveScript(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-s.sub
		time.Sleep(200 * time.Millisecond)
		cancel()
	}()
	r := odinContext(ctx, nil, "", "tail", "--check", "--url", url, "t.*")
	if r.code != 0 || r.out != msgA1+"\n" || !strings.Contains(r.err, "checked 1 messages") {
		t.Errorf("%+v", r)
	}
	if isTerminal(os.NewFile(^uintptr(0), "none")) {
		t.Error("a bad descriptor is no terminal")
	}
}
