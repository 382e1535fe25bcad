package docs

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// reports is put behind a document's page: it sends what the page shows in #log, once
// it shows ten lines.
const reports = `<script>
setInterval(() => {
  const shown = document.querySelector("#log").textContent;
  if (shown.split("\n").length > 10) fetch("/shown", { method: "POST", body: shown });
}, 100);
</script>`

var holeless = regexp.MustCompile(`^(trade\.SYNTH\.[A-Z-]+ \d+ [\d.]+\n)+$`)

// TestPages opens the web pages that documents show in a browser, with a market to
// follow: they must show prices, and nothing of holes or gaps.
func TestPages(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		if os.Getenv("ODIN_REQUIRE_BROWSER") != "" {
			t.Fatal("Chromium is not installed (Debian: apt-get install chromium)")
		}
		t.Skip("note: the pages of the documents were not opened: Chromium is not installed")
	}
	opened := 0
	for _, d := range all(t, c) {
		for _, f := range d.fences {
			if f.lang != "html" {
				continue
			}
			shown, err := openPage(t, c, browser, f.text)
			if err != nil {
				t.Error(d.bad(f.line, "the page: %v", err))
			} else if !holeless.MatchString(shown) {
				t.Error(d.bad(f.line, "the page shows:\n%s", shown))
			}
			opened++
		}
	}
	if opened == 0 {
		t.Error("no document shows a page")
	}
}

// openPage shows a page that connects to localhost:8080 to a browser, with a gateway
// of its own in that place, and returns what it shows after a while.
func openPage(t *testing.T, c *checker, browser, text string) (string, error) {
	t.Helper()
	shown := make(chan string, 1)
	page := httptest.NewUnstartedServer(nil)
	g := startGateway(t, c, "--demo", "--allow-origin", "http://"+page.Listener.Addr().String())
	page.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
			select {
			case shown <- string(b):
			default:
			}
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, strings.ReplaceAll(text, "localhost:8080", g.addr)+reports)
	})
	page.Start()
	defer page.Close()

	log := &syncBuffer{}
	// Not t.TempDir: the browser makes a socket there, whose path may have 107 bytes.
	dir, err := os.MkdirTemp("", "odin-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := exec.Command(browser,
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--user-data-dir="+dir, page.URL)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "TMPDIR="+dir) // killed, it leaves its socket there
	// Its helpers share its process group and end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		page.CloseClientConnections()
	}()
	select {
	case s := <-shown:
		return s, nil
	case <-time.After(2 * time.Minute):
		return "", fmt.Errorf("nothing was shown in two minutes; the browser says:\n%s", log)
	}
}
