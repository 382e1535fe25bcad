package main

import (
	"strings"
	"testing"

	"github.com/odin-ws/odin/internal/market"
)

func TestPublish(t *testing.T) {
	for _, c := range []struct {
		name, stdin string
		args        []string
		code        int
		out, err    string
		stored      []market.Event
	}{
		{name: "one", args: []string{"a.b", `{ "x": 1.0 }`}, out: `{"epoch":"e1","seq":1}` + "\n",
			stored: []market.Event{{Channel: "a.b", Data: []byte(`{ "x": 1.0 }`)}}},
		{name: "one over lines", args: []string{"a.b", "{\n\"x\": 1\n}"}, out: `{"epoch":"e1","seq":1}` + "\n",
			stored: []market.Event{{Channel: "a.b", Data: []byte("{\n\"x\": 1\n}")}}},
		{name: "key", args: []string{"--key", `k"1`, "a.b", `"s"`}, out: `{"epoch":"e1","seq":1}` + "\n",
			stored: []market.Event{{Channel: "a.b", Data: []byte(`"s"`), Key: `k"1`}}},
		{name: "negative number", args: []string{"a.b", "--", "-5"}, out: `{"epoch":"e1","seq":1}` + "\n",
			stored: []market.Event{{Channel: "a.b", Data: []byte("-5")}}},
		{name: "events", args: []string{"-"},
			stdin: `{"channel":"a","data":{ "i":1}}` + "\n\n" + ` {"ch":"b","data":2,"key":"k","ts":5} `,
			out:   `{"epoch":"e1","seq":1}` + "\n" + `{"epoch":"e1","seq":2}` + "\n",
			stored: []market.Event{
				{Channel: "a", Data: []byte(`{ "i":1}`)}, {Channel: "b", Data: []byte("2"), Key: "k"},
			}},
		{name: "payloads", args: []string{"c", "-"}, stdin: "1\n{\"x\": 2}\n",
			out:    `{"epoch":"e1","seq":1}` + "\n" + `{"epoch":"e1","seq":2}` + "\n",
			stored: []market.Event{{Channel: "c", Data: []byte("1")}, {Channel: "c", Data: []byte(`{"x": 2}`)}}},
		{name: "bad line", args: []string{"-"}, stdin: `{"channel":"a","data":1}` + "\nnope\n" + `{"channel":"a","data":3}` + "\n",
			code: 1, err: "line 2: not JSON", out: `{"epoch":"e1","seq":1}` + "\n",
			stored: []market.Event{{Channel: "a", Data: []byte("1")}}},
		{name: "nothing", args: []string{"-"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAdmin(t)
			r := odin(t, nil, c.stdin, append([]string{"publish", "--admin-addr", a.addr()}, c.args...)...)
			if r.code != c.code || r.out != c.out || !strings.Contains(r.err, c.err) {
				t.Errorf("%+v", r)
			}
			same(t, a.got, c.stored)
		})
	}
}

func TestPublishRefused(t *testing.T) {
	a := newAdmin(t)
	a.answer = func(n int) (int, map[int]string) { return 200, map[int]string{1: codeTooLarge} }
	in := `{"channel":"a","data":1}` + "\n" + `{"channel":"a","data":2}` + "\n" + `{"channel":"a","data":3}` + "\n"
	r := odin(t, nil, in, "publish", "-", "--admin-addr", a.addr())
	if r.code != 1 || !strings.Contains(r.out, `{"code":"too_large","message":"because"}`) && len(a.got) != 3 {
		t.Errorf("%+v", r)
	}

	a.answer = func(int) (int, map[int]string) { return 503, nil }
	r = odin(t, nil, "", "publish", "a", "1", "--admin-addr", a.addr())
	if r.code != 1 || !strings.Contains(r.err, "answered 503, broker_down: because") || r.out != "" {
		t.Errorf("%+v", r)
	}

	a.answer = func(int) (int, map[int]string) { return 0, nil }
	r = odin(t, nil, "", "publish", "a", "1", "--admin-addr", a.addr())
	if r.code != 1 || !strings.Contains(r.err, "may be stored or not") {
		t.Errorf("%+v", r)
	}

	r = odin(t, nil, "", "publish", "a", "1", "--admin-addr", "127.0.0.1:1")
	if r.code != 1 || !strings.Contains(r.err, "no gateway answers at http://127.0.0.1:1") || !strings.Contains(r.err, "odin serve") {
		t.Errorf("%+v", r)
	}
	r = odin(t, nil, "", "publish", "a", "1", "--nats-url", "nats://u:secret@127.0.0.1:1")
	if r.code != 1 || strings.Contains(r.err, "secret") || !strings.Contains(r.err, "127.0.0.1:1") {
		t.Errorf("%+v", r)
	}
}

func TestAdminURL(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:8081": "http://127.0.0.1:8081", ":8081": "http://127.0.0.1:8081", "0.0.0.0:1": "http://127.0.0.1:1",
		"[::]:2": "http://127.0.0.1:2", "gw:3": "http://gw:3", "https://gw/": "https://gw", "http://h:1/odin": "http://h:1/odin",
		"": "", "8081": "", "h:": "", "ftp://h": "",
	} {
		got, err := adminURL(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}
