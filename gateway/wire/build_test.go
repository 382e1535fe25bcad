package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// frames reads whole server frames with gobwas/ws and returns their payloads.
func frames(t testing.TB, b []byte) (heads []ws.Header, payloads [][]byte) {
	t.Helper()
	r := bytes.NewReader(b)
	for r.Len() > 0 {
		h, err := ws.ReadHeader(r)
		if err != nil || ws.CheckHeader(h, ws.StateClientSide) != nil || h.Length > int64(r.Len()) {
			t.Fatalf("%v in %.200q", err, b)
		}
		if want, _ := ws.CompileFrame(ws.Frame{Header: h}); len(want) != headerLen(int(h.Length)) {
			t.Fatalf("header not minimal: %+v", h)
		}
		p := make([]byte, h.Length)
		if _, err := r.Read(p); err != nil && h.Length > 0 {
			t.Fatal(err)
		}
		heads, payloads = append(heads, h), append(payloads, p)
	}
	return heads, payloads
}

// object is the JSON object in the one text frame of b.
func object(t testing.TB, b []byte) map[string]any {
	t.Helper()
	h, p := frames(t, b)
	if len(h) != 1 || h[0].OpCode != ws.OpText || !utf8.Valid(p[0]) {
		t.Fatalf("not one text frame: %.200q", b)
	}
	var v map[string]any
	if err := json.Unmarshal(p[0], &v); err != nil {
		t.Fatalf("%v: %.200s", err, p[0])
	}
	return v
}

// of is the JSON object written in s.
func of(t testing.TB, s string) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// withSkip is a message's frame with "skip", in one piece.
func withSkip(msg []byte, skip uint64) []byte {
	begun, tail := AppendMsgSkip(nil, msg, skip)
	return append(begun, tail...)
}

func TestBuild(t *testing.T) {
	yes, no := true, false
	ack := func(id ID, f func(b *AckBuilder)) []byte {
		b := NewAck([]byte{}, id)
		f(&b)
		return b.Done()
	}
	long := strings.Repeat("x", 70000)
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{AppendMsg(nil, "a.b", 1044, 1041, 1767000000123, []byte(`{"p":1.50}`)),
			`{"t":"msg","ch":"a.b","seq":1044,"prev":1041,"ts":1767000000123,"d":{"p":1.50}}`},
		{withSkip(AppendMsg(nil, "a", 10, 9, -1, []byte("7")), 100), `{"t":"msg","ch":"a","seq":10,"prev":9,"ts":-1,"skip":100,"d":7}`},
		{AppendGap(nil, "a", 1, 10, "slow"), `{"t":"gap","ch":"a","after":1,"before":10,"why":"slow"}`},
		{AppendEpochGap(nil, "a", 11, 1, `e"8`), `{"t":"gap","ch":"a","after":11,"before":1,"why":"epoch","epoch":"e\"8"}`},
		{AppendHello(nil, &Hello{"c", "n\"", 20000, 100, 1024, 100, 10}),
			`{"t":"hello","conn":"c","node":"n\"","v":1,"ping_ms":20000,"replay":100,"max_ch":1024,"rate":{"burst":100,"per_sec":10}}`},
		{AppendErr(nil, IntID(7), "rate_limited", "", 900), `{"t":"err","id":7,"code":"rate_limited","retry_ms":900}`},
		{AppendErr(nil, ID{}, "bad_request", "say \"\x00\"", 0), `{"t":"err","code":"bad_request","message":"say \"\u0000\""}`},
		{AppendPong(nil, IntID(0)), `{"t":"pong","id":0}`},
		{AppendPong(nil, ID{}), `{"t":"pong"}`},
		{AppendAck(nil, IntID(MaxID)), `{"t":"ack","id":9007199254740992}`},
		{AppendHB(nil, 5), `{"t":"hb","ts":5}`},
		{AppendStale(nil, "a"), `{"t":"stale","ch":"a"}`},
		{AppendLive(nil, "a"), `{"t":"live","ch":"a"}`},
		{AppendBye(nil, 1012, 4211), `{"t":"bye","code":1012,"retry_ms":4211}`},
		{ack(IntID(1), func(b *AckBuilder) {
			b.Channel("a", "e7", 1043, &yes)
			b.Reject("x \"\xff", "bad_channel")
			b.Channel("b.*", "e7", 2, nil)
			b.Reject("", "bad_channel")
			b.Channel("c", "e7", 3, &no)
		}), `{"t":"ack","id":1,"ch":{"a":{"epoch":"e7","seq":1043,"recovered":true},"b.*":{"epoch":"e7","seq":2},` +
			`"c":{"epoch":"e7","seq":3,"recovered":false}},"rej":{"x \"\ufffd":"bad_channel","":"bad_channel"}}`},
		{ack(ID{}, func(*AckBuilder) {}), `{"t":"ack","ch":{}}`},
		{ack(ID{}, func(b *AckBuilder) { b.Reject("x", "limit") }), `{"t":"ack","rej":{"x":"limit"}}`},
		{ack(ID{}, func(b *AckBuilder) { b.Reject(long, "limit") }), `{"t":"ack","rej":{"` + long + `":"limit"}}`},
		{ack(ID{}, func(b *AckBuilder) { b.Reject(long[:200], "limit") }), `{"t":"ack","rej":{"` + long[:200] + `":"limit"}}`},
	} {
		if got := object(t, c.got); !reflect.DeepEqual(got, of(t, c.want)) {
			t.Errorf("%v, want %s", got, c.want)
		}
	}
}

// TestAppendsBehind holds that what stands in dst is kept, whatever the length.
func TestAppendsBehind(t *testing.T) {
	for _, n := range []int{0, 60, 110, 125, 126, 127, 300, 65000, 65535, 65536, 70000} {
		var dst []byte
		for range 3 {
			b := NewAck(dst, IntID(3))
			b.Reject(strings.Repeat("x", n), "limit")
			dst = AppendHB(AppendErr(b.Done(), ID{}, "c", strings.Repeat("m", n), 0), 1)
		}
		if h, p := frames(t, dst); len(h) != 9 || string(p[8]) != `{"t":"hb","ts":1}` || !json.Valid(p[6]) || !json.Valid(p[7]) {
			t.Errorf("%d: %d frames", n, len(h))
		}
	}
}

func TestMsgFrameLen(t *testing.T) {
	nums := []uint64{0, 1, 9, 10, 99, 100, 1<<53 - 1, math.MaxUint64 / 10, math.MaxUint64}
	for _, ch := range []string{"a", strings.Repeat("c", MaxChannel)} {
		for i, seq := range nums {
			for _, ts := range []int64{0, 9, 10, -1, math.MinInt64, math.MaxInt64} {
				for _, n := range []int{1, 20, 25, 26, 27, 28, 29, 30, 31, 32, 65400, 65450, 65460, 65470, 65480, 70000} {
					prev := nums[len(nums)-1-i]
					data := bytes.Repeat([]byte("1"), n)
					f := AppendMsg(nil, ch, seq, prev, ts, data)
					if want := MsgFrameLen(ch, seq, prev, ts, n); len(f) != want {
						t.Fatalf("%d bytes, want %d", len(f), want)
					}
					if !bytes.HasSuffix(f, append(data, '}')) {
						t.Fatal("data is not at the end")
					}
					frames(t, f)
					frames(t, withSkip(f, seq))
				}
			}
		}
	}
}

func TestAppendClose(t *testing.T) {
	for _, c := range []struct {
		code   uint16
		reason string
		want   string
	}{
		{1000, "", "\x03\xe8"}, {4101, "slow", "\x10\x05slow"}, {1005, "x", ""}, {1006, "", ""}, {0, "", ""},
		{1000, strings.Repeat("a", 200), "\x03\xe8" + strings.Repeat("a", 123)},
		{1000, strings.Repeat("a", 122) + "é", "\x03\xe8" + strings.Repeat("a", 122)},
		{1000, strings.Repeat("a", 120) + "😀", "\x03\xe8" + strings.Repeat("a", 120)},
		{1000, strings.Repeat("a", 119) + "😀", "\x03\xe8" + strings.Repeat("a", 119) + "😀"},
	} {
		h, p := frames(t, AppendClose(nil, c.code, c.reason))
		if h[0].OpCode != ws.OpClose || string(p[0]) != c.want {
			t.Errorf("%d %q: %q", c.code, c.reason, p[0])
		}
	}
	h, p := frames(t, AppendFrame(nil, OpPong, []byte("abc")))
	if h[0].OpCode != ws.OpPong || string(p[0]) != "abc" {
		t.Error(h, p)
	}
}

func TestAppendString(t *testing.T) {
	var every []byte
	for c := range 256 {
		every = append(every, byte(c))
	}
	for _, s := range []string{"", "a", string(every), "é😀\u2028", "\xed\xa0\x80", "\ufffd"} {
		var got string
		enc := appendString(nil, s)
		if err := json.Unmarshal(enc, &got); err != nil || got != strings.ToValidUTF8(got, "") || !utf8.Valid(enc) {
			t.Errorf("%q: %s %v", s, enc, err)
		}
		want, _ := json.Marshal(s)
		var same string
		if err := json.Unmarshal(want, &same); err != nil || got != same {
			t.Errorf("%q became %q, encoding/json says %q", s, got, same)
		}
	}
}

func TestBuildAllocates(t *testing.T) {
	dst := make([]byte, 0, 4096)
	data := []byte(`{"price":"50000.10","size":1}`)
	yes := true
	if n := testing.AllocsPerRun(1000, func() {
		b := AppendMsg(dst, "trade.BTC-USD", 1044, 1041, 1767000000123, data)
		b, _ = AppendMsgSkip(b, b, 5)
		b = AppendErr(b, IntID(1), "limit", "too many", 5)
		b = AppendHB(AppendPong(AppendGap(b, "a", 1, 2, "slow"), IntID(1)), 5)
		ack := NewAck(b, IntID(1))
		ack.Channel("a", "e", 1, &yes)
		AppendClose(ack.Done(), 1012, "drain")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
