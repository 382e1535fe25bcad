package wire

import (
	"encoding/json"
	"unicode/utf8"
)

// ValidPayload reports whether data may be a message's "d", which is sent byte
// for byte inside a text frame: one JSON value (RFC 8259, nested at most
// 10 000 deep, white space around it allowed) in good UTF-8, which json.Valid
// alone does not ask for.
func ValidPayload(data []byte) bool {
	return utf8.Valid(data) && json.Valid(data)
}
