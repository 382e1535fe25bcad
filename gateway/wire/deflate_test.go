package wire

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"
)

// stdDeflate compresses by the standard library, as a client would.
func stdDeflate(t testing.TB, level int, pieces ...string) string {
	t.Helper()
	var b bytes.Buffer
	z, err := flate.NewWriter(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pieces {
		io.WriteString(z, p)
		z.Flush() // a block each
	}
	return strings.TrimSuffix(b.String(), flushed)
}

// stdInflate is what the standard library makes of a compressed payload, at most max
// bytes and one; left is how many of its bytes lie behind the final block.
func stdInflate(payload []byte, max int) (out []byte, left int, err error) {
	in := bytes.NewReader(append(bytes.Clone(payload), trailer...))
	out, err = io.ReadAll(io.LimitReader(flate.NewReader(in), int64(max)+1))
	return out, in.Len() - len(trailer), err
}

// market is text like that of the logs: n bytes of JSON that repeats itself a bit.
func market(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `["%d.%02d","0.%03d"],`, 61000+i*7%100, i*31%100, i*i%1000)
	}
	return b.String()[:n]
}

func TestDeflater(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	}
	var d Deflater
	for _, n := range []int{0, 1, 2, MinDeflated - 1, MinDeflated, 300, 1000, 4096, 32766, 32767, 32768, 40000, 65535, 65536, 70000, 300_000} {
		for kind, payload := range map[string]string{"market": market(n), "noise": noise(n), "one letter": strings.Repeat("x", n)} {
			in := AppendFrame([]byte("in"), OpText, []byte(payload))[2:]
			out, deflated := d.Append([]byte("before"), in)
			if !bytes.HasPrefix(out, []byte("before")) {
				t.Fatal("what was before it has changed")
			}
			out = out[len("before"):]
			if want := n >= MinDeflated && kind != "noise"; deflated != want {
				t.Errorf("%s, %d B: deflated %v", kind, n, deflated)
			}
			if !deflated {
				if !bytes.Equal(out, in) {
					t.Errorf("%s, %d B: not as it was", kind, n)
				}
				continue
			}
			if out[0] != 0xc1 || len(out) >= len(in) {
				t.Errorf("%s, %d B: begins with %x, has %d B", kind, n, out[0], len(out))
			}
			got, left, err := stdInflate(out[payloadAt(out):], n)
			if err != nil || string(got) != payload || left > 0 {
				t.Errorf("%s, %d B: %v, %d B come out, %d left", kind, n, err, len(got), left)
			}
			if again, _ := d.Append(nil, in); !bytes.Equal(again, out) {
				t.Errorf("%s, %d B: it depends on what was compressed before", kind, n)
			}
			if whole := d.AppendMessage(nil, OpBinary, []byte(payload)); !bytes.Equal(whole[1:], out[1:]) || whole[0] != 0xc2 {
				t.Errorf("%s, %d B: AppendMessage differs", kind, n)
			}
		}
	}
}

func TestInflater(t *testing.T) {
	text := market(5000) + "é€😀"
	// Section 7.2.3 of RFC 7692, its examples.
	for name, c := range map[string]struct{ in, want string }{
		"7.2.3.1 one block":       {"\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		"7.2.3.3 stored":          {"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "Hello"},
		"7.2.3.4 final block":     {"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello"},
		"7.2.3.5 two blocks":      {"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello"},
		"7.2.3.6 empty":           {"\x00", ""},
		"final block, no padding": {"\xf3\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		"fast":                    {stdDeflate(t, 1, text), text},
		"best":                    {stdDeflate(t, 9, text), text},
		"not compressed":          {stdDeflate(t, 0, text), text},
		"huffman":                 {stdDeflate(t, flate.HuffmanOnly, text), text},
		"many blocks":             {stdDeflate(t, 6, strings.Split(text, ",")...), strings.ReplaceAll(text, ",", "")},
	} {
		var f Inflater
		a := newPool(t)
		for range 2 { // and once more with the same
			got, cerr := f.Inflate([]byte(c.in), len(text), true, a)
			if cerr != nil || string(got) != c.want {
				t.Errorf("%s: %v, %.60q", name, cerr, got)
			}
			if got != nil {
				a.Put(got)
			}
		}
		if len(a.out) > 0 {
			t.Errorf("%s: %d buffers leaked", name, len(a.out))
		}
	}
}

// emptyBlocks is n bytes of dynamic Huffman blocks (RFC 1951 section 3.2.7) that hold
// nothing but their end: a decompressor builds its tables for each of them.
func emptyBlocks(n int) string {
	var out []byte
	var acc, bits uint
	put := func(v, k uint) {
		acc |= v << bits
		for bits += k; bits >= 8; bits -= 8 {
			out = append(out, byte(acc))
			acc >>= 8
		}
	}
	for len(out) < n-24 {
		put(0, 1)  // not the last
		put(2, 2)  // dynamic
		put(0, 5)  // 257 literals and lengths
		put(0, 5)  // one distance
		put(14, 4) // 18 lengths of codes, up to that of symbol 1
		for i := range 18 {
			switch i { // in the order 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1
			case 2, 17:
				put(1, 3) // 18, many zeros, and 1: a bit each
			default:
				put(0, 3)
			}
		}
		// Codes in the order of their symbols: 1 is 0, 18 is 1.
		put(1, 1)
		put(138-11, 7) // 138 zeros
		put(1, 1)
		put(118-11, 7) // 118: all 256 literals
		put(0, 1)      // the end of a block has a code of one bit
		put(0, 1)      // and the distance
		put(0, 1)      // the end
	}
	put(0, 3) // an empty stored block, as a flush leaves it
	if bits > 0 {
		put(0, 8-bits)
	}
	return string(out)
}

func TestInflaterRefuses(t *testing.T) {
	good := stdDeflate(t, 6, market(3000))
	final := func(s string) string {
		var b bytes.Buffer
		z, _ := flate.NewWriter(&b, 6)
		io.WriteString(z, s)
		z.Close()
		return b.String()
	}
	var f Inflater // the same for all: none spoils the next
	for name, c := range map[string]struct {
		in   string
		max  int
		text bool
		code uint16
	}{
		"exactly the most":           {good, 3000, true, 0},
		"one more":                   {good, 2999, true, 1009},
		"the most, in a final block": {final(market(3000)), 3000, true, 0},
		"more, in a final block":     {final(market(3000)), 2999, true, 1009},
		"the most is none":           {"\x00", 0, true, 0},
		"a bomb":                     {stdDeflate(t, 9, strings.Repeat("\x00", 16<<20)), 64 << 10, true, 1009},
		"many blocks of nothing":     {emptyBlocks(64 << 10), 1000, true, 0},
		"no byte":                    {"", 1000, true, 1007}, // 7.2.3.6: an empty message has one
		"noise":                      {"\xff\xff\xff\xff", 1000, true, 1007},
		"reserved block type":        {"\x07", 1000, true, 1007},
		"distance too far":           {"\x02\x08", 1000, true, 1007},
		"stored, lengths differ":     {"\x00\x05\x00\x00\x00Hello", 1000, true, 1007},
		"stored, cut":                {"\x00\x05\x00\xfa\xffHel", 1000, true, 1007},
		"cut":                        {good[:len(good)/2], 5000, true, 1007},
		"two final blocks":           {final("a") + final("b"), 1000, true, 1007},
		"bytes behind a final block": {final("a") + "\x00\x00", 1000, true, 1007},
		"not UTF-8":                  {stdDeflate(t, 6, "a\xffb"), 1000, true, 1007},
		"half a character":           {stdDeflate(t, 6, "a\xe2\x82"), 1000, true, 1007},
		"binary":                     {stdDeflate(t, 6, "a\xffb"), 1000, false, 0},
	} {
		a := newPool(t)
		began := time.Now()
		out, cerr := f.Inflate([]byte(c.in), c.max, c.text, a)
		code := uint16(0)
		if cerr != nil {
			code = cerr.Code
		}
		if code != c.code || (cerr != nil) != (out == nil) && c.code != 0 {
			t.Errorf("%s: %v, %d B; want %d", name, cerr, len(out), c.code)
		}
		if a.most > max(c.max, 1) {
			t.Errorf("%s: a buffer of %d B for at most %d", name, a.most, c.max)
		}
		if d := time.Since(began); d > 500*time.Millisecond {
			t.Errorf("%s: took %v", name, d)
		}
		if out != nil {
			a.Put(out)
		}
		if len(a.out) > 0 {
			t.Errorf("%s: %d buffers leaked", name, len(a.out))
		}
	}
	if _, cerr := f.Inflate([]byte(good), 5000, true, &pool{t: t, fail: true}); cerr == nil || cerr.Code != 1013 {
		t.Errorf("without buffers: %v", cerr)
	}
	if out, cerr := f.Inflate([]byte(good), 5000, true, newPool(t)); cerr != nil || string(out) != market(3000) {
		t.Errorf("after all that: %v", cerr)
	}
}

// The buffer follows what has come out, not what might.
func TestInflaterGrows(t *testing.T) {
	a := newPool(t)
	if _, cerr := new(Inflater).Inflate([]byte(stdDeflate(t, 9, strings.Repeat("x", 3000))), 16<<20, true, a); cerr != nil {
		t.Fatal(cerr)
	}
	if a.most > 6100 {
		t.Errorf("a buffer of %d B for 3000", a.most)
	}
}

// RSV1 is for a data message's first frame, where compression was negotiated, RFC
// 7692 section 6.
func TestCompressedFrames(t *testing.T) {
	z := stdDeflate(t, 6, "hello hello hello")
	hex := fmt.Sprintf("%x", z)
	half := len(z) / 2
	big := strings.Repeat("x", 1000)
	for name, c := range map[string]struct{ in, with, without string }{
		"one frame":               {frame(0xc1, z), "ztext:" + hex, "1002"},
		"not UTF-8 as it comes":   {frame(0xc1, "\xff\xfe"), "ztext:fffe", "1002"},
		"none of it compressed":   {frame(0x81, "a"), "text:61", "text:61"},
		"one of each":             {frame(0xc1, z) + frame(0x81, "a"), "ztext:" + hex + " text:61", "1002"},
		"fragments":               {frame(0x41, z[:half]) + frame(0x00, "") + frame(0x80, z[half:]), "ztext:" + hex, "1002"},
		"a ping in between":       {frame(0x41, z[:half]) + frame(0x89, "p") + frame(0x80, z[half:]), "ping:70 ztext:" + hex, "1002"},
		"fragments, then plain":   {frame(0x41, z[:half]) + frame(0x80, z[half:]) + frame(0x01, "a") + frame(0x80, "b"), "ztext:" + hex + " text:6162", "1002"},
		"plain, bad UTF-8":        {frame(0x01, "a") + frame(0x80, "\xff"), "1007", "1007"},
		"RSV1 on a continuation":  {frame(0x41, z[:half]) + frame(0xc0, z[half:]), "1002", "1002"},
		"RSV1 only on the second": {frame(0x01, "a") + frame(0xc0, "b"), "1002", "1002"},
		"RSV1 on a ping":          {frame(0xc9, "p"), "1002", "1002"},
		"RSV1 on a pong":          {frame(0xca, "p"), "1002", "1002"},
		"RSV1 on a close":         {frame(0xc8, ""), "1002", "1002"},
		"RSV1 on an orphan":       {frame(0xc0, "a"), "1002", "1002"},
		"RSV1 on a reserved op":   {frame(0xc3, "a"), "1002", "1002"},
		"RSV2":                    {frame(0xa1, "a"), "1002", "1002"},
		"RSV1 and RSV2":           {frame(0xe1, z), "1002", "1002"},
		"RSV1 and RSV3":           {frame(0xd1, z), "1002", "1002"},
		"binary":                  {frame(0xc2, z), "1003", "1002"},
		"a new message inside":    {frame(0x41, z) + frame(0xc1, z), "1002", "1002"},
		"too big, compressed":     {frame(0xc1, big+big[:100]), "1009", "1002"},
		"too big, in fragments":   {frame(0x41, big) + frame(0x80, big), "1009", "1002"},
		"too many fragments":      {frame(0x41, "") + strings.Repeat(frame(0x00, ""), 8), "1008", "1002"},
	} {
		for deflate, want := range map[bool]string{true: c.with, false: c.without} {
			lim := Limits{MaxMessage: 1000, MaxFragments: 8, Deflate: deflate}
			if got := parse(t, c.in, lim); got != want {
				t.Errorf("%s, negotiated %v: %s, want %s", name, deflate, got, want)
			}
			if got := parse(t, c.in, lim, bytewise(c.in)...); got != want {
				t.Errorf("%s, negotiated %v, byte by byte: %s, want %s", name, deflate, got, want)
			}
		}
	}
}

// What does not get shorter when compressed is a few bytes longer: a message of the
// greatest length may come so.
func TestIncompressibleMessageOfTheGreatestLength(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for _, n := range []int{125, 1000, 64 << 10, 1 << 20} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		for _, level := range []int{0, 1, 6, 9, flate.HuffmanOnly} {
			z := stdDeflate(t, level, string(b))
			lim := Limits{MaxMessage: n, Binary: true, Deflate: true}
			if got := parse(t, frame(0xc2, z), lim); !strings.HasPrefix(got, "zbin:") {
				t.Errorf("%d B at level %d, %d B compressed: %s", n, level, len(z), got)
			}
		}
	}
}

// The capacity formula counts compressors and decompressors at these sizes.
func TestDeflaterSizes(t *testing.T) {
	if testing.CoverMode() != "" {
		t.Skip("counters count as well")
	}
	in := AppendFrame(nil, OpText, []byte(market(64<<10)))
	allocated := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC() // twice: for what pools keep
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	dst := make([]byte, 0, 128<<10)
	d := &Deflater{out: make([]byte, 0, 64<<10)}
	if n := allocated(func() { d.Append(dst, in) }); n+maxScratch > DeflaterSize {
		t.Errorf("a compressor takes %d B and its buffer, more than %d", n, DeflaterSize)
	}
	d.Append(nil, AppendFrame(nil, OpText, []byte(market(1<<20))))
	d.AppendMessage(nil, OpText, []byte(market(1<<20)))
	if cap(d.out) > maxScratch {
		t.Errorf("it keeps a buffer of %d B", cap(d.out))
	}
	z := []byte(stdDeflate(t, 6, market(60<<10)))
	a := newPool(t)
	buf, _ := a.Get(64 << 10)
	f := new(Inflater)
	if n := allocated(func() { f.Inflate(z, 64<<10, true, lender(buf)) }); n > InflaterSize {
		t.Errorf("a decompressor takes %d B, more than %d", n, InflaterSize)
	}
}

// lender lends one buffer, again and again.
type lender []byte

func (l lender) Get(n int) ([]byte, error) {
	if n > len(l) {
		return nil, errors.New("too much")
	}
	return l[:n], nil
}

func (l lender) Put([]byte) {}

func TestDeflateAllocatesNothing(t *testing.T) {
	in := AppendFrame(nil, OpText, []byte(market(500)))
	dst := make([]byte, 0, 4096)
	var d Deflater
	if n := testing.AllocsPerRun(100, func() { d.Append(dst, in) }); n >= 8 { // a pool of the race detector's forgets; a compressor of its own were many more
		t.Errorf("%.1f allocations to compress", n)
	}
	z := []byte(stdDeflate(t, 6, market(500)))
	var f Inflater
	var buf Alloc = lender(make([]byte, 4096))
	if n := testing.AllocsPerRun(100, func() { f.Inflate(z, 4096, true, buf) }); n >= 1 {
		t.Errorf("%.1f allocations to inflate", n)
	}
}

// FuzzInflate holds that what comes out is what the standard library makes of it, or
// an error where it finds one, in no more memory than allowed; and that what goes
// into a Deflater comes out of both.
func FuzzInflate(f *testing.F) {
	f.Add([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00"), uint16(100))
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), uint16(5))
	f.Add([]byte("\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), uint16(4))
	f.Add([]byte("\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), uint16(5))
	f.Add([]byte(stdDeflate(f, 9, strings.Repeat("\x00", 1<<16))), uint16(1<<15))
	f.Add([]byte(stdDeflate(f, 6, market(2000))), uint16(2000))
	f.Add([]byte(market(2000)), uint16(2000))
	f.Fuzz(func(t *testing.T, in []byte, limit uint16) {
		max := int(limit)
		want, left, err := stdInflate(in, max)
		a := newPool(t)
		var z Inflater
		got, cerr := z.Inflate(in, max, false, a)
		switch {
		case len(want) > max:
			if cerr == nil {
				t.Fatalf("%d B of at most %d came out", len(got), max)
			}
		case err != nil || left > 1:
			if cerr == nil {
				t.Fatalf("%q came out; the standard library says %v, %d B left", got, err, left)
			}
		case cerr != nil:
			t.Fatalf("%v; the standard library says %q", cerr, want)
		case !bytes.Equal(got, want):
			t.Fatalf("%q, but the standard library says %q", got, want)
		}
		if a.most > max {
			t.Fatalf("a buffer of %d B for at most %d", a.most, max)
		}
		if got != nil {
			a.Put(got)
		}
		if len(a.out) > 0 {
			t.Fatal("a buffer leaked")
		}

		var d Deflater
		out, deflated := d.Append(nil, AppendFrame(nil, OpText, in))
		if !deflated {
			return
		}
		payload := out[payloadAt(out):]
		if back, left, err := stdInflate(payload, len(in)); err != nil || left > 0 || !bytes.Equal(back, in) {
			t.Fatalf("compressed and back by the standard library: %v %q", err, back)
		}
		if back, cerr := z.Inflate(payload, len(in), false, a); cerr != nil || !bytes.Equal(back, in) {
			t.Fatalf("compressed and back: %v %q", cerr, back)
		}
	})
}

func BenchmarkDeflate(b *testing.B) {
	for _, n := range []int{300, 1000, 10_000} {
		in := AppendFrame(nil, OpText, []byte(market(n)))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var d Deflater
			dst := make([]byte, 0, 2*n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				d.Append(dst, in)
			}
		})
	}
}

func BenchmarkInflate(b *testing.B) {
	for name, in := range map[string]string{"command": stdDeflate(b, 6, market(500)), "bomb": stdDeflate(b, 9, strings.Repeat("\x00", 1<<20)),
		"256 B of nothing": emptyBlocks(256), "1 KiB of nothing": emptyBlocks(1 << 10), "64 KiB of nothing": emptyBlocks(64 << 10)} {
		b.Run(name, func(b *testing.B) {
			var f Inflater
			var buf Alloc = lender(make([]byte, 64<<10))
			b.ReportAllocs()
			for b.Loop() {
				f.Inflate([]byte(in), 64<<10, true, buf)
			}
		})
	}
}
