package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/odin-ws/odin/gateway/wire"
)

// padded makes a command so large that it is parsed in the pool.
func padded(command string) string {
	return strings.Repeat(" ", max(0, largeCommand-len(command))) + command
}

// eachSize runs f for a command as it is, a byte a segment, and padded.
func eachSize(t *testing.T, command string, f func(t *testing.T, frame string, segment int)) {
	t.Helper()
	t.Run("whole", func(t *testing.T) { f(t, say(command), 0) })
	t.Run("bytes", func(t *testing.T) { f(t, say(command), 1) })
	t.Run("large", func(t *testing.T) { f(t, say(padded(command)), 0) })
}

func TestBadCommands(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	since := func(pos string) string { return `{"op":"sub","id":4,"ch":["x"],"since":{"x":` + pos + `}}` }
	seq := func(n string) string { return since(`{"epoch":"e1","seq":` + n + `}`) }
	deep := func(n int, open, end string) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	rows := map[string]string{
		"nothing":                      "",
		"white space":                  " \t\r\n",
		"not JSON":                     "hello",
		"half an object":               `{"op":"ping"`,
		"single quotes":                `{'op':'ping'}`,
		"trailing comma":               `{"op":"ping",}`,
		"comment":                      `{"op":"ping"/*x*/}`,
		"two objects":                  `{"op":"ping"}{"op":"ping"}`,
		"junk behind":                  `{"op":"ping"}x`,
		"byte order mark":              "\ufeff" + `{"op":"ping"}`,
		"control byte in a string":     "{\"op\":\"ping\",\"x\":\"\x01\"}",
		"NUL behind":                   "{\"op\":\"ping\"}\x00",
		"bad escape":                   `{"op":"ping","x":"\x41"}`,
		"null":                         `null`,
		"an array":                     `[{"op":"ping"}]`,
		"a string":                     `"ping"`,
		"a number":                     `5`,
		"NaN":                          `{"op":"ping","x":NaN}`,
		"leading zero":                 `{"op":"ping","x":01}`,
		"no op":                        `{"id":4}`,
		"unknown op":                   `{"op":"subscribe","id":4}`,
		"op in capitals":               `{"op":"PING","id":4}`,
		"empty op":                     `{"op":"","id":4}`,
		"op null":                      `{"op":null,"id":4}`,
		"op a number":                  `{"op":1,"id":4}`,
		"op an array":                  `{"op":["ping"],"id":4}`,
		"op twice":                     `{"op":"ping","op":"ping","id":4}`,
		"op twice, once escaped":       `{"op":"ping","\u006fp":"list","id":4}`,
		"10 000 arrays":                deep(10_000, "[", "]"),
		"10 000 arrays in a command":   `{"op":"ping","x":` + deep(10_000, "[", "]") + `}`,
		"7500 objects":                 `{"op":"sub","id":4,"ch":` + deep(10_000, `{"":`, "}")[:30_000],
		"10 000 arrays, never closed":  strings.Repeat("[", 10_000),
		"id negative":                  `{"op":"ping","id":-1}`,
		"id beyond 2^53":               `{"op":"ping","id":9007199254740993}`,
		"id a fraction":                `{"op":"ping","id":1.5}`,
		"id an exponent":               `{"op":"ping","id":1e2}`,
		"id a string":                  `{"op":"ping","id":"1"}`,
		"id null":                      `{"op":"ping","id":null}`,
		"id of 10 000 digits":          `{"op":"ping","id":` + strings.Repeat("9", 10_000) + `}`,
		"sub without ch":               `{"op":"sub","id":4}`,
		"ch a string":                  `{"op":"sub","id":4,"ch":"x"}`,
		"ch empty":                     `{"op":"sub","id":4,"ch":[]}`,
		"ch null":                      `{"op":"sub","id":4,"ch":null}`,
		"ch with a number":             `{"op":"sub","id":4,"ch":["x",5]}`,
		"ch with null":                 `{"op":"sub","id":4,"ch":["x",null]}`,
		"ch nested":                    `{"op":"sub","id":4,"ch":[["x"]]}`,
		"ch twice":                     `{"op":"sub","id":4,"ch":["x"],"ch":["y"]}`,
		"unsub without ch":             `{"op":"unsub","id":4}`,
		"seq -1":                       seq("-1"),
		"seq 2^64":                     seq("18446744073709551616"),
		"seq 2^64 + 2^64":              seq("36893488147419103232"),
		"seq 1.5":                      seq("1.5"),
		"seq 1.0":                      seq("1.0"),
		"seq a string":                 seq(`"1"`),
		"seq 1e999":                    seq("1e999"),
		"seq 1e2":                      seq("1e2"),
		"seq -0":                       seq("-0"),
		"seq null":                     seq("null"),
		"seq true":                     seq("true"),
		"seq missing":                  since(`{"epoch":"e1"}`),
		"epoch missing":                since(`{"seq":1}`),
		"epoch a number":               since(`{"epoch":1,"seq":1}`),
		"epoch twice":                  since(`{"epoch":"e1","epoch":"e1","seq":1}`),
		"position a number":            since(`1`),
		"position null":                since(`null`),
		"since an array":               `{"op":"sub","id":4,"ch":["x"],"since":[]}`,
		"since null":                   `{"op":"sub","id":4,"ch":["x"],"since":null}`,
		"since names a channel twice":  `{"op":"sub","id":4,"ch":["x"],"since":{"x":{"epoch":"e1","seq":1},"x":{"epoch":"e1","seq":2}}}`,
		"mode unknown":                 `{"op":"sub","id":4,"ch":["x"],"mode":"some"}`,
		"mode a number":                `{"op":"sub","id":4,"ch":["x"],"mode":1}`,
		"ms negative":                  `{"op":"sub","id":4,"ch":["x"],"mode":"all","ms":-1}`,
		"ms too long":                  `{"op":"sub","id":4,"ch":["x"],"ms":3600001}`,
		"snap a string":                `{"op":"sub","id":4,"ch":["x"],"snap":"true"}`,
		"slow unknown":                 `{"op":"sub","id":4,"ch":["x"],"slow":"never"}`,
		"auth without a token":         `{"op":"auth","id":4}`,
		"replay of nothing":            `{"op":"replay","id":4}`,
		"replay backwards":             `{"op":"replay","id":4,"ch":"x","epoch":"e1","from":2,"to":1}`,
		"replay from -1":               `{"op":"replay","id":4,"ch":"x","epoch":"e1","from":-1,"to":1}`,
		"replay of an array":           `{"op":"replay","id":4,"ch":["x"],"epoch":"e1","from":1,"to":1}`,
		"auth, which nobody asked for": `{"op":"auth","id":4,"token":"x"}`,
	}
	k := g.canary(t)
	most := g.highWater()
	for name, command := range rows {
		t.Run(name, func(t *testing.T) {
			eachSize(t, command, func(t *testing.T, frame string, segment int) {
				c := g.rawOpen(t)
				c.send(frame+say(`{"op":"ping","id":5}`)+closeFrame(1000, ""), segment)
				want := `{"t":"err",`
				if strings.Contains(command, `"id":4`) && len(command) < 10_000 {
					want += `"id":4,`
				}
				c.wantClose(1000, want+`"code":"bad_request"`, `{"t":"pong","id":5}`)
			})
		})
	}
	t.Run("the third closes", func(t *testing.T) {
		for name, bad := range map[string]string{"small": "{}", "large": padded("{}")} {
			t.Run(name, func(t *testing.T) {
				c := g.rawOpen(t)
				c.send(strings.Repeat(say(bad)+say(`{"op":"ping","id":5}`), 5), 0)
				err, pong := `{"t":"err","code":"bad_request"`, `{"t":"pong","id":5}`
				c.wantClose(1008, err, pong, err, pong, err)
			})
		}
	})
	t.Run("what is not served is no mistake", func(t *testing.T) {
		c := g.rawOpen(t)
		c.send(strings.Repeat(say(rows["auth, which nobody asked for"])+say(`{"op":"replay","id":4,"ch":"..","epoch":"e1","from":1,"to":2}`)+
			say(`{"op":"replay","id":4,"ch":"x","epoch":"e1","from":1,"to":99999}`), 5)+closeFrame(1000, ""), 0)
		if code, before := c.closed(); code != 1000 || len(before) != 15 {
			t.Errorf("closed with %d after %d answers", code, len(before))
		}
	})
	if n := most(); n > 64<<10+512 { // the smallest buffer for what came behind it, and for the answer
		t.Errorf("%d bytes pooled for one bad command", n)
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

func TestBadChannels(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	long := strings.Repeat("a", wire.MaxChannel)
	k := g.canary(t)
	for _, name := range []string{
		"", " ", "a b", " a", "a ", "a\x00", "\x00", "a\n", "a\x7f", "é", "a\ufffd", "🚀", "a/b", "a:b", "a*", "a,b", `a"b`, `a\b`,
		"*", ">", "a.>", ".*", "*.a", "a.*.b", "a.*.*", "a..b", ".a", "a.", ".", "..", "a..*",
		"$JS.API.x", "$SYS.x", "$SYS", "_sys", "_sys.x", "_sys.*", "_INBOX.>", long + "a", long[1:] + ".*", strings.Repeat("a.", 10_000) + "a", strings.Repeat("\x7f", 20_000),
	} {
		for _, op := range []string{"sub", "unsub"} {
			quoted, _ := json.Marshal(name)
			command := fmt.Sprintf(`{"op":%q,"id":4,"ch":["good",%s,%s]}`, op, quoted, quoted)
			t.Run(fmt.Sprintf("%s %.20q", op, name), func(t *testing.T) {
				eachSize(t, command, func(t *testing.T, frame string, segment int) {
					c := g.rawOpen(t)
					c.send(frame+closeFrame(1000, ""), segment)
					code, before := c.closed()
					var f frame_
					if code != 1000 || len(before) != 1 || json.Unmarshal([]byte(before[0]), &f) != nil {
						t.Fatalf("closed with %d after %.300q", code, before)
					}
					if f.T != "ack" || f.ID != 4 || len(f.Rej) != 1 || f.Rej[name] != "bad_channel" || len(f.acks()) != 1 {
						t.Errorf("%.300s", before[0])
					}
				})
			})
		}
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// frame_ is frame, whose name the tests here give to bytes.
type frame_ = frame

func TestBadPositions(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	head := g.publish("x", `1`)
	g.publish("other.a", `1`)
	for name, row := range map[string]struct{ ch, epoch, seq, ack, then string }{
		"the future":                   {"x", "e1", "1000", `"rej":{"x":"bad_position"}`, ""},
		"the far future":               {"x", "e1", "18446744073709551615", `"rej":{"x":"bad_position"}`, ""},
		"the future of nothing":        {"unknown", "e1", "1000", `"rej":{"unknown":"bad_position"}`, ""},
		"the future of a wildcard":     {"other.*", "e1", "1000", `"rej":{"other.*":"bad_position"}`, ""},
		"another epoch":                {"x", "e0", "1", `"recovered":false`, `{"t":"gap","ch":"x","after":1,"before":2,"why":"epoch","epoch":"e1"}`},
		"another epoch, far future":    {"x", "e0", "18446744073709551615", `"recovered":false`, `{"t":"gap","ch":"x","after":18446744073709551615,"before":2,"why":"epoch","epoch":"e1"}`},
		"no epoch":                     {"x", "", "1", `"recovered":false`, `{"t":"gap","ch":"x"`},
		"an epoch like code":           {"x", `\"},<\u0000`, "1", `"recovered":false`, `{"t":"gap","ch":"x"`},
		"another epoch of a wildcard":  {"other.*", "e0", "1", `"recovered":false`, `{"t":"gap","ch":"other.`},
		"the present":                  {"x", "e1", fmt.Sprint(head), `"recovered":true`, ""},
		"the past":                     {"x", "e1", "0", `"recovered":true`, `{"t":"msg","ch":"x","seq":1`},
		"a position of something else": {`x","y`, "e1", "0", `"y":{"epoch":"e1","seq":2}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			command := fmt.Sprintf(`{"op":"sub","id":4,"ch":["%s"],"since":{"%s":{"epoch":"%s","seq":%s}}}`,
				row.ch, strings.Split(row.ch, `"`)[0]+map[bool]string{true: "-not"}[strings.Contains(row.ch, `"`)], row.epoch, row.seq)
			eachSize(t, command, func(t *testing.T, frame string, segment int) {
				c := g.rawOpen(t)
				c.send(frame+say(`{"op":"ping","id":5}`), segment)
				if f := c.text(); !strings.HasPrefix(f, `{"t":"ack","id":4`) || !strings.Contains(f, row.ack) {
					t.Fatalf("%s, want %s", f, row.ack)
				}
				then := 0
				for f := c.text(); f != `{"t":"pong","id":5}`; f = c.text() {
					if then++; row.then == "" || !strings.HasPrefix(f, row.then) {
						t.Fatalf("%s, want %q", f, row.then)
					}
				}
				if then == 0 && row.then != "" {
					t.Errorf("never came: %s", row.then)
				}
			})
		})
	}
}

func TestSubscriptionLimit(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.MaxSubscriptions = 10 })
	for i := range 20 {
		g.publish(fmt.Sprintf("many.%d", i), `1`)
	}
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["a0","a1","a2","a3","a4","a5","a6","a7","a8","a9","b0","b1"]}`)
	if f := c.want("ack"); len(f.acks()) != 10 || len(f.Rej) != 2 || f.Rej["b0"] != "limit" || f.Rej["b1"] != "limit" {
		t.Fatal(f.raw)
	}
	if g.hub.Lookup("b0") != nil {
		t.Error("the broker was asked for a channel that couldn't be subscribed")
	}
	for _, ch := range []string{"c", "many.1", "many.*", "none.*"} {
		c.say(`{"op":"sub","id":2,"ch":[%q]}`, ch)
		if f := c.want("ack"); f.Rej[ch] != "limit" {
			t.Fatal(f.raw)
		}
	}
	// Twice is once, and no more than the limit.
	c.say(`{"op":"sub","id":3,"ch":["a1","a1","a9"]}`)
	if f := c.want("ack"); len(f.acks()) != 2 || f.Rej != nil {
		t.Fatal(f.raw)
	}
	c.say(`{"op":"unsub","id":4,"ch":["a9","a9","never"]}`)
	c.want("ack")
	c.say(`{"op":"sub","id":5,"ch":["none.*","c"]}`)
	if f := c.want("ack"); len(f.acks()) != 1 || f.Rej["c"] != "limit" {
		t.Fatal(f.raw)
	}
	// A channel new to the wildcard finds no room, and that is said.
	seq := g.publish("none.new", `1`)
	if f := c.want("gap"); f.channel() != "none.new" || f.Before != seq+1 {
		t.Fatal(f.raw)
	}
	if f := c.want("err"); string(f.Code) != `"limit"` || f.channel() != "none.new" {
		t.Fatal(f.raw)
	}
	g.publish("a1", `1`)
	if f := c.want("msg"); f.channel() != "a1" {
		t.Fatal(f.raw)
	}
	g.publish("a2", `2`)
	if f := c.want("msg"); f.channel() != "a2" {
		t.Fatalf("a1 twice? %s", f.raw)
	}
}

func TestThousandSubscribesAtOnce(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	k := g.canary(t)
	for name, ch := range map[string]string{"one channel": "same", "new channels": "new.%d", "bad channels": "%d.."} {
		t.Run(name, func(t *testing.T) {
			c := g.rawOpen(t)
			var flood strings.Builder
			for i := range 1000 {
				command := `{"op":"sub","id":1,"ch":["` + ch + `"]}`
				if strings.Contains(ch, "%d") {
					command = fmt.Sprintf(command, i)
				}
				flood.WriteString(say(command))
			}
			go c.send(flood.String(), 0)
			code, before := c.closed()
			acks, warnings := 0, 0
			for _, f := range before {
				switch {
				case strings.HasPrefix(f, `{"t":"ack"`):
					acks++
				case strings.HasPrefix(f, `{"t":"err","id":1,"code":"rate_limited","retry_ms":`):
					warnings++
				default:
					t.Fatal(f)
				}
			}
			if code != 4102 && code != 0 || acks < 100 || acks > 200 || warnings != maxWarnings {
				t.Errorf("closed with %d after %d acks and %d warnings", code, acks, warnings)
			}
		})
	}
	g.wantNothingHeld(t, 1, 1)
	if n := g.count.closes[closeRateLimit].Load(); n != 3 {
		t.Errorf("%d closed with 4102", n)
	}
	k.stop()
}

// bulk fills a command of about 64 KiB with names.
func bulk(op string, names func(i int) string) (command string, n int) {
	var b strings.Builder
	fmt.Fprintf(&b, `{"op":%q,"id":4,"ch":[`, op)
	for ; ; n++ {
		q, _ := json.Marshal(names(n))
		if b.Len()+len(q)+3 > 64<<10 {
			break
		}
		if n > 0 {
			b.WriteByte(',')
		}
		b.Write(q)
	}
	return b.String() + "]}", n
}

// One command with as many names as fit costs the node no more than the
// subscriptions its client may have.
func TestBulkCommands(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.MaxSubscriptions = 100; c.MaxChannels = 1000 })
	k := g.canary(t)
	most := g.highWater()
	for name, row := range map[string]struct {
		names func(int) string
		code  string
		acked int
	}{
		"good names": {func(i int) string { return fmt.Sprintf("n%d", i) }, "limit", 100},
		"wildcards":  {func(i int) string { return fmt.Sprintf("n%d.*", i) }, "limit", 100},
		"bad names":  {func(i int) string { return fmt.Sprintf("%d!", i) }, "bad_channel", 0},
		"one name":   {func(int) string { return "same" }, "", 1},
		"control":    {func(i int) string { return fmt.Sprintf("%d\x01\x7f\u2028é", i) }, "bad_channel", 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := g.dial()
			command, n := bulk("sub", row.names)
			c.say("%s", command)
			f := c.want("ack")
			wantRej := n - row.acked
			if row.code == "" {
				wantRej = 0
			}
			if len(f.acks()) != row.acked || len(f.Rej) != wantRej {
				t.Fatalf("%d names: %d acked, %d refused: %.300s", n, len(f.acks()), len(f.Rej), f.raw)
			}
			for i := row.acked; i < n && row.code != ""; i++ {
				if f.Rej[row.names(i)] != row.code {
					t.Fatalf("%q: %q", row.names(i), f.Rej[row.names(i)])
				}
			}
			if n := g.hub.Len(); n > 300 {
				t.Errorf("%d channels for 100 subscriptions", n)
			}
			c.say(`{"op":"list","id":5}`)
			if f := c.want("ack"); len(f.acks()) != row.acked {
				t.Errorf("%d listed", len(f.acks()))
			}
			command, _ = bulk("unsub", row.names)
			c.say("%s", command)
			c.want("ack")
			c.CloseNow()
		})
	}
	t.Logf("%d bytes pooled at most", most())
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}
