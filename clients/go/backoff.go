package odin

import (
	"math/rand/v2"
	"time"
)

// fate is what becomes of a client whose connection ended.
type fate int

const (
	lost    fate = iota // come back, at the next node
	atOnce              // come back now, at the same node
	busy                // come back, but not soon
	drained             // come back when the server said
	reauth              // come back only with another token
	stop                // don't come back
)

// closeFate is the protocol's table of close codes.
func closeFate(code int) fate {
	switch code {
	case 1000, 1001, 1005, 1006:
		return lost
	case 1002, 1003, 1007, 1008, 1009, 4003:
		return stop
	case 1012:
		return drained
	case 4001:
		return reauth
	case 4201:
		return atOnce
	}
	return busy // 1011, 1013, 4101, 4102, and what is not known
}

// movesOn reports whether the next node is tried: this one has gone, is full or
// is going. Who was too slow or too fast would be so there too.
func movesOn(code int) bool {
	return code != 4101 && code != 4102 && code != 4201 && code != 4001
}

// statusFate is the same for HTTP statuses that refuse a handshake. A client
// that was never let in takes any complaint about it as final.
func statusFate(status int, greeted bool) fate {
	switch {
	case status == 401:
		return reauth
	case status == 403:
		return stop
	case status >= 400 && status < 500 && status != 408 && status != 429 && !greeted:
		return stop
	}
	return busy
}

// backoff counts failures in a row. Owned by the run loop.
type backoff struct {
	min, max time.Duration
	failures int
}

// next is how long to wait, and at least what the server asked for. lost is
// full jitter, a random part of min·2ⁿ; busy is the upper half of it and at
// least a second.
func (b *backoff) next(f fate, asked time.Duration) time.Duration {
	if f == drained && asked > 0 {
		return asked // the server has spread them
	}
	if f == atOnce && b.failures == 0 {
		b.failures++
		return asked
	}
	most := b.max
	if b.failures < 20 {
		most = min(most, b.min<<b.failures)
	}
	b.failures++
	d := time.Duration(rand.Int64N(int64(most) + 1))
	if f == busy || f == drained {
		least := min(time.Second, b.max)
		d = max(least+d/4, most/2+d/2)
	}
	return max(d, asked)
}
