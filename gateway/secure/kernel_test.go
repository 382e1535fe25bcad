package secure

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/odin-ws/odin/bufpool"
	"github.com/odin-ws/odin/internal/tlsrec"
	"github.com/odin-ws/odin/netpoll"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

// controlLoop is a loop over a kernel that does the records: a read finds so many
// that carry no data.
type controlLoop struct {
	*netpolltest.Loop
	control int
}

func (l *controlLoop) Read(fd int, p []byte) (int, error) {
	if l.control > 0 {
		return 0, syscall.EIO
	}
	return l.Loop.Read(fd, p)
}

// kernelWorld is world without a client, its records the kernel's.
func kernelWorld(t *testing.T) (*world, *controlLoop) {
	t.Helper()
	w := &world{t: t, kernel: netpolltest.NewKernel(), pool: bufpool.New(1 << 20), buf: make([]byte, 64<<10)}
	w.inner = w.kernel.NewLoop()
	k := &controlLoop{Loop: w.inner}
	w.loop = New(k, Config{Pool: w.pool, Tick: 100 * time.Millisecond, Timeout: time.Second, Counters: &w.count})
	w.loop.alert = func(int, tlsrec.Alert) error { return nil }
	w.loop.receive = func(int, bool) error {
		k.control--
		return nil
	}
	w.loop.Start(w)
	w.sock = w.kernel.Socket()
	w.fd = w.sock.FD()
	w.inTurn(func() {
		w.loop.Attach(w.fd, new(Conn))
		if err := w.loop.Add(w.fd, 42); err != nil {
			t.Fatal(err)
		}
	})
	return w, k
}

// A goodbye for which the kernel has no room is said when there is, and FIN after it.
func TestKernelGoodbyeWaits(t *testing.T) {
	w, _ := kernelWorld(t)
	full, said := true, 0
	w.loop.alert = func(int, tlsrec.Alert) error {
		if full {
			return syscall.EAGAIN
		}
		said++
		return nil
	}
	w.sock.SetRoom(10)
	w.inTurn(func() {
		w.loop.Write(w.fd, []byte("longer than its room")) // arms the edge
		w.loop.CloseWrite(w.fd)
	})
	if w.sock.WriteClosed() {
		t.Fatal("FIN without a goodbye")
	}
	w.sock.SetRoom(10)
	w.inTurn(func() { w.loop.Write(w.fd, []byte("longer than its room")) })
	w.turn() // still no room for it
	full = false
	w.sock.SetRoom(netpolltest.Unlimited)
	w.turn()
	if said != 1 || !w.sock.WriteClosed() {
		t.Errorf("said %d times; FIN: %v", said, w.sock.WriteClosed())
	}
}

// Records without data are passed over as far as there are few, and what ends a
// connection for them is counted.
func TestKernelControl(t *testing.T) {
	w, k := kernelWorld(t)
	k.control = maxControl
	w.sock.Send([]byte("data"))
	w.turn()
	if string(w.got) != "data" || w.end != nil {
		t.Errorf("behind as many as may be: %q, %v", w.got, w.end)
	}
	k.control = maxControl + 1
	w.sock.Send([]byte("more"))
	w.turn()
	if !errors.Is(w.end, syscall.EPROTO) || w.count.BadRecords.Load() != 1 {
		t.Errorf("one too many: %v, %d counted", w.end, w.count.BadRecords.Load())
	}
	for err, want := range map[error]func(*Counters) uint64{
		syscall.EAGAIN:      func(c *Counters) uint64 { return c.BadRecords.Load() },
		tlsrec.ErrKeyUpdate: func(c *Counters) uint64 { return c.KeyUpdates.Load() },
	} {
		w, k = kernelWorld(t)
		k.control = 1
		w.loop.receive = func(int, bool) error { return err }
		w.sock.Send([]byte("x"))
		w.turn()
		if !errors.Is(w.end, syscall.EPROTO) || netpoll.Again(w.end) || want(&w.count) != 1 {
			t.Errorf("%v: the end is %v, %d counted", err, w.end, want(&w.count))
		}
	}
}
