package odin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestResume(t *testing.T) {
	s, c, conn, r := following(t, "a", "b", "w.*")
	conn.msg("a", 101, 100)
	conn.msg("w.x", 102, 3)
	conn.send(`{"t":"gap","ch":"w.y","after":100,"before":104,"why":"broker"}`)
	r.want("a 101", "w.x 102", "gap w.y 100 104 broker")
	_ = conn.ws.CloseNow()
	r.want("error network")
	conn = s.accept()
	o := conn.expect("sub")
	want := Positions{"a": {"e7", 101}, "b": {"e7", 100}, "w.*": {"e7", 100}, "w.x": {"e7", 102}, "w.y": {"e7", 103}}
	if !maps.Equal(o.Since, want) {
		t.Errorf("resumes with %v, want %v", o.Since, want)
	}
	conn.ackAt(o, "e7", 110)
	conn.msg("w.x", 102, 3)     // again
	conn.msg("w.y", 105, 103)   // goes on
	conn.msg("w.z", 106, 0)     // new meanwhile
	conn.msg("a", 107, 101)     //
	conn.msg("b", 108, 90)      // the first ever: its prev is before the position
	conn.msg("w.late", 111, 99) //
	r.want("w.y 105", "w.z 106", "a 107", "b 108", "w.late 111")
	if s := c.Stats(); s.Duplicates != 1 || s.Connects != 2 {
		t.Errorf("stats are %+v", s)
	}
}

// Another client goes on with what was saved.
func TestSince(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	opts := r.follow("a", "w.*")
	opts.Since = Positions{"a": {"e7", 101}, "w.*": {"e7", 100}, "w.x": {"e7", 102}, "other": {"e7", 1}}
	subscribed(t, c, opts, func() {
		o := conn.expect("sub")
		if want := (Positions{"a": {"e7", 101}, "w.*": {"e7", 100}, "w.x": {"e7", 102}}); !maps.Equal(o.Since, want) {
			t.Errorf("since is %v", o.Since)
		}
		conn.ackAt(o, "e7", 110)
	})
	conn.msg("w.x", 102, 3)
	conn.msg("w.x", 103, 102)
	conn.msg("a", 110, 105)
	r.want("w.x 103", "error unexplained")
}

func TestEpochOnResume(t *testing.T) {
	s, c, conn, r := following(t, "a", "w.*")
	conn.msg("w.x", 101, 100)
	conn.msg("w.quiet", 102, 100)
	r.want("w.x 101", "w.quiet 102")
	_ = conn.ws.CloseNow()
	r.want("error network")
	conn = s.accept()
	o := conn.expect("sub")
	conn.ackAt(o, "e8", 5)
	conn.send(`{"t":"gap","ch":"a","after":100,"before":6,"why":"epoch"}`)
	conn.send(`{"t":"gap","ch":"w.*","after":100,"before":6,"why":"epoch"}`)
	conn.send(`{"t":"gap","ch":"w.x","after":101,"before":4,"why":"epoch"}`)
	conn.msg("w.x", 7, 3)
	conn.msg("w.quiet", 8, 2)
	conn.msg("a", 9, 5)
	r.want("gap a 100 6 epoch", "gap w.* 100 6 epoch", "gap w.x 101 4 epoch", "w.x 7", "w.quiet 8", "a 9")
	r.nothing()
	want := Positions{"a": {"e8", 9}, "w.*": {"e8", 5}, "w.x": {"e8", 7}, "w.quiet": {"e8", 8}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
}

// An epoch that changes with nothing said is an error, and told all the same.
func TestEpochUnsaid(t *testing.T) {
	s, _, conn, r := following(t, "a")
	_ = conn.ws.CloseNow()
	r.want("error network")
	conn = s.accept()
	conn.ackAt(conn.expect("sub"), "e8", 5)
	conn.msg("a", 6, 5)
	r.want("error unexplained", "gap a 100 6 epoch", "a 6")
}

// The stream is made anew under a connection: list tells the new epoch's name.
func TestEpochLive(t *testing.T) {
	s, c, conn, r := following(t, "a", "w.*")
	conn.msg("w.x", 101, 100)
	conn.send(`{"t":"gap","ch":"w.x","after":101,"before":1,"why":"epoch"}`)
	conn.send(`{"t":"gap","ch":"a","after":100,"before":1,"why":"epoch"}`)
	o := conn.expect("list")
	conn.msg("a", 1, 0)
	r.want("w.x 101", "gap w.x 101 1 epoch", "gap a 100 1 epoch", "a 1")
	conn.send(`{"t":"ack","id":%d,"ch":{"a":{"epoch":"e8","seq":1},"w.x":{"epoch":"e8","seq":0},"w.*":{"epoch":"e8","seq":1}}}`, o.ID)
	want := Positions{"a": {"e8", 1}, "w.*": {"e8", 0}, "w.x": {"e8", 0}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
	_ = conn.ws.CloseNow()
	conn = s.accept()
	if o := conn.expect("sub"); !maps.Equal(o.Since, want) {
		t.Errorf("resumes with %v", o.Since)
	}
}

// A gap that names the new epoch is all it takes: who loses the connection at
// once goes on where it was.
func TestEpochNamed(t *testing.T) {
	s, c, conn, r := following(t, "a", "w.*")
	conn.msg("w.x", 101, 100)
	conn.send(`{"t":"gap","ch":"w.x","after":101,"before":4,"why":"epoch","epoch":"e8"}`)
	conn.send(`{"t":"gap","ch":"a","after":100,"before":3,"why":"epoch","epoch":"e8"}`)
	conn.msg("a", 5, 2)
	r.want("w.x 101", "gap w.x 101 4 epoch", "gap a 100 3 epoch", "a 5")
	want := Positions{"a": {"e8", 5}, "w.*": {"e8", 3}, "w.x": {"e8", 3}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
	_ = conn.ws.CloseNow()
	r.want("error network")
	conn = s.accept()
	o := conn.expect("sub")
	if !maps.Equal(o.Since, want) {
		t.Errorf("resumes with %v", o.Since)
	}
	// The next node has yet to hear of it, and then does.
	conn.ackAt(o, "e7", 110)
	conn.send(`{"t":"gap","ch":"a","after":5,"before":111,"why":"epoch","epoch":"e7"}`)
	conn.send(`{"t":"gap","ch":"w.*","after":3,"before":111,"why":"epoch","epoch":"e7"}`)
	conn.send(`{"t":"gap","ch":"w.x","after":3,"before":111,"why":"epoch","epoch":"e7"}`)
	conn.send(`{"t":"gap","ch":"a","after":110,"before":7,"why":"epoch","epoch":"e8"}`)
	conn.send(`{"t":"gap","ch":"w.x","after":110,"before":7,"why":"epoch","epoch":"e8"}`)
	conn.msg("a", 8, 5)
	conn.msg("w.y", 9, 4)
	r.want("gap a 5 111 epoch", "gap w.* 3 111 epoch", "gap w.x 3 111 epoch",
		"gap a 110 7 epoch", "gap w.x 110 7 epoch", "a 8", "w.y 9")
	want = Positions{"a": {"e8", 8}, "w.*": {"e8", 6}, "w.x": {"e8", 6}, "w.y": {"e8", 9}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
	r.nothing()
}

// Of a channel the node does not know only the wildcard's gap says that the epoch
// ended; its numbers begin anew all the same.
func TestWildcardToldLive(t *testing.T) {
	_, c, conn, r := following(t, "w.*")
	conn.msg("w.x", 101, 100)
	conn.send(`{"t":"gap","ch":"w.*","after":150,"before":160,"why":"broker"}`)
	r.want("w.x 101", "gap w.* 150 160 broker")
	// What came before 150 may still be on its way: the position is what it was.
	want := Positions{"w.*": {"e7", 100}, "w.x": {"e7", 101}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
	conn.msg("w.y", 155, 120)
	conn.send(`{"t":"gap","ch":"w.*","after":160,"before":3,"why":"epoch","epoch":"e8"}`)
	conn.msg("w.x", 4, 0)
	conn.send(`{"t":"gap","ch":"w.y","after":155,"before":3,"why":"epoch","epoch":"e8"}`)
	conn.msg("w.y", 5, 1)
	r.want("w.y 155", "gap w.* 160 3 epoch", "w.x 4", "gap w.y 155 3 epoch", "w.y 5")
	want = Positions{"w.*": {"e8", 2}, "w.x": {"e8", 4}, "w.y": {"e8", 5}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
	r.nothing()
}

// An unsub that the server was too busy for is not repeated for what is wanted again.
func TestRefusedUnsub(t *testing.T) {
	_, c, conn, r := following(t, "w.*")
	sub := subscribed(t, c, r.follow("a", "b"), func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	sub.Unsubscribe()
	refused := conn.expect("unsub")
	subscribed(t, c, r.follow("a"), func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	conn.send(`{"t":"err","id":%d,"code":"limit","retry_ms":10}`, refused.ID)
	if o := conn.expect("unsub"); fmt.Sprint(o.Ch) != "[b]" {
		t.Errorf("repeated for %v", o.Ch)
	}
}

// The position of a wildcard follows the stream, one checkpoint behind.
func TestCheckpoint(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	opts := r.options()
	opts.Checkpoint = 5 * time.Millisecond
	c, conn := connected(t, s, opts, testClock())
	subscribed(t, c, r.follow("w.*"), func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	conn.msg("w.x", 105, 100)
	list := func(head uint64) {
		conn.send(`{"t":"ack","id":%d,"ch":{"w.*":{"epoch":"e7","seq":%d},"w.x":{"epoch":"e7","seq":105},"w.y":{"epoch":"e7","seq":90}}}`,
			conn.expect("list").ID, head)
	}
	list(200)
	list(300)
	want := Positions{"w.*": {"e7", 200}, "w.x": {"e7", 105}, "w.y": {"e7", 90}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
	conn.msg("w.y", 301, 90)
	conn.msg("w.z", 302, 0)
	r.want("w.x 105", "w.y 301", "w.z 302")
}

// A thousand positions are more than one message may hold.
func TestThousandPositions(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("explicit.INSTRUMENT-%04d", i))
	}
	subscribed(t, c, r.follow(names...), func() { conn.ackAt(conn.expect("sub"), "1763000000000000000", 100) })
	subscribed(t, c, r.follow("wild.*"), func() { conn.ackAt(conn.expect("sub"), "1763000000000000000", 100) })
	for i := range uint64(1000) {
		conn.msg(fmt.Sprintf("wild.INSTRUMENT-%04d", i), 101+i, 1)
		r.want(fmt.Sprintf("wild.INSTRUMENT-%04d %d", i, 101+i))
	}
	_ = conn.ws.CloseNow()
	conn = s.accept()
	seen, wild := map[string]bool{}, false
	for commands := 0; len(seen) < 2000 || !wild; commands++ {
		o := conn.expect("sub")
		if o.size > 60<<10 {
			t.Errorf("a command of %d bytes", o.size)
		}
		for _, n := range o.names() {
			if n == "wild.*" {
				wild = true
				if len(seen) != 2000 {
					t.Errorf("the wildcard comes after %d names", len(seen))
				}
				continue
			}
			seen[n] = true
			if o.Since[n].Seq == 0 {
				t.Errorf("%s has no position", n)
			}
		}
		conn.ackAt(o, "1763000000000000000", 2000)
		if commands > 10 {
			t.Fatalf("%d commands", commands)
		}
	}
	given := 0
	for given < 1000 {
		given += len(conn.expect("unsub").names())
	}
	conn.msg("wild.INSTRUMENT-0000", 3000, 101)
	r.want("error network", "wild.INSTRUMENT-0000 3000")
}

// A stream that has lost its end, or a node that is behind.
func TestBadPosition(t *testing.T) {
	s, c, conn, r := following(t, "a")
	refuse := func() {
		conn.send(`{"t":"ack","id":%d,"rej":{"a":"bad_position"}}`, conn.expect("sub").ID)
	}
	_ = conn.ws.CloseNow()
	conn = s.accept()
	refuse()
	r.want("error network", "error bad_position")
	for {
		o := conn.expect("sub")
		if len(o.Since) == 0 { // it has believed in its position long enough
			conn.ackAt(o, "e7", 60)
			break
		}
		conn.send(`{"t":"ack","id":%d,"rej":{"a":"bad_position"}}`, o.ID)
	}
	conn.msg("a", 61, 60)
	r.want("error bad_position", "gap a 100 61 bad_position", "a 61")
	waitFor(t, "positions", func() bool { return c.Positions()["a"].Seq == 61 })
}

func TestCloseCodes(t *testing.T) {
	for _, tc := range []struct {
		code  int
		stays bool // comes back
	}{
		{1000, true}, {1001, true}, {1002, false}, {1003, false}, {1007, false}, {1008, false}, {1009, false},
		{1011, true}, {1012, true}, {1013, true}, {4001, false}, {4003, false}, {4101, true}, {4102, true},
		{4201, true}, {4999, true},
	} {
		t.Run(fmt.Sprint(tc.code), func(t *testing.T) {
			s, c, conn, r := following(t, "a")
			conn.msg("a", 101, 100)
			r.want("a 101")
			_ = conn.ws.Close(websocket.StatusCode(tc.code), "")
			if !tc.stays {
				r.want(fmt.Sprintf("fatal closed %d", tc.code))
				<-c.Done()
				if err := asError(c.Err()); err.Status != tc.code || !err.Fatal {
					t.Errorf("the client ended with %v", c.Err())
				}
				if _, err := c.Subscribe(t.Context(), r.follow("b")); err == nil {
					t.Error("it still subscribes")
				}
				return
			}
			r.want(fmt.Sprintf("error closed %d", tc.code))
			conn = s.accept()
			if o := conn.expect("sub"); o.Since["a"].Seq != 101 {
				t.Errorf("resumes with %v", o.Since)
			}
		})
	}
}

// bye says when to come back.
func TestBye(t *testing.T) {
	a, b, r := newFake(t), newFake(t), newRecorder(t)
	opts := r.options()
	opts.Fallback = []string{b.url()}
	c, conn := connected(t, a, opts, testClock())
	subscribed(t, c, r.follow("a"), func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	conn.send(`{"t":"bye","code":1012,"retry_ms":150}`)
	_ = conn.ws.Close(1012, "")
	at := time.Now()
	conn = b.accept()
	if d := time.Since(at); d < 140*time.Millisecond || d > 4*time.Second {
		t.Errorf("came back after %v", d)
	}
	if o := conn.expect("sub"); o.Since["a"].Seq != 100 {
		t.Errorf("resumes with %v", o.Since)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{min: 100 * time.Millisecond, max: time.Second}
	var longest time.Duration
	for range 200 {
		b.failures = 2
		d := b.next(lost, 0)
		if d > 400*time.Millisecond {
			t.Fatalf("third failure: %v", d)
		}
		longest = max(longest, d)
	}
	if longest < 200*time.Millisecond {
		t.Errorf("never more than %v: no jitter to speak of", longest)
	}
	b.failures = 70
	if d := b.next(lost, 0); d > time.Second {
		t.Errorf("waits %v", d)
	}
	if d := b.next(busy, 3*time.Second); d < 3*time.Second {
		t.Errorf("asked for 3 s, waits %v", d)
	}
	if d := b.next(drained, 70*time.Millisecond); d != 70*time.Millisecond {
		t.Errorf("asked for 70 ms, waits %v", d)
	}
	b = backoff{min: time.Millisecond, max: 30 * time.Second}
	if d := b.next(busy, 0); d < time.Second {
		t.Errorf("busy waits %v", d)
	}
	b.failures = 0
	if d := b.next(atOnce, 0); d != 0 {
		t.Errorf("at once waits %v", d)
	}
}

func TestNextNode(t *testing.T) {
	a, b, r := newFake(t), newFake(t), newRecorder(t)
	opts := r.options()
	opts.Fallback = []string{b.url()}
	c, conn := connected(t, a, opts, testClock())
	subscribed(t, c, r.follow("a"), func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	a.refuseWith(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true })
	_ = conn.ws.CloseNow()
	conn = b.accept()
	conn.expect("sub")
	_ = conn.ws.Close(4101, "") // its own fault: the same node again
	conn = b.accept()
	conn.expect("sub")
	_ = conn.ws.Close(1013, "") // a is asked, and refuses
	b.accept()
	r.want("error network", "error closed 4101", "error closed 1013", "error refused 502")
}

func TestRetryAfter(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	var refused time.Time
	s.refuseWith(func(w http.ResponseWriter, _ *http.Request) bool {
		if !refused.IsZero() {
			return false
		}
		refused = time.Now()
		w.Header().Set("Retry-After", "5")
		w.WriteHeader(503)
		fmt.Fprint(w, `{"code":"at_capacity","message":"Server at capacity","retry_after_ms":120}`)
		return true
	})
	c, _ := connected(t, s, r.options(), testClock())
	if d := time.Since(refused); d < 110*time.Millisecond || d > 4*time.Second {
		t.Errorf("came back after %v", d)
	}
	r.want("error refused 503")
	_ = c
}

func TestDialFails(t *testing.T) {
	s := newFake(t)
	for status, final := range map[int]bool{400: true, 401: true, 403: true, 404: true, 426: true, 408: false, 429: false, 500: false, 503: false} {
		s.refuseWith(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true })
		r := newRecorder(t)
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() {
			_, err := dial(ctx, s.url(), r.options(), testClock())
			got <- err
		}()
		if final {
			r.want(fmt.Sprintf("fatal refused %d", status))
		} else {
			r.want(fmt.Sprintf("error refused %d", status), fmt.Sprintf("error refused %d", status))
			cancel()
		}
		if err := <-got; err == nil || !strings.Contains(err.Error(), fmt.Sprintf("refused %d", status)) {
			t.Errorf("%d: %v", status, err)
		}
		cancel()
	}
	if _, err := Dial(t.Context(), "http://x", Options{}); err == nil {
		t.Error("http:// is no WebSocket")
	}
}

func TestSilence(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	k := testClock()
	k.hb = 400 * time.Millisecond
	short := strings.Replace(fakeHello, "20000", "200", 1)
	got := make(chan *fakeConn, 1)
	go func() {
		conn := s.acceptSilent()
		conn.send(short)
		got <- conn
	}()
	c, err := dial(t.Context(), s.url(), r.options(), k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, c) })
	conn := <-got
	for range 12 { // pings are a sign of life
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := conn.ws.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		time.Sleep(50 * time.Millisecond)
	}
	at := time.Now()
	conn.expect("ping") // the probe
	s.acceptSilent()
	if d := time.Since(at); d > 4*time.Second {
		t.Errorf("gone after %v", d)
	}
	r.want("error silent")
}

func TestNoHello(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	k := testClock()
	k.handshake = 500 * time.Millisecond
	got := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err := dial(ctx, s.url(), r.options(), k)
		if err == nil {
			t.Cleanup(func() { ended(t, c) })
		}
		got <- err
	}()
	s.acceptSilent()
	r.want("error network")
	s.acceptSilent().send(`{"t":"msg","ch":"a","seq":1,"prev":0,"d":1}`)
	r.want("error bad_frame")
	s.acceptSilent().send(`{"t":"hello","v":2}`)
	r.want("fatal bad_frame 0")
	if err := <-got; err == nil {
		t.Error("Dial succeeds")
	}
}

// No answer to a command is silence too.
func TestNoAnswer(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	k := testClock()
	k.answer = time.Second
	c, conn := connected(t, s, r.options(), k)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.Subscribe(t.Context(), r.follow("a"))
	}()
	conn.expect("sub")
	for range 60 {
		conn.send(`{"t":"hb","ts":1}`)
		time.Sleep(20 * time.Millisecond)
	}
	r.want("error silent")
	conn = s.accept()
	conn.ackAt(conn.expect("sub"), "e7", 1)
	<-done
}

func TestClose(t *testing.T) {
	s, c, conn, r := following(t, "a")
	c.Close()
	c.Close()
	if code := conn.closed(); code != 1000 {
		t.Errorf("closes with %d", code)
	}
	<-c.Done()
	if !errors.Is(c.Err(), ErrClosed) {
		t.Errorf("ended with %v", c.Err())
	}
	if _, err := c.Subscribe(t.Context(), r.follow("b")); !errors.Is(err, ErrClosed) {
		t.Errorf("Subscribe says %v", err)
	}
	r.nothing()
	if n := s.count(); n != 1 {
		t.Errorf("%d connections", n)
	}
	// And between connections.
	s.refuseWith(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { time.Sleep(20 * time.Millisecond); cancel() }()
	if _, err := Dial(ctx, s.url(), Options{}); err == nil {
		t.Error("Dial succeeds")
	}
}

func TestCloseInCallback(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	opts := r.follow("a")
	opts.OnMessage = func(m Message) { c.Close(); r.say("%d", m.Seq) }
	subscribed(t, c, opts, func() { conn.ackAt(conn.expect("sub"), "e7", 1) })
	conn.msg("a", 2, 1)
	conn.msg("a", 3, 2)
	r.want("2")
	<-c.Done()
	r.nothing()
}

func TestSubscribeGivesUp(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	ctx, cancel := context.WithCancel(t.Context())
	go func() { conn.expect("sub"); cancel() }()
	if _, err := c.Subscribe(ctx, r.follow("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe says %v", err)
	}
	conn.expect("unsub")
}
