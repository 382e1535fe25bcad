package wire

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	since := map[string]Position{"a": {"e7", 1041}, "b.*": {"", 1<<64 - 1}}
	for in, want := range map[string]Command{
		`{"op":"ping","id":5}`:                               {Op: "ping", ID: IntID(5)},
		`{"op":"ping"}`:                                      {Op: "ping"},
		" {\t\"id\" : 0 ,\r\n\"op\" : \"ping\" } ":           {Op: "ping", ID: IntID(0)},
		`{"op":"ping","id":9007199254740992}`:                {Op: "ping", ID: IntID(MaxID)},
		`{"op":"ping","x":[{"op":"y","z":"]}\\\""}],"y":{}}`: {Op: "ping"},
		`{"op":"list","ms":"ignored","ch":null}`:             {Op: "list"},
		`{"\u006fp":"p\u0069ng"}`:                            {Op: "ping"},
		`{"op":"auth","id":6,"token":"a\/b"}`:                {Op: "auth", ID: IntID(6), Token: "a/b"},
		`{"op":"unsub","id":3,"ch":["a"]}`:                   {Op: "unsub", ID: IntID(3), Ch: []string{"a"}},
		`{"op":"sub","id":1,"ch":["a",""],"since":{"a":{"epoch":"e7","seq":1041},"b.*":{"seq":18446744073709551615,"x":1,"epoch":""}},"mode":"all","snap":true}`: {
			Op: "sub", ID: IntID(1), Ch: []string{"a", ""}, Since: since, Mode: "all", Snap: true},
		`{"op":"sub","ch":["a","a","\u0000 é"],"mode":"latest","ms":250,"slow":"latest","snap":false}`: {
			Op: "sub", Ch: []string{"a", "a", "\x00 é"}, Mode: "latest", MS: 250, Slow: "latest"},
		`{"op":"sub","ch":["a"],"mode":"","slow":"","since":{}}`: {Op: "sub", Ch: []string{"a"}, Since: map[string]Position{}},
		`{"op":"replay","id":7,"ch":"a","epoch":"e7","from":1001,"to":1040}`: {
			Op: "replay", ID: IntID(7), Ch: []string{"a"}, Epoch: "e7", From: 1001, To: 1040},
	} {
		var c Command
		if err := ParseCommand([]byte(in), &c); err != nil || !reflect.DeepEqual(c, want) {
			t.Errorf("%s: %+v, %v", in, c, err)
		}
	}
}

func TestBadCommand(t *testing.T) {
	bad := []string{
		``, ` `, `x`, `null`, `5`, `"op"`, `[]`, `[{"op":"ping"}]`, `{`, `{}`, `{"op":"ping"`, `{"op":"ping"}}`, `{"op":"ping"} {}`,
		`{"op":"ping",}`, `{op:"ping"}`, `{"op":"ping"}x`, "{\"op\":\"ping\xff\"}", "\xef\xbb\xbf{\"op\":\"ping\"}", "{\"op\":\"ping\"}\x00",
		`{"op":"nope"}`, `{"op":""}`, `{"op":5}`, `{"op":null}`, `{"op":["ping"]}`, `{"OP":"ping"}`, `{"op":"PING"}`, `{"op":"ping","op":"ping"}`,
		`{"op":"unsub"}`, `{"op":"unsub","ch":"a"}`, `{"op":"unsub","ch":[]}`, `{"op":"unsub","ch":[1]}`, `{"op":"unsub","ch":["a",null]}`,
		`{"op":"unsub","ch":[["a"]]}`, `{"op":"unsub","ch":{"a":"b"}}`, `{"op":"sub"}`, `{"op":"sub","ch":["a"],"mode":"x"}`,
		`{"op":"sub","ch":["a"],"mode":1}`, `{"op":"sub","ch":["a"],"mode":null}`, `{"op":"sub","ch":["a"],"slow":"cut"}`,
		`{"op":"sub","ch":["a"],"slow":{}}`, `{"op":"sub","ch":["a"],"snap":1}`, `{"op":"sub","ch":["a"],"snap":"true"}`,
		`{"op":"sub","ch":["a"],"ms":-1}`, `{"op":"sub","ch":["a"],"ms":1.5}`, `{"op":"sub","ch":["a"],"ms":3600001}`, `{"op":"sub","ch":["a"],"ms":"1"}`,
		`{"op":"sub","ch":["a"],"since":[]}`, `{"op":"sub","ch":["a"],"since":null}`, `{"op":"sub","ch":["a"],"since":{"a":5}}`,
		`{"op":"sub","ch":["a"],"since":{"a":{"seq":1}}}`, `{"op":"sub","ch":["a"],"since":{"a":{"epoch":"e"}}}`,
		`{"op":"sub","ch":["a"],"since":{"a":{"epoch":1,"seq":1}}}`, `{"op":"sub","ch":["a"],"since":{"a":{"epoch":"e","seq":1,"seq":2}}}`,
		`{"op":"sub","ch":["a"],"since":{"a":{"epoch":"e","seq":1},"a":{"epoch":"e","seq":1}}}`,
		`{"op":"auth"}`, `{"op":"auth","token":""}`, `{"op":"auth","token":5}`,
		`{"op":"replay","epoch":"e","from":1,"to":2}`, `{"op":"replay","ch":["a"],"epoch":"e","from":1,"to":2}`, `{"op":"replay","ch":"a","from":1,"to":2}`,
		`{"op":"replay","ch":"a","epoch":"e","to":2}`, `{"op":"replay","ch":"a","epoch":"e","from":1}`, `{"op":"replay","ch":"a","epoch":"e","from":2,"to":1}`,
		strings.Repeat("[", 10000), strings.Repeat("[", 10000) + strings.Repeat("]", 10000),
		`{"op":"ping","x":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`,
		`{"op":"ping","x":` + strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000) + `}`,
	}
	for _, n := range []string{"-1", "-0", "18446744073709551616", "1.5", "1.0", `"1"`, "1e999", "1e0", "null", "true", "[]", "01"} {
		bad = append(bad, `{"op":"sub","ch":["a"],"since":{"a":{"epoch":"e","seq":`+n+`}}}`,
			`{"op":"replay","ch":"a","epoch":"e","from":`+n+`,"to":99}`, `{"op":"ping","id":`+n+`}`)
	}
	bad = append(bad, `{"op":"ping","id":9007199254740993}`)
	for _, in := range bad {
		var c Command
		if err := ParseCommand([]byte(in), &c); err == nil || err.Code != "bad_request" || err.Message == "" {
			t.Errorf("%.100s: %+v, %v", in, c, err)
		}
	}
	var c Command
	if err := ParseCommand([]byte(`{"op":"sub","ch":5,"id":8}`), &c); err == nil || err.ID != IntID(8) {
		t.Errorf("%+v", err)
	}
}

func TestChannel(t *testing.T) {
	long := strings.Repeat("a", MaxChannel)
	for name, want := range map[string]string{
		"a": "channel", "trade.BTC-USD": "channel", "a_b.-.9": "channel", long: "channel", "_sysx": "channel", "a._sys": "channel",
		"trade.*": "pattern trade.", "a.b.*": "pattern a.b.", long[2:] + ".*": "pattern " + long[2:] + ".",
		"": "", "*": "", ">": "", ".*": "", "a*": "", "a.*.b": "", "a.*.*": "", "a.>": "", "a..b": "", ".a": "", "a.": "", "a b": "", "a\x00": "",
		"é": "", "$JS.API.x": "", "$SYS.x": "", "_sys": "", "_sys.x": "", "_sys.*": "", long + "a": "", long[1:] + ".*": "", "a/b": "", "a\n": "",
	} {
		got := ""
		prefix, wild, ok := ParsePattern(name)
		switch {
		case ok && wild:
			got = "pattern " + prefix
		case ok && prefix == name:
			got = "channel"
		}
		if got != want || ValidChannel(name) != (want == "channel") {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestPayload(t *testing.T) {
	for in, want := range map[string]bool{
		`{}`: true, `5`: true, `"é"`: true, `null`: true, " [1]\n": true,
		``: false, ` `: false, `{`: false, "\"\xff\"": false, `{}{}`: false, "\"\xed\xa0\x80\"": false, "'a'": false,
	} {
		if ValidPayload([]byte(in)) != want {
			t.Errorf("%q: not %v", in, want)
		}
	}
}

func TestPingAllocates(t *testing.T) {
	in := []byte(`{"op":"ping","id":5}`)
	var c Command
	if n := testing.AllocsPerRun(1000, func() {
		if err := ParseCommand(in, &c); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func ExampleParseCommand() {
	var c Command
	if err := ParseCommand([]byte(`{"op":"sub","id":1,"ch":["trade.*"],"mode":"latest","ms":250}`), &c); err != nil {
		fmt.Println(err)
	}
	fmt.Println(c.Op, c.Ch, c.Mode, c.MS)
	// Output: sub [trade.*] latest 250
}
