package capacity

import (
	"fmt"
	"math"
	"sync/atomic"
)

// Gate admits at most Max holders at once. Any goroutine may call any method;
// none waits. Make one with NewGate; it must not be copied.
//
// Maximum and holders are halves of one word, so an admission is judged by the
// maximum in force at that very moment: never one over.
type Gate struct {
	word     atomic.Uint64 // max << 32 | in use
	admitted atomic.Uint64
	rejected atomic.Uint64
}

// NewGate returns a gate for n holders; see SetMax for its bounds.
func NewGate(n int) *Gate {
	g := &Gate{}
	g.SetMax(n)
	return g
}

// TryAcquire takes a slot and reports true, or reports false if all are taken.
// Each true is to be answered by one Release. Every call counts, as admitted or
// as rejected: who waits for a slot by asking again is counted again.
func (g *Gate) TryAcquire() bool {
	for {
		w := g.word.Load()
		if w&math.MaxUint32 >= w>>32 {
			g.rejected.Add(1)
			return false
		}
		if g.word.CompareAndSwap(w, w+1) {
			g.admitted.Add(1)
			return true
		}
	}
}

// Release gives a slot back. It panics if none is taken: a slot was released
// twice, and the count would no longer bound anything.
func (g *Gate) Release() {
	for {
		w := g.word.Load()
		if w&math.MaxUint32 == 0 {
			panic("capacity: Gate.Release without TryAcquire")
		}
		if g.word.CompareAndSwap(w, w-1) {
			return
		}
	}
}

// SetMax changes the maximum, from 0 (admits no one) to 2^32-1, beyond which it
// counts as that; it panics below 0. Holders beyond a lowered maximum keep
// their slots: none is admitted until enough have left.
func (g *Gate) SetMax(n int) {
	if n < 0 {
		panic(fmt.Sprintf("capacity: a gate for %d holders", n))
	}
	top := min(uint64(n), math.MaxUint32)
	for {
		w := g.word.Load()
		if g.word.CompareAndSwap(w, top<<32|w&math.MaxUint32) {
			return
		}
	}
}

// InUse returns the slots taken; above Max only after SetMax lowered it.
func (g *Gate) InUse() int { return int(g.word.Load() & math.MaxUint32) }

// Max returns the maximum in force.
func (g *Gate) Max() int { return int(g.word.Load() >> 32) }

// Admitted returns how many calls of TryAcquire took a slot, ever.
func (g *Gate) Admitted() uint64 { return g.admitted.Load() }

// Rejected returns how many calls of TryAcquire found none, ever.
func (g *Gate) Rejected() uint64 { return g.rejected.Load() }
