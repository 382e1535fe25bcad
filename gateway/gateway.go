package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/ants/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/odin-ws/odin/bufpool"
	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/secure"
	"github.com/odin-ws/odin/gateway/sysfeed"
	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/netpoll"
)

// Gateway serves WebSocket clients from a broker. Make one with New, Start it
// once, and Shutdown it.
type Gateway struct {
	// Static after New.
	cfg         Config
	log         *slog.Logger
	broker      broker.Broker
	hub         *channel.Hub
	history     *history
	leader      leader
	listing     singleflight.Group // of channels, by prefix
	clock       func() int64       // ms, monotonic
	byHand      bool               // in tests: shards are turned by hand, and no timer wakes them
	pool        *bufpool.Pool
	backlog     backlog
	gate        *capacity.Gate
	room        *capacity.WaitingRoom
	peers       *capacity.IPLimiter // asked where Live bounds addresses
	node        string
	maxHeads    int // unfinished handshakes a shard
	shards      []*shard
	workers     *ants.Pool
	publishing  *semaphore.Weighted // bytes of publish requests under way
	heldBack    atomic.Int64        // publish requests that wait for the store
	publishRate *rate.Limiter       // of messages
	reading     *semaphore.Weighted // history requests under way
	plain       *plainServer
	handshakes  *handshakes         // of TLS; nil: plain
	undeflated  chan struct{}       // the hub has something to compress
	inflaters   chan *wire.Inflater // the workers', one for each shard
	echoing     sync.Mutex          // the one compressor of /echo
	echoer      wire.Deflater

	// Static after Start.
	listener *netpoll.Listener
	adminLn  net.Listener
	feed     *sysfeed.Feed // of _sys.stats
	admin    *http.Server
	started  time.Time

	// Any goroutine.
	live     atomic.Pointer[Live]             // shards have their own pointer to it
	acceptor atomic.Pointer[netpoll.Acceptor] // nil until it accepts, when others run already
	count    counters
	secured  secure.Counters
	sampler  sampler
	recent   recent // refusals
	draining atomic.Bool
	pressure atomic.Uint32                   // a capacity.State
	unfit    atomic.Pointer[string]          // why nobody fits under the memory limit as it is now; nil: some do
	memory   atomic.Pointer[capacity.Sample] // the last reading, nil when it isn't watched
	more     atomic.Int64                    // subscriptions beyond those included in a connection
	down     chan struct{}                   // closed when the hub's ticker is to end
	tickers  sync.WaitGroup
	done     chan struct{} // closed when a loop died
	fatal    atomic.Pointer[error]
	ended    sync.Once // Shutdown
	stopped  sync.Once // stop

	reloading sync.Mutex // Reload, and what follows a memory limit that changes
}

// New checks the configuration and makes a Gateway. Nothing runs or listens yet.
func New(cfg Config) (*Gateway, error) { return newGateway(cfg, netpoll.New) }

// newGateway is New over any kind of loop.
func newGateway(cfg Config, newLoop func(netpoll.Config) (netpoll.Loop, error)) (*Gateway, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Shards == 0 {
		cfg.Shards = runtime.GOMAXPROCS(0)
	}
	live := cfg.Live
	live.fit(cfg.Echo)
	cfg.Live = Live{} // what is read from there would not follow a Reload
	g := &Gateway{
		cfg: cfg, log: cfg.Log, broker: cfg.Broker, node: cfg.Node,
		pool:       bufpool.New(live.BufferBudget),
		gate:       capacity.NewGate(live.MaxConnections),
		maxHeads:   max(1, cfg.MaxHandshakes/cfg.Shards),
		publishing: semaphore.NewWeighted(cfg.PublishBudget),
		reading:    semaphore.NewWeighted(historyAtOnce),
		down:       make(chan struct{}),
		done:       make(chan struct{}),
		undeflated: make(chan struct{}, 1),
		inflaters:  make(chan *wire.Inflater, cfg.Shards),
	}
	g.live.Store(&live)
	g.count.ConfigLoadedAt.Store(time.Now().UnixMilli())
	for range cfg.Shards {
		g.inflaters <- new(wire.Inflater)
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.node == "" {
		g.node = "n" + strconv.FormatUint(rand.Uint64(), 36)
	}
	g.backlog.limit.Store(live.Backlog)
	past := live.pastBudget()
	g.history = newHistory(g, past)
	g.publishRate = rate.NewLimiter(live.publishLimit())
	g.leader.broker = cfg.Broker
	begun := time.Now()
	g.clock = func() int64 { return time.Since(begun).Milliseconds() }
	g.hub = channel.New(channel.Config{
		Shards:      cfg.Shards,
		Keep:        live.keep(),
		Grace:       cfg.grace,
		Budget:      live.LogBudget - past,
		MaxChannels: cfg.MaxChannels,
		MaxPayload:  cfg.MaxPublish,
		Silence:     live.silence,
		Deflate:     g.wakeDeflater,
		DeflateLate: cfg.deflateLate,
		Wake:        func(shard int) { g.shards[shard].loop.Wake() },
	})
	peers, err := capacity.NewIPLimiter(live.ipConfig())
	if err != nil {
		return nil, err
	}
	g.peers = peers
	// Who waits holds a socket like any unfinished handshake.
	g.room = capacity.NewWaitingRoom(g.gate, cfg.MaxHandshakes, cfg.AdmissionWait)
	workers, err := ants.NewPool(poolFactor*runtime.NumCPU(),
		ants.WithNonblocking(true),
		ants.WithLogger(antsLog{g.log}),
		ants.WithPanicHandler(func(p any) {
			g.count.PoolPanics.Add(1)
			g.sampledAt(slog.LevelError, "worker panic", "a worker panicked; only its connection is closed", "panic", p)
		}))
	if err != nil {
		return nil, fmt.Errorf("gateway: worker pool: %w", err)
	}
	g.workers = workers
	g.plain = newPlainServer(g)
	g.feed = g.newFeed()
	if cfg.TLS != nil {
		g.handshakes = newHandshakes(g, cfg.TLS)
	}
	for i := range cfg.Shards {
		loop, err := newLoop(netpoll.Config{Tick: tick, OnFatal: g.die})
		if err != nil {
			g.release()
			return nil, err
		}
		g.shards = append(g.shards, newShard(g, i, loop))
	}
	return g, nil
}

// poolFactor is how many workers there are for each core: they mostly wait for
// the broker.
const poolFactor = 8

// antsLog keeps the pool's messages in the gateway's log.
type antsLog struct{ log *slog.Logger }

func (l antsLog) Printf(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }

// Start listens, starts the loops and the broker, and returns. The broker may
// still be unreachable then: /readyz says so, and it is tried until it answers.
func (g *Gateway) Start() (err error) {
	g.started = time.Now()
	defer func() {
		if err != nil {
			g.stop()
		}
	}()
	for _, s := range g.shards {
		// The loop's goroutine inherits the label: profiles tell the shards apart.
		pprof.Do(context.Background(), pprof.Labels("shard", strconv.Itoa(s.id)), func(context.Context) { err = s.loop.Start(s) })
		if err != nil {
			return err
		}
	}
	if g.adminLn, err = net.Listen("tcp", g.cfg.AdminAddr); err != nil {
		return fmt.Errorf("admin address: %w; choose another with --admin-addr", err)
	}
	g.listener, err = netpoll.Listen(g.cfg.Addr, netpoll.SocketOptions{
		SndBuf: g.cfg.SndBuf, RcvBuf: g.cfg.RcvBuf,
		UserTimeout: userTimeout(g.cfg.Ping), KeepAlive: 2 * g.cfg.Ping,
	})
	if err != nil {
		return fmt.Errorf("public address: %w; choose another with --addr", err)
	}
	if err := g.broker.Start(g.hub); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	g.plain.start()
	g.startAdmin()
	g.tickers.Add(1)
	go g.tickHub()
	if g.cfg.Compression {
		g.tickers.Add(1)
		go g.deflate()
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.tickers.Add(1)
	go g.watchMemory(ctx)
	go func() {
		<-g.down
		cancel()
	}()
	cfg := netpoll.AcceptorConfig{
		Accepted: g.place,
		Refusal: func(dst []byte) []byte {
			g.recent.note(http.StatusServiceUnavailable, "no descriptor left", nil)
			return refuseFull.AppendResponse(dst, retryAfter())
		},
		OnFatal: g.die,
	}
	if g.handshakes != nil {
		cfg.Accepted, cfg.Refusal = g.handshakes.take, nil // there is no descriptor to shake hands on
		g.tickers.Add(1)
		go g.watchCertificates()
	}
	acceptor, err := netpoll.NewAcceptor(g.listener, cfg)
	if err == nil {
		g.acceptor.Store(acceptor)
	}
	return err
}

// Addr is the public address listened on.
func (g *Gateway) Addr() string { return g.listener.Addr().String() }

// AdminAddr is the admin address listened on.
func (g *Gateway) AdminAddr() string { return g.adminLn.Addr().String() }

// Done is closed when an event loop can't go on; Err then says why. The process
// should end: its connections are deaf.
func (g *Gateway) Done() <-chan struct{} { return g.done }

// Err is why Done was closed, nil before.
func (g *Gateway) Err() error {
	if p := g.fatal.Load(); p != nil {
		return *p
	}
	return nil
}

func (g *Gateway) die(err error) {
	err = fmt.Errorf("event loop: %w", err)
	if g.fatal.CompareAndSwap(nil, &err) {
		close(g.done)
	}
}

// place gives new descriptors to the shard with the fewest connections.
func (g *Gateway) place(fds []int) {
	if len(g.shards) == 1 {
		g.handTo(g.shards[0], fds)
		return
	}
	var load [channel.MaxShards]int64
	var batch [channel.MaxShards][]int
	for i, s := range g.shards {
		load[i] = s.conns.Load()
	}
	for _, fd := range fds {
		least := 0
		for i := range g.shards {
			if load[i] < load[least] {
				least = i
			}
		}
		load[least]++
		batch[least] = append(batch[least], fd)
	}
	for i, s := range g.shards {
		if len(batch[i]) > 0 {
			g.handTo(s, batch[i])
		}
	}
}

func (g *Gateway) handTo(s *shard, fds []int) {
	if !s.hand(fds) {
		for _, fd := range fds {
			s.loop.Close(fd)
		}
	}
}

// submit runs f in the worker pool, or says at once that it is full.
func (g *Gateway) submit(f func()) error { return g.workers.Submit(f) }

// tickHub trims the logs of quiet channels, once a second, and tells of log lines left
// out.
func (g *Gateway) tickHub() {
	defer g.tickers.Done()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			g.hub.Tick()
			g.tellSampled(now)
		case <-g.down:
			return
		}
	}
}

// userTimeout is how long the kernel waits for the acknowledgement of what was
// sent. After --heartbeat of silence something is, so with the defaults a peer
// that vanished is gone within 30 s, though nothing was published for it.
func userTimeout(ping time.Duration) time.Duration { return 2 * ping / 3 }

// Shutdown says goodbye to every client over cfg.Drain, less if ctx ends
// sooner, then stops everything. It returns ctx's error when clients had to be
// cut. Idempotent.
func (g *Gateway) Shutdown(ctx context.Context) error {
	var err error
	g.ended.Do(func() {
		err = g.drain(ctx)
		g.stop()
	})
	return err
}

// drain stops admitting and tells the connections to go, evenly over the time
// there is.
func (g *Gateway) drain(ctx context.Context) error {
	g.draining.Store(true)
	var wg sync.WaitGroup
	begin := time.Now()
	for _, s := range g.shards {
		s.draining.Store(true)
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				left := g.live.Load().Drain - goodbyeTime - stopTime - time.Since(begin)
				told := make(chan int, 1)
				if !s.post(func(s *shard) { told <- s.drainSlice(left) }) {
					return
				}
				select {
				case n := <-told:
					if n == 0 {
						return
					}
				case <-ctx.Done():
					return
				}
				select {
				case <-time.After(tick):
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	wg.Wait()
	// Those told last get the time a goodbye takes.
	for end := time.Now().Add(goodbyeTime); time.Now().Before(end) && g.gate.InUse() > 0 && ctx.Err() == nil; {
		time.Sleep(tick / 2)
	}
	return ctx.Err()
}

// goodbyeTime is how long the last of a drain have to take their goodbyes. It is
// a part of the time to drain in.
const goodbyeTime = (closeWait + 3) * tick

// stopTime is how long the rest of a shutdown may take, the broker's files most of
// all. It too is a part of the time to drain in.
const stopTime = time.Second

// drainSlice tells as many connections to go as this tick's share, and returns
// how many are left to tell. left is the time there still is.
func (s *shard) drainSlice(left time.Duration) int {
	waiting := 0
	for i := range s.slots.size() {
		if c := s.slots.at(i); c.state == stateOpen && c.flags&flagDrained == 0 {
			waiting++
		}
	}
	share := waiting
	if n := int(left / tick); n > 1 {
		share = (waiting + n - 1) / n
	}
	for i := uint32(0); i < s.slots.size() && share > 0; i++ {
		if c := s.slots.at(i); c.state == stateOpen && c.flags&flagDrained == 0 {
			share--
			waiting--
			s.bye(connRef{i, c.gen}, c, drainRetry())
		}
	}
	return waiting
}

// drainRetry is when a client that is told to go should come back, ms. The drain
// has spread them already; this is so that those of one slice don't come
// together, and the last are back soon after this node's end.
func drainRetry() int { return 500 + rand.IntN(3000) }

// stop ends everything now.
func (g *Gateway) stop() { g.stopped.Do(g.stopNow) }

func (g *Gateway) stopNow() {
	g.draining.Store(true)
	if a := g.acceptor.Load(); a != nil {
		a.Close()
	}
	if g.handshakes != nil {
		g.handshakes.stop()
	}
	g.plain.stop()
	g.stopAdmin()
	if g.listener != nil {
		g.listener.Close()
		close(g.down)
		g.tickers.Wait()
	}
	if err := g.broker.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		g.log.Warn("closing the broker", "err", err)
	}
	g.release()
}

// release ends the loops and frees what is left of their connections.
func (g *Gateway) release() {
	// First those who wake the loops, then the loops.
	if err := g.workers.ReleaseTimeout(5 * time.Second); err != nil {
		g.log.Warn("ending the worker pool", "err", err)
	}
	for _, s := range g.shards {
		s.box.mu.Lock()
		s.box.closed = true
		fds := s.box.fds
		for _, f := range s.box.secured {
			fds = append(fds, f.fd)
		}
		s.box.fds, s.box.secured = nil, nil
		s.box.mu.Unlock()
		s.loop.Stop()
		for _, fd := range fds {
			s.loop.Close(fd)
		}
		s.closeAll()
	}
}

// closeAll resets what is left; the loop has ended, so it may run anywhere.
func (s *shard) closeAll() {
	if s.timer != nil {
		s.timer.Stop()
	}
	for i := range s.slots.size() {
		c := s.slots.at(i)
		if c.state == stateFree {
			continue
		}
		s.loop.Abort(int(c.fd))
		if c.ext != nil {
			s.release(c.ext)
		}
		if c.flags&flagAdmitted != 0 {
			s.g.gate.Release() // nobody is let in any more
		}
		s.slots.give(i)
	}
	for _, e := range s.echoes {
		s.g.pool.Put(e.held)
	}
}
