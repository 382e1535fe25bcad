package gateway

import (
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/wire"
)

// errStopped is a Reload that came too late.
var errStopped = errors.New("gateway: it is shutting down")

// Reload changes the settings of a started Gateway, all or none: with an error, which
// names the flag, nothing has changed. When it returns nil they hold on every shard,
// and within two seconds no connection follows what may no longer be read (Tokens are
// changed by their owner, before). Nobody waits for it: a shard is told by its mailbox.
// Any goroutine may call it; calls take turns.
func (g *Gateway) Reload(next Live) error {
	next.fit(g.cfg.Echo)
	if err := next.Check(); err != nil {
		return err
	}
	g.reloading.Lock()
	defer g.reloading.Unlock()
	if err := g.peers.SetBounds(next.ipConfig()); err != nil {
		return err
	}
	g.live.Store(&next)
	g.pool.SetBudget(next.BufferBudget)
	past := next.pastBudget()
	g.history.setLimit(past)
	g.hub.Reconfigure(next.keep(), next.LogBudget-past, next.silence)
	limit, burst := next.publishLimit()
	g.publishRate.SetBurst(burst)
	g.publishRate.SetLimit(limit)

	told := make(chan struct{}, len(g.shards))
	for _, s := range g.shards {
		if !s.post(func(s *shard) { s.obey(&next); s.recheckUntil = s.now + 2*sweepTicks; told <- struct{}{} }) {
			return errStopped
		}
	}
	for range g.shards {
		select {
		case <-told:
		case <-g.down:
			return errStopped
		case <-g.done: // a shard that died answers nobody
			return errStopped
		}
	}
	// Last, so that who is let in for a larger maximum finds all of the rest in force.
	g.unfit.Store(nil)
	g.backlog.limit.Store(next.Backlog)
	g.gate.SetMax(next.MaxConnections)
	g.room.Admit()
	g.count.ConfigReloads.Add(1)
	g.count.ConfigLoadedAt.Store(time.Now().UnixMilli())
	return nil
}

// ReloadFailed counts settings that were to be taken and are not: they could not be
// read, or Reload refused them. Any goroutine may call it.
func (g *Gateway) ReloadFailed() { g.count.ConfigReloadFailed.Add(1) }

// fit raises what other settings need to be larger.
func (l *Live) fit(echo bool) {
	if echo {
		// A message being read, grown into, and written back: at least two
		// clients may do so at once.
		l.BufferBudget = max(l.BufferBudget, 8*int64(l.MaxMessage))
	}
}

// publishLimit is PublishRate for a rate.Limiter.
func (l *Live) publishLimit() (rate.Limit, int) {
	if l.PublishRate == 0 {
		return rate.Inf, maxBatch
	}
	return rate.Limit(l.PublishRate), max(l.PublishRate, maxBatch)
}

// obey takes settings over; on the shard's goroutine, or before it runs.
func (s *shard) obey(l *Live) {
	s.live = l
	s.limits = wire.Limits{MaxMessage: l.MaxMessage, MaxFragments: 1024}
	s.echoLimits = wire.Limits{MaxMessage: l.MaxMessage, Binary: true}
}

// recheck ends what a connection may read no longer, since what everybody may read has
// changed; it reports whether the connection ended with it.
func (s *shard) recheck(r connRef, c *slot) bool {
	tokens := s.g.cfg.Tokens
	if tokens == nil {
		return false
	}
	if _, known := s.sessions[r.index]; !known && tokens.Anonymous() == nil {
		s.g.count.AuthEnded[auth.Missing].Add(1)
		s.fail(r, c, closeToken, auth.Missing.Error())
		return true
	}
	s.narrow(r, c)
	c = s.slots.get(r)
	return c == nil || c.state != stateOpen
}
