package e2e

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

//go:embed testdata/browser.html
var browserPage []byte

// TestClientBrowser lets a page in headless Chromium play a subscriber: a
// WebSocket stack nobody can argue with, behind a real Origin.
func TestClientBrowser(t *testing.T) {
	chromium := findBrowser(t)
	const channel, count = "browser.client", 300

	page := newPage(t, channel, count)
	origin := "http://" + page.server.Listener.Addr().String()
	page.server.Start()
	plays := func(srv *Server, extensions string) func(t *testing.T) {
		page.gateway = srv.URL()
		return func(t *testing.T) {
			browse(t, chromium, origin)
			page.wait(t, "subscribed")
			want := publishPayloads(t, srv, channel, count)
			r := page.wait(t, "done")
			if r.Why != "" {
				t.Fatal(r.Why)
			}
			compare(t, r.Messages, want)
			if r.Protocol != "odin.v1.json" || r.Closed != 1000 || r.Extensions != extensions {
				t.Errorf("subprotocol %q, extensions %q, closed with %d; want odin.v1.json, %q and 1000", r.Protocol, r.Extensions, r.Closed, extensions)
			}
		}
	}

	compressed := startServer(t, "--allow-origin", origin, "--compression")
	t.Run("compressed", plays(compressed, "permessage-deflate; server_no_context_takeover; client_no_context_takeover"))
	wantCompressed(t, compressed, "messages") // its one command does not get shorter
	srv := startServer(t, "--allow-origin", origin)
	t.Run("an allowed origin", plays(srv, ""))

	t.Run("any other origin is refused", func(t *testing.T) {
		// The same page by another name is another origin.
		browse(t, chromium, strings.Replace(origin, "127.0.0.1", "localhost", 1))
		if r := page.wait(t, "done"); r.Closed != 1006 || len(r.Messages) != 0 {
			t.Errorf("closed with %d after %d messages, want 1006 after none", r.Closed, len(r.Messages))
		}
	})
}

func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	needs(t, "ODIN_REQUIRE_BROWSER", "Chromium is not installed (Debian: apt-get install chromium)")
	return ""
}

// shortTempDir is t.TempDir without the test's name in it: the browser makes a socket
// there, whose path may have 107 bytes (unix(7)).
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "odin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // after the browser has ended
	return dir
}

// browse opens url in a browser with a profile of its own until the test ends.
func browse(t *testing.T, chromium, url string) {
	t.Helper()
	log := &tailBuffer{}
	dir := shortTempDir(t)
	cmd := exec.Command(chromium,
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--disable-dev-shm-usage", "--user-data-dir="+dir, url)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Environ(), "TMPDIR="+dir) // killed, it leaves its socket there
	// Its helpers share its process group and end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("chromium:\n%s", log)
		}
	})
}

// page serves the page and takes its reports.
type page struct {
	server  *httptest.Server // listens already
	gateway string           // static while a page is open
	reports chan pageReport
}

type pageReport struct {
	At, Why  string
	Protocol string
	Closed   int

	Extensions string

	Messages []received
}

// newPage returns a page to be started.
func newPage(t *testing.T, channel string, count int) *page {
	p := &page{reports: make(chan pageReport, 16)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(browserPage)
	})
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"url": p.gateway, "channel": channel, "count": count})
	})
	mux.HandleFunc("POST /report", func(w http.ResponseWriter, r *http.Request) {
		var report pageReport
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			report.Why = err.Error()
		}
		p.reports <- report
	})
	p.server = httptest.NewUnstartedServer(mux)
	t.Cleanup(p.server.Close)
	return p
}

func (p *page) wait(t *testing.T, at string) pageReport {
	t.Helper()
	select {
	case r := <-p.reports:
		if r.At != at {
			t.Fatalf("the page reports %+v, want it %s", r, at)
		}
		return r
	case <-time.After(30 * time.Second):
		t.Fatalf("the page does not report that it is %s", at)
	}
	return pageReport{}
}
