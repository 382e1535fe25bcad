// Package brokertest has the suite every broker passes, and Fake, a broker in
// memory that passes it too.
//
// A new broker proves itself with one line in its own tests:
//
//	brokertest.Run(t, func(t *testing.T) brokertest.Harness { … })
//
// The gateway's tests use Fake: it numbers, deduplicates, stores and delivers
// as a real broker does, in one process and without I/O, and can be told to
// fail in each way the Broker interface names.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

const (
	fakeMaxPayload = 1 << 20         // bytes a publication may have
	fakeDedup      = 2 * time.Minute // how long a key is remembered
)

// Fake is a broker.Broker in memory. Everything stored stays until Evict or
// NewEpoch: a test's own log bounds it. Its goroutine waits on a sync.Cond, so
// it can live in a testing/synctest bubble.
type Fake struct {
	mu   sync.Mutex
	wake sync.Cond // state below changed; the delivery goroutine looks again

	// Guarded by mu.
	sink     broker.Sink
	started  bool
	closed   bool
	down     error // why it is down; nil: up
	life     int   // the epoch's number
	log      []broker.Message
	first    uint64 // sequence of log[0], or of the next message when log is empty
	lost     map[uint64]bool
	skip     map[uint64]bool // live copies dropped
	keys     map[string]fakeKey
	hold     bool // nothing is delivered
	busy     bool // publishes fail with ErrBusy
	dropNext int
	loseNext int
	failWith error
	failN    int
	raw      []broker.Message
	counters broker.Counters

	// Guarded by mu; what the Sink has been told.
	opened    bool
	owesLive  bool // Open was said and Live is still to be
	toldDown  bool
	openLife  int
	delivered uint64

	done chan struct{} // closed when the delivery goroutine has ended
}

type fakeKey struct {
	seq uint64
	at  time.Time
}

var _ broker.Broker = (*Fake)(nil)

// NewFake returns a Fake that is up, with epoch "e1" and an empty stream.
func NewFake() *Fake {
	f := &Fake{life: 1, first: 1, done: make(chan struct{})}
	f.wake.L = &f.mu
	f.reset()
	return f
}

func (f *Fake) reset() {
	f.log, f.first = nil, 1
	f.lost, f.skip = map[uint64]bool{}, map[uint64]bool{}
	f.keys = map[string]fakeKey{}
}

func (f *Fake) epoch(life int) string { return fmt.Sprintf("e%d", life) }

// last is the newest stored sequence, 0 for none. Called with mu held.
func (f *Fake) last() uint64 { return f.first + uint64(len(f.log)) - 1 }

// Start implements broker.Broker. The Sink hears Open from another goroutine,
// or Down when SetDown came first.
func (f *Fake) Start(sink broker.Sink) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.started {
		return errors.New("fake broker: Start called twice or after Close")
	}
	f.started, f.sink = true, sink
	f.delivered = f.last()
	f.openLife = f.life
	go f.run()
	return nil
}

// Publish implements broker.Broker.
func (f *Fake) Publish(ctx context.Context, p broker.Publication) (broker.Ack, error) {
	r := f.PublishBatch(ctx, []broker.Publication{p})[0]
	return r.Ack, r.Err
}

// PublishBatch implements broker.Broker.
func (f *Fake) PublishBatch(ctx context.Context, ps []broker.Publication) []broker.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	rs := make([]broker.Result, len(ps))
	for i := range ps {
		if err := ctx.Err(); err != nil {
			rs[i].Err = fmt.Errorf("publish to %s: %w", ps[i].Channel, err)
			continue
		}
		rs[i].Ack, rs[i].Err = f.publish(ps[i])
	}
	f.wake.Broadcast()
	return rs
}

func (f *Fake) publish(p broker.Publication) (broker.Ack, error) {
	if err := f.usable(); err != nil {
		return broker.Ack{}, err
	}
	if f.busy {
		return broker.Ack{}, fmt.Errorf("%w: memory is short", broker.ErrBusy)
	}
	if len(p.Data) > fakeMaxPayload {
		return broker.Ack{}, fmt.Errorf("%w: %d bytes, at most %d", broker.ErrTooLarge, len(p.Data), fakeMaxPayload)
	}
	if f.failN > 0 {
		f.failN--
		return broker.Ack{}, f.failWith
	}
	ack := broker.Ack{Epoch: f.epoch(f.life)}
	if p.Key != "" {
		id := p.Channel + ":" + p.Key
		if k, ok := f.keys[id]; ok && time.Since(k.at) < fakeDedup {
			ack.Seq, ack.Duplicate = k.seq, true
			return ack, nil
		}
		f.keys[id] = fakeKey{seq: f.last() + 1, at: time.Now()}
	}
	ack.Seq = f.store(p.Channel, p.Data)
	return ack, nil
}

func (f *Fake) usable() error {
	switch {
	case f.closed:
		return fmt.Errorf("%w: closed", broker.ErrDown)
	case !f.started:
		return fmt.Errorf("%w: not started", broker.ErrDown)
	case f.down != nil:
		return fmt.Errorf("%w: %w", broker.ErrDown, f.down)
	}
	return nil
}

// store appends one message and returns its sequence. Called with mu held.
func (f *Fake) store(channel string, data []byte) uint64 {
	now := time.Now()
	m := broker.Message{
		Channel: channel,
		Seq:     f.last() + 1,
		Time:    now.UnixMilli(),
		Nanos:   now.UnixNano() % 1e6,
		Data:    slices.Clone(data),
	}
	for i := len(f.log) - 1; i >= 0; i-- {
		if f.log[i].Channel == channel && !f.lost[f.log[i].Seq] {
			m.Prev = f.log[i].Seq
			break
		}
	}
	f.log = append(f.log, m)
	switch {
	case f.loseNext > 0:
		f.loseNext--
		f.lost[m.Seq] = true
	case f.dropNext > 0:
		f.dropNext--
		f.skip[m.Seq] = true
	}
	return m.Seq
}

// Throttle implements broker.Broker: while memory is short it takes nothing.
func (f *Fake) Throttle(short bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy = short
}

// State implements broker.Broker.
func (f *Fake) State() broker.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := broker.State{Head: f.delivered, Connected: f.opened && f.usable() == nil, Err: f.usable(), Throttled: f.busy}
	if f.opened || f.delivered > 0 {
		s.Epoch = f.epoch(f.openLife)
	}
	return s
}

// Counters implements broker.Broker.
func (f *Fake) Counters() broker.Counters {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counters
}

// Close implements broker.Broker.
func (f *Fake) Close() error {
	f.mu.Lock()
	started := f.started
	f.closed = true
	f.wake.Broadcast()
	f.mu.Unlock()
	if started {
		<-f.done
	}
	return nil
}
