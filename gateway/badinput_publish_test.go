package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/odin-ws/odin/gateway/broker"
)

// post sends a body to the admin port; change may alter the request.
func (g *testGateway) post(t *testing.T, path, body string, change func(*http.Request)) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequest("POST", "http://"+g.AdminAddr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// wantRefusal checks that an answer says why, to programs and to people.
func wantRefusal(t *testing.T, status, want int, answer, code string) {
	t.Helper()
	var e map[string]any
	json.Unmarshal([]byte(answer), &e)
	message, _ := e["message"].(string)
	if status != want || message == "" || e["seq"] != nil || code != "" && e["code"] != code || e["code"] == "" || e["code"] == nil {
		t.Errorf("%d %.300s, want %d %s", status, answer, want, code)
	}
}

func ndjson(r *http.Request) { r.Header.Set("Content-Type", "application/x-ndjson") }

func TestBadPublications(t *testing.T) {
	t.Parallel()
	const most = 4096
	g := newTestGateway(t, func(c *Config) { c.MaxPublish = most })
	k := g.canary(t)
	type row struct {
		name, body string
		status     int
		code       string
	}
	rows := []row{
		{"nothing", "", 400, "bad_request"},
		{"white space", " \n", 400, "bad_request"},
		{"not JSON", "hello", 400, "bad_request"},
		{"half an object", `{"ch":"x","data":1`, 400, "bad_request"},
		{"two objects", `{"ch":"x","data":1}{"ch":"x","data":2}`, 400, "bad_request"},
		{"junk behind", `{"ch":"x","data":1}x`, 400, "bad_request"},
		{"null", `null`, 400, ""},
		{"an array", `[{"ch":"x","data":1}]`, 400, "bad_request"},
		{"a string", `"x"`, 400, "bad_request"},
		{"no ch", `{"data":1}`, 400, "bad_channel"},
		{"no data", `{"ch":"x"}`, 400, "bad_request"},
		{"ch a number", `{"ch":5,"data":1}`, 400, "bad_request"},
		{"ch an array", `{"ch":["x"],"data":1}`, 400, "bad_request"},
		{"ch null", `{"ch":null,"data":1}`, 400, "bad_channel"},
		{"key a number", `{"ch":"x","data":1,"key":5}`, 400, "bad_request"},
		{"key too long", `{"ch":"x","data":1,"key":"` + strings.Repeat("k", maxKey+1) + `"}`, 400, "bad_request"},
		{"key of two lines", `{"ch":"x","data":1,"key":"a\r\nNats-Rollup: all"}`, 400, "bad_request"},
		{"bad UTF-8 in data", "{\"ch\":\"x\",\"data\":\"\xff\"}", 400, "bad_request"},
		{"bad UTF-8 deep in data", "{\"ch\":\"x\",\"data\":{\"a\":[\"\xed\xa0\x80\"]}}", 400, "bad_request"},
		{"bad UTF-8 in a key of data", "{\"ch\":\"x\",\"data\":{\"\xc3\":1}}", 400, "bad_request"},
		{"bad UTF-8 in ch", "{\"ch\":\"x\xff\",\"data\":1}", 400, "bad_request"},
		{"bad UTF-8 in an unknown member", "{\"ch\":\"x\",\"data\":1,\"z\":\"\xff\"}", 400, "bad_request"},
		{"control byte in data", "{\"ch\":\"x\",\"data\":\"\x01\"}", 400, "bad_request"},
		{"data like JavaScript", `{"ch":"x","data":{a:1}}`, 400, "bad_request"},
		{"data NaN", `{"ch":"x","data":NaN}`, 400, "bad_request"},
		{"data nested 20 000 deep", `{"ch":"x","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`, 413, "too_large"},
		{"data too large by one", `{"ch":"x","data":"` + strings.Repeat("a", most-1) + `"}`, 413, "too_large"},
		{"data too large by far", `{"ch":"x","data":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "too_large"},
		{"too much white space", strings.Repeat(" ", 1<<20) + `{"ch":"x","data":1}`, 413, "too_large"},
	}
	for _, ch := range []string{"", " ", "a b", "a\\u0000b", "a\\n", "é", "*", ">", "a.*", "a..b", ".a", "a.", "$JS.API.x", "$SYS.x", "_sys", "_sys.x",
		strings.Repeat("a", 129), "a/b", "\\ud800", "odin.in.>"} {
		rows = append(rows, row{fmt.Sprintf("channel %.20q", ch), `{"ch":"` + ch + `","data":1}`, 400, "bad_channel"})
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			status, answer := g.post(t, "/v1/publish", r.body, nil)
			wantRefusal(t, status, r.status, answer, r.code)
		})
	}
	if n := g.broker.State().Head; n == 0 || g.hub.Lookup("x") != nil {
		t.Error("something bad was published")
	}
	t.Run("paths and methods", func(t *testing.T) {
		for path, want := range map[string]int{
			"GET /v1/publish": 405, "PUT /v1/publish": 405, "GET /v1/publish/batch": 405, "DELETE /v1/channels": 405, "POST /v1/channels": 405,
			"POST /stats": 405, "POST /healthz": 405, "POST /v1/publish/": 404, "POST /v1": 404, "GET /v2/publish": 404,
			"GET /ws": 400, "POST /ws": 405, "POST /": 405, // a handshake has no body
		} {
			method, path, _ := strings.Cut(path, " ")
			status, answer := g.post(t, path, `{"ch":"x","data":1}`, func(r *http.Request) { r.Method = method })
			wantRefusal(t, status, want, answer, "")
		}
	})
	t.Run("pages of other sites", func(t *testing.T) {
		good := `{"ch":"mine","data":1}`
		own := g.AdminAddr()
		port := own[strings.LastIndexByte(own, ':'):]
		for _, path := range []string{"/v1/publish", "/v1/publish/batch", "/v1/channels", "/stats", "/debug/pprof/", "/debug/pprof/heap", "/nowhere"} {
			for name, change := range map[string]func(*http.Request){
				"a foreign Host":         func(r *http.Request) { r.Host = "evil.example" },
				"a foreign Host, port":   func(r *http.Request) { r.Host = "evil.example" + port },
				"a Host like ours":       func(r *http.Request) { r.Host = "127.0.0.1.evil.example" + port },
				"a Host named localhost": func(r *http.Request) { r.Host = "localhost.evil.example" },
				"an outside address":     func(r *http.Request) { r.Host = "192.0.2.1" + port },
				"an unspecified address": func(r *http.Request) { r.Host = "0.0.0.0" + port },
				"a rebound Host, Origin": func(r *http.Request) { r.Host = "evil.example"; r.Header.Set("Origin", "http://evil.example") },
				"a foreign Origin":       func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
				"Origin null":            func(r *http.Request) { r.Header.Set("Origin", "null") },
				"Origin, suffix trick":   func(r *http.Request) { r.Header.Set("Origin", "http://"+own+".evil.example") },
				"Origin, another port":   func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:1") },
				"two Origins":            func(r *http.Request) { r.Header["Origin"] = []string{"http://" + own, "https://evil.example"} },
				"an image of theirs":     fetchedBy("cross-site", "no-cors", "image"),
				"a frame of theirs":      fetchedBy("cross-site", "navigate", "iframe"),
				"another port's script":  fetchedBy("same-site", "no-cors", "script"),
			} {
				status, answer := g.post(t, path, good, change)
				if status != 403 {
					t.Errorf("%s, %s", path, name)
				}
				wantRefusal(t, status, 403, answer, "forbidden")
			}
		}
		for _, host := range []string{own, "localhost" + port, "[::1]" + port, "[::1]", "127.0.0.1", "LOCALHOST"} {
			if status, answer := g.post(t, "/v1/publish", good, func(r *http.Request) { r.Host = host }); status != 200 {
				t.Errorf("Host %s: %d %s", host, status, answer)
			}
		}
		if status, _ := g.post(t, "/v1/publish", good, func(r *http.Request) { r.Header.Set("Origin", "http://"+own) }); status != 200 {
			t.Errorf("our own Origin: %d", status)
		}
		for name, change := range map[string]func(*http.Request){
			"our own page's":   fetchedBy("same-origin", "cors", "empty"),
			"typed":            fetchedBy("none", "navigate", "document"),
			"a link of theirs": fetchedBy("cross-site", "navigate", "document"),
		} {
			status, _ := g.post(t, "/", "", func(r *http.Request) { r.Method = http.MethodGet; change(r) })
			if status != 200 {
				t.Errorf("%s: %d", name, status)
			}
		}
	})
	k.stop() // the broker's failures are for others
	t.Run("a broker that can't", func(t *testing.T) {
		for _, row := range []struct {
			err    error
			status int
			code   string
		}{
			{broker.ErrFull, 507, "store_full"}, {broker.ErrTooLarge, 413, "too_large"}, {broker.ErrUncertain, 503, "uncertain"},
			{broker.ErrDown, 503, "broker_down"}, {errors.New("what?"), 502, "broker_error"},
		} {
			g.broker.FailNext(1, row.err)
			status, answer := g.post(t, "/v1/publish", `{"ch":"failing","data":1}`, nil)
			wantRefusal(t, status, row.status, answer, row.code)
		}
	})
}

// fetchedBy is what a browser says of a request's origin and use.
func fetchedBy(site, mode, dest string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", site)
		r.Header.Set("Sec-Fetch-Mode", mode)
		r.Header.Set("Sec-Fetch-Dest", dest)
	}
}

func TestBadBatches(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["good"]}`)
	c.want("ack")
	items := []struct{ item, code string }{
		{`{"ch":"good","data":1}`, ""},
		{`hello`, "bad_request"},
		{"{\"ch\":\"good\",\"data\":\"\xff\"}", "bad_request"},
		{`{"ch":"good","data": {"b" : 2,"a":1.0}}`, ""},
		{`{"ch":"_sys.x","data":1}`, "bad_channel"},
		{`{"ch":"good"}`, "bad_request"},
		{`null`, "bad_channel"},
		{`5`, "bad_request"},
		{`{"ch":"good","data":"` + strings.Repeat("a", 64<<10) + `"}`, "too_large"},
		{`{"ch":"good","data":3,"key":"k"}`, ""},
		{`{"ch":"good","data":3,"key":"k"}`, ""},
		{`{"ch":"good","data":4}`, ""},
	}
	check := func(t *testing.T, results []map[string]any, codes []string) {
		t.Helper()
		if len(results) != len(codes) {
			t.Fatalf("%d results for %d items: %v", len(results), len(codes), results)
		}
		last := 0.0
		for i, r := range results {
			if code, _ := r["code"].(string); code != codes[i] || code != "" && r["message"] == nil {
				t.Errorf("item %d: %v, want %q", i, r, codes[i])
			}
			if codes[i] != "" {
				continue
			}
			seq, _ := r["seq"].(float64)
			if r["epoch"] != "e1" || seq < last {
				t.Errorf("item %d: %v", i, r)
			}
			last = seq
		}
		for _, want := range []string{"1", `{"b" : 2,"a":1.0}`, "3", "4"} {
			if f := c.want("msg"); string(f.D) != want {
				t.Errorf("%s, want %s", f.raw, want)
			}
		}
	}
	t.Run("lines", func(t *testing.T) {
		var body strings.Builder
		var codes []string
		for _, it := range items {
			body.WriteString(it.item + "\r\n\n")
			codes = append(codes, it.code)
		}
		status, answer := g.post(t, "/v1/publish/batch", strings.TrimSpace(body.String()), ndjson)
		if status != 200 {
			t.Fatal(status, answer)
		}
		var results []map[string]any
		for line := range strings.Lines(answer) {
			var r map[string]any
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			results = append(results, r)
		}
		check(t, results, codes)
	})
	t.Run("array", func(t *testing.T) {
		var good []string
		var codes []string
		for _, it := range items {
			if it.item != "hello" { // no part of any array
				good = append(good, strings.ReplaceAll(it.item, `"k"`, `"k2"`))
				codes = append(codes, it.code)
			}
		}
		status, answer := g.post(t, "/v1/publish/batch", " [ "+strings.Join(good, " ,\n")+" ] ", nil)
		if status != 200 {
			t.Fatal(status, answer)
		}
		var results []map[string]any
		if err := json.Unmarshal([]byte(answer), &results); err != nil {
			t.Fatal(err)
		}
		check(t, results, codes)
	})
	t.Run("as a whole", func(t *testing.T) {
		one := `{"ch":"whole","data":1}`
		for name, row := range map[string]struct {
			body   string
			change func(*http.Request)
			status int
			code   string
		}{
			"nothing":            {"", nil, 400, "bad_request"},
			"an object":          {one, nil, 400, "bad_request"},
			"lines, not said":    {one + "\n" + one, nil, 400, "bad_request"},
			"half an array":      {"[" + one, nil, 400, "bad_request"},
			"junk behind":        {"[" + one + "]x", nil, 400, "bad_request"},
			"null":               {"null", nil, 400, "bad_request"},
			"too many":           {"[" + strings.Repeat(one+",", maxBatch) + one + "]", nil, 413, "too_large"},
			"too many lines":     {strings.Repeat(one+"\n", maxBatch+1), ndjson, 413, "too_large"},
			"a line without end": {one + "\n" + `{"ch":"whole","data":"` + strings.Repeat("a", 1<<20), ndjson, 413, "too_large"},
			"too many bytes":     {"[" + strings.Repeat(" ", maxBatchBytes) + "]", nil, 413, "too_large"},
		} {
			t.Run(name, func(t *testing.T) {
				status, answer := g.post(t, "/v1/publish/batch", row.body, row.change)
				wantRefusal(t, status, row.status, answer, row.code)
			})
		}
		if g.hub.Lookup("whole") != nil {
			t.Error("a part of a refused batch was published")
		}
		if status, answer := g.post(t, "/v1/publish/batch", "[]", nil); status != 200 || strings.TrimSpace(answer) != "[]" {
			t.Errorf("an empty batch: %d %s", status, answer)
		}
	})
}

// What a publisher writes is what a subscriber reads, byte for byte.
func TestPayloadsArePreserved(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	payloads := []string{
		`1`, `0`, `-0`, `1.0`, `0.10`, `1e5`, `1E+05`, `-1.5e-300`, `1e999`, `12345678901234567890123`, `3.141592653589793238462643383279`,
		`null`, `true`, `""`, `{}`, `[]`, `[ ]`, `{ "b" : 1 ,	"a":2 }`, `{"a":1,"a":2}`, `{"":0}`, `[1,  2,3 ]`,
		`"\u0041\/\"\\\b\f\n\r\t"`, `"/"`, `"<script>&amp;</script>"`, `"\u003c"`, "\"\u2028\u2029\"", `"\u2028"`, "\"\ufeff\"", "\"\x7f\"",
		`"é✓"`, `"🚀"`, `"\ud83d\ude80"`, `"\ud800"`, `"\udc00x"`, "\"\ufffd\"", "\"\U0010ffff\"", "\"e\u0301\"", `"\u0000"`,
		strings.Repeat("[", 1000) + strings.Repeat("]", 1000), strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000),
		`"` + strings.Repeat("a", 64<<10-2) + `"`, `"` + strings.Repeat("é", 32<<10-1) + `"`, "[" + strings.Repeat(" ", 64<<10-2) + "]",
		`{"t":"close","ch":"x","d":{"seq":1}}`, `"}"`, `"\"}{"`,
	}
	c := g.rawOpen(t)
	c.send(say(`{"op":"sub","id":1,"ch":["x"]}`), 0)
	c.text()
	want := func(t *testing.T, payload string) {
		t.Helper()
		f := c.text()
		if !strings.HasSuffix(f, `,"d":`+payload+`}`) || !strings.HasPrefix(f, `{"t":"msg","ch":"x","seq":`) {
			t.Errorf("%.200s, want d %.200s", f, payload)
		}
		if !json.Valid([]byte(f)) {
			t.Errorf("%.200s is not JSON", f)
		}
	}
	t.Run("one by one", func(t *testing.T) {
		for _, p := range payloads {
			for _, body := range []string{`{"ch":"x","data":` + p + `}`, "{ \"key\" : \"\",\"data\":\t" + p + " \n, \"ch\":\"\\u0078\"}\n"} {
				status, answer := g.post(t, "/v1/publish", body, nil)
				if status != 200 {
					t.Fatalf("%.100s: %d %s", p, status, answer)
				}
				want(t, p)
			}
		}
	})
	t.Run("array", func(t *testing.T) {
		var items []string
		for _, p := range payloads {
			items = append(items, `{"data":`+p+`,"ch":"x"}`)
		}
		if status, answer := g.post(t, "/v1/publish/batch", "["+strings.Join(items, ",")+"]", nil); status != 200 || strings.Contains(answer, "code") {
			t.Fatal(status, answer)
		}
		for _, p := range payloads {
			want(t, p)
		}
	})
	t.Run("lines", func(t *testing.T) {
		var body bytes.Buffer
		for _, p := range payloads {
			fmt.Fprintf(&body, "{\"ch\":\"x\",\"data\":%s}\n", p)
		}
		status, answer := g.post(t, "/v1/publish/batch", body.String(), ndjson)
		if status != 200 || strings.Contains(answer, "code") {
			t.Fatal(status, answer)
		}
		for _, p := range payloads {
			want(t, p)
		}
	})
	t.Run("straight to the broker", func(t *testing.T) {
		for _, p := range payloads {
			if len(p) < 60<<10 {
				p = " " + p + "\r\n"
			}
			g.broker.Inject("x", []byte(p))
			want(t, p)
		}
		// What is no JSON in good UTF-8 is counted and announced instead.
		for _, p := range []string{"", "hello", "\xff", "\"\xff\"", "{}{}", "\x00", strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), `"` + strings.Repeat("a", 1<<20) + `"`} {
			before := g.hub.Counters.Invalid.Load()
			g.broker.Inject("x", []byte(p))
			if f := c.text(); !strings.HasPrefix(f, `{"t":"gap","ch":"x"`) || !strings.HasSuffix(f, `"why":"invalid"}`) {
				t.Errorf("%.20q: %.200s", p, f)
			}
			if g.hub.Counters.Invalid.Load() != before+1 {
				t.Errorf("%.20q was not counted", p)
			}
		}
		for _, ch := range []string{"", "a b", "_sys.x", "a..b", "*", strings.Repeat("a", 129)} {
			g.broker.Inject(ch, []byte("1"))
		}
		g.eventually("the bad channels to be counted", func() bool { return g.hub.Counters.BadChannel.Load() == 6 })
		g.publish("x", `"still here"`)
		want(t, `"still here"`)
	})
}
