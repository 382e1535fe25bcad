package docs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// player plays the sessions that a document shows. What the document calls e7 or 1044
// is another epoch and another number here; which, is noted when it is first seen, and
// must stay so. One goroutine.
type player struct {
	g       *gateway
	epochs  map[string]string
	numbers map[float64]float64
	came    map[float64]bool // numbers of messages that the document has shown before

	patience time.Duration // how long a frame may take
}

func newPlayer(g *gateway) *player {
	return &player{g: g, epochs: map[string]string{}, numbers: map[float64]float64{}, came: map[float64]bool{}, patience: patience}
}

// line is one of a session: what goes up, or what must come down.
type line struct {
	at   int
	up   bool
	text string
}

// session returns the lines of a fence that is one.
func session(f fence) []line {
	var lines []line
	for i, l := range strings.Split(f.text, "\n") {
		if text, ok := strings.CutPrefix(l, "→ "); ok {
			lines = append(lines, line{f.line + i, true, text})
		} else if text, ok := strings.CutPrefix(l, "← "); ok {
			lines = append(lines, line{f.line + i, false, text})
		}
	}
	return lines
}

// play connects, and holds the lines to what the gateway says.
func (p *player) play(d *document, lines []line) ([]problem, error) {
	c, err := p.g.dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	for i, l := range lines {
		want, err := frame(l.text)
		if err != nil {
			return []problem{d.bad(l.at, "%v", err)}, nil
		}
		if l.up {
			if err := p.prepare(want); err != nil {
				return nil, err
			}
			sent, err := json.Marshal(p.translate("", want))
			if err != nil {
				return nil, err
			}
			if err := c.send(string(sent)); err != nil {
				return nil, err
			}
			if i == len(lines)-1 { // whatever the answer is, it must be one
				got, err := p.answer(c)
				if err != nil {
					return nil, err
				}
				if got["t"] == "err" || got["rej"] != nil {
					return []problem{d.bad(l.at, "the gateway refuses this: %v", got)}, nil
				}
			}
			continue
		}
		got, err := p.down(c, want)
		if err != nil {
			return []problem{d.bad(l.at, "the gateway sends nothing more: %v", err)}, nil
		}
		if what := p.compare("the frame", want, got); what != "" {
			b, _ := json.Marshal(got)
			return []problem{d.bad(l.at, "the gateway sends another frame: %s\n%s", what, b)}, nil
		}
	}
	return nil, nil
}

// answer is the next frame that answers a command.
func (p *player) answer(c *conn) (map[string]any, error) {
	for end := time.Now().Add(p.patience); ; {
		got, err := c.nextBy(end)
		if err != nil || got["t"] == "ack" || got["t"] == "pong" || got["t"] == "err" {
			return got, err
		}
	}
}

// down returns the next frame. The greeting has come already. A message that was not
// seen before is published, so that it comes.
func (p *player) down(c *conn, want map[string]any) (map[string]any, error) {
	if want["t"] == "hello" {
		return c.hello, nil
	}
	if seq, ok := want["seq"].(float64); ok && want["t"] == "msg" && !p.came[seq] {
		p.came[seq] = true
		if _, _, err := p.g.publish(want["ch"].(string), []byte(want["d"].(string))); err != nil {
			return nil, err
		}
	}
	for end := time.Now().Add(p.patience); ; {
		got, err := c.nextBy(end)
		if err != nil || got["t"] != "hb" || want["t"] == "hb" {
			return got, err
		}
	}
}

// prepare publishes something on each channel that a subscription names, those of
// wildcards last, so that an ack has positions.
func (p *player) prepare(command map[string]any) error {
	if command["op"] != "sub" || command["since"] != nil {
		return nil
	}
	names, _ := command["ch"].([]any)
	for _, wild := range []bool{false, true} {
		for _, n := range names {
			name, _ := n.(string)
			if prefix, ok := strings.CutSuffix(name, "*"); ok == wild {
				if wild {
					name = prefix + "SOME"
				}
				if _, _, err := p.g.publish(name, []byte(`{"before":"the session"}`)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// kind says how the values of a key are compared.
var kind = map[string]string{
	"epoch": "epoch", "seq": "number", "prev": "number", "after": "number", "before": "number", "from": "number", "to": "number",
	"ts": "any", "conn": "any", "node": "any", "retry_ms": "any",
}

// translate puts this gateway's epochs and numbers for the document's.
func (p *player) translate(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, one := range v {
			out[k] = p.translate(k, one)
		}
		return out
	case string:
		if real, ok := p.epochs[v]; ok && kind[key] == "epoch" {
			return real
		}
	case float64:
		if real, ok := p.numbers[v]; ok && kind[key] == "number" {
			return real
		}
	}
	return v
}

// compare says how got differs from what the document shows, or nothing.
func (p *player) compare(key string, want, got any) string {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is no object", key)
		}
		if a, b := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(object)); !slices.Equal(a, b) {
			return fmt.Sprintf("%s has %v, not %v", key, b, a)
		}
		for k, v := range want {
			if what := p.compare(k, v, object[k]); what != "" {
				return what
			}
		}
		return ""
	case string:
		if kind[key] == "epoch" {
			real, _ := got.(string)
			return bind(p.epochs, key, want, real)
		}
	case float64:
		if kind[key] == "number" {
			real, _ := got.(float64)
			return bind(p.numbers, key, want, real)
		}
	}
	if kind[key] == "any" && fmt.Sprintf("%T", want) == fmt.Sprintf("%T", got) {
		return ""
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		return fmt.Sprintf("%s is %v, not %v", key, got, want)
	}
	return ""
}

// bind notes what a document's value is here; two may not be the same.
func bind[T comparable](known map[T]T, key string, want, got T) string {
	if real, ok := known[want]; ok {
		if real != got {
			return fmt.Sprintf("%s: %v was %v before, and now is %v", key, want, real, got)
		}
		return ""
	}
	for other, real := range known {
		if real == got {
			return fmt.Sprintf("%s: %v and %v are the same here", key, other, want)
		}
	}
	known[want] = got
	return ""
}

// TestSessions plays every session of every document.
func TestSessions(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	played := 0
	for _, d := range all(t, c) {
		var p *player
		for _, f := range d.fences {
			lines := session(f)
			if lines == nil {
				continue
			}
			if p == nil {
				p = newPlayer(startGateway(t, c))
			}
			problems, err := p.play(d, lines)
			if err != nil {
				t.Fatalf("%s:%d: %v", d.path, f.line, err)
			}
			report(t, problems)
			played++
		}
	}
	if played == 0 {
		t.Error("no document shows a session")
	}
}
