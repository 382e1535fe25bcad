package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

// eachCut runs f for an input that comes whole and for one that comes a byte a
// segment; each is to have the same answer.
func eachCut(t *testing.T, f func(t *testing.T, segment int)) {
	t.Helper()
	for name, segment := range map[string]int{"whole": 0, "bytes": 1} {
		t.Run(name, func(t *testing.T) { f(t, segment) })
	}
}

const ownLine = "GET /ws HTTP/1.1\r\n"

func TestBadHeads(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	body := "Content-Length: 5\r\n\r\nhello"
	type row struct {
		name   string
		status int
		bytes  string
	}
	h := g.head
	raw := func(lines ...string) string { return g.atHost(strings.Join(lines, "\r\n") + "\r\n\r\n") }
	rows := []row{
		{"TLS hello", 400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x01\x02"},
		{"SSLv2 hello", 400, "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10"},
		{"HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		{"nothing but zeros", 400, strings.Repeat("\x00", 64)},
		{"SSH", 400, "SSH-2.0-OpenSSH_9.6\r\n"},
		{"redis", 400, "*1\r\n$4\r\nPING\r\n"},
		{"HTTP/0.9", 400, "GET /ws\r\n"},
		{"HTTP/0.9, bare LF", 400, "GET /ws\n"},
		{"bare LF after the request line", 400, strings.Replace(h(), "\r\n", "\n", 1)},
		{"bare LF everywhere", 400, strings.ReplaceAll(h(), "\r\n", "\n")},
		{"bare LF for the blank line", 400, strings.TrimSuffix(h(), "\r\n") + "\n"},
		{"bare CR in a value", 400, h("+X: a\rb")},
		{"bare CR for a line end", 400, strings.Replace(h(), "\r\n", "\r", 1)},
		{"two spaces before the target", 400, h("=GET  /ws HTTP/1.1")},
		{"two spaces before the version", 400, h("=GET /ws  HTTP/1.1")},
		{"tab for a space", 400, h("=GET\t/ws HTTP/1.1")},
		{"space before the method", 400, " " + h()},
		{"space after the version", 400, h("=GET /ws HTTP/1.1 ")},
		{"no target", 400, h("=GET HTTP/1.1")},
		{"fragment", 400, h("=GET /ws#x HTTP/1.1")},
		{"obs-fold, space", 400, h("+X: a\r\n b")},
		{"obs-fold, tab", 400, h("+X: a\r\n\tb")},
		{"obs-fold on the first header", 400, ownLine + " Host: a\r\n\r\n"},
		{"NUL in a value", 400, h("+X: a\x00b")},
		{"control byte in a value", 400, h("+X: a\x01b")},
		{"DEL in a value", 400, h("+X: a\x7fb")},
		{"vertical tab in a value", 400, h("+X: a\x0bb")},
		{"NUL in a name", 400, h("+X\x00Y: b")},
		{"NUL in the target", 400, h("=GET /ws\x00 HTTP/1.1")},
		{"high byte in the target", 400, h("=GET /w\xc3\xa9 HTTP/1.1")},
		{"no colon", 400, h("+X")},
		{"empty name", 400, h("+: x")},
		{"space in a name", 400, h("+X Y: z")},
		{"space before the colon", 400, h("Host: a", "-Host", "+Host : a")},
		{"parenthesis in a name", 400, h("+X(Y): z")},
		{"high byte in a name", 400, h("+X\xe9: z")},
		{"no Host", 400, h("-Host")},
		{"two Hosts", 400, h("+Host: {host}")},
		{"two Hosts, of different case", 400, h("+hOST: other")},
		{"empty Host", 400, h("Host: ")},
		{"blank Host", 400, h("Host: \t ")},
		{"Host with a path", 400, h("Host: a/b")},
		{"Host with a user", 400, h("Host: u@a")},
		{"Host with a space", 400, h("Host: a b")},
		{"Transfer-Encoding", 400, h("+Transfer-Encoding: chunked")},
		{"Transfer-Encoding, identity", 400, h("+Transfer-Encoding: identity")},
		{"Transfer-Encoding and length", 400, h("+Transfer-Encoding: chunked", "+Content-Length: 0")},
		{"a body", 400, strings.TrimSuffix(h(), "\r\n") + body},
		{"huge body", 400, h("+Content-Length: 9223372036854775807")},
		{"length beyond 2^63", 400, h("+Content-Length: 9223372036854775808")},
		{"negative length", 400, h("+Content-Length: -1")},
		{"signed length", 400, h("+Content-Length: +5")},
		{"hex length", 400, h("+Content-Length: 0x5")},
		{"empty length", 400, h("+Content-Length: ")},
		{"list of lengths", 400, h("+Content-Length: 0, 0")},
		{"two lengths", 400, h("+Content-Length: 0", "+Content-Length: 5")},
		{"ten leading CRLFs", 400, strings.Repeat("\r\n", 10) + h()},
		{"two leading CRLFs", 400, "\r\n\r\n" + h()},
		{"leading LF", 400, "\n" + h()},
		{"absolute URI of a foreign host", 400, h("=GET http://evil.example/ws HTTP/1.1")},
		{"absolute URI of a foreign port", 400, h("=GET http://127.0.0.1:1/ws HTTP/1.1")},
		{"absolute URI with a user", 400, h("=GET http://a@{host}/ws HTTP/1.1")},
		{"absolute URI of another scheme", 400, h("=GET ftp://{host}/ws HTTP/1.1")},
		{"absolute URI without a host", 400, h("=GET http:///ws HTTP/1.1")},
		{"CONNECT", 400, h("=CONNECT {host} HTTP/1.1")},
		{"asterisk", 400, h("=GET * HTTP/1.1")},
		{"target without a slash", 400, h("=GET ws HTTP/1.1")},
		{"two keys", 400, h("+Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")},
		{"no key", 400, h("-Sec-WebSocket-Key")},
		{"empty key", 400, h("Sec-WebSocket-Key: ")},
		{"short key", 400, h("Sec-WebSocket-Key: c2hvcnQ=")},
		{"long key", 400, h("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSwgdG9vIGxvbmc=")},
		{"key not in base64", 400, h("Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==")},
		{"key in base64url", 400, h("Sec-WebSocket-Key: __________________-_-w==")},
		{"key with odd bits", 400, h("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=")},
		{"Connection: keep-alive", 400, h("Connection: keep-alive")},
		{"Connection: upgraded", 400, h("Connection: upgraded")},
		{"no Connection", 400, h("-Connection")},
		{"no version", 400, h("-Sec-WebSocket-Version")},
		{"two versions", 400, h("+Sec-WebSocket-Version: 13")},
		{"version 13, twice in a line", 400, h("Sec-WebSocket-Version: 13, 8")},
		{"version, not a number", 400, h("Sec-WebSocket-Version: thirteen")},
		{"empty version", 400, h("Sec-WebSocket-Version: ")},
		{"empty extension", 400, h("+Sec-WebSocket-Extensions: ")},
		{"comma for an extension", 400, h("+Sec-WebSocket-Extensions: ,")},
		{"extension with an empty parameter", 400, h("+Sec-WebSocket-Extensions: permessage-deflate;;")},
		{"extension parameter without a name", 400, h("+Sec-WebSocket-Extensions: permessage-deflate; =1")},
		{"extension with an open quote", 400, h(`+Sec-WebSocket-Extensions: permessage-deflate; a="1`)},
		{"extension with a quoted comma", 400, h(`+Sec-WebSocket-Extensions: a; b="c,d"`)},
		{"extension with a value", 400, h("+Sec-WebSocket-Extensions: a=b")},
		{"empty subprotocol", 400, h("+Sec-WebSocket-Protocol: ")},
		{"empty subprotocol in a list", 400, h("+Sec-WebSocket-Protocol: odin.v1.json,,x")},
		{"subprotocol with a space", 400, h("+Sec-WebSocket-Protocol: odin v1")},
		{"subprotocol, a second line empty", 400, h("+Sec-WebSocket-Protocol: odin.v1.json", "+Sec-WebSocket-Protocol: ")},
		{"two Authorizations", 400, h("+Authorization: Bearer a", "+Authorization: Bearer b")},
		{"lower-case version", 400, h("=GET /ws http/1.1")},
		{"version without a dot", 400, h("=GET /ws HTTP/11")},
		{"version without a minor", 400, h("=GET /ws HTTP/1.")},
		{"version with a long major", 400, h("=GET /ws HTTP/1111.1")},
		{"version with junk", 400, h("=GET /ws HTTP/1.1x")},
		{"method too long", 400, strings.Repeat("A", 33) + " /ws HTTP/1.1\r\n\r\n"},

		{"HTTP/1.0", 505, h("=GET /ws HTTP/1.0")},
		{"HTTP/1.99", 505, h("=GET /ws HTTP/1.99")},
		{"HTTP/1.2", 505, h("=GET /ws HTTP/1.2")},
		{"HTTP/2.0", 505, h("=GET /ws HTTP/2.0")},
		{"HTTP/0.9 in full", 505, h("=GET /ws HTTP/0.9")},

		{"POST", 405, h("=POST /ws HTTP/1.1")},
		{"POST with a body", 405, strings.TrimSuffix(h("=POST /ws HTTP/1.1"), "\r\n") + body},
		{"get", 405, h("=get /ws HTTP/1.1")},
		{"HEAD", 405, h("=HEAD /ws HTTP/1.1")},
		{"OPTIONS", 405, h("=OPTIONS /ws HTTP/1.1")},
		{"DELETE", 405, h("=DELETE /ws HTTP/1.1")},
		{"an invented method", 405, h("=BREW /ws HTTP/1.1")},

		{"no Upgrade", 426, h("-Upgrade")},
		{"plain GET", 426, raw("GET /ws HTTP/1.1", "Host: {host}")},
		{"h2c", 426, h("Upgrade: h2c")},
		{"websocket and h2c", 426, h("Upgrade: websocket, h2c")},
		{"two Upgrades", 426, h("+Upgrade: h2c")},
		{"version 8", 426, h("Sec-WebSocket-Version: 8")},
		{"version 0", 426, h("Sec-WebSocket-Version: 0")},
		{"version 14", 426, h("Sec-WebSocket-Version: 14")},

		{"URI too long", 414, h("=GET /ws?" + strings.Repeat("a", 8<<10) + " HTTP/1.1")},
		{"URI without an end", 414, "GET /" + strings.Repeat("a", 40<<10)},
		{"line too long", 431, h("+X: " + strings.Repeat("a", 8<<10))},
		{"name too long", 431, h("+" + strings.Repeat("a", 8<<10) + ": b")},
		{"101 headers", 431, h(strings.Split(strings.Repeat("+X: y\n", 96)[:96*6-1], "\n")...)},
		{"empty headers without an end", 431, ownLine + strings.Repeat("a:\r\n", 1000)},
		{"head too big", 431, h("+A: "+strings.Repeat("a", 7<<10), "+B: "+strings.Repeat("b", 7<<10), "+C: "+strings.Repeat("c", 3<<10))},

		{"foreign Origin", 403, h("+Origin: https://evil.example")},
		{"Origin null", 403, h("+Origin: null")},
		{"empty Origin", 403, h("+Origin: ")},
		{"Origin, suffix trick", 403, h("+Origin: http://{host}.evil.example")},
		{"Origin, prefix trick", 403, h("+Origin: http://evil.{host}")},
		{"Origin, user trick", 403, h("+Origin: http://{host}@evil.example")},
		{"Origin with a path", 403, h("+Origin: http://{host}/")},
		{"Origin of another port", 403, h("+Origin: http://127.0.0.1:1")},
		{"Origin of a file", 403, h("+Origin: file://{host}")},
		{"two Origins", 403, h("+Origin: http://{host}", "+Origin: http://{host}")},
		{"two Origins in a line", 403, h("+Origin: http://{host} http://evil.example")},

		{"traversal", 404, h("=GET /../admin HTTP/1.1")},
		{"traversal to the endpoint", 404, h("=GET /x/../ws HTTP/1.1")},
		{"metrics", 404, raw("GET /metrics HTTP/1.1", "Host: {host}")},
		{"the admin port's path", 404, raw("POST /v1/publish HTTP/1.1", "Host: {host}", "Content-Length: 0")},
		{"pprof", 404, raw("GET /debug/pprof/ HTTP/1.1", "Host: {host}")},
		{"root", 404, raw("GET / HTTP/1.1", "Host: {host}")},
		{"escaped path", 404, h("=GET /%77s HTTP/1.1")},
		{"two slashes", 404, h("=GET //ws HTTP/1.1")},
		{"slash behind", 404, h("=GET /ws/ HTTP/1.1")},
		{"upper case", 404, h("=GET /WS HTTP/1.1")},
		{"echo, which is off", 404, h("=GET /echo HTTP/1.1")},
		{"OPTIONS *", 404, h("=OPTIONS * HTTP/1.1")},

		{"POST to healthz", 405, raw("POST /healthz HTTP/1.1", "Host: {host}", "Content-Length: 0")},
		{"POST to stats, body to come", 405, raw("POST /stats HTTP/1.1", "Host: {host}", "Content-Length: 100000")},
		{"GET of healthz with a body", 400, raw("GET /healthz HTTP/1.1", "Host: {host}", "Content-Length: 5") + "hello"},
	}
	k := g.canary(t)
	most := g.highWater()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			eachCut(t, func(t *testing.T, segment int) {
				c := g.raw(t)
				c.send(r.bytes, segment)
				sent := time.Now()
				resp := c.wantStatus(r.status)
				if d := time.Since(sent); d > time.Second+slack {
					t.Errorf("answered and closed after %v", d)
				}
				switch r.status {
				case 405:
					if resp.Header.Get("Allow") == "" {
						t.Error("405 without Allow")
					}
				case 426:
					if resp.Header.Get("Sec-WebSocket-Version") != "13" || resp.Header.Get("Upgrade") != "websocket" {
						t.Errorf("426 that doesn't say what would do: %v", resp.Header)
					}
				}
			})
		})
	}
	if n := most(); n > 64<<10 {
		t.Errorf("%d bytes pooled for one bad head", n)
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// What looks odd and is right.
func TestGoodHeads(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.AllowOrigin = []string{"https://app.example"} })
	many := strings.Split(strings.Repeat("+X: y\n", 95)[:95*6-1], "\n")
	full := g.head("+A: "+strings.Repeat("a", 7000), "+B: "+strings.Repeat("b", 7000), "+C: ")
	full = strings.Replace(full, "C: ", "C: "+strings.Repeat("c", wire.MaxHead-len(full)), 1)
	for name, head := range map[string]string{
		"one leading CRLF":          "\r\n" + g.head(),
		"query":                     g.head("=GET /ws?a=b HTTP/1.1"),
		"own absolute URI":          g.head("=GET http://{host}/ws HTTP/1.1"),
		"names in capitals":         g.head("-Upgrade", "+UPGRADE: WebSocket", "-Connection", "+CONNECTION: UPGRADE"),
		"Connection, a list":        g.head("Connection: keep-alive ,\tUpgrade"),
		"two Connections":           g.head("Connection: keep-alive", "+Connection: upgrade"),
		"white space around values": g.head("Upgrade: \t websocket \t"),
		"no white space":            g.head("-Upgrade", "+Upgrade:websocket"),
		"high bytes in a value":     g.head("+X: caf\xc3\xa9 \xff"),
		"empty value":               g.head("+X:"),
		"exactly 100 headers":       g.head(many...),
		"line of 8 KiB":             g.head("+X: " + strings.Repeat("a", 8<<10-3)),
		"head of 16 KiB":            full,
		"length 0":                  g.head("+Content-Length: 0"),
		"own Origin":                g.head("+Origin: http://{host}"),
		"a cookie":                  g.head("+Cookie: a=b", "+X-Of-Nobody: x"),
		"a host in brackets":        g.head("Host: [::1]:8080"),
		"a host without its port":   g.head("Host: odin.example"),
		"listed Origin":             g.head("+Origin: https://app.example"),
		"foreign X-Forwarded-For":   g.head("+X-Forwarded-For: 8.8.8.8, junk", "+Forwarded: for=junk"),
		"deflate offered":           g.head(`+Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits="15", x`),
		"two subprotocols":          g.head("+Sec-WebSocket-Protocol: other, odin.v1.json"),
		"unknown subprotocol":       g.head("+Sec-WebSocket-Protocol: other"),
	} {
		t.Run(name, func(t *testing.T) {
			eachCut(t, func(t *testing.T, segment int) {
				c := g.raw(t)
				c.send(head, segment)
				resp := c.wantStatus(http.StatusSwitchingProtocols)
				want := map[string][]string{ // each once, RFC 6455 section 11.3
					"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Accept": {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
				}
				if strings.Contains(head, "odin.v1.json") {
					want["Sec-Websocket-Protocol"] = []string{"odin.v1.json"}
				}
				for _, name := range []string{"Upgrade", "Connection", "Sec-Websocket-Accept", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
					if got := resp.Header[name]; !slices.Equal(got, want[name]) {
						t.Errorf("%s %q, want %q", name, got, want[name])
					}
				}
				c.text()
				c.send(closeFrame(1000, ""), segment)
				c.wantClose(1000)
			})
		})
	}
	g.wantNothingHeld(t, 0, 0)
}

// What is wrong with a good head is not its own doing: the node is full, or its
// address has too many. A stranger's word on its address is not believed.
func TestGoodHeadsWithoutAPlace(t *testing.T) {
	t.Parallel()
	full := newTestGateway(t, func(c *Config) { c.MaxConnections = 1 })
	full.rawOpen(t)
	capped := newTestGateway(t, func(c *Config) { c.IPConnections = 1 })
	capped.rawOpen(t)
	proxied := newTestGateway(t, func(c *Config) {
		c.IPConnections, c.TrustedProxies = 1, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	first := proxied.raw(t)
	first.send(proxied.head("+X-Forwarded-For: 192.0.2.1"), 0)
	first.wantStatus(http.StatusSwitchingProtocols)
	for name, r := range map[string]struct {
		g      *testGateway
		head   string
		status int
	}{
		"full":                                {full, full.head(), 503},
		"full, forwarded":                     {full, full.head("+X-Forwarded-For: 192.0.2.9"), 503},
		"the second of an address":            {capped, capped.head(), 429},
		"the second, forwarded by a stranger": {capped, capped.head("+X-Forwarded-For: 192.0.2.9"), 429},
		"the second behind a proxy":           {proxied, proxied.head("+X-Forwarded-For: 192.0.2.1"), 429},
		"behind a proxy, its own word first":  {proxied, proxied.head("+X-Forwarded-For: 192.0.2.9, 192.0.2.1"), 429},
		"behind a proxy, in two lines":        {proxied, proxied.head("+X-Forwarded-For: 192.0.2.9", "+X-Forwarded-For: 192.0.2.1"), 429},
	} {
		t.Run(name, func(t *testing.T) {
			eachCut(t, func(t *testing.T, segment int) {
				c := r.g.raw(t)
				c.send(r.head, segment)
				if resp := c.wantStatus(r.status); resp.Header.Get("Retry-After") == "" {
					t.Error("no word on when to come back")
				}
			})
		})
	}
	for _, g := range []*testGateway{full, capped, proxied} {
		g.wantNothingHeld(t, 1, 0)
	}
}

// A head is refused at its first impossible byte, not at the blank line.
func TestHeadRefusedAtItsFirstBadByte(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	rows := map[string]int{
		"\x16":                                 400,
		"\x00":                                 400,
		"\n":                                   400,
		"\r\n\r":                               400,
		"\rX":                                  400,
		"GET\t":                                400,
		"GET  ":                                400,
		"GET /ws\r":                            400,
		"GET /ws HTTX":                         400,
		"GET /ws HTTP/1.1\n":                   400,
		"GET /ws HTTP/1.1 ":                    400,
		ownLine + " ":                          400,
		ownLine + ":":                          400,
		ownLine + "Host ":                      400,
		ownLine + "Host: \x00":                 400,
		ownLine + "Host: a\n":                  400,
		ownLine + "Host: a\r\n\rX":             400,
		ownLine + "Host: a\r\n\t":              400,
		"GET /" + strings.Repeat("a", 8<<10-4): 414,
		ownLine + "X: " + strings.Repeat("a", 8190):   431,
		ownLine + strings.Repeat("a:\r\n", 100) + "a": 431,
	}
	// Up to the byte before, nothing.
	conns := map[string]*raw{}
	for prefix := range rows {
		conns[prefix] = g.raw(t)
		conns[prefix].send(prefix[:len(prefix)-1], 0)
	}
	time.Sleep(50 * time.Millisecond)
	for prefix, status := range rows {
		t.Run(fmt.Sprintf("%.40q", prefix), func(t *testing.T) {
			c := conns[prefix]
			c.t = t
			c.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if b, err := c.in.Peek(1); err == nil {
				t.Fatalf("answered %q… too early", b)
			}
			c.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			c.send(prefix[len(prefix)-1:], 0)
			c.wantStatus(status)
		})
	}
}

func TestSilentAndSlowHeads(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.HandshakeTimeout = 500 * time.Millisecond })
	k := g.canary(t)
	head := g.head()
	type started struct {
		name  string
		c     *raw
		begin time.Time
	}
	var all []started
	start := func(name string, pause time.Duration, pieces ...string) {
		c := g.raw(t)
		all = append(all, started{name, c, time.Now()})
		go func() {
			for _, p := range pieces {
				if c.send(p, 0) != nil {
					return
				}
				time.Sleep(pause)
			}
		}()
	}
	start("nothing", 0)
	start("one byte", 0, "G")
	start("half a line", 0, "GET /w")
	start("a line", 0, ownLine)
	start("all but the last byte", 0, head[:len(head)-1])
	start("a plain path", 0, "GET /healthz HTTP/1.1\r\n")
	start("drip", 40*time.Millisecond, strings.Split(head, "")...)
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			s.c.t = t
			s.c.wantStatus(http.StatusRequestTimeout)
			if d := time.Since(s.begin); d < 400*time.Millisecond || d > 1500*time.Millisecond+slack {
				t.Errorf("answered after %v", d)
			}
		})
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// The plain paths answer one request each and close, whatever follows it.
func TestPlainHTTPIsOneRequest(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	get := g.atHost("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n")
	for name, sent := range map[string]string{
		"alone": get, "pipelined": get + get, "junk behind": get + "\x00\x01\x02", "HTTP/1.0": "GET /healthz HTTP/1.0\r\n\r\n",
		"asked to stay": g.atHost("GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n"),
		"HEAD":          g.atHost("HEAD /stats HTTP/1.1\r\nHost: {host}\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			eachCut(t, func(t *testing.T, segment int) {
				c := g.raw(t)
				c.send(sent, segment)
				resp, err := http.ReadResponse(c.in, &http.Request{Method: strings.Fields(sent)[0]})
				if err != nil || resp.StatusCode != 200 || !resp.Close {
					t.Fatalf("%v, %v", resp, err)
				}
				var b [4096]byte
				for {
					n, err := resp.Body.Read(b[:])
					if err != nil {
						break
					}
					if n == 0 {
						t.Fatal("no progress")
					}
				}
				if name != "pipelined" && name != "junk behind" { // unread bytes turn the end into a reset
					c.wantEOF()
				}
			})
		})
	}
	t.Run("half-closed", func(t *testing.T) {
		c := g.raw(t)
		c.send(get, 0)
		c.conn.CloseWrite()
		if resp, _ := c.answer(); resp.StatusCode != 200 {
			t.Error(resp.Status)
		}
	})
	g.wantNothingHeld(t, 0, 0)
}

// A frame that comes with the head is read, and in order.
func TestFramesSentWithTheHead(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	eachCut(t, func(t *testing.T, segment int) {
		c := g.raw(t)
		bulk := sayf(`{"op":"sub","id":2,"ch":["new.%d",%q]}`, segment, strings.Repeat("x", 9000)) // at the pool twice
		c.send(g.head()+say(`{"op":"ping","id":1}`)+bulk+say(`{"op":"ping","id":3}`)+masked(fin|opPing, "p")+closeFrame(1000, ""), segment)
		c.wantStatus(http.StatusSwitchingProtocols)
		c.wantClose(1000, `{"t":"hello"`, `{"t":"pong","id":1}`, `{"t":"ack","id":2,"ch":{"new.`, `{"t":"pong","id":3}`, "p")
	})
	g.wantNothingHeld(t, 0, 0)
}
