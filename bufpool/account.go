package bufpool

import "sync/atomic"

// unit is the grain of the account in bytes; every class and page is a multiple.
const unit = 128

// maxBudget is the largest budget the account can count, bytes (512 GiB).
const maxBudget = (1<<32 - 1) * unit

// account holds the units in use and the units idle in one word, so that the
// two bounds (in use + idle ≤ budget, idle ≤ maxIdle) hold at every moment, but for
// what was there when the budget was lowered.
type account struct {
	budget atomic.Uint64 // units
	word   atomic.Uint64 // in use << 32 | idle
}

// maxIdle is how much of a budget may be idle, units.
func (a *account) maxIdle() uint64 { return a.budget.Load() / 4 }

func split(w uint64) (used, idle uint64) { return w >> 32, w & (1<<32 - 1) }

func join(used, idle uint64) uint64 { return used<<32 | idle }

// reserve takes u units for a buffer about to be allocated. If it does not,
// full tells whether the buffers in use alone leave no room; otherwise dropping
// idle ones makes room.
func (a *account) reserve(u uint64) (ok, full bool) {
	for {
		w := a.word.Load()
		used, idle := split(w)
		budget := a.budget.Load()
		if used+u > budget {
			return false, true
		}
		if used+idle+u > budget {
			return false, false
		}
		if a.word.CompareAndSwap(w, join(used+u, idle)) {
			return true, false
		}
	}
}

// reuse moves u units from idle to in use.
func (a *account) reuse(u uint64) {
	a.word.Add(u<<32 - u) // idle ≥ u, since the buffer was on a list: no borrow
}

// retire moves u units from in use to idle and reports true, or releases them
// and reports false if the idle share is full or keep is false.
func (a *account) retire(u uint64, keep bool) bool {
	for {
		w := a.word.Load()
		used, idle := split(w)
		if used < u {
			panic("bufpool: Put of more than was got: a buffer was put twice or is foreign (build with -tags bufpooldebug to find it)")
		}
		kept := keep && idle+u <= a.maxIdle()
		next := join(used-u, idle)
		if kept {
			next += u
		}
		if a.word.CompareAndSwap(w, next) {
			return kept
		}
	}
}

// drop releases u idle units.
func (a *account) drop(u uint64) {
	a.word.Add(-u) // idle ≥ u: no borrow
}
