package odin

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"
)

func TestDeliver(t *testing.T) {
	_, c, conn, r := following(t, "a", "w.*")
	conn.msg("a", 101, 99)
	conn.msg("a", 105, 101)
	conn.msg("w.x", 102, 0)
	conn.send(`{"t":"stale","ch":"a"}`)
	conn.send(`{"t":"new kind of frame"}`)
	conn.send(`{"t":"live","ch":"a"}`)
	conn.msg("a", 105, 101) // again
	conn.msg("nobody", 106, 0)
	conn.msg("w.x", 107, 102)
	r.want("a 101", "a 105", "w.x 102", "stale a true", "stale a false", "w.x 107")
	want := Positions{"a": {"e7", 105}, "w.x": {"e7", 107}, "w.*": {"e7", 100}}
	waitFor(t, "positions", func() bool { return maps.Equal(c.Positions(), want) })
	if s := c.Stats(); s.Messages != 4 || s.Duplicates != 1 || s.Strays != 1 {
		t.Errorf("stats are %+v", s)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + ": not so")
		}
	}
}

func TestDataIsVerbatim(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	opts := r.follow("a")
	got := make(chan Message, 1)
	opts.OnMessage = func(m Message) { got <- m }
	subscribed(t, c, opts, func() { conn.ackAt(conn.expect("sub"), "e7", 0) })
	const d = `{ "x":1.50,  "y":"\u00e9\/", "z":12345678901234567890}`
	conn.send(`{"t":"msg","ch":"a","seq":1,"prev":0,"ts":1767000000123,"d":%s}`, d)
	m := <-got
	if string(m.Data) != d || m.Time.UnixMilli() != 1767000000123 {
		t.Errorf("data is %s at %v", m.Data, m.Time)
	}
}

// Messages that come before the ack of their channel were never asked for.
func TestAckComesFirst(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	subscribed(t, c, r.follow("a"), func() {
		o := conn.expect("sub")
		conn.msg("a", 5, 4)
		conn.ackAt(o, "e7", 10)
		conn.msg("a", 11, 10)
	})
	r.want("a 11")
	r.nothing()
}

func TestOptionsOnTheWire(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	opts := r.follow("b", "a", "b")
	opts.Mode, opts.Every, opts.Snapshot = Latest, 250*time.Millisecond, true
	opts.Since = Positions{"a": {"e7", 5}, "elsewhere": {"e7", 6}}
	subscribed(t, c, opts, func() {
		o := conn.expect("sub")
		if got := fmt.Sprintln(o.names(), o.Mode, o.MS, o.Snap, o.Since); got != "[a b] latest 250 true map[a:{e7 5}]\n" {
			t.Errorf("sub is %s", got)
		}
		conn.ackAt(o, "e7", 10)
	})
	slow := r.follow("c.*")
	slow.SlowLatest = true
	subscribed(t, c, slow, func() {
		o := conn.expect("sub")
		if o.Slow != "latest" || o.Mode != "" {
			t.Errorf("sub is %+v", o)
		}
		conn.ackAt(o, "e7", 10)
	})
}

func TestLatestSkips(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	opts := r.follow("a")
	opts.Mode = Latest
	subscribed(t, c, opts, func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	conn.send(`{"t":"msg","ch":"a","seq":110,"prev":108,"ts":1,"skip":3,"d":1}`)
	conn.msg("a", 111, 110)
	conn.msg("a", 120, 115) // a hole: newer is there already, so it is only told
	conn.msg("a", 121, 120)
	r.want("a 110 skip 3", "a 111", "error unexplained", "gap a 111 120 unexplained", "a 120", "a 121")
	if s := c.Stats(); s.Skipped != 3 {
		t.Errorf("stats are %+v", s)
	}
}

// In mode all skip explains nothing.
func TestSkipInModeAll(t *testing.T) {
	_, _, conn, r := following(t, "a")
	conn.send(`{"t":"msg","ch":"a","seq":110,"prev":108,"ts":1,"skip":3,"d":1}`)
	r.want("error unexplained")
	conn.expect("replay")
}

func TestGaps(t *testing.T) {
	_, c, conn, r := following(t, "a", "w.*")
	conn.msg("a", 101, 100)
	conn.send(`{"t":"gap","ch":"a","after":101,"before":110,"why":"broker"}`)
	conn.send(`{"t":"gap","ch":"a","after":109,"before":120,"why":"invalid"}`)
	conn.msg("a", 125, 115) // prev may be any the gaps cover
	conn.msg("a", 126, 125)
	conn.send(`{"t":"gap","ch":"a","after":130,"before":140,"why":"slow"}`) // leaves 127…130 out
	conn.msg("a", 141, 139)
	conn.msg("w.x", 102, 100)
	conn.send(`{"t":"gap","ch":"w.*","after":100,"before":150,"why":"evicted"}`)
	conn.msg("w.x", 155, 149)
	conn.msg("w.new", 156, 140)
	r.want("a 101", "gap a 101 110 broker", "gap a 109 120 invalid", "a 125", "a 126",
		"error unexplained", "gap a 126 131 unexplained", "gap a 130 140 slow", "a 141",
		"w.x 102", "gap w.* 100 150 evicted", "w.x 155", "w.new 156")
	r.nothing()
	if got := c.Positions()["w.*"]; got != (Position{"e7", 149}) {
		t.Errorf("the wildcard stands at %v", got)
	}
}

func TestUnsubscribe(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	sub := subscribed(t, c, r.follow("a", "w.*"), func() { conn.ackAt(conn.expect("sub"), "e7", 100) })
	conn.msg("a", 101, 100)
	r.want("a 101")
	sub.Unsubscribe()
	sub.Unsubscribe()
	if o := conn.expect("unsub"); len(o.names()) != 2 {
		t.Errorf("unsub is %+v", o)
	}
	conn.msg("a", 102, 101) // was on its way
	if p := c.Positions(); len(p) != 0 {
		t.Errorf("positions are %v", p)
	}
	// Again, and what is still on its way isn't the new subscription's.
	subscribed(t, c, r.follow("a"), func() {
		o := conn.expect("sub")
		if len(o.Since) != 0 {
			t.Errorf("since is %v", o.Since)
		}
		conn.msg("a", 103, 102)
		conn.ackAt(o, "e7", 103)
		conn.msg("a", 104, 103)
	})
	r.want("a 104")
}

func TestSubscribeRefused(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	for name, opts := range map[string]SubscribeOptions{
		"bad_channel": r.follow("a..b"),
		"options":     r.follow(),
	} {
		if _, err := c.Subscribe(t.Context(), opts); asError(err).Code != name {
			t.Errorf("%v: %v", opts.Channels, err)
		}
	}
	got := make(chan error)
	go func() {
		_, err := c.Subscribe(t.Context(), r.follow("ok", "secret"))
		got <- err
	}()
	o := conn.expect("sub")
	conn.send(`{"t":"ack","id":%d,"ch":{"ok":{"epoch":"e7","seq":1}},"rej":{"secret":"forbidden"}}`, o.ID)
	if err := <-got; asError(err).Code != "forbidden" || asError(err).Channel != "secret" {
		t.Errorf("Subscribe says %v", err)
	}
	conn.expect("unsub") // none of it is followed
	subscribed(t, c, r.follow("w.*"), func() { conn.ackAt(conn.expect("sub"), "e7", 1) })
	for _, name := range []string{"w.x", "w.*", "w.x.*"} {
		if _, err := c.Subscribe(t.Context(), r.follow(name)); asError(err).Code != "overlap" {
			t.Errorf("%s: %v", name, err)
		}
	}
	go func() {
		_, err := c.Subscribe(t.Context(), r.follow("x.*"))
		got <- err
	}()
	o = conn.expect("sub")
	conn.send(`{"t":"err","id":%d,"code":"bad_request","message":"no"}`, o.ID)
	if err := <-got; err == nil || !strings.Contains(err.Error(), "bad_request x.*: no") {
		t.Errorf("Subscribe says %v", err)
	}
}

// What the server can't do yet is asked for again.
func TestSubscribeRetried(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	subscribed(t, c, r.follow("a"), func() {
		o := conn.expect("sub")
		conn.send(`{"t":"ack","id":%d,"rej":{"a":"unrecoverable"}}`, o.ID)
		o = conn.expect("sub")
		conn.send(`{"t":"err","id":%d,"code":"rate_limited","retry_ms":20}`, o.ID)
		at := time.Now()
		o = conn.expect("sub")
		if d := time.Since(at); d < 15*time.Millisecond {
			t.Errorf("came back after %v", d)
		}
		conn.send(`{"t":"err","id":%d,"code":"limit","message":"busy","retry_ms":5}`, o.ID)
		conn.ackAt(conn.expect("sub"), "e7", 1)
	})
	r.want("error unrecoverable")
	r.nothing()
	if s := c.Stats(); s.RateLimited != 2 {
		t.Errorf("stats are %+v", s)
	}
}

// A command too long to be read before it was refused comes back without id.
func TestRateLimitedWithoutID(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	subscribed(t, c, r.follow("a"), func() {
		conn.expect("sub")
		conn.send(`{"t":"err","code":"rate_limited","retry_ms":1}`)
		conn.ackAt(conn.expect("sub"), "e7", 1)
	})
	conn.send(`{"t":"err","code":"limit","message":"a wildcard matches a new channel"}`)
	r.want("error limit")
}

// Commands keep to the announced rate.
func TestPacing(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	got := make(chan *fakeConn, 1)
	go func() {
		conn := s.acceptSilent()
		conn.send(strings.Replace(fakeHello, `"burst":1000,"per_sec":1000`, `"burst":5,"per_sec":50`, 1))
		got <- conn
	}()
	c, err := dial(t.Context(), s.url(), r.options(), testClock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, c) })
	conn := <-got
	began := time.Now()
	for i := range 14 {
		go c.Subscribe(t.Context(), r.follow(fmt.Sprint("ch", i)))
	}
	for range 14 {
		conn.ackAt(conn.expect("sub"), "e7", 1)
	}
	// 4 at once, 10 more at 47.5 a second.
	if d := time.Since(began); d < 180*time.Millisecond {
		t.Errorf("14 commands took %v", d)
	}
}

// What is not a frame ends the connection, and nothing is lost by that.
func TestMalformed(t *testing.T) {
	for _, bad := range []string{
		`{`, `[]`, `{"t":5}`, `{}`, "null", `{"t":"msg"}`, `{"t":"msg","ch":"a","seq":-1,"prev":0,"d":1}`,
		`{"t":"msg","ch":"a","seq":5,"prev":5,"d":1}`, `{"t":"msg","ch":5,"seq":5,"prev":4,"d":1}`,
		`{"t":"msg","ch":"a","seq":102,"prev":101}`, `{"t":"gap","ch":"a"}`, `{"t":"ack","id":1,"ch":"a"}`,
		`{"t":"msg","ch":"a","seq":102,"prev":101,"d":`,
	} {
		t.Run(bad, func(t *testing.T) {
			s, _, conn, r := following(t, "a")
			conn.msg("a", 101, 100)
			conn.send(strings.ReplaceAll(bad, "%", "%%"))
			r.want("a 101", "error bad_frame")
			conn = s.accept()
			o := conn.expect("sub")
			if o.Since["a"] != (Position{"e7", 101}) {
				t.Errorf("resumes with %v", o.Since)
			}
			conn.ackAt(o, "e7", 102)
			conn.msg("a", 102, 101)
			r.want("a 102")
		})
	}
}

// A callback that takes its time loses nothing, and isn't taken for silence.
func TestSlowCallback(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	k := testClock()
	k.hb, k.answer = 300*time.Millisecond, time.Second
	got := make(chan *fakeConn, 1)
	go func() {
		conn := s.acceptSilent()
		conn.send(strings.Replace(fakeHello, "20000", "400", 1))
		got <- conn
	}()
	c, err := dial(t.Context(), s.url(), r.options(), k)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ended(t, c) })
	conn := <-got
	opts := r.follow("a")
	say := opts.OnMessage
	slow := true
	opts.OnMessage = func(m Message) {
		if slow {
			slow = false
			time.Sleep(1300 * time.Millisecond)
		}
		say(m)
	}
	subscribed(t, c, opts, func() { conn.ackAt(conn.expect("sub"), "e7", 0) })
	var want []string
	for i := range uint64(100) {
		conn.msg("a", i+1, i)
		want = append(want, fmt.Sprint("a ", i+1))
	}
	r.want(want...)
	if n := c.Stats().Connects; n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Positions count a message once its callback has returned.
func TestPositionInCallback(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	c, conn := connected(t, s, r.options(), testClock())
	opts := r.follow("a")
	opts.OnMessage = func(m Message) { b, _ := json.Marshal(c.Positions()); r.say("%s", b) }
	subscribed(t, c, opts, func() { conn.ackAt(conn.expect("sub"), "e7", 10) })
	conn.msg("a", 11, 10)
	conn.msg("a", 12, 11)
	r.want(`{"a":{"epoch":"e7","seq":10}}`, `{"a":{"epoch":"e7","seq":11}}`)
}
