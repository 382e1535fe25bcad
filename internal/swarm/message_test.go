package swarm

import (
	"encoding/json"
	"testing"
	"time"
)

func TestParseMessage(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // channel/seq/prev/skip/d, "" for no message
	}{
		{`{"t":"msg","ch":"a.b","seq":12,"prev":9,"ts":1767000000123,"d":{"x":"}"}}`, `a.b 12 9 0 {"x":"}"}`},
		{`{"t":"msg","ch":"a","seq":12,"prev":0,"ts":1,"skip":7,"d":null}`, `a 12 0 7 null`},
		{`{"t":"msg","ch":"a","seq":18446744073709551615,"prev":0,"ts":1,"d": [1, 2] }`, `a 18446744073709551615 0 0  [1, 2] `},
		{`{"seq":12,"t":"msg","prev":9,"d":{"x":1},"ch":"a"}`, `a 12 9 0 {"x":1}`}, // another order
		{`{"t":"msg","ch":"a","seq":1,"prev":0,"new":true,"ts":1,"d":1}`, `a 1 0 0 1`},
		{`{"t":"msg","ch":"a","seq":1,"prev":0,"ts":1}`, ``},
		{`{"t":"msg","ch":"a","seq":-1,"prev":0,"ts":1,"d":1}`, ``},
		{`{"t":"hb","ts":1}`, ``},
		{`{"t":"msg"`, ``},
		{``, ``},
	} {
		var m message
		got := ""
		if m.parse([]byte(c.in)) {
			got = string(m.ch) + " " + jsonNumber(m.seq) + " " + jsonNumber(m.prev) + " " + jsonNumber(m.skip) + " " + string(m.d)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.in, got, c.want)
		}
	}
}

func jsonNumber(n uint64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestPayload(t *testing.T) {
	mark := NewMark()
	if mark == NewMark() {
		t.Error("two runs with one mark")
	}
	now := time.Now()
	for _, size := range []int{0, 60, 90, 150, 4000} {
		b := AppendPayload(nil, mark, 1234, size)
		Stamp(b, mark, now)
		var p struct {
			Run string
			At  int64
			N   uint64
			Pad string
		}
		if err := json.Unmarshal(b, &p); err != nil || p.N != 1234 || p.At != now.UnixNano() || size >= 90 && len(b) != size {
			t.Errorf("%d: %s: %v", size, b, err)
		}
		if at, ok := stamped(b, mark); !ok || at != now.UnixNano() {
			t.Errorf("stamped: %d %v", at, ok)
		}
	}
	for _, other := range []string{`{"x":1}`, ``, AppendString(NewMark())} {
		if _, ok := stamped([]byte(other), mark); ok {
			t.Errorf("%s bears the mark", other)
		}
	}
	if Hash([]byte("a")) == Hash([]byte("b")) || Hash(nil) == 0 {
		t.Error("hash")
	}
}

func AppendString(mark string) string { return string(AppendPayload(nil, mark, 1, 100)) }

// FuzzMessage: reading by hand and reading by encoding/json agree.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"t":"msg","ch":"a.b","seq":12,"prev":9,"ts":1767000000123,"d":{"x":"}"}}`))
	f.Add([]byte(`{"t":"msg","ch":"a","seq":12,"prev":0,"ts":1,"skip":7,"d":null}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		var m message
		if !m.parseUsual(p) || !json.Valid(p) {
			return
		}
		var slow struct {
			Ch        string
			Seq, Prev uint64
			D         json.RawMessage
		}
		if json.Unmarshal(p, &slow) != nil {
			return // a number out of range: the server's fault, found by the chain
		}
		if !json.Valid(m.d) {
			return // more members behind "d": not what odin writes
		}
		if slow.Ch != string(m.ch) || slow.Seq != m.seq || slow.Prev != m.prev {
			t.Skip() // a member given twice
		}
	})
}
