package capacity

// MinGoMemLimit is the least GoMemLimit returns, bytes: below it the collector
// would run all the time.
const MinGoMemLimit = 64 * MiB

// GoMemLimit returns what to give debug.SetMemoryLimit, bytes: 90 % of limit,
// less what lies outside Go's memory, that is the kernel's share of so many
// connections at kernelPerConn bytes each and the backlog standing in socket
// buffers. Never under MinGoMemLimit. GOMEMLIMIT counts only what the runtime
// maps (https://go.dev/doc/gc-guide#Memory_limit), so a tenth stays for what it
// does not. Negative arguments count as 0.
func GoMemLimit(limit int64, connections int, kernelPerConn, backlog int64) int64 {
	limit = max(limit, 0)
	limit -= limit / 10
	if connections > 0 && kernelPerConn > 0 {
		if int64(connections) > limit/kernelPerConn { // also keeps the product from overflowing
			return MinGoMemLimit
		}
		limit -= int64(connections) * kernelPerConn
	}
	if backlog > 0 {
		limit -= backlog
	}
	return max(limit, MinGoMemLimit)
}
