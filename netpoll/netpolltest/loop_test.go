package netpolltest

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/odin-ws/odin/netpoll"
)

// handler runs what the test gives it.
type handler struct {
	ready func(uint64, netpoll.Event)
	mail  func()
}

func (h *handler) Ready(token uint64, ev netpoll.Event) { h.ready(token, ev) }
func (h *handler) Mail()                                { h.mail() }
func (h *handler) Tick(int)                             {}

// within runs f inside a handler of l.
func within(l *Loop, f func()) {
	h := l.h.(*handler)
	h.mail = f
	l.Wake()
	l.RunMail()
}

func newLoop(k *Kernel) *Loop {
	l := k.NewLoop()
	l.Start(&handler{})
	return l
}

func TestEdges(t *testing.T) {
	k := NewKernel()
	l := newLoop(k)
	s := k.Socket()
	if s.FD() != 3 || k.Socket().FD() != 4 {
		t.Fatal("descriptors don't begin at the lowest")
	}
	within(l, func() { l.Add(3, 7) })
	expect := func(what string, want ...netpoll.Event) {
		t.Helper()
		b := l.Batch()
		if len(b) != len(want) || len(b) == 1 && (b[0].Ev != want[0] || b[0].Token != 7) {
			t.Fatalf("%s: %v, want %v", what, b, want)
		}
	}
	expect("at Add", netpoll.Out)
	expect("again")
	s.Send([]byte("abc"))
	expect("bytes", netpoll.In|netpoll.Out)
	expect("bytes left unread")
	s.SetRoom(2)
	expect("room where none was missed")
	within(l, func() {
		if n, err := l.Write(3, []byte("12345")); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := l.Write(3, []byte("345")); n != 0 || err != syscall.EAGAIN {
			t.Fatal(n, err)
		}
	})
	expect("full")
	s.Give(1)
	expect("room after a short write", netpoll.In|netpoll.Out)
	s.Give(1)
	expect("more room, none missed")
	s.SetRoom(Unlimited)
	s.SetMaxWrite(1)
	within(l, func() { l.Writev(3, [][]byte{[]byte("xy"), []byte("z")}) })
	expect("cut by MaxWrite", netpoll.In|netpoll.Out)
	if got := string(s.Taken()); got != "12x" {
		t.Fatalf("taken %q", got)
	}
	s.Finish()
	expect("FIN", netpoll.In|netpoll.Out|netpoll.RdHup)
	buf := make([]byte, 8)
	within(l, func() {
		if n, err := l.Read(3, buf); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		if n, err := l.Read(3, buf); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	})
	s.Reset()
	if ev := l.Batch()[0].Ev; ev&netpoll.Closed != netpoll.Closed {
		t.Fatal(ev)
	}
	within(l, func() {
		if _, err := l.Read(3, buf); err != syscall.ECONNRESET {
			t.Fatal(err)
		}
		l.Del(3)
		l.Abort(3)
	})
	if !s.Closed() || !s.Aborted() || k.Open() != 1 || k.Socket().FD() != 3 {
		t.Fatal("the descriptor was not freed")
	}
}

func TestStaleEventsFire(t *testing.T) {
	k := NewKernel()
	l := newLoop(k)
	k.Socket()
	within(l, func() { l.Add(3, 1) })
	b := l.Batch()
	within(l, func() {
		l.Del(3)
		l.Close(3)
	})
	k.Socket()
	within(l, func() { l.Add(3, 2) })
	var got []uint64
	l.h.(*handler).ready = func(token uint64, _ netpoll.Event) { got = append(got, token) }
	l.Fire(b[0])
	if len(got) != 1 || got[0] != 1 {
		t.Fatal(got)
	}
}

func TestFailedAdd(t *testing.T) {
	k := NewKernel()
	l := newLoop(k)
	k.Socket().RefuseAdd(syscall.ENOSPC)
	within(l, func() {
		if err := l.Add(3, 1); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		l.Close(3) // without Del: nothing was registered
	})
}

func TestMisusePanics(t *testing.T) {
	for want, misuse := range map[string]func(k *Kernel, l *Loop){
		"Write on descriptor 9, which is not open":     func(_ *Kernel, l *Loop) { l.Write(9, []byte("x")) },
		"Read on descriptor 3, which is not open":      func(_ *Kernel, l *Loop) { l.Del(3); l.Close(3); l.Read(3, make([]byte, 1)) },
		"Close on descriptor 3, which is not open":     func(_ *Kernel, l *Loop) { l.Del(3); l.Close(3); l.Close(3) },
		"Add of descriptor 3 twice":                    func(_ *Kernel, l *Loop) { l.Add(3, 1) },
		"Add on descriptor 8, which is not open":       func(_ *Kernel, l *Loop) { l.Add(8, 1) },
		"Close of descriptor 3 before Del":             func(_ *Kernel, l *Loop) { l.Close(3) },
		"Abort of descriptor 3 before Del":             func(_ *Kernel, l *Loop) { l.Abort(3) },
		"Del of descriptor 3, which is not registered": func(_ *Kernel, l *Loop) { l.Del(3); l.Del(3) },
		"Writev of 65 buffers":                         func(_ *Kernel, l *Loop) { l.Writev(3, make([][]byte, 65)) },
		"a write of nothing":                           func(_ *Kernel, l *Loop) { l.Writev(3, [][]byte{nil, {}}) },
		"a read of nothing":                            func(_ *Kernel, l *Loop) { l.Read(3, nil) },
		"Stop from a handler":                          func(_ *Kernel, l *Loop) { l.Stop() },
		"a handler is called from a handler":           func(_ *Kernel, l *Loop) { l.Tick(1) },
		"another loop's": func(k *Kernel, l *Loop) {
			other := newLoop(k)
			within(other, func() { other.Read(3, make([]byte, 1)) })
		},
		"Write outside a handler": func(k *Kernel, l *Loop) {
			l.depth--
			defer func() { l.depth++ }()
			l.Write(3, []byte("x"))
		},
	} {
		func() {
			k := NewKernel()
			l := newLoop(k)
			k.Socket()
			within(l, func() { l.Add(3, 1) })
			defer func() {
				if p, _ := recover().(string); !strings.Contains(p, want) {
					t.Errorf("%q, want a panic with %q", p, want)
				}
			}()
			within(l, func() { misuse(k, l) })
		}()
	}
}
