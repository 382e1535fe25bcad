package odin

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coder/websocket"
)

// lossyProxy stands before a gateway and drops so many messages, one in 20 and
// each only once, without a word: what the client must notice by itself.
func lossyProxy(t *testing.T, target string, most int64) (url string, dropped *atomic.Int64) {
	t.Helper()
	dropped = new(atomic.Int64)
	var seen sync.Map
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		down, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer down.CloseNow()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		up, _, err := websocket.Dial(ctx, target, nil)
		if err != nil {
			return
		}
		defer up.CloseNow()
		up.SetReadLimit(readLimit)
		down.SetReadLimit(1 << 20)
		pass := func(from, to *websocket.Conn, keep func([]byte) bool) {
			defer cancel()
			for {
				typ, b, err := from.Read(ctx)
				if err != nil || keep(b) && to.Write(ctx, typ, b) != nil {
					return
				}
			}
		}
		go pass(down, up, func([]byte) bool { return true })
		pass(up, down, func(b []byte) bool {
			if !bytes.HasPrefix(b, []byte(`{"t":"msg"`)) || dropped.Load() >= most || rand.IntN(20) != 0 {
				return true
			}
			_, again := seen.LoadOrStore(string(b), true)
			if !again {
				dropped.Add(1)
			}
			return again
		})
	}))
	t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http"), dropped
}

// Behind a proxy that loses messages the user still gets every one.
func TestRealLossy(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--replay", "1000")
	url, dropped := lossyProxy(t, s.url(), 12)
	k, l := newChecker(), ledger{}
	c := dialReal(t, url, k.options())
	if _, err := c.Subscribe(t.Context(), SubscribeOptions{Channels: []string{"a", "b", "w.*"}, OnMessage: k.message}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		l.publish(t, s, 5, "a", "b", "w.x")
	}
	// A loss at the very end shows with the next message.
	waitFor(t, "the end", func() bool {
		l.publish(t, s, 1, "a", "b", "w.x")
		return len(k.lacks(l)) == 0
	})
	st := c.Stats()
	t.Logf("%d dropped; %+v", dropped.Load(), st)
	if dropped.Load() == 0 || st.Unexplained == 0 {
		t.Error("nothing was lost: this test has tested nothing")
	}
	if st.Gaps > 0 {
		t.Errorf("gaps: %+v", k.gaps)
	}
}
