package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"github.com/odin-ws/odin/gateway/secure"
	"github.com/odin-ws/odin/internal/selfsigned"
	"github.com/odin-ws/odin/internal/tlsrec"
)

// pemPair writes a certificate for localhost, with a name of its own, and its key.
func pemPair(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile, err := selfsigned.Write(dir, name, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// secureGateway is a test gateway that speaks TLS, and where its files are.
type secureGateway struct {
	*testGateway
	dir string
}

func newSecureGateway(t *testing.T, change func(*Config)) *secureGateway {
	t.Helper()
	dir := t.TempDir()
	certs, err := secure.LoadCertificates(pemPair(t, dir, "first"))
	if err != nil {
		t.Fatal(err)
	}
	g := newTestGateway(t, func(c *Config) {
		c.TLS = &TLS{Certificates: certs, Handshakes: 64, reload: 20 * time.Millisecond, Kernel: kernelReady()}
		if change != nil {
			change(c)
		}
	})
	return &secureGateway{g, dir}
}

// kernelReady says whether these tests are of the kernel's records: make e2e-ktls has
// them so.
var kernelReady = sync.OnceValue(func() bool { return tlsrec.KernelReady(DefaultConfig().RcvBuf) == nil })

func (g *secureGateway) config() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
}

// tls connects and shakes hands.
func (g *secureGateway) tls(cfg *tls.Config) (*tls.Conn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 15 * time.Second}, "tcp", g.Addr(), cfg)
	if err == nil {
		c.SetDeadline(time.Now().Add(15 * time.Second))
		g.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// say sends text and reads what comes back, to the end.
func (g *secureGateway) say(text string) string {
	g.t.Helper()
	c, err := g.tls(g.config())
	if err != nil {
		g.t.Fatal(err)
	}
	io.WriteString(c, text)
	b, err := io.ReadAll(c)
	if err != nil {
		g.t.Fatalf("%q, then %v; want the peer's goodbye", b, err)
	}
	return string(b)
}

// ws is a WebSocket client over TLS.
func (g *secureGateway) ws() *client {
	g.t.Helper()
	transport := &http.Transport{TLSClientConfig: g.config()}
	g.t.Cleanup(transport.CloseIdleConnections)
	c, _, err := websocket.Dial(g.t.Context(), "wss://"+g.Addr()+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		g.t.Fatal(err)
	}
	c.SetReadLimit(1 << 24)
	g.t.Cleanup(func() { c.CloseNow() })
	k := &client{Conn: c, t: g.t}
	k.want("hello")
	return k
}

func (g *secureGateway) failed(reason string) uint64 { return g.Stats().TLS.Failed[reason] }

func TestTLSVersions(t *testing.T) {
	g := newSecureGateway(t, nil)
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := g.config()
		cfg.MinVersion, cfg.MaxVersion = v, v
		c, err := g.tls(cfg)
		if err != nil {
			t.Fatalf("%s: %v", tls.VersionName(v), err)
		}
		if s := c.ConnectionState(); s.NegotiatedProtocol != "http/1.1" || s.DidResume {
			t.Errorf("%s: %+v", tls.VersionName(v), s)
		}
		io.WriteString(c, g.head())
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%s: %v %v", tls.VersionName(v), resp, err)
		}
	}
	old := g.config()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	weak := g.config()
	weak.MaxVersion, weak.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	h2 := g.config()
	h2.NextProtos = []string{"h2"}
	for what, cfg := range map[string]*tls.Config{"TLS 1.1": old, "CBC": weak, "h2 alone": h2} {
		if _, err := g.tls(cfg); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	g.eventually("three refusals", func() bool { return g.failed(shakeRefused) == 3 })
	strict := &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool()}
	if _, err := g.tls(strict); err == nil {
		t.Error("an unknown certificate was accepted")
	}
	g.eventually("the client's alert", func() bool { return g.failed(shakeAlert) == 1 })
	if st := g.Stats().TLS; st.OwnRecords+st.KernelRecords != 2 || st.Done != 2 {
		t.Errorf("%+v", st)
	}
	g.wantNothingLeft()
}

func (g *secureGateway) wantNothingLeft() {
	g.t.Helper()
	g.eventually("no handshake under way", func() bool { st := g.Stats().TLS; return st.Handshakes == 0 && st.Waiting == 0 })
}

// Who speaks HTTP is told, who speaks neither is closed on; both are counted.
func TestTLSPlain(t *testing.T) {
	g := newSecureGateway(t, nil)
	r := g.raw(t)
	r.send(g.head(), 0)
	if resp, body := r.answer(); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "tls_required") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	r.wantEOF()
	r = g.raw(t)
	r.send("\x00\x01\x02", 0)
	r.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	io.Copy(io.Discard, r.in)
	g.eventually("two of them", func() bool { return g.failed(shakePlain) == 2 })
	g.wantNothingLeft()
}

// Who is told in the clear while all handshakes are being ended is not waited for.
func TestTLSPlainAtTheEnd(t *testing.T) {
	g := newSecureGateway(t, nil)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	s := &shake{fd: pair[0], file: os.NewFile(uintptr(pair[0]), "client")}
	defer s.file.Close()
	h := g.handshakes
	h.stop()
	s.file.SetDeadline(time.Unix(1, 0)) // as stop does to those it finds
	began := time.Now()
	h.tellPlain(s)
	if d := time.Since(began); d > plainWait/2 {
		t.Errorf("waited for %v", d)
	}
}

// What answers without TLS answers the same with it, refusals too.
func TestTLSHTTP(t *testing.T) {
	g := newSecureGateway(t, func(c *Config) { c.MaxConnections = 1; c.IPConnections = 50 })
	if s := g.say("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(s, "HTTP/1.1 200") || !strings.HasSuffix(s, "{\"status\":\"ok\"}\n") {
		t.Errorf("healthz: %q", s)
	}
	if s := g.say("GET /stats HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.Contains(s, `"handshakesDone":2`) {
		t.Errorf("stats: %q", s)
	}
	for head, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":           "HTTP/1.1 404",
		"BAD\x00":                                     "HTTP/1.1 400",
		g.head("Sec-WebSocket-Version: 8"):            "HTTP/1.1 426",
		"GET /" + strings.Repeat("x", 9000) + " HTTP": "HTTP/1.1 414",
	} {
		if s := g.say(head); !strings.HasPrefix(s, want) {
			t.Errorf("%.40q: %.200q, want %s", head, s, want)
		}
	}
	c := g.ws()
	if s := g.say(g.head()); !strings.HasPrefix(s, "HTTP/1.1 503") || !strings.Contains(s, "at_capacity") {
		t.Errorf("full: %q", s)
	}
	c.CloseNow()
	g.wantNothingHeld(t, 0, 0)
}

// Order, wholeness and replay over TLS, for messages of one record and of many.
func TestTLSFanOut(t *testing.T) {
	g := newSecureGateway(t, nil)
	const clients, messages = 20, 300
	var all sync.WaitGroup
	var following []*client
	for range clients {
		c := g.ws()
		c.say(`{"op":"sub","id":1,"ch":["a"]}`)
		c.want("ack")
		following = append(following, c)
	}
	for i, c := range following {
		all.Go(func() {
			last := uint64(0)
			for n := range messages {
				f, err := c.next()
				if err != nil || f.T != "msg" || last != 0 && f.Prev != last {
					t.Errorf("client %d, message %d, after %d: %s %v", i, n, last, f.raw, err)
					return
				}
				if want := tlsPayload(n); string(f.D) != want {
					t.Errorf("client %d, message %d: %d bytes, not the %d published", i, n, len(f.D), len(want))
				}
				last = f.Seq
			}
		})
	}
	for n := range messages {
		g.publish("a", tlsPayload(n))
	}
	all.Wait()
	c := g.ws() // a command of several records, and replay
	c.say("%s", `{"op":"sub","id":1,"ch":["a"`+strings.Repeat(`,"b.c"`, 4000)+`]}`)
	c.want("ack")
	if st := g.Stats().TLS; st.BadRecords+st.NoBuffer+st.RecordTimeouts+st.PeerAlerts > 0 {
		t.Errorf("%+v", st)
	}
}

func tlsPayload(n int) string {
	return `"` + strings.Repeat(string(rune('a'+n%26)), 1+(n%7)*(n%11)*300) + `"`
}

// A client that reads nothing is cut, others are not, and its memory is given back.
func TestTLSSlowClient(t *testing.T) {
	g := newSecureGateway(t, func(c *Config) { c.SlowTimeout = time.Second; c.SendQueue = 16 })
	d := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) })
	}}
	slow, err := tls.DialWithDialer(d, "tcp", g.Addr(), g.config())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	io.WriteString(slow, g.head()+say(`{"op":"sub","id":1,"ch":["a"]}`))
	quick := g.ws()
	quick.say(`{"op":"sub","id":1,"ch":["a"]}`)
	quick.want("ack")
	g.eventually("both subscribed", func() bool { return g.count.Subscriptions.Load() == 2 })
	stop := make(chan struct{})
	var feed sync.WaitGroup
	feed.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				g.publish("a", `"`+strings.Repeat("x", 3000)+`"`)
			}
		}
	})
	last := uint64(0)
	for end := time.Now().Add(10 * time.Second); g.Stats().Closes["4101"] == 0; {
		f, err := quick.next()
		if err != nil || f.T != "msg" || last != 0 && f.Prev != last {
			t.Fatalf("the quick one, after %d: %s %v", last, f.raw, err)
		}
		if last = f.Seq; time.Now().After(end) {
			t.Fatal("the slow one was not cut")
		}
	}
	close(stop)
	feed.Wait()
	if g.Stats().TLS.Rests == 0 {
		t.Log("no record was taken in part")
	}
	quick.CloseNow()
	g.wantNothingHeld(t, 0, 0)
	g.eventually("the backlog given back", func() bool { return g.backlog.used.Load() == 0 })
}

// A drain tells everyone, over TLS too, and ends with a goodbye of TLS's own.
func TestTLSDrain(t *testing.T) {
	g := newSecureGateway(t, func(c *Config) { c.Drain = 2 * time.Second })
	c, err := g.tls(g.config())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, g.head())
	in := bufio.NewReader(c)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(err)
	}
	half := g.raw(t) // in the midst of a handshake
	half.send("\x16\x03\x01\x02\x00", 0)
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
		defer cancel()
		ended <- g.Shutdown(ctx)
	}()
	var all bytes.Buffer
	for {
		b := make([]byte, 1000)
		n, err := in.Read(b)
		all.Write(b[:n])
		if bytes.Contains(all.Bytes(), []byte("going away")) && n > 0 {
			io.WriteString(c, closeFrame(1012, ""))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%q, then %v", all.String(), err)
		}
	}
	if s := all.String(); !strings.Contains(s, `{"t":"bye","code":1012`) {
		t.Errorf("%q", s)
	}
	c.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Silent and half handshakes are bounded, and cost those who mean it nothing.
func TestTLSHandshakesBounded(t *testing.T) {
	const most, silent = 16, 100
	g := newSecureGateway(t, func(c *Config) {
		c.TLS.Handshakes = most
		c.HandshakeTimeout = 3 * time.Second
	})
	for i := range silent {
		r := g.raw(t)
		if i%2 == 1 {
			r.send("\x16\x03\x01\x02\x00half a hello", 0)
		}
		if i%10 == 0 {
			began := time.Now()
			c, err := g.tls(g.config())
			if err != nil {
				t.Fatalf("after %d silent ones: %v", i, err)
			}
			if d := time.Since(began); d > time.Second+slack {
				t.Errorf("after %d silent ones a handshake took %v", i, d)
			}
			c.Close()
		}
		if st := g.Stats().TLS; st.Handshakes > most {
			t.Fatalf("%d handshakes under way", st.Handshakes)
		}
	}
	if n := g.failed(shakeDisplaced); n < silent-most-10 {
		t.Errorf("%d displaced", n)
	}
	g.eventually("the others' time to be up", func() bool { return g.failed(shakeTimeout)+g.failed(shakeDisplaced) == silent })
	if g.failed(shakeTimeout) == 0 {
		t.Error("none timed out")
	}
	g.wantNothingLeft()
	r := g.raw(t)
	r.send("\x16\x03\x01\x02\x00", 0)
	r.conn.Close()
	r = g.raw(t)
	r.send("\x16\x03\x01\x7f\xff", 0)
	g.eventually("one hung up, one too long", func() bool { return g.failed(shakeAborted) == 1 && g.failed(shakeTooLong) == 1 })
}

// A storm of good handshakes, many more than may be under way, is served whole.
func TestTLSStorm(t *testing.T) {
	g := newSecureGateway(t, func(c *Config) {
		c.TLS.Handshakes, c.TLS.patience, c.HandshakeTimeout = 32, time.Minute, time.Minute // for slow machines
	})
	var all sync.WaitGroup
	for range 60 { // no more than may be under way and wait
		all.Go(func() {
			if _, err := g.tls(g.config()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	g.eventually("all of them", func() bool { return g.Stats().TLS.Done == 60 })
}

// No more handshakes compute at once than may, however many are under way.
func TestTLSComputing(t *testing.T) {
	g := newSecureGateway(t, nil)
	h := g.handshakes
	var now, most atomic.Int64
	h.mu.Lock() // none is under way yet
	get := h.cfg.GetCertificate
	h.cfg.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		n := now.Add(1)
		defer now.Add(-1)
		if m := most.Load(); n > m {
			most.CompareAndSwap(m, n)
		}
		time.Sleep(5 * time.Millisecond)
		return get(hello)
	}
	h.mu.Unlock()
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			if _, err := g.tls(g.config()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if m, may := most.Load(), int64(cap(h.computing)); m < 1 || m > may {
		t.Errorf("%d at once, %d may", m, may)
	}
	g.wantNothingLeft()
	if n := len(h.computing); n != 0 {
		t.Errorf("%d still compute", n)
	}
}

// A record that never ends is given up, with its buffer; garbage at once.
func TestTLSBadRecords(t *testing.T) {
	if kernelReady() {
		t.Skip("the kernel does the records here")
	}
	g := newSecureGateway(t, func(c *Config) { c.FrameTimeout = time.Second })
	open := func() (*tls.Conn, net.Conn) {
		r := g.raw(t)
		c := tls.Client(r.conn, g.config())
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, g.head())
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(err)
		}
		return c, r.conn
	}
	_, under := open()
	io.WriteString(under, "\x17\x03\x03\x01\x00half")
	g.eventually("the timeout", func() bool { return g.Stats().TLS.RecordTimeouts == 1 })
	c, under := open()
	io.WriteString(under, "\x17\x03\x03\x00\x20"+strings.Repeat("x", 32))
	if _, err := io.Copy(io.Discard, c); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("the client was told %v", err)
	}
	_, under = open()
	io.WriteString(under, "\x17\x03\x03\xff\xff")
	g.eventually("both counted", func() bool { return g.Stats().TLS.BadRecords == 2 })
	g.wantNothingHeld(t, 0, 0)
}

// A new pair is taken, a bad one is told of and the old one kept, and nobody is
// disconnected.
func TestTLSReload(t *testing.T) {
	g := newSecureGateway(t, nil)
	name := func() string {
		c, err := g.tls(g.config())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	stays := g.ws()
	if n := name(); n != "first" {
		t.Fatal(n)
	}
	cert, _ := os.ReadFile(filepath.Join(g.dir, "cert.pem"))
	pemPair(t, g.dir, "second")
	g.eventually("the second", func() bool { return name() == "second" })
	for what, spoil := range map[string]func(){
		"another's key": func() { os.WriteFile(filepath.Join(g.dir, "cert.pem"), cert, 0o600) },
		"no PEM":        func() { os.WriteFile(filepath.Join(g.dir, "key.pem"), []byte("key"), 0o600) },
		"no file":       func() { os.Remove(filepath.Join(g.dir, "cert.pem")) },
	} {
		was := g.Stats().TLS.CertificatesBad
		spoil()
		g.eventually(what, func() bool { return g.Stats().TLS.CertificatesBad == was+1 })
		if n := name(); n != "second" {
			t.Errorf("%s: %s", what, n)
		}
		pemPair(t, g.dir, fmt.Sprint("after ", what))
		g.eventually("a good one again", func() bool { return strings.HasPrefix(name(), "after "+what) })
		pemPair(t, g.dir, "second")
		g.eventually("the second again", func() bool { return name() == "second" })
	}
	stays.say(`{"op":"ping","id":5}`)
	stays.want("pong")
}

// A client changes keys, and says more, while /stats is being written: the answer is
// whole.
func TestTLSStatsKeyUpdates(t *testing.T) {
	g := newSecureGateway(t, func(c *Config) { c.TLS.Kernel = false })
	for range 30 {
		r := g.raw(t)
		r.conn.SetDeadline(time.Now().Add(10 * time.Second))
		cfg := tlsrec.Config()
		cfg.InsecureSkipVerify = true
		keys, err := tlsrec.Client(r.conn, cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := keys.Session()
		if err != nil {
			t.Fatal(err)
		}
		say := func(b []byte, text string) []byte {
			return s.Seal(append(s.Begin(b), text...), len(b), tlsrec.Data)
		}
		r.conn.Write(say(nil, "GET /stats HTTP/1.1\r\nHost: x\r\n\r\n"))
		for range 8 {
			b, err := s.AppendKeyUpdate(nil, true)
			if err != nil {
				t.Fatal(err)
			}
			r.conn.Write(b)
		}
		r.conn.Write(say(nil, "and more"))
		answer, end := openAll(t, s, r.conn)
		_, body, _ := strings.Cut(answer, "\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 200") || !strings.Contains(body, `"keyFloods":0`) || !strings.HasSuffix(body, "}\n\r\n0\r\n\r\n") {
			t.Fatalf("%q, then %v", answer, end)
		}
	}
}

// openAll is what a server says in records, to its goodbye.
func openAll(t *testing.T, s *tlsrec.Session, from io.Reader) (text string, end error) {
	t.Helper()
	var in []byte
	b := make([]byte, 4096)
	for {
		n, err := s.Length(in)
		if err != nil {
			return text, err
		}
		if n == 0 || n > len(in) {
			n, err := from.Read(b)
			if err != nil {
				return text, err
			}
			in = append(in, b[:n]...)
			continue
		}
		kind, data, err := s.Open(in[:n])
		if in = in[n:]; err != nil {
			return text, err
		}
		if kind == tlsrec.Data {
			text += string(data)
		} else if err := s.Control(kind, data); err != nil {
			return text, err
		}
	}
}
