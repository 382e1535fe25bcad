package gateway

import (
	"container/list"
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/channel"
)

const (
	// pageBytes and pageMessages bound one read of a channel's past: little
	// enough that one connection's share of the cache is small, enough that the
	// read costs less than the writing.
	pageBytes    = 32 << 10
	pageMessages = 512
	// historyTimeout bounds one read.
	historyTimeout = 3 * time.Second
	// historyShare is which part of the logs' budget the cache may hold.
	historyShare = 8
)

// history is what this node has read of the stream's past, for those whose
// positions are older than the logs. Reads of a channel are one at a time, and
// what was read is shared: who comes back after an outage mostly wants what the
// next one wants. Blocks hold the same frames the logs held; the least recently
// used go first. Any goroutine.
type history struct {
	g     *Gateway
	limit atomic.Int64        // bytes
	reads *semaphore.Weighted // half of the workers: lookups have the others

	mu      sync.Mutex
	epoch   string                     // of all blocks
	blocks  map[string][]*list.Element // by channel, of cached
	lru     *list.List                 // the most recently used first
	bytes   int64
	flights map[string]*flight // reads under way, by channel
}

// cached is a block and whose it is.
type cached struct {
	channel string
	block   *channel.Block
}

// flight is one read under way.
type flight struct {
	waiters []waiter
}

// waiter is a connection that cannot go on without a channel's past.
type waiter struct {
	s *shard
	connRef
}

// fetched is how a read ended.
type fetched struct {
	epoch   string
	channel string
	block   *channel.Block // nil with err
	err     error
}

// is reports whether what was read is the past of a channel after seq.
func (f *fetched) is(epoch, name string, seq uint64) bool {
	return f != nil && f.block != nil && f.epoch == epoch && f.channel == name && f.block.After == seq
}

// errOtherEpoch means that the stream was made anew since the position was taken.
var errOtherEpoch = errors.New("the stream was made anew")

func newHistory(g *Gateway, limit int64) *history {
	half := int64(max(1, poolFactor*runtime.NumCPU()/2))
	h := &history{g: g, reads: semaphore.NewWeighted(half), blocks: make(map[string][]*list.Element), lru: list.New(), flights: make(map[string]*flight)}
	h.limit.Store(limit)
	return h
}

// setLimit changes how much may be held; what is beyond a lowered limit goes at once.
func (h *history) setLimit(limit int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit.Store(limit)
	h.shrink()
}

// shrink drops what is beyond the limit, but for the block used last; with mu held.
func (h *history) shrink() {
	for h.bytes > h.limit.Load() && h.lru.Len() > 1 {
		h.drop(h.lru.Back())
	}
}

// find returns a block for a reader that has everything of a channel up to seq;
// nil when none is at hand.
func (h *history) find(epoch, name string, seq uint64) *channel.Block {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch != epoch {
		return nil
	}
	for _, e := range h.blocks[name] {
		if b := e.Value.(cached).block; b.Has(seq) {
			h.lru.MoveToFront(e)
			return b
		}
	}
	return nil
}

// request has a channel's past after seq read, and w told when that, or another
// read of the channel, is done. It reports false when no worker is free.
func (h *history) request(epoch, name string, after uint64, w waiter) bool {
	h.mu.Lock()
	if f := h.flights[name]; f != nil {
		// Whatever it brings, the waiter then looks again.
		f.waiters = append(f.waiters, w)
		h.mu.Unlock()
		return true
	}
	f := &flight{waiters: []waiter{w}}
	h.flights[name] = f
	h.mu.Unlock()
	err := errors.New("enough reads are under way")
	if !h.reads.TryAcquire(1) {
		h.abandon(name, f, err)
		return false
	}
	err = h.g.submit(func() {
		defer h.reads.Release(1)
		res := fetched{epoch: epoch, channel: name, err: errors.New("the read panicked")}
		defer func() { h.land(name, f, res) }()
		res.block, res.err = h.read(epoch, name, after)
	})
	if err == nil {
		return true
	}
	h.reads.Release(1)
	h.abandon(name, f, err)
	return false
}

// abandon ends a flight that did not take off. Who joined it meanwhile hears of
// it; the first, who asked, is told by request.
func (h *history) abandon(name string, f *flight, err error) {
	h.mu.Lock()
	f.waiters = f.waiters[1:]
	h.mu.Unlock()
	h.land(name, f, fetched{channel: name, err: err})
}

// read reads one page.
func (h *history) read(epoch, name string, after uint64) (*channel.Block, error) {
	ctx, cancel := context.WithTimeout(context.Background(), historyTimeout)
	defer cancel()
	h.g.count.HistoryReads.Add(1)
	page, err := h.g.broker.History(ctx, broker.HistoryRequest{
		Channel: name, From: after + 1, To: math.MaxUint64, Messages: pageMessages, Bytes: pageBytes,
	})
	if err != nil {
		h.g.count.HistoryFailed.Add(1)
		h.g.sampled("history", "a channel's past could not be read", "ch", name, "after", after, "err", err)
		return nil, err
	}
	if page.Epoch != epoch {
		return nil, errOtherEpoch
	}
	b := channel.NewBlock(name, after, math.MaxUint64, &page, h.g.cfg.MaxPublish)
	if !b.Empty() {
		h.keep(epoch, name, b)
	}
	return b, nil
}

// keep puts a block into the cache.
func (h *history) keep(epoch, name string, b *channel.Block) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch != epoch {
		clear(h.blocks)
		h.lru.Init()
		h.epoch, h.bytes = epoch, 0
	}
	h.blocks[name] = append(h.blocks[name], h.lru.PushFront(cached{name, b}))
	h.bytes += b.Size()
	h.shrink()
}

// drop takes a block out; with mu held.
func (h *history) drop(e *list.Element) {
	c := h.lru.Remove(e).(cached)
	h.bytes -= c.block.Size()
	of := h.blocks[c.channel]
	for i := range of {
		if of[i] == e {
			of[i] = of[len(of)-1]
			of[len(of)-1] = nil
			of = of[:len(of)-1]
			break
		}
	}
	if len(of) == 0 {
		delete(h.blocks, c.channel)
		return
	}
	h.blocks[c.channel] = of
}

// size is what the blocks cost, bytes.
func (h *history) size() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes
}

// land tells a read's waiters how it ended.
func (h *history) land(name string, f *flight, res fetched) {
	h.mu.Lock()
	delete(h.flights, name)
	waiters := f.waiters
	h.mu.Unlock()
	byShard := make(map[*shard][]connRef, 2)
	for _, w := range waiters {
		byShard[w.s] = append(byShard[w.s], w.connRef)
	}
	for s, refs := range byShard {
		s.post(func(s *shard) {
			for _, r := range refs {
				s.landed(r, res)
			}
		})
	}
}
