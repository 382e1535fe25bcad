package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// sent is one frame of a scripted server: a message, or any text.
type sent struct {
	ch              string
	seq, prev, skip uint64
	d               []byte
	text            string
}

func (s *sent) frame() []byte {
	if s.text != "" {
		return []byte(s.text)
	}
	skip := ""
	if s.skip > 0 {
		skip = fmt.Sprintf(`"skip":%d,`, s.skip)
	}
	return fmt.Appendf(nil, `{"t":"msg","ch":%q,"seq":%d,"prev":%d,"ts":1,%s"d":%s}`, s.ch, s.seq, s.prev, skip, s.d)
}

// A scripted server has 40 messages published on two channels, "a" the odd seqs
// and "b" the even ones, and sends them to ten connections; change makes a
// mutant of it.
func script(mark string) (all []sent, entries []Entry) {
	for seq := uint64(11); seq <= 50; seq++ {
		m := sent{ch: "a", seq: seq, prev: seq - 2, d: AppendPayload(nil, mark, seq, 120)}
		if seq%2 == 0 {
			m.ch = "b"
		}
		Stamp(m.d, mark, time.Now())
		all = append(all, m)
		entries = append(entries, Entry{"e1", m.ch, seq, Hash(m.d)})
	}
	return all, entries
}

// at is the index of a seq.
func at(all []sent, seq uint64) int {
	return slices.IndexFunc(all, func(s sent) bool { return s.seq == seq })
}

func drop(all []sent, seq uint64) []sent {
	i := at(all, seq)
	return slices.Delete(slices.Clone(all), i, i+1)
}

// relink drops a message and hides it: the next one's prev passes over it.
func relink(all []sent, seq uint64) []sent {
	all = drop(all, seq)
	all[at(all, seq+2)].prev = seq - 2
	return all
}

func insert(all []sent, before uint64, s sent) []sent {
	return slices.Insert(slices.Clone(all), at(all, before), s)
}

func text(format string, args ...any) sent { return sent{text: fmt.Sprintf(format, args...)} }

func TestLedgerCatchesMutants(t *testing.T) {
	mark := NewMark()
	for _, c := range []struct {
		name   string
		change func([]sent) []sent
		all    bool   // every connection's, not only one of ten
		want   string // faults
	}{
		{"sound", func(s []sent) []sent { return s }, true, "{}"},
		{"drops one", func(s []sent) []sent { return drop(s, 25) }, false, `{"hole": 1}`},
		{"drops the first", func(s []sent) []sent { return drop(s, 11) }, false, `{"hole": 1}`},
		{"drops the last", func(s []sent) []sent { return drop(s, 50) }, false, `{"tail": 1}`},
		{"drops one and hides it", func(s []sent) []sent { return relink(s, 25) }, false, `{"prev": 1}`},
		{"drops one and hides it from all", func(s []sent) []sent { return relink(s, 25) }, true, `{"hidden": 1}`},
		{"repeats", func(s []sent) []sent { return insert(s, 26, s[at(s, 25)]) }, false, `{"duplicate": 1}`},
		{"repeats later", func(s []sent) []sent { return insert(s, 29, s[at(s, 25)]) }, false, `{"order": 1}`},
		{"swaps two", func(s []sent) []sent {
			s = slices.Clone(s)
			i, j := at(s, 25), at(s, 27)
			s[i], s[j] = s[j], s[i]
			return s
		}, false, `{"hole": 1, "order": 1}`},
		{"numbers two the wrong way round", func(s []sent) []sent {
			s = slices.Clone(s)
			i, j := at(s, 25), at(s, 27)
			s[i].d, s[j].d = s[j].d, s[i].d
			return s
		}, true, `{"payload": 1}`},
		{"flips a bit", func(s []sent) []sent {
			s = slices.Clone(s)
			i := at(s, 25)
			s[i].d = bytes.Replace(s[i].d, []byte("abc"), []byte("acc"), 1)
			return s
		}, false, `{"payload": 1}`},
		{"gives a message to another channel", func(s []sent) []sent {
			s = slices.Clone(s)
			s[at(s, 50)].ch, s[at(s, 50)].prev = "a", 49
			return s
		}, true, `{"payload": 1, "tail": 10}`},
		{"invents one", func(s []sent) []sent {
			return append(slices.Clone(s), sent{ch: "a", seq: 51, prev: 49, d: AppendPayload(nil, mark, 99, 120)})
		}, true, `{"phantom": 1}`},
		{"announces a gap", func(s []sent) []sent {
			return insert(drop(s, 25), 26, text(`{"t":"gap","ch":"a","after":23,"before":26,"why":"slow"}`))
		}, false, "{}"},
		{"announces the last as a gap", func(s []sent) []sent {
			return append(drop(s, 50), text(`{"t":"gap","ch":"b","after":48,"before":51,"why":"slow"}`))
		}, false, "{}"},
		{"announces a gap that begins too late", func(s []sent) []sent {
			return insert(drop(drop(s, 25), 27), 28, text(`{"t":"gap","ch":"a","after":25,"before":28,"why":"slow"}`))
		}, false, `{"claim": 1}`},
		{"announces a gap that ends too soon", func(s []sent) []sent {
			return insert(drop(drop(s, 25), 27), 28, text(`{"t":"gap","ch":"a","after":23,"before":26,"why":"slow"}`))
		}, false, `{"hole": 1}`},
		{"announces another channel's gap", func(s []sent) []sent {
			return insert(drop(s, 25), 26, text(`{"t":"gap","ch":"b","after":23,"before":26,"why":"slow"}`))
		}, false, `{"hole": 1}`},
		{"conflates", func(s []sent) []sent {
			s = drop(drop(s, 25), 27)
			s[at(s, 29)].skip = 2
			return s
		}, false, "{}"},
		{"conflates more than it says", func(s []sent) []sent {
			s = drop(drop(s, 25), 27)
			s[at(s, 29)].skip = 1
			return s
		}, false, `{"claim": 1}`},
		{"conflates less than it says", func(s []sent) []sent {
			s = drop(s, 25)
			s[at(s, 27)].skip = 2
			return s
		}, false, `{"claim": 1}`},
		{"says skip for nothing", func(s []sent) []sent {
			s = slices.Clone(s)
			s[at(s, 27)].skip = 1
			return s
		}, false, `{"claim": 1}`},
		{"sends an unasked channel", func(s []sent) []sent {
			return insert(s, 25, sent{ch: "c", seq: 60, prev: 0, d: []byte("1")})
		}, false, `{"unasked": 1}`},
		{"sends before the ack", func(s []sent) []sent { return s }, false, `{"unasked": 1}`}, // see below
		{"sends no JSON", func(s []sent) []sent { return insert(s, 25, text("hello")) }, false, `{"malformed": 1}`},
		{"has prev above seq", func(s []sent) []sent {
			s = slices.Clone(s)
			s[at(s, 25)].prev = 25
			return s
		}, false, `{"prev": 2}`}, // it is none, and not the others'
	} {
		t.Run(c.name, func(t *testing.T) {
			all, entries := script(mark)
			mutant := c.change(all)
			var conns atomic.Int32
			var ready sync.WaitGroup
			ready.Add(1)
			var s *Swarm
			url := webSocket(t, func(ctx context.Context, ws *websocket.Conn) {
				mine := all
				mutated := conns.Add(1) == 4 || c.all
				if mutated {
					mine = mutant
				}
				say := func(b []byte) { _ = ws.Write(ctx, websocket.MessageText, b) }
				say([]byte(`{"t":"hello","conn":"c","node":"n","v":1}`))
				_, b, err := ws.Read(ctx)
				if err != nil {
					return
				}
				var sub struct{ Ch []string }
				if json.Unmarshal(b, &sub) != nil || !slices.Equal(sub.Ch, []string{"a", "b"}) {
					t.Errorf("subscribed with %s", b)
				}
				if mutated && strings.Contains(c.name, "before the ack") {
					say(all[0].frame())
				}
				say([]byte(`{"t":"ack","id":1,"ch":{"a":{"epoch":"e1","seq":9},"b":{"epoch":"e1","seq":10}}}`))
				ready.Wait()
				for mutated && !c.all && s.Counts().Frames < 9*40 { // the others first
					time.Sleep(2 * time.Millisecond)
				}
				for i := range mine {
					say(mine[i].frame())
				}
				_, _, _ = ws.Read(ctx)
			})
			s = start(t, Config{URL: url, Connections: 10, Channels: []string{"a", "b"}, Check: true, Mark: mark})
			settled(t, s, 10)
			s.Published(entries[:20]) // before the messages
			ready.Done()
			s.Published(entries[20:]) // among them
			if c.want != "{}" {
				time.Sleep(100 * time.Millisecond) // the tail has come, or will not
			}
			settle := 5 * time.Second
			if strings.Contains(c.want, "tail") {
				settle = 300 * time.Millisecond
			}
			rep := finish(t, s, End{Last: map[string]uint64{"a": 49, "b": 50}, Settle: settle})
			l := rep.Ledger
			got := maps.Clone(l.Faults)
			if c.all && got["payload"] > 1 {
				got["payload"] = 1 // found at each delivery after the ack, or once by the ack
			}
			if got.String() != c.want || l.Published != 40 || l.Unchecked != 0 {
				t.Errorf("faults %s, want %s; %+v", l.Faults, c.want, l)
			}
			if (len(l.Examples) > 0) != (c.want != "{}") {
				t.Errorf("examples %q", l.Examples)
			}
		})
	}
}

// told feeds one connection's frames to a ledger.
func told(l *ledger, i int32, k *conn, frames ...sent) {
	for n := range frames {
		var m message
		if p := frames[n].frame(); m.parse(p) {
			_, own := stamped(m.d, "{")
			l.message(i, k, &m, own)
		}
	}
}

func msg(ch string, seq, prev uint64) sent { return sent{ch: ch, seq: seq, prev: prev, d: []byte("1")} }

func TestChains(t *testing.T) {
	for name, c := range map[string]struct {
		play func(l *ledger, k *conn)
		want string
	}{
		"wildcard": {func(l *ledger, k *conn) {
			l.acked(k, "t.*", "e1", 5)
			told(l, 0, k, msg("t.a", 7, 4), msg("t.b", 8, 0), msg("t.a", 9, 7))
		}, "{}"},
		"wildcard, hole at the start": {func(l *ledger, k *conn) {
			l.acked(k, "t.*", "e1", 5)
			told(l, 0, k, msg("t.a", 7, 6))
		}, `{"hole": 1}`},
		"wildcard, old message": {func(l *ledger, k *conn) {
			l.acked(k, "t.*", "e1", 5)
			told(l, 0, k, msg("t.a", 5, 3))
		}, `{"order": 1}`},
		"wildcard's gap": {func(l *ledger, k *conn) {
			l.acked(k, "t.*", "e1", 5)
			l.acked(k, "x", "e1", 5)
			told(l, 0, k, msg("t.a", 7, 4))
			l.gap(0, k, []byte("t.*"), 7, 12, false)
			told(l, 0, k, msg("t.a", 13, 10), msg("t.b", 14, 11), msg("x", 15, 11))
		}, `{"hole": 1}`}, // of x
		"a new epoch": {func(l *ledger, k *conn) {
			l.acked(k, "a", "e1", 500)
			told(l, 0, k, msg("a", 501, 500))
			l.gap(0, k, []byte("a"), 501, 1, true)
			told(l, 0, k, msg("a", 2, 1), msg("a", 3, 2), msg("a", 5, 4))
		}, `{"hole": 1}`},
		"a stranger from another epoch": {func(l *ledger, k *conn) {
			l.acked(k, "a", "e1", 5)
			told(l, 0, k, msg("a", 6, 5))
			other := &conn{}
			l.acked(other, "a", "e2", 5)
			told(l, 1, other, sent{ch: "a", seq: 6, prev: 5, d: []byte("2")})
		}, "{}"},
		"two gaps": {func(l *ledger, k *conn) {
			l.acked(k, "a", "e1", 5)
			l.gap(0, k, []byte("a"), 5, 9, false)
			l.gap(0, k, []byte("a"), 8, 12, false)
			told(l, 0, k, msg("a", 12, 11))
		}, "{}"},
		"a gap is used up": {func(l *ledger, k *conn) {
			l.acked(k, "a", "e1", 5)
			l.gap(0, k, []byte("a"), 5, 9, false)
			told(l, 0, k, msg("a", 9, 7), msg("a", 11, 8))
		}, `{"hole": 1}`},
		"gaps without end": {func(l *ledger, k *conn) {
			l.acked(k, "a", "e1", 5)
			for n := range uint64(maxGaps + 2) {
				l.gap(0, k, []byte("a"), 10*n+10, 10*n+12, false)
			}
		}, `{"gaps": 2}`},
		"not UTF-8": {func(l *ledger, k *conn) {
			l.acked(k, "a", "e1", 5)
			told(l, 0, k, sent{ch: "a", seq: 6, prev: 5, d: []byte("\"\xff\"")})
		}, `{"malformed": 1}`},
		"acknowledged twice": {func(l *ledger, k *conn) {
			l.published([]Entry{{"e1", "a", 6, 1}, {"e1", "a", 6, 3}})
		}, `{"payload": 1}`},
		"others publish too": {func(l *ledger, k *conn) {
			l.acked(k, "a", "e1", 5)
			told(l, 0, k, msg("a", 6, 5), sent{ch: "a", seq: 9, prev: 8, skip: 2, d: []byte("1")}, msg("a", 10, 9))
			l.published([]Entry{{"e1", "a", 6, Hash([]byte("1"))}, {"e1", "a", 8, Hash([]byte("1"))}, {"e1", "a", 10, Hash([]byte("1"))}})
		}, "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			l, k := newLedger(), &conn{}
			c.play(l, k)
			if got := l.finish(); got.Faults.String() != c.want {
				t.Errorf("%s, want %s: %q", got.Faults, c.want, got.Examples)
			}
		})
	}
}

// A ledger forgets the oldest messages, and says how much it could not compare.
func TestLedgerIsBounded(t *testing.T) {
	l, k := newLedger(), &conn{}
	l.acked(k, "a", "e1", 0)
	const n = (maxPages + 10) * pageSize
	m := message{ch: []byte("a"), d: []byte("1")}
	for seq := uint64(1); seq <= n; seq++ {
		m.seq, m.prev = seq, seq-1
		l.message(0, k, &m, false)
	}
	if len(l.pages) > maxPages {
		t.Errorf("%d pages", len(l.pages))
	}
	l.published([]Entry{{"e1", "a", 5, 1}, {"e1", "a", n, Hash([]byte("1"))}})
	if rep := l.finish(); rep.Faults.Sum() != 0 || rep.Unchecked != 1 || rep.Matched != 1 || rep.Checked != n {
		t.Errorf("%+v", rep)
	}
}

// One message missing among a million deliveries is found, hidden or not.
func TestOneInAMillion(t *testing.T) {
	for _, hide := range []bool{false, true} {
		l, conns := newLedger(), make([]conn, 1000)
		for i := range conns {
			l.acked(&conns[i], "a", "e1", 0)
		}
		data := []byte("1")
		for seq := uint64(1); seq <= 1000; seq++ {
			l.published([]Entry{{"e1", "a", seq, Hash(data)}})
			for i := range conns {
				m := message{ch: []byte("a"), seq: seq, prev: seq - 1, d: data}
				switch {
				case i == 617 && seq == 500:
					continue
				case i == 617 && seq == 501 && hide:
					m.prev = 499
				}
				l.message(int32(i), &conns[i], &m, true)
			}
		}
		if rep := l.finish(); rep.Faults.Sum() != 1 || rep.Checked != 999_999 {
			t.Errorf("hidden %v: %s among %d", hide, rep.Faults, rep.Checked)
		}
	}
}
