package capacity

import (
	"math/rand/v2"
	"time"
)

// RetryAfter picks when a refused caller should come back: anywhere from least
// to most, so that those refused together don't come back together.
func RetryAfter(least, most time.Duration) time.Duration {
	least = max(least, 0)
	if most <= least {
		return least
	}
	return least + rand.N(most-least+1)
}

// RetrySeconds is d as the Retry-After header has it: whole seconds, rounded
// up, at least 1 (RFC 9110, section 10.2.3).
func RetrySeconds(d time.Duration) int {
	return max(1, int((d+time.Second-1)/time.Second))
}
