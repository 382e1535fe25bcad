package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) // ants keeps a default pool from its init on
}

// result is what a command left behind.
type result struct {
	code     int
	out, err string
}

// odin runs a command line as main does, with an environment of its own.
func odin(t *testing.T, environ []string, stdin string, args ...string) result {
	t.Helper()
	return odinContext(t.Context(), environ, stdin, args...)
}

func odinContext(ctx context.Context, environ []string, stdin string, args ...string) result {
	var out, errs bytes.Buffer
	code := run(ctx, args, environ, strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Wrong use is exit code 2, says what is wrong, and leaves stdout alone.
func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args, env string
		want      string
	}{
		{"publsh", "", `unknown command "publsh"` + "\nDid you mean publish?"},
		{"feed reply x", "", `unknown command "reply"` + "\nDid you mean replay?"},
		{"serve --nope", "", "unknown flag: --nope\nDid you mean --node? See 'odin serve --help'."},
		{"serve extra", "", `too many arguments: ["extra"]`},
		{"serve --ping 20", "", `invalid argument "20" for "--ping" flag: want a duration`},
		{"serve --capacity-profile fast", "", "want one of event-loop, goroutine"},
		{"serve --log-format xml", "", "want one of text, json"},
		{"serve --memory-limit 12QB", "", "unknown unit"},
		{"serve --max-connections -1", "", "want a whole number"},
		{"serve --trusted-proxy ten", "", "want an address range such as 10.0.0.0/8"},
		{"serve --addr 8080", "", `--addr: want HOST:PORT or :PORT, not "8080"`},
		{"serve --config /none/odin.yaml", "", "configuration file: open /none/odin.yaml"},
		{"serve --memory-limit 1MiB", "", "leaves nothing beyond the overhead"},
		{"serve", "ODIN_MAX_CONECTIONS=1", "unknown setting ODIN_MAX_CONECTIONS; did you mean ODIN_MAX_CONNECTIONS?"},
		{"serve", "ODIN_PING=soon", "ODIN_PING: want a duration"},
		{"serve --nats-url nats://u:secret@ --nats-listen :1", "", "--nats-listen: belongs to the embedded server"},
		{"config print", "ODIN_TLS_CERTS=x", "unknown setting ODIN_TLS_CERTS"},
		{"publish", "", "too few arguments\nUsage: odin publish CHANNEL JSON"},
		{"publish a.b", "", "no message"},
		{"publish a..b {}", "", `channel "a..b"`},
		{"publish a.b {x}", "", "the message is not JSON"},
		{"publish --key k -", "", "--key is for one message"},
		{"publish --admin-addr x --nats-url y a {}", "", "give one"},
		{"publish --admin-addr 8081 a {}", "", "--admin-addr: want HOST:PORT"},
		{"feed synth --rate 0", "", "want more than 0"},
		{"feed replay --speed -1 /dev/null", "", "--speed -1"},
		{"feed replay --loop -", "", "--loop needs a file"},
		{"feed synth", "ODIN_LIMIT=many", "ODIN_LIMIT: want a whole number"},
		{"tail", "", "too few arguments"},
		{"tail a..b", "", `channel "a..b"`},
		{"tail --since 5 a", "", "want EPOCH:SEQ"},
		{"tail --ms 5 a", "", "--ms belongs to --mode latest"},
		{"tail --mode some a", "", "want all or latest"},
		{"tail --snap --since e:1 a", "", "give one"},
		{"tail --url ftp://x a", "", "--url: want ws://HOST:PORT"},
		{"health --url ://", "", "--url"},
	} {
		t.Run(c.args, func(t *testing.T) {
			var environ []string
			if c.env != "" {
				environ = []string{c.env}
			}
			r := odin(t, environ, "", strings.Fields(c.args)...)
			if r.code != exitUsage || !strings.Contains(r.err, c.want) || !strings.HasPrefix(r.err, "odin: ") || r.out != "" {
				t.Errorf("code %d, stderr %q, stdout %q; want code 2 and %q", r.code, r.err, r.out, c.want)
			}
			if strings.Contains(r.err, "secret") {
				t.Error("a password was shown")
			}
		})
	}
}

// Every command has help that says what it does and how it is called.
func TestHelp(t *testing.T) {
	for _, c := range []string{
		"", "serve", "publish", "feed", "feed replay", "feed synth", "tail",
		"config", "config print", "config check", "health", "version", "completion",
	} {
		r := odin(t, nil, "", append(strings.Fields(c), "--help")...)
		if r.code != exitOK || !strings.Contains(r.out, "Usage:\n  odin") || r.err != "" {
			t.Errorf("odin %s --help: code %d\n%s%s", c, r.code, r.out, r.err)
		}
	}
	for _, c := range []string{"", "config", "feed"} { // groups say it by themselves
		if r := odin(t, nil, "", strings.Fields(c)...); r.code != exitOK || !strings.Contains(r.out, "Available Commands") {
			t.Errorf("odin %s: code %d\n%s%s", c, r.code, r.out, r.err)
		}
	}
	if r := odin(t, nil, "", "completion", "bash"); r.code != exitOK || !strings.Contains(r.out, "bash completion") {
		t.Errorf("completion: %+v", r)
	}
}

func TestVersion(t *testing.T) {
	version = "v1.2.3"
	t.Cleanup(func() { version = "" })
	if r := odin(t, nil, "", "version"); r.code != 0 || !strings.HasPrefix(r.out, "odin v1.2.3") || !strings.Contains(r.out, "go1.") {
		t.Errorf("%+v", r)
	}
	var b buildInfo
	r := odin(t, nil, "", "version", "--json")
	if err := json.Unmarshal([]byte(r.out), &b); err != nil || b.Version != "v1.2.3" || b.Platform == "" {
		t.Errorf("%+v: %v", r, err)
	}
	version = ""
	if r := odin(t, nil, "", "version"); !strings.HasPrefix(r.out, "odin ") || strings.Contains(r.out, "odin ,") {
		t.Errorf("without -ldflags: %+v", r)
	}
}

func TestHealth(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			_, _ = w.Write([]byte("ok\n"))
			return
		}
		http.Error(w, "draining", http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	defer http.DefaultClient.CloseIdleConnections()
	ws := "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws"
	for _, c := range []struct {
		args []string
		env  []string
		code int
		out  string
		err  string
	}{
		{args: []string{"--url", srv.URL}, out: "ok\n"},
		{args: []string{"--url", ws}, out: "ok\n"},
		{env: []string{"ODIN_URL=" + ws}, out: "ok\n"},
		{args: []string{"--url", srv.URL, "--ready"}, code: 1, err: "answered 503: draining"},
		{args: []string{"--url", srv.URL, "--ready", "--json"}, code: 1, out: `"ok":false,"status":503`},
		{args: []string{"--url", "127.0.0.1:1"}, code: 1, err: "connection refused"},
	} {
		r := odin(t, c.env, "", append([]string{"health"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.out, c.out) || !strings.Contains(r.err, c.err) {
			t.Errorf("%v: %+v", c.args, r)
		}
	}
}
