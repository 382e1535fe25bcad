package wire

import (
	"encoding/json"
	"unicode/utf8"
)

// appendString appends s as a JSON string. Control characters are escaped and
// bytes that are not UTF-8 become U+FFFD, so the result is good in a text frame
// whatever s is.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:]) // U+FFFD for a bad byte
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = append(dst, c)
		}
		i++
	}
	return append(dst, '"')
}

// nestedOver reports whether b opens more than depth brackets at once. It needs
// no valid JSON: on that it is exact, on other input it may be wrong, never long.
func nestedOver(b []byte, depth int) bool {
	open, str := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case str && c == '\\':
			i++
		case c == '"':
			str = !str
		case str:
		case c == '[' || c == '{':
			if open++; open > depth {
				return true
			}
		case c == ']' || c == '}':
			open--
		}
	}
	return false
}

// walker steps through the members of one object or array. Its input must be
// valid JSON: it finds where values end, and checks nothing.
type walker struct {
	b   []byte
	i   int
	obj bool
	key []byte // of the current member, as written with its quotes; objects only
	val []byte // of the current member or element, as written
}

// walk is a walker over raw, which is an object when kind is '{' and an array
// when it is '['; ok is false if it is something else.
func walk(raw []byte, kind byte) (w walker, ok bool) {
	w.b, w.obj = raw, kind == '{'
	return w, w.peek() == kind
}

// next steps to the next member or element and reports whether there is one.
func (w *walker) next() bool {
	w.i++ // past the bracket, the comma before the member, or onto the end
	switch w.peek() {
	case ']', '}', 0:
		return false
	}
	if w.obj {
		w.key = w.value()
		w.peek()
		w.i++ // the colon
	}
	w.val = w.value()
	w.peek()
	return true
}

// peek skips white space and returns the byte there, 0 at the end.
func (w *walker) peek() byte {
	for ; w.i < len(w.b); w.i++ {
		switch c := w.b[w.i]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// value consumes one value and returns its bytes.
func (w *walker) value() []byte {
	w.peek()
	start, open, str := w.i, 0, false
	for ; w.i < len(w.b); w.i++ {
		switch c := w.b[w.i]; {
		case str && c == '\\':
			w.i++
		case c == '"':
			if str = !str; !str && open == 0 {
				w.i++
				return w.b[start:w.i]
			}
		case str:
		case c == '[' || c == '{':
			open++
		case c == ']' || c == '}':
			if open == 0 { // the end of what holds a bare value
				return w.b[start:w.i]
			}
			if open--; open == 0 {
				w.i++
				return w.b[start:w.i]
			}
		case open == 0 && (c == ',' || c == ' ' || c == '\t' || c == '\r' || c == '\n'):
			return w.b[start:w.i]
		}
	}
	return w.b[start:]
}

// text returns the characters of a JSON string, a part of raw unless it has
// escapes; ok is false if raw is no string.
func text(raw []byte) (s []byte, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return nil, false
	}
	for _, c := range raw {
		if c == '\\' {
			var t string
			err := json.Unmarshal(raw, &t)
			return []byte(t), err == nil
		}
	}
	return raw[1 : len(raw)-1], true
}

// integer returns a JSON number written as an integer of at most max; a sign, a
// fraction or an exponent is not ok, whatever its value.
func integer(raw []byte, max uint64) (n uint64, ok bool) {
	for _, c := range raw {
		d := uint64(c - '0')
		if d > 9 || n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(raw) > 0 && n <= max
}
