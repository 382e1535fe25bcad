package swarm

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/gateway/secure"
	"github.com/odin-ws/odin/internal/selfsigned"
)

// securedSite makes a site speak TLS, and returns the certificate to believe.
func securedSite(t *testing.T) (change func(*gateway.Config), ca string) {
	t.Helper()
	certFile, keyFile, err := selfsigned.Write(t.TempDir(), "site", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := secure.LoadCertificates(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *gateway.Config) { c.TLS = &gateway.TLS{Certificates: certs, Handshakes: 100} }, string(cert)
}

// Over TLS everyone gets everything too, in records and frames cut anywhere; slow,
// flooding and dripping clients are what they are.
func TestSecured(t *testing.T) {
	change, ca := securedSite(t)
	g := newSite(t, change)
	url := strings.Replace(g.url(), "ws", "wss", 1)
	s := start(t, Config{URL: url, CA: ca, Connections: 100, Channels: []string{"stress.0", "other.*"}, Check: true, Mark: g.mark})
	settled(t, s, 100)
	g.publish(s, "stress.0", 200)
	g.publish(s, "other.b", 50)
	rep := finish(t, s, End{Last: g.last, Settle: 10 * time.Second})
	wantTotals(t, rep, 100, 100, "{}")
	if l := rep.Ledger; l.Faults.Sum() != 0 || l.Checked != 100*250 {
		t.Errorf("%+v", l)
	}
	if n := g.g.Stats().TLS.OwnRecords; n < 100 {
		t.Errorf("%d connections by TLS", n)
	}

	s = start(t, Config{URL: url, Insecure: true, Connections: 9, Slow: 3, Flood: 3, Drip: 3, Channels: []string{"stress.0"}, Timeout: 3 * time.Second})
	eventually(t, "the flooding ones to be cut", func() bool {
		c := s.Counts()
		return c.Roles[Flood].Ended.Sum() == 3 && c.Roles[Slow].Connected == 3
	})
	finish(t, s, End{})

	// Nobody's certificate; no TLS where it is due; no TLS at the other end.
	other := strings.Replace(rawServer(t, func(c net.Conn) { c.Write([]byte("no TLS at all")) }), "ws", "wss", 1)
	for cfg, want := range map[*Config]string{
		{URL: url}:                   `{"tls_certificate": 2}`,
		{URL: g.url()}:               `{"http_400": 2}`,
		{URL: other, Insecure: true}: `{"tls_handshake": 2}`,
	} {
		cfg.Connections = 2
		s := start(t, *cfg)
		settled(t, s, 2)
		wantTotals(t, finish(t, s, End{}), 2, 0, want)
	}
}
