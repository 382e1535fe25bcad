package capacity

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
)

func TestGate(t *testing.T) {
	g := NewGate(2)
	for i, want := range []bool{true, true, false, false} {
		if g.TryAcquire() != want {
			t.Fatalf("call %d: want %v", i, want)
		}
	}
	g.Release()
	if !g.TryAcquire() || g.InUse() != 2 || g.Max() != 2 || g.Admitted() != 3 || g.Rejected() != 2 {
		t.Errorf("in use %d of %d, admitted %d, rejected %d", g.InUse(), g.Max(), g.Admitted(), g.Rejected())
	}
}

func TestGateSetMax(t *testing.T) {
	g := NewGate(3)
	for range 3 {
		g.TryAcquire()
	}
	g.SetMax(1)
	if g.InUse() != 3 || g.Max() != 1 {
		t.Fatalf("in use %d of %d: lowering must keep holders", g.InUse(), g.Max())
	}
	for range 2 {
		g.Release()
		if g.TryAcquire() {
			t.Fatal("admitted beyond the lowered maximum")
		}
	}
	g.Release()
	if !g.TryAcquire() {
		t.Fatal("refused with a free slot")
	}
	g.SetMax(0)
	g.Release()
	if g.TryAcquire() {
		t.Fatal("a gate for none admitted one")
	}
	g.SetMax(math.MaxInt)
	if g.Max() != math.MaxUint32 || g.InUse() != 0 || !g.TryAcquire() {
		t.Fatalf("in use %d of %d", g.InUse(), g.Max())
	}
}

func TestGateMisusePanics(t *testing.T) {
	for name, misuse := range map[string]func(){
		"release below zero": func() { NewGate(1).Release() },
		"negative":           func() { NewGate(-1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			misuse()
		}()
	}
}

// 64 goroutines race for 7 slots: the count of real holders, kept apart from
// the gate, never passes the maximum, and nothing is lost.
func TestGateNeverOver(t *testing.T) {
	const top, rounds = 7, 2000
	g := NewGate(top)
	var holders, admitted atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range rounds {
				if !g.TryAcquire() {
					continue
				}
				admitted.Add(1)
				if n := holders.Add(1); n > top {
					t.Errorf("%d holders of %d", n, top)
				}
				holders.Add(-1)
				g.Release()
			}
		})
	}
	wg.Wait()
	if g.InUse() != 0 || g.Admitted() != uint64(admitted.Load()) || g.Admitted()+g.Rejected() != 64*rounds {
		t.Errorf("in use %d, admitted %d (%d seen), rejected %d", g.InUse(), g.Admitted(), admitted.Load(), g.Rejected())
	}
}

// Once SetMax has returned, no one is admitted beyond it, even with the slots
// being fought for.
func TestGateNeverOverALoweredMax(t *testing.T) {
	for range 300 {
		g := NewGate(8)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				<-start
				g.TryAcquire()
			})
		}
		close(start)
		g.SetMax(3)
		at := g.InUse()
		wg.Wait()
		if n := g.InUse(); n > max(at, 3) {
			t.Fatalf("%d in use when the maximum became 3, %d later", at, n)
		}
	}
}

func TestGateDoesNotAllocate(t *testing.T) {
	g := NewGate(1)
	if n := testing.AllocsPerRun(1000, func() {
		if !g.TryAcquire() || g.TryAcquire() {
			t.Fatal("one place")
		}
		g.Release()
	}); n != 0 {
		t.Errorf("%.2f allocations an admission", n)
	}
}

func BenchmarkGate(b *testing.B) {
	g := NewGate(1000)
	b.ReportAllocs()
	for b.Loop() {
		if g.TryAcquire() {
			g.Release()
		}
	}
}

func BenchmarkGateParallel(b *testing.B) {
	g := NewGate(1000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if g.TryAcquire() {
				g.Release()
			}
		}
	})
}

func BenchmarkGateFull(b *testing.B) {
	g := NewGate(0)
	for b.Loop() {
		g.TryAcquire()
	}
}
