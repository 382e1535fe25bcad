package tlsrec

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

// offloaded shakes hands with a crypto/tls client and gives the server's side to
// the kernel.
func offloaded(t *testing.T, client *tls.Config, rsaKey bool) (*tls.Conn, net.Conn, int) {
	t.Helper()
	c, s := tcpPair(t)
	client.InsecureSkipVerify = true
	theirs := tls.Client(c, client)
	done := make(chan error, 1)
	go func() { done <- theirs.Handshake() }()
	keys, err := Server(s, serverConfig(rsaKey))
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	fd := fdOf(t, s)
	if err := keys.Offload(fd); err != nil {
		t.Fatal(err)
	}
	return theirs, s, fd
}

func fdOf(t *testing.T, c net.Conn) (fd int) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(f uintptr) { fd = int(f) })
	return fd
}

// needKernel skips a test where the kernel can't. `make e2e-ktls` runs these tests
// where it can.
func needKernel(t *testing.T) {
	if err := KernelReady(4096); err != nil {
		t.Skip("no kernel TLS here: ", err)
	}
}

func TestKernel(t *testing.T) {
	needKernel(t)
	for _, suite := range []uint16{
		0, // TLS 1.3
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	} {
		cfg := &tls.Config{}
		if suite != 0 {
			cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{suite}
		}
		theirs, ours, fd := offloaded(t, cfg, suite == tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384)
		for _, n := range []int{1, 1000, MaxPlain, 100_000} {
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(i * 7)
			}
			for _, way := range [][2]io.ReadWriter{{theirs, ours}, {ours, theirs}} {
				go way[0].Write(data)
				got := make([]byte, n)
				if _, err := io.ReadFull(way[1], got); err != nil || string(got) != string(data) {
					t.Fatalf("%x, %d bytes: %v", suite, n, err)
				}
			}
		}
		if err := SendAlert(fd, CloseNotify); err != nil {
			t.Error(err)
		}
		if n, err := theirs.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("our goodbye: %d, %v", n, err)
		}
		theirs.CloseWrite()
		if _, err := ours.Read(make([]byte, 100)); !errors.Is(err, syscall.EIO) {
			t.Errorf("instead of EIO: %v", err)
		}
		if err := Receive(fd, suite != 0); !errors.Is(err, io.EOF) {
			t.Errorf("their goodbye: %v", err)
		}
	}
}

// Whose peer has ended its half is not taken by the kernel, and neither is any where
// the module is missing: the socket is as it was, for records of ours.
func TestKernelDeclines(t *testing.T) {
	c, s := tcpPair(t)
	k := Keys{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256}
	k.in = direction{key: make([]byte, 16), iv: make([]byte, 12)}
	k.out = k.in
	c.Write([]byte("all"))
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(s)
	if err != nil || string(b) != "all" {
		t.Fatalf("%q, %v", b, err)
	}
	if err := k.Offload(fdOf(t, s)); !errors.Is(err, ErrNotOffloaded) {
		t.Errorf("%v", err)
	}
	go s.Write([]byte("as it was"))
	got := make([]byte, 9)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "as it was" {
		t.Errorf("%q, %v", got, err)
	}
}

// A kernel that ends the connection at a full record, as those before 6.0 do where it
// is longer than the receive buffer, is not ready, and neither is one that spoils it.
func TestSendFull(t *testing.T) {
	c, s := tcpPair(t)
	if err := sendFull(c, s); err != nil {
		t.Error(err)
	}
	got := make([]byte, MaxPlain)
	if err := sendFull(io.Discard, bytes.NewReader(got)); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("spoilt: %v", err)
	}
	s.(*net.TCPConn).SetLinger(0)
	s.Close()
	if err := sendFull(c, s); err == nil || !strings.Contains(err.Error(), "receive buffer") {
		t.Errorf("ended: %v", err)
	}
}

// A change of keys, which the kernel doesn't follow, and a record forged.
func TestKernelEnds(t *testing.T) {
	needKernel(t)
	open := func() (*Session, net.Conn, net.Conn, int) {
		c, s := tcpPair(t)
		cfg := Config()
		cfg.InsecureSkipVerify = true
		client := make(chan *Keys, 1)
		go func() {
			k, _ := Client(c, cfg)
			client <- k
		}()
		keys, err := Server(s, serverConfig(false))
		if err != nil {
			t.Fatal(err)
		}
		session, err := (<-client).Session()
		if err != nil {
			t.Fatal(err)
		}
		fd := fdOf(t, s)
		if err := keys.Offload(fd); err != nil {
			t.Fatal(err)
		}
		return session, c, s, fd
	}
	session, c, s, fd := open()
	b := seal(session, Data, "before")
	b, _ = session.AppendKeyUpdate(b, true)
	c.Write(b)
	got := make([]byte, 100)
	if n, err := s.Read(got); string(got[:n]) != "before" || err != nil {
		t.Errorf("%q %v", got[:n], err)
	}
	if _, err := s.Read(got); !errors.Is(err, syscall.EIO) {
		t.Errorf("instead of EIO: %v", err)
	}
	if err := Receive(fd, false); !errors.Is(err, ErrKeyUpdate) {
		t.Errorf("a KeyUpdate: %v", err)
	}
	session, c, s, _ = open()
	b = seal(session, Data, "forged")
	b[len(b)-1] ^= 1
	c.Write(b)
	if _, err := s.Read(got); !errors.Is(err, syscall.EBADMSG) {
		t.Errorf("a forged record: %v", err)
	}
}
