package bufpool

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// ErrBudget is what errors.Is finds in a refusal: the buffers in use leave no
// room in the budget. The error itself carries the figures. Nothing was taken;
// the same Get succeeds once others have put enough back.
var ErrBudget = errors.New("buffer budget exhausted")

// Pool lends buffers under a budget. Make one with New; it must not be copied.
type Pool struct {
	debug debugState // empty but in the bufpooldebug build

	account account
	refused atomic.Uint64
	lists   [numClasses]freeList
}

// New returns a pool of at most budget bytes, in use and idle together. A
// budget of 0 or less refuses every Get; one above 512 GiB counts as that.
func New(budget int64) *Pool {
	p := &Pool{}
	p.SetBudget(budget)
	return p
}

// SetBudget changes the budget, with New's bounds. What is lent beyond a lowered one
// stays with who has it, and nothing is lent until enough has come back; idle buffers
// beyond it are dropped at once. Any goroutine may call it.
func (p *Pool) SetBudget(budget int64) {
	p.account.budget.Store(uint64(min(max(budget, 0), maxBudget)) / unit)
	for {
		used, idle := split(p.account.word.Load())
		if idle <= p.account.maxIdle() && used+idle <= p.account.budget.Load() || idle == 0 || !p.dropLargest() {
			return
		}
	}
}

// Get returns a buffer of length n and the capacity of its class, or of
// capacity n beyond 1 MiB. Its contents are undefined. The caller owns it until
// Put. n = 0 gives an empty buffer of the smallest class.
//
// It fails with an ErrBudget if the budget has no room for it even without the
// idle buffers, and with another error if n is negative. It never waits.
func (p *Pool) Get(n int) ([]byte, error) {
	if n < 0 {
		return nil, fmt.Errorf("bufpool: Get of a negative length %d", n)
	}
	if n > maxClass {
		return p.getLarge(n)
	}
	c := classOf(n)
	size := classSize(c)
	if start := p.lists[c].pop(&p.account, uint64(size/unit)); start != nil {
		b := unsafe.Slice(start, size)
		p.debug.reused(b)
		return b[:n], nil
	}
	if err := p.reserve(n, int64(size)); err != nil {
		return nil, err
	}
	b := make([]byte, size)
	p.debug.made(b)
	return b[:n], nil
}

func (p *Pool) getLarge(n int) ([]byte, error) {
	if int64(n) > maxBudget-page {
		return nil, p.refuse(n)
	}
	if err := p.reserve(n, chargeOf(n)); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	b = b[:n:n]
	p.debug.made(b)
	return b, nil
}

// reserve takes charge bytes of the budget for a Get of n, dropping idle
// buffers as far as needed.
func (p *Pool) reserve(n int, charge int64) error {
	for {
		ok, full := p.account.reserve(uint64(charge) / unit)
		if ok {
			return nil
		}
		if full {
			return p.refuse(n)
		}
		p.dropLargest()
	}
}

// Put takes b back. b must come from Get or Grow of this pool, begin where that
// began and have its capacity; its length and contents do not matter. nil is a
// no-op. Afterwards the caller may use neither b nor any slice of it.
//
// It panics on a capacity no Get gives, and when more is put than was got; the
// bufpooldebug build panics on every misuse it can tell.
func (p *Pool) Put(b []byte) {
	if b == nil {
		return
	}
	b = b[:cap(b)]
	p.debug.check(b)
	if len(b) > maxClass {
		p.account.retire(uint64(chargeOf(len(b)))/unit, false)
		p.debug.dropped(b)
		return
	}
	c := classOf(len(b))
	if classSize(c) != len(b) {
		panic(fmt.Sprintf("bufpool: Put of a buffer of capacity %d, which no Get gives: it was cut or is foreign", len(b)))
	}
	p.debug.poison(b)
	if !p.lists[c].push(&p.account, uint64(len(b)/unit), unsafe.SliceData(b)) {
		p.debug.dropped(b)
	}
}

// Grow returns a buffer of length n that begins with b's contents (as many as
// fit) and takes b back. Where b's capacity is enough, it is b itself, resliced,
// and nothing is moved; otherwise both exist for a moment, and both are counted.
// The bytes beyond b's length are undefined. Grow(nil, n) is Get(n).
//
// It fails as Get does; b is then untouched and still the caller's.
func (p *Pool) Grow(b []byte, n int) ([]byte, error) {
	if b != nil && n >= 0 && n <= cap(b) {
		return b[:n], nil
	}
	grown, err := p.Get(n)
	if err != nil {
		return nil, err
	}
	copy(grown, b)
	p.Put(b)
	return grown, nil
}

// Trim drops all idle buffers, for the garbage collector to free.
func (p *Pool) Trim() {
	for c := range p.lists {
		for p.dropFrom(c) {
		}
		p.lists[c].shrink()
	}
}

// dropLargest drops one idle buffer, of the largest class that has one; it reports
// false if none has.
func (p *Pool) dropLargest() bool {
	for c := numClasses - 1; c >= 0; c-- {
		if p.dropFrom(c) {
			return true
		}
	}
	return false
}

// dropFrom drops an idle buffer of class c and reports whether there was one.
func (p *Pool) dropFrom(c int) bool {
	size := classSize(c)
	start := p.lists[c].discard(&p.account, uint64(size/unit))
	if start == nil {
		return false
	}
	p.debug.discarded(unsafe.Slice(start, size))
	return true
}

// InUse returns the bytes of the buffers handed out and not put back, at their
// class sizes.
func (p *Pool) InUse() int64 {
	used, _ := split(p.account.word.Load())
	return int64(used) * unit
}

// Idle returns the bytes of the buffers kept for reuse, at most Budget/4.
func (p *Pool) Idle() int64 {
	_, idle := split(p.account.word.Load())
	return int64(idle) * unit
}

// Budget returns the bound on InUse + Idle in force, bytes, a multiple of 128.
func (p *Pool) Budget() int64 { return int64(p.account.budget.Load()) * unit }

// Refused returns how many calls of Get and Grow failed with ErrBudget.
func (p *Pool) Refused() uint64 { return p.refused.Load() }

// Outstanding returns the place of the Get, "file:line", of each buffer not put
// back yet, sorted, in the bufpooldebug build, and nil in the ordinary one.
// For tests that look for leaks.
func (p *Pool) Outstanding() []string { return p.debug.outstanding() }
