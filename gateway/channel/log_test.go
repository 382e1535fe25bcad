package channel

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// newLog is a log with a budget of its own.
func newLog() *Log {
	l := &Log{budget: new(Budget)}
	l.budget.limit.Store(1 << 40)
	return l
}

// add appends an entry of n bytes, all of them the low byte of seq.
func (l *Log) add(n int, seq uint64, now int64) {
	b := l.room(n, l.seq, now)
	l.publish(append(b, bytes.Repeat([]byte{byte(seq)}, n)...), seq, now, int64(seq), false)
}

// seal makes the next entry begin a chunk.
func (l *Log) seal() {
	if k := len(l.chunks); k > 0 {
		c := l.chunks[k-1]
		c.buf = c.buf[:len(c.buf):len(c.buf)]
	}
}

// cost is what the chunks in the log are charged.
func (l *Log) cost() (sum int64) {
	for _, c := range l.chunks {
		sum += c.cost
	}
	return sum
}

func TestLogReadsWhatWasAppended(t *testing.T) {
	l := newLog()
	rng := rand.New(rand.NewPCG(1, 1))
	var want [][]byte
	for seq := uint64(1); seq <= 3000; seq++ {
		n := 1 + rng.IntN(1+[]int{10, 300, 5000, 100_000}[rng.IntN(4)])
		l.add(n, seq, int64(seq)*10)
		want = append(want, bytes.Repeat([]byte{byte(seq)}, n))
	}
	for _, from := range []uint64{0, 1, 17, 1500, 2998, 2999} {
		at := from
		for {
			s, ok := l.Read(at)
			if !ok || s.First != at {
				t.Fatalf("read from %d: %v, first %d", at, ok, s.First)
			}
			if len(s.Bytes) == 0 {
				break
			}
			if got := bytes.Join(want[s.First:s.Next], nil); !bytes.Equal(s.Bytes, got) {
				t.Fatalf("entries %d to %d differ", s.First, s.Next)
			}
			if s.Seq != s.Next || s.More != (s.Next < 3000) {
				t.Fatalf("span to %d: seq %d, more %v", s.Next, s.Seq, s.More)
			}
			at = s.Next
		}
		if at != 3000 {
			t.Fatalf("from %d ended at %d", from, at)
		}
	}
	if l.budget.Used() != l.cost() {
		t.Fatalf("charged %d for %d", l.budget.Used(), l.cost())
	}
}

func TestChunksFollowTheRate(t *testing.T) {
	l := newLog()
	now := int64(0)
	largest := func() int { return cap(l.chunks[len(l.chunks)-1].buf) }
	for range 400 {
		l.add(1000, 1, now)
	}
	if largest() != maxChunk {
		t.Fatalf("a fast channel's chunk is %d B", largest())
	}
	for range 400 {
		now += 70_000
		l.add(1000, 1, now)
	}
	if largest() != minChunk {
		t.Fatalf("a slow channel's chunk is %d B", largest())
	}
	l.add(200_000, 1, now)
	if largest() != 200_000 {
		t.Fatalf("a large frame's chunk is %d B", largest())
	}
}

func TestSplitAtEveryByte(t *testing.T) {
	l := newLog()
	sizes := []int{1, 2, 10, 1, 40}
	for i, n := range sizes {
		l.add(n, uint64(10*(i+1)), 0)
	}
	for from := range sizes {
		s, _ := l.Read(uint64(from))
		for n := 1; n <= len(s.Bytes); n++ {
			next, seq, rest := s.Split(n)
			end, i := 0, from // what it should say, the slow way
			for ; end < n; i++ {
				end += sizes[i]
			}
			if next != uint64(i) || seq != uint64(10*i) || len(rest.Rest()) != end-n {
				t.Fatalf("from %d, %d bytes: next %d seq %d rest %d; want %d, %d, %d", from, n, next, seq, len(rest.Rest()), i, 10*i, end-n)
			}
			if end > n {
				if !bytes.Equal(rest.Rest(), s.Bytes[n:end]) {
					t.Fatalf("from %d, %d bytes: rest %v", from, n, rest.Rest())
				}
				for k := len(rest.Rest()); k > 1; k-- {
					if rest.Advance(1) {
						t.Fatal("done early")
					}
				}
				if !rest.Advance(1) || rest.Rest() != nil {
					t.Fatal("not done at the end")
				}
			} else if rest.c != nil {
				t.Fatal("an empty rest pins its chunk")
			}
		}
	}
	if refs := l.chunks[0].refs.Load(); refs != 1 {
		t.Fatalf("%d references are left", refs)
	}
}

func TestPinsAreCharged(t *testing.T) {
	for name, trimFirst := range map[string]bool{"pinned, then trimmed": false, "trimmed between read and split": true} {
		l := newLog()
		l.add(100, 1, 0)
		s, _ := l.Read(0)
		cost := l.cost()
		var pins [3]Pin
		if trimFirst {
			l.dropOldest()
			if l.budget.Used() != 0 {
				t.Fatalf("%s: %d B charged for an empty log", name, l.budget.Used())
			}
		}
		for i := range pins {
			_, _, pins[i] = s.Split(10 + i)
		}
		if !trimFirst {
			l.dropOldest()
		}
		for i := range pins {
			if l.budget.Used() != cost {
				t.Fatalf("%s, %d pins left: %d B charged, want %d", name, len(pins)-i, l.budget.Used(), cost)
			}
			pins[i].Drop()
			pins[i].Drop() // of nothing
		}
		if l.budget.Used() != 0 {
			t.Fatalf("%s: %d B charged at the end", name, l.budget.Used())
		}
	}
}

func TestTrim(t *testing.T) {
	l := newLog()
	for i := range 30 { // a chunk each
		l.seal()
		l.add(2000, uint64(i+1), int64(100*i))
	}
	for _, step := range []struct {
		keep     int
		deadline int64
		left     int
	}{
		{25, 0, 30},    // all too young
		{25, 300, 27},  // those of 0, 100, 200
		{25, 1000, 25}, // no more than keep allows
		{25, 10_000, 25},
		{3, 10_000, 3},
		{0, 10_000, 1}, // never the last
	} {
		l.trim(step.keep, step.deadline)
		if next, _ := l.Head(); len(l.chunks) != step.left || l.chunks[0].first != next-uint64(step.left) {
			t.Fatalf("%+v left %d", step, len(l.chunks))
		}
		if l.budget.Used() != l.cost() {
			t.Fatalf("%+v: charged %d for %d", step, l.budget.Used(), l.cost())
		}
	}
	if _, ok := l.Read(28); ok {
		t.Error("read a trimmed entry")
	}
	if s, ok := l.Read(29); !ok || s.Seq != 30 {
		t.Error("lost the last entry")
	}
}

// positions is a log with entries 0 to 9 of seq 10, 20, … 100, of which those
// below trimmed are gone; it first had seq 5.
func positions(trimmed int) *Log {
	l := newLog()
	l.seq = 5
	for i := range 10 {
		l.seal()
		l.add(2000, uint64(10*(i+1)), 0)
	}
	for range trimmed {
		l.dropOldest()
	}
	return l
}

func TestAfter(t *testing.T) {
	for _, c := range []struct {
		trimmed     int
		seq         uint64
		ord, before uint64
		complete    bool
	}{
		{0, 0, 0, 6, false}, // what came before 5 is not known
		{0, 4, 0, 6, false},
		{0, 5, 0, 0, true},
		{0, 9, 0, 0, true},
		{0, 10, 1, 0, true},
		{0, 11, 1, 0, true},
		{0, 99, 9, 0, true},
		{0, 100, 10, 0, true},
		{0, 1000, 10, 0, true},
		{4, 39, 4, 41, false},
		{4, 40, 4, 0, true},
		{4, 55, 5, 0, true},
		{10, 99, 10, 101, false},
		{10, 100, 10, 0, true},
	} {
		ord, before, complete := positions(c.trimmed).After(c.seq)
		if ord != c.ord || before != c.before || complete != c.complete {
			t.Errorf("%d trimmed, after %d: %d, %d, %v; want %d, %d, %v", c.trimmed, c.seq, ord, before, complete, c.ord, c.before, c.complete)
		}
	}
}

func TestRejoin(t *testing.T) {
	for _, c := range []struct {
		trimmed     int
		from        uint64
		ord, before uint64
	}{
		{1, 0, 1, 11},
		{4, 0, 4, 41},
		{4, 3, 4, 41},
		{10, 3, 10, 101},
	} {
		ord, before, epoch := positions(c.trimmed).Rejoin(c.from)
		if ord != c.ord || before != c.before || epoch != "" {
			t.Errorf("%d trimmed, rejoin %d: %d, %d, %v; want %d, %d", c.trimmed, c.from, ord, before, epoch, c.ord, c.before)
		}
	}
}

// A reader never sees a byte change, nor half an entry, whatever the writer does
// meanwhile.
func TestConcurrentReaders(t *testing.T) {
	l := newLog()
	const last = 20_000
	var wg sync.WaitGroup
	for r := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 0))
			var at uint64
			seen := uint64(0)
			for seen < last {
				s, ok := l.Read(at)
				if !ok {
					ord, before, _ := l.Rejoin(at)
					if ord <= at {
						t.Errorf("rejoin %d at %d", at, ord)
						return
					}
					at, seen = ord, before-1
					continue
				}
				if len(s.Bytes) == 0 {
					continue
				}
				n := 1 + rng.IntN(len(s.Bytes))
				next, seq, pin := s.Split(n)
				for _, b := range pin.Rest() {
					if b != byte(seq) {
						t.Errorf("half of entry %d is of another", seq)
						return
					}
				}
				pin.Drop()
				if seq != next || seq <= seen { // ordinals are seqs here, less one
					t.Errorf("entry %d has seq %d, after %d", next-1, seq, seen)
					return
				}
				at, seen = next, seq
				l.After(seq - rng.Uint64N(min(seq, 50)))
			}
		})
	}
	for seq := uint64(1); seq <= last; seq++ {
		l.add(1+int(seq*7919%900), seq, int64(seq))
		if seq%3 == 0 {
			l.trim(50, int64(seq))
		}
		if seq%101 == 0 && seq < last-200 {
			l.dropOldest()
		}
	}
	wg.Wait()
	if l.budget.Used() != l.cost() {
		t.Fatalf("charged %d for %d", l.budget.Used(), l.cost())
	}
}

func BenchmarkLogRead(b *testing.B) {
	l := newLog()
	for i := range 1000 {
		l.add(200, uint64(i), 0)
	}
	for _, from := range []uint64{999, 900, 0} {
		b.Run(fmt.Sprint(1000-from, "_behind"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l.Read(from)
			}
		})
	}
}
