package suite

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// deflateSizes are the messages of each part of sections 12 and 13: bytes (or
// characters, in a text), and bytes a frame, 0 for one frame. Each is sent a
// thousand times.
var deflateSizes = [][2]int{
	{16, 0}, {64, 0}, {256, 0}, {1 << 10, 0}, {4 << 10, 0}, {8 << 10, 0}, {16 << 10, 0}, {32 << 10, 0}, {64 << 10, 0}, {128 << 10, 0},
	{8 << 10, 256}, {16 << 10, 256}, {32 << 10, 256}, {64 << 10, 256}, {128 << 10, 256}, {128 << 10, 1 << 10}, {128 << 10, 4 << 10}, {128 << 10, 32 << 10},
}

// compression is sections 12, other contents, and 13, other parameters.
func compression() []*Case {
	const offer = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
	var all []*Case
	for i, c := range contents {
		all = append(all, deflated(fmt.Sprintf("12.%d", i+1), c, []string{offer})...)
	}
	const fresh, small, large = "; server_no_context_takeover", "; server_max_window_bits=9", "; server_max_window_bits=15"
	for i, offers := range [][]string{
		{offer}, {offer + fresh}, {offer + small}, {offer + large}, {offer + fresh + small}, {offer + fresh + large},
		{offer + fresh + small, offer + fresh, offer},
	} {
		all = append(all, deflated(fmt.Sprintf("13.%d", i+1), contents[0], offers)...)
	}
	return all
}

func deflated(part string, c *content, offers []string) []*Case {
	var all []*Case
	for i, size := range deflateSizes {
		sends := fmt.Sprintf("1000 times: compressed %s of %d", c.name, size[0])
		if size[1] > 0 {
			sends += fmt.Sprintf(" in frames of %d bytes", size[1])
		}
		if part[:2] == "13" {
			sends += ", offered" + strings.TrimPrefix(strings.Join(offers, " or"), "permessage-deflate;")
		}
		all = append(all, &Case{
			ID: fmt.Sprintf("%s.%d", part, i+1), Sends: sends, Heavy: size[0] > 4<<10, limit: 480 * time.Second, deflate: offers, end: weClose,
			rounds: &rounds{count: 1000, binary: c.binary, fragment: size[1], message: func(n int) []byte { return c.slice(n, size[0]) }},
		})
	}
	return all
}

// content is what messages are cut from. The suite's own files are not ours to
// ship; these are made, of the same kinds and about as compressible.
type content struct {
	name   string
	binary bool
	make   func(r *rand.Rand, b *strings.Builder) // adds a little
	made   func() []byte                          // all of it, made once
	starts func() []int                           // of its characters; nil when binary
}

// slice is the n-th message of so many characters; the content is a ring.
func (c *content) slice(n, size int) []byte {
	b := c.made()
	if c.binary {
		from := n * size % len(b)
		if to := from + size; to > len(b) {
			return append(b[from:len(b):len(b)], b[:to-len(b)]...)
		}
		return b[from : from+size]
	}
	starts := c.starts()
	count := len(starts) - 1
	from := n * size % count
	if to := from + size; to > count {
		return append(b[starts[from]:len(b):len(b)], b[:starts[to-count]]...)
	}
	return b[starts[from]:starts[from+size]]
}

// contentSize is what each content holds, bytes: more than any message.
const contentSize = 200 << 10

var words = strings.Fields("the a of and gateway channel order price market shard socket epoch für über höher trade quote book message when where holds never last first 12 7 1041 €")

var contents = []*content{
	{name: "JSON", make: func(r *rand.Rand, b *strings.Builder) {
		fmt.Fprintf(b, `{"id":%d,"name":"%s %s","tags":["%s","%s"],"price":%.2f,"open":%t},`+"\n",
			r.IntN(100_000), word(r), word(r), word(r), word(r), r.Float64()*1000, r.IntN(2) == 0)
	}},
	{name: "bitmap", binary: true, make: func(r *rand.Rand, b *strings.Builder) {
		row := b.Len() / 512
		for x := range 512 {
			b.WriteByte(byte(x/4 + row/3 + r.IntN(4)))
		}
	}},
	{name: "prose", binary: true, make: func(r *rand.Rand, b *strings.Builder) {
		for range 5 + r.IntN(6) {
			b.WriteString(word(r) + " ")
		}
		b.WriteString(".\r\n")
	}},
	{name: "HTML", binary: true, make: func(r *rand.Rand, b *strings.Builder) {
		fmt.Fprintf(b, "<tr class=\"row%d\"><td>%s</td><td><a href=\"/c/%d\">%s</a></td></tr>\n", r.IntN(2), word(r), r.IntN(10_000), word(r))
	}},
	{name: "compressed bytes", binary: true, make: func(r *rand.Rand, b *strings.Builder) {
		for range 64 {
			b.WriteByte(byte(r.Uint32()))
		}
	}},
}

func word(r *rand.Rand) string { return words[r.IntN(len(words))] }

func init() {
	for i, c := range contents {
		c.made, c.starts = onceMade(c, uint64(i))
	}
}

// onceMade makes a content when it is first asked for.
func onceMade(c *content, seed uint64) (made func() []byte, starts func() []int) {
	made = sync.OnceValue(func() []byte {
		r := rand.New(rand.NewPCG(seed, 1))
		var b strings.Builder
		for b.Len() < contentSize {
			c.make(r, &b)
		}
		return []byte(b.String())
	})
	starts = sync.OnceValue(func() []int {
		b := made()
		at := []int{}
		for i := 0; i < len(b); {
			at = append(at, i)
			_, n := utf8.DecodeRune(b[i:])
			i += n
		}
		return append(at, len(b))
	})
	return made, starts
}
