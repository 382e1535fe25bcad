//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	odin "github.com/odin-ws/odin/clients/go"

	"github.com/odin-ws/odin/internal/ledger"
)

// fleet is many resuming clients in this process, each with a page of the book.
type fleet struct {
	r       *run
	members []*member
	before  usage

	mu      sync.Mutex
	errors  map[string]int // of the clients, by code; guarded by mu
	samples []string       // of those that may not be; guarded by mu
	delays  []int64        // ns, from making to callback, of who is measured; guarded by mu
	measure atomic.Bool
	lost    string      // who lost its connection last, and why; guarded by mu
	back    []time.Time // when a client was connected again; guarded by mu
	asked   []time.Time // when one that lost its connection was to try again; guarded by mu
}

// member is one client.
type member struct {
	f        *fleet
	i        int
	channels []string
	page     *ledger.Client
	c        *odin.Client
	up       atomic.Bool
	stale    atomic.Int32 // channels that are
	blocked  atomic.Bool  // its callback does not return
	pause    atomic.Int64 // ns its callback takes
	slow     atomic.Bool  // its socket is read a byte a second
	conn     atomic.Pointer[net.TCPConn]
	url      atomic.Pointer[string]
}

// fleetOptions say what clients do.
type fleetOptions struct {
	n          int
	urls       func(i int) []string
	channels   func(i int) []string
	from       map[string]position
	wrap       bool // hold on to the sockets, to reset or to slow them
	rcvbuf     int  // SO_RCVBUF; 0: the kernel's choice. For wrap.
	local      string
	slow       func(i int) bool // may be conflated
	backoff    time.Duration
	maxBackoff time.Duration
	header     func(i int) http.Header
}

// rotate returns the nodes' URLs, beginning with another one for each client.
func rotate(nodes ...*node) func(i int) []string {
	return func(i int) []string {
		var urls []string
		for k := range nodes {
			urls = append(urls, nodes[(i+k)%len(nodes)].url())
		}
		return urls
	}
}

// some gives each client n of the channels.
func some(channels []string, n int) func(i int) []string {
	return func(i int) []string {
		var out []string
		for k := range n {
			out = append(out, channels[(i*n+k)%len(channels)])
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
}

// someWild is some, but every fifth client follows all of them by a wildcard.
func someWild(channels []string, n int) func(i int) []string {
	few := some(channels, n)
	return func(i int) []string {
		if i%5 == 4 {
			return []string{"fault.*"}
		}
		return few(i)
	}
}

// fleet connects clients and has them follow their channels. Nothing may be
// published meanwhile but what from names.
func (r *run) fleet(o fleetOptions) *fleet {
	f := &fleet{r: r, errors: map[string]int{}, before: use(r.nodes...)}
	r.row.before = f.before
	r.row.clients += o.n
	f.members = make([]*member, o.n)
	errs := make(chan error, o.n)
	gate := make(chan struct{}, 32)
	for i := range o.n {
		gate <- struct{}{}
		go func() {
			defer func() { <-gate }()
			m := &member{f: f, i: i, channels: o.channels(i), page: r.book.Client(fmt.Sprintf("client %d", i))}
			f.members[i] = m
			errs <- m.dial(o)
		}()
	}
	r.atEnd(f.close)
	for range o.n {
		if err := <-errs; err != nil {
			r.must(fmt.Errorf("a client: %w", err))
		}
	}
	return f
}

func (m *member) dial(o fleetOptions) error {
	f, urls := m.f, o.urls(m.i)
	opts := odin.Options{
		Fallback: urls[1:], MinBackoff: o.backoff, MaxBackoff: o.maxBackoff,
		OnGap: func(g odin.Gap) { m.page.Gap(g.Channel, g.After, g.Before, g.Why, g.Epoch) },
		OnError: func(e *odin.Error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			code := e.Code
			if e.Status != 0 {
				code += " " + strconv.Itoa(e.Status)
			}
			f.errors[code]++
			if e.Code == "network" {
				f.lost = fmt.Sprintf("client %d at %s: %v", m.i, time.Now().Format("15:04:05.000"), e)
			}
			switch e.Code {
			case "unexplained", "chain", "bad_frame", "bad_position", "overlap":
				if len(f.samples) < 10 {
					f.samples = append(f.samples, fmt.Sprintf("client %d: %v", m.i, e))
				}
			}
		},
		OnState: func(s odin.State) {
			if m.up.Swap(s.Connected) != s.Connected && s.Connected {
				f.mu.Lock()
				f.back = append(f.back, time.Now())
				f.mu.Unlock()
			}
			if !s.Connected && s.RetryIn > 0 {
				f.mu.Lock()
				f.asked = append(f.asked, time.Now().Add(s.RetryIn))
				f.mu.Unlock()
			}
			if s.Connected {
				m.stale.Store(0)
				m.url.Store(&s.URL)
			}
		},
	}
	if o.header != nil {
		opts.Header = o.header(m.i)
	}
	if o.wrap {
		opts.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			if o.local != "" {
				d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(o.local)}
			}
			if o.rcvbuf > 0 {
				// Before the handshake, which is when the window is agreed on.
				d.Control = func(_, _ string, raw syscall.RawConn) error {
					return raw.Control(func(fd uintptr) {
						_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, o.rcvbuf)
					})
				}
			}
			c, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			t := c.(*net.TCPConn)
			m.conn.Store(t)
			return &slowConn{t, m}, nil
		}}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c, err := odin.Dial(ctx, urls[0], opts)
	if err != nil {
		return err
	}
	m.c = c
	since := odin.Positions{}
	for _, ch := range m.channels {
		at := o.from[ch]
		since[ch] = odin.Position(at)
		m.page.Start(ch, at.Epoch, at.Seq)
	}
	stale := map[string]bool{} // owned by the callbacks
	_, err = c.Subscribe(ctx, odin.SubscribeOptions{
		Channels: m.channels, Since: since,
		SlowLatest: o.slow != nil && o.slow(m.i),
		OnMessage: func(msg odin.Message) {
			m.page.Message(msg.Channel, msg.Seq, msg.Prev, msg.Skip, ledger.Sum(msg.Data))
			if f.measure.Load() && !m.slow.Load() {
				m.delay(msg.Data)
			}
			if d := m.pause.Load(); d > 0 {
				time.Sleep(time.Duration(d))
			}
			for m.blocked.Load() {
				time.Sleep(10 * time.Millisecond)
			}
		},
		OnStale: func(ch string, is bool) {
			stale[ch] = is
			n := 0
			for _, is := range stale {
				if is {
					n++
				}
			}
			m.stale.Store(int32(n))
		},
	})
	return err
}

func (m *member) delay(data []byte) {
	at, ok := strings.CutPrefix(string(data), `{"at":`)
	if !ok {
		return
	}
	at, _, _ = strings.Cut(at, ",")
	ns, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return
	}
	m.f.mu.Lock()
	m.f.delays = append(m.f.delays, time.Now().UnixNano()-ns)
	m.f.mu.Unlock()
}

// slowConn is a client's socket that may be read a byte a second.
type slowConn struct {
	*net.TCPConn
	m *member
}

func (c *slowConn) Read(p []byte) (int, error) {
	for i := 0; c.m.slow.Load(); i++ {
		if i >= 5 {
			return c.TCPConn.Read(p[:1])
		}
		time.Sleep(200 * time.Millisecond)
	}
	return c.TCPConn.Read(p)
}

// reset ends the connection with a RST, as a crashed client's machine would.
func (m *member) reset() {
	if c := m.conn.Load(); c != nil {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// count is how many members something is true of.
func (f *fleet) count(is func(m *member) bool) int {
	n := 0
	for _, m := range f.members {
		if is(m) {
			n++
		}
	}
	return n
}

func (f *fleet) all(is func(m *member) bool) bool {
	return !slices.ContainsFunc(f.members, func(m *member) bool { return !is(m) })
}

// recovers waits until every member is connected and was given something that
// was published after a moment, or is newer, and returns how long after since
// that was.
func (f *fleet) recovers(p *publisher, after, since time.Time, limit time.Duration) time.Duration {
	next := p.next(after)
	var seq uint64
	d := f.r.within(since, limit, "everybody given what was published after the fault", func() bool {
		if seq == 0 {
			select {
			case seq = <-next:
			default:
				return false
			}
		}
		return f.all(func(m *member) bool { return m.up.Load() && m.page.Last() >= seq })
	})
	f.r.recovered(d)
	return d
}

// settle waits for the last message to arrive and checks the book.
func (f *fleet) settle(patience time.Duration) ledger.Report {
	received := func() (n uint64) {
		for _, m := range f.members {
			n += m.page.Received()
		}
		return n
	}
	last, since := received(), time.Now()
	for {
		rep := f.r.book.Check()
		if rep.OK() {
			return rep
		}
		if n := received(); n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > patience {
			return rep
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// finish stops the publishers, waits for the last message, checks the book, hangs
// up, and looks whether the nodes gave everything back.
func (f *fleet) finish(ps ...*publisher) ledger.Report {
	r := f.r
	for _, p := range ps {
		p.stop(30 * time.Second)
		r.row.acked += p.acked.Load()
		r.row.refused += p.refused.Load()
		if n := p.unsure.Load(); n > 0 {
			r.note("%d publishes without an answer to the end", n)
		}
		if len(p.said()) > 0 {
			r.say("publishers were told: %v", p.said())
		}
	}
	rep := f.settle(15 * time.Second)
	r.row.acked = rep.Acked
	r.row.delivered, r.row.gaps, r.row.told = rep.Received, rep.Gaps, rep.Told
	if rep.Conflated > 0 {
		r.note("%d conflated", rep.Conflated)
	}
	if !rep.OK() {
		r.fault("the book: %s; %v", rep.String(), rep.Faults[:min(3, len(rep.Faults))])
		for _, x := range rep.Faults[:min(20, len(rep.Faults))] {
			r.say("%v", x)
		}
	}
	if rep.Received == 0 || rep.Acked == 0 {
		r.fault("nothing was published, or nothing received: nothing was shown")
	}
	f.mu.Lock()
	errs := fmt.Sprint(f.errors)
	for _, s := range f.samples {
		r.fault("%s", s)
	}
	f.mu.Unlock()
	r.say("clients' errors: %s", errs)
	// The clients drop what they had before: the book does not see it.
	var twice uint64
	for _, m := range f.members {
		if m != nil && m.c != nil {
			twice += m.c.Stats().Duplicates
		}
	}
	if twice > 0 {
		r.note("%d messages were sent twice", twice)
	}
	f.close()
	f.givenBack()
	return rep
}

func (f *fleet) close() {
	for _, m := range f.members {
		if m != nil && m.c != nil {
			m.blocked.Store(false)
			m.slow.Store(false)
			m.c.Close()
		}
	}
	for _, m := range f.members {
		if m != nil && m.c != nil {
			select {
			case <-m.c.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}
}

// Slack for what a node keeps open for a moment: an idle connection to the admin
// port, a request for /stats.
const (
	slackFDs        = 12
	slackGoroutines = 30
)

// givenBack compares what the nodes take with what they took before the clients
// came, if they are still the same processes.
func (f *fleet) givenBack() {
	r := f.r
	publishing.CloseIdleConnections()
	var after usage
	since := time.Now()
	for {
		after = use(r.nodes...)
		if after.nodes < f.before.nodes || after.pids != f.before.pids || time.Since(since) > 10*time.Second ||
			after.fds <= f.before.fds+slackFDs*after.nodes/2 && after.goroutines <= f.before.goroutines+slackGoroutines {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.row.after = after
	if after.nodes != f.before.nodes {
		return // compared by eye
	}
	if after.fds > f.before.fds+slackFDs*after.nodes {
		r.fault("%d descriptors, %d before", after.fds, f.before.fds)
	}
	if after.goroutines > f.before.goroutines+slackGoroutines*after.nodes {
		r.fault("%d goroutines, %d before", after.goroutines, f.before.goroutines)
	}
}
