package suite

import (
	"fmt"
	"strings"
)

// closes is section 7. An ending is ours wherever we close first, also when the
// server is to answer with an error.
func closes() []*Case {
	text := "Hello World!"
	goodbye := func(s *sender) step { return step{data: s.close(1000, ""), closing: true} }
	one := func(id, sends string, end ending, frame func(*sender) []byte) *Case {
		return &Case{ID: id, Sends: sends, end: end, script: func(s *sender) []step { return []step{{data: frame(s), closing: true}} }}
	}
	big := strings.Repeat("BAsd7&jh23", 256<<10/10+1)[:256<<10]
	all := []*Case{
		{
			ID: "7.1.1", Sends: "a text, and a close once it came back",
			script: func(s *sender) []step { return []step{{data: s.whole(opText, text)}} },
			want:   []event{{"text", text}}, end: weClose,
		},
		{
			ID: "7.1.2", Sends: "two closes", end: weClose,
			script: func(s *sender) []step { return []step{goodbye(s), {data: s.close(0, "")}} },
		},
		{
			ID: "7.1.3", Sends: "a close, a ping", end: weClose,
			script: func(s *sender) []step { return []step{goodbye(s), {data: s.whole(opPing, "")}} },
		},
		{
			ID: "7.1.4", Sends: "a close, a text", end: weClose,
			script: func(s *sender) []step { return []step{goodbye(s), {data: s.whole(opText, text)}} },
		},
		{
			ID: "7.1.5", Sends: "a fragment, a close, the rest", end: weClose,
			script: func(s *sender) []step {
				return []step{{data: s.part(opText, "fragment1")}, goodbye(s), {data: s.whole(opCont, "fragment2")}}
			},
		},
		{
			ID: "7.1.6", Sends: "a text of 256 KiB, a small one, a close, a ping", end: weClose, undef: true,
			script: func(s *sender) []step {
				return []step{{data: s.whole(opText, big)}, {data: s.whole(opText, text)}, goodbye(s), {data: s.whole(opPing, "")}}
			},
			want: []event{{"text", big}, {"text", text}},
		},
		one("7.3.1", "an empty close", weClose, func(s *sender) []byte { return s.close(0, "") }),
		one("7.3.2", "a close of one byte", ourBadEnd, func(s *sender) []byte { return s.whole(opClose, "a") }),
		one("7.3.3", "a close with a code", weClose, func(s *sender) []byte { return s.close(1000, "") }),
		one("7.3.4", "a close with a reason", weClose, func(s *sender) []byte { return s.close(1000, text) }),
		one("7.3.5", "a close with a reason of 123 bytes", weClose, func(s *sender) []byte { return s.close(1000, strings.Repeat("*", 123)) }),
		one("7.3.6", "a close with a reason of 124 bytes", ourBadEnd, func(s *sender) []byte { return s.close(1000, strings.Repeat("*", 124)) }),
		one("7.5.1", "a close with a surrogate in its reason", ending{ours: true, codes: []uint16{1002, 1007}},
			func(s *sender) []byte { return s.close(1000, kosme+"\xed\xa0\x80"+edited) }),
	}
	coded := func(part, i int, code uint16, end ending) *Case {
		return one(fmt.Sprintf("7.%d.%d", part, i+1), fmt.Sprintf("a close with code %d", code), end, func(s *sender) []byte {
			return s.frame(opClose, 1, 0, []byte{byte(code >> 8), byte(code)})
		})
	}
	for i, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		all = append(all, coded(7, i, code, ending{ours: true, codes: []uint16{1000, code}, clean: true}))
	}
	for i, code := range []uint16{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		all = append(all, coded(9, i, code, ourBadEnd))
	}
	for i, code := range []uint16{5000, 65535} {
		c := coded(13, i, code, ending{ours: true, codes: []uint16{1000, 1002}})
		c.undef = true
		all = append(all, c)
	}
	return all
}
