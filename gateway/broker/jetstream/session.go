package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

// downAfter is how long a first attempt may last before the Sink hears of it.
const downAfter = 1500 * time.Millisecond

// advisories tell of the stream's creation and deletion; they only make the
// audit come at once, so it does no harm if they are forbidden.
var advisories = []string{
	"$JS.EVENT.ADVISORY.STREAM.CREATED." + streamName,
	"$JS.EVENT.ADVISORY.STREAM.DELETED." + streamName,
}

// run is the delivery goroutine: the only one that calls the Sink.
//
// It goes round sessions. A session begins when both connections stand, the
// stream is there and its state is read, and lasts until a connection breaks.
func (b *Broker) run() {
	defer close(b.done)
	d := newDelivery(b)
	defer d.close()
	for b.ctx.Err() == nil {
		ctx, cancel := b.links.begin(b.ctx)
		in, err := d.establish(ctx)
		if err == nil {
			d.open(in)
			err = d.serve(ctx)
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		if b.ctx.Err() != nil {
			return
		}
		d.down(err)
		b.pause(50 * time.Millisecond)
	}
}

// down tells the Sink once for each outage.
func (d *delivery) down(err error) {
	d.owesLive = false
	if d.told && errors.Is(err, broker.ErrDown) {
		return // the same outage; the first cause says more
	}
	if s := d.b.State(); s.Err == nil || s.Err.Error() != err.Error() {
		d.b.cfg.Log.Warn("broker down", "err", err)
	}
	d.b.setState(broker.State{Epoch: d.epoch, Err: err})
	if !d.told {
		d.told = true
		d.b.sink.Down(err)
	}
}

// establish gets everything a session needs and reads the stream's state. It
// subscribes first, so that nothing falls between the state and the first live
// message.
func (d *delivery) establish(ctx context.Context) (info, error) {
	b := d.b
	if b.emb != nil && b.emb.server() == nil {
		if err := b.emb.repair(); err != nil {
			return info{}, err
		}
	}
	if err := d.connect(ctx); err != nil {
		return info{}, err
	}
	for _, nc := range []*nats.Conn{b.sub, b.nc.Load()} {
		if !nc.IsConnected() {
			err := nc.LastError()
			if err == nil {
				err = nats.ErrDisconnected
			}
			return info{}, fmt.Errorf("%w: %w", broker.ErrDown, err)
		}
	}
	flush, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := b.sub.FlushWithContext(flush); err != nil {
		return info{}, fmt.Errorf("subscribe to %s>: %w", outPrefix, err)
	}
	in, err := b.ensureStream(ctx)
	if err != nil {
		return info{}, err
	}
	return in, nil
}

// connect makes the two connections, once; from then on they come back by
// themselves. Attempts run beside, so that the Sink hears in time if they hang.
func (d *delivery) connect(ctx context.Context) error {
	b := d.b
	if b.nc.Load() != nil {
		return nil
	}
	type made struct {
		sub, nc *nats.Conn
		err     error
	}
	result := make(chan made, 1)
	go func() {
		var m made
		if m.sub, m.err = b.client.connect(b.ctx, "delivery", b.links.down, b.links.up); m.err == nil {
			m.nc, m.err = b.client.connect(b.ctx, "publish", func(err error) {
				b.lostConn(err)
				b.links.down(err)
			}, b.links.up)
		}
		result <- m
	}()
	timer := time.NewTimer(downAfter)
	defer timer.Stop()
	var m made
	select {
	case m = <-result:
	case <-timer.C:
		d.down(errors.New("no answer from NATS yet"))
		m = <-result
	}
	if m.err == nil {
		m.err = d.subscribe(m.sub)
	}
	if m.err == nil {
		m.err = d.openReplies(m.nc)
	}
	if m.err != nil {
		for _, nc := range []*nats.Conn{m.sub, m.nc} {
			if nc != nil {
				nc.Close()
			}
		}
		// The library has no back-off before the first connection.
		d.failures++
		select {
		case <-ctx.Done():
		case <-time.After(backoff(d.failures + 2)):
		}
		return m.err
	}
	b.sub = m.sub
	b.nc.Store(m.nc)
	return nil
}

// subscribe brings the live feed and the advisories into one channel.
func (d *delivery) subscribe(nc *nats.Conn) error {
	nc.SetErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			d.b.counters.overflows.Add(1)
			select {
			case d.overflow <- struct{}{}:
			default:
			}
		}
	})
	take := func(m *nats.Msg) {
		select {
		case d.live <- m:
		case <-d.b.ctx.Done():
		}
	}
	q := d.b.cfg.queues()
	for _, subject := range append([]string{outPrefix + ">"}, advisories...) {
		sub, err := nc.Subscribe(subject, take)
		if err != nil {
			return err
		}
		if err := sub.SetPendingLimits(q.liveN, int(q.live)); err != nil {
			return err
		}
	}
	return nil
}

// openReplies subscribes the other connection to acks, fetched messages and what
// other nodes say of their memory.
func (d *delivery) openReplies(nc *nats.Conn) error {
	if err := d.b.openAcks(nc); err != nil {
		return err
	}
	if err := d.b.openHolds(nc); err != nil {
		return err
	}
	return d.b.openGets(nc)
}

// close ends the delivery connection.
func (d *delivery) close() {
	if d.b.sub != nil {
		d.b.sub.Close()
	}
}
