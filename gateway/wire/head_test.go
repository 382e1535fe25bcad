package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// key is the example of RFC 6455 section 1.3.
const key = "dGhlIHNhbXBsZSBub25jZQ=="

// head is a good handshake with edit applied: "-Name" drops a line, "Name: x"
// replaces or adds one, "+Name: x" adds a second, and what has no colon before
// its first space replaces the request line.
func head(edits ...string) string {
	first := "GET /ws HTTP/1.1"
	lines := []string{"Host: odin.test:8080", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key}
	for _, e := range edits {
		name, _, _ := strings.Cut(strings.Trim(e, "+-"), ":")
		at := -1
		for i, l := range lines {
			if n, _, _ := strings.Cut(l, ":"); strings.EqualFold(n, name) {
				at = i
			}
		}
		switch {
		case e[0] == '-':
			lines = append(lines[:at:at], lines[at+1:]...)
		case strings.Contains(e, "HTTP") && !strings.Contains(name, "-"):
			first = e
		case e[0] == '+' || at < 0:
			lines = append(lines, strings.TrimPrefix(e, "+"))
		default:
			lines[at] = e
		}
	}
	return first + "\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// handshake runs all the checks a gateway on /ws runs, feeding step bytes at a
// time (0: all at once). It returns the refusing status, 0 for none, 1 for an
// unfinished head, and how many bytes had been fed.
func handshake(in string, step int) (status, fed int) {
	var s HeadScanner
	if step == 0 {
		step = len(in)
	}
	for end := 0; end < len(in); {
		end = min(end+step, len(in))
		n, ref := s.Scan([]byte(in[:end]))
		if ref != nil {
			return ref.Status, end
		}
		if n == 0 {
			continue
		}
		r, ref := ParseHead([]byte(in[:n]))
		if ref == nil {
			ref = CheckUpgrade(&r)
		}
		if ref == nil {
			ref = CheckOrigin(&r, nil)
		}
		if ref != nil {
			return ref.Status, end
		}
		return 0, end
	}
	return 1, len(in)
}

func TestHandshake(t *testing.T) {
	long := strings.Repeat("a", MaxLine)
	many := func(n int) []string {
		var out []string
		for range n {
			out = append(out, "+X-A: b")
		}
		return out
	}
	fill := func(size int) string { // a good head of exactly size bytes
		h := head("X-1: "+long[:8100], "X-2: ")
		return strings.Replace(h, "X-2: ", "X-2: "+strings.Repeat("b", size-len(h)), 1)
	}
	for _, c := range []struct {
		name, in string
		status   int
	}{
		{"good", head(), 0},
		{"one leading CRLF", "\r\n" + head(), 0},
		{"a frame behind the head", head() + "\x81\x80abcd", 0},
		{"names and values in any case", head("HOST: A.test", "upgrade: WebSocket", "CONNECTION: keep-alive, upgrade"), 0},
		{"two Connections", head("Connection: keep-alive", "+Connection: Upgrade"), 0},
		{"no space after the colon", head("Upgrade:websocket"), 0},
		{"Content-Length 0", head("Content-Length: 0"), 0},
		{"absolute URI of this host", head("GET http://ODIN.test:8080/ws HTTP/1.1"), 0},
		{"extensions", head(`Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; x="15", foo`), 0},
		{"subprotocols", head("Sec-WebSocket-Protocol: a, odin.v1.json"), 0},
		{"obs-text in a value", head("X-A: caf\xe9"), 0},
		{"line of the limit", head("X: " + long[3:]), 0},
		{"100 headers", head(many(95)...), 0},
		{"head of the limit", fill(MaxHead), 0},
		{"unfinished", "GET /ws HTTP/1.1\r\nHost: a\r\n", 1},

		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
		{"HTTP/0.9", "GET /ws\r\n", 400},
		{"HTTP/0.9, bare LF", "GET /ws\n", 400},
		{"bare LF after the request line", strings.Replace(head(), "\r\n", "\n", 1), 400},
		{"bare LF after a header", "GET /ws HTTP/1.1\r\nHost: a\n", 400},
		{"bare LF everywhere", strings.ReplaceAll(head(), "\r\n", "\n"), 400},
		{"bare CR in a value", head("X-A: a\rb"), 400},
		{"two spaces before the target", head("GET  /ws HTTP/1.1"), 400},
		{"two spaces after the target", head("GET /ws  HTTP/1.1"), 400},
		{"space after the version", head("GET /ws HTTP/1.1 "), 400},
		{"tab for a space", head("GET\t/ws HTTP/1.1"), 400},
		{"leading space", " " + head(), 400},
		{"method not a token", head("G(T /ws HTTP/1.1"), 400},
		{"method without end", strings.Repeat("G", 33), 400},
		{"no version digits", head("GET /ws HTTP/x.1"), 400},
		{"lower-case version", head("GET /ws http/1.1 HTTP"), 400},
		{"fragment in the target", head("GET /ws#a HTTP/1.1"), 400},
		{"non-ASCII target", head("GET /w\xc3\xa9 HTTP/1.1"), 400},
		{"target without a slash", head("GET ws HTTP/1.1"), 400},
		{"asterisk target", head("GET * HTTP/1.1"), 400},
		{"authority target", head("CONNECT odin.test:8080 HTTP/1.1"), 400},
		{"obs-fold", head("X-A: a\r\n b"), 400},
		{"obs-fold first", "GET /ws HTTP/1.1\r\n X: a", 400},
		{"NUL in a value", head("X-A: a\x00b"), 400},
		{"control byte in a value", head("X-A: a\x1bb"), 400},
		{"DEL in a value", head("X-A: a\x7fb"), 400},
		{"no colon", head("X-A"), 400},
		{"empty name", head("+: a"), 400},
		{"name not a token", head("X@A: a"), 400},
		{"space before the colon", head("-Host", "Host : a"), 400},
		{"no Host", head("-Host"), 400},
		{"two Hosts", head("+Host: odin.test:8080"), 400},
		{"empty Host", head("Host:  "), 400},
		{"Host with a path", head("Host: a/b"), 400},
		{"Host with a user", head("Host: a@b"), 400},
		{"Transfer-Encoding", head("Transfer-Encoding: chunked"), 400},
		{"Transfer-Encoding identity", head("transfer-encoding: identity"), 400},
		{"body", head("Content-Length: 5"), 400},
		{"two Content-Lengths", head("Content-Length: 0", "+Content-Length: 5"), 400},
		{"negative Content-Length", head("Content-Length: -1"), 400},
		{"signed Content-Length", head("Content-Length: +0"), 400},
		{"ten leading CRLFs", strings.Repeat("\r\n", 10) + head(), 400},
		{"two leading CRLFs", "\r\n\r\n" + head(), 400},
		{"absolute URI of a foreign host", head("GET http://evil.test/ws HTTP/1.1"), 400},
		{"absolute URI with a user", head("GET http://u@odin.test:8080/ws HTTP/1.1"), 400},
		{"absolute URI of another scheme", head("GET ftp://odin.test:8080/ws HTTP/1.1"), 400},
		{"two Authorizations", head("Authorization: a", "+Authorization: b"), 400},

		{"two Keys", head("+Sec-WebSocket-Key: " + key), 400},
		{"no Key", head("-Sec-WebSocket-Key"), 400},
		{"short Key", head("Sec-WebSocket-Key: " + key[4:]), 400},
		{"Key not base64", head("Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ=="), 400},
		{"Key of 18 bytes", head("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA"), 400},
		{"Connection: keep-alive", head("Connection: keep-alive"), 400},
		{"no Connection", head("-Connection"), 400},
		{"no version", head("-Sec-WebSocket-Version"), 400},
		{"two versions", head("+Sec-WebSocket-Version: 13"), 400},
		{"a list of versions", head("Sec-WebSocket-Version: 13, 8"), 400},
		{"extension list: empty", head("Sec-WebSocket-Extensions:"), 400},
		{"extension list: no name", head("Sec-WebSocket-Extensions: ;a=b"), 400},
		{"extension list: no value", head("Sec-WebSocket-Extensions: a; b="), 400},
		{"extension list: open quote", head(`Sec-WebSocket-Extensions: a; b="c`), 400},
		{"extension list: name with value", head("Sec-WebSocket-Extensions: a=b"), 400},
		{"extension list: space", head("Sec-WebSocket-Extensions: a b"), 400},
		{"subprotocol list: empty", head("Sec-WebSocket-Protocol: "), 400},
		{"subprotocol list: hole", head("Sec-WebSocket-Protocol: odin.v1.json,,a"), 400},
		{"subprotocol list: space", head("Sec-WebSocket-Protocol: odin.v1.json a"), 400},
		{"subprotocol list: quote", head(`Sec-WebSocket-Protocol: "odin.v1.json"`), 400},

		{"HTTP/1.0", head("GET /ws HTTP/1.0"), 505},
		{"HTTP/1.0 without Host", head("GET /ws HTTP/1.0", "-Host"), 505},
		{"HTTP/1.99", head("GET /ws HTTP/1.99"), 505},
		{"HTTP/2.0", head("GET /ws HTTP/2.0"), 505},
		{"POST", head("POST /ws HTTP/1.1"), 405},
		{"POST with a body", head("POST /ws HTTP/1.1", "Content-Length: 5"), 405},
		{"get", head("get /ws HTTP/1.1"), 405},
		{"no Upgrade", head("-Upgrade"), 426},
		{"h2c", head("Upgrade: h2c"), 426},
		{"two Upgrades", head("+Upgrade: h2c"), 426},
		{"version 8", head("Sec-WebSocket-Version: 8"), 426},
		{"URI too long", head("GET /" + long + " HTTP/1.1"), 414},
		{"URI that leaves no room for a version", head("GET /" + long[10:] + " HTTP/1.1"), 414},
		{"line too long", head("X: " + long[2:]), 431},
		{"name too long", head(long + "a: b"), 431},
		{"101 headers", head(many(96)...), 431},
		{"head too big", fill(MaxHead + 1), 431},

		{"own Origin", head("Origin: http://odin.test:8080"), 0},
		{"own Origin by https", head("Origin: https://ODIN.test:8080"), 0},
		{"own Origin, port of the scheme", head("Host: a.test:443", "Origin: https://a.test"), 0},
		{"foreign Origin", head("Origin: https://evil.test"), 403},
		{"empty Origin", head("Origin:"), 403},
		{"null Origin", head("Origin: null"), 403},
		{"Origin suffix trick", head("Origin: http://odin.test:8080.evil.test"), 403},
		{"Origin prefix trick", head("Origin: http://evil-odin.test:8080"), 403},
		{"Origin with another port", head("Origin: http://odin.test"), 403},
		{"Origin with a path", head("Origin: http://odin.test:8080/"), 403},
		{"Origin of another scheme", head("Origin: ftp://odin.test:8080"), 403},
		{"two Origins", head("Origin: http://odin.test:8080", "+Origin: http://odin.test:8080"), 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []int{0, 1, 2, 7, 1000} {
				if got, _ := handshake(c.in, step); got != c.status {
					t.Fatalf("step %d: status %d, want %d", step, got, c.status)
				}
			}
		})
	}
}

// TestFirstImpossibleByte holds that a head is refused no later than it must.
func TestFirstImpossibleByte(t *testing.T) {
	for _, good := range []string{
		"", "\r\n", "GE", "GET ", "GET /ws", "GET /ws ", "GET /ws HTTP/1", "GET /ws HTTP/1.1",
		"GET /ws HTTP/1.1\r\nHo", "GET /ws HTTP/1.1\r\nHost: a", "GET /ws HTTP/1.1\r\nHost: a\r\n",
	} {
		if status, fed := handshake(good+"\x00"+strings.Repeat("a", 99), 1); status != 400 || fed != len(good)+1 {
			t.Errorf("after %q: status %d at byte %d, want 400 at %d", good, status, fed, len(good)+1)
		}
	}
}

func TestParseHead(t *testing.T) {
	r, ref := ParseHead([]byte(head("GET /ws?token=x&y HTTP/1.1", "Origin: http://a", "X-Forwarded-For: 1.1.1.1",
		"+x-forwarded-for:  2.2.2.2\t", "Authorization: Bearer t", "Sec-WebSocket-Protocol: a", "+sec-websocket-protocol: odin.v1.json")))
	if ref != nil {
		t.Fatal(ref)
	}
	for _, c := range [][2]string{
		{r.Method, "GET"}, {r.Target, "/ws?token=x&y"}, {r.Path, "/ws"}, {r.Query, "token=x&y"}, {r.Host, "odin.test:8080"},
		{r.Origin, "http://a"}, {r.ForwardedFor, "1.1.1.1, 2.2.2.2"}, {r.Authorization, "Bearer t"}, {r.Protocols, "a, odin.v1.json"},
	} {
		if c[0] != c[1] {
			t.Errorf("%q, want %q", c[0], c[1])
		}
	}
	if !r.HasOrigin || !r.Upgrade || !r.Offered || r.ProtoMinor != 1 {
		t.Errorf("%+v", r)
	}
	for in, path := range map[string]string{
		"GET /../admin HTTP/1.1\r\nHost: a\r\n\r\n":     "/../admin",
		"GET http://a?x HTTP/1.1\r\nHost: a:80\r\n\r\n": "/",
		"GET http://a/b HTTP/1.0\r\n\r\n":               "/b",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":         "*",
	} {
		if r, ref := ParseHead([]byte(in)); ref != nil || r.Path != path || r.Upgrade || r.Offered {
			t.Errorf("%q: %+v, %v", in, r, ref)
		}
	}
	if _, ref := ParseHead([]byte("GET / HTTP/1.1\r\n")); ref == nil {
		t.Error("an incomplete head was parsed")
	}
}

func TestCheckOriginAllow(t *testing.T) {
	for _, c := range []struct {
		origin string
		allow  []string
		ok     bool
	}{
		{"https://app.test", []string{"https://x.test", "https://APP.test"}, true},
		{"https://app.test", []string{"*"}, true},
		{"null", []string{"*"}, true},
		{"https://app.test.evil", []string{"https://app.test"}, false},
		{"http://app.test", []string{"https://app.test"}, false},
		{"", []string{""}, false},
	} {
		if ref := CheckOrigin(&Request{Host: "h", HasOrigin: true, Origin: c.origin}, c.allow); (ref == nil) != c.ok {
			t.Errorf("%q by %q: %v", c.origin, c.allow, ref)
		}
	}
}

func TestAppendUpgrade(t *testing.T) {
	for _, c := range []struct{ in, proto string }{
		{head(), ""},
		{"\r\n" + head("Connection: keep-alive", "+Connection: Upgrade"), ""},
		{head("Sec-WebSocket-Protocol: other"), ""},
		{head("Sec-WebSocket-Protocol: other, odin.v1.json", "Sec-WebSocket-Extensions: permessage-deflate"), Subprotocol},
	} {
		in := []byte(c.in)
		out, err := AppendUpgrade([]byte("before"), in)
		if err != nil || !bytes.HasPrefix(out, []byte("before")) || string(in) != c.in {
			t.Fatal(err, string(out))
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out[6:])), nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
			resp.Header.Get("Sec-WebSocket-Protocol") != c.proto || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("%v %+v", err, resp)
		}
	}
	out, err := AppendUpgrade([]byte("before"), []byte(head("-Upgrade")))
	if err == nil || string(out) != "before" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := (&Request{Method: "GET"}).AppendUpgrade(nil); err == nil {
		t.Error("an unchecked request was upgraded")
	}
}

func TestAppendResponse(t *testing.T) {
	ref := &Refusal{Status: 503, Code: "at_capacity", Message: "Server \"at\" capacity\n"}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(ref.AppendResponse(nil, 1001))), nil)
	if err != nil || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "2" || !resp.Close {
		t.Fatal(err, resp)
	}
	var body struct {
		Code, Message string
		Retry         int `json:"retry_after_ms"`
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(raw, &body) != nil || body.Code != ref.Code || body.Message != ref.Message || body.Retry != 1001 {
		t.Errorf("%s %+v %v", raw, body, err)
	}
	for edit, want := range map[string][2]string{
		"Sec-WebSocket-Version: 8": {"Sec-WebSocket-Version", "13"}, "POST /ws HTTP/1.1": {"Allow", "GET"},
	} {
		r, _ := ParseHead([]byte(head(edit)))
		ref := CheckUpgrade(&r)
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(ref.AppendResponse(nil, 0))), nil)
		if err != nil || resp.Header.Get(want[0]) != want[1] || resp.Header.Get("Retry-After") != "" || !resp.Close {
			t.Errorf("%s: %v %+v", edit, err, resp)
		}
	}
}
