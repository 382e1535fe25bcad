package suite

import (
	"fmt"
	"strings"
	"time"
)

// piece is one frame of a fragmented message, or between two of them.
type piece struct {
	op, fin byte
	payload string
}

// How a case's frames are cut.
const (
	together = iota // one write
	framed          // a write a frame
	bytewise        // a write a byte
)

var howCut = []string{"", ", each frame alone", ", a byte at a time"}

// steps are the pieces' frames, cut in one way.
func (s *sender) steps(cut int, pieces []piece) (steps []step) {
	for _, p := range pieces {
		st := step{data: s.frame(p.op, p.fin, 0, []byte(p.payload)), alone: cut == framed}
		if cut == bytewise {
			st.chop = 1
		}
		steps = append(steps, st)
	}
	return steps
}

// fragments is section 5.
func fragments() []*Case {
	frag := func(i int) string { return fmt.Sprintf("fragment%d", i) }
	both := event{"text", frag(1) + frag(2)}
	good := func(n, cut int, sends string, want []event, pieces ...piece) *Case {
		return &Case{
			ID: fmt.Sprintf("5.%d", n), Sends: sends + howCut[cut],
			script: func(s *sender) []step { return s.steps(cut, pieces) }, want: want, end: weClose,
		}
	}
	bad := func(n, cut int, sends string, pieces ...piece) *Case {
		return &Case{
			ID: fmt.Sprintf("5.%d", n), Sends: sends + howCut[cut],
			script: func(s *sender) []step { return s.steps(cut, pieces) }, end: badFrame,
		}
	}
	all := []*Case{
		bad(1, together, "a ping in two fragments", piece{opPing, 0, frag(1)}, piece{opCont, 1, frag(2)}),
		bad(2, together, "a pong in two fragments", piece{opPong, 0, frag(1)}, piece{opCont, 1, frag(2)}),
	}
	for cut := range 3 {
		all = append(all, good(3+cut, cut, "a text in two fragments", []event{both}, piece{opText, 0, frag(1)}, piece{opCont, 1, frag(2)}))
	}
	for cut := range 3 {
		all = append(all, good(6+cut, cut, "a text in two fragments, a ping between them", []event{{"pong", "ping payload"}, both},
			piece{opText, 0, frag(1)}, piece{opPing, 1, "ping payload"}, piece{opCont, 1, frag(2)}))
	}
	for fin := range 2 {
		for cut := range 3 {
			all = append(all, bad(9+3*fin+cut, cut, fmt.Sprintf("a continuation of nothing, FIN %d, and a text", 1-fin),
				piece{opCont, byte(1 - fin), "non-continuation payload"}, piece{opText, 1, hello}))
		}
	}
	after := bad(15, together, "a text in two fragments, a continuation of nothing, a text",
		piece{opText, 0, frag(1)}, piece{opCont, 1, frag(2)}, piece{opCont, 0, frag(3)}, piece{opText, 1, frag(4)})
	after.want, after.lenient = []event{both}, &[]event{}
	all = append(all, after)
	for fin := range byte(2) {
		again := []piece{{opCont, fin, frag(1)}, {opText, 0, frag(2)}, {opCont, 1, frag(3)}}
		all = append(all, bad(16+int(fin), together, fmt.Sprintf("twice: a continuation of nothing, FIN %d, a text in two fragments", fin), append(again, again...)...))
	}
	all = append(all, bad(18, together, "two fragments, both text", piece{opText, 0, frag(1)}, piece{opText, 1, frag(2)}))
	for cut := range 2 {
		text := ""
		for i := range 5 {
			text += frag(i + 1)
		}
		all = append(all, &Case{
			ID: fmt.Sprintf("5.%d", 19+cut), Sends: "a text in five fragments, pings between them, a second's pause in the middle" + howCut[cut],
			script: func(s *sender) []step {
				first := s.steps(cut, []piece{{opText, 0, frag(1)}, {opCont, 0, frag(2)}, {opPing, 1, "pongme 1!"}})
				first[len(first)-1].wait = time.Second
				return append(first, s.steps(cut, []piece{{opCont, 0, frag(3)}, {opCont, 0, frag(4)}, {opPing, 1, "pongme 2!"}, {opCont, 1, frag(5)}})...)
			},
			want: []event{{"pong", "pongme 1!"}, {"pong", "pongme 2!"}, {"text", text}}, end: weClose,
		})
	}
	return all
}

// limits is section 9: how much, in how many pieces, and how often.
func limits() []*Case {
	var all []*Case
	kinds := []struct {
		op         byte
		name, fill string // of one-frame messages: nothing repeats at a power of two
		flat       string // of fragmented ones
	}{{opText, "text", "BAsd7&jh23", "*"}, {opBinary, "binary", "\x00\xfe\x23\xfa\xf0", "\xfe"}}
	fill := func(pattern string, n int) string {
		return strings.Repeat(pattern, n/len(pattern)+1)[:n]
	}
	for part, k := range kinds {
		most := fill(k.fill, 16<<20) // made once: they are megabytes
		for i, size := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20} {
			payload := most[:size]
			all = append(all, &Case{
				ID: fmt.Sprintf("9.%d.%d", 1+part, i+1), Sends: fmt.Sprintf("%s of %d KiB", k.name, size>>10), Heavy: size > 256<<10, limit: 100 * time.Second,
				script: func(s *sender) []step { return []step{{data: s.whole(k.op, payload)}} },
				want:   []event{{k.name, payload}}, end: weClose,
			})
		}
	}
	for part, k := range kinds {
		payload := fill(k.flat, 4<<20)
		for i, size := range []int{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20} {
			all = append(all, &Case{
				ID: fmt.Sprintf("9.%d.%d", 3+part, i+1), Sends: fmt.Sprintf("%s of 4 MiB in frames of %d bytes", k.name, size), Heavy: true, limit: 100 * time.Second,
				script: func(s *sender) []step { return []step{{data: s.split(k.op, 0, []byte(payload), size)}} },
				want:   []event{{k.name, payload}}, end: weClose,
			})
		}
	}
	for part, k := range kinds {
		payload := fill(k.fill, 1<<20)
		for i, chop := range []int{64, 128, 256, 512, 1024, 2048} {
			all = append(all, &Case{
				ID: fmt.Sprintf("9.%d.%d", 5+part, i+1), Sends: fmt.Sprintf("%s of 1 MiB, %d bytes at a time", k.name, chop), Heavy: true, limit: 100 * time.Second,
				script: func(s *sender) []step { return []step{{data: s.whole(k.op, payload), chop: chop}} },
				want:   []event{{k.name, payload}}, end: weClose,
			})
		}
	}
	for part, k := range kinds {
		for i, size := range []int{0, 16, 64, 256, 1024, 4096} {
			payload := []byte(fill(k.flat, size))
			all = append(all, &Case{
				ID: fmt.Sprintf("9.%d.%d", 7+part, i+1), Sends: fmt.Sprintf("1000 times: %s of %d bytes, and its echo awaited", k.name, size), limit: []time.Duration{60, 60, 60, 120, 240, 480}[i] * time.Second,
				rounds: &rounds{count: 1000, binary: part == 1, message: func(int) []byte { return payload }}, end: weClose,
			})
		}
	}
	return all
}
