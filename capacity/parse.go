package capacity

import "bytes"

// parseBytes reads a decimal number of bytes, or of anything not negative; ok
// is false for all else and past 2^63-1. It does not allocate.
func parseBytes(b []byte) (n int64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := int64(c - '0')
		if n > (1<<63-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// field returns the number after key at the start of a line, as in memory.stat
// and /proc/meminfo; what follows the number is ignored. It does not allocate.
func field(text []byte, key string) (n int64, ok bool) {
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		if len(line) <= len(key) || string(line[:len(key)]) != key || line[len(key)] != ' ' {
			continue
		}
		value := bytes.TrimLeft(line[len(key):], " ")
		if i := bytes.IndexByte(value, ' '); i >= 0 {
			value = value[:i]
		}
		return parseBytes(value)
	}
	return 0, false
}
