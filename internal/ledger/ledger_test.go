package ledger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// act is one step of a story: what a client or a publisher tells.
type act func(l *Ledger, c *Client)

func sum(n uint64) uint64 { return Sum(fmt.Appendf(nil, `{"n":%d}`, n)) }

func acked(seqs ...uint64) act {
	return func(l *Ledger, _ *Client) {
		for _, s := range seqs {
			l.Acked("e1", "a", s, sum(s))
		}
	}
}
func acked2(seqs ...uint64) act {
	return func(l *Ledger, _ *Client) {
		for _, s := range seqs {
			l.Acked("e2", "a", s, sum(s+1000))
		}
	}
}
func start(at uint64) act { return func(_ *Ledger, c *Client) { c.Start("a", "e1", at) } }
func msg(seq, prev, skip uint64) act {
	return func(_ *Ledger, c *Client) { c.Message("a", seq, prev, skip, sum(seq)) }
}
func msg2(seq, prev uint64) act {
	return func(_ *Ledger, c *Client) { c.Message("a", seq, prev, 0, sum(seq+1000)) }
}
func gap(after, before uint64, why string) act {
	return func(_ *Ledger, c *Client) { c.Gap("a", after, before, why, "") }
}

func epochGap(after, before uint64, epoch string) act {
	return func(_ *Ledger, c *Client) { c.Gap("a", after, before, "epoch", epoch) }
}

// others is a second client of the same channel that received all of it.
func others(seqs ...uint64) act {
	return func(l *Ledger, _ *Client) {
		c := l.Client("other")
		c.Start("a", "e1", 0)
		prev := uint64(0)
		for _, s := range seqs {
			c.Message("a", s, prev, 0, sum(s))
			prev = s
		}
	}
}

func TestStories(t *testing.T) {
	for _, tc := range []struct {
		name  string
		acts  []act
		want  string // Report.String
		told  uint64
		about string // in the first fault
	}{
		{"whole", []act{start(0), acked(1, 3, 5), msg(1, 0, 0), msg(3, 1, 0), msg(5, 3, 0)}, "nothing missing", 0, ""},
		{"the ack comes later", []act{start(0), msg(1, 0, 0), acked(1)}, "nothing missing", 0, ""},
		{"acked twice with a key", []act{start(0), acked(1, 1), msg(1, 0, 0)}, "nothing missing", 0, ""},
		{"what was before the start is not owed", []act{acked(1, 3, 5), start(3), msg(5, 3, 0)}, "nothing missing", 0, ""},
		{"a start between messages", []act{acked(1, 5), start(3), msg(5, 1, 0)}, "nothing missing", 0, ""},
		{"the last is missing", []act{start(0), acked(1, 3, 5), msg(1, 0, 0), msg(3, 1, 0)}, "missing 1", 0, "seq 5"},
		{"all is missing", []act{start(0), acked(1, 3)}, "missing 2", 0, "seq 1"},
		{"a drop", []act{start(0), acked(1, 3, 5), msg(1, 0, 0), msg(5, 3, 0)}, "hole 1, missing 1", 0, "seq 5"},
		{"a drop with prev forged", []act{others(1, 3, 5), start(0), acked(1, 3, 5), msg(1, 0, 0), msg(5, 1, 0)}, "missing 1, prev 1", 0, "and 3 for others"},
		{"a drop for all with prev forged", []act{start(0), acked(1, 3, 5), msg(1, 0, 0), msg(5, 1, 0)}, "missing 1, prev 1", 0, "3 was acknowledged"},
		{"a hole without an acknowledged message", []act{start(0), acked(1, 5), msg(1, 0, 0), msg(5, 3, 0)}, "hole 1", 0, "no gap says why"},
		{"told", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), gap(1, 7, "evicted"), msg(7, 5, 0)}, "nothing missing", 2, ""},
		{"told, and prev is the last before the gap", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), gap(1, 7, "evicted"), msg(7, 1, 0)}, "nothing missing", 2, ""},
		{"told of less, and prev is the last before the gap", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), gap(1, 5, "evicted"), msg(7, 1, 0)}, "missing 1", 1, "seq 5"},
		{"told of the end", []act{start(0), acked(1, 3, 5), msg(1, 0, 0), gap(1, 6, "slow")}, "nothing missing", 2, ""},
		{"told of too little", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), gap(1, 5, "evicted"), msg(7, 5, 0)}, "hole 1, missing 1", 1, "seq 7"},
		{"two gaps don't cover what is between them", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), gap(1, 5, "broker"), gap(5, 7, "broker"), msg(7, 5, 0)}, "hole 1, missing 1", 1, "seq 7"},
		{"a gap over what was received", []act{start(0), acked(1, 3), msg(1, 0, 0), msg(3, 1, 0), gap(0, 3, "slow")}, "gap 1", 0, "up to 3"},
		{"an empty gap", []act{start(0), gap(5, 5, "slow")}, "gap 1", 0, ""},
		{"duplicate", []act{start(0), acked(1, 3), msg(1, 0, 0), msg(3, 1, 0), msg(3, 1, 0)}, "duplicate 1", 0, "seq 3"},
		{"swapped", []act{start(0), acked(1, 3, 5), msg(1, 0, 0), msg(5, 3, 0), msg(3, 1, 0)}, "hole 1, order 1", 0, "seq 5"},
		{"another payload", []act{start(0), acked(1), func(_ *Ledger, c *Client) { c.Message("a", 1, 0, 0, sum(9)) }}, "payload 1", 0, "seq 1"},
		{"another payload, acked later", []act{start(0), func(_ *Ledger, c *Client) { c.Message("a", 1, 0, 0, sum(9)) }, acked(1)}, "payload 1", 0, "client a seq 1"},
		{"another payload than others'", []act{others(1), start(0), func(l *Ledger, c *Client) { c.Message("a", 1, 0, 0, sum(9)); l.Maybe("a", sum(1)) }}, "payload 1", 0, "others"},
		{"skip", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), msg(7, 5, 2)}, "nothing missing", 0, ""},
		{"a forged skip", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), msg(7, 5, 1)}, "skip 1", 0, "there were 2"},
		{"skip and gap", []act{start(0), acked(1, 3, 5, 7), msg(1, 0, 0), gap(1, 4, "slow"), msg(7, 5, 1)}, "nothing missing", 1, ""},
		{"a skip where nothing was", []act{start(0), acked(1, 3), msg(1, 0, 0), msg(3, 1, 4)}, "skip 1", 0, ""},
		{"phantom", []act{start(0), msg(1, 0, 0)}, "phantom 1", 0, ""},
		{"uncertain", []act{start(0), func(l *Ledger, _ *Client) { l.Maybe("a", sum(1)) }, msg(1, 0, 0)}, "nothing missing", 0, ""},
		{"unasked", []act{acked(1), msg(1, 0, 0)}, "unasked 1", 0, ""},
		{"a new epoch", []act{start(0), acked(1, 3), msg(1, 0, 0), gap(1, 1, "epoch"), acked2(1, 2), msg2(1, 0), msg2(2, 1)}, "nothing missing", 0, ""},
		{"a new epoch begun late", []act{start(0), acked(1), msg(1, 0, 0), gap(1, 2, "epoch"), acked2(1, 2), msg2(2, 1)}, "nothing missing", 1, ""},
		{"lost in the new epoch", []act{start(0), acked(1), msg(1, 0, 0), gap(1, 1, "epoch"), acked2(1, 2, 3), msg2(1, 0), msg2(3, 2)}, "hole 1, missing 1", 0, "seq 3"},
		{"nothing of the new epoch", []act{start(0), acked(1), msg(1, 0, 0), gap(1, 1, "epoch"), acked2(1, 2)}, "missing 2", 0, ""},
		{"an epoch's end told twice", []act{start(0), acked(1), msg(1, 0, 0), gap(1, 1, "epoch"), gap(1, 2, "epoch"), acked2(1, 2), msg2(2, 1)}, "nothing missing", 1, ""},
		{"an epoch's end told twice, and nothing of the new one", []act{start(0), acked(1), msg(1, 0, 0), gap(1, 1, "epoch"), gap(1, 1, "epoch"), acked2(1, 2)}, "missing 2", 0, ""},
		{"an old message in the new epoch", []act{start(0), acked(1, 3), msg(1, 0, 0), gap(1, 1, "epoch"), acked2(1), msg(3, 1, 0)}, "epoch 1, missing 1", 0, ""},
		{"a new epoch by its name", []act{start(0), acked(1), msg(1, 0, 0), epochGap(1, 1, "e2"), acked2(1, 2), msg2(1, 0)}, "missing 1", 0, "seq 2"},
		{"back to an old epoch", []act{start(0), acked(1, 2), msg(1, 0, 0), epochGap(1, 1, "e2"), acked2(1, 2, 3), msg2(1, 0), epochGap(1, 3, "e1"), epochGap(2, 3, "e2"), msg2(3, 2)}, "gap 1", 2, "not newer"},
		{"and one lost", []act{start(0), acked(1, 2), msg(1, 0, 0), epochGap(1, 1, "e2"), acked2(1, 2, 3), msg2(1, 0), epochGap(1, 3, "e1"), epochGap(2, 2, "e2"), msg2(3, 1)}, "gap 1, missing 1", 1, "not newer"},
		{"nobody said that the epoch ended", []act{start(0), acked(1), msg(1, 0, 0), acked2(2), msg2(2, 1)}, "missing 1, phantom 1", 0, ""},
		{"old and new both without a word", []act{start(0), acked(1, 2), msg(1, 0, 0), acked2(2), msg2(2, 1)}, "missing 1, payload 1", 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := New()
			c := l.Client("client")
			for _, a := range tc.acts {
				a(l, c)
			}
			rep := l.Check()
			if got := rep.String(); got != tc.want {
				t.Errorf("got %s, want %s\n%v", got, tc.want, rep.Faults)
			}
			if rep.Told != tc.told {
				t.Errorf("told of %d, want %d", rep.Told, tc.told)
			}
			if tc.about != "" && (len(rep.Faults) == 0 || !strings.Contains(rep.Faults[0].String(), tc.about)) {
				t.Errorf("the first fault should be about %q: %v", tc.about, rep.Faults)
			}
			if again := l.Check(); again.String() != tc.want {
				t.Errorf("a second Check says %s", again.String())
			}
		})
	}
}

func TestWildcards(t *testing.T) {
	book := func() (*Ledger, *Client) {
		l := New()
		c := l.Client("client")
		c.Start("q.*", "e1", 10)
		l.Acked("e1", "q.a", 9, sum(9))
		l.Acked("e1", "q.a", 11, sum(11))
		l.Acked("e1", "q.b", 12, sum(12))
		l.Acked("e1", "r", 13, sum(13))
		c.Message("q.a", 11, 9, 0, sum(11))
		return l, c
	}
	l, c := book()
	c.Message("q.b", 12, 0, 0, sum(12))
	if rep := l.Check(); !rep.OK() {
		t.Error(rep.Faults)
	}
	l, _ = book()
	if rep := l.Check(); rep.String() != "missing 1" || rep.Faults[0].Channel != "q.b" {
		t.Error("a channel the client never heard of:", rep.String(), rep.Faults)
	}
	l, c = book()
	c.Gap("q.*", 11, 13, "evicted", "")
	if rep := l.Check(); !rep.OK() || rep.Told != 1 {
		t.Error(rep.Faults, rep.Told)
	}
	// One that says of itself, and then of its wildcard, that an epoch ended.
	l, c = book()
	c.Message("q.b", 12, 0, 0, sum(12))
	c.Gap("q.a", 11, 1, "epoch", "")
	l.Acked("e2", "q.a", 1, sum(101))
	l.Acked("e2", "q.b", 2, sum(102))
	l.Acked("e2", "q.c", 3, sum(103))
	c.Message("q.a", 1, 0, 0, sum(101))
	c.Gap("q.*", 12, 1, "epoch", "")
	l.Acked("e2", "q.a", 4, sum(104))
	c.Message("q.a", 4, 1, 0, sum(104))
	c.Message("q.b", 2, 0, 0, sum(102))
	if rep := l.Check(); rep.String() != "missing 1" || rep.Faults[0].Channel != "q.c" || rep.Faults[0].Epoch != "e2" {
		t.Error("want q.c missing in e2:", rep.String(), rep.Faults)
	}
	c.Message("q.c", 3, 0, 0, sum(103))
	if rep := l.Check(); !rep.OK() {
		t.Error(rep.Faults)
	}
}

// frames is what a server would send of a run, and what the publisher was told:
// n messages over three channels, one of them conflated for this client, with a
// gap now and then.
func frames(l *Ledger, n int) [][]byte {
	fs := [][]byte{[]byte(`{"t":"ack","id":1,"ch":{"a":{"epoch":"e1","seq":0},"b":{"epoch":"e1","seq":0},"slow":{"epoch":"e1","seq":0}}}`)}
	prev := map[string]uint64{}
	last := map[string]uint64{}
	skip := 0
	for i := 1; i <= n; i++ {
		seq := uint64(i)
		ch := [...]string{"a", "a", "b", "slow"}[i%4]
		d := fmt.Sprintf(`{"n":%d,"price":%d}`, i, i*7919%100_000)
		l.Acked("e1", ch, seq, Sum([]byte(d)))
		p := prev[ch]
		prev[ch] = seq
		switch {
		case ch == "slow" && i%20 != 3 && i < n-8:
			skip++
			continue
		case ch == "b" && i%100 == 2: // lost, and the next says so
			continue
		case p != last[ch] && ch == "b":
			fs = append(fs, fmt.Appendf(nil, `{"t":"gap","ch":%q,"after":%d,"before":%d,"why":"evicted"}`, ch, last[ch], seq))
		}
		with := ""
		if ch == "slow" && skip > 0 {
			with, skip = fmt.Sprintf(`"skip":%d,`, skip), 0
		}
		fs = append(fs, fmt.Appendf(nil, `{"t":"msg","ch":%q,"seq":%d,"prev":%d,"ts":1767000000123,%s"d":%s}`, ch, seq, p, with, d))
		last[ch] = seq
	}
	return fs
}

// One fault in a million must not pass. The frames are a server's; what stands
// between it and one client's page is a relay that does one thing wrong.
func TestMutants(t *testing.T) {
	const n = 100_000
	at := func(fs [][]byte, like string) int {
		for i := n/3 + rand.IntN(n/8); i < len(fs); i++ {
			if bytes.Contains(fs[i], []byte(like)) {
				return i
			}
		}
		t.Fatalf("no frame like %s", like)
		return 0
	}
	for _, tc := range []struct {
		name   string
		mutate func(fs [][]byte) [][]byte
		want   string // "" for none
	}{
		{"none", func(fs [][]byte) [][]byte { return fs }, ""},
		{"drops one message", func(fs [][]byte) [][]byte {
			i := at(fs, `"ch":"a"`)
			return append(fs[:i:i], fs[i+1:]...)
		}, Missing},
		{"drops the last message", func(fs [][]byte) [][]byte { return fs[:len(fs)-1] }, Missing},
		{"flips a byte of a payload", func(fs [][]byte) [][]byte {
			i := at(fs, `"ch":"a"`)
			fs[i] = bytes.Clone(fs[i])
			fs[i][len(fs[i])-3] ^= 1
			return fs
		}, Payload},
		{"swaps two messages", func(fs [][]byte) [][]byte {
			i := at(fs, `"ch":"a"`)
			j := i + 1
			for !bytes.Contains(fs[j], []byte(`"ch":"a"`)) {
				j++
			}
			fs[i], fs[j] = fs[j], fs[i]
			return fs
		}, Order},
		{"sends one twice", func(fs [][]byte) [][]byte {
			i := at(fs, `"ch":"a"`)
			return append(fs[:i+1:i+1], fs[i:]...)
		}, Duplicate},
		{"forges a skip", func(fs [][]byte) [][]byte {
			i := at(fs, `"skip":4`)
			fs[i] = bytes.Replace(fs[i], []byte(`"skip":4`), []byte(`"skip":3`), 1)
			return fs
		}, Skip},
		{"drops a gap", func(fs [][]byte) [][]byte {
			i := at(fs, `"t":"gap"`)
			return append(fs[:i:i], fs[i+1:]...)
		}, Missing},
		{"puts one into another channel", func(fs [][]byte) [][]byte {
			i := at(fs, `"t":"msg","ch":"a"`)
			fs[i] = bytes.Replace(fs[i], []byte(`"ch":"a"`), []byte(`"ch":"b"`), 1)
			return fs
		}, Payload},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := New()
			clients := 1
			if tc.name == "drops one message" {
				clients = 13
			}
			whole := frames(l, n)
			for i := range clients {
				c, fs := l.Client(fmt.Sprint(i)), whole
				if i == 0 {
					fs = tc.mutate(slices.Clone(fs))
				}
				for _, f := range fs {
					if err := c.Frame(f); err != nil {
						t.Fatal(err)
					}
				}
			}
			rep := l.Check()
			switch {
			case tc.want == "" && !rep.OK():
				t.Fatalf("faults without one: %v", rep.Faults)
			case tc.want == "" && (rep.Told == 0 || rep.Conflated == 0):
				t.Fatalf("no gap or no skip in the run: %+v", rep)
			case clients > 1 && (rep.Received < 999_999 || rep.Counts[Missing] != 1):
				t.Fatalf("one of a million was dropped: %d received, %s", rep.Received, rep.String())
			case tc.want != "" && rep.Counts[tc.want] == 0:
				t.Fatalf("passed, want %s: %s %v", tc.want, rep.String(), rep.Faults)
			}
		})
	}
}

// What a client costs does not grow with what it receives.
func TestBounded(t *testing.T) {
	const clients, messages = 1000, 1000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	l := New()
	var cs []*Client
	for i := range clients {
		c := l.Client(fmt.Sprint(i))
		c.Start("a", "e1", 0)
		cs = append(cs, c)
	}
	for seq := uint64(1); seq <= messages; seq++ {
		l.Acked("e1", "a", seq, sum(seq))
		for _, c := range cs {
			c.Message("a", seq, seq-1, 0, sum(seq))
		}
	}
	if used := int64(heap()) - int64(before); used > clients*1024+messages*64+1<<19 {
		t.Errorf("%d clients and %d messages take %d bytes", clients, messages, used)
	}
	if rep := l.Check(); !rep.OK() || rep.Received != clients*messages {
		t.Error(rep.String(), rep.Received)
	}
}

func BenchmarkMessage(b *testing.B) {
	l := New()
	c := l.Client("client")
	c.Start("a", "e1", 0)
	h := sum(1)
	b.ReportAllocs()
	for i := range uint64(b.N) {
		c.Message("a", i+1, i, 0, h)
	}
}
