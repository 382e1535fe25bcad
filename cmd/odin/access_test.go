package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const testSecret = "a secret of thirty-two bytes, or more"

// testToken is a token for trade.* that a key signs.
func testToken(t *testing.T, method jwt.SigningMethod, key any, change func(jwt.MapClaims)) string {
	t.Helper()
	c := jwt.MapClaims{"sub": "ann", "aud": "odin", "iss": "https://id.example", "exp": time.Now().Add(time.Hour).Unix(), "channels": []string{"trade.*"}}
	if change != nil {
		change(c)
	}
	token, err := jwt.NewWithClaims(method, c).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A gateway with keys, and every command that needs one: typed, from a file, from
// the environment. No secret is in the log or in what a command says.
func TestServeWithKeys(t *testing.T) {
	dir := t.TempDir()
	feedKey := filepath.Join(dir, "feed.key")
	k := odin(t, nil, "", "key", "new", "feed-1", "--channels", "trade.*", "--out", feedKey)
	ops := odin(t, nil, "", "key", "new", "ops", "--role", "admin", "--json")
	var admin struct{ Key, Line string }
	if err := json.Unmarshal([]byte(ops.out), &admin); k.code != 0 || err != nil || admin.Key == "" {
		t.Fatalf("%+v, %+v", k, ops)
	}
	secret, err := os.ReadFile(feedKey)
	if err != nil {
		t.Fatal(err)
	}
	feed := strings.TrimSpace(string(secret))
	if info, _ := os.Stat(feedKey); info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file is %v", info.Mode())
	}
	if again := odin(t, nil, "", "key", "new", "feed-1", "--channels", "*", "--out", feedKey); again.code != 1 {
		t.Errorf("a key's file is written over: %+v", again)
	}
	token := testToken(t, jwt.SigningMethodHS256, []byte(testSecret), nil)
	tokenFile := writeFile(t, "token", token+"\n")
	r := startServe(t, "--token-key-file", writeFile(t, "secret", testSecret+"\n"), "--token-audience", "odin",
		"--anonymous-read", "public.*", "--publish-key-file", writeFile(t, "keys", k.out+admin.Line+"\n"), "--log-level", "debug")

	var said bytes.Buffer
	do := func(want int, contains string, environ []string, args ...string) {
		t.Helper()
		got := odin(t, environ, "", args...)
		said.WriteString(got.out + got.err)
		if got.code != want || !strings.Contains(got.out+got.err, contains) {
			t.Errorf("%.60q: %+v, want code %d and %q", args, got, want, contains)
		}
	}
	publish := func(ch string, more ...string) []string {
		return append([]string{"publish", "--admin-addr", r.admin, ch, `{"x":1}`}, more...)
	}
	do(1, "--api-key-file", nil, publish("trade.a")...)
	do(1, "unauthorized", nil, publish("trade.a", "--api-key", "odin_wrong")...)
	do(0, `"seq":1`, nil, publish("trade.a", "--api-key", feed)...)
	do(0, `"seq":2`, nil, publish("trade.a", "--api-key-file", feedKey)...)
	do(0, `"seq":3`, []string{"ODIN_API_KEY=" + feed}, publish("trade.a")...)
	do(0, `"seq":4`, []string{"ODIN_API_KEY_FILE=" + feedKey}, publish("trade.a")...)
	do(0, `"seq":5`, []string{"ODIN_API_KEY=odin_other"}, publish("trade.a", "--api-key-file", feedKey)...)
	do(1, "forbidden", nil, publish("book.a", "--api-key-file", feedKey)...)
	do(2, "give one", nil, publish("trade.a", "--api-key-file", feedKey, "--api-key", feed)...)
	do(2, "no such file", nil, publish("trade.a", "--api-key-file", filepath.Join(dir, "none"))...)
	do(1, "forbidden", []string{"ODIN_API_KEY=" + admin.Key}, "feed", "synth", "--admin-addr", r.admin, "--limit", "3", "--speed", "0") // an admin without channels

	tail := func(ch string, more ...string) []string {
		return append([]string{"tail", "--url", "ws://" + r.addr + "/ws", "--snap", "--count", "1", "--duration", "3s", ch}, more...)
	}
	do(0, `"seq":5`, nil, tail("trade.a", "--token", token)...)
	do(0, `"seq":5`, nil, tail("trade.a", "--token-file", tokenFile)...)
	do(0, `"seq":5`, []string{"ODIN_TOKEN=" + token}, tail("trade.a")...)
	do(1, "forbidden", nil, tail("book.a", "--token-file", tokenFile)...)
	do(1, "unauthorized", nil, tail("trade.a")...)
	do(1, "401", nil, tail("trade.a", "--token", testToken(t, jwt.SigningMethodHS256, []byte(testSecret), func(c jwt.MapClaims) { c["aud"] = "x" }))...)
	do(0, "3/3 connections", nil, "stress", "--url", "ws://"+r.addr+"/ws", "--connections", "3", "--duration", "1s", "--channel", "trade.a", "--token-file", tokenFile)
	do(1, `"http_401": 3`, nil, "stress", "--url", "ws://"+r.addr+"/ws", "--connections", "3", "--duration", "1s", "--channel", "trade.a", "--token", "wrong", "--expect", "3")

	for _, want := range []string{"Readers need a token", "The admin port needs an API key", "a token was refused", "an API key was refused"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if code := r.stop(); code != 0 {
		t.Errorf("serve ended with %d: %s", code, r.log)
	}
	said.WriteString(r.log.String() + r.out.String())
	for _, s := range []string{testSecret, feed, admin.Key, strings.Split(token, ".")[1], strings.Split(token, ".")[2], "odin_wrong", "odin_other"} {
		if strings.Contains(said.String(), s) {
			t.Errorf("a secret was said or logged: %s", said.String())
			break
		}
	}
}

// Where keys may come from, and what is said of those that can't be used.
func TestAccessSettings(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	secret, certs := writeFile(t, "secret", testSecret), writeFile(t, "public.pem", public)
	hmac, ec := testToken(t, jwt.SigningMethodHS256, []byte(testSecret), nil), testToken(t, jwt.SigningMethodES256, private, nil)
	made := odin(t, nil, "", "key", "new", "x", "--channels", "*")
	key, line := strings.Split(made.out, "\n")[1], strings.Split(made.out, "\n")[3]
	for _, c := range []struct {
		name      string
		args, env []string
		tokens    bool   // are needed
		hmac, ec  bool   // such a token is let in
		key       bool   // the API key is taken
		wrong     string // what is said
		early     bool   // by loadSettings
	}{
		{name: "nothing"},
		{name: "secret", args: []string{"--token-key-file", secret}, tokens: true, hmac: true},
		{name: "both", args: []string{"--token-key-file", secret, "--token-key-file", "ES256:" + certs}, tokens: true, hmac: true, ec: true},
		{name: "secret in the environment", env: []string{"ODIN_TOKEN_KEY=" + testSecret}, tokens: true, hmac: true},
		{name: "PEM in the environment", env: []string{"ODIN_TOKEN_KEY=" + public}, tokens: true, ec: true},
		{name: "files in the environment", env: []string{"ODIN_TOKEN_KEY_FILE=" + secret + "," + certs}, tokens: true, hmac: true, ec: true},
		{name: "another issuer", args: []string{"--token-key-file", secret, "--token-issuer", "https://other"}, tokens: true},
		{name: "the issuer", args: []string{"--token-key-file", secret, "--token-issuer", "https://other,https://id.example"}, tokens: true, hmac: true},
		{name: "keys in the environment", env: []string{"ODIN_PUBLISH_KEYS=# mine\n" + line}, key: true},
		{name: "keys away from home", args: []string{"--admin-addr", ":8081"}, env: []string{"ODIN_PUBLISH_KEYS=" + line}, key: true},
		{name: "keys in a file", args: []string{"--admin-addr", "10.0.0.1:8081", "--publish-key-file", writeFile(t, "keys", line)}, key: true},

		{name: "no keys away from home", args: []string{"--admin-addr", ":8081"}, wrong: "give --publish-key-file", early: true},
		{name: "an empty secret", env: []string{"ODIN_TOKEN_KEY= "}, wrong: "ODIN_TOKEN_KEY is empty", early: true},
		{name: "no lines", env: []string{"ODIN_PUBLISH_KEYS="}, wrong: "ODIN_PUBLISH_KEYS is empty", early: true},
		{name: "bad pattern", args: []string{"--token-key-file", secret}, env: []string{"ODIN_ANONYMOUS_READ=a>"}, wrong: "ODIN_ANONYMOUS_READ", early: true},
		{name: "bad set", env: []string{"ODIN_JWKS=ftp://x/y"}, wrong: "ODIN_JWKS", early: true},
		{name: "patterns without keys", args: []string{"--anonymous-read", "public.*"}, wrong: "--anonymous-read restricts nobody"},
		{name: "revocations without keys", env: []string{"ODIN_REVOKED=/r"}, wrong: "ODIN_REVOKED restricts nobody"},
		{name: "no such file", args: []string{"--token-key-file", "/none"}, wrong: "/none"},
		{name: "a secret for RSA", args: []string{"--token-key-file", "RS256:" + secret}, wrong: "secret"},
		{name: "PEM as a secret", args: []string{"--token-key-file", "HS256:" + certs}, wrong: "no algorithm"},
		{name: "short in the environment", env: []string{"ODIN_TOKEN_KEY=hunter2"}, wrong: "ODIN_TOKEN_KEY: the secret has 7 bytes"},
		{name: "an API key and no line", env: []string{"ODIN_PUBLISH_KEYS=" + key}, wrong: "ODIN_PUBLISH_KEYS: line 1: want NAME"},
		{name: "keys twice", args: []string{"--publish-key-file", "/p"}, env: []string{"ODIN_PUBLISH_KEYS=" + line}, wrong: "give one"},
		{name: "no such keys", args: []string{"--publish-key-file", "/none"}, wrong: "/none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := load(t, c.args, c.env)
			if c.early || err != nil {
				if err == nil || !c.early || !strings.Contains(err.Error(), c.wrong) {
					t.Fatalf("%v, want %q", err, c.wrong)
				}
				return
			}
			if l == nil {
				t.Fatal("no settings")
			}
			a, err := l.access(slog.New(slog.NewTextHandler(io.Discard, nil)))
			if err != nil {
				if c.wrong == "" || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), testSecret) || strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("%v, want %q", err, c.wrong)
				}
				return
			}
			defer a.close()
			if c.wrong != "" || (a.tokens != nil) != c.tokens || (a.keys != nil && a.keys.Find(key) != nil) != c.key {
				t.Fatalf("tokens %v, keys %v, want %+v", a.tokens, a.keys, c)
			}
			for token, want := range map[string]bool{hmac: c.hmac, ec: c.ec} {
				if a.tokens == nil {
					break
				}
				if s, why := a.tokens.Verify(token); (s.Grant != nil) != want {
					t.Errorf("%v, want %v", why, want)
				}
			}
		})
	}
}

func TestKeyNewRefuses(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "too few"}, {[]string{"feed"}, "--channels"}, {[]string{"two words", "--channels", "a"}, "one word"},
		{[]string{"feed", "--channels", "a>"}, "is no pattern"}, {[]string{"feed", "--role", "root", "--channels", "a"}, "publish, metrics or admin"},
		{[]string{"prometheus", "--role", "metrics", "--channels", "a"}, "has no channels"},
	} {
		if r := odin(t, nil, "", append([]string{"key", "new"}, c.args...)...); r.code != exitUsage || !strings.Contains(r.err, c.want) || r.out != "" {
			t.Errorf("%q: %+v, want %q", c.args, r, c.want)
		}
	}
}

// config print shows where secrets are, not what they are.
func TestConfigPrintHidesSecrets(t *testing.T) {
	environ := []string{"ODIN_TOKEN_KEY=" + testSecret, "ODIN_JWKS=https://u:hunter2@id.example/jwks", "ODIN_PUBLISH_KEY_FILE=/etc/odin/keys", "ODIN_API_KEY=odin_x", "ODIN_TOKEN=t0ken"}
	for _, args := range [][]string{{"config", "print"}, {"config", "print", "--json"}} {
		r := odin(t, environ, "", args...)
		if r.code != 0 || !strings.Contains(r.out, "/etc/odin/keys") || !strings.Contains(r.out, "id.example/jwks") {
			t.Errorf("%+v", r)
		}
		for _, s := range []string{testSecret, "hunter2", "odin_x", "t0ken"} {
			if strings.Contains(r.out, s) {
				t.Errorf("%q is shown: %s", s, r.out)
			}
		}
	}
}

// A file whose keys are in the environment is checked with them.
func TestConfigCheckWithKeys(t *testing.T) {
	file := writeFile(t, "odin.yaml", "admin_addr: :8081\n")
	made := odin(t, nil, "", "key", "new", "x", "--channels", "*")
	line := strings.Split(made.out, "\n")[3]
	if r := odin(t, nil, "", "config", "check", file); r.code != exitUsage {
		t.Errorf("without keys: %+v", r)
	}
	if r := odin(t, []string{"ODIN_PUBLISH_KEYS=" + line, "ODIN_PING=nonsense"}, "", "config", "check", file); r.code != 0 {
		t.Errorf("with them: %+v", r)
	}
	if r := odin(t, []string{"ODIN_PUBLISH_KEYS="}, "", "config", "check", writeFile(t, "b.yaml", "ping: 20s\n")); r.code != exitUsage {
		t.Errorf("empty: %+v", r)
	}
}

// Beside keys, a NATS port that all can reach is said to be one without.
func TestNATSPortBesideKeys(t *testing.T) {
	secret := writeFile(t, "secret", testSecret)
	for listen, want := range map[string]bool{":4222": true, "10.0.0.1:4222": true, "127.0.0.1:4222": false, "[::1]:4222": false, "localhost:4222": false, "": false} {
		for _, keyed := range []bool{true, false} {
			args := []string{"--nats-listen", listen}
			if keyed {
				args = append(args, "--token-key-file", secret)
			}
			l, err := load(t, args, nil)
			if err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			log := slog.New(slog.NewTextHandler(&said, nil))
			a, err := l.access(log)
			if err != nil {
				t.Fatal(err)
			}
			a.say(l, log)
			a.close()
			if got := strings.Contains(said.String(), "The NATS port"); got != (want && keyed) {
				t.Errorf("%q, keys %v: %s", listen, keyed, &said)
			}
		}
	}
}

// Who a URL is for is not shown, in whatever form it is given; and what is no
// secret is.
func TestRedactURL(t *testing.T) {
	for text, want := range map[string]string{
		"nats://a:4222":                        "nats://a:4222",
		"nats://s3cret@a:4222":                 "nats://xxxxx@a:4222",
		"nats://ann:s3cret@a:4222, nats://b:1": "nats://xxxxx@a:4222, nats://b:1",
		"https://s3cret@id.example/jwks":       "https://xxxxx@id.example/jwks",
		"nats://ann:s3,cret@a:4222":            "xxxxx@a:4222",
		"nats://ann:s3cret%zz@a:4222":          "xxxxx@a:4222",
		"nats://ann:s3/cret@a:4222":            "xxxxx@a:4222",
		"s3cret@a:4222":                        "xxxxx@a:4222",
		"s3cret@a":                             "xxxxx@a",
		"ann:s3cret@a":                         "xxxxx@a",
		":8080":                                ":8080",
		"/etc/odin@1/keys,ES256:/etc/x@2":      "/etc/odin@1/keys,ES256:/etc/x@2",
		"trade.*=5s,*=1m":                      "trade.*=5s,*=1m",
		"10.0.0.0/8,::1/128":                   "10.0.0.0/8,::1/128",
	} {
		if got := redactURL(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	for _, bad := range []string{"s3cret@a:4222", "nats://ann:s3,cret@a:4222", "nats://ann:s3cret%zz@a:4222", "to/s3cret@a"} {
		if _, err := load(t, nil, []string{"ODIN_NATS_URL=" + bad}); err == nil || strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"nats://ann:s3,cret@127.0.0.1:1", "nats://ann:s3cret%zz@127.0.0.1:1", "nats://s3cret@127.0.0.1:1"} {
		if r := odin(t, nil, "", "publish", "--nats-url", bad, "a", "1"); r.code == 0 || strings.Contains(r.err, "s3") || strings.Contains(r.err, "cret") {
			t.Errorf("%q: %+v", bad, r)
		}
	}
}
