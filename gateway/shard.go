package gateway

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/secure"
	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/internal/histogram"
	"github.com/odin-ws/odin/netpoll"
)

const (
	// tick is the unit of every timer of a shard: the sweep for slow clients.
	tick = 100 * time.Millisecond
	// sweepTicks is in how many ticks every slot is looked at once.
	sweepTicks = 10
	// readSize is the shard's read buffer, bytes; nobody else has one.
	readSize = 64 << 10
	// readRounds is how often one connection is read in a turn before the
	// others have theirs.
	readRounds = 4
	// flushTurn is how many connections are written in a turn before the loop
	// looks at its events again.
	flushTurn = 256
	// flushNodes bounds the pending (connection, channel) pairs of a round.
	flushNodes = 16 << 10

	noNode = -1
)

// shard is one event loop and all that belongs to its connections. Everything
// but the mailbox and the atomics is owned by the loop's goroutine, which is
// where Ready, Mail and Tick are called.
type shard struct {
	// Static after newShard.
	g    *Gateway
	id   int
	loop netpoll.Loop
	tls  *secure.Loop // loop, where the port speaks TLS; else nil

	flushTurn, flushNodes int // the constants, but in tests

	// Owned by the loop: the settings in force, and what follows from them.
	live         *Live
	limits       wire.Limits
	echoLimits   wire.Limits
	recheckUntil uint32 // tick up to which the sweep looks whether who is connected may still read what it does

	// Owned by the loop.
	now        uint32 // ticks since the start, from 1 on
	slots      slab
	chans      []*shardChan                    // by id; nil where free
	chanOf     map[*channel.Channel]*shardChan // the first of its variants
	freeChans  []uint32
	wild       map[string][]wildMember // by prefix
	peerOf     map[uint32]netip.Addr   // by slot: whom it counts for, where addresses are bounded
	sessions   map[uint32]auth.Session // by slot: whose it is, where it has shown a token
	checks     checker                 // tokens to be verified
	lookups    map[string][]lookup     // by channel: under way at the pool
	retries    []retry                 // reads of the past to be repeated
	tries      map[uint32]uint8        // by slot: how often one has failed
	fresh      *fetched                // a read that has just landed, while its waiters are served
	gated      gatedHeap               // variants with something new whose time has not come
	timer      *time.Timer             // for the first of them
	run        []connRef               // to be read again without an event
	charged    fifo                    // holding a part of the backlog budget, charged longest ago first
	held       fifo                    // held back for want of it, first come first
	lagging    []lagged                // blocked: looked at by every slow sweep
	leaving    []connRef               // in stateClosing; may name the gone
	refused    fifo                    // of those, the ones never admitted, oldest first
	refusedNow int                     // how many of them there are
	handshakes fifo                    // accepted and not upgraded, oldest first; may name the gone
	heads      int                     // connections in stateHead
	verifying  int                     // of those, the ones whose tokens are being verified
	sweepAt    uint32                  // the slot the sweep goes on from

	// Owned by the loop: a flush under way.
	queue    []*shardChan // channels with something new, not all of whose members are in touched
	touched  []connRef    // connections with pending channels, from next on
	nextConn int
	nodes    []node
	turn     uint64 // counts turns, to know a cached span's age
	gathers  uint64 // counts gathers, to take each channel once

	// Owned by the loop: scratch.
	rbuf    []byte
	wbuf    []byte
	parser  wire.Parser
	command wire.Command
	gaps    []byte
	segs    []segment
	envs    []byte // the begun envelopes of segs
	iov     [][]byte
	dirty   []*channel.Channel
	zips    []*channel.Channel
	added   []*channel.Channel
	mail    mailItems

	// Owned by the loop: compression.
	deflater    wire.Deflater
	inflater    wire.Inflater
	packs       int          // bytes that may still be compressed in this turn
	packers     []*shardChan // those with something packed, or detached with it
	packedBytes int          // what is packed
	echoes      []echoed     // that found the pool full

	// Owned by the loop: how long things take.
	delivery delivery

	// Any goroutine.
	loopLag  *histogram.Histogram // of ticks; the loop counts
	box      mailbox
	conns    atomic.Int64 // connections held, for placement
	headsNow atomic.Int64 // published copy of heads
	beat     atomic.Int64 // Unix ns of the last tick, for /healthz
	draining atomic.Bool
}

// shardChan is one channel's side on one shard, for those who follow it in one
// way: its members have the variant in common.
type shardChan struct {
	channel.Members
	variant
	ch     *channel.Channel
	id     uint32
	next   *shardChan // another variant of the channel
	queued bool       // in shard.queue
	again  bool       // marked while being walked: walk once more

	span channel.Span // the last one read, valid for one turn
	turn uint64

	packed *packed // with latest and deflated: what was compressed last; nil: nothing

	gathered uint64 // the last gather that took it

	due     int64 // with every: when it may be queued again, ms of Gateway.clock
	waiting bool  // in shard.gated, until then
	gone    bool  // detached
}

// wildMember is one connection's wildcard subscription.
type wildMember struct {
	connRef
	variant
}

// wildSub is the same as its connection knows it.
type wildSub struct {
	prefix string
	variant
}

// lagged is a connection whose socket filled, and how far behind it was at the
// last sweep.
type lagged struct {
	connRef
	lag uint32 // at the last look
	at  uint32 // tick of the last look

	// What the peer had acknowledged at tick ackedAt, low half of the count; 0:
	// not asked yet.
	acked, ackedAt uint32
}

// node says that a connection has something pending on a channel.
type node struct {
	chanID uint32
	next   int32
}

// mailItems is what other goroutines have for a shard.
type mailItems struct {
	fds     []int          // accepted descriptors
	secured []securedFD    // and those that have shaken hands
	replies []func(*shard) // results of the pool and orders of the Gateway
}

type mailbox struct {
	mu     sync.Mutex
	closed bool
	mailItems
}

func newShard(g *Gateway, id int, loop netpoll.Loop) *shard {
	var secured *secure.Loop
	if g.cfg.TLS != nil {
		secured = secure.New(loop, secure.Config{Pool: g.pool, Tick: tick, Timeout: g.cfg.FrameTimeout, Counters: &g.secured})
		loop = secured
	}
	s := &shard{
		g: g, id: id, loop: loop, tls: secured,
		flushTurn: flushTurn, flushNodes: flushNodes,
		now:     1,
		chanOf:  make(map[*channel.Channel]*shardChan),
		wild:    make(map[string][]wildMember),
		lookups: make(map[string][]lookup),
		peerOf:  make(map[uint32]netip.Addr),
		tries:   make(map[uint32]uint8),

		delivery: delivery{now: func() int64 { return time.Now().UnixNano() }, hist: new(histogram.Histogram)},
		loopLag:  new(histogram.Histogram),

		sessions: make(map[uint32]auth.Session),
		rbuf:     make([]byte, readSize),
		wbuf:     make([]byte, 0, 4096),
	}
	s.obey(g.live.Load())
	s.beat.Store(time.Now().UnixNano())
	return s
}

// post runs f on the shard's goroutine, soon; from any goroutine. It reports
// false when the shard has ended and f will not run.
func (s *shard) post(f func(*shard)) bool {
	s.box.mu.Lock()
	if s.box.closed {
		s.box.mu.Unlock()
		return false
	}
	s.box.replies = append(s.box.replies, f)
	s.box.mu.Unlock()
	s.loop.Wake()
	return true
}

// hand gives accepted descriptors to the shard; from the acceptor's goroutine.
func (s *shard) hand(fds []int) bool {
	s.box.mu.Lock()
	if s.box.closed {
		s.box.mu.Unlock()
		return false
	}
	s.box.fds = append(s.box.fds, fds...)
	s.box.mu.Unlock()
	s.conns.Add(int64(len(fds)))
	s.loop.Wake()
	return true
}

// Mail implements netpoll.Handler.
func (s *shard) Mail() {
	s.box.mu.Lock()
	s.mail, s.box.mailItems = s.box.mailItems, s.mail
	s.box.mu.Unlock()
	for _, fd := range s.mail.fds {
		s.accept(fd)
	}
	for i, f := range s.mail.secured {
		s.mail.secured[i] = securedFD{}
		s.tls.Attach(f.fd, f.conn)
		s.accept(f.fd)
	}
	for i, f := range s.mail.replies {
		s.mail.replies[i] = nil
		f(s)
	}
	s.mail.fds, s.mail.secured, s.mail.replies = s.mail.fds[:0], s.mail.secured[:0], s.mail.replies[:0]

	s.dirty, s.added = s.g.hub.Take(s.id, s.dirty[:0], s.added[:0])
	s.tellMissed() // first: what is new may begin behind it
	for _, ch := range s.added {
		s.matchWild(ch)
		s.g.hub.Matched(s.id, ch)
	}
	for _, ch := range s.dirty {
		s.enqueue(ch, false)
	}
	if s.g.cfg.Compression {
		s.zips = s.g.hub.TakeDeflated(s.id, s.zips[:0])
		for _, ch := range s.zips {
			s.enqueue(ch, true)
		}
		clear(s.zips)
	}
	clear(s.dirty)
	clear(s.added)
	s.openGates()
	s.flush()
	s.runReaders()
	if s.held.len() > 0 {
		s.freeHeld()
	}
	if s.pending() {
		s.loop.Wake()
	}
}

// pending reports whether there is work that no event will announce.
func (s *shard) pending() bool {
	return len(s.queue) > 0 || s.nextConn < len(s.touched) || len(s.run) > 0
}

// Ready implements netpoll.Handler.
func (s *shard) Ready(token uint64, ev netpoll.Event) {
	r := refOf(token)
	c := s.slots.get(r)
	if c == nil {
		return // closed earlier in this batch
	}
	if ev&netpoll.Closed != 0 {
		c.flags |= flagHangup
	}
	if ev&netpoll.Out != 0 && c.flags&(flagBlocked|flagHeld) == flagBlocked {
		s.writable(r, c)
		if c = s.slots.get(r); c == nil {
			return
		}
	}
	if ev&(netpoll.In|netpoll.Closed) != 0 {
		c.flags |= flagReadable
		s.readable(r, c)
	}
	if s.pending() {
		s.loop.Wake()
	}
}

// again puts a connection on the run list, to be read in a later turn.
func (s *shard) again(r connRef, c *slot) {
	if c.flags&flagRunning == 0 {
		c.flags |= flagRunning
		s.run = append(s.run, r)
	}
}

// runReaders reads those on the run list, each at most once.
func (s *shard) runReaders() {
	n := len(s.run)
	for i := range n {
		r := s.run[i]
		if c := s.slots.get(r); c != nil {
			c.flags &^= flagRunning
			s.readable(r, c)
		}
	}
	s.run = append(s.run[:0], s.run[n:]...)
}

// accept begins a connection on a descriptor.
func (s *shard) accept(fd int) {
	i := s.slots.take()
	c := s.slots.at(i)
	r := connRef{i, c.gen}
	c.fd = int32(fd)
	c.state = stateHead
	c.pend = noNode
	c.opened, c.readAt, c.wroteAt, c.refillAt = s.now, s.now, s.now, s.now
	c.tokens = uint32(s.live.RateBurst) * tokenUnit
	s.heads++
	s.headsNow.Store(int64(s.heads))
	if err := s.loop.Add(fd, r.token()); err != nil {
		s.g.count.AddFailed.Add(1)
		s.g.sampled("poll", "epoll refused a connection", "err", err)
		s.loop.Close(fd)
		s.forget(r, c)
		return
	}
	s.trimHandshakes()
	s.handshakes.push(r)
	// Those being verified have done their part, and are bounded by themselves.
	for s.heads-s.verifying > s.g.maxHeads && s.dropOldestHead() {
	}
}

// close ends a connection now. abort sends a reset and frees what the kernel
// still holds for it; otherwise what was written is still delivered.
func (s *shard) close(r connRef, c *slot, abort bool) {
	s.loop.Del(int(c.fd))
	if abort {
		s.loop.Abort(int(c.fd))
	} else {
		s.loop.Close(int(c.fd))
	}
	s.forget(r, c)
}

// closeFreed ends a connection whose peer has ended its side. What the peer has
// not acknowledged by now it may never: closed plainly, the kernel would keep it
// long after the budget has forgotten it.
func (s *shard) closeFreed(r connRef, c *slot) {
	abort := false
	if c.charge > 0 {
		n, err := s.loop.Queued(int(c.fd))
		abort = err == nil && n > 0
	}
	s.close(r, c, abort)
}

// forget frees all that belongs to a connection but its descriptor.
func (s *shard) forget(r connRef, c *slot) {
	s.leaveAll(r, c)
	s.unlink(c)
	if c.ext != nil {
		s.release(c.ext)
		c.ext = nil
	}
	s.leaveHeads(c)
	if c.flags&flagAdmitted != 0 {
		s.g.leaveGate()
	} else if c.state == stateClosing {
		s.refusedNow--
	}
	if c.flags&flagDeflate != 0 {
		s.g.count.Compressing.Add(-1)
	}
	s.uncharge(c)
	s.forgetPeer(r)
	s.forgetSession(r)
	delete(s.tries, r.index)
	s.slots.give(r.index)
	s.conns.Add(-1)
}

// extOf returns the connection's ext, making one.
func (s *shard) extOf(c *slot) *ext {
	if c.ext == nil {
		c.ext = new(ext)
	}
	return c.ext
}

// settle drops the ext when nothing needs it.
func (s *shard) settle(c *slot) {
	if c.ext != nil && c.ext.idle() {
		c.ext = nil
	}
}

// release gives an ext's buffers back.
func (s *shard) release(e *ext) {
	e.parser.Release(s.g.pool)
	s.g.pool.Put(e.in)
	s.g.pool.Put(e.out)
	e.pin.Drop()
	*e = ext{}
}

// fifo is a queue of connections.
type fifo struct {
	refs []connRef
	at   int
}

func (f *fifo) push(r connRef) {
	if f.at > 64 && f.at > len(f.refs)/2 {
		n := copy(f.refs, f.refs[f.at:])
		f.refs, f.at = f.refs[:n], 0
	}
	f.refs = append(f.refs, r)
}

func (f *fifo) peek() (connRef, bool) {
	if f.at == len(f.refs) {
		return connRef{}, false
	}
	return f.refs[f.at], true
}

func (f *fifo) pop() { f.at++ }

func (f *fifo) len() int { return len(f.refs) - f.at }
