package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzHead holds that the outcome of a head does not hang on how it is cut, and
// that what passes is a handshake net/http would read alike.
func FuzzHead(f *testing.F) {
	f.Add(head(), 3)
	f.Add("\r\n"+head("Sec-WebSocket-Extensions: a; b=\"c\"", "Origin: http://odin.test:8080"), 40)
	f.Add(head("GET http://odin.test:8080/ws?a HTTP/1.1", "Connection: a, upgrade"), 1)
	f.Fuzz(func(t *testing.T, in string, step int) {
		whole, _ := handshake(in, 0)
		one, fed := handshake(in, 1)
		some, _ := handshake(in, 1+int(uint(step)%100))
		if whole != one || whole != some {
			t.Fatalf("status %d whole, %d byte by byte, %d in pieces", whole, one, some)
		}
		if cut, _ := handshake(in[:fed], 0); cut != whole { // nothing behind the deciding byte counts
			t.Fatalf("status %d, but %d without the rest", whole, cut)
		}
		if r, ref := ParseHead([]byte(in)); ref == nil {
			checkByHTTP(t, in, &r)
		} else if _, body, _ := bytes.Cut(ref.AppendResponse(nil, 0), []byte("\r\n\r\n")); !json.Valid(body) {
			t.Fatalf("the refusal is not JSON: %s", body)
		}
		if whole == 0 {
			if _, err := AppendUpgrade(nil, []byte(in)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// checkByHTTP compares a parsed head with net/http's reading of it, where
// net/http reads it at all.
func checkByHTTP(t *testing.T, in string, r *Request) {
	h, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.TrimPrefix(in, "\r\n"))))
	if err != nil {
		return // its own taste: bad percent escapes, for one
	}
	if h.Method != r.Method || h.RequestURI != r.Target || h.ContentLength != r.ContentLength || h.ProtoMinor != r.ProtoMinor ||
		h.Header.Get("Authorization") != r.Authorization || h.Header.Get("Sec-WebSocket-Key") != r.Key && r.keys == 1 {
		t.Fatalf("%+v, but net/http says %+v", r, h)
	}
}

// FuzzParser holds that events and the final error do not hang on how the bytes
// are cut, and that messages are text.
func FuzzParser(f *testing.F) {
	f.Add([]byte(frame(0x81, "hé")+frame(0x89, "p")), uint16(64), uint8(0), uint64(1))
	f.Add([]byte(frame(0x01, "\xf0\x9f")+frame(0x89, "p")+frame(0x80, "\x98\x80")+closeFrame(1000, "é")), uint16(64), uint8(3), uint64(2))
	f.Add([]byte(frame(0x02, "ab")+frame(0x00, "cd")+frame(0x80, "ef")+"\x81\xff\x40"), uint16(64), uint8(0x83), uint64(3))
	f.Add([]byte(frame(0x82, strings.Repeat("x", 130))+frame(0x81, "\xff")), uint16(200), uint8(0x80), uint64(4))
	f.Add([]byte(frame(0x41, "\xf2\x48\xcd")+frame(0x89, "p")+frame(0x80, "\xc9\xc9\x07\x00")), uint16(64), uint8(0x43), uint64(5))
	f.Fuzz(func(t *testing.T, in []byte, limit uint16, flags uint8, seed uint64) {
		lim := Limits{MaxMessage: int(limit), MaxFragments: int(flags & 0x3f), Binary: flags&0x80 != 0, Deflate: flags&0x40 != 0}
		r := rand.New(rand.NewPCG(seed, 0))
		var cuts []int
		for at := 0; len(in) > 0; {
			if at += 1 + r.IntN(1+r.IntN(len(in))); at >= len(in) {
				break
			}
			cuts = append(cuts, at)
		}
		whole := parse(t, string(in), lim)
		if one := parse(t, string(in), lim, bytewise(string(in))...); one != whole {
			t.Fatalf("%s whole, %s byte by byte", whole, one)
		}
		if some := parse(t, string(in), lim, cuts...); some != whole {
			t.Fatalf("%s whole, %s cut at %v", whole, some, cuts)
		}
	})
}

// FuzzCommand compares ParseCommand with a slow reading by encoding/json.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		`{"op":"ping","id":5}`, `{"op":"list","x":[1,{"a":"}"}]}`, `{"op":"auth","token":"a\"\u0041\\"}`,
		`{"op":"sub","id":1,"ch":["a","b.*"],"since":{"a":{"epoch":"e7","seq":1041}},"mode":"all","snap":true,"slow":"latest"}`,
		`{"op":"sub","ch":["a"],"mode":"latest","ms":250}`, ` { "op" : "unsub" , "ch" : [ "a" , "b" ] } `,
		`{"op":"replay","id":7,"ch":"a","epoch":"e7","from":1001,"to":1040}`, `{"op":"ping","id":1e5}`, `{"op":"ping","op":"ping"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var got, want Command
		kept := bytes.Clone(in)
		err := ParseCommand(in, &got)
		if !bytes.Equal(in, kept) {
			t.Fatal("the payload was changed")
		}
		if slow := slowCommand(in, &want); slow != (err == nil) {
			t.Fatalf("%v, but encoding/json says %v", err, slow)
		}
		if err != nil {
			object(t, AppendErr(nil, err.ID, err.Code, err.Message, 0))
			return
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, but encoding/json says %+v", got, want)
		}
		b := NewAck(nil, got.ID)
		for _, ch := range got.Ch {
			b.Reject(ch, "bad_channel")
		}
		object(t, b.Done())
	})
}

// slowCommand is ParseCommand by encoding/json, one token at a time.
func slowCommand(in []byte, c *Command) bool {
	depth := 0
	for d := json.NewDecoder(bytes.NewReader(in)); ; {
		tok, err := d.Token()
		if err != nil {
			break
		}
		if s, ok := tok.(json.Delim); ok && (s == '[' || s == '{') {
			depth++
		} else if ok {
			depth--
		}
		if depth > MaxDepth {
			return false
		}
	}
	raw, ok := members(in, "op", "id", "ch", "since", "mode", "slow", "ms", "snap", "token", "epoch", "from", "to")
	if !utf8.Valid(in) || !ok {
		return false
	}
	str := func(key string, to *string, optional bool) bool {
		return raw[key] == nil && optional || raw[key] != nil && string(raw[key]) != "null" && json.Unmarshal(raw[key], to) == nil
	}
	num := func(b []byte, max uint64, to *uint64) bool {
		n, err := strconv.ParseUint(string(b), 10, 64)
		*to = n
		return err == nil && n <= max
	}
	var n uint64
	if raw["id"] != nil {
		if !num(raw["id"], 1<<53, &n) {
			return false
		}
		c.ID = IntID(n)
	}
	if !str("op", &c.Op, false) {
		return false
	}
	if c.Op == "sub" || c.Op == "unsub" {
		var ch []*string
		if json.Unmarshal(raw["ch"], &ch) != nil || len(ch) == 0 {
			return false
		}
		for _, s := range ch {
			if s == nil {
				return false
			}
			c.Ch = append(c.Ch, *s)
		}
	}
	switch c.Op {
	case "ping", "list", "unsub":
		return true
	case "auth":
		return str("token", &c.Token, false) && c.Token != ""
	case "replay":
		c.Ch = make([]string, 1)
		return str("ch", &c.Ch[0], false) && str("epoch", &c.Epoch, false) &&
			num(raw["from"], 1<<64-1, &c.From) && num(raw["to"], 1<<64-1, &c.To) && c.From <= c.To
	case "sub":
		if raw["ms"] != nil && !num(raw["ms"], MaxMS, &n) {
			return false
		} else if raw["ms"] != nil {
			c.MS = int(n)
		}
		snap := string(raw["snap"])
		c.Snap = snap == "true"
		if raw["since"] != nil {
			c.Since = map[string]Position{}
			since, ok := members(raw["since"])
			if !ok {
				return false
			}
			for ch, at := range since {
				var p Position
				m, ok := members(at, "epoch", "seq")
				if !ok || string(m["epoch"]) == "null" || json.Unmarshal(m["epoch"], &p.Epoch) != nil || !num(m["seq"], 1<<64-1, &p.Seq) {
					return false
				}
				c.Since[ch] = p
			}
		}
		return (snap == "" || snap == "true" || snap == "false") && str("mode", &c.Mode, true) && str("slow", &c.Slow, true) &&
			(c.Mode == "" || c.Mode == "all" || c.Mode == "latest") && (c.Slow == "" || c.Slow == "latest")
	}
	return false
}

// members reads an object and is false if one of the keys once, or any when
// none is given, is there twice.
func members(in []byte, once ...string) (map[string]json.RawMessage, bool) {
	var raw map[string]json.RawMessage
	if json.Unmarshal(in, &raw) != nil || raw == nil {
		return nil, false
	}
	count := map[string]int{}
	d := json.NewDecoder(bytes.NewReader(in))
	_, _ = d.Token() // the brace
	for d.More() {
		key, _ := d.Token()
		var skip json.RawMessage
		if d.Decode(&skip) != nil {
			return nil, false
		}
		if count[key.(string)]++; count[key.(string)] > 1 {
			twice := len(once) == 0
			for _, k := range once {
				twice = twice || k == key
			}
			if twice {
				return nil, false
			}
		}
	}
	return raw, true
}

// FuzzChannel compares the two readers of names with a regular expression.
func FuzzChannel(f *testing.F) {
	for _, s := range []string{"trade.BTC-USD", "trade.*", "_sys.x", "a..b", "*", strings.Repeat("a", 129)} {
		f.Add(s)
	}
	re := regexp.MustCompile(`\A[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\z`)
	f.Fuzz(func(t *testing.T, name string) {
		valid := func(s string) bool { return re.MatchString(s) && strings.Split(s, ".")[0] != "_sys" }
		if want := valid(name) && len(name) <= 128; ValidChannel(name) != want {
			t.Fatalf("%q: not %v", name, want)
		}
		prefix, wild, ok := ParsePattern(name)
		base, star := strings.CutSuffix(name, ".*")
		if want := valid(base) && len(name) <= 128; ok != want {
			t.Fatalf("%q: not %v", name, want)
		}
		if ok && (wild != star || prefix != strings.TrimSuffix(name, "*")) {
			t.Fatalf("%q: %q %v", name, prefix, wild)
		}
	})
}
