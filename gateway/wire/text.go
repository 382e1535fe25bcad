package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// textPrefix returns how many leading bytes of b are whole UTF-8 characters,
// and whether the rest, at most three bytes, may still become one. It is false
// at the first byte no continuation can mend (RFC 3629, RFC 6455 section 8.1).
func textPrefix(b []byte) (good int, ok bool) {
	good = len(b)
	for i := 1; i <= min(utf8.UTFMax-1, len(b)); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				good = len(b) - i
			}
			break
		}
	}
	return good, utf8.Valid(b[:good])
}

// badText is the end of a connection whose text is not UTF-8.
func badText() *CloseError { return &CloseError{1007, "text is not UTF-8"} }

// control is the event of a whole control frame, RFC 6455 section 5.5.
func control(op byte, payload []byte) (Event, *CloseError) {
	switch op {
	case OpPing:
		return Event{Kind: Ping, Payload: payload}, nil
	case OpPong:
		return Event{Kind: Pong, Payload: payload}, nil
	}
	if len(payload) == 0 {
		return Event{Kind: Close, Code: 1005}, nil
	}
	if len(payload) == 1 {
		return Event{}, &CloseError{1002, "close payload of one byte"}
	}
	code, reason := binary.BigEndian.Uint16(payload), payload[2:]
	if !ValidCloseCode(code) {
		return Event{}, &CloseError{1002, "close code not allowed in a frame"}
	}
	if !utf8.Valid(reason) {
		return Event{}, badText()
	}
	return Event{Kind: Close, Code: code, Payload: reason}, nil
}

// ValidCloseCode reports whether an endpoint may send code in a close frame:
// what RFC 6455 section 7.4.1 or the IANA registry defines for it (1000 to
// 1003, 1007 to 1014), or 3000 to 4999.
func ValidCloseCode(code uint16) bool {
	return 1000 <= code && code <= 1003 || 1007 <= code && code <= 1014 || 3000 <= code && code <= 4999
}
