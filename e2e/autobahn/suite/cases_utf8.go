package suite

import (
	"fmt"
	"strings"
	"time"
)

const (
	mixed   = "Hello-µ@ßöäüàá-UTF-8!!"
	kosme   = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
	edited  = "edited"
	tooHigh = kosme + "\xf4\x90\x80\x80" + edited // impossible from its 13th byte on
)

// utf8Cases is section 6.
func utf8Cases() []*Case {
	good := func(id, sends, text string, script func(*sender) []step) *Case {
		return &Case{ID: id, Sends: sends, script: script, want: []event{{"text", text}}, end: weClose}
	}
	pieces := func(payloads ...string) func(*sender) []step {
		return func(s *sender) []step {
			var all []piece
			for i, p := range payloads {
				one := piece{opCont, 0, p}
				if i == 0 {
					one.op = opText
				}
				if i == len(payloads)-1 {
					one.fin = 1
				}
				all = append(all, one)
			}
			return s.steps(together, all)
		}
	}
	each := func(text string) func(*sender) []step {
		return func(s *sender) []step { return []step{{data: s.split(opText, 0, []byte(text), 1)}} }
	}
	at := strings.Index(mixed, "ü")
	surrogate := kosme + "\xed\xa0\x80" + edited
	all := []*Case{
		good("6.1.1", "an empty text", "", pieces("")),
		good("6.1.2", "a text of three empty fragments", "", pieces("", "", "")),
		good("6.1.3", "a text between two empty fragments", "middle frame payload", pieces("", "middle frame payload", "")),
		good("6.2.1", "good UTF-8", mixed, pieces(mixed)),
		good("6.2.2", "good UTF-8, cut between two characters", mixed, pieces(mixed[:at], mixed[at:])),
		good("6.2.3", "good UTF-8, a byte a fragment", mixed, each(mixed)),
		good("6.2.4", "good UTF-8 without ASCII, a byte a fragment", kosme, each(kosme)),
		{ID: "6.3.1", Sends: "a surrogate in a text", script: pieces(surrogate), end: badText},
		{ID: "6.3.2", Sends: "a surrogate in a text, a byte a fragment", script: each(surrogate), end: badText},
	}
	all = append(all, failFast()...)
	for i, group := range utf8Table() {
		for j, row := range group.rows {
			c := &Case{
				ID: fmt.Sprintf("6.%d.%d", 5+i, j+1), Sends: fmt.Sprintf("%s: % x", group.name, row.text),
				script: pieces(row.text), end: badText,
			}
			if row.good {
				c.want, c.end = []event{{"text", row.text}}, weClose
			}
			all = append(all, c)
		}
	}
	return all
}

// failFast is section 6.4: bad UTF-8 is known before its message ends, and a
// server that says so then is strict.
func failFast() []*Case {
	var all []*Case
	for i, cut := range [][2]int{{len(kosme), len(kosme) + 4}, {12, 13}, {len(kosme), len(kosme) + 4}, {12, 13}} {
		parts := []string{tooHigh[:cut[0]], tooHigh[cut[0]:cut[1]], tooHigh[cut[1]:]}
		c := &Case{
			ID: fmt.Sprintf("6.4.%d", i+1), Sends: "a character beyond U+10FFFF in three fragments, a second apart",
			want: []event{{"wait", "A"}}, lenient: &[]event{{"wait", "A"}, {"wait", "B"}}, end: badText,
		}
		if cut[0] == 12 {
			c.Sends += ", cut behind its impossible byte"
		}
		c.script = func(s *sender) []step {
			return []step{
				{data: s.part(opText, parts[0]), wait: time.Second, name: "A"},
				{data: s.part(opCont, parts[1]), wait: time.Second, name: "B"},
				{data: s.whole(opCont, parts[2])},
			}
		}
		if i >= 2 {
			c.Sends = strings.Replace(c.Sends, "in three fragments", "in one frame, its payload in three pieces", 1)
			c.script = func(s *sender) []step {
				frame := s.part(opText, tooHigh)
				head := len(frame) - len(tooHigh)
				a, b := head+cut[0], head+cut[1]
				return []step{
					{data: frame[:a:a], wait: time.Second, name: "A"},
					{data: frame[a:b:b], wait: time.Second, name: "B"},
					{data: append(frame[b:], s.whole(opCont, "")...)},
				}
			}
		}
		all = append(all, c)
	}
	return all
}

type utf8Row struct {
	good bool
	text string
}

type utf8Group struct {
	name string
	rows []utf8Row
}

// utf8Table is sections 6.5 to 6.23, made after Markus Kuhn's decoder test.
func utf8Table() []utf8Group {
	rows := func(good bool, texts ...string) (out []utf8Row) {
		for _, t := range texts {
			out = append(out, utf8Row{good, t})
		}
		return out
	}
	var prefixes []utf8Row
	for i := range len(kosme) {
		end := map[int]bool{2: true, 5: true, 7: true, 9: true, 11: true}[i+1]
		prefixes = append(prefixes, utf8Row{end, kosme[:i+1]})
	}
	var continuations strings.Builder
	for b := 0x80; b < 0xbf; b++ {
		continuations.WriteByte(byte(b))
	}
	lonely := func(from, to int) string {
		var b strings.Builder
		for c := from; c < to; c++ {
			b.Write([]byte{byte(c), ' '})
		}
		return b.String()
	}
	cut := []string{
		"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80",
		"\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf",
	}
	nonCharacters := []string{"\xef\xbf\xbe", "\xef\xbf\xbf"}
	for plane := rune(1); plane <= 16; plane++ {
		nonCharacters = append(nonCharacters, string(plane<<16|0xfffe), string(plane<<16|0xffff))
	}
	return []utf8Group{
		{"some good UTF-8", rows(true, "hello$world", "hello¢world", "hello€world", "hello\U00024b62world", kosme)},
		{"a prefix of good UTF-8", prefixes},
		{"the first character of a length", rows(true, "\x00", "\u0080", "\u0800", "\U00010000")},
		{"the first of five and six bytes", rows(false, "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80")},
		{"the last character of a length", rows(true, "\x7f", "\u07ff", "\uffff", "\U0010ffff")},
		{"the last of four, five and six bytes", rows(false, "\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf")},
		{"other boundaries", append(rows(true, "\ud7ff", "\ue000", "\ufffd", "\U0010ffff"), utf8Row{false, "\xf4\x90\x80\x80"})},
		{"continuation bytes", rows(false, "\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80", "\x80\xbf\x80\xbf\x80\xbf", continuations.String())},
		{"lonely first bytes", rows(false, lonely(0xc0, 0xdf), lonely(0xe0, 0xef), lonely(0xf0, 0xf7), lonely(0xf8, 0xfb), lonely(0xfc, 0xfd))},
		{"the last continuation byte missing", rows(false, cut...)},
		{"those behind one another", rows(false, strings.Join(cut, ""))},
		{"impossible bytes", rows(false, "\xfe", "\xff", "\xfe\xfe\xff\xff")},
		{"overlong slash", rows(false, "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf")},
		{"the longest overlong", rows(false, "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf")},
		{"overlong NUL", rows(false, "\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80")},
		{"a surrogate", rows(false, "\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf")},
		{"two surrogates", rows(false, "\xed\xa0\x80\xed\xb0\x80", "\xed\xa0\x80\xed\xbf\xbf", "\xed\xad\xbf\xed\xb0\x80", "\xed\xad\xbf\xed\xbf\xbf",
			"\xed\xae\x80\xed\xb0\x80", "\xed\xae\x80\xed\xbf\xbf", "\xed\xaf\xbf\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf")},
		{"what is no character, and good UTF-8", rows(true, nonCharacters...)},
		{"specials", rows(true, "\ufff9", "\ufffa", "\ufffb", "\ufffc", "\ufffd", "\ufffe", "\uffff")},
	}
}
