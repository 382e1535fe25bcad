package jetstream

import (
	"context"
	"errors"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

const (
	fetchBatch = 1000    // messages one batched direct get asks for; with a witness less than the server's 1024 for multi_last
	fetchBytes = 4 << 20 // bytes asked for at most by all that are under way, see queues
	fetchExtra = 512     // bytes of subject and headers that an answer is reckoned with beside a message's data
	fetchDepth = 4       // how many are under way at most: one after the other, a node that was outrun reads more slowly than others publish, and is never done
	lagRetry   = 50 * time.Millisecond
)

// got is one message read from the stream.
type got struct {
	msg     broker.Message
	nanos   int64
	headers int // bytes of them
}

// fill delivers what the stream has between last and before, and names the
// rest as lost. It returns errNewLife when the stream turned out to be another.
func (d *delivery) fill(ctx context.Context, before uint64) error {
	if d.last+1 >= before {
		return nil
	}
	d.b.throttle.behind.Store(true)
	defer d.b.throttle.behind.Store(false)
	q := d.b.cfg.queues()
	f := fetcher{c: &d.b.client, each: fetchBatch, size: q.fetch / q.depth, depth: q.depth}
	defer f.drop()
	for d.last+1 < before {
		batch, err := f.fetch(ctx, d.last+1, before)
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
			d.deliver(&batch[i].msg, batch[i].nanos, batch[i].headers)
			d.b.counters.refetched.Add(1)
		}
	}
	return nil
}

// fetcher reads a stretch of the stream by batched direct gets, some of them
// asked for ahead.
type fetcher struct {
	c     *client
	each  int // messages one asks for
	size  int // bytes one asks for
	depth int // how many are under way

	asked []askedBatch // under way, in order, without a hole between them
}

// askedBatch is one direct get under way.
type askedBatch struct {
	*batch
	number uint64
	from   uint64
	n      int
}

// fetch reads consecutive messages from sequence from on. It stops before the
// first that is missing or unreadable; none is not an error.
func (f *fetcher) fetch(ctx context.Context, from, before uint64) ([]got, error) {
	if len(f.asked) > 0 && f.asked[0].from != from {
		f.drop()
	}
	next := from
	for _, a := range f.asked {
		next = a.from + uint64(a.n)
	}
	for len(f.asked) < f.depth && next < before {
		n := int(min(before-next, uint64(f.each)))
		b, number, err := f.c.askBatch(getRequest{Seq: next, Batch: n, MaxBytes: f.size})
		if err != nil {
			return nil, err
		}
		f.asked = append(f.asked, askedBatch{b, number, next, n})
		next += uint64(n)
	}
	a := f.asked[0]
	f.asked = f.asked[1:]
	if err := f.c.awaitBatch(ctx, a.batch, a.number); err != nil {
		return nil, err
	}
	read := make([]got, 0, len(a.msgs))
	for next := from; len(read) < len(a.msgs) && next < before; next++ {
		m := a.msgs[len(read)]
		msg, st, ok := stored(m)
		if !ok || msg.Seq != next {
			break
		}
		read = append(read, got{msg, st.time, headerSize(m)})
	}
	if len(read) < a.n {
		f.drop() // the others don't follow
		f.each = max(1, len(read))
	} else {
		f.each *= 2
	}
	f.each = min(f.each, f.fit(read))
	return read, nil
}

// fit is how many messages such as these have room in an answer. More asked for at a
// time would be cut off, and what is under way behind that read for nothing.
func (f *fetcher) fit(read []got) int {
	if len(read) == 0 {
		return fetchBatch
	}
	bytes := len(read) * fetchExtra
	for i := range read {
		bytes += len(read[i].msg.Data)
	}
	return max(1, min(fetchBatch, f.size*len(read)/bytes))
}

// drop gives up what is under way.
func (f *fetcher) drop() {
	for _, a := range f.asked {
		f.c.gets.end(a.number, 0, nil)
	}
	f.asked = nil
}

// settle asks the stream's leader for the message after last. It returns the
// message, or none when that and more is gone, which the Sink has then heard.
func (d *delivery) settle(ctx context.Context, before uint64) ([]got, error) {
	deadline := time.Now().Add(d.b.cfg.lagGrace)
	for {
		if err := d.sameLife(ctx); err != nil {
			return nil, err
		}
		one, err := d.b.leaderGot(ctx, getRequest{Seq: d.last + 1, NextFor: inPrefix + ">"})
		switch {
		case err == nil && one.msg.Seq == d.last+1:
			return []got{one}, nil
		case err == nil:
			d.lose(min(one.msg.Seq, before))
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
