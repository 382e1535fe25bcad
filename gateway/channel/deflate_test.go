package channel

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/wire"
)

// unpack returns whole frames as they were before any of them was compressed, by the
// standard library, and how many were.
func unpack(t testing.TB, frames []byte) (plain []byte, compressed int) {
	t.Helper()
	for len(frames) > 0 {
		at, n := 2, int(frames[1])
		switch n {
		case 126:
			at, n = 4, int(binary.BigEndian.Uint16(frames[2:]))
		case 127:
			at, n = 10, int(binary.BigEndian.Uint64(frames[2:]))
		}
		payload := frames[at : at+n]
		switch frames[0] {
		case 0x81:
		case 0xc1:
			compressed++
			z := flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
			b, err := io.ReadAll(z)
			if err != nil {
				t.Fatalf("inflate %q: %v", payload, err)
			}
			payload = b
		default:
			t.Fatalf("a frame that begins with %x", frames[0])
		}
		plain = wire.AppendFrame(plain, wire.OpText, payload)
		frames = frames[at+n:]
	}
	return plain, compressed
}

// tell publishes a message of about n bytes, that gets shorter when compressed unless
// the words are many.
func (h *testHub) tell(rng *rand.Rand, ch string, seq, prev uint64, n, words int) {
	data := append(make([]byte, 0, n+8), '"')
	for len(data) < n {
		data = fmt.Appendf(data, "%04x", rng.IntN(words)*7919)
	}
	h.Message(&broker.Message{Channel: ch, Seq: seq, Prev: prev, Time: h.clock, Data: append(data, '"')})
}

// plainReader follows a log and notes what it reads; one reader that is never behind
// has all the log ever had.
type plainReader struct {
	at   uint64
	got  []byte   // all entries so far
	offs []uint64 // where each begins, from ordinal 0 on
}

func (r *plainReader) read(t *testing.T, ch *Channel) {
	for {
		s, ok := ch.Read(r.at)
		if !ok {
			t.Fatal("the reader that is never behind fell off")
		}
		if len(s.Bytes) == 0 {
			return
		}
		for _, o := range s.offs {
			r.offs = append(r.offs, uint64(len(r.got))+uint64(o-s.base))
		}
		r.got = append(r.got, s.Bytes...)
		r.at = s.Next
	}
}

// entries is what the log had from ordinal from to to.
func (r *plainReader) entries(from, to uint64) []byte {
	end := uint64(len(r.got))
	if to < uint64(len(r.offs)) {
		end = r.offs[to]
	}
	return r.got[r.offs[from]:end]
}

// Whoever is given a log compressed is given what it holds: from any position, across
// chunks, beginnings, ends and lags of compression, however writes are cut, and it is
// charged to the budget.
func TestDeflatedIsTheSame(t *testing.T) {
	compressed, plain, split := 0, 0, 0
	for seed := uint64(1); seed <= 12; seed++ {
		rng := rand.New(rand.NewPCG(seed, 0))
		h := newTestHub(t, func(c *Config) {
			c.Keep, c.Grace, c.MaxPayload = 1+rng.IntN(400), 0, 64<<10
			c.Budget = []int64{64 << 10, 16 << 20}[rng.IntN(2)]
		})
		h.Open("e1", 0)
		ch := h.follow("t.a") // some are given it as it is, all the time
		var all plainReader
		at, sent := uint64(0), []byte(nil) // one that is given it compressed: its position and half-written frames
		attached := false
		var pins []*Pin
		seq := uint64(0)
		for range 400 {
			switch n := rng.IntN(20); {
			case n < 8:
				for range 1 + rng.IntN(20) {
					h.tell(rng, "t.a", seq+1, seq, rng.IntN(1+[]int{10, 300, 3000}[rng.IntN(3)]), 8+rng.IntN(2)*rng.IntN(9000))
					seq++
					all.read(t, ch)
				}
				if h.clock += int64(rng.IntN(5)); rng.IntN(10) == 0 { // compression is late
					h.clock += int64(rng.IntN(2000))
				}
			case n < 9:
				for range 2 * deflateLag * rng.IntN(2) * rng.IntN(2) {
					h.tell(rng, "t.a", seq+1, seq, 1, 1)
					seq++
					all.read(t, ch)
				}
			case n < 10:
				h.Down(nil)
				all.read(t, ch)
				h.Live()
				all.read(t, ch)
			case n < 13:
				for range 1 + rng.IntN(3) {
					h.Deflate()
				}
			case n < 14:
				if attached = !attached; !attached {
					h.Detach(1, ch, true)
					break
				}
				h.Attach(1, ch, true)
				if at = all.at; rng.IntN(2) == 0 { // or one that resumes
					at, _ = ch.Begin()
				}
				sent = nil
			case n < 15:
				h.Tick()
			default:
				if !attached {
					break
				}
				s, ok := ch.ReadDeflated(at)
				if !ok {
					if _, ok := ch.Read(at); ok {
						t.Fatalf("seed %d: fell off at %d, which the log has", seed, at)
					}
					at, _, _ = ch.Rejoin(at)
					break
				}
				if len(s.Bytes) == 0 {
					break
				}
				if s.First != at || s.More != (s.Next < ch.Deflated()) || s.Next > ch.Deflated() {
					t.Fatalf("seed %d: a span %d to %d, more %v, read from %d, deflated to %d", seed, s.First, s.Next, s.More, at, ch.Deflated())
				}
				n := 1 + rng.IntN(len(s.Bytes))
				next, _, pin := s.Split(n)
				sent = append(bytes.Clone(s.Bytes[:n]), pin.Rest()...)
				if len(pin.Rest()) > 0 {
					split++
					pins = append(pins, &pin)
				}
				got, z := unpack(t, sent)
				if want := all.entries(at, next); !bytes.Equal(got, want) {
					t.Fatalf("seed %d: entries %d to %d are %.200q, not %.200q", seed, at, next, got, want)
				}
				compressed += z
				plain += int(next-at) - z
				at = next
				for len(pins) > rng.IntN(4) { // in time others are trimmed under it
					pins[0].Drop()
					pins = pins[1:]
				}
			}
			if l, skip, ok := ch.ReadLatestDeflated(at); attached && ok && len(l.Bytes) > 0 {
				got, z := unpack(t, l.Bytes)
				if want := all.entries(l.First, l.Next); !bytes.Equal(got, want) || l.Next != l.First+1 || l.First != at+skip || skip > 0 && z > 0 {
					t.Fatalf("seed %d: the latest from %d on is %d to %d, skip %d: %.200q, not %.200q", seed, at, l.First, l.Next, skip, got, want)
				}
			}
		}
		for _, p := range pins {
			p.Drop()
		}
		if sum, _ := h.used(); h.Budget().Used() != sum {
			t.Fatalf("seed %d: the budget says %d, the chunks make %d", seed, h.Budget().Used(), sum)
		}
		h.Tick()
		if used, limit := h.Budget().Used(), h.Budget().Limit(); used > limit+2*maxChunk {
			t.Fatalf("seed %d: %d B in a budget of %d", seed, used, limit)
		}
	}
	if compressed < 300 || plain < 300 || split < 30 {
		t.Errorf("%d compressed, %d as they were, %d cut: too few to have seen everything", compressed, plain, split)
	}
}

// deflateAll compresses all there is to compress.
func (h *testHub) deflateAll() {
	for len(h.deflater.queue) > 0 {
		h.Deflate()
	}
}

// A message is compressed once, whoever is given it, and not at all when nobody is.
func TestDeflatedOnce(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.Keep = 100 })
	asked := 0
	h.cfg.Deflate = func() { asked++ }
	h.Open("e1", 0)
	ch := h.follow("t.a")
	rng := rand.New(rand.NewPCG(1, 1))
	h.tell(rng, "t.a", 1, 0, 500, 8)
	h.deflateAll()
	if asked != 0 || h.Counters.Deflated.Load() != 0 {
		t.Fatalf("compressed for nobody: %d asked, %d done", asked, h.Counters.Deflated.Load())
	}
	h.Attach(0, ch, true)
	h.Attach(1, ch, true)
	for seq := uint64(2); seq <= 10; seq++ {
		h.tell(rng, "t.a", seq, seq-1, 500, 8)
	}
	h.message("t.a", 11, 10) // short
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if s, ok := ch.ReadDeflated(1); !ok || len(s.Bytes) > 0 {
		t.Error("given before it is compressed")
	}
	if s, ok := ch.ReadDeflated(0); !ok || s.Next != 1 || s.Bytes[0] != 0x81 || s.More {
		t.Errorf("what was there before: %v, to %d", ok, s.Next)
	}
	h.deflateAll()
	h.Deflate() // for nothing
	if n := h.Counters.Deflated.Load(); n != 9 {
		t.Errorf("%d compressed of 9", n)
	}
	from, to := h.Counters.DeflatedFrom.Load(), h.Counters.DeflatedTo.Load()
	at, read := uint64(1), 0
	for s, ok := ch.ReadDeflated(at); ok && len(s.Bytes) > 0; s, ok = ch.ReadDeflated(at) {
		at, read = s.Next, read+len(s.Bytes)
	}
	if short := wire.MsgFrameLen("t.a", 11, 10, h.clock, 3); at != 11 || read != int(to)+short || to >= from {
		t.Errorf("to %d, %d B; %d B were made %d", at, read, from, to)
	}
	for shard := range 2 {
		if got := h.TakeDeflated(shard, nil); len(got) != 1 || got[0] != ch || h.wakes[shard] == 0 {
			t.Errorf("shard %d is left %v, woken %d times", shard, got, h.wakes[shard])
		}
	}
	// Shard 1 has nobody who is given it as it is.
	if dirty, _ := h.Take(1, nil, nil); len(dirty) > 0 {
		t.Error("marked for who waits for the compressed")
	}
	h.Detach(0, ch, false)
	h.clock += 2 * forgetAfter
	h.Tick()
	if h.Lookup("t.a") != ch {
		t.Error("forgotten while it is followed")
	}
	h.Detach(0, ch, true)
	h.Detach(1, ch, true)
	asked = 0
	h.tell(rng, "t.a", 12, 11, 500, 8)
	h.deflateAll()
	if asked != 0 || h.Counters.Deflated.Load() != 9 {
		t.Error("compressed for those who left")
	}
}

// What comes faster than it can be compressed goes out as it is, not late.
func TestDeflateLagsBehind(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.Keep = 10_000 })
	h.Open("e1", 0)
	ch := h.follow("t.a")
	h.Attach(1, ch, true)
	rng := rand.New(rand.NewPCG(1, 1))
	var all plainReader
	for seq := uint64(1); seq <= deflateLag+50; seq++ {
		h.tell(rng, "t.a", seq, seq-1, 200, 8)
	}
	all.read(t, ch)
	h.deflateAll()
	if n := h.Counters.DeflatePassed.Load(); n != deflateLag+50 || h.Counters.Deflated.Load() != 0 {
		t.Errorf("%d passed over, %d compressed", n, h.Counters.Deflated.Load())
	}
	if len(h.TakeDeflated(1, nil)) != 1 {
		t.Error("not marked for what was passed over")
	}
	next := uint64(deflateLag + 51)
	h.tell(rng, "t.a", next, next-1, 200, 8)
	all.read(t, ch)
	h.deflateAll()
	for at := uint64(0); at < next; {
		s, ok := ch.ReadDeflated(at)
		if !ok || len(s.Bytes) == 0 {
			t.Fatalf("nothing at %d", at)
		}
		got, _ := unpack(t, s.Bytes)
		if !bytes.Equal(got, all.entries(at, s.Next)) {
			t.Fatalf("entries %d to %d differ", at, s.Next)
		}
		at = s.Next
	}
	if h.Counters.Deflated.Load() != 1 {
		t.Errorf("%d compressed of one", h.Counters.Deflated.Load())
	}
}

// One goroutine compresses for all channels: what has waited for long for the others
// goes out as it is, and nothing is later than a round and the next.
func TestDeflateIsNeverLate(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.Keep, c.Budget, c.MaxChannels = 10_000, 64<<20, 200 })
	h.Open("e1", 0)
	const channels, perChannel = 200, 100
	rng := rand.New(rand.NewPCG(1, 1))
	seq := uint64(0)
	for i := range channels {
		name := fmt.Sprint("t.", i)
		h.Attach(1, h.Ensure(name, 0), true)
		for prev := uint64(0); seq < uint64((i+1)*perChannel); {
			seq++
			h.tell(rng, name, seq, prev, 400, 8)
			prev = seq
		}
	}
	begun, done, last := h.clock, uint64(0), int64(0)
	h.cfg.Now = func() int64 { // as if each batch took a millisecond
		h.clock++
		if n := h.Counters.Deflated.Load(); n > done {
			done, last = n, h.clock-begun
		}
		return h.clock
	}
	h.deflateAll()
	if passed := h.Counters.DeflatePassed.Load(); done == 0 || done+passed != channels*perChannel {
		t.Errorf("%d compressed, %d passed over of %d", done, passed, channels*perChannel)
	}
	if last > deflateLate.Milliseconds()+1 {
		t.Errorf("compressed after %d ms", last)
	}
	if got := h.TakeDeflated(1, nil); len(got) != channels {
		t.Errorf("%d of %d channels are marked", len(got), channels)
	}
	if ch := h.Lookup("t.0"); ch.toDo.Load() || ch.Deflated() != perChannel {
		t.Errorf("deflated to %d, still queued: %v", ch.Deflated(), ch.toDo.Load())
	}
	if h.DeflateLag() != 0 {
		t.Errorf("nothing waits, and has for %d ms", h.DeflateLag())
	}
}

// A round is a batch of each channel, whatever is appended meanwhile: who calls can
// end it.
func TestDeflateRound(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.Keep, c.MaxPayload = 10_000, deflateBatch })
	asked := 0
	h.cfg.Deflate = func() { asked++ }
	h.Open("e1", 0)
	rng := rand.New(rand.NewPCG(1, 1))
	for i, name := range []string{"t.a", "t.b"} {
		h.Attach(1, h.Ensure(name, 0), true)
		for n := range uint64(3) {
			seq := uint64(i)*3 + n + 1
			h.tell(rng, name, seq, (seq-1)*min(n, 1), deflateBatch-100, 8)
		}
	}
	h.clock += 7
	if lag := h.DeflateLag(); lag != 7 {
		t.Errorf("behind by %d ms, want 7", lag)
	}
	a, b := h.Lookup("t.a"), h.Lookup("t.b")
	for round := uint64(1); round <= 3; round++ {
		asked = 0
		h.Deflate()
		if a.Deflated() > 2*round || a.Deflated() != b.Deflated() || h.Counters.Deflated.Load() != a.Deflated()+b.Deflated() {
			t.Fatalf("round %d: deflated to %d and %d, %d compressed", round, a.Deflated(), b.Deflated(), h.Counters.Deflated.Load())
		}
		if more := a.Deflated() < 3; (asked == 1) != more || (h.DeflateLag() == 7) != more {
			t.Fatalf("round %d: to %d, asked %d times for more, behind by %d ms", round, a.Deflated(), asked, h.DeflateLag())
		}
	}
	if a.Deflated() != 3 {
		t.Errorf("deflated to %d of 3", a.Deflated())
	}
}

// What was trimmed before it could be compressed has been passed over.
func TestDeflateCountsTheTrimmed(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.Keep, c.Grace = 1, 0 })
	h.Open("e1", 0)
	ch := h.Ensure("t.a", 0)
	h.Attach(1, ch, true)
	rng := rand.New(rand.NewPCG(1, 1))
	const n = 200
	for seq := uint64(1); seq <= n; seq++ {
		h.tell(rng, "t.a", seq, seq-1, 500, 8)
	}
	h.clock += 5
	h.Tick()
	h.deflateAll()
	done, passed := h.Counters.Deflated.Load(), h.Counters.DeflatePassed.Load()
	if done == 0 || passed == 0 || done+passed != n {
		t.Errorf("%d compressed, %d passed over of %d", done, passed, n)
	}
}

// Writer, deflater and readers at once, with readers that come and go.
func TestConcurrentDeflate(t *testing.T) {
	const channels, perChannel, readers = 5, 1500, 3
	var wake [readers]chan struct{}
	for i := range wake {
		wake[i] = make(chan struct{}, 1)
	}
	poke := func(c chan struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	undeflated, down := make(chan struct{}, 1), make(chan struct{})
	h := New(Config{
		Shards: readers, Keep: perChannel, Budget: 1 << 30, MaxChannels: 100, MaxPayload: 1000,
		Wake: func(s int) { poke(wake[s]) }, Deflate: func() { poke(undeflated) }, DeflateLate: time.Minute,
	})
	h.Open("e1", 0)
	var deflating sync.WaitGroup
	deflating.Go(func() {
		for {
			select {
			case <-undeflated:
				h.Deflate()
			case <-down:
				return
			}
		}
	})
	payload := func(seq uint64) string { return fmt.Sprintf(`"%d %s"`, seq, strings.Repeat("abc", int(seq%100))) }
	var wg sync.WaitGroup
	for s := range wake {
		for i := range channels {
			h.Attach(s, h.Ensure(fmt.Sprint("c", i), 0), true)
		}
		wg.Go(func() {
			at := make(map[*Channel]uint64)
			last := make(map[*Channel]uint64)
			for done := 0; done < channels; {
				select {
				case <-wake[s]:
				case <-time.After(20 * time.Second):
					t.Errorf("shard %d: nobody wakes it", s)
					return
				}
				for _, ch := range h.TakeDeflated(s, nil) {
					for {
						span, ok := ch.ReadDeflated(at[ch])
						if !ok {
							t.Errorf("shard %d fell off %s", s, ch.Name)
							return
						}
						if len(span.Bytes) == 0 {
							break
						}
						plain, _ := unpack(t, span.Bytes)
						for i := range span.seqs {
							seq := span.seqs[i]
							want := wire.AppendMsg(nil, ch.Name, seq, last[ch], 0, []byte(payload(seq)))
							if !bytes.HasPrefix(plain, want) {
								t.Errorf("%s %d: %.200q, not %.200q", ch.Name, seq, plain, want)
								return
							}
							plain, last[ch] = plain[len(want):], seq
						}
						at[ch] = span.Next
					}
					if at[ch] == perChannel {
						done++
						h.Detach(s, ch, true)
					} else if last[ch]%97 == 0 { // its last member leaves, and another comes
						h.Detach(s, ch, true)
						h.Attach(s, ch, true)
						poke(wake[s])
						h.markDeflated(ch)
					}
				}
			}
		})
	}
	prev := make(map[string]uint64)
	for seq := uint64(1); seq <= perChannel*channels; seq++ {
		name := fmt.Sprint("c", seq%channels)
		h.Message(&broker.Message{Channel: name, Seq: seq, Prev: prev[name], Data: []byte(payload(seq))})
		prev[name] = seq
		if seq%100 == 0 {
			h.Tick()
			time.Sleep(time.Millisecond) // or the deflater has no chance to keep pace
		}
	}
	wg.Wait()
	close(down)
	deflating.Wait()
	if h.Counters.Deflated.Load() == 0 {
		t.Error("nothing was compressed")
	}
}

// BenchmarkDeflate is a message of a market's size compressed into its log.
func BenchmarkDeflate(b *testing.B) {
	h := New(Config{Shards: 1, Keep: 256, Budget: 64 << 20, MaxChannels: 100, MaxPayload: 64 << 10})
	h.Open("e1", 0)
	ch := h.Ensure("t.a", 0)
	h.Attach(0, ch, true)
	m := broker.Message{Channel: "t.a", Data: []byte(`{"e":"depthUpdate","E":1723161502271,"s":"BTCUSDT","U":5123126778073,"b":[["1000.00","606.675"],["5000.00","2.321"],["61080.10","0.000"],["61304.30","0.061"],["61622.40","0.000"],["61635.10","0.486"]],"a":[["61641.00","0.000"],["61663.10","2.703"],["61663.90","0.377"]]}`)}
	b.ReportAllocs()
	b.SetBytes(int64(len(m.Data)))
	for b.Loop() {
		m.Prev, m.Seq = m.Seq, m.Seq+1
		h.Message(&m)
		h.Deflate()
	}
}
