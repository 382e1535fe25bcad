package wire

import "net/http"

// Bounds of a request head, in bytes and lines. A head, line or count of
// exactly the bound is accepted.
const (
	MaxHead    = 16 << 10 // the whole head, blank line included
	MaxLine    = 8 << 10  // one line, without its CRLF
	MaxHeaders = 100      // header lines

	maxMethod = 32 // a longer method is not one of any registry
)

// HeadScanner finds the end of a request head that arrives in pieces, and the
// first byte that no HTTP/1.x head could have there (RFC 9112 sections 2 to 5,
// none of its leniencies but one leading CRLF). It looks at every byte once.
// The zero value is ready; it holds no reference to what it scanned.
type HeadScanner struct {
	pos     int32     // the next byte to look at, ≤ MaxHead
	line    int32     // where the current line began
	state   headState // what pos is in
	n       uint8     // bytes of the version part seen
	headers uint8     // header lines begun, ≤ MaxHeaders
	blank   bool      // the one leading CRLF was seen
}

// headState says which part of the head the next byte belongs to.
type headState uint8

const (
	inStart     headState = iota // the first byte, or the one after a leading CRLF
	inStartLF                    // LF of the leading CRLF
	inMethod                     // RFC 9110 section 9.1
	inTarget0                    // first byte of the target
	inTarget                     // RFC 9112 section 3.2
	inProto                      // "HTTP/"
	inMajor                      // one to three digits, then "."
	inMinor                      // one to three digits, then CR
	inLineLF                     // LF of a line
	inLineStart                  // first byte of a header line, or of the blank one
	inName                       // RFC 9110 section 5.1
	inValue                      // RFC 9110 section 5.5
	inEndLF                      // LF of the blank line
	inDone
)

// Scan looks at buf, the whole head so far: the bytes of the call before and
// new ones behind them. It returns end > 0 when the head buf[:end] is complete,
// blank line included; a Refusal (400, 414 or 431) as soon as it can't become a
// head any more; neither when more bytes are needed.
func (s *HeadScanner) Scan(buf []byte) (end int, ref *Refusal) {
	for ; s.state != inDone && int(s.pos) < len(buf); s.pos++ {
		if s.state == inValue { // most bytes of most heads
			end := min(len(buf), MaxHead, int(s.line)+MaxLine)
			for _, c := range buf[s.pos:max(end, int(s.pos))] {
				if octets[c]&isValue == 0 {
					break
				}
				s.pos++
			}
			if int(s.pos) == len(buf) {
				break
			}
		}
		if s.pos >= MaxHead {
			return 0, refuse(http.StatusRequestHeaderFieldsTooLarge, "request head larger than 16 KiB")
		}
		c := buf[s.pos]
		if s.pos-s.line >= MaxLine && c != '\r' && c != '\n' {
			if s.state <= inMinor {
				return 0, refuse(http.StatusRequestURITooLong, "request line longer than 8 KiB")
			}
			return 0, refuse(http.StatusRequestHeaderFieldsTooLarge, "header line longer than 8 KiB")
		}
		if s.state < inLineLF {
			ref = s.requestLine(c)
		} else {
			ref = s.headerLine(c)
		}
		if ref != nil {
			return 0, ref
		}
	}
	if s.state == inDone {
		return int(s.pos), nil
	}
	return 0, nil
}

// requestLine takes one byte up to the CR of the request line.
func (s *HeadScanner) requestLine(c byte) *Refusal {
	const bad = http.StatusBadRequest
	switch s.state {
	case inStart:
		switch {
		case octets[c]&isToken != 0:
			s.state, s.line = inMethod, s.pos
		case c == '\r' && !s.blank:
			s.state, s.blank = inStartLF, true
		case c == 0x16 && s.pos == 0:
			return refuse(bad, "a TLS handshake on a plain-text port")
		default:
			return refuse(bad, "request does not begin with a method")
		}
	case inStartLF:
		if c != '\n' {
			return refuse(bad, "CR without LF")
		}
		s.state = inStart
	case inMethod:
		switch {
		case c == ' ':
			s.state = inTarget0
		case octets[c]&isToken == 0:
			return refuse(bad, "bad byte in the method")
		case s.pos-s.line >= maxMethod:
			return refuse(bad, "method too long")
		}
	case inTarget0, inTarget:
		switch {
		case c == ' ' && s.state == inTarget:
			s.state, s.n = inProto, 0
		case c == '\r' || c == '\n':
			return refuse(bad, "request line without an HTTP version")
		case c <= ' ' || c >= 0x7f || c == '#':
			return refuse(bad, "bad byte in the request target")
		default:
			s.state = inTarget
		}
	case inProto:
		if c != "HTTP/"[s.n] {
			return refuse(bad, "bad HTTP version")
		}
		if s.n++; s.n == 5 {
			s.state, s.n = inMajor, 0
		}
	case inMajor, inMinor:
		switch {
		case '0' <= c && c <= '9' && s.n < 3:
			s.n++
		case s.state == inMajor && c == '.' && s.n > 0:
			s.state, s.n = inMinor, 0
		case s.state == inMinor && c == '\r' && s.n > 0:
			s.state = inLineLF
		default:
			return refuse(bad, "bad HTTP version")
		}
	}
	return nil
}

// headerLine takes one byte from the LF of the request line on.
func (s *HeadScanner) headerLine(c byte) *Refusal {
	const bad = http.StatusBadRequest
	switch s.state {
	case inLineLF, inEndLF:
		if c != '\n' {
			return refuse(bad, "CR without LF")
		}
		if s.state == inEndLF {
			s.state = inDone
			return nil
		}
		s.state, s.line = inLineStart, s.pos+1
	case inLineStart:
		switch {
		case c == '\r':
			s.state = inEndLF
		case c == ' ' || c == '\t': // obs-fold, RFC 9112 section 5.2
			return refuse(bad, "folded header line")
		case octets[c]&isToken == 0:
			return refuse(bad, "bad byte in a header name")
		case s.headers == MaxHeaders:
			return refuse(http.StatusRequestHeaderFieldsTooLarge, "more than 100 header lines")
		default:
			s.state = inName
			s.headers++
		}
	case inName:
		switch {
		case c == ':':
			s.state = inValue
		case octets[c]&isToken != 0:
		case c == '\r' || c == '\n':
			return refuse(bad, "header line without a colon")
		default:
			return refuse(bad, "bad byte in a header name")
		}
	case inValue:
		if c != '\r' {
			return refuse(bad, "bad byte in a header value")
		}
		s.state = inLineLF
	}
	return nil
}

// Classes of octets, RFC 9110 section 5.6.2 (token) and 5.5 (field value).
const (
	isToken uint8 = 1 << iota
	isValue
	isHost
)

// octets maps a byte to its classes.
var octets = func() (t [256]uint8) {
	for c := range 256 {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if alnum || in("!#$%&'*+-.^_`|~", c) {
			t[c] |= isToken
		}
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[c] |= isValue
		}
		if alnum || in("-._~%!$&'()*+,;=:[]", c) {
			t[c] |= isHost
		}
	}
	return t
}()

// in reports whether the octet c is one of set.
func in(set string, c int) bool {
	for i := range len(set) {
		if int(set[i]) == c {
			return true
		}
	}
	return false
}

// all reports whether s is not empty and all its bytes are of class.
func all(s string, class uint8) bool {
	for i := range len(s) {
		if octets[s[i]]&class == 0 {
			return false
		}
	}
	return s != ""
}
