package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

const (
	fetchBatch = 1000    // messages one batched direct get asks for; 1024 is the server's bound for multi_last
	fetchBytes = 4 << 20 // bytes it asks for; well under the server's max_pending
	lagRetry   = 50 * time.Millisecond
	lagGrace   = 5 * time.Second // a leader that lacks what was republished is given this long
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
	batch := make([]got, 0, n)
	next := from
	err := d.ask(ctx, getRequest{Seq: from, Batch: n, MaxBytes: fetchBytes}, func(m *nats.Msg) {
		msg, st, ok := stored(m)
		if ok && msg.Seq == next && next < before {
			batch = append(batch, got{msg, st.time})
			next++
		}
	})
	return batch, err
}

// ask sends one batched direct get and calls each for every answer but the
// last, which only ends the batch.
func (d *delivery) ask(ctx context.Context, req getRequest, each func(*nats.Msg)) error {
	nc, err := d.b.usable()
	if err != nil {
		return err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	d.request++
	reply := d.inbox + strconv.FormatUint(d.request, 36)
	if err := nc.PublishRequest(directGet, reply, body); err != nil {
		return err
	}
	timer := time.NewTimer(requestTimeout)
	defer timer.Stop()
	for {
		select {
		case m := <-d.fetched:
			if m.Subject != reply {
				continue // late answer to an earlier request
			}
			if isEnd(m) {
				return nil
			}
			each(m)
		case <-timer.C:
			return fmt.Errorf("%w: direct get: no answer within %v", broker.ErrDown, requestTimeout)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isEnd tells the end of a batch (204), a refusal (4xx) and no responders (503)
// from a stored message whose publisher wrote a Status header of its own.
func isEnd(m *nats.Msg) bool {
	return len(m.Data) == 0 && lastValue(m.Header, hdrStatus) != "" && lastValue(m.Header, hdrStream) == ""
}

// settle asks the stream's leader for the message after last. It returns the
// message, or none when that and more is gone, which the Sink has then heard.
func (d *delivery) settle(ctx context.Context, before uint64) ([]got, error) {
	deadline := time.Now().Add(lagGrace)
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
// without one keep 0. One request for the whole batch.
func (d *delivery) findPrevs(ctx context.Context, batch []got) error {
	if len(batch) == 0 || batch[0].msg.Seq == 1 {
		return nil
	}
	firsts := make(map[string]int)
	var unknown []string
	for i := range batch {
		ch := batch[i].msg.Channel
		if _, seen := firsts[ch]; seen || d.heads.get(ch) != 0 {
			continue
		}
		firsts[ch] = i
		unknown = append(unknown, inPrefix+ch)
	}
	if len(unknown) == 0 {
		return nil
	}
	req := getRequest{MultiLast: unknown, UpToSeq: batch[0].msg.Seq - 1, MaxBytes: 1 << 30}
	return d.ask(ctx, req, func(m *nats.Msg) {
		if msg, _, ok := stored(m); ok {
			if i, ok := firsts[msg.Channel]; ok && msg.Seq < batch[i].msg.Seq {
				batch[i].msg.Prev = msg.Seq
			}
		}
	})
}
