package gateway

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/wire"
)

// What is refused is refused alike whether it exists or not, and nothing else is
// said of it.
func TestForbiddenSaysNothing(t *testing.T) {
	g := newKeyedGateway(t, nil)
	g.publish("book.there", `1`)
	c := g.dialAs(mint(t, tokenSecret, claims()))
	for _, ask := range []string{
		`{"op":"sub","id":1,"ch":[%q]}`, `{"op":"sub","id":1,"ch":[%q],"snap":true}`, `{"op":"sub","id":1,"ch":[%q],"mode":"latest","ms":5}`,
		`{"op":"unsub","id":1,"ch":[%q]}`, `{"op":"replay","id":1,"ch":%q,"epoch":"` + g.hub.Epoch() + `","from":1,"to":1}`,
		`{"op":"replay","id":1,"ch":%q,"epoch":"x","from":1,"to":1}`, `{"op":"replay","id":1,"ch":%q,"epoch":"` + g.hub.Epoch() + `","from":1,"to":99999}`,
		`{"op":"sub","id":1,"ch":[%q],"since":{"book.there":{"epoch":"` + g.hub.Epoch() + `","seq":1}}}`,
		`{"op":"sub","id":1,"ch":[%q,"` + strings.Repeat("x.", largeCommand/2) + `x"]}`,
	} {
		var answers [3]string
		for i, name := range []string{"book.there", "book.gone", "book.*"} {
			c.say(ask, name)
			f, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			answers[i] = strings.ReplaceAll(f.raw, name, "NAME")
			if !strings.Contains(f.raw, "forbidden") && !strings.Contains(f.raw, "bad_channel") {
				t.Errorf("%s: %s", ask, f.raw)
			}
		}
		if answers[0] != answers[1] {
			t.Errorf("%s: it shows what there is: %q, %q", ask, answers[0], answers[1])
		}
	}
	if g.hub.Lookup("book.gone") != nil {
		t.Error("a channel was made known by one who may not read it")
	}
	// What may be read of the same command is.
	c.say(`{"op":"sub","id":9,"ch":["book.there","trade.x","trade.eu.*","bad channel","*"]}`)
	if f := c.want("ack"); len(f.acks()) != 2 || f.Rej["book.there"] != "forbidden" || f.Rej["bad channel"] != "bad_channel" || f.Rej["*"] != "bad_channel" {
		t.Error(f.raw)
	}
	g.publish("book.there", `2`)
	seq := g.publish("trade.eu.y", `3`)
	if m := c.want("msg"); m.Seq != seq {
		t.Error(m.raw)
	}
}

// patternsAgree: what auth takes for a pattern is what may be subscribed.
func TestPatternsAreTheProtocols(t *testing.T) {
	for _, name := range []string{
		"a", "a.b", "a.*", "a.b.*", "A-Z_0", "", ".", "a.", ".a", "a..b", "*", "a*", "*.a", "a.*.b", "a.**", "_sys", "_sys.a", "_sys.*", "_sysx", "a._sys",
		"a b", "é", "a>", ">", "$JS.API", strings.Repeat("a", 128), strings.Repeat("a", 129), strings.Repeat("a", 126) + ".*", strings.Repeat("a", 127) + ".*",
	} {
		p, err := auth.ParsePatterns([]string{name})
		_, _, ok := wire.ParsePattern(name)
		if name == "*" {
			ok = true // everything: a pattern, and no subscription
		}
		if (err == nil) != ok || ok && name != "*" && !p.Covers(name) {
			t.Errorf("%q: the protocol says %v, auth %v", name, ok, err)
		}
	}
}

func TestTokenExpiresMidSession(t *testing.T) {
	g := newKeyedGateway(t, nil)
	exp := time.Now().Truncate(time.Second).Add(3 * time.Second)
	short := g.dialAs(mint(t, tokenSecret, claims("exp", exp.Unix())))
	renewed := g.dialAs(mint(t, tokenSecret, claims("exp", exp.Unix())))
	renewed.say(`{"op":"auth","id":3,"token":%q}`, mint(t, tokenSecret, claims("jti", "j2")))
	if f := renewed.want("ack"); f.ID != 3 {
		t.Fatal(f.raw)
	}
	short.wantClose(4001)
	if late := time.Since(exp); late < 0 || late > 5*time.Second {
		t.Errorf("ended %v after its token", late)
	}
	time.Sleep(time.Until(exp.Add(1500 * time.Millisecond)))
	renewed.say(`{"op":"ping","id":1}`)
	renewed.want("pong")
	if n := g.Stats().AuthEnded["expired"]; n != 1 {
		t.Errorf("%d counted", n)
	}
}

func TestRevokedMidSession(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "revoked"), "")
	g := newKeyedGateway(t, func(c *auth.Config) { c.Revoked = file })
	token := func(sub, jti string) string { return mint(t, tokenSecret, claims("sub", sub, "jti", jti)) }
	one, same, bob, eve := g.dialAs(token("ann", "j1")), g.dialAs(token("ann", "j2")), g.dialAs(token("bob", "j3")), g.dialAs(token("eve", "j4"))
	begin := time.Now()
	writeFile(t, file, "jti j1\nsub bob\n")
	one.wantClose(4001)
	bob.wantClose(4001)
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("ended after %v", d)
	}
	for _, c := range []*client{same, eve} {
		c.say(`{"op":"ping","id":1}`)
		c.want("pong")
	}
	for _, gone := range []string{token("ann", "j1"), token("bob", "j5")} {
		if _, status := g.tryAs(gone); status != 401 {
			t.Errorf("let in again: %d", status)
		}
	}
	eve.say(`{"op":"auth","id":1,"token":%q}`, token("eve", "j1"))
	eve.wantClose(4001)
	if n := g.Stats().AuthEnded["revoked"]; n != 2 {
		t.Errorf("%d counted", n)
	}
}

func TestAnotherToken(t *testing.T) {
	g := newKeyedGateway(t, func(c *auth.Config) { c.AnonymousRead = []string{"public.*"} })
	token := func(change ...any) string { return mint(t, tokenSecret, claims(change...)) }
	ends := func(name, with string, code websocket.StatusCode) {
		t.Helper()
		c := g.dialAs(token())
		c.say(`{"op":"auth","id":1,"token":%q}`, with)
		c.wantClose(code)
	}
	ends("forged", mint(t, forger, claims()), 4001)
	ends("expired", token("exp", time.Now().Add(-time.Second).Unix()), 4001)
	ends("too long", strings.Repeat("a", auth.MaxToken+1), 4001)
	ends("another audience", token("aud", "x"), 4001)
	ends("another identity", token("sub", "bob"), 1008)
	ends("nobody", token("sub", ""), 1008)

	// One without a token may show one, then the same one again with fewer channels.
	c := g.dialAs("")
	c.say(`{"op":"sub","id":1,"ch":["public.a","public.b.*"]}`)
	c.want("ack")
	c.say(`{"op":"auth","id":2,"token":%q}`, token("channels", "trade.* book.a quote.*"))
	c.want("ack")
	c.say(`{"op":"sub","id":3,"ch":["trade.*","trade.a","book.a","quote.*"]}`)
	c.want("ack")
	g.publish("trade.b", `1`)
	c.want("msg")
	c.say(`{"op":"auth","id":4,"token":%q}`, token("channels", "trade.a quote.*", "jti", "j9"))
	c.want("ack")
	ended := map[string]bool{}
	for range 2 {
		f := c.want("err")
		if string(f.Code) != `"forbidden"` {
			t.Fatal(f.raw)
		}
		ended[f.channel()] = true
	}
	// trade.b was only matched, so it goes with its wildcard.
	if !ended["trade.*"] || !ended["book.a"] {
		t.Errorf("ended: %v", ended)
	}
	c.say(`{"op":"list","id":5}`)
	f := c.want("ack")
	var left []string
	for name := range f.acks() {
		left = append(left, name)
	}
	if len(left) != 4 {
		t.Errorf("left: %v", left)
	}
	g.publish("trade.b", `2`)
	g.publish("trade.new", `2`)
	g.publish("book.a", `2`)
	for _, ch := range []string{"trade.a", "quote.x", "public.a", "public.b.c"} {
		g.publish(ch, `3`)
		if m := c.want("msg"); m.channel() != ch {
			t.Errorf("%s: %s", ch, m.raw)
		}
	}
}
