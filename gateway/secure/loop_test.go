package secure

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/odin-ws/odin/bufpool"
	"github.com/odin-ws/odin/internal/tlsrec"
	"github.com/odin-ws/odin/netpoll"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

var selfSigned = sync.OnceValue(func() tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// errNotNow is what a client reads while there is nothing; crypto/tls takes it for
// temporary.
type errNotNow struct{}

func (errNotNow) Error() string   { return "not now" }
func (errNotNow) Timeout() bool   { return true }
func (errNotNow) Temporary() bool { return true }

// wire is a client's connection: a pipe for the handshake, the scripted socket from
// then on.
type wire struct {
	net.Conn
	sock *netpolltest.Socket
	in   []byte
}

func (w *wire) Read(p []byte) (int, error) {
	if w.sock == nil {
		return w.Conn.Read(p)
	}
	if w.in = append(w.in, w.sock.Taken()...); len(w.in) == 0 {
		return 0, errNotNow{}
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	if w.sock == nil {
		return w.Conn.Write(p)
	}
	w.sock.Send(p)
	return len(p), nil
}

// world is one connection over a scripted kernel, its handler a shard in little.
type world struct {
	t      *testing.T
	kernel *netpolltest.Kernel
	inner  *netpolltest.Loop
	loop   *Loop
	pool   *bufpool.Pool
	count  Counters
	sock   *netpolltest.Socket
	fd     int
	client *tls.Conn

	// The handler's.
	want    [][]byte // to be written
	blocked bool
	paused  bool // it doesn't read
	buf     []byte
	got     []byte // read
	end     error  // of reading; errEnd for the end of the stream
	do      func() // run in Mail, once
}

func newWorld(t *testing.T, version uint16) *world {
	t.Helper()
	wr := new(wire)
	w := begin(t, wr, func(w *world) error {
		w.client = tls.Client(wr, &tls.Config{InsecureSkipVerify: true, MaxVersion: version})
		return w.client.Handshake()
	})
	wr.sock = w.sock
	return w
}

// newKeyedWorld is newWorld with a client whose records the test makes.
func newKeyedWorld(t *testing.T) (w *world, client *tlsrec.Session) {
	t.Helper()
	wr := new(wire)
	w = begin(t, wr, func(*world) error {
		cfg := tlsrec.Config()
		cfg.InsecureSkipVerify = true
		keys, err := tlsrec.Client(wr, cfg)
		if err == nil {
			client, err = keys.Session()
		}
		return err
	})
	return w, client
}

// begin makes a world whose client shakes hands over wr.
func begin(t *testing.T, wr *wire, shake func(*world) error) *world {
	t.Helper()
	w := &world{t: t, kernel: netpolltest.NewKernel(), pool: bufpool.New(1 << 20), buf: make([]byte, 64<<10)}
	w.inner = w.kernel.NewLoop()
	w.loop = New(w.inner, Config{Pool: w.pool, Tick: 100 * time.Millisecond, Timeout: 5 * time.Second, Counters: &w.count})
	w.loop.Start(w)
	w.sock = w.kernel.Socket()
	w.fd = w.sock.FD()
	a, b := net.Pipe()
	wr.Conn = a
	cfg := tlsrec.Config()
	cfg.Certificates = []tls.Certificate{selfSigned()}
	done := make(chan error, 1)
	go func() { done <- shake(w) }()
	keys, err := tlsrec.Server(b, cfg)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	c, err := Secure(w.fd, keys, false, &w.count)
	if err != nil {
		t.Fatal(err)
	}
	w.inTurn(func() {
		w.loop.Attach(w.fd, c)
		if err := w.loop.Add(w.fd, 42); err != nil {
			t.Fatal(err)
		}
	})
	return w
}

// inTurn runs f on the loop.
func (w *world) inTurn(f func()) {
	w.do = f
	w.loop.Wake()
	w.inner.RunMail()
}

func (w *world) Mail() {
	if f := w.do; f != nil {
		w.do = nil
		f()
	}
}
func (w *world) Tick(int) {}

// Ready does what a shard does: reads until short, writes until blocked.
func (w *world) Ready(token uint64, ev netpoll.Event) {
	if token != 42 {
		w.t.Fatalf("token %d", token)
	}
	if ev&netpoll.Out != 0 && w.blocked {
		w.blocked = false
		w.write()
	}
	for ev&(netpoll.In|netpoll.Closed) != 0 && w.end == nil && !w.paused {
		n, err := w.loop.Read(w.fd, w.buf)
		switch {
		case netpoll.Again(err):
			return
		case err != nil:
			w.end = err
		case n == 0:
			w.end = errEnd
		}
		w.got = append(w.got, w.buf[:n]...)
		if n < len(w.buf) && ev&netpoll.Closed == 0 {
			return
		}
	}
}

func (w *world) write() {
	for len(w.want) > 0 && !w.blocked {
		total := 0
		for _, b := range w.want {
			total += len(b)
		}
		n, err := w.loop.Writev(w.fd, w.want)
		if err != nil && !netpoll.Again(err) {
			w.t.Fatal(err)
		}
		w.blocked = n < total
		for n > 0 || len(w.want) > 0 && len(w.want[0]) == 0 {
			k := min(n, len(w.want[0]))
			n -= k
			if w.want[0] = w.want[0][k:]; len(w.want[0]) == 0 {
				w.want = w.want[1:]
			}
		}
	}
}

// turn delivers what there is.
func (w *world) turn() {
	for w.inner.Pending() {
		for _, e := range w.inner.Batch() {
			w.inner.Fire(e)
		}
		w.inner.RunMail()
	}
}

// received is all the client can read now.
func (w *world) received() []byte {
	var all []byte
	b := make([]byte, 20000)
	for {
		n, err := w.client.Read(b)
		all = append(all, b[:n]...)
		if err != nil {
			if !errors.Is(err, errNotNow{}) && !errors.Is(err, io.EOF) {
				w.t.Fatal(err)
			}
			return all
		}
	}
}

// Whatever a socket takes at a time, the client reads what was written, whole and
// in order, and nothing is kept that it doesn't owe.
func TestWritesAnyRoom(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := mrand.New(mrand.NewPCG(seed, 1))
			w := newWorld(t, []uint16{tls.VersionTLS12, tls.VersionTLS13}[seed%2])
			var sent, got []byte
			w.sock.SetRoom(0)
			for range 60 {
				w.inTurn(func() {
					for range rng.IntN(5) {
						b := make([]byte, rng.IntN([]int{300, 9000, 70000}[rng.IntN(3)]))
						for i := range b {
							b[i] = byte(len(sent) + i)
						}
						sent = append(sent, b...)
						w.want = append(w.want, b)
					}
					w.write()
				})
				if rng.IntN(2) == 0 {
					w.sock.SetMaxWrite(rng.IntN(6000))
				}
				w.sock.Give(rng.IntN([]int{30, 3000, 60000}[rng.IntN(3)]))
				w.turn()
				got = append(got, w.received()...)
				if !bytes.HasPrefix(sent, got) {
					t.Fatalf("after %d bytes it is something else", len(got))
				}
				if c := w.loop.conns[w.fd]; len(c.out) > 4096 {
					t.Fatalf("%d bytes of a record are kept", len(c.out))
				}
			}
			w.sock.SetMaxWrite(0)
			w.sock.SetRoom(netpolltest.Unlimited)
			w.turn()
			if got = append(got, w.received()...); !bytes.Equal(got, sent) {
				t.Fatalf("%d of %d bytes arrived", len(got), len(sent))
			}
			if c := w.loop.conns[w.fd]; len(c.out) > 0 || len(w.want) > 0 {
				t.Fatalf("%d bytes are kept, %d not written", len(c.out), len(w.want))
			}
		})
	}
}

// However records are cut into segments, all that is in them is read, by a handler
// that believes a short read.
func TestReadsAnySegments(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := mrand.New(mrand.NewPCG(seed, 2))
			w := newWorld(t, []uint16{tls.VersionTLS12, tls.VersionTLS13}[seed%2])
			// The client's records, to be sent in pieces.
			var sent []byte
			for range 40 {
				b := make([]byte, rng.IntN([]int{2, 300, 50000, 200000}[rng.IntN(4)]))
				for i := range b {
					b[i] = byte(len(sent) + i)
				}
				sent = append(sent, b...)
				w.client.Write(b)
			}
			w.turn() // all at once: over many full reads
			if !bytes.Equal(w.got, sent) {
				t.Fatalf("at once: %d of %d bytes were read", len(w.got), len(sent))
			}
			var pieces bytes.Buffer
			over := w.client.NetConn().(*wire)
			sock := over.sock
			over.sock, over.Conn = nil, nopConn{&pieces}
			w.client.Write(sent[:min(len(sent), 70000)])
			over.sock = sock
			w.got = nil
			for b := pieces.Bytes(); len(b) > 0; {
				n := min(len(b), 1+rng.IntN([]int{3, 200, 20000}[rng.IntN(3)]))
				w.sock.Send(b[:n])
				b = b[n:]
				w.turn()
			}
			if !bytes.Equal(w.got, sent[:min(len(sent), 70000)]) {
				t.Fatalf("in pieces: %d bytes were read", len(w.got))
			}
			if n := w.pool.InUse(); n != 0 {
				t.Fatalf("%d bytes of the pool are still held", n)
			}
		})
	}
}

// nopConn writes to a buffer.
type nopConn struct{ *bytes.Buffer }

func (nopConn) Close() error                     { return nil }
func (nopConn) LocalAddr() net.Addr              { return nil }
func (nopConn) RemoteAddr() net.Addr             { return nil }
func (nopConn) SetDeadline(time.Time) error      { return nil }
func (nopConn) SetReadDeadline(time.Time) error  { return nil }
func (nopConn) SetWriteDeadline(time.Time) error { return nil }

// A goodbye in either direction, also behind data in one segment, and behind what a
// full socket has yet to take.
func TestGoodbyes(t *testing.T) {
	w := newWorld(t, tls.VersionTLS13)
	w.client.Write([]byte("last words"))
	w.client.CloseWrite()
	w.turn()
	if string(w.got) != "last words" || !errors.Is(w.end, errEnd) {
		t.Errorf("%q, then %v", w.got, w.end)
	}
	w.sock.SetRoom(10)
	w.inTurn(func() {
		w.want = [][]byte{[]byte("ours, longer than the room there is")}
		w.write()
		w.loop.CloseWrite(w.fd)
	})
	if w.sock.WriteClosed() {
		t.Fatal("FIN before what was written")
	}
	w.sock.SetRoom(netpolltest.Unlimited)
	w.turn()
	if s := string(w.received()); s != "ours, longer than the room there is" {
		t.Errorf("%q", s)
	}
	if _, err := w.client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("then %v, want the goodbye", err)
	}
	if !w.sock.WriteClosed() {
		t.Error("no FIN")
	}
	w.inTurn(func() { w.loop.Del(w.fd); w.loop.Close(w.fd) })
	if len(w.loop.conns) > 0 || w.kernel.Open() > 0 {
		t.Error("something is left")
	}
}

// A record that does not come to its end is given up, sooner when buffers run out.
func TestUnfinishedRecord(t *testing.T) {
	w := newWorld(t, tls.VersionTLS13)
	w.sock.Send([]byte("\x17\x03\x03\x20\x00half"))
	w.turn()
	for range 49 {
		w.inner.Tick(1)
	}
	w.turn()
	if w.end != nil {
		t.Fatalf("too soon: %v", w.end)
	}
	w.inner.Tick(1)
	w.turn()
	if !errors.Is(w.end, syscall.ETIMEDOUT) || w.count.RecordTimeouts.Load() != 1 {
		t.Errorf("%v, %d counted", w.end, w.count.RecordTimeouts.Load())
	}
	w.inTurn(func() { w.loop.Del(w.fd); w.loop.Abort(w.fd) })
	if n := w.pool.InUse(); n != 0 {
		t.Errorf("%d bytes are held", n)
	}

	// While the handler doesn't read what is there, the time is not the client's.
	w, client := newKeyedWorld(t)
	record := say(client, "whole")
	w.sock.Send(record[:10])
	w.turn()
	w.paused = true
	w.sock.Send(record[10:])
	w.turn()
	w.inner.Tick(200)
	w.turn()
	w.paused = false
	w.inTurn(func() { w.Ready(42, netpoll.In) })
	w.inner.Tick(200)
	w.turn()
	if string(w.got) != "whole" || w.end != nil || w.count.RecordTimeouts.Load() != 0 {
		t.Errorf("after a pause: %q, %v", w.got, w.end)
	}

	w = newWorld(t, tls.VersionTLS13)
	most, err := w.pool.Get(600 << 10)
	if err != nil {
		t.Fatal(err)
	}
	w.sock.Send([]byte("\x17\x03\x03\x20\x00half"))
	w.turn()
	w.inner.Tick(10)
	w.turn()
	if !errors.Is(w.end, syscall.ETIMEDOUT) {
		t.Errorf("with few buffers left: %v", w.end)
	}
	w.pool.Put(most)

	w = newWorld(t, tls.VersionTLS13)
	if most, err = w.pool.Get(1<<20 - 4096); err != nil {
		t.Fatal(err)
	}
	w.sock.Send([]byte("\x17\x03\x03\x20\x00" + string(make([]byte, 8000))))
	w.turn()
	if !errors.Is(w.end, syscall.ENOBUFS) || w.count.NoBuffer.Load() != 1 {
		t.Errorf("with none left: %v", w.end)
	}
	w.pool.Put(most)
}

// What is no good record ends the connection, and the peer is told which.
func TestBadRecord(t *testing.T) {
	for bad, alert := range map[string]string{
		"\x17\x03\x03\x00\x20" + string(make([]byte, 32)): "bad record MAC",
		"GET / HTTP/1.1\r\n":                              "protocol version",
		"\x17\x03\x03\xff\xff":                            "record overflow",
		"\x16\x03\x03\x00\x20":                            "unexpected message",
		"\x17\x03\x03\x00\x01\x00f":                       "bad record MAC",
	} {
		w := newWorld(t, tls.VersionTLS13)
		w.client.Write([]byte("before"))
		w.sock.Send([]byte(bad))
		w.turn()
		if string(w.got) != "before" || !errors.Is(w.end, syscall.EPROTO) || w.count.BadRecords.Load() != 1 {
			t.Errorf("%q: read %q, then %v; %d counted", bad, w.got, w.end, w.count.BadRecords.Load())
		}
		if _, err := w.client.Read(make([]byte, 1)); err == nil || !bytes.Contains([]byte(err.Error()), []byte(alert)) {
			t.Errorf("%q: the client was told %v, want %s", bad, err, alert)
		}
	}
}

// Queued counts what is kept here, so that the backlog does.
func TestQueued(t *testing.T) {
	w := newWorld(t, tls.VersionTLS13)
	w.sock.SetRoom(100)
	w.inTurn(func() {
		w.want = [][]byte{make([]byte, 3000)}
		w.write()
		n, err := w.loop.Queued(w.fd)
		if c := w.loop.conns[w.fd]; err != nil || len(c.out) < 2900 || n < len(c.out) {
			t.Errorf("%d bytes kept, %d queued, %v", len(c.out), n, err)
		}
		if n, err := w.loop.Write(w.fd, []byte("more")); n != 0 || !netpoll.Again(err) {
			t.Errorf("taken behind a rest: %d, %v", n, err)
		}
	})
	if w.count.Rests.Load() != 1 {
		t.Errorf("%d rests counted", w.count.Rests.Load())
	}
}
