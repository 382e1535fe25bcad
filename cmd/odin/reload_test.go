package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway"
)

// reloaded is a gateway whose configuration file a test changes.
type reloaded struct {
	*running
	t    *testing.T
	file string
}

// startReloaded starts serve with a file.
func startReloaded(t *testing.T, text string, args ...string) *reloaded {
	t.Helper()
	file := writeFile(t, "odin.yaml", text)
	return &reloaded{startServe(t, append([]string{"--config", file}, args...)...), t, file}
}

// write exchanges the file, as an editor or Kubernetes does.
func (r *reloaded) write(text string) {
	r.t.Helper()
	replaceFile(r.t, r.file, text)
}

func replaceFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// hup signals this process and waits until serve has acted on it; it reports whether
// the configuration was taken.
func (r *reloaded) hup() bool {
	r.t.Helper()
	was := r.stats()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	var now gateway.Stats
	r.eventually("the signal to be heard", func() bool {
		now = r.stats()
		return now.ConfigReloads+now.ConfigReloadFailed > was.ConfigReloads+was.ConfigReloadFailed
	})
	return now.ConfigReloads > was.ConfigReloads
}

// change writes the file and has it taken.
func (r *reloaded) change(text string) {
	r.t.Helper()
	r.write(text)
	if !r.hup() {
		r.t.Fatalf("%q was not taken:\n%s", text, r.log)
	}
}

func (r *reloaded) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("timed out waiting for %s:\n%s", what, r.log)
		}
	}
}

func (r *reloaded) stats() (s gateway.Stats) {
	r.t.Helper()
	res, err := http.Get("http://" + r.admin + "/stats")
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// visitor is a client of it.
type visitor struct {
	*websocket.Conn
	r     *reloaded
	hello struct {
		Replay int
		MaxCh  int `json:"max_ch"`
		Rate   struct {
			Burst  int
			PerSec int `json:"per_sec"`
		}
	}
}

// try connects; without a visitor the status says why.
func (r *reloaded) try(header ...string) (*visitor, int) {
	r.t.Helper()
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		opts.HTTPHeader.Set(header[i], header[i+1])
	}
	c, res, err := websocket.Dial(r.t.Context(), "ws://"+r.addr+"/ws", opts)
	if err != nil {
		if res == nil {
			r.t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	r.t.Cleanup(func() { _ = c.CloseNow() })
	v := &visitor{Conn: c, r: r}
	first, code := v.next()
	if code == 0 {
		if err := json.Unmarshal([]byte(first), &v.hello); err != nil || !strings.Contains(first, `"hello"`) {
			r.t.Fatal(first, err)
		}
		return v, http.StatusSwitchingProtocols
	}
	return nil, int(code)
}

func (r *reloaded) visit(header ...string) *visitor {
	r.t.Helper()
	v, status := r.try(header...)
	if v == nil {
		r.t.Fatalf("refused with %d", status)
	}
	return v
}

func (r *reloaded) wantRefused(status int, header ...string) {
	r.t.Helper()
	if v, got := r.try(header...); v != nil || got != status {
		r.t.Errorf("%d, want %d", got, status)
	}
}

// next is the next frame, or the code the connection was closed with.
func (v *visitor) next() (string, websocket.StatusCode) {
	v.r.t.Helper()
	ctx, cancel := context.WithTimeout(v.r.t.Context(), 20*time.Second)
	defer cancel()
	_, b, err := v.Read(ctx)
	if err != nil {
		code := websocket.CloseStatus(err)
		if code < 0 {
			v.r.t.Fatalf("%v\n%s", err, v.r.log)
		}
		return "", code
	}
	return string(b), 0
}

// want reads on until a frame has all of the texts in it.
func (v *visitor) want(texts ...string) string {
	v.r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		f, code := v.next()
		if code != 0 {
			v.r.t.Fatalf("closed with %d, want %q", code, texts)
		}
		if time.Now().After(deadline) { // others may come for ever
			v.r.t.Fatalf("no frame with %q, the last is %s", texts, f)
		}
		all := true
		for _, text := range texts {
			all = all && strings.Contains(f, text)
		}
		if all {
			return f
		}
	}
}

func (v *visitor) wantClose(want websocket.StatusCode) {
	v.r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		f, code := v.next()
		if time.Now().After(deadline) {
			v.r.t.Fatalf("not closed, want %d; the last frame is %s", want, f)
		}
		if code == want {
			return
		} else if code != 0 {
			v.r.t.Fatalf("closed with %d, want %d", code, want)
		}
	}
}

func (v *visitor) say(format string, args ...any) {
	v.r.t.Helper()
	if err := v.Write(v.r.t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		v.r.t.Fatal(err)
	}
}

// well reports that a connection is still there and served.
func (v *visitor) well() {
	v.r.t.Helper()
	v.say(`{"op":"ping","id":77}`)
	v.want(`"pong"`)
}

// publish stores a message; it returns the status.
func (r *reloaded) publish(path, body, key string) int {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, "http://"+r.admin+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

// reloads has for every setting that SIGHUP takes over what can be seen of a change,
// there and back, from outside.
var reloads = map[string]func(*testing.T){
	"max-connections": func(t *testing.T) {
		r := startReloaded(t, "max_connections: 3")
		all := []*visitor{r.visit(), r.visit(), r.visit()}
		r.change("max_connections: 1")
		for _, v := range all {
			v.well()
		}
		r.wantRefused(503)
		if s := r.stats(); s.MaxConnections != 1 || s.CurrentConnections != 3 {
			t.Errorf("%d of %d", s.CurrentConnections, s.MaxConnections)
		}
		for _, v := range all[:2] {
			_ = v.CloseNow()
		}
		r.eventually("two to have left", func() bool { return r.stats().CurrentConnections == 1 })
		r.wantRefused(503) // the one is all there may be
		_ = all[2].CloseNow()
		r.eventually("all to have left", func() bool { return r.stats().CurrentConnections == 0 })
		r.visit()
		r.change("max_connections: 3")
		r.visit()
		r.visit()
		r.wantRefused(503)
	},
	"memory-limit": func(t *testing.T) {
		r := startReloaded(t, "memory_limit: 200MiB")
		most := r.stats().MaxConnections
		r.change("memory_limit: 160MiB")
		less := r.stats()
		if less.MaxConnections >= most || less.MaxConnections < 100 {
			t.Errorf("%d in 160 MiB, %d in 200", less.MaxConnections, most)
		}
		r.eventually("the watch to hold against it", func() bool { return r.stats().MemoryLimitBytes == 160<<20 })
		r.change("memory_limit: 200MiB")
		r.eventually("the watch to hold against that", func() bool { return r.stats().MemoryLimitBytes == 200<<20 })
		if n := r.stats().MaxConnections; n != most {
			t.Errorf("%d, first %d", n, most)
		}
	},
	"backlog": func(t *testing.T) {
		r := startReloaded(t, "backlog: 16MiB")
		for _, mib := range []int64{32, 8} {
			r.change(fmt.Sprintf("backlog: %dMiB", mib))
			if b := r.stats().BacklogBudget; b != mib<<20 {
				t.Errorf("%d MiB: %d", mib, b)
			}
		}
	},
	"replay": func(t *testing.T) {
		r := startReloaded(t, "replay: 10")
		for _, n := range []int{30, 5} {
			r.change(fmt.Sprintf("replay: %d", n))
			if h := r.visit().hello; h.Replay != n {
				t.Errorf("%+v, want %d", h, n)
			}
		}
	},
	"max-subscriptions": func(t *testing.T) {
		r := startReloaded(t, "max_subscriptions: 3")
		old := r.visit()
		old.say(`{"op":"sub","id":1,"ch":["a","b","c"]}`)
		old.want(`"id":1`)
		r.change("max_subscriptions: 2")
		if h := r.visit().hello; h.MaxCh != 2 {
			t.Errorf("%+v", h)
		}
		old.say(`{"op":"sub","id":2,"ch":["d"]}`)
		old.want(`"id":2`, `"rej":{"d":"limit"}`)
		if r.publish("/v1/publish", `{"ch":"c","data":1}`, "") != 200 {
			t.Error("not published")
		}
		old.want(`"msg"`, `"ch":"c"`) // what it has it keeps
		r.change("max_subscriptions: 4")
		old.say(`{"op":"sub","id":3,"ch":["d"]}`)
		if f := old.want(`"id":3`); strings.Contains(f, "rej") {
			t.Error(f)
		}
	},
	"max-message": func(t *testing.T) {
		r := startReloaded(t, "max_message: 64KiB")
		old, pad := r.visit(), strings.Repeat(" ", 300)
		old.say(`{"op":"ping","id":1}%s`, pad)
		old.want(`"pong"`)
		r.change("max_message: 200")
		old.say(`{"op":"ping","id":1}%s`, pad)
		old.wantClose(1009)
		r.change("max_message: 1MiB")
		long := r.visit()
		long.say(`{"op":"ping","id":1}%s`, strings.Repeat(" ", 100<<10))
		long.want(`"pong"`)
	},
	"send-queue":   func(t *testing.T) { testSlow(t, "send_queue: 1000000", "send_queue: 4", "slow_timeout: 1h") },
	"slow-timeout": func(t *testing.T) { testSlow(t, "slow_timeout: 1h", "slow_timeout: 200ms", "send_queue: 1000000") },
	"stale-after": func(t *testing.T) {
		r := startReloaded(t, "")
		v := r.visit()
		v.say(`{"op":"sub","id":1,"ch":["a","b"]}`)
		v.want(`"id":1`)
		r.publish("/v1/publish", `{"ch":"a","data":1}`, "")
		v.want(`"msg"`)
		r.change("stale_after: a=100ms")
		v.want(`"stale"`, `"ch":"a"`)
		r.change("stale_after: b=100ms")
		r.publish("/v1/publish", `{"ch":"a","data":1}`, "")
		v.want(`"live"`, `"ch":"a"`)
		if f := v.want(`"stale"`); !strings.Contains(f, `"b"`) {
			t.Error(f)
		}
	},
	"rate-burst": func(t *testing.T) {
		r := startReloaded(t, "rate_burst: 5\nrate_per_sec: 1")
		old := r.visit()
		r.change("rate_burst: 2\nrate_per_sec: 1")
		if h := r.visit().hello; h.Rate.Burst != 2 {
			t.Errorf("%+v", h)
		}
		for range 4 {
			old.say(`{"op":"ping","id":1}`)
		}
		old.want(`"rate_limited"`)
		r.change("rate_burst: 50\nrate_per_sec: 1")
		lucky := r.visit()
		for range 50 {
			lucky.say(`{"op":"ping","id":1}`)
		}
		for range 50 {
			if f, _ := lucky.next(); !strings.Contains(f, `"pong"`) {
				t.Fatal(f)
			}
		}
	},
	"rate-per-sec": func(t *testing.T) {
		r := startReloaded(t, "rate_burst: 2\nrate_per_sec: 1")
		old := r.visit()
		old.say(`{"op":"ping","id":1}`)
		old.want(`"pong"`)
		old.say(`{"op":"ping","id":1}`)
		old.want(`"pong"`)
		r.change("rate_burst: 2\nrate_per_sec: 1000")
		if h := r.visit().hello; h.Rate.PerSec != 1000 {
			t.Errorf("%+v", h)
		}
		r.eventually("its bucket to be full", func() bool {
			time.Sleep(200 * time.Millisecond) // too many refusals would cut it
			old.say(`{"op":"ping","id":1}`)
			f, _ := old.next()
			return strings.Contains(f, `"pong"`)
		})
		r.change("rate_burst: 2\nrate_per_sec: 1")
		for range 4 {
			old.say(`{"op":"ping","id":1}`)
		}
		old.want(`"rate_limited"`)
	},
	"publish-rate": func(t *testing.T) {
		r := startReloaded(t, "")
		batch := "[" + strings.Repeat(`{"ch":"a","data":1},`, 999) + `{"ch":"a","data":1}]`
		status := func() (last int) {
			for range 25 { // a full batch is let through at once, whatever the rate
				if last = r.publish("/v1/publish/batch", batch, ""); last != 200 {
					return last
				}
			}
			return last
		}
		if s := status(); s != 200 {
			t.Fatal(s)
		}
		r.change("publish_rate: 1")
		if s := status(); s != 429 {
			t.Errorf("at 1 a second: %d", s)
		}
		r.change("publish_rate: 0")
		if s := status(); s != 200 {
			t.Errorf("without a bound: %d", s)
		}
	},
	"heartbeat": func(t *testing.T) {
		r := startReloaded(t, "heartbeat: 1h")
		v := r.visit()
		r.change("heartbeat: 100ms")
		v.want(`"hb"`)
		r.change("heartbeat: 1h")
		late := r.visit()
		late.say(`{"op":"ping","id":1}`)
		if f, _ := late.next(); !strings.Contains(f, `"pong"`) {
			t.Error(f)
		}
	},
	"max-age": func(t *testing.T) {
		r := startReloaded(t, "max_age: 1h")
		v := r.visit()
		r.change("max_age: 100ms")
		v.want(`"bye"`)
		v.wantClose(1012)
		r.change("max_age: 0s")
		r.visit().well()
	},
	"ip-connections": func(t *testing.T) {
		r := startReloaded(t, "")
		before := r.visit()
		r.change("ip_connections: 2")
		r.visit()
		counted := r.visit() // the one before is not counted
		r.wantRefused(429)
		r.change("ip_connections: 3")
		r.visit()
		r.wantRefused(429)
		r.change("ip_connections: 0")
		r.visit()
		before.well()
		counted.well()
	},
	"ip-rate": func(t *testing.T) {
		r := startReloaded(t, "ip_rate: 1000")
		for range 5 {
			r.visit()
		}
		r.change("ip_rate: 1")
		refused := false
		for range 5 {
			_, status := r.try()
			refused = refused || status == 429
		}
		if !refused {
			t.Error("five at once were let in at 1 a second")
		}
		r.change("ip_rate: 0")
		for range 5 {
			r.visit()
		}
	},
	"reject": func(t *testing.T) {
		r := startReloaded(t, "max_connections: 1")
		r.visit()
		r.wantRefused(503)
		r.change("max_connections: 1\nreject: ws")
		r.wantRefused(1013)
		r.change("max_connections: 1\nreject: http")
		r.wantRefused(503)
	},
	"drain": func(t *testing.T) {
		for _, c := range []struct{ was, is string }{{"1h", "0s"}, {"0s", "2s"}} {
			file := writeFile(t, "odin.yaml", "drain: "+c.was)
			r := &reloaded{startServeAs(t, "--config", file), t, file}
			v := r.visit()
			r.change("drain: " + c.is)
			go r.stop()
			v.wantClose(1012)
			if code := r.stop(); code != 0 || !strings.Contains(r.log.String(), "msg=Draining for="+c.is) {
				t.Errorf("%s to %s: code %d\n%s", c.was, c.is, code, r.log)
			}
		}
	},
	"allow-origin": func(t *testing.T) {
		r := startReloaded(t, "")
		r.wantRefused(403, "Origin", "https://app.example")
		r.change("allow_origin: [https://app.example]")
		old := r.visit("Origin", "https://app.example")
		r.change("allow_origin: [https://other.example]")
		r.wantRefused(403, "Origin", "https://app.example")
		r.visit("Origin", "https://other.example")
		old.well()
	},
	"trusted-proxy": func(t *testing.T) {
		r := startReloaded(t, "ip_connections: 1")
		r.visit()
		r.wantRefused(429, "X-Forwarded-For", "192.0.2.1")
		r.change("ip_connections: 1\ntrusted_proxy: 127.0.0.0/8")
		r.visit("X-Forwarded-For", "192.0.2.1")
		r.wantRefused(429, "X-Forwarded-For", "192.0.2.1")
		r.visit("X-Forwarded-For", "192.0.2.2")
		r.change("ip_connections: 1")
		r.wantRefused(429, "X-Forwarded-For", "192.0.2.3")
	},
	"log-level": func(t *testing.T) {
		r := startReloaded(t, "log_level: info")
		r.change("log_level: error")
		quiet := len(r.log.String())
		r.change("log_level: error\nreplay: 7")
		if more := r.log.String()[quiet:]; more != "" {
			t.Errorf("logged at error: %s", more)
		}
		r.change("log_level: debug")
		if !strings.Contains(r.log.String(), `key=log_level was=error is=debug`) {
			t.Errorf("log:\n%s", r.log)
		}
	},
	"token-key-file": func(t *testing.T) {
		first, second := writeFile(t, "one", testSecret), writeFile(t, "two", "another secret, as long as that one is")
		r := startReloaded(t, "token_audience: odin\ntoken_key_file: "+first)
		one := testToken(t, jwt.SigningMethodHS256, []byte(testSecret), nil)
		two := testToken(t, jwt.SigningMethodHS256, []byte("another secret, as long as that one is"), nil)
		old := r.visitAs(one)
		r.wantRefused(401, "Authorization", "Bearer "+two)
		r.change("token_audience: odin\ntoken_key_file: [" + first + ", " + second + "]")
		r.visitAs(one)
		r.visitAs(two)
		r.change("token_audience: odin\ntoken_key_file: " + second)
		r.wantRefused(401, "Authorization", "Bearer "+one)
		r.visitAs(two)
		old.well() // its token was good, and has not ended
		// The same file with another key in it.
		replaceFile(t, second, testSecret)
		if !r.hup() {
			t.Fatal("not taken")
		}
		r.visitAs(one)
		r.wantRefused(401, "Authorization", "Bearer "+two)
		if strings.Contains(r.log.String(), testSecret) {
			t.Error("a secret was logged")
		}
	},
	"jwks": func(t *testing.T) {
		set := func(secret string) string {
			return fmt.Sprintf(`{"keys":[{"kty":"oct","alg":"HS256","kid":"k","k":%q}]}`, b64(secret))
		}
		a, b := writeFile(t, "a.json", set(testSecret)), writeFile(t, "b.json", set("another secret, as long as that one is"))
		r := startReloaded(t, "token_audience: odin\njwks: "+a)
		one := testToken(t, jwt.SigningMethodHS256, []byte(testSecret), nil)
		r.visitAs(one)
		r.change("token_audience: odin\njwks: " + b)
		r.wantRefused(401, "Authorization", "Bearer "+one)
		r.change("token_audience: odin\njwks: [" + a + "," + b + "]")
		r.visitAs(one)
		r.change("token_audience: odin\njwks: [" + a + ", 'http://geheim:geheim@127.0.0.1:1/keys?key=geheim']")
		if log := r.log.String(); strings.Contains(log, "geheim") || !strings.Contains(log, "is="+a+",http://127.0.0.1:1/keys from=") {
			t.Errorf("log:\n%s", log)
		}
	},
	"token-issuer":   func(t *testing.T) { testClaim(t, "token_issuer", "https://id.example", "https://other.example") },
	"token-audience": func(t *testing.T) { testClaim(t, "token_audience", "odin", "tyr") },
	"token-read": func(t *testing.T) {
		key := "token_key_file: " + writeFile(t, "key", testSecret)
		r := startReloaded(t, key)
		plain := testToken(t, jwt.SigningMethodHS256, []byte(testSecret), func(c jwt.MapClaims) { delete(c, "channels") })
		old := r.visitAs(plain)
		old.say(`{"op":"sub","id":1,"ch":["a.b"]}`)
		old.want(`"id":1`, "forbidden")
		r.change(key + "\ntoken_read: a.*")
		v := r.visitAs(plain)
		v.say(`{"op":"sub","id":1,"ch":["a.b"]}`)
		if f := v.want(`"id":1`); strings.Contains(f, "rej") {
			t.Error(f)
		}
		r.change(key)
		v = r.visitAs(plain)
		v.say(`{"op":"sub","id":1,"ch":["a.b"]}`)
		v.want(`"id":1`, "forbidden")
	},
	"anonymous-read": func(t *testing.T) {
		key := "token_key_file: " + writeFile(t, "key", testSecret)
		r := startReloaded(t, key)
		r.wantRefused(401)
		r.change(key + "\nanonymous_read: [public.*, news.*]")
		v := r.visit()
		v.say(`{"op":"sub","id":1,"ch":["public.a","news.*"]}`)
		v.want(`"id":1`)
		known := r.visitAs(testToken(t, jwt.SigningMethodHS256, []byte(testSecret), nil))
		known.say(`{"op":"sub","id":1,"ch":["trade.a","news.a"]}`)
		known.want(`"id":1`)
		r.change(key + "\nanonymous_read: public.*")
		v.want(`"forbidden"`, `"news.*"`)
		known.want(`"forbidden"`, `"news.a"`)
		v.well()
		r.change(key)
		v.wantClose(4001)
		known.well()
		r.wantRefused(401)
	},
	"revoked": func(t *testing.T) {
		key := "token_key_file: " + writeFile(t, "key", testSecret)
		none, ann := writeFile(t, "none", ""), writeFile(t, "ann", "sub ann\n")
		token := testToken(t, jwt.SigningMethodHS256, []byte(testSecret), nil)
		r := startReloaded(t, key+"\nrevoked: "+none)
		v := r.visitAs(token)
		r.change(key + "\nrevoked: " + ann)
		v.wantClose(4001)
		r.wantRefused(401, "Authorization", "Bearer "+token)
		r.change(key)
		r.visitAs(token)
	},
	"publish-key-file": func(t *testing.T) {
		key := func() (secret, file string) {
			var k struct{ Key, Line string }
			if err := json.Unmarshal([]byte(odin(t, nil, "", "key", "new", "k", "--channels", "*", "--json").out), &k); err != nil {
				t.Fatal(err)
			}
			return k.Key, writeFile(t, "keys", k.Line+"\n")
		}
		one, first := key()
		two, second := key()
		r := startReloaded(t, "publish_key_file: "+first)
		for _, now := range []struct{ good, bad, file string }{{one, two, first}, {two, one, second}, {one, two, first}} {
			r.change("publish_key_file: " + now.file)
			if s := r.publish("/v1/publish", `{"ch":"a","data":1}`, now.good); s != 200 {
				t.Errorf("its key: %d", s)
			}
			if s := r.publish("/v1/publish", `{"ch":"a","data":1}`, now.bad); s != 401 {
				t.Errorf("the other: %d", s)
			}
		}
	},
	"tls-cert": testCertificateFiles,
	"tls-key":  testCertificateFiles,
}

// visitAs connects with a token.
func (r *reloaded) visitAs(token string) *visitor {
	r.t.Helper()
	return r.visit("Authorization", "Bearer "+token)
}

func b64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// testSlow: who reads nothing is let be under one setting, and cut when it becomes the
// other; the other way round it is let be again.
func testSlow(t *testing.T, mild, strict, with string) {
	r := startReloaded(t, mild+"\n"+with)
	lazy := func() net.Conn {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.(*net.TCPConn).SetReadBuffer(2048)
		fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", r.addr)
		command := `{"op":"sub","id":1,"ch":["a"]}`
		_, _ = c.Write(append([]byte{0x81, 0x80 | byte(len(command)), 0, 0, 0, 0}, command...))
		return c
	}
	batch := "[" + strings.TrimSuffix(strings.Repeat(`{"ch":"a","data":"`+strings.Repeat("x", 4000)+`"},`, 100), ",") + "]"
	flood := func() {
		t.Helper()
		if s := r.publish("/v1/publish/batch", batch, ""); s != 200 {
			t.Fatal(s)
		}
	}
	lazy()
	r.eventually("it to follow", func() bool { return r.stats().Subscriptions == 1 })
	flood()
	ticks := r.stats().UptimeSeconds
	r.eventually("time for four looks at it", func() bool { return r.stats().UptimeSeconds > ticks+1 })
	if s := r.stats(); s.SlowClientsDisconnected != 0 || s.CurrentConnections != 1 {
		t.Fatalf("cut under %s: %+v", mild, s)
	}
	r.change(strict + "\n" + with)
	r.eventually("it to be cut", func() bool {
		if strings.HasPrefix(strict, "send_queue") {
			flood() // it falls behind further, and is looked at again
		}
		return r.stats().SlowClientsDisconnected == 1
	})
	r.change(mild + "\n" + with)
	lazy()
	r.eventually("another to follow", func() bool { return r.stats().Subscriptions == 1 })
	flood()
	ticks = r.stats().UptimeSeconds
	r.eventually("time for looks at it", func() bool { return r.stats().UptimeSeconds > ticks+1 })
	if s := r.stats(); s.SlowClientsDisconnected != 1 {
		t.Errorf("cut under %s again", mild)
	}
}

// testClaim: tokens of one issuer, or for one audience, are taken, and then another's.
func testClaim(t *testing.T, key, is, other string) {
	secret := "token_key_file: " + writeFile(t, "key", testSecret) + "\n"
	r := startReloaded(t, secret+key+": "+is)
	token := testToken(t, jwt.SigningMethodHS256, []byte(testSecret), nil)
	old := r.visitAs(token)
	r.change(secret + key + ": " + other)
	r.wantRefused(401, "Authorization", "Bearer "+token)
	old.well()
	r.change(secret + key + ": [" + other + ", " + is + "]")
	r.visitAs(token)
}

// testCertificateFiles: another pair of files is served from then on.
func testCertificateFiles(t *testing.T) {
	cert, key := certificateFiles(t, time.Hour)
	cert2, key2 := certificateFiles(t, 2*time.Hour)
	settings := func(cert, key string) string { return "tls_cert: " + cert + "\ntls_key: " + key }
	r := startReloaded(t, settings(cert, key))
	believes := func(file string) bool {
		pem, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		c, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: roots, ServerName: "localhost"})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	for _, now := range []struct{ cert, key, other string }{{cert, key, cert2}, {cert2, key2, cert}, {cert, key, cert2}} {
		r.change(settings(now.cert, now.key))
		if !believes(now.cert) || believes(now.other) {
			t.Errorf("not the certificate of %s", now.cert)
		}
	}
	if n := r.stats().TLS.CertificatesTaken; n != 2 { // the first of the three was in use
		t.Errorf("%d certificates taken", n)
	}
	r.write(settings(cert, key2))
	if r.hup() || !believes(cert) {
		t.Errorf("a pair that is none was taken:\n%s", r.log)
	}
}

// Every setting that can be taken over has its test, and each passes.
func TestReloadEachSetting(t *testing.T) {
	for _, s := range newServeConfig().settings() {
		test := reloads[s.flag]
		if (s.live != "") != (test != nil) || s.live != "" && s.live != liveAll && s.live != liveNew {
			t.Errorf("--%s is live %q, and tested: %v", s.flag, s.live, test != nil)
		}
		if test != nil {
			t.Run(s.flag, test)
		}
	}
}

// What is wrong changes nothing, and is logged with its place and counted.
func TestReloadRefuses(t *testing.T) {
	good := "rate_burst: 7\nmax_connections: 5"
	r := startReloaded(t, good)
	loaded := r.stats().ConfigLoadedAt
	for _, c := range []struct{ text, want string }{
		{"rate_burst: 9\nmax_conections: 6", `odin.yaml:2: unknown key \"max_conections\"; did you mean max_connections?`},
		{"rate_burst: 9\nping: soon", "odin.yaml:2: ping: want a duration"},
		{"rate_burst: 9\nrate_burst: 8", "odin.yaml:2: rate_burst was already given on line 1"},
		{"rate_burst: 9\n\tx: 1", "odin.yaml:2: "},
		{"rate_burst: 0", "odin.yaml:1: rate_burst is 0; it must be at least 1"},
		{"rate_burst: 9\nmax_message: 100", "odin.yaml:2: max_message is 100; it must be at least 125"},
		{"rate_burst: 9\nmemory_limit: 10MiB", "memory"},
		{"rate_burst: 9\nanonymous_read: a.*", "odin.yaml:2: anonymous_read restricts nobody"},
		{"rate_burst: 9\ntls_cert: x", "a certificate and its key go together"},
	} {
		r.write(c.text)
		was := len(r.log.String())
		if r.hup() {
			t.Errorf("%q was taken", c.text)
		}
		if said := r.log.String()[was:]; !strings.Contains(said, c.want) || !strings.Contains(said, "nothing was changed") || !strings.Contains(said, "odin config check ") {
			t.Errorf("%q: the log says %s, want %s", c.text, said, c.want)
		}
		if v := r.visit(); v.hello.Rate.Burst != 7 {
			t.Errorf("%q: %+v", c.text, v.hello)
		} else {
			_ = v.CloseNow()
		}
	}
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	if r.hup() || !strings.Contains(r.log.String(), "no such file") {
		t.Errorf("a file that is gone:\n%s", r.log)
	}
	if s := r.stats(); s.ConfigReloads != 0 || s.ConfigReloadFailed != 10 || s.ConfigLoadedAt != loaded {
		t.Errorf("%d taken, %d failed, at %d", s.ConfigReloads, s.ConfigReloadFailed, s.ConfigLoadedAt)
	}
	r.change(good)
	if s := r.stats(); s.ConfigReloads != 1 || s.ConfigLoadedAt <= loaded {
		t.Errorf("%d taken, at %d", s.ConfigReloads, s.ConfigLoadedAt)
	}
}

// What only a restart takes over is named, and the rest of the file taken; flags and
// environment go before it as ever.
func TestReloadNamesWhatStays(t *testing.T) {
	r := startReloaded(t, "rate_burst: 5", "--rate-per-sec", "3")
	r.change("rate_burst: 6\nrate_per_sec: 9\naddr: :1\nnats_url: nats://u:geheim@h:4222\nnode: other\ntoken_key_file: /none\npublish_key_file: /none\n" +
		"tls_cert: /none\ntls_key: /none\nanonymous_read: a.*")
	v := r.visit() // no token, no TLS
	if v.hello.Rate.Burst != 6 || v.hello.Rate.PerSec != 3 {
		t.Errorf("%+v", v.hello)
	}
	log := r.log.String()
	for _, key := range []string{"nats_url", "node", "token_key_file", "publish_key_file", "tls_cert", "tls_key", "anonymous_read"} {
		if !strings.Contains(log, "only a restart takes over\" key="+key+" ") {
			t.Errorf("%s is not named:\n%s", key, log)
		}
	}
	if !strings.Contains(log, "key=rate_burst was=5 is=6 from="+r.file+":1") || strings.Contains(log, "key=rate_per_sec") || strings.Contains(log, "key=addr") || strings.Contains(log, "geheim") {
		t.Errorf("log:\n%s", log)
	}
	// The same again: nothing is new, and they are named again.
	was := len(log)
	if !r.hup() {
		t.Fatal("not taken")
	}
	if said := r.log.String()[was:]; strings.Contains(said, "A setting has changed\"") || !strings.Contains(said, "changed=0 need_restart=7") {
		t.Errorf("the second time: %s", said)
	}
}

// Changes to and fro while clients come, go, read and are published to: none is cut,
// and nothing is lost.
func TestReloadUnderLoad(t *testing.T) {
	key := "token_key_file: " + writeFile(t, "key", testSecret) + "\n"
	one := key + "anonymous_read: [stress.*, other.*]\nmax_connections: 300\nreplay: 100\n"
	two := key + "anonymous_read: stress.*\nmax_connections: 40\nrate_burst: 90\nmax_message: 32KiB\nsend_queue: 500\nreplay: 20\nip_connections: 100000\n" +
		"max_subscriptions: 50\nslow_timeout: 9s\nmemory_limit: 300MiB\nstale_after: x.*=1s\nbacklog: 20MiB\nallow_origin: https://a.example\nlog_level: debug\n"
	r := startReloaded(t, one, "--log-level", "info")
	done := make(chan result, 1)
	go func() {
		done <- odin(t, nil, "", "stress", "--url", "ws://"+r.addr+"/ws", "--admin-addr", r.admin, "--connections", "60", "--duration", "5s",
			"--publish-rate", "100", "--check", "--allow", "http_503", "--processes", "1")
	}()
	r.eventually("clients to be there", func() bool { return r.stats().CurrentConnections >= 30 })
	for n := 0; ; n++ {
		select {
		case s := <-done:
			if s.code != 0 || !strings.Contains(s.out, ": no difference\n") || !strings.Contains(s.out, "\nEnded early: {}\n") {
				t.Errorf("stress after %d changes: %+v", n, s)
			}
			if n < 10 {
				t.Errorf("only %d changes", n)
			}
			return
		default:
			r.change([]string{two, one}[n%2])
		}
	}
}

// A memory limit that is set does not lift the one that the gateway has followed down.
func TestReloadKeepsToTheLimitFollowed(t *testing.T) {
	l, err := loadLayers("", []string{"ODIN_MEMORY_LIMIT=210MiB", "ODIN_SHARDS=1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := l.capacity(1, slog.New(slog.DiscardHandler), capacity.TLSNone)
	if err != nil {
		t.Fatal(err)
	}
	r := &reloader{ownLimit: true}
	most := func() int {
		t.Helper()
		now, err := r.fits(sum)
		if err != nil {
			t.Fatal(err)
		}
		return now.Max
	}
	if n := most(); n != sum.Max {
		t.Errorf("%d, want %d", n, sum.Max)
	}
	follow := r.recompute(sum)
	less, _, err := follow(capacity.Limit{Bytes: 205 << 20, Source: "cgroup"})
	if n := most(); err != nil || less >= sum.Max || n != less {
		t.Errorf("%d under 205 MiB, followed to %d, without %d, %v", n, less, sum.Max, err)
	}
	if _, _, err := follow(capacity.Limit{Bytes: 100 << 20, Source: "cgroup"}); err == nil {
		t.Error("100 MiB hold something")
	}
	if _, err := r.fits(sum); err == nil {
		t.Error("they hold it after a reload")
	}
	if _, _, err := follow(capacity.Limit{Bytes: 210 << 20, Source: "set"}); err != nil || most() != sum.Max {
		t.Errorf("%d under 210 MiB again, %v", most(), err)
	}
}

// A SIGHUP that comes while it stops, or has stopped and not ended yet, does not make its
// end another.
func TestHangupWhileStopping(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := process(ctx, "serve", "--addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--data-dir", t.TempDir())
	var log lockedBuffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(log.String(), "Odin is up") && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	done := make(chan error, 1)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%v\n%s", err, log.String())
			}
			return
		default:
			_ = cmd.Process.Signal(syscall.SIGHUP) // fails when it has gone
		}
	}
}
