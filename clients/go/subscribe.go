package odin

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Subscription is what one Subscribe follows.
type Subscription struct {
	// Static.
	client *Client
	opts   SubscribeOptions
	ready  chan struct{} // closed when the first answer is known

	// Guarded by Client.mu.
	follows []*follow
	settled bool  // ready is closed
	err     error // why it could not be, readable after ready
	gone    bool
}

type followState int

const (
	wanted  followState = iota // to be asked for
	asked                      // and not answered
	on                         // acknowledged
	refused                    // not again on this connection
)

// follow is one name of a subscription. Guarded by Client.mu.
type follow struct {
	name  string
	wild  bool
	sub   *Subscription
	state followState
	// brief: a channel asked for by name only so that its position need not go
	// in its wildcard's command, which would be too long.
	brief bool

	tries   int       // refused so often on this connection
	since   time.Time // when it first was
	retryAt time.Time // not asked for before
	void    bool      // ask without a position: the stream has not got it
	lost    uint64    // the position that was void

	// A wildcard's own.
	pos    Position // every match without a chain was delivered up to here
	told   uint64   // a gap of the wildcard has announced up to here
	began  string   // the epoch whose begin a gap of the wildcard has announced
	next   string   // the epoch an ack named instead of pos's; its gap is still to come
	voided bool     // pos's epoch ended, and the new one's name isn't known yet
	listed Position // the head of the last checkpoint
	done   Position // what Positions says
}

// Subscribe follows channels until Unsubscribe or Close, over reconnects. It
// waits until the server has acknowledged all of them, and returns an *Error and
// follows none if it refuses one. Messages may come before it returns.
func (c *Client) Subscribe(ctx context.Context, opts SubscribeOptions) (*Subscription, error) {
	s := &Subscription{client: c, opts: opts, ready: make(chan struct{})}
	if err := c.add(s); err != nil {
		return nil, err
	}
	select {
	case <-s.ready:
		c.mu.Lock()
		defer c.mu.Unlock()
		if s.err != nil {
			return nil, s.err
		}
		return s, nil
	case <-c.done:
		return nil, c.Err()
	case <-ctx.Done():
		s.Unsubscribe()
		return nil, context.Cause(ctx)
	}
}

// Unsubscribe stops following. After it no callback of the subscription begins
// but one that is due already.
func (s *Subscription) Unsubscribe() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	s.client.remove(s)
}

func (c *Client) add(s *Subscription) error {
	names := slices.Clone(s.opts.Channels)
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(names) == 0 || s.opts.OnMessage == nil:
		return &Error{Code: "options", Message: "Channels and OnMessage are required"}
	case s.opts.OnGap == nil && c.opts.OnGap == nil:
		return &Error{Code: "options", Message: "nobody would hear of a gap: set OnGap, here or in Options"}
	case s.opts.Every < 0 || s.opts.Every > time.Hour:
		return &Error{Code: "options", Message: "Every is from 0 to an hour"}
	}
	for _, name := range names {
		if why := checkName(name); why != "" {
			return &Error{Code: "bad_channel", Channel: name, Message: why}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.ctx.Err() != nil {
		return ErrClosed
	}
	if len(c.byName)+len(names) > maxFollows {
		return &Error{Code: "limit", Message: fmt.Sprintf("a client follows at most %d names", maxFollows)}
	}
	if a, b := c.overlap(names); a != "" {
		return &Error{Code: "overlap", Channel: a, Message: "a connection is given a channel once, and " + b + " is followed already"}
	}
	for _, name := range names {
		f := &follow{name: name, wild: isWildcard(name), sub: s}
		c.byName[name] = f
		s.follows = append(s.follows, f)
		at, has := s.opts.Since[name]
		switch {
		case has && f.wild:
			f.pos, f.done = at, at
		case has:
			c.chains[name] = &chain{name: name, follow: f}
			c.chains[name].resume(at)
		}
		if f.wild {
			for ch, at := range s.opts.Since {
				if !isWildcard(ch) && matches(name, ch) && checkName(ch) == "" && len(c.chains) < maxFollows {
					c.chains[ch] = &chain{name: ch, follow: f}
					c.chains[ch].resume(at)
				}
			}
		}
	}
	c.subs = append(c.subs, s)
	c.nudge()
	return nil
}

// overlap names two that would deliver the same channel, if there are any.
func (c *Client) overlap(names []string) (a, b string) {
	all := make(map[string]bool, len(names))
	for _, n := range names {
		if c.byName[n] != nil {
			return n, n
		}
		all[n] = true
	}
	taken := func(n string) bool { return all[n] || c.byName[n] != nil }
	for _, n := range names {
		if w := covering(n, taken); w != "" {
			return n, w
		}
	}
	for n := range c.byName {
		if w := covering(n, func(w string) bool { return all[w] }); w != "" {
			return w, n
		}
	}
	return "", ""
}

// covering returns a wildcard other than name itself that covers name and that
// has holds.
func covering(name string, has func(string) bool) string {
	for i := range len(name) {
		if name[i] == '.' {
			if w := name[:i+1] + "*"; w != name && has(w) {
				return w
			}
		}
	}
	return ""
}

// remove takes a subscription out. Within mu.
func (c *Client) remove(s *Subscription) {
	if s.gone {
		return
	}
	s.gone = true
	c.subs = slices.DeleteFunc(c.subs, func(o *Subscription) bool { return o == s })
	for _, f := range c.byName {
		if f.sub != s {
			continue
		}
		delete(c.byName, f.name)
		if c.link != nil && (f.state == asked || f.state == on) {
			c.link.unsubs = append(c.link.unsubs, f.name)
		}
	}
	for name, ch := range c.chains {
		if ch.follow.sub == s {
			delete(c.chains, name)
		}
	}
	c.nudge()
}

// settle ends the wait of Subscribe. Within mu.
func (c *Client) settle(s *Subscription, err error) {
	if s.settled {
		return
	}
	s.settled, s.err = true, err
	close(s.ready)
	if err != nil {
		c.remove(s)
	}
}

// owner is the name a channel is followed by, and whether its messages may come
// already.
func (c *Client) owner(channel string) (f *follow, live bool) {
	exact := c.byName[channel]
	if exact != nil && !exact.brief {
		return exact, exact.state == on
	}
	w := covering(channel, func(w string) bool { return c.byName[w] != nil })
	if w == "" {
		return nil, false
	}
	f = c.byName[w]
	return f, f.state == on || exact != nil && exact.state == on
}

// chainOf is the chain of a channel, begun if it is new under its wildcard; nil
// when nobody follows it, or has been acknowledged to. Within mu.
func (c *Client) chainOf(channel string) *chain {
	f, live := c.owner(channel)
	if !live {
		return nil
	}
	ch := c.chains[channel]
	if ch == nil {
		if len(c.chains) >= maxFollows {
			c.fail(&Error{Code: "limit", Channel: channel, Message: fmt.Sprintf("more than %d channels", maxFollows)})
			return nil
		}
		ch = &chain{name: channel, follow: f}
		ch.start(f.pos)
		ch.voided = f.voided
		c.chains[channel] = ch
	}
	return ch
}
