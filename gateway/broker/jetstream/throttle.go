package jetstream

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// cacheTime is how long nats-server keeps what was stored in memory: 10 s after
	// the last write to a block and the last read of it, which republishing does with
	// every message, and the tick it is told time by.
	cacheTime = 10500 * time.Millisecond
	// recordRoom is what a message takes in a block beside its data and channel, about:
	// the record's header and hash, the subject's prefix, a deduplication key.
	recordRoom = 64
	// stampRoom is what the server's own headers take at most of a message that is
	// republished or read; what is beyond it are a publisher's, and stored.
	stampRoom = 256

	throttleSlot  = cacheTime / throttleSlots
	throttleSlots = 42
	// smooth is how many slots make a second, about, and smoothPart which part of the
	// bound may be stored in them.
	smooth     = 4
	smoothPart = 10
	// cutEvery is how long a cut is given to show before the next: blocks go whole, and
	// then the collector has to come.
	cutEvery = 3 * time.Second
	// growEach is how often the bound grows while memory is not short: by a fiftieth,
	// and by a tenth once the last cut is longer ago than what was stored before it is
	// kept.
	growEach = time.Second

	// holdSubject is where a node with a replica says, at each Broker.Throttle, that
	// its memory takes no more, and holdFor how long that counts: each replica stores
	// what the leader takes, and only the leader can refuse it.
	holdSubject = "odin.ctl.hold"
	holdFor     = 300 * time.Millisecond
)

// throttle bounds what is stored within cacheTime, and so the memory that the store's
// blocks hold, by what memory there is. It is told of every message stored, and by
// Broker.Throttle, several times a second, whether memory is short.
type throttle struct {
	self   string       // tells this node's word from another's; static
	stored atomic.Int64 // bytes, by whoever published; added to by the delivery goroutine
	on     atomic.Bool  // publications are refused now
	heard  atomic.Int64 // when another node said so last, as a time of pace; 0: never
	saying atomic.Bool  // this node is about to
	behind atomic.Bool  // more is stored than was counted: the delivery reads it from the stream

	mu   sync.Mutex
	pace pace // guarded by mu
	told bool // guarded by mu; a failure was logged
}

// took counts a message that the stream has stored, which came with so many bytes of
// headers.
func (t *throttle) took(channel string, data []byte, headers int) {
	t.stored.Add(int64(len(channel) + len(data) + recordRoom + max(0, headers-stampRoom)))
}

// others reports whether another node takes no more.
func (t *throttle) others(now time.Duration) bool {
	heard := time.Duration(t.heard.Load())
	return heard > 0 && now-heard < holdFor
}

// openHolds subscribes nc to what the other nodes of an embedded cluster say.
func (b *Broker) openHolds(nc *nats.Conn) error {
	if b.emb == nil || !b.emb.clustered {
		return nil
	}
	_, err := nc.Subscribe(holdSubject, func(m *nats.Msg) {
		if string(m.Data) != b.throttle.self {
			b.throttle.heard.Store(int64(time.Since(b.made)))
		}
	})
	return err
}

// sayHold tells the other nodes. It does not wait, as a write to a connection may.
func (b *Broker) sayHold() {
	nc := b.nc.Load()
	if nc == nil || !b.throttle.saying.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer b.throttle.saying.Store(false)
		_ = nc.Publish(holdSubject, []byte(b.throttle.self)) // it is said again soon
	}()
}

// pace is a bound on the bytes stored within cacheTime: what there is room for by the
// sum at first. When memory is short it becomes seven eighths of what was stored, and again
// after cutEvery while that is not enough, but never less than share. It grows while
// memory is not short and it is what holds publishers back, slowly at first.
// No second takes much more than its part of it. So publishers find the pace
// that the memory holds, as TCP finds a path's (RFC 5681, section 3.1), instead of a wall
// once in ten seconds. Times are since any start.
type pace struct {
	share int64 // bytes that are always taken

	slots [throttleSlots]int64
	slot  int64 // the number of the slot under way
	sum   int64 // of slots
	total int64 // stored at the last step

	most  int64         // the bound; 0: none until memory is short
	cut   time.Duration // when it was last lowered
	grown time.Duration // or raised
	held  bool          // it held someone back since
}

// step takes the bytes stored since the start and whether memory is short, and returns
// whether to store no more for now.
func (p *pace) step(now time.Duration, stored int64, short bool) bool {
	at := int64(now / throttleSlot)
	for n := min(at-p.slot, throttleSlots); n > 0; n-- {
		p.slot = at - n + 1
		old := &p.slots[p.slot%throttleSlots]
		p.sum -= *old
		*old = 0
	}
	p.slots[at%throttleSlots] += stored - p.total
	p.sum += stored - p.total
	p.total = stored
	switch {
	case short && (p.most == 0 || now-p.cut >= cutEvery):
		bound := p.sum
		if p.most > 0 {
			bound = min(bound, p.most)
		}
		p.most = max(p.share, bound/8*7)
		p.cut, p.grown, p.held = now, now, false
	case !short && p.held && now-p.grown >= growEach:
		p.grown, p.held = now, false
		part := int64(50)
		if now-p.cut > cacheTime {
			part = 10
		}
		p.most = min(p.most+p.most/part+1, math.MaxInt64/4)
	}
	hold := p.most > 0 && (p.sum >= p.most || p.recent(at) >= max(p.most/smoothPart, 1))
	p.held = p.held || hold
	return hold
}

// recent is what was stored within the last second, in which slot at is the last.
func (p *pace) recent(at int64) (n int64) {
	for i := max(0, at-smooth+1); i <= at; i++ {
		n += p.slots[i%throttleSlots]
	}
	return n
}
