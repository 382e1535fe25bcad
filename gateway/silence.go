package gateway

import (
	"fmt"
	"strings"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

// Silence is how long the channels of a pattern may be silent.
type Silence struct {
	Pattern string // a channel, "trade.*", or "*" for all
	For     time.Duration
}

// ParseSilence reads PATTERN=DURATION.
func ParseSilence(text string) (Silence, error) {
	pattern, d, _ := strings.Cut(text, "=")
	after, err := time.ParseDuration(d)
	if _, _, ok := wire.ParsePattern(pattern); err != nil || after <= 0 || !ok && pattern != "*" {
		return Silence{}, fmt.Errorf("want PATTERN=DURATION such as trade.*=5s, not %q", text)
	}
	return Silence{pattern, after}, nil
}

// silence is how long a channel may be silent, ms; 0: as long as it likes.
func (l *Live) silence(name string) int64 {
	best, length := time.Duration(0), -1
	for _, s := range l.Silences {
		prefix, wildcard := strings.CutSuffix(s.Pattern, "*")
		n := len(prefix)
		if !wildcard && s.Pattern == name {
			n = 1 << 20 // its own name counts more than any wildcard
		} else if !wildcard || !strings.HasPrefix(name, prefix) {
			continue
		}
		if n > length {
			best, length = s.For, n
		}
	}
	return best.Milliseconds()
}
