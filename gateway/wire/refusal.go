package wire

import (
	"net/http"
	"strconv"
)

// Refusal is an HTTP answer given before the connection is closed. One is made
// by [HeadScanner.Scan], [ParseHead], [CheckUpgrade] and [CheckOrigin]; callers
// make their own for what they decide (401, 404, 408, 429, 503).
type Refusal struct {
	Status  int         // 400 to 599
	Code    string      // stable, for programs: "bad_request", "at_capacity", …
	Message string      // one sentence for people; never quotes the request
	Header  [][2]string // more header lines, e.g. {"Allow", "GET"}
}

// refuse is a Refusal whose code is the usual one of its status.
func refuse(status int, message string) *Refusal {
	return &Refusal{Status: status, Code: statusCode(status), Message: message}
}

// statusCode is the Code this package uses for an HTTP status.
func statusCode(status int) string {
	switch status {
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	case http.StatusRequestURITooLong:
		return "uri_too_long"
	case http.StatusUpgradeRequired:
		return "upgrade_required"
	case http.StatusRequestHeaderFieldsTooLarge:
		return "head_too_large"
	case http.StatusHTTPVersionNotSupported:
		return "version_not_supported"
	default:
		return "bad_request"
	}
}

// Error is "status code: message".
func (r *Refusal) Error() string {
	return strconv.Itoa(r.Status) + " " + r.Code + ": " + r.Message
}

// AppendResponse appends the complete HTTP/1.1 response: status line, headers
// with "Connection: close", and the body {"code":…,"message":…}. With
// retryAfterMs > 0 it adds "retry_after_ms" to the body and a Retry-After
// header in whole seconds, rounded up (RFC 9110 section 10.2.3).
func (r *Refusal) AppendResponse(dst []byte, retryAfterMs int) []byte {
	var scratch [256]byte
	body := append(scratch[:0], `{"code":`...)
	body = appendString(body, r.Code)
	body = append(body, `,"message":`...)
	body = appendString(body, r.Message)
	if retryAfterMs > 0 {
		body = append(body, `,"retry_after_ms":`...)
		body = strconv.AppendInt(body, int64(retryAfterMs), 10)
	}
	body = append(body, '}')

	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(r.Status)...)
	dst = append(dst, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\nConnection: close\r\n"...)
	if retryAfterMs > 0 {
		dst = append(dst, "Retry-After: "...)
		dst = strconv.AppendInt(dst, (int64(retryAfterMs)+999)/1000, 10)
		dst = append(dst, "\r\n"...)
	}
	for _, h := range r.Header {
		dst = append(dst, h[0]...)
		dst = append(dst, ": "...)
		dst = append(dst, h[1]...)
		dst = append(dst, "\r\n"...)
	}
	dst = append(dst, "\r\n"...)
	return append(dst, body...)
}
