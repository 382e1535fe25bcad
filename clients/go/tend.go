package odin

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/coder/websocket"
)

// command is one op on its way. Guarded by Client.mu.
type command struct {
	op   string
	id   uint64
	body []byte
	sent time.Time

	sub   *Subscription       // sub
	names []string            // sub
	since map[string]Position // sub: the positions of names
	chain *chain              // replay
}

// maxWaiting bounds the commands that are sent and not answered.
const maxWaiting = 16

// burst is how many commands go out at once. A tenth stays for what the server
// counts differently: commands sent apart may arrive together.
func (l *link) burst() float64 {
	if l.hello.Rate.Burst <= 0 {
		return 90
	}
	return max(1, 0.9*float64(l.hello.Rate.Burst))
}

func (l *link) perSec() float64 {
	if l.hello.Rate.PerSec <= 0 {
		return 9
	}
	return 0.95 * float64(l.hello.Rate.PerSec)
}

// silence is how long nothing may come before the connection counts as dead:
// the server pings, and after a heartbeat's time without a frame it sends one.
func (l *link) silence(clk *clock) time.Duration {
	return 2*time.Duration(l.hello.PingMS)*time.Millisecond + clk.hb
}

// tend writes a connection's commands and watches its clocks, until it ends.
func (c *Client) tend(l *link) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
		c.mu.Lock()
		if c.closing {
			c.mu.Unlock()
			_ = l.ws.Close(websocket.StatusNormalClosure, "")
			c.cancel()
			return
		}
		now := time.Now()
		c.plan(l, now)
		bodies, wait := c.due(l, now)
		renew := !l.renew.IsZero() && !now.Before(l.renew)
		if renew {
			l.renew = time.Time{}
		}
		c.mu.Unlock()
		for _, b := range bodies {
			ctx, cancel := context.WithTimeout(l.ctx, c.clock.write)
			err := l.ws.Write(ctx, websocket.MessageText, b)
			cancel()
			if err != nil {
				c.mu.Lock()
				c.fail(&Error{Code: "network", Err: err})
				c.mu.Unlock()
				return
			}
		}
		if renew {
			c.reauthenticate(l)
			wait = 0
		}
		timer.Reset(wait)
	}
}

// plan turns what is wanted into commands. Within mu.
func (c *Client) plan(l *link, now time.Time) {
	if l.bye != nil {
		return
	}
	// What is not planned now is when answers have made room.
	if len(l.outbox) < maxWaiting {
		c.planUnsubs(l)
		for _, s := range c.subs {
			c.planSub(l, s, now)
		}
	}
	if !now.Before(l.tick) {
		l.tick = now.Add(c.checkpointIn())
		if c.hasWildcard() {
			c.askList(l)
		}
	}
	quiet := now.Sub(time.Unix(0, l.heard.Load()))
	if l.reading.Load() && quiet >= c.clock.hb+(l.silence(&c.clock)-c.clock.hb)/4 && !l.awaits("ping") {
		c.push(l, &command{op: "ping"}, func(id uint64) []byte {
			return marshal(map[string]any{"op": "ping", "id": id})
		})
	}
}

// due takes the commands that may be sent now, and says when to look again.
// Within mu.
func (c *Client) due(l *link, now time.Time) (bodies [][]byte, wait time.Duration) {
	limit := l.silence(&c.clock)
	wait = min(5*time.Second, limit/8)
	heard := time.Unix(0, l.heard.Load())
	if l.reading.Load() {
		if now.Sub(heard) >= limit {
			c.fail(&Error{Code: "silent", Message: "nothing came for " + now.Sub(heard).Round(time.Millisecond).String()})
			return nil, 0
		}
		if len(l.waiting) > 0 && now.Sub(l.since()) >= c.clock.answer {
			c.fail(&Error{Code: "silent", Message: "no answer to " + l.waiting[0].op})
			return nil, 0
		}
		if len(l.waiting) > 0 {
			wait = min(wait, c.clock.answer-now.Sub(l.since()))
		}
	}
	most := l.burst()
	l.tokens = min(most, l.tokens+now.Sub(l.refill).Seconds()*l.perSec())
	l.refill = now
	for len(l.outbox) > 0 && len(l.waiting) < maxWaiting && !now.Before(l.paused) && l.tokens >= 1 {
		cmd := l.outbox[0]
		l.outbox = l.outbox[1:]
		l.tokens--
		cmd.sent = now
		l.waiting = append(l.waiting, cmd)
		bodies = append(bodies, cmd.body)
	}
	if len(l.outbox) > 0 {
		next := time.Duration((1 - l.tokens) / l.perSec() * float64(time.Second))
		wait = min(wait, max(next, l.paused.Sub(now), time.Millisecond))
	}
	for _, s := range c.subs {
		for _, f := range s.follows {
			if f.state == wanted && !f.retryAt.IsZero() {
				wait = min(wait, max(f.retryAt.Sub(now), time.Millisecond))
			}
		}
	}
	if !l.renew.IsZero() {
		wait = min(wait, max(l.renew.Sub(now), 0))
	}
	return bodies, min(wait, max(l.tick.Sub(now), time.Millisecond))
}

// since is when the oldest command began to be answered: commands wait for those
// before them.
func (l *link) since() time.Time {
	if sent := l.waiting[0].sent; sent.After(l.answered) {
		return sent
	}
	return l.answered
}

// awaits reports whether an op is on its way.
func (l *link) awaits(op string) bool {
	is := func(cmd *command) bool { return cmd.op == op }
	return slices.ContainsFunc(l.outbox, is) || slices.ContainsFunc(l.waiting, is)
}

// push queues a command. Within mu.
func (c *Client) push(l *link, cmd *command, body func(id uint64) []byte) {
	c.lastID++
	cmd.id = c.lastID
	cmd.body = body(cmd.id)
	l.outbox = append(l.outbox, cmd)
	l.nudge()
}

// bodyLimit is how long a command may be.
func (c *Client) bodyLimit() int { return max(1024, c.opts.MaxMessage-c.opts.MaxMessage/16) }

// planUnsubs queues the commands that take names back.
func (c *Client) planUnsubs(l *link) {
	for len(l.unsubs) > 0 {
		n, size := 0, 64
		for n < len(l.unsubs) && size+len(l.unsubs[n])+3 <= c.bodyLimit() {
			size += len(l.unsubs[n]) + 3
			n++
		}
		names := l.unsubs[:n]
		l.unsubs = l.unsubs[n:]
		c.push(l, &command{op: "unsub", names: names}, func(id uint64) []byte {
			return marshal(map[string]any{"op": "unsub", "id": id, "ch": names})
		})
	}
}

// planSub queues the commands that ask for what a subscription wants and may ask
// for now, as many names in each as fit.
func (c *Client) planSub(l *link, s *Subscription, now time.Time) {
	var batch []*follow
	since := Positions{}
	size := 0
	flush := func() {
		if len(batch) == 0 {
			return
		}
		cmd := &command{op: "sub", sub: s, since: map[string]Position{}}
		for _, f := range batch {
			f.state = asked
			cmd.names = append(cmd.names, f.name)
			if at, has := since[f.name]; has {
				cmd.since[f.name] = at
			}
		}
		op := subCommand{Op: "sub", Ch: cmd.names, Since: since, Snap: s.opts.Snapshot}
		if s.opts.Mode == Latest {
			op.Mode, op.MS = "latest", s.opts.Every.Milliseconds()
		}
		if s.opts.SlowLatest {
			op.Slow = "latest"
		}
		c.push(l, cmd, func(id uint64) []byte { op.ID = id; return marshal(op) })
		batch, since, size = nil, Positions{}, 0
	}
	add := func(f *follow, own Positions, n int) {
		if size+n > c.bodyLimit()-256 {
			flush()
		}
		batch = append(batch, f)
		for name, at := range own {
			since[name] = at
		}
		size += n
	}
	for _, f := range s.follows {
		if f.state != wanted || now.Before(f.retryAt) {
			continue
		}
		own, n := c.since(f)
		if f.wild && n > c.bodyLimit()-256 {
			// Its channels are asked for by name first; once the wildcard is
			// acknowledged the names are given back, and it goes on with them.
			for name, at := range own {
				if name == f.name {
					continue
				}
				b := &follow{name: name, sub: s, brief: true}
				c.byName[name] = b
				add(b, Positions{name: at}, sinceLen(name, at)+len(name)+3)
				delete(own, name)
			}
			n = len(f.name) + 3 + sinceLen(f.name, own[f.name])
		}
		add(f, own, n)
	}
	flush()
}

// since is the positions a name is asked for with, and what they and the name
// take in the command.
func (c *Client) since(f *follow) (Positions, int) {
	own, n := Positions{}, len(f.name)+3
	add := func(name string, at Position) {
		own[name] = at
		n += sinceLen(name, at)
	}
	if f.void {
		return own, n
	}
	if !f.wild {
		if ch := c.chains[f.name]; ch != nil && ch.epoch != "" {
			add(f.name, ch.position())
		}
		return own, n
	}
	if f.pos.Epoch != "" {
		add(f.name, f.pos)
	}
	for name, ch := range c.chains {
		// One that stands at an epoch whose end was told of its wildcard goes by
		// that.
		if ch.follow == f && ch.epoch != "" && (f.began == "" || f.began == ch.epoch) {
			add(name, ch.position())
		}
	}
	return own, n
}

// sinceLen is at least what a position takes in a command.
func sinceLen(name string, at Position) int {
	return len(name) + 2*len(at.Epoch) + len(`"":{"epoch":"","seq":},`) + 20
}

// checkpointIn is when the wildcards' positions are brought up to date next,
// spread so that not all clients ask at once.
func (c *Client) checkpointIn() time.Duration {
	return c.opts.Checkpoint/2 + time.Duration(rand.Int64N(int64(c.opts.Checkpoint)))
}

func (c *Client) hasWildcard() bool {
	for _, f := range c.byName {
		if f.wild && f.state == on {
			return true
		}
	}
	return false
}

// askList asks how far everything has been given. Within mu.
func (c *Client) askList(l *link) {
	if !l.awaits("list") {
		c.push(l, &command{op: "list"}, func(id uint64) []byte {
			return marshal(map[string]any{"op": "list", "id": id})
		})
	}
}

// renewal is when a token is replaced by a new one: after four fifths of its
// life, at most a minute before its end. Zero: never.
func renewal(t Token, now time.Time) time.Time {
	if t.Expires.IsZero() {
		return time.Time{}
	}
	left := max(0, t.Expires.Sub(now))
	return now.Add(max(left*4/5, left-time.Minute))
}

// reauthenticate sends a new token before the old one ends. Tender's only.
func (c *Client) reauthenticate(l *link) {
	ctx, cancel := context.WithTimeout(l.ctx, c.clock.handshake)
	token, err := c.opts.Token(ctx)
	cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l {
		return
	}
	if err != nil {
		c.report(&Error{Code: "token", Err: err})
		l.renew = time.Now().Add(c.clock.retry * 10)
		return
	}
	if token.Value == c.token.Value {
		l.renew = time.Now().Add(c.clock.retry * 10) // not made anew yet
		return
	}
	c.token = token
	l.renew = renewal(token, time.Now())
	c.push(l, &command{op: "auth"}, func(id uint64) []byte {
		return marshal(map[string]any{"op": "auth", "id": id, "token": token.Value})
	})
}
