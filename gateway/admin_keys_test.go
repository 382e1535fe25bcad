package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/auth"
)

// made is a new API key: its secret, and its line.
func made(t testing.TB, name string, role auth.Role, patterns ...string) (secret, line string) {
	t.Helper()
	secret, line, err := auth.NewAPIKey(name, role, patterns)
	if err != nil {
		t.Fatal(err)
	}
	return secret, line
}

func keysOf(t testing.TB, lines ...string) *auth.APIKeys {
	t.Helper()
	keys, err := auth.NewAPIKeys("", []byte(strings.Join(lines, "\n")), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	return keys
}

// adminStatus is the status of a request to the admin port.
func (g *testGateway) adminStatus(key, method, path, body string) string {
	g.t.Helper()
	req, err := http.NewRequest(method, "http://"+g.AdminAddr()+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	var e struct{ Code, Message string }
	if resp.StatusCode == 401 || resp.StatusCode == 403 {
		if json.Unmarshal(text, &e) != nil || e.Code == "" || e.Message == "" {
			g.t.Errorf("%s %s: unreadable refusal %q", method, path, text)
		}
		if resp.StatusCode == 401 && resp.Header.Get("WWW-Authenticate") == "" {
			g.t.Errorf("%s %s: no WWW-Authenticate", method, path)
		}
	}
	return strconv.Itoa(resp.StatusCode)
}

// TestWhoMayDoWhat is every kind of caller at everything there is to do, with keys
// configured and without.
func TestWhoMayDoWhat(t *testing.T) {
	publisher, publisherLine := made(t, "feed", auth.RolePublish, "trade.*")
	admin, adminLine := made(t, "ops", auth.RoleAdmin, "*")
	scraper, scraperLine := made(t, "prometheus", auth.RoleMetrics)
	who := []struct{ name, credential string }{
		{"anonymous", ""},
		{"reader", mint(t, tokenSecret, claims())},
		{"expired", mint(t, tokenSecret, claims("exp", time.Now().Add(-time.Second).Unix()))},
		{"wrong audience", mint(t, tokenSecret, claims("aud", "billing"))},
		{"forged", mint(t, forger, claims())},
		{"publisher", publisher},
		{"scraper", scraper},
		{"admin", admin},
	}
	const sub, replay = `{"op":"sub","id":1,"ch":["%s"]}`, `{"op":"replay","id":1,"ch":"%s","epoch":"%s","from":1,"to":1}`
	log := new(lines)
	keyed := func(cfg *Config, change func(*auth.Config)) {
		cfg.Tokens = tokensFor(t, func(c *auth.Config) {
			c.Log = log.logger()
			if change != nil {
				change(c)
			}
		})
		cfg.APIKeys = keysOf(t, publisherLine, scraperLine, adminLine)
	}
	what := []struct {
		name string
		do   func(g *testGateway, credential string) string
	}{
		{"sub", func(g *testGateway, c string) string { return g.answerTo(c, fmt.Sprintf(sub, "trade.a")) }},
		{"sub public", func(g *testGateway, c string) string { return g.answerTo(c, fmt.Sprintf(sub, "public.a")) }},
		{"sub other", func(g *testGateway, c string) string { return g.answerTo(c, fmt.Sprintf(sub, "book.a")) }},
		{"sub other, none such", func(g *testGateway, c string) string { return g.answerTo(c, fmt.Sprintf(sub, "book.none")) }},
		{"wildcard", func(g *testGateway, c string) string { return g.answerTo(c, fmt.Sprintf(sub, "trade.*")) }},
		{"wildcard other", func(g *testGateway, c string) string { return g.answerTo(c, fmt.Sprintf(sub, "book.*")) }},
		{"replay", func(g *testGateway, c string) string {
			return g.answerTo(c, fmt.Sprintf(replay, "trade.a", g.hub.Epoch()))
		}},
		{"replay other", func(g *testGateway, c string) string {
			return g.answerTo(c, fmt.Sprintf(replay, "book.a", g.hub.Epoch()))
		}},
		{"history", func(g *testGateway, c string) string {
			return g.adminStatus(c, "GET", "/v1/channels/trade.a/history", "")
		}},
		{"channels", func(g *testGateway, c string) string { return g.adminStatus(c, "GET", "/v1/channels", "") }},
		{"publish", func(g *testGateway, c string) string {
			return g.adminStatus(c, "POST", "/v1/publish", `{"ch":"trade.a","data":1}`)
		}},
		{"publish other", func(g *testGateway, c string) string {
			return g.adminStatus(c, "POST", "/v1/publish", `{"ch":"book.a","data":1}`)
		}},
		{"batch", func(g *testGateway, c string) string {
			return g.adminStatus(c, "POST", "/v1/publish/batch", `[{"ch":"trade.a","data":1}]`)
		}},
		{"connz", func(g *testGateway, c string) string { return g.adminStatus(c, "GET", "/connz", "") }},
		{"metrics", func(g *testGateway, c string) string { return g.adminStatus(c, "GET", "/metrics", "") }},
		{"pprof", func(g *testGateway, c string) string {
			return g.adminStatus(c, "GET", "/debug/pprof/goroutine?debug=1", "")
		}},
		{"pprof cmdline", func(g *testGateway, c string) string { return g.adminStatus(c, "GET", "/debug/pprof/cmdline", "") }},
		{"page", func(g *testGateway, c string) string { return g.adminStatus(c, "GET", "/", "") }},
		{"live figures", func(g *testGateway, c string) string { return g.pageAnswer(c, false) }},
		{"live figures, key in-band", func(g *testGateway, c string) string { return g.pageAnswer(c, true) }},
		{"health", func(g *testGateway, c string) string { return g.adminStatus(c, "GET", "/healthz", "") }},
	}
	// "open" is the answer of the gateway without keys, whatever that is.
	const locked = "401 401 401 401 401 401 401 401 401 401 401 401 401 401 401 401 401 open 401 4001 open"
	const unkeyed = "ack ack ack ack ack ack ack ack open open open open open open open open open open ack ack open"
	for _, setting := range []struct {
		name   string
		change func(*Config)
		want   map[string]string
	}{
		{"no keys", nil, map[string]string{
			"anonymous": unkeyed, "reader": unkeyed, "expired": unkeyed, "wrong audience": unkeyed, "forged": unkeyed,
			"publisher": unkeyed, "scraper": unkeyed, "admin": unkeyed,
		}},
		{"keys", func(c *Config) { keyed(c, nil) }, map[string]string{
			"anonymous": strings.Replace(locked, "open 401 4001 open", "open 4001 4001 open", 1), // may show its key yet
			"reader":    "ack forbidden forbidden forbidden ack forbidden ack forbidden 401 401 401 401 401 401 401 401 401 open 401 4001 open",
			"expired":   locked, "wrong audience": locked, "forged": locked,
			"publisher": "401 401 401 401 401 401 401 401 403 403 open 403 open 403 403 403 403 open 403 4001 open",
			"scraper":   "401 401 401 401 401 401 401 401 403 403 403 403 403 403 open 403 403 open 403 4001 open",
			"admin":     "401 401 401 401 401 401 401 401 open open open open open open open open open open ack ack open",
		}},
		{"keys, and public.* for anybody", func(c *Config) {
			keyed(c, func(a *auth.Config) { a.AnonymousRead = []string{"public.*"} })
		}, map[string]string{
			"anonymous": "4001 ack 4001 4001 4001 4001 4001 4001 401 401 401 401 401 401 401 401 401 open 4001 4001 open",
			"reader":    "ack ack forbidden forbidden ack forbidden ack forbidden 401 401 401 401 401 401 401 401 401 open 401 4001 open",
			"expired":   locked, "wrong audience": locked, "forged": locked,
			"publisher": "401 401 401 401 401 401 401 401 403 403 open 403 open 403 403 403 403 open 403 4001 open",
			"scraper":   "401 401 401 401 401 401 401 401 403 403 403 403 403 403 open 403 403 open 403 4001 open",
			"admin":     "401 401 401 401 401 401 401 401 open open open open open open open open open open ack ack open",
		}},
	} {
		t.Run(setting.name, func(t *testing.T) {
			make := func(change func(*Config)) *testGateway {
				g := newTestGateway(t, func(c *Config) {
					c.Log = log.logger()
					if change != nil {
						change(c)
					}
				})
				g.publish("trade.a", `1`)
				g.publish("book.a", `1`)
				g.publish("public.a", `1`)
				return g
			}
			g, open := make(setting.change), make(nil)
			for _, caller := range who {
				want := strings.Fields(setting.want[caller.name])
				if len(want) != len(what) {
					t.Fatalf("%s: %d answers for %d things to do", caller.name, len(want), len(what))
				}
				for i, thing := range what {
					w := want[i]
					if w == "open" {
						if w = thing.do(open, ""); w == "401" || w == "403" {
							t.Errorf("without keys nobody may %s", thing.name)
						}
					}
					if got := thing.do(g, caller.credential); got != w {
						t.Errorf("%s, %s: %s, want %s", caller.name, thing.name, got, w)
					}
				}
			}
			g.wantNothingHeld(t, 0, 0)
			for _, reason := range []string{"expired", "audience", "signature", "malformed", "api_key"} {
				if n := g.Stats().AuthFailed[reason]; setting.change != nil && n == 0 {
					t.Errorf("none counted as %s: %v", reason, g.Stats().AuthFailed)
				}
			}
		})
	}
	if !strings.Contains(log.String(), "a token was refused") || !strings.Contains(log.String(), "an API key was refused") {
		t.Errorf("refusals are not logged: %s", log)
	}
	for _, caller := range who {
		log.wantNone(t, caller.credential)
	}
	log.wantNone(t, string(tokenSecret), adminLine, publisherLine, scraperLine)
}

// A key may be shown in three ways; a batch is judged item by item.
func TestAPIKeysOnTheAdminPort(t *testing.T) {
	publisher, publisherLine := made(t, "feed", auth.RolePublish, "trade.*", "bbo.X")
	admin, adminLine := made(t, "ops", auth.RoleAdmin)
	keys := keysOf(t, publisherLine, adminLine)
	g := newTestGateway(t, func(c *Config) { c.APIKeys = keys })
	do := func(path, body string, change func(*http.Request)) (int, string) {
		t.Helper()
		method := "POST"
		if body == "" {
			method = "GET"
		}
		req, _ := http.NewRequest(method, "http://"+g.AdminAddr()+path, strings.NewReader(body))
		change(req)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   int
	}{
		"X-API-Key":     {header("X-API-Key", admin), 200},
		"bearer":        {header("Authorization", "bearer "+admin), 200},
		"basic":         {func(r *http.Request) { r.SetBasicAuth("anybody", admin) }, 200},
		"wrong":         {header("X-API-Key", admin+"x"), 401},
		"the hash":      {header("X-API-Key", strings.Fields(adminLine)[3]), 401},
		"in the query":  {func(r *http.Request) { r.URL.RawQuery = "api_key=" + admin }, 401},
		"another host":  {func(r *http.Request) { r.Host = "odin.example"; r.Header.Set("X-API-Key", admin) }, 200},
		"another page":  {func(r *http.Request) { r.Header.Set("Origin", "http://evil.example"); r.Header.Set("X-API-Key", admin) }, 403},
		"the publisher": {header("X-API-Key", publisher), 403},
	} {
		if got, body := do("/connz", "", c.change); got != c.want {
			t.Errorf("%s: %d %s, want %d", name, got, body, c.want)
		}
	}
	as := header("X-API-Key", publisher)
	for _, path := range []string{"//v1/publish", "/v1/publish/", "/v1//publish", "/v1/publish/../channels", "/V1/publish", "/v1%2Fpublish/..%2Fchannels", "/healthz/../connz"} {
		if got, body := do(path, "", as); got != 403 && got != 404 && got != 301 && got != 307 || strings.Contains(body, `"channels"`) || strings.Contains(body, `"connections"`) {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	got, body := do("/v1/publish/batch", `[{"ch":"trade.a","data":1},{"ch":"book.a","data":2},{"ch":"bbo.X","data":3},{"ch":"bbo.Y","data":4}]`, as)
	var results []published
	if err := json.Unmarshal([]byte(body), &results); got != 200 || err != nil || len(results) != 4 {
		t.Fatalf("%d %s", got, body)
	}
	if results[0].Seq == 0 || results[2].Seq == 0 || results[1].Code != "forbidden" || results[3].Code != "forbidden" {
		t.Error(body)
	}
	// An admin without patterns looks, and publishes nothing.
	if got, body := do("/v1/publish", `{"ch":"trade.a","data":1}`, header("X-API-Key", admin)); got != 403 {
		t.Errorf("%d %s", got, body)
	}
	if _, last := g.hub.Epoch(), g.hub.Head(); last != 2 {
		t.Errorf("%d messages were stored", last)
	}
	if s := g.Stats(); s.AuthFailed["api_key"] != 3 || s.Forbidden == 0 {
		t.Errorf("%v, %d", s.AuthFailed, s.Forbidden)
	}
}

// Away from this machine the admin port does not open without keys.
func TestAdminPortNeedsKeysAwayFromHome(t *testing.T) {
	_, line := made(t, "ops", auth.RoleAdmin)
	for addr, loop := range map[string]bool{"127.0.0.1:0": true, "localhost:0": true, "[::1]:0": true, "0.0.0.0:0": false, ":0": false, "10.0.0.1:80": false} {
		cfg := DefaultConfig()
		cfg.Broker, cfg.AdminAddr = newTestGateway(t, nil).cfg.Broker, addr
		if err := cfg.check(); (err == nil) != loop {
			t.Errorf("%s without keys: %v", addr, err)
		}
		cfg.APIKeys = keysOf(t, line)
		if err := cfg.check(); err != nil {
			t.Errorf("%s with keys: %v", addr, err)
		}
	}
}
