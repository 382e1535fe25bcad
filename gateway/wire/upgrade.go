package wire

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/gobwas/ws"
)

// Subprotocol is what Odin speaks; it is echoed to a client that offered it.
const Subprotocol = "odin.v1.json"

// CheckUpgrade applies the rules of a WebSocket handshake, RFC 6455 section
// 4.2.1: 505 unless HTTP/1.1; 405 unless GET; 426 without "Upgrade: websocket"
// or with another version than 13; 400 without "Connection: Upgrade", for no or
// two versions or keys, a key that is not 16 bytes in base64, a malformed list
// of extensions or subprotocols.
func CheckUpgrade(r *Request) *Refusal {
	const bad = http.StatusBadRequest
	switch {
	case r.ProtoMinor != 1:
		return refuse(http.StatusHTTPVersionNotSupported, "a WebSocket handshake needs HTTP/1.1")
	case r.Method != http.MethodGet:
		ref := refuse(http.StatusMethodNotAllowed, "a WebSocket handshake is a GET")
		ref.Header = [][2]string{{"Allow", http.MethodGet}}
		return ref
	case !r.Upgrade:
		return upgradeRequired("this is a WebSocket endpoint: Upgrade: websocket is missing")
	case !r.connUpgrade:
		return refuse(bad, "Connection does not list Upgrade")
	case r.versions != 1 || !digits(r.Version):
		return refuse(bad, "Sec-WebSocket-Version must be given once, as a number")
	case r.Version != "13":
		return upgradeRequired("only version 13 of the WebSocket protocol is spoken here")
	case r.keys != 1 || !validKey(r.Key):
		return refuse(bad, "Sec-WebSocket-Key must be given once, 16 bytes in base64")
	case r.extents > 0 && !validExtensions(r.Extensions):
		return refuse(bad, "malformed Sec-WebSocket-Extensions")
	case r.protos > 0 && !validTokens(r.Protocols):
		return refuse(bad, "malformed Sec-WebSocket-Protocol")
	}
	return nil
}

// upgradeRequired is a 426 that says what would be accepted, RFC 9110 section
// 15.5.22 and RFC 6455 section 4.4.
func upgradeRequired(message string) *Refusal {
	ref := refuse(http.StatusUpgradeRequired, message)
	ref.Header = [][2]string{{"Connection", "Upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}}
	return ref
}

// CheckOrigin keeps pages of other sites from using a visitor's browser, RFC
// 6455 section 10.2. An absent Origin passes (no browser), and one whose host
// is Host, by http or https; any other must be in allow, whole and without
// regard to case ("https://app.example.com", or "*" for all). Else it is a 403.
func CheckOrigin(r *Request, allow []string) *Refusal {
	if !r.HasOrigin {
		return nil
	}
	if scheme, host, ok := cutOrigin(r.Origin); ok && sameHost(scheme, host, r.Host) {
		return nil
	}
	for _, a := range allow {
		if a == "*" || a != "" && strings.EqualFold(a, r.Origin) {
			return nil
		}
	}
	return refuse(http.StatusForbidden, "this Origin is not allowed")
}

// cutOrigin splits a serialized web origin, RFC 6454 section 6.1.
func cutOrigin(origin string) (scheme, host string, ok bool) {
	scheme, host, ok = strings.Cut(origin, "://")
	return scheme, host, ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https"))
}

// digits reports whether s is a number of one to three digits.
func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 3
}

// validKey reports whether key is 16 bytes in base64, RFC 6455 section 4.1.
func validKey(key string) bool {
	var nonce [18]byte
	if len(key) != 24 {
		return false
	}
	n, err := base64.StdEncoding.Decode(nonce[:], []byte(key))
	return err == nil && n == 16
}

// validTokens reports whether s is a list of tokens, none of them empty.
func validTokens(s string) bool {
	for t := range strings.SplitSeq(s, ",") {
		if !all(strings.Trim(t, " \t"), isToken) {
			return false
		}
	}
	return true
}

// validExtensions reports whether s follows the grammar of RFC 6455 section
// 9.1: 1#( token *( ";" token [ "=" ( token | quoted token ) ] ) ).
func validExtensions(s string) bool {
	for ext := range strings.SplitSeq(s, ",") {
		name := true
		for part := range strings.SplitSeq(ext, ";") {
			part = strings.Trim(part, " \t")
			key, value, valued := part, "", false
			if !name {
				key, value, valued = strings.Cut(part, "=")
			}
			name = false
			if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
				value = value[1 : n-1] // after unquoting it must be a token as well
			}
			if !all(key, isToken) || valued && !all(value, isToken) {
				return false
			}
		}
	}
	return true
}

// AppendUpgrade appends the 101 response to head, a complete one that passed
// [ParseHead] and [CheckUpgrade]; it applies both again and returns their
// Refusal as the error, with dst unchanged.
func AppendUpgrade(dst, head []byte) ([]byte, error) {
	r, ref := ParseHead(head)
	if ref == nil {
		ref = CheckUpgrade(&r)
	}
	if ref != nil {
		return dst, ref
	}
	return r.AppendUpgrade(dst)
}

// upgrader negotiates the subprotocol; extensions are AcceptDeflate's.
var upgrader = ws.Upgrader{Protocol: func(p []byte) bool { return string(p) == Subprotocol }}

// errNotChecked is AppendUpgrade's answer to a request CheckUpgrade refuses.
var errNotChecked = errors.New("wire: the request is not a checked handshake")

// AppendUpgrade appends the 101 response to a request that passed
// [CheckUpgrade]. ws.Upgrader runs in memory over a head written anew from the
// few checked values, so its leniency with heads is never reached, nor its
// strictness (it refuses "Connection: keep-alive" beside "Connection: Upgrade").
// On an error dst is unchanged.
func (r *Request) AppendUpgrade(dst []byte) ([]byte, error) {
	if CheckUpgrade(r) != nil {
		return dst, errNotChecked
	}
	var scratch [256]byte
	head := append(scratch[:0], "GET / HTTP/1.1\r\nHost: -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "...)
	head = append(head, r.Key...)
	if r.Offered {
		head = append(head, "\r\nSec-WebSocket-Protocol: "+Subprotocol...)
	}
	head = append(head, "\r\n\r\n"...)
	m := memory{in: head, out: dst}
	up := upgrader
	if r.deflate != "" {
		up.Header = ws.HandshakeHeaderString("Sec-WebSocket-Extensions: " + r.deflate + "\r\n")
	}
	if _, err := up.Upgrade(&m); err != nil {
		return dst, err
	}
	return m.out, nil
}

// memory is the io.ReadWriter ws.Upgrader runs over.
type memory struct{ in, out []byte }

// Read gives what is left of in, then io.EOF.
func (m *memory) Read(p []byte) (int, error) {
	if len(m.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.in)
	m.in = m.in[n:]
	return n, nil
}

// Write appends to out.
func (m *memory) Write(p []byte) (int, error) {
	m.out = append(m.out, p...)
	return len(p), nil
}
