package bufpool

import "sync"

// freeList holds the idle buffers of one class. It keeps only where each
// begins: the class knows the size, and a slice header would cost three times
// as much per 256 B buffer.
//
// The account is moved under the list's lock, so a buffer counted as idle can
// be found on a list by anyone who takes its lock; that is why a Get that needs
// room makes progress.
type freeList struct {
	mu     sync.Mutex
	starts []*byte  // guarded by mu; the last put is the next taken
	_      [32]byte // to a 64-byte cache line: neighbours do not contend
}

// pop takes an idle buffer of u units into use; nil if there is none.
func (l *freeList) pop(a *account, u uint64) *byte {
	l.mu.Lock()
	start := l.take()
	if start != nil {
		a.reuse(u)
	}
	l.mu.Unlock()
	return start
}

// push makes the buffer of u units idle. It reports false if the idle share is
// full; then the buffer is released.
func (l *freeList) push(a *account, u uint64, start *byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock() // retire may panic
	if !a.retire(u, true) {
		return false
	}
	l.starts = append(l.starts, start)
	return true
}

// discard releases an idle buffer of u units and returns it; nil if there is none.
func (l *freeList) discard(a *account, u uint64) *byte {
	l.mu.Lock()
	start := l.take()
	if start != nil {
		a.drop(u)
	}
	l.mu.Unlock()
	return start
}

// take removes a buffer from the list; l.mu is held.
func (l *freeList) take() *byte {
	n := len(l.starts)
	if n == 0 {
		return nil
	}
	i := n - 1
	start := l.starts[i]
	if debugging { // the oldest: a late write has had the most time to show
		start = l.starts[0]
		copy(l.starts, l.starts[1:])
	}
	l.starts[i] = nil
	l.starts = l.starts[:i]
	return start
}

// shrink gives the list's own memory up if it is empty.
func (l *freeList) shrink() {
	l.mu.Lock()
	if len(l.starts) == 0 {
		l.starts = nil
	}
	l.mu.Unlock()
}
