package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/panjf2000/ants/v2"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/netpoll"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

// world is a gateway without listener, timers or goroutines but the pool's one,
// the stream behind it, and its clients.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	seen    map[string]int
	step    int
	trace   []string
	verbose bool

	learned    atomic.Int64 // by the pool
	g          *Gateway
	k          *netpolltest.Kernel
	loops      []*netpolltest.Loop
	clock      int64
	maxClients int
	maxFD      int

	// The stream.
	epochs int
	downs  int // how often the broker went away
	epoch  string
	head   uint64            // of the stream
	last   map[string]uint64 // newest stored message of each channel
	base   map[string]uint64 // head at which the node began to listen, by epoch
	down   bool
	past   bool             // the stream gives what it has; else it has nothing but news
	first  uint64           // with past: what was before it is gone
	stored []broker.Message // with past: all of the epoch, from seq 1 on
	missed []broker.Message // stored while the node was cut off
	old    []broker.Message // delivered

	// What the node's logs were given.
	chans map[string]*modelChan
	names []string // that are published to

	clients []*modelClient

	evicted bool // retention has dropped something
}

// entry is one entry of a channel's log, whole frames.
type entry struct {
	bytes         []byte
	t, why        string
	epoch         string
	before, after uint64 // the channel's head before and after it
	prev          uint64 // of a msg
}

// modelChan is a channel's log as it was ever appended.
type modelChan struct {
	name    string
	ch      *channel.Channel
	base    int // index in entries of ch's ordinal 0
	next    uint64
	entries []entry
	starts  map[int]bool // indexes at which the log has ever begun
	first   uint64       // the head with which the node came to know ch
	opened  uint64       // the head with which its first epoch began, if it was there before
	heads   map[uint64]bool
	// explained is the sequence up to which the log accounts for everything, in
	// the epoch.
	explained uint64
	delivered uint64
	epoch     string
}

func newWorld(t *testing.T, seed uint64, seen map[string]int) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), seen: seen,
		k: netpolltest.NewKernel(), clock: 1_700_000_000_000,
		last: make(map[string]uint64), chans: make(map[string]*modelChan), base: make(map[string]uint64),
		down: true,
	}
	w.maxClients = 1 + w.rng.IntN(12)
	w.past = w.rng.IntN(10) < 6
	cfg := DefaultConfig()
	cfg.AdminAddr = "127.0.0.1:0"
	cfg.Broker = (*worldBroker)(w)
	cfg.Shards = 2
	cfg.Node = "model"
	cfg.RateBurst, cfg.RatePerSec = 1_000_000, 1_000_000
	cfg.FrameTimeout, cfg.HandshakeTimeout = time.Hour, time.Hour
	cfg.Ping = time.Hour
	cfg.Backlog = pick(w.rng, []int64{64 << 10, 64 << 20})
	cfg.SendQueue = pick(w.rng, []int{4, 64, 1 << 20})
	cfg.Replay = pick(w.rng, []int{0, 3, 50})
	cfg.Compression = w.chance(70)
	g, err := newGateway(cfg, func(netpoll.Config) (netpoll.Loop, error) {
		l := w.k.NewLoop()
		w.loops = append(w.loops, l)
		return l, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.g = g
	g.clock, g.byHand = func() int64 { return w.clock }, true
	turn, nodes := pick(w.rng, []int{1, 2, 5, flushTurn}), pick(w.rng, []int{1, 2, 5, flushNodes})
	for i, s := range g.shards {
		s.flushTurn, s.flushNodes = turn, nodes
		w.loops[i].Start(s)
	}
	// One worker that is waited for: what the pool does happens in order.
	g.workers.Release()
	if g.workers, err = ants.NewPool(1, ants.WithPanicHandler(func(p any) { t.Errorf("seed %d: worker: %v", seed, p) })); err != nil {
		t.Fatal(err)
	}
	g.hub = channel.New(channel.Config{
		Shards: 2, Keep: max(cfg.Replay, cfg.SendQueue),
		Grace:       pick(w.rng, []time.Duration{0, 500 * time.Millisecond}),
		Budget:      pick(w.rng, []int64{6 << 10, 16 << 10, 32 << 10, 128 << 10, 64 << 20}),
		MaxChannels: 1000, MaxPayload: 16 << 10,
		Wake: func(shard int) { w.loops[shard].Wake() },
		Now:  func() int64 { return w.clock },

		Deflate: g.wakeDeflater,
	})
	all := []string{"t.a", "t.b", "t.c.d", "t.c.e", "u.x", "u.y", "z", "t.f", "u.g", "u.h.i", "t.c.j", "y"}
	w.names = all[:2+w.rng.IntN(len(all)-2)]
	return w
}

// discard frees what a world has, whatever state it is in.
func (w *world) discard() {
	w.g.workers.ReleaseTimeout(time.Second)
	w.seen["learned"] += int(w.learned.Load())
}

// settlePool waits until the worker has nothing to do.
func (w *world) settlePool() {
	done := make(chan struct{})
	if err := w.g.workers.Submit(func() { close(done) }); err != nil {
		w.failf("submit: %v", err)
	}
	<-done
	w.deliver(func(*channel.Hub) {}) // what it learned may have come with a gap
}

// learned counts lookups at the broker; they come from the pool.
var learned atomic.Int64

// worldBroker is the world as a Broker: the pool asks it where channels stand.
type worldBroker world

func (b *worldBroker) Start(broker.Sink) error { return nil }
func (b *worldBroker) Publish(context.Context, broker.Publication) (broker.Ack, error) {
	return broker.Ack{}, errors.ErrUnsupported
}
func (b *worldBroker) PublishBatch(_ context.Context, ps []broker.Publication) []broker.Result {
	return make([]broker.Result, len(ps))
}
func (b *worldBroker) Last(_ context.Context, ch string) (broker.Message, error) {
	learned.Add(1)
	if b.down {
		return broker.Message{}, broker.ErrDown
	}
	if seq := b.last[ch]; seq > 0 && (!b.past || seq >= b.first) {
		return broker.Message{Channel: ch, Seq: seq}, nil
	}
	return broker.Message{}, broker.ErrNotFound
}
func (b *worldBroker) Get(context.Context, string, uint64) (broker.Message, error) {
	return broker.Message{}, broker.ErrNotFound
}
func (b *worldBroker) Throttle(bool) {}
func (b *worldBroker) Stream(context.Context) (broker.StreamState, error) {
	if b.down {
		return broker.StreamState{}, broker.ErrDown
	}
	st := broker.StreamState{Epoch: b.epoch, First: b.head + 1, Last: b.head}
	if b.past {
		st.First = b.first
	}
	return st, nil
}
func (b *worldBroker) History(_ context.Context, r broker.HistoryRequest) (broker.Page, error) {
	if b.down {
		return broker.Page{}, broker.ErrDown
	}
	p := broker.Page{Epoch: b.epoch, First: b.head + 1, Last: b.head}
	if !b.past {
		return p, nil
	}
	p.First = b.first
	prev, size := uint64(0), 0
	for _, m := range b.stored {
		switch {
		case m.Channel != r.Channel || m.Seq < b.first:
			continue
		case m.Seq < r.From:
		case m.Seq > r.To:
			return p, nil
		case len(p.Messages) >= min(r.Messages, 1+int(r.From%7)) || len(p.Messages) > 0 && size+len(m.Data) > r.Bytes/8:
			p.More = true
			return p, nil
		default:
			m.Prev = prev
			size += len(m.Data)
			p.Messages = append(p.Messages, m)
		}
		prev = m.Seq
	}
	return p, nil
}
func (b *worldBroker) Channels(_ context.Context, prefix string, _ int) (found []broker.ChannelHead, err error) {
	if b.down {
		return nil, broker.ErrDown
	}
	for ch, seq := range b.last {
		if strings.HasPrefix(ch, prefix) && seq > 0 && (!b.past || seq >= b.first) {
			found = append(found, broker.ChannelHead{Channel: ch, Last: seq})
		}
	}
	return found, nil
}
func (b *worldBroker) State() broker.State {
	return broker.State{Connected: !b.down, Epoch: b.epoch, Head: b.head}
}
func (b *worldBroker) Counters() broker.Counters { return broker.Counters{} }
func (b *worldBroker) Close() error              { return nil }

// hubCh returns the model of a channel the hub knows, nil otherwise.
func (w *world) hubCh(name string) *modelChan {
	ch := w.g.hub.Lookup(name)
	if ch == nil {
		return nil
	}
	mc := w.chans[name]
	if mc == nil {
		mc = &modelChan{name: name, starts: make(map[int]bool), heads: make(map[uint64]bool)}
		w.chans[name] = mc
	}
	if mc.ch != ch {
		mc.ch, mc.base, mc.next = ch, len(mc.entries), 0
		mc.first = ch.Origin()
		mc.heads[mc.first] = true
		mc.explained, mc.delivered, mc.epoch, mc.opened = mc.first, mc.first, w.epoch, mc.first
	}
	return mc
}

// deliver gives the hub what the broker has, and then collects what each log
// was appended. Each entry is checked against the stream.
func (w *world) deliver(f func(h *channel.Hub)) {
	type state struct{ next, seq uint64 }
	was := make(map[*channel.Channel]state)
	w.g.hub.Each(func(ch *channel.Channel) {
		n, s := ch.Head()
		was[ch] = state{n, s}
	})
	for ch := range was {
		w.hubCh(ch.Name)
	}
	f(w.g.hub)
	var all []*channel.Channel
	w.g.hub.Each(func(ch *channel.Channel) { all = append(all, ch) })
	for _, ch := range all {
		mc := w.hubCh(ch.Name)
		before := was[ch].seq
		if mc.next == 0 {
			before = mc.first
		}
		w.collect(mc, before)
	}
}

// collect reads what is new in a log into the model.
func (w *world) collect(mc *modelChan, before uint64) {
	next, _ := mc.ch.Head()
	for mc.next < next {
		span, ok := mc.ch.Read(mc.next)
		if !ok {
			// Trimmed in the call that appended it, for the sake of others: what
			// it said, those who fall off the log must be told.
			e := entry{t: "trimmed", epoch: w.epoch, before: before}
			if mc.epoch != w.epoch {
				mc.epoch, mc.explained, mc.delivered = w.epoch, w.base[w.epoch], 0
			}
			_, e.after = mc.ch.Begin()
			mc.explained = max(mc.explained, e.after)
			before = e.after
			mc.entries = append(mc.entries, e)
			mc.heads[e.after] = true
			w.seen["entry trimmed at once"]++
			mc.next++
			continue
		}
		b := span.Bytes
		for off := 0; off < len(b); {
			op, payload, n := parseFrame(b[off:])
			if n == 0 || op != wire.OpText {
				w.failf("%s: the log holds no frame at %q", mc.name, b[off:])
			}
			var f frame
			if err := json.Unmarshal(payload, &f); err != nil || f.channel() != mc.name {
				w.failf("%s: the log holds %q: %v", mc.name, payload, err)
			}
			e := entry{bytes: bytes.Clone(b[off : off+n]), t: f.T, why: f.Why, epoch: w.epoch, prev: f.Prev}
			// What Split says of its last byte is what the log thinks of it.
			_, e.after, _ = span.Split(off + n)
			e.before = before
			if f.T == "msg" && len(mc.entries) == mc.base {
				e.before = f.Prev
			}
			before = e.after
			w.checkEntry(mc, &e, f)
			mc.entries = append(mc.entries, e)
			mc.heads[e.after] = true
			w.seen[strings.TrimSpace("entry "+e.t+" "+e.why)]++
			off += n
			mc.next++
		}
	}
}

// checkEntry checks an entry's place in the chain: nothing is passed over.
func (w *world) checkEntry(mc *modelChan, e *entry, f frame) {
	switch f.T {
	case "msg":
		if f.Prev > mc.explained {
			w.failf("%s: %s: prev %d, but the log accounts only for up to %d", mc.name, e.bytes, f.Prev, mc.explained)
		}
		if f.Seq <= mc.delivered {
			w.failf("%s: %s comes after seq %d", mc.name, e.bytes, mc.delivered)
		}
		mc.explained, mc.delivered = f.Seq, f.Seq
	case "gap":
		switch {
		case f.Before <= f.After && f.Why != "epoch":
			w.failf("%s: gap of nothing: %s", mc.name, e.bytes)
		case f.Why == "epoch":
			mc.epoch, mc.explained, mc.delivered = w.epoch, f.Before-1, 0
		case f.Why == "broker" && len(mc.entries) == mc.base:
			mc.explained = f.Before - 1 // new to the node, which may have lost its newest
		case f.After < mc.delivered:
			w.failf("%s: %s, but %d was delivered", mc.name, e.bytes, mc.delivered)
		default:
			if f.After > mc.explained {
				w.failf("%s: %s, but the log accounts only for up to %d", mc.name, e.bytes, mc.explained)
			}
			mc.explained = max(mc.explained, f.Before-1)
		}
	case "stale", "live":
	default:
		w.failf("%s: the log holds %s", mc.name, e.bytes)
	}
}

// noteStarts remembers where each log begins now.
func (w *world) noteStarts() {
	var all []*channel.Channel
	w.g.hub.Each(func(ch *channel.Channel) { all = append(all, ch) })
	for _, ch := range all {
		mc := w.hubCh(ch.Name)
		ord, _ := ch.Begin()
		mc.starts[mc.base+int(ord)] = true
		if k := mc.base + int(ord) - 1; ord > 0 && k < len(mc.entries) && mc.entries[k].epoch == w.epoch && mc.epoch == w.epoch {
			if _, ok := ch.Read(ord - 1); ok {
				w.failf("%s begins at entry %d, and holds the one before it", mc.name, k+1)
			}
		}
	}
}

// store puts a message into the stream and hands it on, unless cut off.
func (w *world) store(name string, data []byte) broker.Message {
	w.head++
	m := broker.Message{Channel: name, Seq: w.head, Prev: w.last[name], Time: w.clock, Data: data}
	w.last[name] = w.head
	if w.past {
		w.stored = append(w.stored, m)
	}
	if w.down {
		w.missed = append(w.missed, m)
		return m
	}
	w.hand(m)
	return m
}

// hand delivers one message and checks the frame byte for byte.
func (w *world) hand(m broker.Message) {
	if !w.past && w.chance(3) && w.hubCh(m.Channel) != nil {
		m.Prev = 0 // the one before has aged out
	}
	var seq uint64
	if mc := w.hubCh(m.Channel); mc != nil {
		_, seq = mc.ch.Head()
	} else {
		seq = m.Prev
	}
	w.deliver(func(h *channel.Hub) { h.Message(&m) })
	w.noteStarts()
	w.old = append(w.old, m)
	mc := w.chans[m.Channel]
	e := mc.entries[len(mc.entries)-1]
	if !wire.ValidPayload(m.Data) {
		if want := wire.AppendGap(nil, m.Channel, seq, m.Seq+1, "invalid"); !bytes.HasSuffix(want, e.bytes) && e.why != "invalid" {
			w.failf("invalid message: the log has %q", e.bytes)
		}
		return
	}
	// Its own prev; or, when that has aged out or is of before the node knew the
	// channel, a head the log has had.
	ok := bytes.Equal(e.bytes, wire.AppendMsg(nil, m.Channel, m.Seq, m.Prev, m.Time, m.Data))
	if !ok && (m.Prev == 0 || m.Prev < mc.first) && mc.heads[e.prev] && e.prev >= m.Prev {
		ok = bytes.Equal(e.bytes, wire.AppendMsg(nil, m.Channel, m.Seq, e.prev, m.Time, m.Data))
	}
	if !ok {
		w.failf("the log has %q for message %d, prev %d (head %d) of %s", e.bytes, m.Seq, m.Prev, seq, m.Channel)
	}
}

func (w *world) publish() {
	for range 1 + w.rng.IntN(1+w.rng.IntN(12)) {
		size := w.rng.IntN(1 + pick(w.rng, []int{1, 30, 200, 1000, 4000, 9000}))
		name := pick(w.rng, w.names)
		data := []byte("7")
		if size > 2 {
			letters := 1 + w.rng.IntN(pick(w.rng, []int{1, 26})) // some hardly get shorter when compressed
			data = fmt.Appendf(nil, `"%d`, w.head)
			for first := 'a' + w.rng.IntN(26); size > 0; size-- {
				data = append(data, byte('a'+(first+w.rng.IntN(letters))%26))
			}
			data = append(data, '"')
		}
		m := w.store(name, data)
		w.say("publish %s seq %d prev %d %d B", name, m.Seq, m.Prev, len(data))
	}
	w.clock += int64(w.rng.IntN(1 + pick(w.rng, []int{1, 100, 3000})))
}

func (w *world) publishInvalid() {
	name := pick(w.rng, w.names)
	m := w.store(name, []byte("\xffnot JSON"))
	w.say("publish invalid %s seq %d", name, m.Seq)
}

// publishLate delivers something a second time.
func (w *world) publishLate() {
	if len(w.old) == 0 || w.down {
		return
	}
	m := pick(w.rng, w.old)
	mc := w.hubCh(m.Channel)
	if mc == nil {
		return
	}
	if _, seq := mc.ch.Head(); m.Seq > seq {
		return // of another epoch, or the channel is new again
	}
	was := len(mc.entries)
	w.say("deliver %s seq %d again", m.Channel, m.Seq)
	w.deliver(func(h *channel.Hub) { h.Message(&m) })
	if len(mc.entries) != was {
		w.failf("a late copy was appended: %s", mc.entries[was].bytes)
	}
}

// open lets the broker be reached, in the same epoch or a new one.
func (w *world) open(fresh bool) {
	if w.epoch == "" || fresh {
		w.epochs++
		w.epoch = fmt.Sprintf("e%d", w.epochs)
		w.missed, w.old = nil, nil
		clear(w.last)
		w.head = uint64(w.rng.IntN(2) * w.rng.IntN(50))
		if w.past {
			w.head, w.first, w.stored = 0, 1, nil
		}
		if w.epochs > 1 {
			w.seen["epoch changed"]++
		}
		for _, name := range w.names {
			if w.head > 0 && w.chance(50) {
				w.last[name] = 1 + w.rng.Uint64N(w.head)
			}
		}
		w.base[w.epoch] = w.head
	}
	w.down = false
	w.say("broker up, epoch %s, head %d", w.epoch, w.head)
	at := w.g.hub.Head()
	if w.base[w.epoch] > at || fresh {
		at = w.base[w.epoch]
	}
	for _, mc := range w.chans {
		if mc.epoch == "" { // subscribed before there was a stream: its chain begins here
			mc.epoch, mc.explained, mc.opened = w.epoch, at, at
			mc.heads[at] = true
		}
	}
	w.deliver(func(h *channel.Hub) {
		h.Open(w.epoch, at)
		h.Live()
	})
	missed := w.missed
	w.missed = nil
	for len(missed) > 0 {
		if !w.past && w.chance(10) { // some are gone
			n := 1 + w.rng.IntN(len(missed))
			after, before := missed[0].Seq-1, missed[n-1].Seq+1
			w.say("lost %d..%d", after, before)
			w.seen["lost"]++
			w.deliver(func(h *channel.Hub) { h.Lost(after, before) })
			w.g.hub.Each(func(ch *channel.Channel) {
				if _, seq := ch.Head(); seq < before-1 {
					w.failf("%s stands at %d, and isn't told of the loss", ch.Name, seq)
				}
			})
			missed = missed[n:]
			continue
		}
		w.hand(missed[0])
		missed = missed[1:]
	}
	w.deliver(func(h *channel.Hub) { h.Live() })
	w.noteStarts()
}

func (w *world) toggleBroker() {
	if w.down {
		w.open(false)
		return
	}
	w.say("broker down")
	w.down = true
	w.downs++
	w.deliver(func(h *channel.Hub) { h.Down(errors.New("gone")) })
	w.noteStarts()
}

func (w *world) newEpoch() {
	if w.epoch == "" {
		return
	}
	if w.chance(50) {
		w.down = true
		w.downs++
		w.deliver(func(h *channel.Hub) { h.Down(errors.New("gone")) })
	}
	w.open(true)
}

// evict drops the oldest of the stream, of what the node has had.
func (w *world) evict() {
	if !w.past || w.down || w.head < w.first+40 {
		return
	}
	w.first += w.rng.Uint64N(w.head - w.first - 20)
	w.evicted = true
	w.say("the stream begins at %d", w.first)
	w.seen["evicted"]++
}

func (w *world) tickHub() {
	w.clock += int64(w.rng.IntN(1 + pick(w.rng, []int{10, 1000, 5000})))
	w.say("hub tick")
	w.deliver(func(h *channel.Hub) { h.Tick() })
	w.noteStarts()
}

func (w *world) tick() {
	n := 1 + w.rng.IntN(3)*w.rng.IntN(2)
	w.clock += int64(n) * tick.Milliseconds()
	for i, l := range w.loops {
		w.say("shard %d: %d ticks", i, n)
		l.Tick(n)
		w.settlePool() // a read of the past may have been repeated
	}
}

// deflate lets the hub compress, if there is something, and reports whether there was.
func (w *world) deflate() bool {
	select {
	case <-w.g.undeflated:
		w.g.hub.Deflate()
		return true
	default:
		return false
	}
}

// mail runs a shard's Mail when it is due.
func (w *world) mail(i int) bool {
	if !w.loops[i].Woken() {
		return false
	}
	w.say("shard %d: mail", i)
	ran := w.loops[i].RunMail()
	w.checkSubs(w.g.shards[i])
	return ran
}

// events fires one batch of a shard, shuffled, perhaps with Mail in between.
func (w *world) events(i int) {
	l := w.loops[i]
	batch := l.Batch()
	w.rng.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
	for _, e := range batch {
		if w.chance(5) {
			w.mail(i)
			w.settlePool()
		}
		if w.g.shards[i].slots.get(refOf(e.Token)) == nil {
			w.seen["stale event"]++
		}
		w.say("shard %d: %v", i, e)
		s := w.g.shards[i]
		subs := -1
		if c := s.slots.get(refOf(e.Token)); c != nil && c.ext != nil && len(c.ext.pin.Rest()) > 0 {
			subs = len(c.subs)
		}
		l.Fire(e)
		if c := s.slots.get(refOf(e.Token)); c != nil && len(c.subs) < subs && c.ext != nil && len(c.ext.pin.Rest()) > 0 {
			w.seen["unsub mid-frame"]++
		}
	}
}

// living are the clients whose sockets are open on both sides.
func (w *world) living() []*modelClient {
	var live []*modelClient
	for _, c := range w.clients {
		if !c.left && !c.sock.Closed() && c.closed == 0 {
			live = append(live, c)
		}
	}
	return live
}

// readAll takes what the sockets have and checks it; clients that are done with
// leave the list.
func (w *world) readAll() {
	w.noteStarts() // also of what the pool has learned
	kept := w.clients[:0]
	for _, c := range w.clients {
		c.take()
		if c.sock.Closed() {
			c.checkEnd()
			continue
		}
		kept = append(kept, c)
	}
	clear(w.clients[len(kept):])
	w.clients = kept
}

func (w *world) connect() {
	s := w.k.Socket()
	if s.FD() <= w.maxFD {
		w.seen["descriptor reused"]++
	}
	w.maxFD = max(w.maxFD, s.FD())
	c := newModelClient(w, s)
	w.clients = append(w.clients, c)
	shard := w.rng.IntN(len(w.loops))
	w.say("connect fd %d on shard %d", s.FD(), shard)
	if w.chance(2) {
		s.RefuseAdd(syscall.ENOSPC)
		c.mayFail = true
		w.seen["add failed"]++
	}
	w.g.shards[shard].hand([]int{s.FD()})
}

// arrive lets some of what a client sent reach its socket.
func (w *world) arrive(c *modelClient) {
	if len(c.toSend) == 0 {
		return
	}
	n := len(c.toSend)
	switch w.rng.IntN(4) {
	case 0:
		n = 1
	case 1:
		n = 1 + w.rng.IntN(n)
	}
	w.say("fd %d: %d of %d B arrive", c.sock.FD(), n, len(c.toSend))
	c.sock.Send(c.toSend[:n])
	c.toSend = c.toSend[n:]
}

// squeeze lets a client fall behind until it may be cut.
func (w *world) squeeze(c *modelClient) {
	if c.steady {
		return
	}
	c.sock.SetRoom(w.rng.IntN(3000))
	w.say("fd %d: squeezed, room %d", c.sock.FD(), c.sock.Room())
	for range 1 + w.rng.IntN(8) {
		w.publish()
		for i := range w.loops {
			w.mail(i)
			w.settlePool()
		}
		// Room at the very moment it is cut, with the event not looked at yet.
		if s, _ := w.slotOf(c); s != nil && s.strikes == slowStrikes-1 {
			c.sock.Give(w.rng.IntN(3000))
		}
		if w.chance(80) {
			w.tick()
		}
		w.readAll()
		if c.sock.Closed() {
			return
		}
	}
}

// slotOf is a client's slot and shard, nil before the shard has it.
func (w *world) slotOf(c *modelClient) (*slot, *shard) {
	for _, s := range w.g.shards {
		for i := range s.slots.size() {
			if k := s.slots.at(i); k.state != stateFree && int(k.fd) == c.sock.FD() {
				return k, s
			}
		}
	}
	return nil, nil
}

// churn lets clients go from a channel while it is being walked, and checks
// that nobody else is left out.
func (w *world) churn() {
	w.say("churn")
	w.rest()
	name := pick(w.rng, w.names)
	m := w.store(name, []byte("1"))
	w.say("publish %s seq %d", name, m.Seq)
	for range 1 + w.rng.IntN(3) {
		for i := range w.loops {
			w.mail(i)
			w.settlePool()
		}
		if live := w.living(); len(live) > 1 && w.chance(70) {
			if c := pick(w.rng, live); w.chance(40) {
				w.leave(c)
			} else if c.greeted {
				c.id++
				c.unsubscribe()
				c.sock.Send(c.toSend)
				c.toSend = nil
			}
		}
		for i := range w.loops {
			w.events(i)
			w.settlePool()
		}
		w.readAll()
	}
	w.rest()
}

// room changes what a client's socket takes.
func (w *world) room(c *modelClient) {
	if c.steady {
		return
	}
	switch w.rng.IntN(8) {
	case 0:
		c.sock.SetRoom(0)
	case 1:
		c.sock.SetRoom(netpolltest.Unlimited)
	case 2:
		c.sock.SetMaxWrite(1 + w.rng.IntN(3))
	case 3:
		c.sock.SetMaxWrite(0)
	case 4:
		c.sock.SetRoom(w.rng.IntN(20_000))
	default:
		c.sock.Give(1 + w.rng.IntN(pick(w.rng, []int{2, 100, 3000})))
	}
	w.say("fd %d: room %d", c.sock.FD(), c.sock.Room())
}

// leave ends a connection from the client's side.
func (w *world) leave(c *modelClient) {
	c.left = true
	switch w.rng.IntN(3) {
	case 0:
		w.say("fd %d: reset", c.sock.FD())
		w.seen["peer reset"]++
		c.sock.Reset()
	case 1:
		w.say("fd %d: finish", c.sock.FD())
		c.sock.Finish()
	default:
		w.say("fd %d: close frame", c.sock.FD())
		w.seen["peer closed"]++
		c.sock.Send(c.toSend)
		c.toSend = nil
		c.closeSent = true
		c.sock.Send(maskFrame(w.rng, true, wire.OpClose, []byte{3, 232}))
	}
}

// invariants checks what must hold between any two steps.
func (w *world) invariants() {
	for _, s := range w.g.shards {
		w.checkSubs(s)
	}
	w.checkBudget()
}

// checkSubs checks that subscriptions and members name each other.
func (w *world) checkSubs(s *shard) {
	members := 0
	for i := range s.slots.size() {
		c := s.slots.at(i)
		if c.state == stateFree {
			continue
		}
		for j, n := range c.subs {
			sc := s.chans[n.chanID]
			if sc == nil || sc.At(n.member()).Conn != i {
				w.failf("slot %d: subscription %d names another's place", i, j)
			}
			if j > 0 && c.subs[j-1].chanID >= n.chanID {
				w.failf("slot %d: subscriptions out of order", i)
			}
			members++
		}
	}
	for _, sc := range s.chans {
		if sc != nil {
			members -= sc.Len()
			if sc.Len() == 0 {
				w.failf("shard %d is attached to %s without members", s.id, sc.ch.Name)
			}
		}
	}
	if members != 0 {
		w.failf("shard %d: subscriptions less members: %d", s.id, members)
	}
}

// liesIn reports whether a slice lies in another's array.
func liesIn(part []byte, of reflect.Value) bool {
	at, from := uintptr(unsafe.Pointer(unsafe.SliceData(part))), of.Pointer()
	return from <= at && at < from+uintptr(of.Cap())
}

// checkBudget adds up the chunks there are, in logs and under pins.
func (w *world) checkBudget() {
	chunks := make(map[uintptr]int64)
	w.g.hub.Each(func(ch *channel.Channel) {
		list := reflect.ValueOf(ch).Elem().FieldByName("chunks")
		for i := range list.Len() {
			c := list.Index(i)
			chunks[c.Pointer()] = c.Elem().FieldByName("cost").Int()
		}
	})
	inLogs := len(chunks)
	logs, largest := int64(0), int64(0)
	for _, cost := range chunks {
		logs, largest = logs+cost, max(largest, cost)
	}
	if limit := w.g.hub.Budget().Limit(); logs > limit+largest {
		w.failf("the logs hold %d B, over %d by more than a chunk", logs, limit)
	}
	for _, s := range w.g.shards {
		for i := range s.slots.size() {
			if e := s.slots.at(i).ext; e != nil && len(e.pin.Rest()) > 0 {
				w.seen["frame split"]++
				c := reflect.ValueOf(&e.pin).Elem().FieldByName("c")
				if z := c.Elem().FieldByName("z"); !z.IsNil() && liesIn(e.pin.Rest(), z.Elem().FieldByName("buf")) {
					w.seen["deflated split"]++
				}
				chunks[c.Pointer()] = c.Elem().FieldByName("cost").Int()
			}
		}
	}
	if len(chunks) > inLogs {
		w.seen["chunk pinned and trimmed"]++
	}
	sum := int64(0)
	for _, cost := range chunks {
		sum += cost
	}
	if used := w.g.hub.Budget().Used(); used != sum {
		w.failf("the logs' budget says %d B, the %d chunks of logs and %d of pins alone make %d", used, inLogs, len(chunks)-inLogs, sum)
	}
}

// slots shows the slot of a descriptor, or all, for failures.
func (w *world) slots(fd int) (out string) {
	for _, s := range w.g.shards {
		for i := range s.slots.size() {
			if c := s.slots.at(i); c.state != stateFree && (fd == 0 || int(c.fd) == fd) {
				out += fmt.Sprintf("shard %d (now %d, queue %d, touched %d of %d, run %d) slot %d: %+v ext %+v; ", s.id, s.now, len(s.queue), s.nextConn, len(s.touched), len(s.run), i, *c, c.ext)
			}
		}
	}
	return out
}

// nothingLeft checks that the last connection took everything with it.
func (w *world) nothingLeft() {
	g := w.g
	if n := w.k.Open(); n != 0 {
		w.failf("%d descriptors are open: %s", n, w.slots(0))
	}
	if n := g.pool.InUse(); n != 0 {
		w.failf("%d B of pooled buffers are lent", n)
	}
	if n := g.gate.InUse(); n != 0 {
		w.failf("%d places at the gate are taken", n)
	}
	if n := g.count.Subscriptions.Load(); n != 0 {
		w.failf("%d subscriptions are counted", n)
	}
	for i, s := range g.shards {
		if n := w.loops[i].Registered(); n != 0 {
			w.failf("shard %d: %d descriptors registered", i, n)
		}
		if s.slots.used != 0 || s.heads != 0 || s.conns.Load() != 0 || s.headsNow.Load() != 0 {
			w.failf("shard %d: %d slots, %d heads, %d connections", i, s.slots.used, s.heads, s.conns.Load())
		}
		if len(s.chanOf) != 0 || len(s.wild) != 0 || len(s.queue) != 0 || len(s.lagging) != 0 || len(s.tries) != 0 {
			w.failf("shard %d: %d channels, %d wildcards, %d queued, %d lagging, %d reads failing", i, len(s.chanOf), len(s.wild), len(s.queue), len(s.lagging), len(s.tries))
		}
		for _, sc := range s.chans {
			if sc != nil {
				w.failf("shard %d still holds %s", i, sc.ch.Name)
			}
		}
	}
	w.checkBudget()
	// No shard is marked for any more: nobody is woken for channels known, once those
	// that were names only have had their debut.
	for range 2 {
		for i := range w.loops {
			w.mail(i)
		}
		for _, mc := range w.chans {
			if w.g.hub.Lookup(mc.name) == mc.ch {
				w.deliver(func(h *channel.Hub) {
					w.head++
					h.Message(&broker.Message{Channel: mc.name, Seq: w.head, Prev: w.last[mc.name], Data: []byte("1")})
				})
			}
		}
	}
	for i, l := range w.loops {
		if l.Woken() {
			w.failf("shard %d is woken for channels it has no members of", i)
		}
	}
}
