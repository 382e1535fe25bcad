package suite

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"unicode/utf8"
)

// The public suite has 517 cases; each section's are all here, under their own
// numbers, each once.
func TestCasesAreAllThere(t *testing.T) {
	parts := map[string]int{}
	seen := map[string]bool{}
	for _, c := range Cases() {
		if seen[c.ID] {
			t.Errorf("%s is there twice", c.ID)
		}
		seen[c.ID] = true
		parts[c.Part()]++
		if !seen[fmt.Sprintf("%s.%d", c.Part(), parts[c.Part()])] {
			t.Errorf("%s is out of order", c.ID)
		}
		if c.Sends == "" || (c.script == nil) == (c.rounds == nil) {
			t.Errorf("%s is not whole", c.ID)
		}
	}
	want := map[string]int{
		"1.1": 8, "1.2": 8, "2": 11, "3": 7, "4.1": 5, "4.2": 5, "5": 20,
		"6.1": 3, "6.2": 4, "6.3": 2, "6.4": 4, "6.5": 5, "6.6": 11, "6.7": 4, "6.8": 2, "6.9": 4, "6.10": 3, "6.11": 5, "6.12": 8,
		"6.13": 5, "6.14": 10, "6.15": 1, "6.16": 3, "6.17": 5, "6.18": 5, "6.19": 5, "6.20": 7, "6.21": 8, "6.22": 34, "6.23": 7,
		"7.1": 6, "7.3": 6, "7.5": 1, "7.7": 13, "7.9": 9, "7.13": 2,
		"9.1": 6, "9.2": 6, "9.3": 9, "9.4": 9, "9.5": 6, "9.6": 6, "9.7": 6, "9.8": 6, "10.1": 1,
	}
	for i := range 5 {
		want[fmt.Sprintf("12.%d", i+1)] = 18
	}
	for i := range 7 {
		want[fmt.Sprintf("13.%d", i+1)] = 18
	}
	for part, n := range want {
		if parts[part] != n {
			t.Errorf("%s has %d cases, want %d", part, parts[part], n)
		}
	}
	if len(seen) != 517 || len(parts) != len(want) {
		t.Errorf("%d cases in %d parts", len(seen), len(parts))
	}
}

// What the table says of a text is what Go's own decoder says.
func TestUTF8Table(t *testing.T) {
	for _, g := range utf8Table() {
		for i, r := range g.rows {
			if utf8.ValidString(r.text) != r.good {
				t.Errorf("%s, %d: % x is not %v", g.name, i+1, r.text, r.good)
			}
		}
	}
	if i := len(kosme) + 1; utf8.ValidString(tooHigh[:i]) || tooHigh[i] != 0x90 {
		t.Error("the impossible byte is not the 13th")
	}
}

func TestDeflate(t *testing.T) {
	offer := "permessage-deflate; client_no_context_takeover; client_max_window_bits"
	for _, answer := range []string{
		"permessage-deflate", "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
		"permessage-deflate; client_max_window_bits=9", "permessage-deflate; client_max_window_bits=\"8\"; client_no_context_takeover",
	} {
		us, err := newDeflater(answer, []string{offer})
		if err != nil {
			t.Fatal(err)
		}
		them := &deflater{theirReset: us.ourReset, theirBits: us.ourBits}
		for _, c := range contents {
			for i := range 5 {
				sent := c.slice(i, 5_000)
				got, err := them.inflate(us.deflate(sent))
				if err != nil || !bytes.Equal(got, sent) {
					t.Fatalf("%s, %s, message %d: %d bytes, %v", answer, c.name, i, len(got), err)
				}
			}
			if n := len(c.slice(3, 1000)); c.binary && n != 1000 || !c.binary && utf8.RuneCount(c.slice(3, 1000)) != 1000 {
				t.Errorf("%s: %d", c.name, n)
			}
		}
	}
	small := offer + "; server_max_window_bits=9"
	for answer, offers := range map[string][]string{
		"permessage-deflate; server_max_window_bits=10":                              {small},
		"permessage-deflate; client_max_window_bits":                                 {offer},
		"permessage-deflate; client_max_window_bits=7":                               {offer},
		"permessage-deflate; x":                                                      {offer},
		"permessage-bzip2":                                                           {offer},
		"permessage-deflate; server_no_context_takeover; server_no_context_takeover": {offer},
		"permessage-deflate":                                                         {small, offer + "; server_no_context_takeover"},
		"permessage-deflate, permessage-deflate":                                     {offer},
		"permessage-deflate; client_max_window_bits=x":                               {offer},
	} {
		if d, err := newDeflater(answer, offers); err == nil {
			t.Errorf("%s was taken for an answer to %q: %+v", answer, offers, d)
		}
	}
	if d, err := newDeflater("permessage-deflate; server_max_window_bits=9", []string{offer + "; server_no_context_takeover", small}); err != nil || d.theirBits != 9 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestJoin(t *testing.T) {
	got := join([]step{
		{data: []byte("a")}, {data: []byte("b"), closing: true}, {data: []byte("c"), chop: 1}, {data: []byte("d"), alone: true}, {data: []byte("e")},
		{data: []byte("f"), wait: 1, name: "A"}, {data: []byte("g")},
	})
	var s []string
	for _, st := range got {
		s = append(s, fmt.Sprintf("%s%d%t%s", st.data, st.chop, st.closing, st.name))
	}
	if !slices.Equal(s, []string{"ab0true", "c1false", "d0false", "ef0falseA", "g0false"}) {
		t.Error(s)
	}
}
