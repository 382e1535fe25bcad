package suite

import (
	"fmt"
	"strings"
)

// hello is the small text that many cases begin with.
const hello = "Hello, world!"

// binaryPing is what some cases send where text would be too easy.
const binaryBytes = "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"

// framing is section 1: messages of the sizes at which a header changes.
func framing() []*Case {
	var all []*Case
	for part, kind := range []struct {
		op         byte
		name, fill string
	}{{opText, "text", "*"}, {opBinary, "binary", "\xfe"}} {
		for i, size := range []int{0, 125, 126, 127, 128, 65535, 65536, 65536} {
			chop, sends := 0, fmt.Sprintf("%s of %d bytes", kind.name, size)
			if i == 7 {
				chop, sends = 997, sends+", 997 at a time"
			}
			payload := strings.Repeat(kind.fill, size)
			all = append(all, &Case{
				ID: fmt.Sprintf("1.%d.%d", part+1, i+1), Sends: sends,
				script: func(s *sender) []step { return []step{{data: s.whole(kind.op, payload), chop: chop}} },
				want:   []event{{kind.name, payload}}, end: weClose,
			})
		}
	}
	return all
}

// pings is section 2.
func pings() []*Case {
	ping := func(id, sends, payload string, chop int) *Case {
		return &Case{
			ID: id, Sends: sends,
			script: func(s *sender) []step { return []step{{data: s.whole(opPing, payload), chop: chop}} },
			want:   []event{{"pong", payload}}, end: weClose,
		}
	}
	pong := func(id, payload string) *Case {
		return &Case{
			ID: id, Sends: fmt.Sprintf("an unasked pong of %d bytes, then a close", len(payload)),
			script: func(s *sender) []step {
				return []step{{data: s.whole(opPong, payload)}, {data: s.close(1000, ""), closing: true}}
			},
			end: weClose,
		}
	}
	ten := func(id, how string, chop int) *Case {
		c := &Case{ID: id, Sends: "ten pings" + how, end: weClose}
		for i := range 10 {
			c.want = append(c.want, event{"pong", fmt.Sprintf("payload-%d", i)})
		}
		c.script = func(s *sender) (steps []step) {
			for _, e := range c.want {
				steps = append(steps, step{data: s.whole(opPing, e.payload), chop: chop})
			}
			return steps
		}
		return c
	}
	full := strings.Repeat("\xfe", 125)
	return []*Case{
		ping("2.1", "an empty ping", "", 0),
		ping("2.2", "a ping with text", hello, 0),
		ping("2.3", "a ping with bytes that are no UTF-8", binaryBytes, 0),
		ping("2.4", "a ping of 125 bytes", full, 0),
		{
			ID: "2.5", Sends: "a ping of 126 bytes, which is too long",
			script: func(s *sender) []step { return []step{{data: s.whole(opPing, full+"\xfe")}} }, end: badFrame,
		},
		ping("2.6", "a ping of 125 bytes, a byte at a time", full, 1),
		pong("2.7", ""),
		pong("2.8", "unsolicited pong payload"),
		{
			ID: "2.9", Sends: "an unasked pong, then a ping",
			script: func(s *sender) []step {
				return []step{{data: s.whole(opPong, "unsolicited pong payload")}, {data: s.whole(opPing, "ping payload")}}
			},
			want: []event{{"pong", "ping payload"}}, end: weClose,
		},
		ten("2.10", "", 0),
		ten("2.11", ", a byte at a time", 1),
	}
}

// refused is a case of one frame that the server must fail.
func refused(id, sends string, frame func(*sender) []byte) *Case {
	return &Case{ID: id, Sends: sends, script: func(s *sender) []step { return []step{{data: frame(s)}} }, end: badFrame}
}

// refusedSecond is a text, then a frame that the server must fail, then a ping
// that must not be answered. The text's echo may be missing.
func refusedSecond(id, sends, how string, chop int, alone bool, frame func(*sender) []byte) *Case {
	return &Case{
		ID: id, Sends: "a text, " + sends + ", a ping" + how,
		script: func(s *sender) []step {
			return []step{
				{data: s.whole(opText, hello), chop: chop, alone: alone},
				{data: frame(s), chop: chop, alone: alone},
				{data: s.whole(opPing, ""), chop: chop, alone: alone},
			}
		},
		want: []event{{"text", hello}}, lenient: &[]event{}, end: badFrame,
	}
}

// reserved is section 3: bits that no extension gave a meaning.
func reserved() []*Case {
	bits := func(op, rsv byte, payload string) func(*sender) []byte {
		return func(s *sender) []byte { return s.frame(op, 1, rsv, []byte(payload)) }
	}
	return []*Case{
		refused("3.1", "a text with RSV 1", bits(opText, 1, hello)),
		refusedSecond("3.2", "one with RSV 2", "", 0, false, bits(opText, 2, hello)),
		refusedSecond("3.3", "one with RSV 3", ", each frame alone", 0, true, bits(opText, 3, hello)),
		refusedSecond("3.4", "one with RSV 4", ", a byte at a time", 1, false, bits(opText, 4, hello)),
		refused("3.5", "a binary with RSV 5", bits(opBinary, 5, binaryBytes)),
		// The suite calls 3.6 a ping, and sends a binary.
		refused("3.6", "a binary with RSV 6", bits(opBinary, 6, hello)),
		refused("3.7", "a close with RSV 7", bits(opClose, 7, "")),
	}
}

// opcodes is section 4: those that mean nothing.
func opcodes() []*Case {
	var all []*Case
	for part, first := range []byte{3, 11} {
		for i := range byte(5) {
			op, id := first+i, fmt.Sprintf("4.%d.%d", part+1, i+1)
			sends, payload := fmt.Sprintf("a frame with opcode %d", op), ""
			if i == 1 {
				payload = "reserved opcode payload"
			} else if i > 2 {
				payload = hello
			}
			if payload != "" {
				sends += " and a payload"
			}
			frame := func(s *sender) []byte { return s.whole(op, payload) }
			switch i {
			case 0, 1:
				all = append(all, refused(id, sends, frame))
			case 4:
				all = append(all, refusedSecond(id, sends, ", a byte at a time", 1, false, frame))
			default:
				all = append(all, refusedSecond(id, sends, "", 0, false, frame))
			}
		}
	}
	return all
}

// misc is section 10.
func misc() []*Case {
	payload := strings.Repeat("*", 65536)
	return []*Case{{
		ID: "10.1.1", Sends: "a text of 65536 bytes in frames of 1300",
		script: func(s *sender) []step { return []step{{data: s.split(opText, 0, []byte(payload), 1300)}} },
		want:   []event{{"text", payload}}, end: weClose,
	}}
}
