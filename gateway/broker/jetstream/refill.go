package jetstream

import (
	"context"
	"errors"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

const (
	fetchBatch = 1000    // messages one batched direct get asks for; with a witness less than the server's 1024 for multi_last
	fetchBytes = 4 << 20 // bytes it asks for at most, see queues
	lagRetry   = 50 * time.Millisecond
)

// got is one message read from the stream.
type got struct {
	msg   broker.Message
	nanos int64
}

// fill delivers what the stream has between last and before, and names the
// rest as lost. It returns errNewLife when the stream turned out to be another.
func (d *delivery) fill(ctx context.Context, before uint64) error {
	for d.last+1 < before {
		batch, err := d.fetch(ctx, d.last+1, before)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			// No replica gave it readably: the leader knows.
			one, err := d.settle(ctx, before)
			if err != nil {
				return err
			}
			batch = one
		}
		if err := d.findPrevs(ctx, batch); err != nil {
			return err
		}
		for i := range batch {
			if batch[i].msg.Prev == 0 {
				batch[i].msg.Prev = d.heads.get(batch[i].msg.Channel)
			}
			d.deliver(&batch[i].msg, batch[i].nanos)
			d.b.counters.refetched.Add(1)
		}
	}
	return nil
}

// fetch reads consecutive messages from sequence from on by batched direct get.
// It stops before the first that is missing or unreadable; none is not an error.
func (d *delivery) fetch(ctx context.Context, from, before uint64) ([]got, error) {
	n := int(min(before-from, fetchBatch))
	b, err := d.b.getBatch(ctx, getRequest{Seq: from, Batch: n, MaxBytes: d.b.cfg.queues().fetch})
	if err != nil {
		return nil, err
	}
	read := make([]got, 0, len(b.msgs))
	for next := from; len(read) < len(b.msgs) && next < before; next++ {
		msg, st, ok := stored(b.msgs[len(read)])
		if !ok || msg.Seq != next {
			break
		}
		read = append(read, got{msg, st.time})
	}
	return read, nil
}

// settle asks the stream's leader for the message after last. It returns the
// message, or none when that and more is gone, which the Sink has then heard.
func (d *delivery) settle(ctx context.Context, before uint64) ([]got, error) {
	deadline := time.Now().Add(d.b.cfg.lagGrace)
	for {
		if err := d.sameLife(ctx); err != nil {
			return nil, err
		}
		m, err := d.b.leaderGet(ctx, getRequest{Seq: d.last + 1, NextFor: inPrefix + ">"})
		switch {
		case err == nil && m.Seq == d.last+1:
			return []got{{msg: m, nanos: m.Time * 1e6}}, nil
		case err == nil:
			d.lose(min(m.Seq, before))
			return nil, nil
		case !errors.Is(err, broker.ErrNotFound):
			return nil, err
		}
		// The leader has nothing from here on. Either all of it is gone, or it
		// doesn't have it yet.
		in, _, err := d.b.streamInfo(ctx)
		if err != nil {
			return nil, err
		}
		if in.epoch == d.epoch && in.last >= before-1 || time.Now().After(deadline) {
			d.lose(before)
			return nil, nil
		}
		select {
		case <-time.After(lagRetry):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// findPrevs sets Prev of the first message of each channel in the batch whose
// predecessor isn't known: what the stream holds last before the batch. Those
// without one keep 0, and so do all if no replica shows that it isn't behind.
// Two requests for the whole batch.
func (d *delivery) findPrevs(ctx context.Context, batch []got) error {
	if len(batch) == 0 || batch[0].msg.Seq == 1 {
		return nil
	}
	firsts := make(map[string]int)
	var unknown []string
	for i := range batch {
		ch := batch[i].msg.Channel
		if _, seen := firsts[ch]; seen || d.heads.get(ch) != 0 || isWild(ch) {
			continue
		}
		firsts[ch] = i
		unknown = append(unknown, inPrefix+ch)
	}
	if len(unknown) == 0 {
		return nil
	}
	before := batch[0].msg.Seq - 1
	witness, err := d.b.leaderGet(ctx, getRequest{Seq: before})
	if errors.Is(err, broker.ErrNotFound) {
		return nil // it has aged out, and with it all before it
	}
	if err != nil {
		return err
	}
	last, err := d.b.provenLast(ctx, unknown, before, d.b.cfg.queues().fetch, witness)
	for ch, i := range firsts {
		batch[i].msg.Prev = last[inPrefix+ch]
	}
	return err
}
