package bufpool

import "math/bits"

const (
	minClass   = 256     // bytes, the smallest buffer
	maxClass   = 1 << 20 // bytes, the largest buffer that is kept
	minBits    = 8       // log2(minClass)
	numClasses = 2*(20-minBits) + 1

	// page is what Go's allocator rounds allocations above 32 KiB up to, bytes
	// (runtime/sizeclasses.go, _PageSize).
	page = 8192
)

// classOf returns the index of the smallest class that holds n bytes, n in
// [0, maxClass]. Even indexes are powers of two, odd ones the midpoint to the next.
func classOf(n int) int {
	if n <= minClass {
		return 0
	}
	e := bits.Len(uint(n - 1)) // 2^(e-1) < n <= 2^e
	c := 2 * (e - minBits)
	if n <= 3<<(e-2) {
		c--
	}
	return c
}

// classSize returns the bytes of a buffer of class c.
func classSize(c int) int {
	return minClass << (c / 2) / 2 * (2 + c%2)
}

// chargeOf returns what a buffer of capacity n, or for one of n bytes, counts
// for, bytes; n ≤ maxBudget.
func chargeOf(n int) int64 {
	if n <= maxClass {
		return int64(classSize(classOf(n)))
	}
	return (int64(n) + page - 1) / page * page
}
