package odin

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// tokens hands out t1, t2, … that live so long.
func tokens(life time.Duration) (f func(context.Context) (Token, error), count *atomic.Int64) {
	count = new(atomic.Int64)
	return func(context.Context) (Token, error) {
		t := Token{Value: fmt.Sprint("t", count.Add(1))}
		if life > 0 {
			t.Expires = time.Now().Add(life)
		}
		return t, nil
	}, count
}

func (s *fakeServer) bearer(i int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headers[i].Get("Authorization")
}

func TestTokenRefresh(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	opts := r.options()
	opts.Token, _ = tokens(time.Second)
	_, conn := connected(t, s, opts, testClock())
	if got := s.bearer(0); got != "Bearer t1" {
		t.Errorf("dialled with %q", got)
	}
	at := time.Now()
	o := conn.expect("auth")
	if d := time.Since(at); o.Token != "t2" || d > time.Second {
		t.Errorf("auth with %q after %v", o.Token, d)
	}
	conn.send(`{"t":"ack","id":%d}`, o.ID)
	o = conn.expect("auth")
	conn.send(`{"t":"err","id":%d,"code":"unauthorized"}`, o.ID)
	r.want("error unauthorized", "error unauthorized 4001")
	s.accept()
}

// A refused token is not shown twice; another one is tried.
func TestTokenRefused(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	opts := r.options()
	value := atomic.Pointer[string]{}
	set := func(v string) { value.Store(&v) }
	set("old")
	opts.Token = func(context.Context) (Token, error) { return Token{Value: *value.Load()}, nil }
	c, conn := connected(t, s, opts, testClock())
	set("new")
	_ = conn.ws.Close(4001, "expired")
	conn = s.accept()
	if got := s.bearer(1); got != "Bearer new" {
		t.Errorf("dialled with %q", got)
	}
	_ = conn.ws.Close(4001, "bad")
	r.want("error closed 4001", "error closed 4001", "fatal closed 4001")
	<-c.Done()
	if n := s.count(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// New tokens that are all refused end it too.
func TestTokensRefused(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	s.refuseWith(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(401); return true })
	opts := r.options()
	var count *atomic.Int64
	opts.Token, count = tokens(0)
	if _, err := Dial(t.Context(), s.url(), opts); err == nil || count.Load() != 4 {
		t.Errorf("%v after %d tokens", err, count.Load())
	}
}

func TestTokenFails(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	opts := r.options()
	n := 0
	opts.Token = func(context.Context) (Token, error) {
		if n++; n < 3 {
			return Token{}, fmt.Errorf("not now")
		}
		return Token{Value: "x"}, nil
	}
	connected(t, s, opts, testClock())
	r.want("error token", "error token")
}

// What a new token does not allow ends, and is tried again on the next connection.
func TestForbiddenByANewToken(t *testing.T) {
	s, r := newFake(t), newRecorder(t)
	opts := r.options()
	opts.OnError = func(e *Error) { r.say("error %s %s", e.Code, e.Channel) }
	c, conn := connected(t, s, opts, testClock())
	subscribed(t, c, r.follow("a"), func() { conn.ackAt(conn.expect("sub"), "e7", 1) })
	conn.send(`{"t":"err","code":"forbidden","ch":"a"}`)
	r.want("error forbidden a")
	_ = conn.ws.Close(1012, "")
	s.accept().expect("sub")
}
