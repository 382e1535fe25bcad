package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// load reads settings as serve does.
func load(t *testing.T, args, environ []string) (*loaded, error) {
	t.Helper()
	cmd := &cobra.Command{}
	addServeFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return loadSettings(cmd.Flags(), environ)
}

// Flag > environment > file > default, for each kind of value.
func TestPrecedence(t *testing.T) {
	file := writeFile(t, "odin.yaml", `
addr: ":1"
max_connections: 1
retention: 1MiB
ping: 1s
echo: false
log_level: debug
allow_origin: [https://file.example, https://file2.example]
`)
	environ := []string{
		"ODIN_ADDR=:2", "ODIN_MAX_CONNECTIONS=2", "ODIN_RETENTION=2MB", "ODIN_PING=2s", "ODIN_ECHO=yes",
		"ODIN_LOG_LEVEL=warn", "ODIN_ALLOW_ORIGIN=https://env.example,https://env2.example", "ODIN_CONFIG=" + file,
	}
	flags := []string{
		"--addr=:3", "--max-connections=3", "--retention=3M", "--ping=3s", "--echo=false",
		"--log-level=error", "--allow-origin=https://flag.example", "--allow-origin=https://flag2.example",
	}
	type values struct {
		addr   word
		max    count
		keep   size
		ping   span
		echo   toggle
		level  string
		origin []string
	}
	for _, c := range []struct {
		name         string
		flags, env   []string
		want         values
		from, fromEx string // of ping, and of replay, which is never given
	}{
		{"default", nil, nil, values{":8080", 0, 256 << 20, span(20 * time.Second), false, "info", nil}, "default", "default"},
		{"file", []string{"--config", file}, nil, values{":1", 1, 1 << 20, span(time.Second), false, "debug", []string{"https://file.example", "https://file2.example"}}, file + ":5", "default"},
		{"environment", nil, environ, values{":2", 2, 2 << 20, span(2 * time.Second), true, "warn", []string{"https://env.example", "https://env2.example"}}, "env ODIN_PING", "default"},
		{"flag", flags, environ, values{":3", 3, 3 << 20, span(3 * time.Second), false, "error", []string{"https://flag.example", "https://flag2.example"}}, "flag --ping", "default"},
		{"flag without file", flags, nil, values{":3", 3, 3 << 20, span(3 * time.Second), false, "error", []string{"https://flag.example", "https://flag2.example"}}, "flag --ping", "default"},
		{"flag over file", []string{"--config", file, "--ping", "9s"}, nil, values{":1", 1, 1 << 20, span(9 * time.Second), false, "debug", []string{"https://file.example", "https://file2.example"}}, "flag --ping", "default"},
		{"empty variable", []string{"--config", file}, []string{"ODIN_PING=", "ODIN_ADDR="}, values{":1", 1, 1 << 20, span(time.Second), false, "debug", []string{"https://file.example", "https://file2.example"}}, file + ":5", "default"},
		{"empty flag", []string{"--config", file, "--allow-origin", ""}, nil, values{":1", 1, 1 << 20, span(time.Second), false, "debug", nil}, file + ":5", "default"},
		{"flag names another file", []string{"--config", writeFile(t, "b.yaml", "ping: 7s")}, []string{"ODIN_CONFIG=" + file}, values{":8080", 0, 256 << 20, span(7 * time.Second), false, "info", nil}, "", "default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := load(t, c.flags, c.env)
			if err != nil {
				t.Fatal(err)
			}
			got := values{l.Addr, l.MaxConnections, l.Retention, l.Ping, l.Echo, l.LogLevel.word, l.AllowOrigin.items}
			if len(got.origin) == 0 {
				got.origin = nil
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if c.from != "" && l.origin["ping"] != c.from || l.origin["replay"] != c.fromEx {
				t.Errorf("ping from %q, replay from %q, want %q, %q", l.origin["ping"], l.origin["replay"], c.from, c.fromEx)
			}
		})
	}
}

// Every setting can be given in each of the three ways, under the names the
// rule gives it.
func TestEveryName(t *testing.T) {
	samples := map[string]string{
		"addr": ":9", "admin-addr": "127.0.0.1:9", "nats-url": "nats://h:4222", "nats-listen": ":4222",
		"capacity-profile": "goroutine", "log-level": "warn", "log-format": "json",
		"reject": "ws", "trusted-proxy": "10.0.0.0/8", "stale-after": "t.*=5s", "allow-origin": "https://a.example", "echo": "true", "compression": "true", "demo": "true",
		"token-key-file": "PS256:/k", "jwks": "https://h/jwks", "token-issuer": "https://i", "token-audience": "a", "token-read": "t.*",
		"anonymous-read": "p.*", "revoked": "/r", "publish-key-file": "/p",
		"tls-kernel": "auto", "data-dir": "/d", "nats-config": "/n.conf", "node": "n1",
	}
	for _, s := range newServeConfig().settings() {
		sample := samples[s.flag]
		switch s.value.(type) {
		case *size, *budget:
			sample = "3MiB"
		case *span:
			sample = "3s"
		case *count:
			sample = "3"
		}
		if strings.HasPrefix(s.flag, "tls-") && s.flag != "tls-kernel" {
			continue // not one without the other: TestTLSPair
		}
		if sample == "" {
			t.Fatalf("no sample for --%s", s.flag)
		}
		file := writeFile(t, "one.yaml", s.key()+": "+sample)
		for _, way := range []struct {
			name       string
			flags, env []string
		}{
			{"flag", []string{"--" + s.flag + "=" + sample}, nil},
			{"environment", nil, []string{envName(s.flag) + "=" + sample}},
			{"file", []string{"--config=" + file}, nil},
		} {
			l, err := load(t, way.flags, way.env)
			if err != nil {
				t.Errorf("%s by %s: %v", s.flag, way.name, err)
				continue
			}
			for _, got := range l.settings() {
				if got.flag == s.flag && got.value.String() != sample {
					t.Errorf("%s by %s: %q, want %q", s.flag, way.name, got.value, sample)
				}
				if from := l.origin[got.key()]; (got.flag == s.flag) == (from == "default") {
					t.Errorf("%s by %s: %s is from %q", s.flag, way.name, got.flag, from)
				}
			}
		}
	}
}

func TestFileErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "addr: :1\n\nmax_conections: 5\n", `odin.yaml:3: unknown key "max_conections"; did you mean max_connections?`},
		{"flag's name", "max-connections: 5\n", `odin.yaml:1: unknown key "max-connections"; did you mean max_connections?`},
		{"nothing near", "zzzzzzzzzz: 5\n", `odin.yaml:1: unknown key "zzzzzzzzzz"`},
		{"case", "Addr: :1\n", `unknown key "Addr"; did you mean addr?`},
		{"nested", "server:\n  addr: :1\n", `odin.yaml:1: unknown key "server"`},
		{"mapping as value", "addr:\n  host: a\n", "odin.yaml:1: addr: want one value"},
		{"list as value", "\nping: [1s]\n", "odin.yaml:2: ping: want one value"},
		{"list of lists", "allow_origin: [[a]]\n", "want a list of plain values"},
		{"no value", "ping:\n", "odin.yaml:1: ping has no value"},
		{"bad value", "replay: 1\nping: 20\n", `odin.yaml:2: ping: want a duration such as 5s or 1m30s, not "20"`},
		{"bad size", "retention: lots\n", "odin.yaml:1: retention: "},
		{"below the least", "retention: 1\nping: 1ms\n", "odin.yaml:2: ping is 1ms; it must be at least 100ms"},
		{"twice", "ping: 1s\nping: 2s\n", "odin.yaml:2: ping was already given on line 1"},
		{"no mapping", "- a\n", "odin.yaml:1: want settings as key: value"},
		{"two documents", "ping: 1s\n---\nping: 2s\n", "more than one YAML document"},
		{"no YAML", "a: b: c\n", "odin.yaml:1: mapping values"},
		{"tab", "ping: 1s\n\tx: 1\n", "odin.yaml:2: found a tab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := writeFile(t, "odin.yaml", c.text)
			r := odin(t, nil, "", "config", "check", path)
			if r.code != exitUsage || !strings.Contains(r.err, c.want) {
				t.Errorf("code %d, %q; want %q", r.code, r.err, c.want)
			}
		})
	}
	for _, text := range []string{"", "# comments\n# alone\n", "{}\n", "---\nping: 1s\n", "allow_origin: https://one.example\n", "replay: 1_000\n", "ping: &x 1s\nslow_timeout: *x\n"} {
		if r := odin(t, nil, "", "config", "check", writeFile(t, "odin.yaml", text)); r.code != exitOK || !strings.HasSuffix(r.out, "odin.yaml: ok\n") {
			t.Errorf("%q: %+v", text, r)
		}
	}
}

func TestConfigPrint(t *testing.T) {
	file := writeFile(t, "odin.yaml", "nats_url: nats://u:secret@h:4222\nmax_age: 1h\n")
	args := []string{"config", "print", "--config", file, "--max-connections=7"}
	environ := []string{"ODIN_ALLOW_ORIGIN=https://a.example, https://b.example"}
	r := odin(t, environ, "", args...)
	if r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	for _, want := range []string{
		`addr: ":8080"                            # default`,
		`nats_url: "nats://xxxxx@h:4222"          # ` + file + ":1",
		`max_age: 1h                              # ` + file + ":2",
		`max_connections: 7                       # flag --max-connections`,
		`allow_origin: ["https://a.example", "https://b.example"] # env ODIN_ALLOW_ORIGIN`,
		`memory_limit: ""                         # default`,
	} {
		if !slices.Contains(strings.Split(r.out, "\n"), want) {
			t.Errorf("no line %q in\n%s", want, r.out)
		}
	}
	if r := odin(t, nil, "", "config", "check", writeFile(t, "again.yaml", r.out)); r.code != exitOK {
		t.Errorf("what print printed is refused: %+v", r)
	}

	var all map[string]struct {
		Value any
		From  string
	}
	r = odin(t, environ, "", append(args, "--json")...)
	if err := json.Unmarshal([]byte(r.out), &all); err != nil {
		t.Fatal(err)
	}
	if all["max_connections"].Value != 7.0 || all["max_connections"].From != "flag --max-connections" || all["echo"].Value != false {
		t.Errorf("%+v", all)
	}
	if strings.Contains(r.out, "secret") {
		t.Error("a password was shown")
	}
}

// The printed defaults are accepted, change nothing, and say every name.
func TestConfigPrintDefaults(t *testing.T) {
	r := odin(t, []string{"ODIN_PING=9s"}, "", "config", "print", "--defaults")
	path := writeFile(t, "odin.yaml", r.out)
	if c := odin(t, nil, "", "config", "check", path); c.code != exitOK {
		t.Fatalf("%+v", c)
	}
	l, err := loadLayers(path, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := newServeConfig().settings()
	for i, s := range l.settings() {
		if s.value.String() != want[i].value.String() {
			t.Errorf("%s: %q, want %q", s.flag, s.value, want[i].value)
		}
		if !strings.Contains(r.out, "--"+s.flag+", environment "+s.env()+"\n") {
			t.Errorf("--%s and %s are not told", s.flag, s.env())
		}
	}
}

// A Service called odin puts names like ours into every pod of its namespace.
func TestForeignEnvironment(t *testing.T) {
	root := newRoot(nil)
	for kv, ok := range map[string]bool{
		"ODIN_SERVICE_HOST=10.0.0.1": true, "ODIN_SERVICE_PORT=8080": true, "ODIN_SERVICE_PORT_HTTP=8080": true,
		"ODIN_PORT=tcp://10.0.0.1:8080": true, "ODIN_PORT_8080_TCP=tcp://10.0.0.1:8080": true,
		"ODIN_PORT_8080_TCP_ADDR=10.0.0.1": true, "ODIN_ADMIN_SERVICE_HOST=10.0.0.2": true,
		"ODIN_TESTDATA=/x": true, "ODIN_TOKEN=t": true, "ODIN_API_KEY=k": true, "ODIN_SYMBOLS=3": true,
		"ODIN=1": true, "ODINSON=1": true, "ODIN_MAX_CONNECTIONS=1": true,
		"ODIN_PORT=8080": false, "ODIN_": false, "ODIN_HELP_ME=1": false, "ODIN_TLS_KEYS=x": false,
	} {
		if err := checkEnv(root, []string{kv}); (err == nil) != ok {
			t.Errorf("%s: %v", kv, err)
		}
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		value  pflagSetter
		in     string
		want   string // "" with bad
		broken bool
	}{
		{new(size), "512MiB", "512MiB", false},
		{new(size), "180KB", "180KiB", false},
		{new(size), "1024", "1KiB", false},
		{new(size), "1536", "1536B", false},
		{new(size), "1.5GiB", "1536MiB", false},
		{new(size), "", "", false},
		{new(size), "0", "", true},
		{new(size), "-1MB", "", true},
		{new(size), "1XB", "", true},
		{new(span), "90s", "1m30s", false},
		{new(span), "60m", "1h", false},
		{new(span), "0", "0s", false},
		{new(span), "-1s", "", true},
		{new(span), "5", "", true},
		{new(count), "5", "5", false},
		{new(count), "5.5", "", true},
		{new(count), "-5", "", true},
		{new(toggle), "on", "true", false},
		{new(toggle), "No", "false", false},
		{new(toggle), "maybe", "", true},
		{new(list), "a, b,,c ", "a,b,c", false},
		{&list{check: checkPrefix}, "10.1.2.3/8,::1", "10.1.2.3/8,::1", false},
		{&list{check: checkPrefix}, "10.0.0.0/33", "", true},
	} {
		err := c.value.Set(c.in)
		if (err != nil) != c.broken || err == nil && c.value.String() != c.want {
			t.Errorf("%T %q: %q, %v; want %q", c.value, c.in, c.value, err, c.want)
		}
	}
}

type pflagSetter interface {
	Set(string) error
	String() string
}

func FuzzConfigYAML(f *testing.F) {
	var b bytes.Buffer
	if err := writeYAML(&b, newServeConfig(), true, func(setting) string { return "" }); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("addr: :1\nallow_origin: [a, b]\n"))
	f.Add([]byte("ping: &a 1s\nslow_timeout: *a\n"))
	f.Add([]byte("max_conections: 5\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Add([]byte("<<: {addr: :1}\n"))
	for _, text := range []string{
		"max_connections: 0x10\nreplay: 1_000\nsend_queue: 1e3\n", "retention: 1.5GiB\nmax_message: 65536\n", "ping: 90\n", "drain: 1m30s\n",
		"echo: yes\ndemo: \"false\"\n", "node: 'it''s'\nlog_level: |\n  info\n", "stale_after: [\"trade.*=5s\", '*=1m']\n", "trusted_proxy: 10.0.0.0/8\n",
		"nats_url: nats://u:p@a:4222,nats://b:4222\n", "addr: :1\naddr: :2\n", "addr: [a]\n", "--- 1\n--- 2\n", "addr: !!binary gIGC\n", "a: &a [*a]\n", "\t", "%YAML 1.2\n---\naddr: :1\n",
	} {
		f.Add([]byte(text))
	}
	path := f.TempDir() + "/odin.yaml"
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := loadLayers(path, nil, nil)
		if err != nil {
			var usage usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), "odin.yaml") && !strings.Contains(err.Error(), "--") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		// What was accepted comes back from its own printed form.
		var out bytes.Buffer
		if err := writeYAML(&out, l.serveConfig, false, func(setting) string { return "" }); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := loadLayers(path, nil, nil)
		if err != nil {
			t.Fatalf("%q was accepted, but not as it prints: %v\n%s", text, err, out.Bytes())
		}
		was := l.settings()
		for i, s := range again.settings() {
			if want := redactURL(was[i].value.String()); s.value.String() != want {
				t.Fatalf("%q: %s is %q, and %q as it prints", text, s.key(), want, s.value.String())
			}
		}
	})
}

// A certificate and its key come together, from wherever.
func TestTLSPair(t *testing.T) {
	for _, c := range []struct {
		flags, env []string
		ok         bool
	}{
		{[]string{"--tls-cert=c"}, nil, false},
		{nil, []string{"ODIN_TLS_KEY=k"}, false},
		{[]string{"--tls-cert=c"}, []string{"ODIN_TLS_KEY=k"}, true},
		{[]string{"--config", writeFile(t, "tls.yaml", "tls_cert: c\ntls_key: k\ntls_kernel: auto")}, nil, true},
	} {
		l, err := load(t, c.flags, c.env)
		if (err == nil) != c.ok {
			t.Errorf("%v %v: %v", c.flags, c.env, err)
		}
		if c.ok && (l.TLSCert != "c" || l.TLSKey != "k") {
			t.Errorf("%v %v: %q, %q", c.flags, c.env, l.TLSCert, l.TLSKey)
		}
	}
}

// Check reads the files that a configuration names, too, and names the setting that is
// at fault; with --no-files it does not.
func TestConfigCheckFiles(t *testing.T) {
	secret, set := writeFile(t, "secret", testSecret), writeFile(t, "set.json", `{"keys":[{"kty":"oct","alg":"HS256","k":"`+b64(testSecret)+`"}]}`)
	odd := writeFile(t, "odd", "what is this?\n")
	cert, key := certificateFiles(t, time.Hour)
	line := odin(t, nil, "", "key", "new", "ops", "--role", "admin", "--out", t.TempDir()+"/k").out
	good := "token_key_file: " + secret + "\njwks: " + set + "\nrevoked: " + writeFile(t, "revoked", "sub ann\n") +
		"\npublish_key_file: " + writeFile(t, "keys", line) + "\ntls_cert: " + cert + "\ntls_key: " + key + "\n"
	if r := odin(t, nil, "", "config", "check", writeFile(t, "odin.yaml", good)); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	for _, c := range []struct{ was, is, want string }{
		{secret, "/none", "odin.yaml:1: token_key_file: stat /none"},
		{set, odd, "odin.yaml:2: jwks: " + odd},
		{"sub ann", "", ""}, // no fault
		{"revoked: ", "revoked: " + odd + " # ", "odin.yaml:3: revoked: " + odd + ": line 1"},
		{"publish_key_file: ", "publish_key_file: " + odd + " # ", "odin.yaml:4: publish_key_file: " + odd},
		{"tls_key: ", "tls_key: /none # ", "odin.yaml:5: tls_cert: key: open /none"},
	} {
		path := writeFile(t, "odin.yaml", strings.Replace(good, c.was, c.is, 1))
		if r := odin(t, nil, "", "config", "check", path); c.want == "" && r.code != 0 || c.want != "" && (r.code != exitUsage || !strings.Contains(r.err, c.want)) {
			t.Errorf("%s for %s: %+v, want %q", c.is, c.was, r, c.want)
		}
		if r := odin(t, nil, "", "config", "check", "--no-files", path); r.code != 0 {
			t.Errorf("without files: %+v", r)
		}
		var said struct {
			OK     bool
			Errors []string
		}
		r := odin(t, nil, "", "config", "check", "--json", path)
		if err := json.Unmarshal([]byte(r.out), &said); err != nil || said.OK != (c.want == "") || (len(said.Errors) > 0) == said.OK || r.err != "" {
			t.Errorf("as JSON: %+v, %v", r, err)
		}
	}
}

// For programs: every setting once, with its names, default and reach.
func TestConfigDefaultsAsJSON(t *testing.T) {
	var all []struct{ Key, Flag, Env, Type, Reload, Usage string }
	r := odin(t, nil, "", "config", "print", "--defaults", "--json")
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || len(all) != len(newServeConfig().settings()) {
		t.Fatalf("%v: %d", err, len(all))
	}
	for _, s := range all {
		if s.Flag != "--"+strings.ReplaceAll(s.Key, "_", "-") || s.Env != envName(s.Flag[2:]) || s.Type == "" || s.Usage == "" ||
			!slices.Contains([]string{"all", "new", "restart"}, s.Reload) {
			t.Errorf("%+v", s)
		}
	}
}
