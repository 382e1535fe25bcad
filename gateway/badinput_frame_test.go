package gateway

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// header is a masked frame header whose length is written as given: 7, 16 or
// 64 bits of it.
func header(first byte, length uint64, bits int) string {
	b := []byte{first}
	switch bits {
	case 7:
		b = append(b, 0x80|byte(length))
	case 16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), length)
	}
	return string(b)
}

func TestBadFrames(t *testing.T) {
	t.Parallel()
	const limit = 4096
	g := newTestGateway(t, func(c *Config) { c.MaxMessage = limit })
	text, cont, ping := byte(opText), byte(0), `{"op":"ping","id":1}`
	type row struct {
		name  string
		code  int
		bytes string
	}
	rows := []row{
		{"unmasked", 1002, "\x81\x05hello"},
		{"unmasked and empty", 1002, "\x81\x00"},
		{"unmasked ping", 1002, "\x89\x00"},
		{"unmasked close", 1002, "\x88\x02\x03\xe8"},
		{"RSV1", 1002, masked(fin|0x40|text, ping)},
		{"RSV2", 1002, masked(fin|0x20|text, ping)},
		{"RSV3", 1002, masked(fin|0x10|text, ping)},
		{"RSV1 on a ping", 1002, masked(fin|0x40|opPing, "")},
		{"RSV1 on a continuation", 1002, masked(text, "{") + masked(fin|0x40, "}")},
		{"fragmented ping", 1002, masked(opPing, "")},
		{"fragmented pong", 1002, masked(opPong, "")},
		{"fragmented close", 1002, masked(opClose, "\x03\xe8")},
		{"long ping", 1002, masked(fin|opPing, strings.Repeat("a", 126))},
		{"long pong", 1002, masked(fin|opPong, strings.Repeat("a", 126))},
		{"long close", 1002, masked(fin|opClose, "\x03\xe8"+strings.Repeat("a", 124))},
		{"ping of 2^62", 1002, header(fin|opPing, 1<<62, 64)},
		{"orphan continuation", 1002, masked(fin|cont, ping)},
		{"orphan continuation, not the last", 1002, masked(cont, ping)},
		{"new text in a message", 1002, masked(text, "{") + masked(fin|text, ping)},
		{"new binary in a message", 1002, masked(text, "{") + masked(fin|opBinary, ping)},
		{"5 in 16 bits", 1002, header(fin|text, 5, 16) + maskBytes("hello")},
		{"125 in 16 bits", 1002, header(fin|text, 125, 16)},
		{"200 in 64 bits", 1002, header(fin|text, 200, 64)},
		{"65535 in 64 bits", 1002, header(fin|text, 65535, 64)},
		{"0 in 64 bits", 1002, header(fin|text, 0, 64)},
		{"length with the top bit", 1002, header(fin|text, 1<<63|5, 64)},
		{"length of all ones", 1002, header(fin|text, 1<<64-1, 64)},
		{"close of one byte", 1002, masked(fin|opClose, "\x03")},

		{"length 2^62", 1009, header(fin|text, 1<<62, 64)},
		{"length 2^32", 1009, header(fin|text, 1<<32, 64)},
		{"length 2^31", 1009, header(fin|text, 1<<31, 64)},
		{"limit + 1, announced", 1009, header(fin|text, limit+1, 16)},
		{"limit + 1, sent", 1009, masked(fin|text, strings.Repeat(" ", limit+1))},
		{"fragments of limit + 1", 1009, masked(text, strings.Repeat(" ", limit)) + masked(fin|cont, " ")},
		{"fragments of limit + 1, the first small", 1009, masked(text, " ") + header(cont, limit, 16)},
		{"many fragments of limit + 1", 1009, masked(text, strings.Repeat(" ", limit/2)) + masked(cont, strings.Repeat(" ", limit/2)) + masked(cont, "") + header(fin|cont, 1, 7)},

		{"bad UTF-8", 1007, masked(fin|text, "\"\xff\"")},
		{"overlong NUL", 1007, masked(fin|text, "\xc0\x80")},
		{"overlong slash", 1007, masked(fin|text, "\xe0\x80\xaf")},
		{"surrogate", 1007, masked(fin|text, "\xed\xa0\x80")},
		{"beyond U+10FFFF", 1007, masked(fin|text, "\xf4\x90\x80\x80")},
		{"lone continuation byte", 1007, masked(fin|text, "\x80")},
		{"character cut at the message's end", 1007, masked(fin|text, "a\xe2\x82")},
		{"character cut at the last fragment's end", 1007, masked(text, "\xe2") + masked(fin|cont, "\x82")},
		{"bad UTF-8 in a fragment", 1007, masked(text, "\xff")},
		{"bad UTF-8 across fragments", 1007, masked(text, "\xe2") + masked(cont, "\x28")},
		{"bad UTF-8 in a frame not yet whole", 1007, header(fin|text, 100, 7) + maskBytes("\xff")},
		{"bad UTF-8 in a close reason", 1007, closeFrame(1000, "\xff")},
		{"cut UTF-8 in a close reason", 1007, closeFrame(1000, "a\xe2\x82")},

		{"binary", 1003, masked(fin|opBinary, ping)},
		{"empty binary", 1003, masked(fin|opBinary, "")},
		{"fragmented binary", 1003, masked(opBinary, "a")},
		{"binary announced", 1003, header(fin|opBinary, 1<<20, 64)},

		{"1025 fragments", 1008, masked(text, "1") + strings.Repeat(masked(cont, ""), 1024)},
		{"1025 fragments, the last one final", 1008, masked(text, "") + strings.Repeat(masked(cont, ""), 1023) + masked(fin|cont, "1")},
	}
	for op := range byte(16) {
		if op > opBinary && op < opClose || op > opPong {
			rows = append(rows, row{fmt.Sprintf("opcode %d", op), 1002, masked(fin|op, "")})
			rows = append(rows, row{fmt.Sprintf("opcode %d, not the last", op), 1002, masked(op, "")})
		}
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65535} {
		rows = append(rows, row{fmt.Sprintf("close code %d", code), 1002, closeFrame(code, "")})
	}
	k := g.canary(t)
	most := g.highWater()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			eachCut(t, func(t *testing.T, segment int) {
				c := g.rawOpen(t)
				c.send(r.bytes, segment)
				sent := time.Now()
				c.wantClose(r.code)
				if d := time.Since(sent); d > time.Second+slack {
					t.Errorf("closed after %v", d)
				}
			})
			t.Run("between good ones", func(t *testing.T) {
				c := g.rawOpen(t)
				c.send(say(ping)+r.bytes+say(ping), 0)
				c.wantClose(r.code, `{"t":"pong","id":1}`)
			})
		})
	}
	t.Run("continuation after a whole message", func(t *testing.T) {
		eachCut(t, func(t *testing.T, segment int) {
			c := g.rawOpen(t)
			c.send(masked(text, ping[:9])+masked(fin|cont, ping[9:])+masked(fin|cont, ping), segment)
			c.wantClose(1002, `{"t":"pong"`)
		})
	})
	t.Run("closes told", func(t *testing.T) {
		for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4000, 4999} {
			eachCut(t, func(t *testing.T, segment int) {
				c := g.rawOpen(t)
				// What comes after a close is ignored, whatever it is.
				c.send(closeFrame(code, "bye ✓")+say(ping)+"\x81\x05hello"+header(fin|text, 1<<62, 64), segment)
				c.wantClose(code)
			})
		}
		c := g.rawOpen(t)
		c.send(masked(fin|opClose, ""), 0)
		c.wantClose(1005)
	})
	if n := most(); n > 64<<10+512 { // the smallest buffer for what came behind it, and for the answer
		t.Errorf("%d bytes pooled for one bad frame", n)
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// The limits as they are by default: 64 KiB are a command, one byte more is not.
func TestMessageLimit(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	k := g.canary(t)
	most := g.highWater()
	fill := func(n int) string {
		s := `{"op":"ping","id":7,"pad":""}`
		return s[:len(s)-2] + strings.Repeat("p", n-len(s)) + s[len(s)-2:]
	}
	for name, segment := range map[string]int{"whole": 0, "bytes": 1, "odd pieces": 1447} {
		t.Run(name, func(t *testing.T) {
			c := g.rawOpen(t)
			c.send(say(fill(64<<10)), segment)
			if f := c.text(); f != `{"t":"pong","id":7}` {
				t.Fatal(f)
			}
			half := fill(64 << 10)
			c.send(masked(opText, half[:1000])+masked(fin, half[1000:]), segment)
			if f := c.text(); f != `{"t":"pong","id":7}` {
				t.Fatal(f)
			}
			c.send(masked(opText, half[:1000])+header(fin, uint64(len(half)-999), 16), segment)
			c.wantClose(1009)
		})
	}
	// A whole one is copied once for the pool to parse, and a buffer that grows
	// exists twice for a moment.
	if n := most(); n > 2*64<<10 {
		t.Errorf("%d bytes pooled for one message", n)
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

func TestGoodFrames(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	ping := `{"op":"ping","id":1,"pad":"é✓🚀"}`
	pong := `{"t":"pong","id":1}`
	cut := func(n int) string { // ping in fragments of n bytes, a control frame between each
		var b strings.Builder
		for i := 0; i < len(ping); i += n {
			first := byte(0)
			if i == 0 {
				first = opText
			}
			b.WriteString(masked(first, ping[i:min(len(ping), i+n)]))
			b.WriteString(masked(fin|opPong, "between"))
		}
		return b.String() + masked(fin, "")
	}
	rows := map[string]struct {
		bytes string
		want  []string
	}{
		"a command":                       {say(ping), []string{pong}},
		"64 frames":                       {strings.Repeat(say(ping), 64), strings.Split(strings.Repeat(pong+"\n", 64)[:64*(len(pong)+1)-1], "\n")},
		"UTF-8 split across fragments":    {cut(1), []string{pong}},
		"fragments of 3":                  {cut(3), []string{pong}},
		"1024 fragments":                  {masked(opText, ping) + strings.Repeat(masked(0, ""), 1022) + masked(fin, ""), []string{pong}},
		"empty fragments first":           {masked(opText, "") + masked(0, "") + masked(fin, ping), []string{pong}},
		"a ping, empty":                   {masked(fin|opPing, ""), []string{""}},
		"a ping of 125 bytes, not text":   {masked(fin|opPing, strings.Repeat("\xff", 125)), []string{strings.Repeat("\xff", 125)}},
		"a ping in the middle of a text":  {masked(opText, ping[:5]) + masked(fin|opPing, "here") + masked(fin, ping[5:]), []string{"here", pong}},
		"an unsolicited pong":             {masked(fin|opPong, "?") + say(ping), []string{pong}},
		"a mask of zeros":                 {header(fin|opText, uint64(len(ping)), 7) + "\x00\x00\x00\x00" + ping, []string{pong}},
		"a close in the middle of a text": {masked(opText, ping[:5]), nil},
	}
	for name, r := range rows {
		t.Run(name, func(t *testing.T) {
			eachCut(t, func(t *testing.T, segment int) {
				c := g.rawOpen(t)
				c.send(r.bytes+closeFrame(1001, ""), segment)
				c.wantClose(1001, r.want...)
			})
		})
	}
	g.wantNothingHeld(t, 0, 0)
}

func TestUnfinishedFrames(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.FrameTimeout, c.Echo = 500*time.Millisecond, true })
	k := g.canary(t)
	whole := say(`{"op":"ping","id":1}`)
	type started struct {
		name  string
		c     *raw
		begin time.Time
		end   string // "" when it is to be cut
	}
	var all []started
	begin := func(c *raw, name string, pause time.Duration, end string, pieces ...string) {
		all = append(all, started{name, c, time.Now(), end})
		go func() {
			for _, p := range append(pieces, end) {
				if c.send(p, 0) != nil {
					return
				}
				time.Sleep(pause)
			}
		}()
	}
	start := func(name string, pause time.Duration, end string, pieces ...string) {
		begin(g.rawOpen(t), name, pause, end, pieces...)
	}
	start("one byte of a header", 0, "", whole[:1])
	start("half a header", 0, "", whole[:4])
	start("a header", 0, "", whole[:6])
	start("half a payload", 0, "", whole[:len(whole)/2])
	start("all but the last byte", 0, "", whole[:len(whole)-1])
	start("half a ping", 0, "", masked(fin|opPing, "0123456789")[:9])
	start("half a close", 0, "", closeFrame(1000, "0123456789")[:9])
	start("a message without FIN", 0, "", masked(opText, "{")+masked(0, `"op":`))
	start("a text that is half there", 0, "", header(fin|opText, 60000, 16)+maskBytes(strings.Repeat(" ", 30000)))
	start("half a command behind a whole one", 0, "", say("{}")+whole[:9])
	drip := 40 * time.Millisecond
	start("drip in a payload", drip, "", strings.Split(header(fin|opText, 100, 7)+maskBytes(strings.Repeat(" ", 100)), "")...)
	start("fragments for ever", drip, "", append([]string{masked(opText, "1")}, slices.Repeat([]string{masked(0, " ")}, 99)...)...)
	start("fragments with pongs in between", drip, "", append([]string{masked(opText, "1")},
		slices.Repeat([]string{masked(fin|opPong, ""), masked(0, " ")}, 49)...)...)
	start("fragments with pongs across segments", drip, "", append([]string{masked(opText, "1") + "\x8a"},
		slices.Repeat([]string{"\x80\x00\x00\x00\x00" + masked(0, " ") + "\x8a"}, 49)...)...)
	// Every message is done within a tenth of a second, but each segment holds
	// the end of one and the beginning of the next.
	half := len(whole) / 2
	start("always in the middle, never late", drip, whole[half:]+closeFrame(1000, ""), append([]string{whole[:half]},
		slices.Repeat([]string{whole[half:] + whole[:half]}, 49)...)...)
	// A suite's large messages take its client longer than a command may; only
	// silence ends an echo.
	echo := func() *raw {
		c := g.raw(t)
		c.send(g.head("=GET /echo HTTP/1.1"), 0)
		c.wantStatus(http.StatusSwitchingProtocols)
		return c
	}
	begin(echo(), "echo, half a message", 0, "", masked(opText, "{"))
	begin(echo(), "echo, fifty fragments, each in time", drip, masked(fin, "")+closeFrame(1000, ""), append([]string{masked(opText, "1")},
		slices.Repeat([]string{masked(0, " ")}, 49)...)...)
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			s.c.t = t
			code, before := s.c.closed()
			if s.end != "" {
				want := 50
				if strings.HasPrefix(s.name, "echo") {
					want = 1
				}
				if code != 1000 || len(before) != want {
					t.Errorf("closed with %d after %d answers", code, len(before))
				}
				return
			}
			if code != 1008 {
				t.Errorf("closed with %d", code)
			}
			if d := time.Since(s.begin); d < 400*time.Millisecond || d > 1500*time.Millisecond+slack {
				t.Errorf("cut after %v", d)
			}
		})
	}
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}
