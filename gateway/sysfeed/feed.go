package sysfeed

import (
	"crypto/rand"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

// Config is what a Feed needs. All fields are required but those that say otherwise.
// Functions may be called from any goroutine.
type Config struct {
	// Channel is the one name that may be subscribed.
	Channel string
	// Every is the time between messages.
	Every time.Duration
	// Most is how many connections there may be at once.
	Most int
	// Sample makes the next message, JSON. One call at a time, while somebody has
	// subscribed.
	Sample func() []byte
	// Idle is called when the last subscriber has left, before the next Sample; nil: not.
	Idle func()

	// Admit is asked before the upgrade: the key the request shows ("" for none), or
	// the answer to a request that may not be upgraded. nil: everybody is let in.
	Admit func(*http.Request) (key string, ref *wire.Refusal)
	// Allowed reports whether a key may read. It is asked of each command that
	// reads, and again with every message: a key may be taken back. nil: anybody may.
	Allowed func(key string) bool
	// Refused is told whose key was refused in-band; nil: nobody is.
	Refused func(addr string)

	// Node is how clients know this process.
	Node string
	// Ping and FrameTimeout are as on the public port; 0: not.
	Ping, FrameTimeout time.Duration
	// Heartbeat is after how much silence a client is sent one, asked after each
	// frame; 0: never.
	Heartbeat func() time.Duration
	// Rate is the token bucket for a new client's commands.
	Rate func() (burst, perSec int)
	// Pool lends the buffers of unfinished messages.
	Pool wire.Alloc
	// Retry is when a client told to go should come back, ms.
	Retry func() int
}

// Feed is the channel and its connections. Any goroutine may use it.
type Feed struct {
	// Static after New.
	cfg   Config
	epoch string

	// Any goroutine.
	count   counters
	ids     atomic.Uint64
	taken   atomic.Int64   // places of Most
	done    chan struct{}  // closed by Close
	running sync.WaitGroup // connections, and the ticker

	// Guarded by mu.
	mu      sync.Mutex
	closed  bool
	ticking bool
	conns   map[*conn]struct{}
	subs    map[*conn]struct{}
	seq     uint64 // of the newest message
	newest  []byte // its frame, shared by all connections; never changed. nil: there is none
	made    time.Time
}

type counters struct {
	conns, subs     atomic.Int64
	sent, cut, made atomic.Uint64
}

// Stats is what a Feed has done. Counts are since New.
type Stats struct {
	Connections int64  `json:"connections"` // now
	Subscribers int64  `json:"subscribers"` // now
	Samples     uint64 `json:"samples"`     // taken, each once for all subscribers
	Sent        uint64 `json:"sent"`        // messages written
	Cut         uint64 `json:"cut"`         // connections reset because they took nothing
}

// New makes a Feed. It runs nothing until somebody connects.
func New(cfg Config) *Feed {
	return &Feed{
		cfg: cfg, epoch: "p" + rand.Text()[:12], done: make(chan struct{}),
		conns: make(map[*conn]struct{}), subs: make(map[*conn]struct{}),
	}
}

// Stats reads the counters.
func (f *Feed) Stats() Stats {
	c := &f.count
	return Stats{
		Connections: c.conns.Load(), Subscribers: c.subs.Load(),
		Samples: c.made.Load(), Sent: c.sent.Load(), Cut: c.cut.Load(),
	}
}

// closeTime is how long Close waits for goodbyes before it resets.
const closeTime = 1500 * time.Millisecond

// Close says goodbye to all (bye, then 1012), and returns when their goroutines have
// ended. Those who come later are refused. Idempotent.
func (f *Feed) Close() {
	f.mu.Lock()
	if !f.closed {
		f.closed = true
		close(f.done)
		for c := range f.conns {
			c.bye()
		}
	}
	f.mu.Unlock()
	late := time.AfterFunc(closeTime, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for c := range f.conns {
			c.reset()
		}
	})
	f.running.Wait()
	late.Stop()
}

// enter takes a connection in; it reports false when the feed is closed.
func (f *Feed) enter(c *conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.conns[c] = struct{}{}
	f.count.conns.Add(1)
	f.running.Add(1)
	return true
}

func (f *Feed) leave(c *conn) {
	f.mu.Lock()
	f.unsubscribe(c)
	delete(f.conns, c)
	f.mu.Unlock()
	f.count.conns.Add(-1)
	f.running.Done()
}

// unsubscribe takes a connection out. Under mu.
func (f *Feed) unsubscribe(c *conn) {
	if _, on := f.subs[c]; on {
		delete(f.subs, c)
		f.count.subs.Add(-1)
	}
}

// tick makes messages until nobody wants them.
func (f *Feed) tick() {
	t := time.NewTicker(f.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-f.done:
			return
		}
		if !f.turn() {
			return
		}
	}
}

func (f *Feed) turn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.subs) == 0 {
		f.ticking = false
		f.newest = nil
		if f.cfg.Idle != nil {
			f.cfg.Idle()
		}
		return false
	}
	f.next()
	return true
}

// next makes a message and gives it to all subscribers. Under mu, which only the
// connections of this feed wait for.
func (f *Feed) next() {
	f.seq++
	f.count.made.Add(1)
	f.made = time.Now()
	f.newest = wire.AppendMsg(nil, f.cfg.Channel, f.seq, f.seq-1, f.made.UnixMilli(), f.cfg.Sample())
	for c := range f.subs {
		if !f.allowed(c.key) {
			f.unsubscribe(c)
			c.fail(closeToken, "the API key was taken back")
			continue
		}
		c.message(f.newest)
	}
}

func (f *Feed) allowed(key string) bool { return f.cfg.Allowed == nil || f.cfg.Allowed(key) }

// heartbeat is how long a silence may be.
func (f *Feed) heartbeat() time.Duration {
	if d := f.cfg.Heartbeat(); d > 0 {
		return d
	}
	return time.Hour
}
