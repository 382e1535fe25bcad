package wire

import "strings"

// MaxChannel is the longest name of a channel or pattern, in bytes.
const MaxChannel = 128

// ValidChannel reports whether name may be a channel's:
// [A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*, at most [MaxChannel] bytes, its first
// token not the reserved _sys.
func ValidChannel(name string) bool {
	if len(name) > MaxChannel || name == "_sys" || strings.HasPrefix(name, "_sys.") {
		return false
	}
	dot := true // a token must begin here
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if dot {
				return false
			}
			dot = true
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-':
			dot = false
		default:
			return false
		}
	}
	return !dot
}

// ParsePattern reads what may be subscribed: a channel (prefix is its name,
// wildcard false), or a valid name followed by ".*", which stands for every
// channel that begins with prefix: "trade." for "trade.*". At most [MaxChannel]
// bytes in all. ok is false for anything else.
func ParsePattern(name string) (prefix string, wildcard, ok bool) {
	base, wildcard := strings.CutSuffix(name, ".*")
	if len(name) > MaxChannel || !ValidChannel(base) {
		return "", false, false
	}
	if wildcard {
		return name[:len(name)-1], true, true
	}
	return name, false, true
}
