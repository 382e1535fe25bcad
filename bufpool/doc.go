// Package bufpool lends byte buffers under one budget of bytes.
//
// A gateway with 50 000 clients cannot give each a buffer, and cannot let each
// ask for one without bound either. A Pool gives a buffer to who needs one now
// (half a frame, the rest of a short write), takes it back, and refuses when
// the budget is spent: the refusal is an error the caller answers, never a wait
// and never memory beyond the budget.
//
//	b, err := pool.Get(n)        // len n, contents undefined
//	if err != nil { … }          // errors.Is(err, bufpool.ErrBudget)
//	b, err = pool.Grow(b, 2*n)   // on error b is still yours
//	pool.Put(b)                  // b and every slice of it are the pool's now
//
// # What is counted
//
// Buffers come in 25 classes: powers of two and their midpoints, 256 B, 384 B,
// 512 B, 768 B … 768 KiB, 1 MiB. Each is a size class of Go's allocator or a
// whole number of its 8 KiB pages (runtime/sizeclasses.go), so a class costs
// what it says; a buffer is at most a half larger than asked for above 256 B.
// A longer Get is allocated exactly, counted in whole 8 KiB pages as the
// allocator does, and dropped by Put.
//
// Counted against the budget are the buffers handed out and the idle ones kept
// for reuse. Not counted: 8 bytes of free list per idle buffer, and dropped
// buffers until the garbage collector's next cycle (GOMEMLIMIT bounds those).
//
// # What holds
//
//   - InUse + Idle never exceeds Budget; Idle never exceeds a quarter of it.
//     Both are halves of one atomic word, so there is no moment in between.
//   - A Get is refused only if the buffers in use leave no room for it: idle
//     ones are dropped first, the largest first.
//   - Nothing is allocated by Get and Put once a class has idle buffers.
//   - The pool starts no goroutine and no timer. Idle buffers stay until
//     another class needs their room, or Trim.
//
// Any goroutine may call any method. A class has its own mutex, held for a few
// instructions.
//
// # Ownership
//
// From Get to Put the buffer is the caller's alone. Put takes any slice of it
// that still begins where it began and has its full capacity (b[:k], not b[k:]
// nor b[:k:k]). In every build Put panics on a capacity that no Get could have
// given, and when more is put than was got. Build with
//
//	go test -tags bufpooldebug ./...
//
// and each buffer is known by address: a second Put, a foreign buffer, a cut
// slice panic with the place of the Get, and so does a write after Put, which
// is found when the buffer is next taken or dropped (Put poisons it, and the
// oldest idle buffer is reused first, to leave it time). Outstanding then lists
// who has not put. This build is slow and for tests.
//
// # What it does not do
//
// It does not clear buffers: what a Get returns may hold another client's
// bytes beyond what you write. It knows no waiting, no priorities and no
// per-client shares; that is the caller's policy.
package bufpool
