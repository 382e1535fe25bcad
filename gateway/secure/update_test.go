package secure

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/odin-ws/odin/internal/tlsrec"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

// asks is n KeyUpdates that ask for one.
func asks(t *testing.T, s *tlsrec.Session, n int) (b []byte) {
	t.Helper()
	for range n {
		var err error
		if b, err = s.AppendKeyUpdate(b, true); err != nil {
			t.Error(err)
		}
	}
	return b
}

func say(s *tlsrec.Session, text string) []byte {
	return s.Seal(append(s.Begin(nil), text...), 0, tlsrec.Data)
}

// opened is what a client has been told.
type opened struct {
	data    []byte
	updates int
	end     error // of Control
}

// take opens the whole records of in and returns the rest.
func (o *opened) take(t *testing.T, s *tlsrec.Session, in []byte) []byte {
	t.Helper()
	for {
		n, err := s.Length(in)
		if err != nil || n == 0 || n > len(in) {
			if err != nil {
				t.Error(err)
			}
			return in
		}
		kind, data, err := s.Open(in[:n])
		in = in[n:]
		if err != nil {
			t.Error(err)
			return nil
		}
		switch kind {
		case tlsrec.Data:
			o.data = append(o.data, data...)
			continue
		case tlsrec.Handshake:
			o.updates++
		}
		if err := s.Control(kind, data); err != nil {
			o.end = err
		}
	}
}

// Keys change under a loop, both ways: one answer to all that was asked goes before
// the data written next, and nothing is said to who is written nothing.
func TestLoopKeyUpdate(t *testing.T) {
	w, client := newKeyedWorld(t)
	var got opened
	for round := range 4 {
		w.sock.Send(append(asks(t, client, 5), say(client, "after")...))
		w.turn()
		if string(w.got) != strings.Repeat("after", round+1) || w.end != nil {
			t.Fatalf("read %q, %v", w.got, w.end)
		}
		if b := w.sock.Taken(); len(b) > 0 {
			t.Fatalf("%d bytes before there was anything to say", len(b))
		}
		for range 2 {
			w.inTurn(func() {
				w.want = [][]byte{[]byte("news")}
				w.write()
			})
		}
		if rest := got.take(t, client, w.sock.Taken()); len(rest) > 0 || string(got.data) != strings.Repeat("news", 2*round+2) || got.updates != round+1 {
			t.Fatalf("round %d: %q, %d updates, %d bytes left", round, got.data, got.updates, len(rest))
		}
		w.inner.Tick(10)
	}
}

// A client that asks and reads nothing has one answer waiting at most.
func TestLoopKeyUpdateBlocked(t *testing.T) {
	w, client := newKeyedWorld(t)
	w.sock.SetRoom(100)
	most := 0
	for range 50 {
		w.sock.Send(append(asks(t, client, 3), say(client, "x")...)) // without data in between it were too many
		w.turn()
		w.inTurn(func() {
			if len(w.want) == 0 {
				w.want = [][]byte{make([]byte, 3000)}
			}
			w.blocked = false // a shard would not try, but for a control frame
			w.write()
		})
		most = max(most, cap(w.loop.conns[w.fd].out))
		w.inner.Tick(1)
	}
	if most > recordPlain+tlsrec.MaxOverhead || w.end != nil {
		t.Errorf("%d bytes waited, %v", most, w.end)
	}
	w.sock.SetRoom(netpolltest.Unlimited)
	w.turn()
	var got opened
	if rest := got.take(t, client, w.sock.Taken()); len(rest) > 0 || len(got.data)%3000 != 0 || len(got.data) == 0 || got.updates == 0 {
		t.Errorf("%d bytes of data, %d updates, %d left", len(got.data), got.updates, len(rest))
	}
}

// Who changes keys faster than anyone needs to is closed on, and told.
func TestLoopKeyFlood(t *testing.T) {
	w, client := newKeyedWorld(t)
	for range 4 { // as many as may be, second after second
		w.sock.Send(asks(t, client, maxUpdates/2))
		w.turn()
		w.sock.Send(append(say(client, "x"), asks(t, client, maxUpdates/2)...))
		w.turn()
		if w.inner.Tick(10); w.end != nil {
			t.Fatal(w.end)
		}
	}
	w.sock.Send(append(append(say(client, "x"), asks(t, client, maxUpdates)...), say(client, "last")...))
	w.turn()
	w.inner.Tick(9)
	w.sock.Send(asks(t, client, 1))
	w.turn()
	if !errors.Is(w.end, syscall.EPROTO) || w.count.KeyFloods.Load() != 1 || w.count.BadRecords.Load() != 0 {
		t.Errorf("%v, %d counted", w.end, w.count.KeyFloods.Load())
	}
	var got opened
	if got.take(t, client, w.sock.Taken()); !errors.Is(got.end, tlsrec.ErrPeerAlert) {
		t.Errorf("the client was told %v", got.end)
	}
}

// newStream is a detached connection over TCP and its client.
func newStream(t *testing.T, count *Counters) (s *Stream, over net.Conn, client *tlsrec.Session) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	over, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	over.SetDeadline(time.Now().Add(20 * time.Second))
	server.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { over.Close(); server.Close() })
	cfg := tlsrec.Config()
	cfg.InsecureSkipVerify = true
	done := make(chan error, 1)
	go func() {
		keys, err := tlsrec.Client(over, cfg)
		if err == nil {
			client, err = keys.Session()
		}
		done <- err
	}()
	ours := tlsrec.Config()
	ours.Certificates = append(ours.Certificates, selfSigned())
	keys, err := tlsrec.Server(server, ours)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	c, err := Secure(0, keys, false, count)
	if err != nil {
		t.Fatal(err)
	}
	return c.Stream(server, count), over, client
}

// One goroutine reads records and changes of keys while another writes, as net/http
// does: what the client is given is whole, and each change was answered before what
// was said after it.
func TestStreamBothWays(t *testing.T) {
	var count Counters
	s, over, client := newStream(t, &count)
	const updates, chunks = maxUpdates, 2000
	heard := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(s)
		heard <- string(b)
	}()
	go func() { // the handler
		for i := range chunks {
			if i == chunks-1 {
				// All is read: no reset overtakes what was written, and something is
				// said after the changes, however late they were heard.
				heard <- <-heard
			}
			if _, err := s.Write([]byte(strings.Repeat("stats", 100))); err != nil {
				t.Error(err)
			}
		}
		s.Close()
	}()
	var all sync.Mutex // of client: its two halves are one goroutine's
	var sender sync.WaitGroup
	sender.Go(func() {
		for range updates {
			all.Lock()
			b := append(say(client, "."), asks(t, client, 1)...)
			all.Unlock()
			over.Write(b)
			time.Sleep(200 * time.Microsecond)
		}
		all.Lock()
		b := client.AppendAlert(nil, tlsrec.CloseNotify)
		all.Unlock()
		over.Write(b)
	})
	var got opened
	var in []byte
	b := make([]byte, 8192)
	for got.end == nil && !t.Failed() {
		n, err := over.Read(b)
		if err != nil {
			t.Fatalf("%d bytes of data, then %v", len(got.data), err)
		}
		in = append(in, b[:n]...)
		all.Lock()
		in = got.take(t, client, in)
		all.Unlock()
	}
	sender.Wait()
	if want := bytes.Repeat([]byte("stats"), 100*chunks); !errors.Is(got.end, io.EOF) || !bytes.Equal(got.data, want) || got.updates == 0 {
		t.Errorf("%d of %d bytes, %d updates, %v", len(got.data), len(want), got.updates, got.end)
	}
	if h := <-heard; strings.Trim(h, ".") != "" || len(h) == 0 {
		t.Errorf("the handler's side heard %q", h)
	}
}

// Closing doesn't wait for a write that the client lets hang, nor speak into it.
func TestStreamCloseWhileWriting(t *testing.T) {
	var count Counters
	s, _, _ := newStream(t, &count)
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, 16<<20))
		wrote <- err
	}()
	for s.order.TryLock() { // until it is under way
		s.order.Unlock()
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	s.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if err := <-wrote; err == nil {
		t.Error("16 MiB were written to nobody")
	}
	if _, err := s.Write([]byte("more")); err == nil {
		t.Error("written after a record was cut")
	}
}

// A request changes keys as often as a second may, and no more.
func TestStreamKeyFlood(t *testing.T) {
	var count Counters
	s, over, client := newStream(t, &count)
	over.Write(asks(t, client, maxUpdates))
	over.Write(say(client, "x"))
	over.Write(asks(t, client, 1))
	b := make([]byte, 10)
	if n, err := s.Read(b); err != nil || string(b[:n]) != "x" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if _, err := s.Read(b); !errors.Is(err, errKeyFlood) || count.KeyFloods.Load() != 1 {
		t.Errorf("%v, %d counted", err, count.KeyFloods.Load())
	}
}
