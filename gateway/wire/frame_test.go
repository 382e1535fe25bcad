package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// pool is an Alloc that counts, and poisons what comes back.
type pool struct {
	t    testing.TB
	out  map[*byte]bool
	most int // the largest buffer lent
	lent int // all of them together
	fail bool

	exact bool // lend no byte more than asked for, as for large buffers
}

func newPool(t testing.TB) *pool { return &pool{t: t, out: map[*byte]bool{}} }

func (p *pool) Get(n int) ([]byte, error) {
	if p.fail {
		return nil, errors.New("over budget")
	}
	if n < 1 {
		p.t.Errorf("Get(%d)", n)
	}
	b := make([]byte, n, n+p.extra(n))
	p.out[unsafe.SliceData(b)] = true
	p.most = max(p.most, n)
	p.lent += n
	return b, nil
}

// extra is what a buffer of n bytes has beyond them.
func (p *pool) extra(n int) int {
	if p.exact {
		return 0
	}
	return n / 3
}

func (p *pool) Put(b []byte) {
	if !p.out[unsafe.SliceData(b)] {
		p.t.Error("put of a buffer that is not out")
	}
	delete(p.out, unsafe.SliceData(b))
	b = b[:cap(b)]
	for i := range b {
		b[i] = 0xaa
	}
}

// frame is a masked client frame; b0 is FIN, RSV and opcode.
func frame(b0 byte, payload string) string {
	out := []byte{b0}
	switch n := len(payload); {
	case n < 126:
		out = append(out, 0x80|byte(n))
	case n < 1<<16:
		out = append(out, 0x80|126, byte(n>>8), byte(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	out = append(out, mask[:]...)
	for i := range len(payload) {
		out = append(out, payload[i]^mask[i%4])
	}
	return string(out)
}

// closeFrame is a masked close frame.
func closeFrame(code uint16, reason string) string {
	return frame(0x88, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

// parse feeds in, cut before each offset in cuts, and renders all that came of
// it: one word an event, and the close code that ended it. It checks the
// parser's own promises on the way.
func parse(t testing.TB, in string, lim Limits, cuts ...int) string {
	var out []string
	var p Parser
	a := newPool(t)
	at, received := 0, 0
	for _, cut := range append(cuts, len(in)) {
		piece := []byte(in[at:cut])
		at = cut
		received += len(piece)
		for {
			ev, n, cerr := p.Next(piece, &lim, a)
			if cerr != nil {
				p.Release(a)
				if len(a.out) > 0 || !p.Idle() {
					t.Errorf("%d buffers out after Release", len(a.out))
				}
				return strings.Join(append(out, fmt.Sprint(cerr.Code)), " ")
			}
			if a.most > 2*received+125 {
				t.Errorf("a buffer of %d after %d bytes", a.most, received)
			}
			piece = piece[n:]
			if ev.Kind == None {
				if len(piece) > 0 {
					t.Errorf("%d bytes not consumed", len(piece))
				}
				break
			}
			kind := []string{"", "", "ping", "pong", "close"}[ev.Kind]
			if ev.Kind == Message {
				kind = []string{"", "text", "bin"}[ev.Op]
				if ev.Deflated {
					kind = "z" + kind
				}
			}
			if ev.Code > 0 {
				kind += fmt.Sprint(ev.Code)
			}
			out = append(out, fmt.Sprintf("%s:%x", kind, ev.Payload))
		}
		if !p.Mid() && (!p.Idle() || p.Held() > 0) {
			t.Error("not idle between messages")
		}
	}
	if p.Mid() {
		out = append(out, "mid")
	}
	p.Release(a)
	if len(a.out) > 0 {
		t.Errorf("%d buffers leaked", len(a.out))
	}
	return strings.Join(out, " ")
}

// bytewise is the cuts between all bytes of in.
func bytewise(in string) (cuts []int) {
	for i := range in {
		cuts = append(cuts, i)
	}
	return append(cuts, len(in))[1:]
}

func TestFrames(t *testing.T) {
	const max = 1 << 16
	big := strings.Repeat("x", max)
	hex := func(s string) string { return fmt.Sprintf("%x", s) }
	raw := func(b ...byte) string { return string(b) }
	lim := Limits{MaxMessage: max, MaxFragments: 1024}
	bin := Limits{MaxMessage: max, Binary: true}
	tests := []struct {
		name, in string
		lim      Limits
		want     string
	}{
		{"text", frame(0x81, "hi"), lim, "text:6869"},
		{"empty text", frame(0x81, ""), lim, "text:"},
		{"126 bytes", frame(0x81, big[:126]), lim, "text:" + hex(big[:126])},
		{"message of the limit", frame(0x81, big), lim, "text:" + hex(big)},
		{"binary", frame(0x82, "\xff"), bin, "bin:ff"},
		{"64 frames", strings.Repeat(frame(0x81, "ab"), 64), lim, strings.TrimSpace(strings.Repeat("text:6162 ", 64))},
		{"fragments", frame(0x01, "a") + frame(0x00, "") + frame(0x80, "b"), lim, "text:6162"},
		{"empty fragments", frame(0x01, "") + frame(0x80, ""), lim, "text:"},
		{"binary fragments", frame(0x02, "\xc3") + frame(0x80, "\x28"), bin, "bin:c328"},
		{"control inside fragments", frame(0x01, "a") + frame(0x89, "p") + frame(0x00, "b") + frame(0x8a, "q") + frame(0x80, "c"),
			lim, "ping:70 pong:71 text:616263"},
		{"close inside fragments", frame(0x01, "a") + closeFrame(1000, "") + frame(0x80, "b"), lim, "close1000: text:6162"},
		{"longest ping", frame(0x89, big[:125]), lim, "ping:" + hex(big[:125])},
		{"UTF-8 split by fragments", frame(0x01, "\xf0\x9f") + frame(0x00, "\x98") + frame(0x80, "\x80"), lim, "text:" + hex("😀")},
		{"UTF-8 split around a ping", frame(0x01, "\xc3") + frame(0x89, "\xff") + frame(0x80, "\xa9"), lim, "ping:ff text:c3a9"},
		{"close", closeFrame(1001, "bye é"), lim, "close1001:" + hex("bye é")},
		{"empty close", frame(0x88, ""), lim, "close1005:"},
		{"1024 fragments", frame(0x01, "") + strings.Repeat(frame(0x00, ""), 1022) + frame(0x80, "z"), lim, "text:7a"},
		{"unlimited fragments", frame(0x01, "") + strings.Repeat(frame(0x00, ""), 5000) + frame(0x80, "z"), bin, "text:7a"},
		{"half a header", raw(0x81, 0xfe, 1), lim, "mid"},
		{"half a payload", frame(0x81, "abc")[:8], lim, "mid"},
		{"half a message", frame(0x01, "abc"), lim, "mid"},

		{"unmasked", raw(0x81, 0x02, 'h', 'i'), lim, "1002"},
		{"RSV1", frame(0xc1, ""), lim, "1002"},
		{"RSV2", frame(0xa1, ""), lim, "1002"},
		{"RSV3", frame(0x91, ""), lim, "1002"},
		{"RSV on a control", frame(0xc9, ""), lim, "1002"},
		{"long ping", frame(0x89, big[:126]), lim, "1002"},
		{"long close", frame(0x88, big[:126]), lim, "1002"},
		{"fragmented ping", frame(0x09, ""), lim, "1002"},
		{"fragmented close", frame(0x08, ""), lim, "1002"},
		{"orphan continuation", frame(0x80, "a"), lim, "1002"},
		{"orphan continuation after a message", frame(0x81, "a") + frame(0x00, "b"), lim, "text:61 1002"},
		{"new message mid-fragment", frame(0x01, "a") + frame(0x81, "b"), lim, "1002"},
		{"16-bit length of 125", raw(0x81, 0xfe, 0, 125, 0, 0, 0, 0), lim, "1002"},
		{"64-bit length of 65535", raw(0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0), lim, "1002"},
		{"length MSB", raw(0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1), lim, "1002"},
		{"close of one byte", frame(0x88, "a"), lim, "1002"},
		{"length 2^62", raw(0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0), lim, "1009"},
		{"limit + 1 by the header alone", raw(0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 1), lim, "1009"},
		{"fragments adding to limit + 1", frame(0x01, big) + raw(0x80, 0x81), lim, "1009"},
		{"bad UTF-8", frame(0x81, "a\xff"), lim, "1007"},
		{"bad UTF-8 before the end", frame(0x81, "\xc3\x28abc")[:8], lim, "1007"},
		{"surrogate", frame(0x81, "\xed\xa0\x80"), lim, "1007"},
		{"surrogate before its end", frame(0x81, "\xed\xa0\x80")[:8], lim, "1007"},
		{"overlong", frame(0x81, "\xc0\xaf"), lim, "1007"},
		{"above U+10FFFF", frame(0x81, "\xf4\x90\x80\x80")[:8], lim, "1007"},
		{"text cut inside a character", frame(0x81, "a\xc3"), lim, "1007"},
		{"bad UTF-8 at a fragment's end", frame(0x01, "a\xff"), lim, "1007"},
		{"message cut inside a character", frame(0x01, "\xe2\x82") + frame(0x80, ""), lim, "1007"},
		{"bad UTF-8 in a close reason", closeFrame(1000, "\xff"), lim, "1007"},
		{"1025 fragments", frame(0x01, "") + strings.Repeat(frame(0x00, ""), 1024), lim, "1008"},
		{"binary refused", frame(0x82, "a"), lim, "1003"},
		{"binary refused by its header", raw(0x02, 0xff), lim, "1003"},
	}
	for op := byte(3); op < 16; op++ {
		if op < 8 || op > 10 {
			tests = append(tests, struct {
				name, in string
				lim      Limits
				want     string
			}{fmt.Sprintf("opcode %x", op), frame(0x80|op, ""), lim, "1002"})
		}
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			for _, cuts := range [][]int{nil, bytewise(c.in), {len(c.in) / 2}, {len(c.in) / 3, len(c.in) - 1}} {
				if got := parse(t, c.in, c.lim, cuts...); got != c.want {
					t.Fatalf("cut at %.20v: %.200s, want %.200s", cuts, got, c.want)
				}
			}
		})
	}
}

func TestCloseCodes(t *testing.T) {
	good := func(c int) bool {
		return c >= 1000 && c <= 1003 || c >= 1007 && c <= 1014 || c >= 3000 && c < 5000
	}
	for code := range 1 << 16 {
		want := "1002"
		if good(code) {
			want = fmt.Sprintf("close%d:", code)
		}
		if got := parse(t, closeFrame(uint16(code), ""), Limits{}); got != want {
			t.Fatalf("code %d: %s", code, got)
		}
	}
}

// TestMaskOffset cuts one frame in every pair of places.
func TestMaskOffset(t *testing.T) {
	in := frame(0x81, "Grüße, 世界, 0123456789 abcdefghijklmnopqrstuvwxyz")
	lim := Limits{MaxMessage: 100}
	want := parse(t, in, lim)
	for i := range in {
		for j := i; j < len(in); j++ {
			if got := parse(t, in, lim, i, j); got != want {
				t.Fatalf("cut at %d, %d: %s", i, j, got)
			}
		}
	}
}

// TestPayloadOwner holds what the doc says of Payload: part of the input when
// whole, the parser's own until the next call otherwise.
func TestPayloadOwner(t *testing.T) {
	var p Parser
	a := newPool(t)
	lim := &Limits{MaxMessage: 100}
	in := []byte(frame(0x81, "abc"))
	ev, _, _ := p.Next(in, lim, a)
	if &ev.Payload[0] != &in[6] || !p.Idle() || len(a.out) > 0 {
		t.Error("a whole frame was copied")
	}
	in = []byte(frame(0x81, "abc"))
	_, _, _ = p.Next(in[:7], lim, a)
	ev, n, _ := p.Next(in[7:], lim, a)
	if ev.Kind != Message || n != 2 || p.Idle() || p.Mid() || p.Held() == 0 {
		t.Errorf("%+v %d", ev, n)
	}
	clear(in)
	if string(ev.Payload) != "abc" {
		t.Errorf("payload %q", ev.Payload)
	}
	if ev, _, _ := p.Next(nil, lim, a); ev.Kind != None || !p.Idle() || len(a.out) > 0 {
		t.Error("the payload's buffer was kept")
	}
}

// TestClaims holds that a header's claim takes no memory, and that a budget
// that is spent closes the connection with 1013.
func TestClaims(t *testing.T) {
	var p Parser
	a := newPool(t)
	lim := &Limits{MaxMessage: 16 << 20, Binary: true}
	in := []byte{0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}
	if _, _, cerr := p.Next(in, lim, a); cerr != nil || a.most > 0 {
		t.Fatal(cerr, a.most)
	}
	_, _, _ = p.Next([]byte("x"), lim, a)
	if a.most > 64 || !p.Mid() {
		t.Errorf("%d bytes for one received", a.most)
	}
	a.fail = true
	_, _, cerr := p.Next(make([]byte, 100), lim, a)
	if cerr == nil || cerr.Code != 1013 {
		t.Error(cerr)
	}
	p.Release(a)
	if len(a.out) > 0 {
		t.Error("leak")
	}
}

// TestFragmentsAreCopiedSeldom holds that a message in many fragments costs its
// length in copying, not its square.
func TestFragmentsAreCopiedSeldom(t *testing.T) {
	const fragments, size = 1 << 12, 64
	one := strings.Repeat("x", size)
	for _, c := range []struct {
		first byte
		most  int
	}{
		{0x02, fragments * size}, {0x02, 1 << 20},
		{0x42, fragments*size - 1000}, // compressed, more of it may come than it comes to
	} {
		in := frame(c.first, one) + strings.Repeat(frame(0x00, one), fragments-2) + frame(0x80, one)
		a := newPool(t)
		a.exact = true
		lim := &Limits{MaxMessage: c.most, Binary: true, Deflate: true}
		var p Parser
		ev, _, cerr := p.Next([]byte(in), lim, a)
		if cerr != nil || len(ev.Payload) != fragments*size {
			t.Fatal(cerr, len(ev.Payload))
		}
		if a.lent > 4*fragments*size || a.most > lim.room(c.first&rsv1 != 0) {
			t.Errorf("%d bytes lent for a message of %d, %d at once", a.lent, fragments*size, a.most)
		}
		p.Release(a)
	}
}

func TestParserSize(t *testing.T) {
	if n := unsafe.Sizeof(Parser{}); n > 72 {
		t.Errorf("Parser is %d bytes", n)
	}
}

func TestTextPrefix(t *testing.T) {
	for in, want := range map[string]int{"": 0, "a": 1, "a\xc3": 1, "\xe2\x82": 0, "é\xf0\x9f\x98": 2, "é": 2,
		"\xff": -1, "\x80": -1, "a\x80\x80\x80\x80": -1, "\xed\xa0": -1, "\xf4\x90": -1, "\xe0\x80": -1, "\xf5": -1} {
		good, ok := textPrefix([]byte(in))
		if !ok {
			good = -1
		}
		if good != want {
			t.Errorf("%q: %d, want %d", in, good, want)
		}
	}
}

func TestParserAllocates(t *testing.T) {
	in := []byte(frame(0x81, `{"op":"ping","id":5}`))
	buf := make([]byte, len(in))
	lim := &Limits{MaxMessage: 1 << 16}
	if n := testing.AllocsPerRun(1000, func() {
		var p Parser
		copy(buf, in)
		if ev, _, _ := p.Next(buf, lim, nil); !bytes.HasPrefix(ev.Payload, []byte(`{"op"`)) {
			t.Fatal("no message")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
