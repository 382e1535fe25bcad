package wire

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzFragments sends one message in fragments of any lengths, control frames
// between them, cut anywhere on the wire. It comes out as it went in; a text
// that is not UTF-8 is refused by the very byte that spoils it, and what came
// before that byte is not kept back.
func FuzzFragments(f *testing.F) {
	f.Add([]byte("Grüße, 世界 😀"), []byte{1, 2, 0, 3}, []byte{0, 1, 2}, false, uint64(1))
	f.Add([]byte("a\xed\xa0\x80b"), []byte{2}, []byte{1}, false, uint64(2))
	f.Add([]byte("a\xe2\x82"), []byte{1, 1, 1, 0}, []byte{}, false, uint64(3))
	f.Add([]byte("\xff\xfe"), []byte{0}, []byte{2, 2}, true, uint64(4))
	f.Add([]byte("\xf4\x90\x80\x80"), []byte{}, []byte{}, false, uint64(5))
	f.Add([]byte(strings.Repeat("x", 70_000)), []byte{200, 130}, []byte{1}, true, uint64(6))
	f.Fuzz(func(t *testing.T, msg, lengths, between []byte, binary bool, seed uint64) {
		if len(msg) > 1<<17 || len(lengths) > 200 || len(between) > 400 {
			return
		}
		in, want := fragmented(msg, lengths, between, binary)
		lim := Limits{MaxMessage: 1 << 17, Binary: true}
		r := rand.New(rand.NewPCG(seed, 0))
		var cuts []int
		for at := r.IntN(len(in)); at < len(in); at += 1 + r.IntN(1+len(in)/4) {
			cuts = append(cuts, at)
		}
		if got := parse(t, in, lim, cuts...); got != want {
			t.Fatalf("cut at %v: %.200s, want %.200s", cuts, got, want)
		}
		if n := len(in); strings.HasSuffix(" "+want, " 1007") {
			for _, cut := range []int{n, n - 1} { // the last byte of in is the one that spoils it
				want := want
				if cut < n {
					want = strings.TrimSuffix(strings.TrimSuffix(want, "1007"), " ")
					want = strings.TrimPrefix(want+" mid", " ")
				}
				if got := parse(t, in[:cut], lim); got != want {
					t.Fatalf("%d of %d bytes: %.200s, want %.200s", cut, n, got, want)
				}
			}
		}
	})
}

// fragmented is a message's frames and what parse says of them. Of a text that
// is not UTF-8 the frames end with the byte that shows it.
func fragmented(msg, lengths, between []byte, binary bool) (in, want string) {
	op, kind := OpText, "text"
	if binary {
		op, kind = OpBinary, "bin"
	}
	spoiled := -1 // the index of the first byte that no more can mend, len(msg) for its end
	if !binary {
		spoiled = spoils(msg)
	}
	var out []string
	for i, at := 0, 0; ; i++ {
		last := i >= len(lengths)
		end := len(msg)
		if !last {
			end = min(end, at+int(lengths[i]))
		}
		b0 := op
		if last {
			b0 |= 0x80
		}
		one := frame(b0, string(msg[at:end]))
		op = 0
		switch {
		case spoiled >= 0 && spoiled < end:
			in += one[:len(one)-(end-spoiled-1)]
			return in, strings.Join(append(out, "1007"), " ")
		case spoiled >= 0 && last:
			return in + one, strings.Join(append(out, "1007"), " ")
		}
		in += one
		if last {
			return in, strings.Join(append(out, fmt.Sprintf("%s:%x", kind, msg)), " ")
		}
		at = end
		if i < len(between) {
			payload := string(between[:min(len(between), int(between[i]&0x7f), 125)])
			switch between[i] % 3 {
			case 1:
				in += frame(0x80|OpPing, payload)
				out = append(out, fmt.Sprintf("ping:%x", payload))
			case 2:
				in += frame(0x80|OpPong, payload)
				out = append(out, fmt.Sprintf("pong:%x", payload))
			}
		}
	}
}

// spoils is the index of the first byte after which b can't become UTF-8 any
// more, len(b) if it would need more bytes, -1 if it is good. It knows the
// encoding from RFC 3629's table of it, and nothing of unicode/utf8.
func spoils(b []byte) int {
	for i := 0; i < len(b); {
		lo, hi, more := byte(0x80), byte(0xbf), 0
		switch c := b[i]; {
		case c < 0x80:
		case c >= 0xc2 && c <= 0xdf:
			more = 1
		case c >= 0xe0 && c <= 0xef:
			more = 2
			switch c {
			case 0xe0:
				lo = 0xa0
			case 0xed:
				hi = 0x9f
			}
		case c >= 0xf0 && c <= 0xf4:
			more = 3
			switch c {
			case 0xf0:
				lo = 0x90
			case 0xf4:
				hi = 0x8f
			}
		default:
			return i
		}
		for i++; more > 0; more-- {
			if i == len(b) {
				return i
			}
			if b[i] < lo || b[i] > hi {
				return i
			}
			lo, hi = 0x80, 0xbf
			i++
		}
	}
	return -1
}

func TestSpoils(t *testing.T) {
	for b, want := range map[string]int{
		"": -1, "a": -1, "é世😀": -1, "a\xff": 1, "\xc0\xaf": 0, "\xe0\x80": 1, "\xed\xa0\x80": 1, "\xf4\x90": 1, "\xf0\x8f": 1, "\xf5": 0,
		"a\xe2\x82": 3, "\xe2\x82\x28": 2, "\x80": 0, "\xf0\x9f\x98": 3,
	} {
		if got := spoils([]byte(b)); got != want || utf8.ValidString(b) != (want < 0) {
			t.Errorf("%q: %d, want %d", b, got, want)
		}
	}
}
