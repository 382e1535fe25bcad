package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/internal/selfsigned"
)

// certificateFiles writes a certificate for 127.0.0.1 that lasts so long, and its
// key.
func certificateFiles(t *testing.T, lasts time.Duration) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile, err := selfsigned.Write(t.TempDir(), "test", lasts)
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// The commands together over TLS, and what those are told that don't believe it.
func TestServeTLS(t *testing.T) {
	cert, key := certificateFiles(t, time.Hour)
	r := startServe(t, "--memory-limit", "512MiB", "--tls-cert", cert, "--tls-key", key, "--log-level", "info", "--max-connections", "60")
	for _, want := range []string{"based on 8KB per connection + 208MB overhead", "Bound by configured: memory allows 38912", "TLS records are done by this process"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, r.log)
		}
	}
	if h := odin(t, nil, "", "health", "--ready", "--url", "https://"+r.addr, "--tls-ca", cert); h.code != 0 {
		t.Errorf("health: %+v", h)
	}
	if h := odin(t, nil, "", "health", "--url", "https://"+r.addr); h.code != exitFailure || !strings.Contains(h.err, "certificate") {
		t.Errorf("health that doesn't know the certificate: %+v", h)
	}
	if h := odin(t, nil, "", "health", "--url", "http://"+r.addr); h.code != exitFailure || !strings.Contains(h.err, "tls_required") {
		t.Errorf("health without TLS: %+v", h)
	}
	if h := odin(t, nil, "", "health", "--ready", "--url", "http://"+r.admin); h.code != 0 { // as in a container
		t.Errorf("health of the admin port: %+v", h)
	}
	tail := make(chan result, 1)
	go func() {
		tail <- odin(t, nil, "", "tail", "--url", "wss://"+r.addr+"/ws", "--tls-ca", cert, "--check", "--quiet", "--count", "100", "trade.*")
	}()
	time.Sleep(300 * time.Millisecond)
	if f := odin(t, nil, "", "feed", "synth", "--admin-addr", r.admin, "--speed", "0", "--limit", "1000"); f.code != 0 {
		t.Fatalf("feed: %+v", f)
	}
	select {
	case got := <-tail:
		if got.code != 0 || !strings.Contains(got.err, "0 faults") {
			t.Errorf("tail: %+v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("tail doesn't end")
	}
	s := odin(t, nil, "", "stress", "--url", "wss://"+r.addr+"/ws", "--tls-ca", cert, "--connections", "50", "--duration", "3s",
		"--publish-rate", "50", "--admin-addr", r.admin, "--check", "--expect", "50", "--processes", "1")
	if s.code != 0 {
		t.Errorf("stress: %+v", s)
	}
	if code := r.stop(); code != 0 {
		t.Errorf("serve ended with %d: %s", code, r.log)
	}
}

// What can't be used is said before anything listens.
func TestServeBadCertificate(t *testing.T) {
	cert, key := certificateFiles(t, time.Hour)
	other, _ := certificateFiles(t, time.Hour)
	ended, endedKey := certificateFiles(t, -time.Minute)
	for _, c := range []struct{ cert, key, want string }{
		{cert, "", "a certificate and its key go together"},
		{"", key, "a certificate and its key go together"},
		{cert, filepath.Join(t.TempDir(), "none"), "no such file"},
		{other, key, "private key does not match"},
		{key, cert, "in PEM"},
		{ended, endedKey, "the certificate ended on"},
	} {
		r := odin(t, nil, "", "serve", "--tls-cert", c.cert, "--tls-key", c.key, "--data-dir", t.TempDir())
		if r.code != exitUsage || !strings.Contains(r.err, c.want) {
			t.Errorf("%+v, want code 2 and %q", r, c.want)
		}
	}
	for _, args := range [][]string{
		{"tail", "--tls-ca", key, "a"}, {"stress", "--tls-ca", key, "--url", "wss://127.0.0.1:1/ws"}, {"health", "--tls-ca", filepath.Join(t.TempDir(), "none")},
	} {
		if r := odin(t, nil, "", args...); r.code != exitUsage || !strings.Contains(r.err, "--tls-ca") {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

func TestCapacityTLS(t *testing.T) {
	for _, c := range []struct{ flag, want, term string }{
		{"--tls", "38912", "tls: session"},
		{"--tls=kernel", "connections", "tls: kernel"},
		{"--tls=", "54613", "backlog"},
	} {
		r := odin(t, nil, "", "capacity", "--memory", "512MiB", c.flag)
		if r.code != 0 || !strings.Contains(r.out, c.want) || !strings.Contains(r.out, c.term) {
			t.Errorf("%s: %+v", c.flag, r)
		}
	}
}
