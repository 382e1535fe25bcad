package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

// errWindow means that no publish under way was acked for AckTimeout.
var errWindow = errors.New("too many publishes under way")

// publishRoom is what a publish takes in the store's queue beside its data, name
// and key, at most, bytes: prefixes, the reply subject, a header's frame.
const publishRoom = 256

// publish stores ps in order, pipelined, and waits for the acks.
func (c *client) publish(ctx context.Context, ps []broker.Publication) []broker.Result {
	call := &call{results: make([]broker.Result, len(ps)), done: make(chan struct{})}
	timer := time.NewTimer(c.cfg.AckTimeout)
	defer timer.Stop()
	var stuck error
	for i := range ps {
		err := stuck
		if err == nil {
			err = c.send(ctx, call, i, &ps[i])
		}
		if err != nil {
			call.results[i].Err = fmt.Errorf("publish to %s: %w", ps[i].Channel, err)
		}
		if errors.Is(err, errWindow) {
			stuck = err // the rest would wait as long, each
		}
	}
	c.acks.seal(call)
	timer.Reset(c.cfg.AckTimeout)
	select {
	case <-call.done:
	case <-timer.C:
		c.abandon(call, fmt.Errorf("%w within %v", broker.ErrUncertain, c.cfg.AckTimeout))
	case <-ctx.Done():
		c.abandon(call, fmt.Errorf("%w: %w", broker.ErrUncertain, ctx.Err()))
	}
	if call.recheck {
		c.nameLife(ctx, call.results)
	}
	return call.results
}

// abandon ends the call's waiting: what is still under way gets err.
func (c *client) abandon(call *call, err error) {
	c.acks.fail(func(s *ackSlot) bool { return s.call == call }, err)
	<-call.done
}

// send publishes one item. An error means that nothing was sent; otherwise the
// result comes through call.
func (c *client) send(ctx context.Context, call *call, i int, p *broker.Publication) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not sent: %w", err)
	}
	if len(p.Data) > c.cfg.MaxPayload {
		return fmt.Errorf("%w: %d bytes, at most %d", broker.ErrTooLarge, len(p.Data), c.cfg.MaxPayload)
	}
	if err := c.refusal(); err != nil {
		return err
	}
	nc, err := c.usable()
	if err != nil {
		return err
	}
	size := min(int64(len(p.Data)+len(p.Channel)+len(p.Key))+publishRoom, c.acks.most)
	slot, err := c.slot(ctx, size)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: inPrefix + p.Channel, Data: p.Data}
	if p.Key != "" {
		m.Header = nats.Header{nats.MsgIdHdr: {p.Channel + ":" + p.Key}}
	}
	m.Reply = c.acks.use(slot, call, i, size, c.head.Load())
	if err := nc.PublishMsg(m); err != nil {
		c.acks.drop(slot, call, i, fmt.Errorf("publish to %s: %w", p.Channel, unsent(err)))
	}
	return nil
}

// slot waits for a free slot and for size bytes of the window. The oldest
// publish under way frees its slot within AckTimeout at the latest, so a wait
// that long means that the broker takes nothing.
func (c *client) slot(ctx context.Context, size int64) (uint32, error) {
	a := &c.acks
	if !a.bytes.TryAcquire(size) {
		wait, cancel := context.WithTimeout(ctx, c.cfg.AckTimeout)
		defer cancel()
		if err := a.bytes.Acquire(wait, size); err != nil {
			return 0, fmt.Errorf("%w: %w: %w", broker.ErrDown, errWindow, err)
		}
	}
	select {
	case slot := <-a.free:
		return slot, nil
	default:
	}
	timer := time.NewTimer(c.cfg.AckTimeout)
	defer timer.Stop()
	var err error
	select {
	case slot := <-a.free:
		return slot, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = context.DeadlineExceeded
	}
	a.bytes.Release(size)
	return 0, fmt.Errorf("%w: %w: %w", broker.ErrDown, errWindow, err)
}

// nameLife asks which life of the stream acked the results that have no epoch
// yet. If nobody answers they stay stored but unnamed: ErrUncertain.
func (c *client) nameLife(ctx context.Context, rs []broker.Result) {
	in, _, err := c.streamInfo(ctx)
	if err == nil {
		c.setEpoch(in.epoch, 0)
		c.acks.mu.Lock()
		c.acks.stale = false
		c.acks.mu.Unlock()
	}
	for i := range rs {
		if r := &rs[i]; r.Err == nil && r.Ack.Epoch == "" {
			if err != nil {
				r.Err = fmt.Errorf("%w: stored, but the stream was made anew and doesn't answer: %w", broker.ErrUncertain, err)
				continue
			}
			r.Ack.Epoch = in.epoch
			c.raiseHead(r.Ack.Seq)
		}
	}
}

// openAcks subscribes nc to the acks of what is published on it.
func (c *client) openAcks(nc *nats.Conn) error {
	sub, err := nc.Subscribe(c.acks.prefix+"*", c.onAck)
	if err != nil {
		return err
	}
	// Never more than one a slot and what is late: no limit of its own.
	return sub.SetPendingLimits(-1, -1)
}

// lostConn settles what went out before a disconnect.
func (c *client) lostConn(err error) {
	c.gets.fail(fmt.Errorf("%w: the connection broke: %w", broker.ErrDown, err))
	c.acks.fail(func(*ackSlot) bool { return true },
		fmt.Errorf("%w: the connection broke: %w", broker.ErrUncertain, err))
}
