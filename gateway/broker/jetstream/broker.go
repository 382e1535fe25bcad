package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/odin-ws/odin/gateway/broker"
)

// Broker is a broker.Broker over NATS JetStream. Make one with New.
type Broker struct {
	client // the connection for requests and publishes

	// Static after Start.
	sink   broker.Sink
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	made   time.Time
	done   chan struct{} // closed when the delivery goroutine has ended

	// links tells of both connections' ups and downs.
	links links

	mu      sync.Mutex
	started bool // guarded by mu
	closed  bool // guarded by mu

	// Owned by the delivery goroutine.
	sub *nats.Conn // the connection for deliveries

	throttle throttle

	state    atomic.Pointer[broker.State] // all but Head and Throttled
	position atomic.Uint64                // State.Head
	counters struct {
		delivered, refetched, lost, duplicates, overflows, reconnects atomic.Uint64
	}
}

var _ broker.Broker = (*Broker)(nil)

// New checks cfg and returns a Broker. Nothing runs before Start.
func New(cfg Config) (*Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	b := &Broker{made: time.Now(), done: make(chan struct{})}
	b.cfg = cfg
	q := cfg.queues()
	b.acks.init(q.unacked)
	b.gets.init(q.reads)
	b.throttle.self, b.throttle.pace.share = nuid.Next(), q.stored
	if cfg.StoreCache > 0 {
		b.throttle.pace.most = max(cfg.StoreCache, q.stored)
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.links.changed = make(chan struct{}, 1)
	b.setState(broker.State{Err: errors.New("not started")})
	return b, nil
}

// Start implements broker.Broker. An embedded server is started here and now:
// an error says what is wrong with its data directory or configuration, and
// the Broker is then of no further use. A server elsewhere is connected to in
// the background, for as long as it takes.
func (b *Broker) Start(sink broker.Sink) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.started || b.closed {
		return errors.New("jetstream: Start called twice or after Close")
	}
	if b.cfg.URL == "" {
		emb, err := startEmbedded(b.cfg)
		if err != nil {
			return fmt.Errorf("jetstream: %w", err)
		}
		b.emb = emb
	}
	b.started, b.sink = true, sink
	b.setState(broker.State{Err: errors.New("connecting")})
	go b.run()
	return nil
}

// Publish implements broker.Broker.
func (b *Broker) Publish(ctx context.Context, p broker.Publication) (broker.Ack, error) {
	r := b.PublishBatch(ctx, []broker.Publication{p})[0]
	return r.Ack, r.Err
}

// PublishBatch implements broker.Broker. At most 4096 messages, or a
// sixteenth of Config.Memory, are under way at a time over all callers; a batch
// beyond that waits its turn.
func (b *Broker) PublishBatch(ctx context.Context, ps []broker.Publication) []broker.Result {
	if b.throttle.on.Load() { // the server would say the same, later
		results := make([]broker.Result, len(ps))
		for i := range ps {
			results[i].Err = fmt.Errorf("publish to %s: %w: the store holds as much as memory has room for", ps[i].Channel, broker.ErrBusy)
		}
		return results
	}
	return b.publish(ctx, ps)
}

// Throttle implements broker.Broker.
func (b *Broker) Throttle(short bool) {
	if b.cfg.URL != "" {
		return
	}
	t := &b.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Since(b.made)
	// What isn't delivered yet isn't counted either: where the delivery is outrun there may
	// be any amount of it.
	on := t.pace.step(now, t.stored.Load(), short) || short && t.behind.Load()
	b.mu.Lock()
	emb := b.emb
	if b.closed {
		emb = nil
	}
	b.mu.Unlock()
	if emb == nil {
		return
	}
	if emb.clustered {
		// Who has no replica stores nothing, and who has one stores what the leader takes.
		if on = on && emb.replica(); on {
			b.sayHold()
		}
		on = on || t.others(now)
	}
	// This node's own are kept away as long as the server refuses them: a batch in which
	// the first are refused and the others taken has lost its order.
	if on {
		t.on.Store(true)
	}
	if err := emb.hold(on); err != nil && !t.told {
		t.told = true
		b.cfg.Log.Warn("publications over NATS can't be held back while memory is short", "err", err)
	}
	t.on.Store(on)
}

// setState publishes s and lets publishes and reads in or keeps them out.
func (b *Broker) setState(s broker.State) {
	b.state.Store(&s)
	if s.Err == nil {
		b.refuse.Store(nil)
		return
	}
	err := s.Err
	if !errors.Is(err, broker.ErrFull) {
		err = fmt.Errorf("%w: %w", broker.ErrDown, err)
	}
	b.refuse.Store(&err)
}

// State implements broker.Broker.
func (b *Broker) State() broker.State {
	s := *b.state.Load()
	s.Head = b.position.Load()
	s.Throttled = b.throttle.on.Load()
	return s
}

// Counters implements broker.Broker.
func (b *Broker) Counters() broker.Counters {
	c := &b.counters
	return broker.Counters{
		Delivered:  c.delivered.Load(),
		Refetched:  c.refetched.Load(),
		Lost:       c.lost.Load(),
		Duplicates: c.duplicates.Load(),
		Overflows:  c.overflows.Load(),
		Reconnects: c.reconnects.Load(),
	}
}

// ClientURL is where the embedded server takes clients, "" when it takes none or
// runs elsewhere.
func (b *Broker) ClientURL() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.emb == nil {
		return ""
	}
	if srv := b.emb.server(); srv != nil && srv.Addr() != nil && !b.emb.login().private {
		return srv.ClientURL()
	}
	return ""
}

// Close implements broker.Broker. Publishes under way fail with ErrUncertain.
func (b *Broker) Close() error {
	b.mu.Lock()
	started, closed := b.started, b.closed
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	if !started {
		return nil
	}
	<-b.done
	if closed {
		return nil
	}
	b.setState(broker.State{Err: errors.New("closed")})
	b.close()
	b.lostConn(errors.New("closed"))
	if b.emb != nil {
		return b.emb.close()
	}
	return nil
}

// links tells the delivery goroutine that a connection came or went.
type links struct {
	changed chan struct{} // one place: a hint to look

	mu     sync.Mutex
	cancel context.CancelCauseFunc // guarded by mu; ends the session under way
}

// begin returns a context that ends, with the cause, when a connection breaks.
func (l *links) begin(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	l.mu.Lock()
	l.cancel = cancel
	l.mu.Unlock()
	return ctx, cancel
}

func (l *links) down(err error) {
	l.mu.Lock()
	cancel := l.cancel
	l.mu.Unlock()
	if cancel != nil {
		cancel(fmt.Errorf("connection lost: %w", err))
	}
	l.up()
}

func (l *links) up() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// pause waits for d, a change of a connection, or the end; false at the end.
func (b *Broker) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.links.changed:
	case <-b.ctx.Done():
	}
	return b.ctx.Err() == nil
}
