package swarm

import (
	"fmt"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Nothing is allocated for a frame, read or only counted, whole or in pieces.
func TestFramesDoNotAllocate(t *testing.T) {
	for _, check := range []bool{false, true} {
		w, in := fedWorker(t, check, 64)
		seq := uint64(0)
		allocs := testing.AllocsPerRun(100, func() {
			for cut := 0; cut < len(in); cut += 1000 { // most reads end within a frame
				k := &w.conns[0]
				was := copy(w.buf, k.held)
				w.giveBack(k)
				rest := w.eat(0, append(w.buf[:was], in[cut:min(len(in), cut+1000)]...))
				w.hold(k, rest)
			}
			seq += 64
			w.conns[0].chains = w.conns[0].chains[:0]
			if check {
				w.conns[0].begin(chain{ch: 0, last: 0})
			}
		})
		if allocs > 0.1 {
			t.Errorf("check %v: %v allocations for 64 frames", check, allocs)
		}
		if check && w.ledger.report.Faults.Sum() > 0 {
			t.Errorf("%+v", w.ledger.report)
		}
	}
	if n := unsafe.Sizeof(conn{}); n != 72 {
		t.Errorf("a connection is %d bytes; the package's comment says 72", n)
	}
}

// fedWorker has one open connection and n frames of 150 bytes for it.
func fedWorker(tb testing.TB, check bool, n int) (*worker, []byte) {
	cfg := Config{URL: "ws://127.0.0.1:1/ws", Connections: 1, Check: check, Channels: []string{"bench"}}
	if err := cfg.check(); err != nil {
		tb.Fatal(err)
	}
	w, err := newWorker(cfg, part{0, 1})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(w.epoll) })
	w.conns[0].state = open
	if check {
		w.ledger.acked(&w.conns[0], "bench", "e1", 0)
	}
	var in []byte
	for seq := range n {
		m := sent{ch: "bench", seq: uint64(seq + 1), prev: uint64(seq), d: AppendPayload(nil, "", 1, 1)}
		m.d = fmt.Appendf(nil, `"%0*d"`, 146-len(m.frame())+len(m.d)-2, seq)
		p := m.frame()
		in = append(append(in, 0x81, 126, byte(len(p)>>8), byte(len(p))), p...)
	}
	return w, in
}

func BenchmarkFrame(b *testing.B) {
	for _, check := range []bool{false, true} {
		b.Run(map[bool]string{false: "counted", true: "checked"}[check], func(b *testing.B) {
			const n = 64
			w, in := fedWorker(b, check, n)
			b.SetBytes(int64(len(in) / n))
			b.ReportAllocs()
			var before, after unix.Rusage
			_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
			for range b.N / n {
				w.eat(0, in)
				if check {
					w.conns[0].chains[0] = chain{}
				}
			}
			// The wall's time says little where others run too.
			_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
			used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/frame")
		})
	}
}

// BenchmarkConnections reports what a connection holds in this process, and
// with a ledger of one channel.
func BenchmarkConnections(b *testing.B) {
	for _, check := range []bool{false, true} {
		b.Run(map[bool]string{false: "counted", true: "checked"}[check], func(b *testing.B) {
			const n = 15_000
			cfg := Config{URL: "ws://127.0.0.1:1/ws", Connections: n, Check: check, Channels: []string{"bench"}}
			if err := cfg.check(); err != nil {
				b.Fatal(err)
			}
			var before, after runtime.MemStats
			for range b.N {
				one, err := newWorker(Config{URL: cfg.URL, Connections: 1, Check: check}, part{0, 1})
				if err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				runtime.ReadMemStats(&before)
				w, err := newWorker(cfg, part{0, 1})
				if err != nil {
					b.Fatal(err)
				}
				for i := range w.conns {
					w.conns[i].state = open
					if check {
						w.ledger.acked(&w.conns[i], "bench", "e1", 0)
					}
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				shared := uint64(cap(w.buf) + cap(w.dripWith) + cap(w.events)*int(unsafe.Sizeof(unix.EpollEvent{})))
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc-shared)/n, "B/conn")
				runtime.KeepAlive(w)
				_, _ = unix.Close(one.epoll), unix.Close(w.epoll)
			}
		})
	}
}
