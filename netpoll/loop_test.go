package netpoll

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recorder is a Handler whose turns the test supplies.
type recorder struct {
	events chan event
	mails  atomic.Int64
	ticks  atomic.Int64
	mail   chan func() // run by Mail
}

type event struct {
	token uint64
	ev    Event
}

func (r *recorder) Ready(token uint64, ev Event) { r.events <- event{token, ev} }
func (r *recorder) Tick(n int)                   { r.ticks.Add(int64(n)) }
func (r *recorder) Mail() {
	r.mails.Add(1)
	for {
		select {
		case f := <-r.mail:
			f()
		default:
			return
		}
	}
}

type testLoop struct {
	Loop
	*recorder
	t *testing.T
}

func newTestLoop(t *testing.T, cfg Config) *testLoop {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tl := &testLoop{l, &recorder{events: make(chan event, 1000), mail: make(chan func(), 1000)}, t}
	if err := l.Start(tl.recorder); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop() })
	return tl
}

// do runs f on the loop's goroutine and waits for it.
func (l *testLoop) do(f func()) {
	l.t.Helper()
	done := make(chan struct{})
	l.mail <- func() { defer close(done); f() }
	l.Wake()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		l.t.Fatal("Mail never came")
	}
}

// next returns the next event, which must come.
func (l *testLoop) next(what string) event {
	l.t.Helper()
	select {
	case e := <-l.events:
		return e
	case <-time.After(5 * time.Second):
		l.t.Fatalf("%s: no event", what)
		panic("unreachable")
	}
}

// quiet checks that no event comes.
func (l *testLoop) quiet(what string) {
	l.t.Helper()
	select {
	case e := <-l.events:
		l.t.Fatalf("%s: %v of %d", what, e.ev, e.token)
	case <-time.After(30 * time.Millisecond):
	}
}

// pair is a connected pair of nonblocking descriptors; the far one is closed
// with the test.
func pair(t *testing.T) (near, far int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	return fds[0], fds[1]
}

// tcpPair is the same over TCP: a raw descriptor and a net.Conn.
func tcpPair(t *testing.T, o SocketOptions) (fd int, c *net.TCPConn) {
	t.Helper()
	ln, err := Listen("127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	for {
		if fd, err = rawAccept(ln.fd); err != syscall.EAGAIN {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd, conn.(*net.TCPConn)
}

// descriptors counts this process's, not the one it counts with.
func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d) - 1
}

func TestEdges(t *testing.T) {
	l := newTestLoop(t, Config{})
	near, far := pair(t)
	l.do(func() {
		if err := l.Add(near, 7); err != nil {
			t.Error(err)
		}
		if err := l.Add(near, 8); err == nil {
			t.Error("added twice")
		}
	})
	if e := l.next("at Add"); e.token != 7 || e.ev != Out {
		t.Fatalf("%d %v", e.token, e.ev)
	}
	unix.Write(far, []byte("abc"))
	if e := l.next("bytes"); e.token != 7 || e.ev&In == 0 {
		t.Fatalf("%d %v", e.token, e.ev)
	}
	l.quiet("bytes left unread")
	unix.Shutdown(far, unix.SHUT_WR)
	if e := l.next("FIN"); e.ev&RdHup == 0 || e.ev&Closed == 0 {
		t.Fatal(e.ev)
	}
	buf := make([]byte, 10)
	l.do(func() {
		if n, err := l.Read(near, buf); n != 3 || err != nil {
			t.Error(n, err)
		}
		if n, err := l.Read(near, buf); n != 0 || err != nil {
			t.Error(n, err)
		}
		l.Del(near)
		l.Close(near)
	})
}

// A write that comes back short arms the writable edge alone, without EAGAIN
// and without a modification of the registration.
func TestShortWriteArmsOut(t *testing.T) {
	for name, far := range map[string]func(t *testing.T) (int, func(n int)){
		"unix": func(t *testing.T) (int, func(int)) {
			near, far := pair(t)
			return near, func(n int) {
				for n > 0 {
					k, err := unix.Read(far, make([]byte, n))
					if err != nil {
						time.Sleep(time.Millisecond)
						continue
					}
					n -= k
				}
			}
		},
		"tcp": func(t *testing.T) (int, func(int)) {
			fd, c := tcpPair(t, SocketOptions{SndBuf: 4096})
			return fd, func(n int) { io.CopyN(io.Discard, c, int64(n)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newTestLoop(t, Config{})
			near, drain := far(t)
			l.do(func() { l.Add(near, 1) })
			l.next("at Add")
			big := make([]byte, 8<<20)
			var wrote int
			var err error
			l.do(func() { wrote, err = l.Write(near, big) })
			if err != nil || wrote == 0 || wrote == len(big) {
				t.Fatalf("wrote %d: %v", wrote, err)
			}
			drain(wrote)
			for {
				if e := l.next("room after a short write"); e.ev&Out != 0 {
					break
				}
			}
			l.do(func() { l.Del(near); l.Abort(near) })
		})
	}
}

func TestEventsAfterDelInTheBatch(t *testing.T) {
	l := newTestLoop(t, Config{})
	a, farA := pair(t)
	b, farB := pair(t)
	l.do(func() { l.Add(a, 1); l.Add(b, 2) })
	l.next("at Add")
	l.next("at Add")
	// Both become readable while the loop is busy: one batch brings both. The
	// first to be told deletes and closes both and gives their numbers away.
	var seen []uint64
	handled := make(chan struct{})
	l.do(func() {
		unix.Write(farA, []byte("x"))
		unix.Write(farB, []byte("x"))
	})
	go func() {
		defer close(handled)
		for range 2 {
			seen = append(seen, (<-l.events).token)
		}
	}()
	<-handled
	if len(seen) != 2 {
		t.Fatal(seen)
	}
	// Del, close, and the number used again: Add must not find it registered.
	l.do(func() {
		l.Del(a)
		l.Close(a)
		again, err := unix.Dup(b)
		if err != nil || again != a {
			t.Errorf("dup gave %d, %v, want %d", again, err, a)
		}
		if err := l.Add(again, 3); err != nil {
			t.Errorf("a number used again: %v", err)
		}
		l.Del(again)
		l.Close(again)
		l.Del(b)
		l.Close(b)
	})
	l.quietBut(3)
}

// quietBut lets events of one token pass.
func (l *testLoop) quietBut(token uint64) {
	l.t.Helper()
	for {
		select {
		case e := <-l.events:
			if e.token != token {
				l.t.Fatalf("%v of %d", e.ev, e.token)
			}
		case <-time.After(30 * time.Millisecond):
			return
		}
	}
}

// deleter deletes the other of two descriptors at its first event.
type deleter struct {
	l     Loop
	fds   [3]int
	token atomic.Int64 // events seen, by token 1 and 2
	gate  chan struct{}
	did   bool
}

func (d *deleter) Mail() { <-d.gate }
func (d *deleter) Tick(int) {
}
func (d *deleter) Ready(token uint64, ev Event) {
	if ev&In == 0 {
		return
	}
	d.token.Add(1 << (8 * (token - 1)))
	if !d.did {
		d.did = true
		for _, fd := range d.fds[1:] {
			d.l.Del(fd)
			d.l.Close(fd)
		}
	}
}

// What the interface says of stale events is what happens: a descriptor deleted
// by another's event of the same batch is still told once.
func TestStaleEventComesOnce(t *testing.T) {
	l, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, farA := pair(t)
	b, farB := pair(t)
	d := &deleter{l: l, fds: [3]int{0, a, b}, gate: make(chan struct{})}
	if err := l.Start(d); err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	l.Wake() // the loop stands in Mail
	time.Sleep(10 * time.Millisecond)
	l.Add(a, 1)
	l.Add(b, 2)
	unix.Write(farA, []byte("x"))
	unix.Write(farB, []byte("x"))
	d.gate <- struct{}{}
	time.Sleep(50 * time.Millisecond)
	if n := d.token.Load(); n != 0x0101 {
		t.Errorf("events seen %#x", n)
	}
}

func TestWakesCoalesce(t *testing.T) {
	l := newTestLoop(t, Config{})
	l.do(func() {
		for range 1000 {
			l.Wake()
		}
	})
	before := l.mails.Load()
	l.do(func() {})
	if n := l.mails.Load() - before; n > 2 {
		t.Errorf("Mail came %d times", n)
	}
	// From many goroutines: whatever was posted before a Wake is seen.
	var posted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				posted.Add(1)
				select {
				case l.mail <- func() { posted.Add(-1) }:
				default:
					posted.Add(-1)
				}
				l.Wake()
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(5 * time.Second); posted.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d were never picked up", posted.Load())
		}
	}
}

func TestWakeFromMail(t *testing.T) {
	l := newTestLoop(t, Config{})
	l.do(func() { l.Wake() })
	for deadline := time.Now().Add(5 * time.Second); l.mails.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a Wake from within Mail was lost")
		}
	}
}

// A wake-up that the kernel refuses is late, not lost, and the next ones are neither.
func TestRefusedWake(t *testing.T) {
	loop, err := New(Config{Tick: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	inner := loop.(*epollLoop)
	unix.Close(inner.wakeFD)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	inner.wakeFD = pipe[0] // the end that can't be written to
	r := &recorder{mail: make(chan func(), 10)}
	if err := loop.Start(r); err != nil {
		t.Fatal(err)
	}
	defer loop.Stop()
	for range 3 {
		seen := make(chan struct{})
		r.mail <- func() { close(seen) }
		loop.Wake()
		select {
		case <-seen:
		case <-time.After(5 * time.Second):
			t.Fatal("the loop is deaf")
		}
	}
}

func TestTick(t *testing.T) {
	l := newTestLoop(t, Config{Tick: 5 * time.Millisecond})
	time.Sleep(60 * time.Millisecond)
	if n := l.ticks.Load(); n < 4 || n > 30 {
		t.Errorf("%d ticks of 5 ms in 60", n)
	}
	before := l.ticks.Load()
	l.do(func() { time.Sleep(50 * time.Millisecond) }) // those missed are counted
	time.Sleep(10 * time.Millisecond)
	if n := l.ticks.Load() - before; n < 8 {
		t.Errorf("%d ticks of 5 ms in 60, with the loop busy", n)
	}
}

// lateness records how late each tick is.
type lateness struct {
	*recorder
	loop Loop
	late chan time.Duration
}

func (l *lateness) Tick(n int) { l.late <- l.loop.Late() }

// A tick knows how late it is: little on an idle loop, as long as a busy one took,
// and on time again afterwards.
func TestLate(t *testing.T) {
	const every, stall = 20 * time.Millisecond, 200 * time.Millisecond
	loop, err := New(Config{Tick: every})
	if err != nil {
		t.Fatal(err)
	}
	h := &lateness{&recorder{mail: make(chan func(), 1)}, loop, make(chan time.Duration, 100_000)}
	if err := loop.Start(h); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loop.Stop() })
	until := func(what string, ok func(time.Duration) bool) {
		t.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case d := <-h.late:
				if d < 0 {
					t.Fatalf("%s: a tick %v too early", what, -d)
				}
				if ok(d) {
					return
				}
			case <-deadline:
				t.Fatalf("no tick %s", what)
			}
		}
	}
	onTime := func(d time.Duration) bool { return d < every/2 } // a busy machine lets some be
	until("on time", onTime)
	h.mail <- func() { time.Sleep(stall) }
	loop.Wake()
	until("late by the stall", func(d time.Duration) bool { return d >= stall-every })
	until("on time after the stall", onTime)
}

func TestFailedAddLeavesNothing(t *testing.T) {
	l := newTestLoop(t, Config{})
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	fd := int(f.Fd())
	l.do(func() {
		if err := l.Add(fd, 1); !errors.Is(err, syscall.EPERM) { // epoll takes no files
			t.Errorf("added a file: %v", err)
		}
	})
	f.Close()
	near, _ := pair(t)
	if near != fd {
		if err := unix.Dup3(near, fd, 0); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(near)
	}
	l.do(func() {
		if err := l.Add(fd, 2); err != nil {
			t.Errorf("the number of a failed Add: %v", err)
		}
	})
	if e := l.next("at Add"); e.token != 2 {
		t.Errorf("token %d", e.token)
	}
	l.do(func() {
		if err := l.Del(fd); err != nil {
			t.Error(err)
		}
		l.Close(fd)
	})
}

func TestCloseDeliversAndAbortResets(t *testing.T) {
	l := newTestLoop(t, Config{})
	for _, abort := range []bool{false, true} {
		fd, c := tcpPair(t, SocketOptions{})
		l.do(func() {
			l.Add(fd, 1)
			l.Write(fd, []byte("last words"))
			l.Del(fd)
			if abort {
				l.Abort(fd)
			} else {
				l.CloseWrite(fd)
				l.Close(fd)
			}
		})
		time.Sleep(10 * time.Millisecond)
		b, err := io.ReadAll(c)
		switch {
		case !abort && (err != nil || string(b) != "last words"):
			t.Errorf("closed: %q, %v", b, err)
		case abort && !errors.Is(err, syscall.ECONNRESET):
			t.Errorf("aborted: %q, %v", b, err)
		}
	}
}

func TestWritev(t *testing.T) {
	l := newTestLoop(t, Config{})
	near, far := pair(t)
	var bufs [][]byte
	var want []byte
	for i := range MaxIovecs + 10 {
		b := bytes.Repeat([]byte{byte(i)}, 1+i%3)
		bufs = append(bufs, b, nil) // empty ones don't count
		if i < MaxIovecs {
			want = append(want, b...)
		}
	}
	l.do(func() {
		l.Add(near, 1)
		if n, err := l.Writev(near, bufs); n != len(want) || err != nil {
			t.Errorf("wrote %d, %v, want %d", n, err, len(want))
		}
		if n, err := l.Writev(near, [][]byte{nil, {}}); n != 0 || err != nil {
			t.Errorf("wrote %d, %v of nothing", n, err)
		}
		for i := range l.Loop.(*epollLoop).iov {
			if l.Loop.(*epollLoop).iov[i].Base != nil {
				t.Fatal("a buffer is kept alive")
			}
		}
		l.Del(near)
		l.Close(near)
	})
	got := make([]byte, 1000)
	n, _ := unix.Read(far, got)
	if !bytes.Equal(got[:n], want) {
		t.Errorf("read %v, want %v", got[:n], want)
	}
}

func TestErrnos(t *testing.T) {
	l := newTestLoop(t, Config{})
	near, far := pair(t)
	l.do(func() {
		if _, err := l.Read(near, make([]byte, 1)); !Again(err) {
			t.Error(err)
		}
		if n, err := l.Read(near, nil); n != 0 || err != nil {
			t.Error(n, err)
		}
		if n, err := l.Write(near, nil); n != 0 || err != nil {
			t.Error(n, err)
		}
		unix.Shutdown(far, unix.SHUT_RDWR)
		if _, err := l.Write(near, []byte("x")); err != syscall.EPIPE {
			t.Error(err)
		}
		l.Close(near)
		if _, err := l.Write(near, []byte("x")); err != syscall.EBADF {
			t.Error(err)
		}
		if err := l.Del(near); err == nil {
			t.Error("deleted what was never added")
		}
	})
}

func TestStop(t *testing.T) {
	before := descriptors(t)
	for range 20 {
		l, err := New(Config{Tick: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{events: make(chan event, 10)}
		if err := l.Start(r); err != nil {
			t.Fatal(err)
		}
		near, _ := pair(t)
		l.Wake()
		for r.mails.Load() == 0 {
			time.Sleep(100 * time.Microsecond)
		}
		if err := l.Stop(); err != nil {
			t.Fatal(err)
		}
		mails, ticks := r.mails.Load(), r.ticks.Load()
		l.Wake()
		if err := l.Stop(); err != ErrStopped {
			t.Error(err)
		}
		if r.mails.Load() != mails || r.ticks.Load() != ticks {
			t.Error("called after Stop")
		}
		unix.Close(near)
	}
	l, _ := New(Config{Tick: time.Millisecond})
	l.Stop() // never started
	// 21 far ends are open until the test's end.
	if n := descriptors(t); n != before+20 {
		t.Errorf("%d descriptors, want %d", n, before+20)
	}
}

func BenchmarkWake(b *testing.B) {
	l, _ := New(Config{})
	r := &recorder{mail: make(chan func())}
	l.Start(r)
	defer l.Stop()
	b.ReportAllocs()
	for b.Loop() {
		l.Wake()
	}
}
