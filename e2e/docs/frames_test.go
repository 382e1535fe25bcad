package docs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shown are the objects that a document shows, in JSON blocks and in running text,
// that have the key: "t" for what the gateway sends, "op" for what it is sent.
func shown(d *document, key string) []span {
	var found []span
	add := func(line int, text string) {
		var v map[string]any
		if json.Unmarshal([]byte(fillIn(text)), &v) == nil && v[key] != nil {
			found = append(found, span{line, text})
		}
	}
	for _, f := range d.fences {
		if f.lang == "json" {
			for i, l := range strings.Split(f.text, "\n") {
				add(f.line+i, l)
			}
		}
	}
	for _, s := range d.spans {
		if object.MatchString(s.text) {
			add(s.line, s.text)
		}
	}
	return found
}

// TestFrames lets a gateway send one of every frame, and holds those that documents
// show to them: no key that none of its kind had, none missing that all of it had.
func TestFrames(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	seen := everyFrame(t, c)
	for _, d := range all(t, c) {
		report(t, framesOf(d, seen))
	}
}

// framesOf holds the frames that d shows to those seen.
func framesOf(d *document, seen map[string][]map[string]any) []problem {
	var bad []problem
	for _, s := range shown(d, "t") {
		var f map[string]any
		if err := json.Unmarshal([]byte(fillIn(s.text)), &f); err != nil {
			bad = append(bad, d.bad(s.line, "%v", err))
			continue
		}
		same := seen[fmt.Sprint(f["t"])]
		if alike := withCode(same, f["code"]); f["t"] == "err" && len(alike) > 0 {
			same = alike
		}
		if what := like(f, same); what != "" {
			bad = append(bad, d.bad(s.line, "`%s`: %s", s.text, what))
		}
	}
	return bad
}

// withCode are the frames with one code: an err has other keys with each.
func withCode(frames []map[string]any, code any) []map[string]any {
	return slices.DeleteFunc(slices.Clone(frames), func(f map[string]any) bool { return f["code"] != code })
}

// like says why f is no frame of the kind of those seen, or nothing.
func like(f map[string]any, seen []map[string]any) string {
	if len(seen) == 0 {
		return "the gateway sends no such frame"
	}
	may := map[string]bool{}
	for _, s := range seen {
		for k := range s {
			may[k] = true
		}
	}
	for k := range f {
		if !may[k] {
			return fmt.Sprintf("the gateway never sends %q in it, only %v", k, slices.Sorted(maps.Keys(may)))
		}
	}
	for k := range may {
		if _, ok := f[k]; ok {
			continue
		}
		if !slices.ContainsFunc(seen, func(s map[string]any) bool { _, ok := s[k]; return !ok }) {
			return fmt.Sprintf("the gateway always sends %q in it", k)
		}
	}
	return ""
}

// everyFrame provokes every type of frame, in each of its forms, and returns them by type.
func everyFrame(t *testing.T, c *checker) map[string][]map[string]any {
	t.Helper()
	g := startGateway(t, c, "--heartbeat", "200ms", "--stale-after", "quiet.*=1s", "--rate-burst", "12", "--rate-per-sec", "1", "--max-subscriptions", "4")
	seen := map[string][]map[string]any{}
	note := func(fs ...map[string]any) {
		for _, f := range fs {
			kind := fmt.Sprint(f["t"])
			seen[kind] = append(seen[kind], f)
		}
	}
	publish := func(ch string) (string, float64) {
		t.Helper()
		epoch, seq, err := g.publish(ch, []byte(`{"price":1}`))
		if err != nil {
			t.Fatal(err)
		}
		return epoch, seq
	}
	client := func() *conn {
		t.Helper()
		conn, err := g.dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.close)
		note(conn.hello)
		return conn
	}
	// say sends a command and takes all frames up to the wanted one.
	say := func(conn *conn, command, want string) {
		t.Helper()
		if command != "" {
			if err := conn.send(command); err != nil {
				t.Fatal(err)
			}
		}
		got, before, err := conn.until(want)
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		note(append(before, got)...)
	}

	epoch, seq := publish("trade.A")
	a := client()
	say(a, fmt.Sprintf(`{"op":"sub","id":1,"ch":["trade.A"],"since":{"trade.A":{"epoch":%q,"seq":%.0f}}}`, epoch, seq), "ack")
	say(a, `{"op":"sub","id":2,"ch":["not a channel"]}`, "ack")
	say(a, `{"op":"sub","ch":["quiet.A"]}`, "ack")
	publish("trade.A")
	say(a, "", "msg")
	say(a, `{"op":"ping","id":3}`, "pong")
	say(a, `{"op":"replay","id":4,"ch":"trade.A","epoch":"e0","from":1,"to":2}`, "ack")
	publish("quiet.A")
	say(a, "", "stale")
	publish("quiet.A")
	say(a, "", "live")
	say(a, "", "hb")

	b := client()
	say(b, `{"op":"sub","id":1,"ch":["trade.A"],"since":{"trade.A":{"epoch":"e0","seq":1}}}`, "gap")
	say(b, `{"op":"nonsense","id":2}`, "err")
	b2 := client()
	say(b2, `{"op":"sub","id":1,"ch":["trade.A"],"mode":"latest","ms":300}`, "ack")
	publish("trade.A")
	say(b2, "", "msg")
	publish("trade.A")
	publish("trade.A")
	say(b2, "", "msg")

	// One more than a connection may follow, by its wildcard.
	d := client()
	say(d, `{"op":"sub","id":1,"ch":["many.*"]}`, "ack")
	for i := range 5 {
		publish(fmt.Sprintf("many.%d", i))
	}
	say(d, "", "err")

	e := client()
	for i := range 14 {
		if err := e.send(fmt.Sprintf(`{"op":"list","id":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	say(e, "", "err")

	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	say(b2, "", "bye")
	return seen
}

// TestOps sends every command that documents show to a gateway: none may be taken for
// something that is no command.
func TestOps(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	g := startGateway(t, c)
	sent := 0
	for _, d := range all(t, c) {
		report(t, opsOf(d, g, t))
		sent += len(shown(d, "op"))
	}
	if sent == 0 {
		t.Error("no document shows a command")
	}
}

// opsOf sends the commands that d shows.
func opsOf(d *document, g *gateway, t *testing.T) []problem {
	t.Helper()
	ops := shown(d, "op")
	if len(ops) == 0 {
		return nil
	}
	epoch, seq, err := g.publish("trade.BTC-USD", []byte(`{"price":1}`))
	if err != nil {
		t.Fatal(err)
	}
	var bad []problem
	for _, s := range ops {
		var v map[string]any
		if err := json.Unmarshal([]byte(fillIn(s.text)), &v); err != nil {
			t.Fatal(err)
		}
		if what := sendOp(g, v, epoch, seq); what != "" {
			bad = append(bad, d.bad(s.line, "`%s`: %s", s.text, what))
		}
	}
	return bad
}

// sendOp sends one command, with positions that are good here, and says what is wrong.
func sendOp(g *gateway, op map[string]any, epoch string, seq float64) string {
	conn, err := g.dial()
	if err != nil {
		return err.Error()
	}
	defer conn.close()
	var here func(key string, v any) any
	here = func(key string, v any) any {
		if m, ok := v.(map[string]any); ok {
			for k, one := range m {
				m[k] = here(k, one)
			}
			return m
		}
		switch kind[key] {
		case "epoch":
			return epoch
		case "number":
			return seq
		}
		return v
	}
	text, err := json.Marshal(here("", op))
	if err != nil {
		return err.Error()
	}
	if err := conn.send(string(text)); err != nil {
		return err.Error()
	}
	for end := time.Now().Add(patience); ; {
		got, err := conn.nextBy(end)
		switch {
		case err != nil:
			return "no answer: " + err.Error()
		case got["t"] == "ack" || got["t"] == "pong":
			if got["id"] != op["id"] {
				return fmt.Sprintf("answered for id %v", got["id"])
			}
			return ""
		case got["t"] == "err" && op["op"] == "auth":
			return "" // no token key is configured
		case got["t"] == "err":
			return fmt.Sprintf("refused: %v", got["code"])
		}
	}
}
