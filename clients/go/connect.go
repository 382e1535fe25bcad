package odin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// readLimit is the largest frame taken from a server; the ack of a thousand
// channels has some 100 KiB.
const readLimit = 16 << 20

// link is one connection.
type link struct {
	// Static.
	ws     *websocket.Conn
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	wake   chan struct{} // the tender has something to do
	opened time.Time

	heard   atomic.Int64 // when the last frame or ping came, Unix ns
	reading atomic.Bool  // the run loop waits for a frame: silence counts

	// Guarded by Client.mu.
	hello    frame
	outbox   []*command // to be sent, in order
	waiting  []*command // sent and not answered, in order
	answered time.Time  // when the last answer came, or a part of one
	unsubs   []string   // names to be unsubscribed
	tokens   float64    // commands that may be sent
	refill   time.Time
	paused   time.Time // nothing is sent before
	tick     time.Time // of the next checkpoint
	renew    time.Time // of the token; zero: never
	bye      *time.Duration
	bad      *Error // why this side gave it up
	again    bool   // and wants to be back at once
}

func (l *link) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// nudge wakes the tender. Within mu.
func (c *Client) nudge() {
	if c.link != nil {
		c.link.nudge()
	}
}

// fail gives the connection up for a reason of this side's. Within mu.
func (c *Client) fail(why *Error) {
	if l := c.link; l != nil && l.bad == nil {
		l.bad = why
		l.cancel()
	}
}

// end is how an attempt or a connection ended.
type end struct {
	fate  fate
	moves bool          // the next node is tried
	asked time.Duration // the server's word for when to return
	err   *Error
	good  bool // it lasted
}

// run connects, reads, and comes back, until the client ends. It is the one
// goroutine that calls callbacks.
func (c *Client) run() {
	defer close(c.done)
	defer c.cancel()
	wait := backoff{min: c.opts.MinBackoff, max: c.opts.MaxBackoff}
	notBefore := make([]time.Time, len(c.urls))
	at, strangers := 0, 0
	for {
		e := c.attempt(c.urls[at])
		if e.good {
			wait.failures, strangers = 0, 0
		}
		if e.fate == reauth {
			// Another token may do; the same one won't.
			if strangers++; strangers > 3 || c.opts.Token == nil {
				e.fate = stop
			}
		}
		c.mu.Lock()
		if c.closing {
			c.err = ErrClosed
			c.mu.Unlock()
			return
		}
		e.err.Fatal = e.fate == stop
		c.err = e.err
		c.report(e.err)
		if e.fate == stop {
			c.announce(State{URL: c.urls[at], Err: e.err})
			c.mu.Unlock()
			c.fire()
			return
		}
		now := time.Now()
		if e.moves {
			notBefore[at] = now.Add(e.asked)
			at = (at + 1) % len(c.urls)
			if e.fate != drained {
				e.asked = max(0, time.Until(notBefore[at]))
			}
		}
		d := wait.next(e.fate, e.asked)
		c.announce(State{URL: c.urls[at], RetryIn: d, Err: e.err})
		c.mu.Unlock()
		c.fire()
		if !c.sleep(d) {
			return
		}
	}
}

// sleep waits, and reports false when the client was closed meanwhile.
func (c *Client) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
	if c.ctx.Err() == nil {
		return true
	}
	c.mu.Lock()
	c.err = ErrClosed
	c.mu.Unlock()
	return false
}

// attempt connects to a node and serves the connection to its end.
func (c *Client) attempt(url string) (e end) {
	l, e := c.connect(url)
	if l == nil {
		return e
	}
	defer l.cancel()
	err := c.serve(l, url)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	c.forget()
	return l.ended(err, c.clock.stable)
}

// ended puts the end of a connection into words.
func (l *link) ended(err error, stable time.Duration) (e end) {
	e.good = time.Since(l.opened) >= stable
	code := int(websocket.CloseStatus(err))
	switch {
	case l.bad != nil:
		e.fate, e.moves = lost, true
		switch {
		case l.again:
			e.fate, e.moves = atOnce, false
		case refusesToken(l.bad.Status):
			e.fate, e.moves = reauth, false
		}
		e.err = l.bad
	case code > 0:
		e.fate, e.moves = closeFate(code), movesOn(code)
		var closed websocket.CloseError
		errors.As(err, &closed)
		e.err = &Error{Code: "closed", Status: code, Message: closed.Reason}
	default:
		e.fate, e.moves = lost, true
		e.err = &Error{Code: "network", Err: err}
	}
	if l.bye != nil && e.fate != stop {
		e.fate, e.moves, e.asked = drained, true, *l.bye
	}
	return e
}

// connect makes a connection up to its hello.
func (c *Client) connect(url string) (*link, end) {
	ctx, cancel := context.WithTimeout(c.ctx, c.clock.handshake)
	defer cancel()
	header := c.opts.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	var renew time.Time
	if c.opts.Token != nil {
		token, err := c.opts.Token(ctx)
		if err != nil {
			return nil, end{fate: lost, err: &Error{Code: "token", Err: err}}
		}
		c.mu.Lock()
		var refusedBefore *Error
		same := token.Value == c.token.Value && errors.As(c.err, &refusedBefore) && refusesToken(refusedBefore.Status)
		c.token = token
		c.mu.Unlock()
		if same {
			again := *refusedBefore
			return nil, end{fate: stop, err: &again}
		}
		header.Set("Authorization", "Bearer "+token.Value)
		renew = renewal(token, time.Now())
	}
	l := &link{wake: make(chan struct{}, 1), opened: time.Now(), renew: renew}
	opts := &websocket.DialOptions{
		Subprotocols: []string{"odin.v1.json"},
		HTTPClient:   c.opts.HTTPClient,
		HTTPHeader:   header,
		OnPingReceived: func(context.Context, []byte) bool {
			l.heard.Store(time.Now().UnixNano())
			return true
		},
	}
	ws, res, err := websocket.Dial(ctx, url, opts) //nolint:bodyclose // its documentation: never needed
	if err != nil {
		return nil, c.refusal(res, err)
	}
	ws.SetReadLimit(readLimit)
	l.ws = ws
	l.ctx, l.cancel = context.WithCancel(c.ctx)
	_, b, err := ws.Read(ctx)
	if err == nil {
		var f *frame
		if f, err = parseFrame(b); err == nil && f.T != "hello" {
			err = fmt.Errorf("the first frame is %q and not hello", f.T)
		}
		if err == nil && f.V != 1 {
			l.cancel()
			_ = ws.CloseNow()
			return nil, end{fate: stop, err: &Error{Code: "bad_frame", Message: fmt.Sprintf("the server speaks version %d of the protocol, this client 1", f.V)}}
		}
		if err == nil {
			l.hello = *f
			return l, end{}
		}
		if websocket.CloseStatus(err) < 0 && ctx.Err() == nil {
			l.bad = &Error{Code: "bad_frame", Err: err}
		}
	}
	l.cancel()
	_ = ws.CloseNow()
	return nil, l.ended(err, time.Hour)
}

// refusesToken reports whether a status or close code means a bad token.
func refusesToken(status int) bool { return status == 401 || status == 4001 }

// refusal puts a failed handshake into words.
func (c *Client) refusal(res *http.Response, err error) end {
	if res == nil || res.StatusCode == http.StatusSwitchingProtocols {
		return end{fate: lost, moves: true, err: &Error{Code: "network", Err: err}}
	}
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
	var body struct {
		Message      string `json:"message"`
		RetryAfterMS int64  `json:"retry_after_ms"`
	}
	_ = json.Unmarshal(b, &body) // whatever else answers may not speak JSON
	asked := time.Duration(body.RetryAfterMS) * time.Millisecond
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && asked <= 0 {
		asked = time.Duration(s) * time.Second
	}
	c.mu.Lock()
	greeted := c.greeted
	c.mu.Unlock()
	return end{
		fate: statusFate(res.StatusCode, greeted), moves: res.StatusCode != 401,
		asked: min(max(0, asked), time.Hour),
		err:   &Error{Code: "refused", Status: res.StatusCode, Message: body.Message},
	}
}

// serve reads a connection to its end.
func (c *Client) serve(l *link, url string) error {
	now := time.Now()
	c.mu.Lock()
	c.link = l
	l.tokens, l.refill = l.burst(), now
	l.tick = now.Add(c.checkpointIn())
	c.stats.Connects++
	if !c.greeted {
		c.greeted = true
		close(c.greeting)
	}
	c.announce(State{Connected: true, URL: url, Node: l.hello.Node, Conn: l.hello.Conn})
	c.mu.Unlock()
	l.heard.Store(now.UnixNano())
	c.fire()

	tended := make(chan struct{})
	go func() {
		defer close(tended)
		c.tend(l)
	}()
	defer func() {
		l.cancel()
		<-tended
		_ = l.ws.CloseNow()
	}()
	for {
		l.heard.Store(time.Now().UnixNano())
		l.reading.Store(true)
		typ, b, err := l.ws.Read(l.ctx)
		l.reading.Store(false)
		if err != nil {
			return err
		}
		l.heard.Store(time.Now().UnixNano())
		var f *frame
		if typ != websocket.MessageText {
			err = errors.New("a binary message")
		} else {
			f, err = parseFrame(b)
		}
		c.mu.Lock()
		if err != nil {
			// What it was is unknown, so what follows can't be trusted: the
			// positions can.
			c.fail(&Error{Code: "bad_frame", Err: err})
		} else {
			c.take(l, f)
		}
		c.mu.Unlock()
		c.fire()
		if l.ctx.Err() != nil {
			return l.ctx.Err()
		}
	}
}

// forget undoes what held for the connection only. Within mu.
func (c *Client) forget() {
	for name, f := range c.byName {
		if f.brief {
			delete(c.byName, name)
			continue
		}
		f.state, f.tries, f.retryAt, f.since = wanted, 0, time.Time{}, time.Time{}
		f.listed, f.next = Position{}, ""
	}
	for _, ch := range c.chains {
		ch.hole = nil
		ch.next = ""
	}
}
