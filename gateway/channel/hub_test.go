package channel

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/wire"
)

// testHub is a hub with a clock of the test's and two shards.
type testHub struct {
	*Hub
	t     *testing.T
	clock int64
	wakes [2]int
}

func newTestHub(t *testing.T, change func(*Config)) *testHub {
	h := &testHub{t: t, clock: 1_000_000}
	cfg := Config{
		Shards: 2, Keep: 5, Grace: time.Second, Budget: 1 << 20, MaxChannels: 100, MaxPayload: 1000,
		Wake: func(s int) { h.wakes[s]++ },
		Now:  func() int64 { return h.clock },
	}
	if change != nil {
		change(&cfg)
	}
	h.Hub = New(cfg)
	return h
}

func (h *testHub) message(ch string, seq, prev uint64) {
	h.Message(&broker.Message{Channel: ch, Seq: seq, Prev: prev, Time: h.clock, Data: []byte(`"d"`)})
}

// look has the shards look at what is new for wildcards that match.
func (h *testHub) look() {
	for s := range h.inboxes {
		_, added := h.Take(s, nil, nil)
		for _, ch := range added {
			h.Matched(s, ch)
		}
	}
}

// follow attaches shard 0 to a channel and returns it.
func (h *testHub) follow(name string) *Channel {
	h.t.Helper()
	ch := h.Ensure(name, 0)
	if ch == nil || !h.Attach(0, ch, false) {
		h.t.Fatalf("can't follow %s", name)
	}
	return ch
}

// joins is Follow as shards call it.
func (h *testHub) joins(ch *Channel) (stale bool) {
	h.Steady(func() { stale = h.Follow(ch) })
	return stale
}

// entries renders a log from ordinal from on, one word an entry: m12<10 is the
// message 12 with prev 10, gap3-7:broker a gap.
func (h *testHub) entries(ch *Channel, from uint64) string {
	h.t.Helper()
	var out []string
	for {
		s, ok := ch.Read(from)
		if !ok {
			h.t.Fatalf("entry %d of %s is gone", from, ch.Name)
		}
		if len(s.Bytes) == 0 {
			return strings.Join(out, " ")
		}
		for b := s.Bytes; len(b) > 0; {
			n, at := int(b[1]), 2
			if n == 126 {
				n, at = int(b[2])<<8|int(b[3]), 4
			}
			var f struct {
				T, Why                   string
				Seq, Prev, After, Before uint64
			}
			if err := json.Unmarshal(b[at:at+n], &f); err != nil {
				h.t.Fatalf("%q: %v", b[at:at+n], err)
			}
			switch f.T {
			case "msg":
				out = append(out, fmt.Sprintf("m%d<%d", f.Seq, f.Prev))
			case "gap":
				out = append(out, fmt.Sprintf("gap%d-%d:%s", f.After, f.Before, f.Why))
			default:
				out = append(out, f.T)
			}
			b = b[at+n:]
		}
		from = s.Next
	}
}

// Each branch of chain, and what is around it.
func TestChain(t *testing.T) {
	type script func(h *testHub)
	msg := func(seq, prev uint64) script { return func(h *testHub) { h.message("x", seq, prev) } }
	lost := func(after, before uint64) script { return func(h *testHub) { h.Lost(after, before) } }
	invalid := func(seq, prev uint64) script {
		return func(h *testHub) { h.Message(&broker.Message{Channel: "x", Seq: seq, Prev: prev, Data: []byte("{")}) }
	}
	open := func(epoch string, head uint64) script { return func(h *testHub) { h.Open(epoch, head) } }
	down := func(h *testHub) { h.Down(errors.New("gone")) }
	live := (*testHub).live
	for name, c := range map[string]struct {
		steps []script
		want  string
		head  uint64
	}{
		"in order":                   {[]script{msg(1, 0), msg(4, 1), msg(9, 4)}, "m1<0 m4<1 m9<4", 9},
		"late copies":                {[]script{msg(4, 0), msg(4, 0), msg(2, 0), msg(9, 4)}, "m4<0 m9<4", 9},
		"a hole nobody announced":    {[]script{msg(4, 0), msg(9, 7), msg(10, 9)}, "m4<0 gap4-9:broker m9<7 m10<9", 10},
		"lost":                       {[]script{msg(4, 0), lost(4, 8), msg(9, 7)}, "m4<0 gap4-8:broker m9<7", 9},
		"lost, and none was here":    {[]script{msg(4, 0), lost(4, 8), msg(9, 4)}, "m4<0 gap4-8:broker m9<4", 9},
		"lost beside us":             {[]script{msg(4, 0), lost(2, 5), msg(9, 4)}, "m4<0 m9<4", 9},
		"lost twice":                 {[]script{msg(4, 0), lost(4, 8), lost(9, 12), msg(20, 10)}, "m4<0 gap4-8:broker gap7-12:broker m20<10", 20},
		"lost, then a hole":          {[]script{msg(4, 0), lost(4, 8), msg(20, 10)}, "m4<0 gap4-8:broker gap7-20:broker m20<10", 20},
		"lost, then aged out":        {[]script{msg(4, 0), lost(4, 8), msg(9, 0)}, "m4<0 gap4-8:broker m9<4", 9},
		"aged out":                   {[]script{msg(4, 0), msg(9, 0), msg(12, 9)}, "m4<0 m9<4 m12<9", 12},
		"prev of before us":          {[]script{msg(4, 0), msg(9, 2)}, "m4<0 m9<4", 9},
		"invalid":                    {[]script{msg(4, 0), invalid(9, 4), msg(10, 9)}, "m4<0 gap4-10:invalid m10<9", 10},
		"invalid behind a hole":      {[]script{msg(4, 0), invalid(9, 7), msg(10, 9)}, "m4<0 gap4-9:broker gap8-10:invalid m10<9", 10},
		"stale and live":             {[]script{msg(4, 0), down, down, open("e1", 4), msg(5, 4), live, msg(6, 5)}, "m4<0 stale m5<4 live m6<5", 6},
		"epoch":                      {[]script{msg(4, 0), open("e2", 7), msg(8, 5), msg(9, 8)}, "m4<0 gap4-8:epoch m8<5 m9<8", 9},
		"epoch, nothing before":      {[]script{msg(4, 0), open("e2", 7), msg(8, 0)}, "m4<0 gap4-8:epoch m8<0", 8},
		"epoch forgets holes":        {[]script{msg(4, 0), lost(4, 8), open("e2", 0), msg(3, 0), msg(5, 0)}, "m4<0 gap4-8:broker gap7-1:epoch m3<0 m5<3", 5},
		"stale, epoch, live":         {[]script{msg(4, 0), down, open("e2", 1), live, live, msg(2, 1)}, "m4<0 stale gap4-2:epoch live m2<1", 2},
		"lost between stale and now": {[]script{msg(4, 0), down, open("e1", 4), lost(4, 9), live, msg(11, 6)}, "m4<0 stale gap4-9:broker live m11<6", 11},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestHub(t, nil)
			h.Open("e1", 0)
			h.Live()
			ch := h.follow("x")
			for _, step := range c.steps {
				step(h)
			}
			if got := h.entries(ch, 0); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if _, seq := ch.Head(); seq != c.head {
				t.Errorf("head %d, want %d", seq, c.head)
			}
		})
	}
}

// live is Hub.Live as a step.
func (h *testHub) live() { h.Live() }

func TestLostWhereNobodyFollows(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 0)
	h.message("x", 4, 0)
	h.message("z", 5, 0)
	h.Lost(5, 9)
	h.message("x", 20, 0) // lost or aged out: can't be told
	h.message("z", 21, 5) // nothing was lost here, but that wasn't known
	if got := h.entries(h.Lookup("x"), 0); got != "m4<0 gap4-9:broker m20<4" {
		t.Error(got)
	}
	if got := h.entries(h.Lookup("z"), 0); got != "m5<0 gap5-9:broker m21<5" {
		t.Error(got)
	}
}

// A gap is not passed over by who resumes before it, nor by who meets its
// channel after it.
func TestResumeAroundAHole(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 0)
	ch := h.follow("x")
	h.message("x", 4, 0)
	h.Lost(4, 8)
	h.message("x", 9, 6)
	for from, want := range map[uint64]string{0: "m4<0 gap4-8:broker m9<6", 4: "gap4-8:broker m9<6", 6: "gap4-8:broker m9<6", 7: "m9<6", 9: ""} {
		ord, _, complete := ch.After(from)
		if got := h.entries(ch, ord); got != want || !complete {
			t.Errorf("after %d: %q, %v; want %q", from, got, complete, want)
		}
	}

	// The same when the gap's own entry is gone.
	ch.dropOldest()
	if _, before, complete := ch.After(4); complete || before != 10 {
		t.Errorf("after 4 of an empty log: before %d, %v", before, complete)
	}

	// A channel that the node first hears of after the hole.
	h.message("new", 12, 6)
	if got := h.entries(h.Lookup("new"), 0); got != "gap0-7:broker m12<6" {
		t.Error(got)
	}
	h.message("newer", 13, 11) // its last is behind the hole: the node would know
	if got := h.entries(h.Lookup("newer"), 0); got != "m13<11" {
		t.Error(got)
	}
	if ch := h.Ensure("learned", 5); h.entries(ch, 0) != "gap0-6:broker" {
		t.Error(h.entries(ch, 0))
	}
}

// What was on a channel before the epoch was opened here is not known.
func TestResumeBeforeTheEpochWasOpened(t *testing.T) {
	h := newTestHub(t, nil)
	ch := h.follow("x")
	h.Open("e1", 50)
	if _, before, complete := ch.After(20); complete || before != 51 {
		t.Errorf("after 20: before %d, %v", before, complete)
	}
	if _, _, complete := ch.After(50); !complete {
		t.Error("after 50")
	}
	h.message("x", 51, 30)
	if got := h.entries(ch, 0); got != "gap0-51:epoch m51<30" {
		t.Error(got)
	}
	if _, before, complete := ch.After(20); complete || before != 51 {
		t.Errorf("after 20, with a message: before %d, %v", before, complete)
	}
}

// A reader that falls off its log is told of everything that fell.
func TestRejoinAcrossTrimmedGaps(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 0)
	ch := h.follow("x")
	h.message("x", 4, 0)
	h.Lost(4, 8)
	ch.seal()
	h.message("x", 9, 6)
	ch.dropOldest()
	if ord, before, epoch := ch.Rejoin(1); ord != 2 || before != 8 || epoch != "" {
		t.Errorf("rejoin: %d, %d, %v", ord, before, epoch)
	}
}

func TestRejoinAcrossEpochs(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 0)
	ch := h.follow("x")
	h.message("x", 4, 0)
	h.message("x", 5, 4)
	h.Open("e2", 2)
	h.message("x", 3, 1)
	ch.dropOldest() // e1
	if ord, before, epoch := ch.Rejoin(0); ord != 2 || before != 6 || epoch != "" {
		t.Errorf("with the epoch's gap to come: %d, %d, %v", ord, before, epoch)
	}
	h.clock += 100
	for seq := uint64(4); len(ch.chunks) < 2; seq++ {
		h.message("x", seq, seq-1)
	}
	ch.dropOldest() // the gap
	ord, before, epoch := ch.Rejoin(0)
	if epoch != "e2" || ord != ch.chunks[0].first || before != ch.chunks[0].prev+1 {
		t.Errorf("without it: %d, %d, %v", ord, before, epoch)
	}
	// Who had read all of the old epoch has missed just that gap.
	if _, _, epoch := ch.Rejoin(2); epoch != "e2" {
		t.Error("one entry behind: the new epoch isn't told")
	}
	if _, _, epoch := ch.Rejoin(3); epoch != "" {
		t.Error("who has read the gap is told again")
	}
}

func TestInboxWakesOnce(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 0)
	a, b := h.follow("a"), h.follow("b")
	h.Attach(1, b, false)
	h.Take(0, nil, nil)
	h.Take(1, nil, nil)
	h.wakes = [2]int{}
	for seq := uint64(1); seq < 10; seq++ {
		h.message("a", seq, seq-1)
	}
	h.message("b", 10, 0)
	h.message("b", 11, 10)
	if h.wakes != [2]int{1, 1} {
		t.Fatalf("wakes %v", h.wakes)
	}
	dirty, added := h.Take(0, nil, nil)
	if len(dirty) != 2 || dirty[0] != a || dirty[1] != b || len(added) != 2 { // names until then
		t.Fatalf("took %v, %v", dirty, added)
	}
	h.message("a", 12, 9) // marked again after Take
	if h.wakes != [2]int{2, 1} {
		t.Fatalf("wakes %v", h.wakes)
	}
	h.message("c", 13, 0) // new: for every shard
	if h.wakes != [2]int{2, 1} {
		t.Fatalf("wakes %v", h.wakes)
	}
	if dirty, added = h.Take(1, nil, nil); len(dirty) != 1 || len(added) != 3 || added[2].Name != "c" {
		t.Fatalf("took %v, %v", dirty, added)
	}
	h.Detach(1, b, false)
	h.message("b", 14, 11)
	if h.wakes != [2]int{2, 1} {
		t.Fatalf("a shard that left was woken: %v", h.wakes)
	}
	if h.Attach(0, &Channel{Name: "a"}, false) {
		t.Error("attached to a channel of the same name")
	}
}

// What followers of wildcards are to be told is left once for each shard, in order.
func TestMissed(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 3)
	if got := h.TakeMissed(0); len(got) != 1 || got[0] != (Missed{After: 0, Before: 4, Epoch: "e1"}) || h.Missing(0) || !h.Missing(1) {
		t.Fatalf("%+v", got)
	}
	h.wakes = [2]int{}
	h.Lost(3, 6)
	h.Lost(8, 10)
	h.Open("e2", 0)
	h.Lost(0, 2)
	want := []Missed{{After: 3, Before: 6}, {After: 8, Before: 10}, {After: 9, Before: 1, Epoch: "e2"}, {After: 0, Before: 2}}
	if got := h.TakeMissed(0); !slices.Equal(got, want) || h.wakes != [2]int{1, 0} {
		t.Fatalf("%+v, wakes %v", got, h.wakes)
	}
	// What wakes for one does not keep the other from waking.
	ch := h.follow("x")
	h.Attach(1, ch, false)
	h.message("x", 3, 0)
	if h.wakes != [2]int{2, 1} {
		t.Fatalf("wakes %v", h.wakes)
	}
}

// Whoever follows while the broker goes away is told, once at least.
func TestStaleIsTold(t *testing.T) {
	h := newTestHub(t, nil)
	if ch := h.follow("early"); !h.joins(ch) {
		t.Error("before the first Open nothing is stale?")
	}
	h.Open("e1", 0)
	h.Live()
	if got := h.entries(h.Lookup("early"), 0); got != "gap0-1:epoch live" {
		t.Error(got)
	}
	ch := h.follow("x")
	if h.joins(ch) {
		t.Error("stale while the broker is there")
	}
	h.Down(errors.New("gone"))
	if !h.joins(ch) {
		t.Error("not stale while it is away")
	}
	h.Open("e1", 0)
	if got := h.entries(ch, 0); got != "stale" {
		t.Error(got)
	}
	h.Live()
	if got := h.entries(ch, 0); got != "stale live" {
		t.Error(got)
	}
	// One joins at the very moment of Down; those who were there are told all
	// the same.
	for range 200 {
		h := newTestHub(t, nil)
		h.Open("e1", 0)
		h.Live()
		ch := h.follow("x")
		var wg sync.WaitGroup
		running := make(chan struct{})
		wg.Go(func() {
			close(running)
			for !h.joins(ch) {
			}
		})
		<-running
		h.Down(errors.New("gone"))
		wg.Wait()
		if got := h.entries(ch, 0); got != "stale" {
			t.Fatalf("those who followed before were told %q", got)
		}
	}
}

// used adds up the chunks there are.
func (h *testHub) used() (sum, largest int64) {
	h.Each(func(ch *Channel) {
		for _, c := range ch.chunks {
			sum += c.cost
			largest = max(largest, c.cost)
		}
	})
	return sum, largest
}

func TestBudget(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.Budget, c.Keep, c.MaxPayload = 64<<10, 1000, 1<<20 })
	h.Open("e1", 0)
	last := make(map[string]uint64)
	for seq := uint64(1); seq < 5000; seq++ {
		ch := fmt.Sprint("c", seq%7)
		size := int(seq*7919%1500) + 2
		if seq%997 == 0 {
			size = 20_000
		}
		h.Message(&broker.Message{Channel: ch, Seq: seq, Prev: last[ch], Data: []byte(`"` + strings.Repeat("x", size) + `"`)})
		last[ch] = seq
		sum, largest := h.used()
		if used := h.Budget().Used(); used != sum || used > h.Budget().Limit()+largest {
			t.Fatalf("message %d: used %d, in chunks %d, limit %d", seq, used, sum, h.Budget().Limit())
		}
		if _, seq := h.Lookup(ch).Head(); seq != last[ch] {
			t.Fatal("the newest was evicted")
		}
		if n := 0; seq%500 == 0 {
			h.Each(func(ch *Channel) { n += len(ch.chunks) })
			if len(h.fifo) > n+7 {
				t.Fatalf("%d chunks, and %d in the list of their age", n, len(h.fifo))
			}
		}
	}
	if h.Counters.Evicted.Load() == 0 {
		t.Error("nothing was evicted")
	}
}

// The oldest goes first, whosever it is, but never the newest message's own.
func TestEvictionOrder(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.Keep, c.MaxPayload = 1000, 1<<20 })
	h.Open("e1", 0)
	big := []byte(`"` + strings.Repeat("x", 5000) + `"`)
	seq := uint64(0)
	put := func(ch string) {
		seq++
		if c := h.Lookup(ch); c != nil {
			c.seal()
			c.size = minChunk // else they grow
		}
		h.Message(&broker.Message{Channel: ch, Seq: seq, Data: big})
	}
	for _, ch := range []string{"a", "b", "c", "a", "b"} { // a chunk each
		put(ch)
	}
	h.budget.limit.Store(h.budget.Used())
	left := func() (s string) {
		for _, name := range []string{"a", "b", "c"} {
			first, _ := h.Lookup(name).Begin()
			next, _ := h.Lookup(name).Head()
			s += fmt.Sprint(next-first, " ")
		}
		return s
	}
	for _, step := range []struct{ ch, left string }{
		{"c", "1 2 2 "}, // a's first went
		{"c", "1 1 3 "},
		{"c", "1 1 3 "}, // its own
		{"c", "0 1 4 "},
	} {
		put(step.ch)
		if got := left(); got != step.left {
			t.Fatalf("after %d: %s left, want %s", seq, got, step.left)
		}
	}
	h.budget.limit.Store(1)
	put("b")
	if got := left(); got != "0 1 0 " {
		t.Fatalf("with hardly a budget: %s left", got)
	}
}

func TestMaxChannels(t *testing.T) {
	h := newTestHub(t, func(c *Config) { c.MaxChannels = 3 })
	h.Open("e1", 0)
	followed := h.follow("a")
	h.message("b", 1, 0)
	h.message("c", 2, 0)
	h.message("d", 3, 0)
	if h.Lookup("d") != nil || h.Counters.NoChannel.Load() != 1 || h.Ensure("e", 0) != nil {
		t.Fatal("a channel too many")
	}
	h.clock += forgetAfter + 1
	h.message("d", 4, 3)
	if h.Lookup("d") != nil {
		t.Fatal("the scan is repeated before a Tick")
	}
	h.Tick()
	h.message("d", 5, 4)
	if h.Lookup("d") != nil {
		t.Fatal("one was forgotten that the shards have not looked at")
	}
	h.look()
	h.Tick()
	h.message("d", 6, 5)
	h.message("e", 7, 0)
	if h.Lookup("d") == nil || h.Lookup("e") == nil || h.Lookup("a") != followed || h.Len() != 3 {
		t.Fatal("none of those without followers made room")
	}
	if h.Attach(1, followed, false) != true {
		t.Fatal("lost the one followed")
	}
	sum, _ := h.used()
	if h.Budget().Used() != sum {
		t.Fatalf("used %d, in chunks %d", h.Budget().Used(), sum)
	}
}

// A channel learned of from the broker takes the messages that come after, and
// passes over those it was told of.
func TestEnsure(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 20)
	ch := h.Ensure("x", 12)
	if h.Ensure("x", 99) != ch {
		t.Fatal("known twice")
	}
	if _, seq := ch.Head(); seq != 12 || ch.Origin() != 12 {
		t.Fatalf("head %d", seq)
	}
	h.message("x", 12, 7)
	h.message("x", 21, 12)
	if got := h.entries(ch, 0); got != "m21<12" || h.Counters.Late.Load() != 1 {
		t.Fatal(got)
	}
	// The message was quicker than who asked for it.
	h.message("y", 22, 3)
	if ch := h.Ensure("y", 22); h.entries(ch, 0) != "m22<3" {
		t.Fatal("the late Ensure changed the log")
	}
}

func TestTickForgets(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 0)
	h.Ensure("empty", 0)
	h.follow("followed")
	h.message("full", 1, 0)
	h.Tick()
	if h.Len() != 3 {
		t.Fatal("forgot at once")
	}
	h.clock += forgetAfter + 1
	h.Tick()
	if h.Len() != 2 || h.Lookup("empty") != nil || h.Counters.ChannelsGone.Load() != 1 {
		t.Fatal("kept the empty one")
	}
}

func TestPayloads(t *testing.T) {
	h := newTestHub(t, nil)
	h.Open("e1", 0)
	for i, data := range []string{"", "{", "\xff", `"` + strings.Repeat("x", 1000) + `"`, "1 2"} {
		h.Message(&broker.Message{Channel: "x", Seq: uint64(i + 1), Prev: uint64(i), Data: []byte(data)})
	}
	h.Message(&broker.Message{Channel: "a..b", Seq: 9, Data: []byte("1")})
	if c := &h.Counters; c.Invalid.Load() != 5 || c.BadChannel.Load() != 1 || c.Messages.Load() != 0 || h.Head() != 9 {
		t.Errorf("invalid %d, bad channel %d, messages %d", c.Invalid.Load(), c.BadChannel.Load(), c.Messages.Load())
	}
}

func TestMatch(t *testing.T) {
	h := newTestHub(t, nil)
	for _, name := range []string{"t.b", "t", "u.a", "t.a", "t.a.b", "ta.b", "t-a"} {
		h.Ensure(name, 0)
	}
	var got []string
	h.Match("t.", func(ch *Channel) bool { got = append(got, ch.Name); return true })
	if want := []string{"t.a", "t.a.b", "t.b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("matched %q, want %q", got, want)
	}
}

// Shards take, read and go while the broker delivers: every one sees every
// message of its channels in order.
func TestConcurrentShards(t *testing.T) {
	const perChannel, channels = 3000, 5
	var wake [3]chan struct{}
	for i := range wake {
		wake[i] = make(chan struct{}, 1)
	}
	h := New(Config{
		Shards: len(wake), Keep: perChannel, Budget: 1 << 30, MaxChannels: 100, MaxPayload: 100,
		Wake: func(s int) {
			select {
			case wake[s] <- struct{}{}:
			default:
			}
		},
	})
	h.Open("e1", 0)
	var wg sync.WaitGroup
	for s := range wake {
		var follows []*Channel
		for i := range channels {
			ch := h.Ensure(fmt.Sprint("c", i), 0)
			h.Attach(s, ch, false)
			follows = append(follows, ch)
		}
		wg.Go(func() {
			at := make(map[*Channel]uint64)
			for done := 0; done < channels; {
				<-wake[s]
				dirty, _ := h.Take(s, nil, nil)
				for _, ch := range dirty {
					for {
						span, ok := ch.Read(at[ch])
						if !ok {
							t.Errorf("shard %d fell off %s", s, ch.Name)
							return
						}
						if len(span.Bytes) == 0 {
							break
						}
						at[ch] = span.Next
					}
					if at[ch] == perChannel {
						done++
					}
				}
			}
			for _, ch := range follows {
				h.Detach(s, ch, false)
			}
		})
	}
	last := make(map[string]uint64)
	for seq := uint64(1); seq <= perChannel*channels; seq++ {
		name := fmt.Sprint("c", seq%channels)
		h.Message(&broker.Message{Channel: name, Seq: seq, Prev: last[name], Data: []byte("1")})
		last[name] = seq
		if seq%100 == 0 {
			h.Tick()
		}
	}
	wg.Wait()
}

func TestMessageAllocatesByChunk(t *testing.T) {
	h := New(Config{Shards: 2, Keep: 1000, Budget: 1 << 20, MaxChannels: 100, MaxPayload: 1000})
	h.Open("e1", 0)
	m := broker.Message{Channel: "trade.BTC-USD", Data: []byte(`"` + strings.Repeat("x", 150) + `"`)}
	for range 5000 { // to the steady state
		m.Prev, m.Seq = m.Seq, m.Seq+1
		h.Message(&m)
	}
	allocs := testing.AllocsPerRun(5000, func() {
		m.Prev, m.Seq = m.Seq, m.Seq+1
		h.Message(&m)
	})
	if allocs >= 0.2 {
		t.Errorf("%.2f allocations a message", allocs)
	}
	ch := h.Lookup(m.Channel)
	next, _ := ch.Head()
	if n := testing.AllocsPerRun(100, func() { ch.Read(next - 1) }); n != 0 {
		t.Errorf("%.2f allocations a read", n)
	}
}

func BenchmarkMessage(b *testing.B) {
	for _, size := range []int{150, 1000} {
		b.Run(fmt.Sprint(size, "B"), func(b *testing.B) {
			h := New(Config{Shards: 2, Keep: 256, Budget: 64 << 20, MaxChannels: 100, MaxPayload: 64 << 10})
			h.Open("e1", 0)
			m := broker.Message{Channel: "trade.BTC-USD", Data: []byte(`"` + strings.Repeat("x", size-2) + `"`)}
			b.ReportAllocs()
			b.SetBytes(int64(wire.MsgFrameLen(m.Channel, 1, 1, 1, size)))
			for b.Loop() {
				m.Prev, m.Seq = m.Seq, m.Seq+1
				h.Message(&m)
			}
		})
	}
}

// What a log keeps, the budget and how long a channel may be silent change under what
// is there.
func TestReconfigure(t *testing.T) {
	silences := func(d int64) func(string) int64 {
		return func(name string) int64 {
			if name == "a" {
				return d
			}
			return 0
		}
	}
	h := newTestHub(t, func(c *Config) { c.Keep, c.MaxPayload, c.Budget = 1000, 1<<20, 4<<20 })
	h.Open("e1", 0)
	a := h.follow("a")
	big := []byte(`"` + strings.Repeat("x", 5000) + `"`)
	put := func(seq uint64) {
		a.seal()
		h.Message(&broker.Message{Channel: "a", Seq: seq, Prev: seq - 1, Time: h.clock, Data: big})
	}
	for seq := range uint64(20) {
		put(seq + 1)
	}
	kept := func() uint64 {
		first, _ := a.Begin()
		next, _ := a.Head()
		return next - first
	}
	if kept() < 20 {
		t.Fatalf("%d kept", kept())
	}
	h.Reconfigure(3, 1<<20, silences(500))
	h.clock += 600
	h.Tick()
	if !a.quiet || h.Counters.Silences.Load() != 1 {
		t.Error("a bound for its silence, set later, was not seen")
	}
	h.clock += 2000 // beyond the grace
	h.Tick()
	if n := kept(); n > 6 {
		t.Errorf("%d kept of 3", n)
	}
	h.Reconfigure(1000, 1<<20, silences(0))
	put(21)
	h.clock += 10_000
	h.Tick()
	if a.quiet || h.Counters.Silences.Load() != 1 {
		t.Error("it is stale though it may be silent")
	}
	h.Reconfigure(1000, 1, silences(0))
	h.Tick()
	if h.Budget().Limit() != 1 || kept() > 2 { // the last chunk stays
		t.Errorf("%d kept in a budget of %d", kept(), h.Budget().Limit())
	}
}
