package wire

import (
	"net/http"
	"strconv"
	"strings"
)

// Request is a parsed head. Its strings are parts of one copy of the head:
// they stay good whatever becomes of the buffer, and one kept keeps up to
// MaxHead bytes; clone what must outlive the handshake.
type Request struct {
	Method string // a token, case kept: "get" is not "GET"
	Target string // as sent
	Path   string // raw: neither percent-decoded nor cleaned; begins with "/", or is "*"
	Query  string // raw, without "?"
	Host   string // as sent; "" only in HTTP/1.0

	Origin    string // as sent
	HasOrigin bool   // an Origin line was there, perhaps an empty one

	ForwardedFor  string // X-Forwarded-For, several joined with ", "
	Authorization string // as sent, e.g. "Bearer …"

	ProtoMinor    int   // 0 or 1: HTTP/1.0 or HTTP/1.1
	ContentLength int64 // 0 in GET and HEAD; the body itself is not read here

	Upgrade bool // asks for websocket, and nothing else
	Offered bool // offered the subprotocol odin.v1.json

	Key        string // Sec-WebSocket-Key; checked by CheckUpgrade
	Version    string // Sec-WebSocket-Version; checked by CheckUpgrade
	Protocols  string // Sec-WebSocket-Protocol, several joined with ", "
	Extensions string // Sec-WebSocket-Extensions, several joined with ", "

	connUpgrade                               bool  // Connection lists "upgrade"
	upgrades, keys, versions, protos, extents uint8 // lines of each, ≤ MaxHeaders

	deflate string // the answer to the offer taken by AcceptDeflate; "" for none
}

// ParseHead parses a complete head, as found by [HeadScanner.Scan], and applies
// the rules that hold for any path: those of Scan again; 505 for a version that
// is neither 1.0 nor 1.1; 403 for two Origins; 400 for no, two, empty or
// malformed Hosts, a target of another host or of no known form,
// Transfer-Encoding, a malformed Content-Length or one with a body in a GET or
// HEAD, two Authorizations. A body in another method is left to whoever answers
// that method, with 405 or 404.
func ParseHead(head []byte) (Request, *Refusal) {
	var sc HeadScanner
	end, ref := sc.Scan(head)
	if ref != nil {
		return Request{}, ref
	}
	if end == 0 {
		return Request{}, refuse(http.StatusBadRequest, "incomplete request head")
	}
	line, rest, _ := strings.Cut(strings.TrimPrefix(string(head[:end]), "\r\n"), "\r\n")
	var r Request
	r.Method, line, _ = strings.Cut(line, " ")
	var proto string
	r.Target, proto, _ = strings.Cut(line, " ")
	switch proto {
	case "HTTP/1.1":
		r.ProtoMinor = 1
	case "HTTP/1.0":
	default:
		return Request{}, refuse(http.StatusHTTPVersionNotSupported, "only HTTP/1.0 and HTTP/1.1 are spoken here")
	}
	var seen seenHeaders
	for {
		line, rest, _ = strings.Cut(rest, "\r\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		if ref := r.header(&seen, name, strings.Trim(value, " \t")); ref != nil {
			return Request{}, ref
		}
	}
	if ref := r.target(seen.host); ref != nil {
		return Request{}, ref
	}
	if r.ContentLength > 0 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return Request{}, refuse(http.StatusBadRequest, "a body where none belongs")
	}
	return r, nil
}

// seenHeaders remembers header lines that may come once.
type seenHeaders struct{ host, auth, length bool }

// header takes one header line into r; value is trimmed.
func (r *Request) header(seen *seenHeaders, name, value string) *Refusal {
	const bad = http.StatusBadRequest
	switch {
	case strings.EqualFold(name, "Host"): // RFC 9112 section 3.2
		if seen.host || !all(value, isHost) {
			return refuse(bad, "Host must be given once, and be a host")
		}
		seen.host, r.Host = true, value
	case strings.EqualFold(name, "Origin"):
		if r.HasOrigin {
			return refuse(http.StatusForbidden, "two Origins")
		}
		r.HasOrigin, r.Origin = true, value
	case strings.EqualFold(name, "Authorization"):
		if seen.auth {
			return refuse(bad, "two Authorizations")
		}
		seen.auth, r.Authorization = true, value
	case strings.EqualFold(name, "Transfer-Encoding"):
		return refuse(bad, "Transfer-Encoding is not accepted")
	case strings.EqualFold(name, "Content-Length"): // RFC 9112 section 6.3
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || seen.length && int64(n) != r.ContentLength {
			return refuse(bad, "bad Content-Length")
		}
		seen.length, r.ContentLength = true, int64(n)
	case strings.EqualFold(name, "X-Forwarded-For"):
		if r.ForwardedFor != "" {
			value = r.ForwardedFor + ", " + value
		}
		r.ForwardedFor = value
	case strings.EqualFold(name, "Upgrade"):
		r.upgrades++
		r.Upgrade = r.upgrades == 1 && strings.EqualFold(value, "websocket")
	case strings.EqualFold(name, "Connection"):
		for opt := range strings.SplitSeq(value, ",") {
			r.connUpgrade = r.connUpgrade || strings.EqualFold(strings.Trim(opt, " \t"), "upgrade")
		}
	case strings.EqualFold(name, "Sec-WebSocket-Key"):
		r.keys++
		r.Key = value
	case strings.EqualFold(name, "Sec-WebSocket-Version"):
		r.versions++
		r.Version = value
	case strings.EqualFold(name, "Sec-WebSocket-Extensions"):
		joinList(&r.Extensions, &r.extents, value)
	case strings.EqualFold(name, "Sec-WebSocket-Protocol"):
		joinList(&r.Protocols, &r.protos, value)
		for p := range strings.SplitSeq(value, ",") {
			r.Offered = r.Offered || strings.Trim(p, " \t") == Subprotocol
		}
	}
	return nil
}

// joinList adds one line of a list header to the lines before it, RFC 9110
// section 5.3. An empty line is kept as an empty member.
func joinList(list *string, lines *uint8, value string) {
	if *lines++; *lines == 1 {
		*list = value
	} else {
		*list += ", " + value
	}
}

// target splits Target into Path and Query, RFC 9112 section 3.2, and checks it
// against Host.
func (r *Request) target(hasHost bool) *Refusal {
	if !hasHost && r.ProtoMinor > 0 {
		return refuse(http.StatusBadRequest, "Host is missing")
	}
	rest := r.Target
	switch {
	case rest[0] == '/':
	case rest == "*" && r.Method == http.MethodOptions:
	default: // absolute form
		scheme, after, ok := strings.Cut(rest, "://")
		if !ok || !(strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")) {
			return refuse(http.StatusBadRequest, "bad request target")
		}
		i := strings.IndexAny(after, "/?")
		if i < 0 {
			i = len(after)
		}
		host := after[:i]
		if !hasHost && all(host, isHost) {
			r.Host = host
		}
		if !sameHost(scheme, host, r.Host) {
			return refuse(http.StatusBadRequest, "request target of another host")
		}
		rest = after[i:]
	}
	r.Path, r.Query, _ = strings.Cut(rest, "?")
	if r.Path == "" {
		r.Path = "/"
	}
	return nil
}

// sameHost reports whether two hosts are one under scheme (http or https):
// without regard to case and to the scheme's own port. Empty is the same as
// nothing.
func sameHost(scheme, a, b string) bool {
	port := ":80"
	if strings.EqualFold(scheme, "https") {
		port = ":443"
	}
	a, b = strings.TrimSuffix(a, port), strings.TrimSuffix(b, port)
	return a != "" && strings.EqualFold(a, b)
}
