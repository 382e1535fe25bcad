package odin

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"
)

// Client keeps one connection to an Odin gateway. Its methods may be called from
// any goroutine, and all but Subscribe from callbacks.
type Client struct {
	// Static after Dial.
	opts   Options
	urls   []string
	clock  clock
	ctx    context.Context // ends with the client
	cancel context.CancelFunc
	done   chan struct{} // closed when the run loop has ended

	mu      sync.Mutex
	closing bool  // guarded by mu
	err     error // why the client ended; guarded by mu

	byName   map[string]*follow // what is followed; guarded by mu
	chains   map[string]*chain  // what is known of channels; guarded by mu
	subs     []*Subscription    // in the order they were made; guarded by mu
	link     *link              // the connection, nil without one; guarded by mu
	lastID   uint64             // of a command; guarded by mu
	events   []event            // callbacks that are due; guarded by mu
	stats    Stats              // guarded by mu
	token    Token              // the last one sent; guarded by mu
	greeted  bool               // a server has said hello; guarded by mu
	greeting chan struct{}      // closed by the first hello
}

// clock is every time that is not the user's choice. Static; tests shorten them.
type clock struct {
	handshake time.Duration // until hello
	hb        time.Duration // the server's heartbeat: something comes after so much silence
	answer    time.Duration // until a command is answered
	write     time.Duration // until the socket has taken a command
	stable    time.Duration // a connection that lasted so long was a good one
	retry     time.Duration // until a refused name is tried again
	patience  time.Duration // how long a position the stream hasn't reached is believed in
}

func defaultClock() clock {
	return clock{
		handshake: 10 * time.Second,
		hb:        15 * time.Second,
		answer:    30 * time.Second,
		write:     10 * time.Second,
		stable:    10 * time.Second,
		retry:     500 * time.Millisecond,
		patience:  15 * time.Second,
	}
}

// maxFollows bounds the names and channels of a client.
const maxFollows = 65536

// event is a callback that is due, and what has been handled once it returned.
type event struct {
	call  func()
	chain *chain
	wild  *follow
	at    Position
}

// ErrClosed is what Subscribe returns after Close.
var ErrClosed = errors.New("odin: the client is closed")

// Dial makes a client and waits for its first connection. Until ctx ends it goes
// on trying, except if the server refuses in a way that trying again doesn't
// change. ctx bounds only this call.
func Dial(ctx context.Context, url string, opts Options) (*Client, error) {
	return dial(ctx, url, opts, defaultClock())
}

func dial(ctx context.Context, url string, opts Options, clk clock) (*Client, error) {
	urls := append([]string{url}, opts.Fallback...)
	for _, u := range urls {
		if err := checkURL(u); err != nil {
			return nil, err
		}
	}
	if opts.MinBackoff <= 0 {
		opts.MinBackoff = 500 * time.Millisecond
	}
	if opts.MaxBackoff <= 0 {
		opts.MaxBackoff = 30 * time.Second
	}
	if opts.MaxMessage <= 0 {
		opts.MaxMessage = 64 << 10
	}
	if opts.Checkpoint <= 0 {
		opts.Checkpoint = 5 * time.Minute
	}
	c := &Client{
		opts: opts, urls: urls, clock: clk,
		done:     make(chan struct{}),
		byName:   make(map[string]*follow),
		chains:   make(map[string]*chain),
		greeting: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	go c.run()
	select {
	case <-c.greeting:
		return c, nil
	case <-c.done:
		return nil, c.Err()
	case <-ctx.Done():
		c.mu.Lock()
		last := c.err
		c.mu.Unlock()
		c.Close()
		<-c.done
		if last != nil {
			return nil, fmt.Errorf("%w; the last attempt: %w", context.Cause(ctx), last)
		}
		return nil, context.Cause(ctx)
	}
}

func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return &Error{Code: "options", Message: "url", Err: err}
	}
	if u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
		return &Error{Code: "options", Message: fmt.Sprintf("want ws://HOST/ws or wss://HOST/ws, not %q", u.Redacted())}
	}
	return nil
}

// Close says goodbye and ends the client. After it no callback begins; one that
// is running goes on. It doesn't wait for the goroutines' end: Done tells.
func (c *Client) Close() {
	c.mu.Lock()
	c.closing = true
	l := c.link
	c.mu.Unlock()
	if l == nil {
		c.cancel()
		return
	}
	l.nudge() // the link says goodbye and cancels
}

// Done is closed when the client has ended, by Close or by a refusal that is
// final, and its goroutines have.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the client ended: ErrClosed after Close, the refusal, or nil while
// it runs.
func (c *Client) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Positions is how far everything followed has been handled.
func (c *Client) Positions() Positions {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(Positions, len(c.chains))
	for name, ch := range c.chains {
		if ch.done.Epoch != "" {
			out[name] = ch.done
		}
	}
	for name, f := range c.byName {
		if f.wild && f.done.Epoch != "" {
			out[name] = f.done
		}
	}
	return out
}

// Stats are the client's counters.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// fire runs the callbacks that are due. The run loop's only.
func (c *Client) fire() {
	for {
		c.mu.Lock()
		due := c.events
		c.events = nil
		c.mu.Unlock()
		if len(due) == 0 {
			return
		}
		for _, e := range due {
			c.mu.Lock()
			closing := c.closing
			c.mu.Unlock()
			if closing {
				return
			}
			e.call()
			if e.chain == nil && e.wild == nil {
				continue
			}
			c.mu.Lock()
			if e.chain != nil {
				e.chain.done = e.at
			}
			if e.wild != nil {
				e.wild.done = e.at
			}
			c.mu.Unlock()
		}
	}
}

// report makes an error due. Within mu.
func (c *Client) report(err *Error) {
	if c.opts.OnError != nil {
		c.events = append(c.events, event{call: func() { c.opts.OnError(err) }})
	}
}

// announce makes a change of state due. Within mu.
func (c *Client) announce(s State) {
	if c.opts.OnState != nil {
		c.events = append(c.events, event{call: func() { c.opts.OnState(s) }})
	}
}

// gap makes a gap due; ch is what it is about, nil for a wildcard. Within mu.
func (c *Client) gap(f *follow, ch *chain, g Gap) {
	c.stats.Gaps++
	on := f.sub.opts.OnGap
	if on == nil {
		on = c.opts.OnGap
	}
	e := event{call: func() { on(g) }}
	if ch != nil {
		e.chain, e.at = ch, ch.position()
	} else {
		e.wild, e.at = f, f.pos
	}
	c.events = append(c.events, e)
}
