package tlsrec

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// certificate is a self-signed one for "localhost" with a key of either kind.
var certificate = func(rsaKey bool) func() tls.Certificate {
	return sync.OnceValue(func() tls.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		}
		var c tls.Certificate
		if rsaKey {
			key, _ := rsa.GenerateKey(rand.Reader, 2048)
			der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
			if err != nil {
				panic(err)
			}
			c = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		} else {
			key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
			if err != nil {
				panic(err)
			}
			c = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		}
		return c
	})
}

var ecCertificate, rsaCertificate = certificate(false), certificate(true)

func serverConfig(rsaKey bool) *tls.Config {
	c := Config()
	c.Certificates = []tls.Certificate{ecCertificate()}
	if rsaKey {
		c.Certificates = []tls.Certificate{rsaCertificate()}
	}
	return c
}

func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	client.SetDeadline(deadline)
	server.SetDeadline(deadline)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// peer is the side under test over a blocking socket.
type peer struct {
	*Session
	net.Conn
	in []byte
}

// shaken shakes hands between a crypto/tls client and this package.
func shaken(t testing.TB, client *tls.Config, rsaKey bool) (*tls.Conn, *peer) {
	t.Helper()
	c, s := tcpPair(t)
	client.InsecureSkipVerify = true
	theirs := tls.Client(c, client)
	done := make(chan error, 1)
	go func() { done <- theirs.Handshake() }()
	keys, err := Server(s, serverConfig(rsaKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	session, err := keys.Session()
	if err != nil {
		t.Fatal(err)
	}
	keys.Wipe()
	return theirs, &peer{Session: session, Conn: s}
}

// record reads one record and opens it.
func (p *peer) record() (Kind, []byte, error) {
	for {
		n, err := p.Length(p.in)
		if err != nil {
			return 0, nil, err
		}
		if n > 0 && len(p.in) >= n {
			r := p.in[:n]
			p.in = p.in[n:]
			return p.Open(r)
		}
		var b [4096]byte
		n, err = p.Conn.Read(b[:])
		if err != nil {
			return 0, nil, err
		}
		p.in = append(p.in, b[:n]...)
	}
}

func (p *peer) say(data []byte) {
	var out []byte
	for len(data) > 0 {
		n, at := min(len(data), MaxPlain), len(out)
		out = p.Seal(append(p.Begin(out), data[:n]...), at, Data)
		data = data[n:]
	}
	p.Conn.Write(out)
}

// Every suite of both versions, both ways, with crypto/tls at the other end.
func TestSuites(t *testing.T) {
	for _, suite := range []uint16{
		tls.TLS_AES_128_GCM_SHA256, // of TLS 1.3 the client's side takes what Go prefers
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	} {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			cfg := &tls.Config{CipherSuites: []uint16{suite}, NextProtos: []string{Protocol}}
			rsaKey := false
			if suite != tls.TLS_AES_128_GCM_SHA256 {
				cfg.MaxVersion = tls.VersionTLS12
				name := tls.CipherSuiteName(suite)
				rsaKey = bytes.Contains([]byte(name), []byte("_RSA_"))
			}
			theirs, ours := shaken(t, cfg, rsaKey)
			if got := theirs.ConnectionState(); got.CipherSuite != ours.Suite() || got.Version != ours.Version() || got.NegotiatedProtocol != Protocol {
				t.Fatalf("they agreed on %+v, we on %x %x", got, ours.Version(), ours.Suite())
			}
			if cfg.MaxVersion != 0 && ours.Suite() != suite {
				t.Fatalf("suite %x", ours.Suite())
			}
			talk(t, theirs, ours)
		})
	}
}

// talk exchanges messages of sizes around the bounds, both ways.
func talk(t *testing.T, theirs io.ReadWriter, ours *peer) {
	t.Helper()
	for _, n := range []int{1, 15, 16, 17, 1000, MaxPlain - 1, MaxPlain, MaxPlain + 1, 100_000} {
		data := make([]byte, n)
		rand.Read(data)
		go theirs.Write(bytes.Clone(data))
		var got []byte
		for len(got) < n {
			kind, b, err := ours.record()
			if err != nil || kind != Data {
				t.Fatalf("kind %d, error %v", kind, err)
			}
			got = append(got, b...)
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("%d bytes from them arrived otherwise", n)
		}
		go ours.say(data)
		got = make([]byte, n)
		if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes from us arrived otherwise: %v", n, err)
		}
	}
}

// Both sides can be this package's, so that a client may be.
func TestClient(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c, s := tcpPair(t)
		cfg := Config()
		cfg.InsecureSkipVerify, cfg.MaxVersion = true, version
		keys := make(chan *Keys, 1)
		go func() {
			k, err := Client(c, cfg)
			if err != nil {
				t.Error(err)
			}
			keys <- k
		}()
		ks, err := Server(s, serverConfig(false))
		if err != nil {
			t.Fatal(err)
		}
		kc := <-keys
		if t.Failed() {
			return
		}
		sc, _ := kc.Session()
		ss, _ := ks.Session()
		client, server := &peer{Session: sc, Conn: c}, &peer{Session: ss, Conn: s}
		client.say([]byte("there"))
		server.say([]byte("back"))
		if _, b, err := server.record(); err != nil || string(b) != "there" {
			t.Errorf("%x: %q, %v", version, b, err)
		}
		if _, b, err := client.record(); err != nil || string(b) != "back" {
			t.Errorf("%x: %q, %v", version, b, err)
		}
	}
}

// The traffic keys of RFC 8448 section 3.
func TestVectors(t *testing.T) {
	for _, v := range [][3]string{
		{"9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5", "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"},
		{"a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643", "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"},
	} {
		secret, _ := hex.DecodeString(v[0])
		d := direction{secret: secret}
		if err := d.expand(suite{sha256.New, 16, false}); err != nil || hex.EncodeToString(d.key) != v[1] || hex.EncodeToString(d.iv) != v[2] {
			t.Errorf("key %x, iv %x, want %v, %v", d.key, d.iv, v[1:], err)
		}
	}
}

// pair is two sessions that open each other's records.
func pair(t testing.TB, version uint16) (a, b *Session) {
	t.Helper()
	k := Keys{Version: version, Suite: tls.TLS_AES_128_GCM_SHA256, server: true}
	n := 12
	if version == tls.VersionTLS12 {
		k.Suite, n = tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 4
	}
	key := func(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }
	k.in = direction{secret: key(1, 32), key: key(2, 16), iv: key(3, n)}
	k.out = direction{secret: key(4, 32), key: key(5, 16), iv: key(6, n)}
	a, err := k.Session()
	if err != nil {
		t.Fatal(err)
	}
	k.in, k.out, k.server = k.out, k.in, false
	if b, err = k.Session(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func seal(s *Session, kind Kind, data string) []byte {
	return s.Seal(append(s.Begin(nil), data...), 0, kind)
}

// A record that did not leave may be sealed again under its number, with other
// bytes, and the peer sees no hole.
func TestUnseal(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		a, b := pair(t, version)
		seal(a, Data, "kept back")
		seal(a, Data, "this too")
		a.Unseal(2)
		for _, text := range []string{"one", "two"} {
			if kind, data, err := b.Open(seal(a, Data, text)); err != nil || kind != Data || string(data) != text {
				t.Fatalf("%x: %d %q %v", version, kind, data, err)
			}
		}
	}
}

func TestBadRecords(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		a, b := pair(t, version)
		good := seal(a, Data, "hello")
		for i := range good { // a bit of each byte
			bad := bytes.Clone(good)
			bad[i] ^= 0x40
			// A length that is another is another record's, which has not come.
			if n, err := b.Length(bad); err != nil || n != len(bad) {
				continue
			}
			if _, _, err := b.Open(bad); !errors.Is(err, badRecordMAC) {
				t.Errorf("%x: byte %d changed: %v", version, i, err)
			}
		}
		if kind, data, err := b.Open(good); err != nil || kind != Data || string(data) != "hello" {
			t.Fatalf("%x: after the forgeries: %d %q %v", version, kind, data, err)
		}
	}
	s, _ := pair(t, tls.VersionTLS13)
	for _, c := range []struct {
		head string
		want Alert
	}{
		{"\x17\x03\x03\x41\x01", recordOverflow},
		{"\x17\x03\x03\xff\xff", recordOverflow},
		{"\x17\x03\x03\x00\x0f", badRecordMAC},
		{"\x17\x03\x04\x00\x20", protocolVersion},
		{"GET /", protocolVersion},
		{"\x14\x03\x03\x00\x20", UnexpectedMessage},
	} {
		if n, err := s.Length([]byte(c.head)); n != 0 || !errors.Is(err, c.want) {
			t.Errorf("%q: %d, %v; want %v", c.head, n, err, c.want)
		}
	}
	if n, err := s.Length([]byte("\x17\x03\x03\x41")); n != 0 || err != nil {
		t.Errorf("four bytes: %d, %v", n, err)
	}
}

func TestControl(t *testing.T) {
	a, b := pair(t, tls.VersionTLS13)
	control := func(kind Kind, data string) error {
		k, d, err := b.Open(seal(a, kind, data))
		if err != nil {
			return err
		}
		b.useless = 0
		return b.Control(k, d)
	}
	for _, c := range []struct {
		what string
		kind Kind
		data string
		want error
	}{
		{"an empty record", Data, "", nil},
		{"goodbye", AlertKind, "\x01\x00", io.EOF},
		{"user_canceled", AlertKind, "\x01\x5a", nil},
		{"a fatal alert", AlertKind, "\x02\x28", ErrPeerAlert},
		{"half an alert", AlertKind, "\x02", decodeError},
		{"a change of cipher", changeCipher, "\x01", UnexpectedMessage},
		{"an unknown kind", 24, "heart", UnexpectedMessage},
		{"no message", Handshake, "", UnexpectedMessage},
		{"a ClientHello", Handshake, "\x01\x00\x00\x00", UnexpectedMessage},
		{"a long KeyUpdate", Handshake, "\x18\x00\x00\x02\x00\x00", decodeError},
		{"a KeyUpdate that asks for what is not", Handshake, "\x18\x00\x00\x01\x02", decodeError},
		{"a ticket", Handshake, "\x04\x00\x00\x00", nil}, // b is the client
	} {
		if err := control(c.kind, c.data); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || b.Owes() {
			t.Errorf("%s: %v, an answer owed: %v; want %v", c.what, err, b.Owes(), c.want)
		}
	}
	for range maxUseless {
		if _, _, err := b.Open(seal(a, Data, "")); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Open(seal(a, Data, "")); !errors.Is(err, UnexpectedMessage) {
		t.Errorf("a record too many without data: %v", err)
	}
}

// Keys change in both directions, asked for or not, and one answer is for all that
// was asked before it.
func TestKeyUpdate(t *testing.T) {
	a, b := pair(t, tls.VersionTLS13)
	update := func(from, to *Session, ask bool) {
		t.Helper()
		record, err := from.AppendKeyUpdate(nil, ask)
		if err != nil || from.Owes() {
			t.Fatalf("%v, still owed: %v", err, from.Owes())
		}
		kind, data, err := to.Open(record)
		if err != nil {
			t.Fatal(err)
		}
		if err := to.Control(kind, data); err != nil {
			t.Fatal(err)
		}
	}
	for asked := range 4 {
		for range asked {
			update(a, b, true)
		}
		update(a, b, false)
		if b.Owes() != (asked > 0) {
			t.Fatalf("asked %d times: owed: %v", asked, b.Owes())
		}
		update(b, a, false)
		if a.Owes() || b.Owes() {
			t.Fatal("an answer is owed for an answer")
		}
		var kind Kind
		var data []byte
		var err error
		if kind, data, err = b.Open(seal(a, Data, "ping")); err != nil || kind != Data || string(data) != "ping" {
			t.Fatalf("%q %v", data, err)
		}
		if _, data, err = a.Open(seal(b, Data, "pong")); err != nil || string(data) != "pong" {
			t.Fatalf("%q %v", data, err)
		}
	}
}

// What a client sends in one segment with its Finished stays in the socket. In TLS
// 1.2 the server has the last word.
func TestNothingReadBehindTheHandshake(t *testing.T) {
	c, s := tcpPair(t)
	held := &holdLast{Conn: c}
	theirs := tls.Client(held, &tls.Config{InsecureSkipVerify: true})
	go func() {
		if theirs.Handshake() == nil {
			theirs.Write([]byte("at once"))
		}
		held.release()
	}()
	keys, err := Server(s, serverConfig(false))
	if err != nil {
		t.Fatal(err)
	}
	session, _ := keys.Session()
	p := &peer{Session: session, Conn: s}
	if _, data, err := p.record(); err != nil || string(data) != "at once" {
		t.Errorf("%q, %v", data, err)
	}
}

// A ClientHello that is longer than any client's is refused by its header alone.
func TestLongHello(t *testing.T) {
	for _, hello := range []string{"\x16\x03\x01\x20\x00", "\x16\x03\x01\x10\x00\x01\x00\x40\x00" + strings.Repeat("x", 4092) + "\x16\x03\x01\x10\x00"} {
		c, s := tcpPair(t)
		go c.Write([]byte(hello))
		if _, err := Server(s, serverConfig(false)); !errors.Is(err, ErrTooLong) {
			t.Errorf("%d bytes: %v", len(hello), err)
		}
	}
}

// holdLast joins the writes after the first.
type holdLast struct {
	net.Conn
	writes int
	held   []byte
}

func (h *holdLast) Write(p []byte) (int, error) {
	if h.writes++; h.writes == 1 {
		return h.Conn.Write(p)
	}
	h.held = append(h.held, p...)
	return len(p), nil
}

func (h *holdLast) release() { h.Conn.Write(h.held) }

func TestNoAllocation(t *testing.T) {
	a, b := pair(t, tls.VersionTLS13)
	data, dst := make([]byte, 300), make([]byte, 0, 1000)
	if n := testing.AllocsPerRun(100, func() {
		dst = a.Seal(append(a.Begin(dst[:0]), data...), 0, Data)
		if _, _, err := b.Open(dst); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations a record", n)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("\x17\x03\x03\x00\x20abcdefghijklmnopqrstuvwxyz012345"))
	f.Add([]byte("\x17\x03\x03\x00\x10abcdefghijklmnop"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			s, _ := pair(t, version)
			n, err := s.Length(b)
			if err != nil || n == 0 || n > len(b) {
				continue
			}
			if _, _, err := s.Open(bytes.Clone(b[:n])); err == nil {
				t.Fatal("forged")
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, n := range []int{150, 1400, 4000, 16000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s, _ := pair(b, tls.VersionTLS13)
			data, dst := make([]byte, n), make([]byte, 0, MaxRecord)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				dst = s.Seal(append(s.Begin(dst[:0]), data...), 0, Data)
			}
		})
	}
}
