package gateway

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/coder/websocket"
)

func TestClientAddr(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, row := range []struct{ peer, forwarded, want string }{
		{"192.0.2.1", "", "192.0.2.1"},
		{"192.0.2.1", "203.0.113.9", "192.0.2.1"}, // not from a proxy: ignored
		{"10.0.0.1", "", "10.0.0.1"},
		{"10.0.0.1", "203.0.113.9", "203.0.113.9"},
		{"10.0.0.1", "198.51.100.7, 203.0.113.9", "203.0.113.9"}, // the first is the client's own word
		{"10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"},
		{"10.0.0.1", "203.0.113.9, nonsense", "10.0.0.1"},
		{"10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"},
		{"fd00::1", "2001:db8::5", "2001:db8::5"},
	} {
		if got := clientAddr(netip.MustParseAddr(row.peer), row.forwarded, trusted); got.String() != row.want {
			t.Errorf("%+v: %s", row, got)
		}
	}
}

func TestPerAddressCaps(t *testing.T) {
	g := newTestGateway(t, func(c *Config) {
		c.IPConnections = 2
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	dial := func(from string) (*websocket.Conn, int) {
		c, resp, err := websocket.Dial(t.Context(), "ws://"+g.Addr()+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"X-Forwarded-For": {from}}})
		if resp == nil {
			t.Fatal(err)
		}
		if err == nil {
			t.Cleanup(func() { c.CloseNow() })
		}
		return c, resp.StatusCode
	}
	first, _ := dial("192.0.2.1")
	dial("192.0.2.1")
	if _, status := dial("192.0.2.1"); status != 429 {
		t.Fatalf("the third of an address: %d", status)
	}
	if _, status := dial("192.0.2.2"); status != 101 {
		t.Fatalf("another address: %d", status)
	}
	first.CloseNow()
	g.eventually("a place for the address", func() bool { _, status := dial("192.0.2.1"); return status == 101 })
}
