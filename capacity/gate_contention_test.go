package capacity

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// holding is the way of a connection through the gate as the server goes it,
// with the holders counted apart. It reports false when there were more than may
// be.
func holding(room *WaitingRoom, g *Gate, holders *atomic.Int64, top int64) (in, ok bool) {
	if !room.TryAcquire() {
		runtime.Gosched() // or those who hold would never get to give back
		return false, true
	}
	ok = holders.Add(1) <= top
	runtime.Gosched() // while it is held, others try
	holders.Add(-1)
	g.Release()
	room.Admit()
	return true, ok
}

// BenchmarkGateContention is many more callers than places, each trying again at
// once. It fails when a single holder too many is ever seen, or when it did not
// offer 100 000 attempts a second.
func BenchmarkGateContention(b *testing.B) {
	const top = 8
	g := NewGate(top)
	room := NewWaitingRoom(g, 100, 0)
	var holders, admitted, over atomic.Int64
	b.SetParallelism(128)
	b.ReportAllocs()
	began := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			in, ok := holding(room, g, &holders, top)
			if !ok {
				over.Add(1)
			}
			if in {
				admitted.Add(1)
			}
		}
	})
	took := time.Since(began)
	if n := over.Load(); n > 0 {
		b.Fatalf("%d times there were more than %d holders", n, top)
	}
	if g.InUse() != 0 || g.Admitted() != uint64(admitted.Load()) || g.Admitted()+g.Rejected() != uint64(b.N) {
		b.Fatalf("in use %d, admitted %d (%d seen), rejected %d of %d", g.InUse(), g.Admitted(), admitted.Load(), g.Rejected(), b.N)
	}
	rate := float64(b.N) / took.Seconds()
	if b.N >= 100_000 && rate < 100_000 {
		b.Fatalf("only %.0f attempts a second", rate)
	}
	b.ReportMetric(rate, "attempts/s")
	b.ReportMetric(float64(g.Admitted())/float64(b.N)*100, "%admitted")
}

// The gate has no lock that contention could show: the mutex profile of half a
// second of it has no sample of this package, though it has one of a mutex that
// is fought for beside it.
func TestGateHasNoLockInTheProfile(t *testing.T) {
	old := runtime.SetMutexProfileFraction(1)
	defer runtime.SetMutexProfileFraction(old)
	const top = 8
	g := NewGate(top)
	room := NewWaitingRoom(g, 100, 0)
	var holders, attempts atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(500 * time.Millisecond)
	for range 256 {
		wg.Go(func() {
			for time.Now().Before(end) {
				for range 100 {
					if _, ok := holding(room, g, &holders, top); !ok {
						t.Error("one holder too many")
					}
				}
				attempts.Add(100)
			}
		})
	}
	var mu sync.Mutex
	for range 2 {
		wg.Go(func() { foughtFor(&mu, end) })
	}
	wg.Wait()
	if n := attempts.Load(); n < 50_000 {
		t.Errorf("only %d attempts in half a second", n)
	}
	records := make([]runtime.BlockProfileRecord, 10_000)
	n, ok := runtime.MutexProfile(records)
	if !ok {
		t.Fatalf("%d records", n)
	}
	seen := false
	for _, r := range records[:n] {
		frames := runtime.CallersFrames(r.Stack())
		for leaf, more := true, true; more; leaf = false {
			var f runtime.Frame
			f, more = frames.Next()
			if leaf && !strings.Contains(f.Function, "sync.") {
				break // the scheduler's own lock, met wherever it takes a goroutine off
			}
			seen = seen || strings.HasSuffix(f.Function, ".foughtFor")
			for _, kind := range []string{"(*Gate)", "(*WaitingRoom)"} {
				if strings.Contains(f.Function, "/capacity."+kind) {
					t.Errorf("a lock was waited for in %s (%s:%d)", f.Function, f.File, f.Line)
				}
			}
		}
	}
	if !seen {
		t.Error("the profile has no sample of the mutex beside the gate either: it shows nothing")
	}
	t.Logf("%d attempts, %d admitted, %d refused; %d lock samples in the profile, none of the gate's", attempts.Load(), g.Admitted(), g.Rejected(), n)
}

// foughtFor holds mu now and then, long enough for another to wait for it.
func foughtFor(mu *sync.Mutex, end time.Time) {
	for time.Now().Before(end) {
		mu.Lock()
		time.Sleep(time.Millisecond)
		mu.Unlock()
	}
}
