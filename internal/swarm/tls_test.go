package swarm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/gateway/secure"
)

// securedSite makes a site speak TLS, and returns the certificate to believe.
func securedSite(t *testing.T) (change func(*gateway.Config), ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "c"), filepath.Join(dir, "k")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	os.WriteFile(certFile, cert, 0o600)
	os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600)
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
