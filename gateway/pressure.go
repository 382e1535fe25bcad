package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/odin-ws/odin/capacity"
)

// watchInterval is how often the memory in use is held against its limit.
const watchInterval = 100 * time.Millisecond

// watchMemory is the second line: the budgets are the first. At the holding
// threshold a store in this process takes publications only as far as its share; at
// the refusing one nobody is admitted; at the evicting one, those who hold memory
// without progress are cut, a few each interval, until it is left again. A limit
// that changes gives the gate its new maximum.
func (g *Gateway) watchMemory(ctx context.Context) {
	defer g.tickers.Done()
	if g.cfg.Memory == nil {
		// What the store may hold has a bound all the same, which is told the time.
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				g.broker.Throttle(false)
			case <-ctx.Done():
				return
			}
		}
	}
	capacity.NewWatch(g.cfg.Memory, capacity.DefaultThresholds).Run(ctx, watchInterval, func(state capacity.State, s capacity.Sample) {
		g.memory.Store(&s)
		if old := capacity.State(g.pressure.Swap(uint32(state))); old != state {
			level := slog.LevelWarn
			if max(old, state) == capacity.Hold { // publishers are told, and it is their doing
				level = slog.LevelInfo
			}
			g.log.Log(ctx, level, "memory pressure changed", "from", old, "to", state,
				"used", capacity.FormatSize(s.Used), "limit", capacity.FormatSize(s.Of.Bytes), "read_from", s.Of.Source,
				"heap", capacity.FormatSize(s.HeapLive))
		}
		if s.Err != nil {
			g.count.MemoryErrors.Add(1)
			g.sampled("memory", "the memory in use can't be read whole; the last good figure stands", "err", s.Err)
		}
		if s.Changed {
			g.followLimit(s.Limit)
		}
		g.broker.Throttle(state >= capacity.Hold)
		if state == capacity.Evict {
			for _, sh := range g.shards {
				sh.post(func(s *shard) { s.reclaim(s.charged.len()); s.evict(evictStep) })
			}
		}
	})
}

// followLimit gives the gate and the backlog what fits under a memory limit that has
// changed.
func (g *Gateway) followLimit(limit capacity.Limit) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	recompute := g.live.Load().Recompute
	if recompute == nil {
		return
	}
	n, backlog, err := recompute(limit)
	g.unfit.Store(nil)
	if err != nil {
		why := err.Error()
		g.unfit.Store(&why)
		g.log.Error("the memory limit changed and holds nothing now: nobody is admitted", "err", err)
	} else {
		g.log.Warn("the memory limit changed", "limit", capacity.FormatSize(limit.Bytes), "max_connections", n)
	}
	g.gate.SetMax(n)
	if backlog > 0 {
		g.backlog.limit.Store(backlog)
	}
	g.room.Admit()
}

// refusing reports whether memory is too short to admit anyone.
func (g *Gateway) refusing() bool { return capacity.State(g.pressure.Load()) >= capacity.Refuse }
