package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPrometheus lets a real Prometheus, with the configuration and the alerts of
// deploy, scrape a gateway under load with a key of its own: every query of the
// dashboard has an answer, with native histograms and with classic ones, and no rule
// fails.
func TestPrometheus(t *testing.T) {
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		needs(t, "ODIN_REQUIRE_PROMETHEUS", "Prometheus is not here (Debian: apt-get install prometheus)")
	}
	dir := t.TempDir()
	secret, keys := filepath.Join(dir, "prometheus.key"), filepath.Join(dir, "keys")
	line := run(t, odin(t), "key", "new", "prometheus", "--role", "metrics", "--out", secret)
	line += run(t, odin(t), "key", "new", "feed", "--channels", "*", "--out", filepath.Join(dir, "feed.key"))
	if err := os.WriteFile(keys, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	// Full with what comes, so that some are refused; and slow ones are seen soon.
	s := startServer(t, "--publish-key-file", keys, "--max-connections", "150", "--compression", "--send-queue", "5")
	stress := background(t, odin(t), "stress", "--url", "ws://"+s.Addr+"/ws", "--connections", "200", "--duration", "120s", "--channel", "trade.*",
		"--allow", "http_503,ECONNRESET,close_4101")
	feed := background(t, odin(t), "feed", "synth", "--symbols", "5", "--rate", "200", "--admin-addr", s.Admin, "--api-key-file", filepath.Join(dir, "feed.key"))
	defer func() { stress(); feed() }()

	config, err := os.ReadFile("../deploy/prometheus/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := filepath.Abs("../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(config)
	for old, new := range map[string]string{
		"odin:8081": s.Admin, "/keys/prometheus.key": secret, "- alerts.yml": "- " + alerts, "_interval: 15s": "_interval: 1s",
	} {
		if !strings.Contains(text, old) {
			t.Fatalf("deploy/prometheus/prometheus.yml says nothing of %q", old)
		}
		text = strings.ReplaceAll(text, old, new)
	}
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	servers := map[string]promServer{}
	for name, more := range map[string][]string{"native": {"--enable-feature=native-histograms"}, "classic": nil} {
		at := freePort(t)
		background(t, prometheus, append([]string{"--config.file", file, "--storage.tsdb.path", filepath.Join(dir, name), "--web.listen-address", at}, more...)...)
		servers[name] = promServer{t, at}
	}

	queries := dashboardQueries(t)
	for name, p := range servers {
		for _, q := range queries {
			p.untilAnswered(name, q)
		}
		var rules struct {
			Groups []struct {
				Rules []struct {
					Name, Health, LastError string
				}
			}
		}
		p.get("/api/v1/rules", &rules)
		n := 0
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				if n++; r.Health != "ok" && r.Health != "unknown" {
					t.Errorf("%s: alert %s is %s: %s", name, r.Name, r.Health, r.LastError)
				}
			}
		}
		if n < 10 {
			t.Errorf("%s: %d alerts", name, n)
		}
	}
	// One has the native histogram and not the classic, the other the classic.
	if n := servers["native"].answers("odin_delivery_seconds_bucket"); n != 0 {
		t.Errorf("with native histograms there are %d classic buckets", n)
	}
	if n := servers["classic"].answers("odin_delivery_seconds"); n != 0 {
		t.Errorf("without native histograms there are %d", n)
	}
	t.Logf("%d queries answered by both", len(queries))
}

// dashboardQueries are the expressions of the dashboard for every gateway and the last
// seconds, but those that are of what can't be here: a refusal of the kernel, TLS, a
// limit of memory where there is none, what goes wrong.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	b, err := os.ReadFile("../deploy/grafana/dashboards/odin.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			if !strings.Contains(q.Expr, "> 0)") { // nothing without TLS, or without a limit: that is what it is for
				queries = append(queries, strings.NewReplacer("$__rate_interval", "10s", "$job", ".*", "$instance", ".*").Replace(q.Expr))
			}
		}
	}
	if len(queries) < 50 {
		t.Fatalf("only %d queries", len(queries))
	}
	return queries
}

// promServer is a running Prometheus.
type promServer struct {
	t  *testing.T
	at string
}

// get decodes the data of an answer, and reports whether there was one.
func (p promServer) get(path string, data any) bool {
	p.t.Helper()
	resp, err := http.Get("http://" + p.at + path)
	if err != nil {
		return false // it is starting
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return false
	}
	if answer.Status != "success" {
		p.t.Fatalf("%s: %s", path, answer.Error)
	}
	return true
}

// answers is how many series a query gives that are numbers.
func (p promServer) answers(query string) int {
	p.t.Helper()
	var data struct {
		Result []struct {
			Value     []any
			Histogram []any
		}
	}
	if !p.get("/api/v1/query?query="+url.QueryEscape(query), &data) {
		return 0
	}
	n := 0
	for _, r := range data.Result {
		if len(r.Histogram) > 0 || len(r.Value) == 2 && r.Value[1] != "NaN" {
			n++
		}
	}
	return n
}

func (p promServer) untilAnswered(name, query string) {
	p.t.Helper()
	for deadline := time.Now().Add(45 * time.Second); p.answers(query) == 0; time.Sleep(250 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: no answer to %s", name, query)
		}
	}
}

// run runs a command and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = cleanEnv()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", filepath.Base(name), strings.Join(args, " "), err)
	}
	return string(out)
}

// background starts a command that the test's end stops, and whose output is shown when
// the test fails; stop ends it before.
func background(t *testing.T, name string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = cleanEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			text := out.String()
			t.Logf("%s: %s", filepath.Base(name), text[max(0, len(text)-3000):])
		}
	})
	return stop
}
