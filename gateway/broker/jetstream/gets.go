package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"

	"github.com/odin-ws/odin/gateway/broker"
)

// gets matches the answers of batched direct gets with who asked. All share
// one subscription: one of its own for each would be a SUB and an UNSUB that
// every server of the cluster hears of. A batch holds what it asked for, at
// most: its messages, or its bytes and one message.
type gets struct {
	// Static after init.
	prefix  string              // of the reply subjects, with the dot
	reading *semaphore.Weighted // bytes that reads other than the delivery's ask for

	mu   sync.Mutex
	last uint64            // guarded by mu; number of the newest batch
	open map[uint64]*batch // guarded by mu; those without their end
}

// batch is the answer to one batched direct get.
type batch struct {
	msgs []*nats.Msg // in order; some may be missing, see follows
	// pending is how many more there were, as the server that answered sees it;
	// 0 also when it refused or had none.
	pending uint64
	err     error
	done    chan struct{} // closed when no more is written to the fields above
}

// init lets reads other than the delivery's ask for so many bytes at a time.
func (g *gets) init(reads int64) {
	g.prefix = nats.NewInbox() + "."
	g.open = make(map[uint64]*batch)
	g.reading = semaphore.NewWeighted(reads)
}

func (g *gets) begin() (*batch, uint64) {
	b := &batch{done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	g.open[g.last] = b
	return b, g.last
}

// end closes batch number n; its late answers go nowhere. Only the first end
// of a batch counts.
func (g *gets) end(n, pending uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.open[n]; b != nil {
		delete(g.open, n)
		b.pending, b.err = pending, err
		close(b.done)
	}
}

// fail ends every open batch, as a lost connection does.
func (g *gets) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, b := range g.open {
		delete(g.open, n)
		b.err = err
		close(b.done)
	}
}

// onAnswer is the handler of the reply subscription.
func (g *gets) onAnswer(m *nats.Msg) {
	n, err := strconv.ParseUint(m.Subject[len(g.prefix):], 36, 64)
	if err != nil {
		return
	}
	if isEnd(m) {
		pending, _ := number(lastValue(m.Header, hdrPending))
		g.end(n, pending, nil)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.open[n]; b != nil {
		b.msgs = append(b.msgs, m)
	}
}

// openGets subscribes nc to the answers of what is asked on it.
func (c *client) openGets(nc *nats.Conn) error {
	sub, err := nc.Subscribe(c.gets.prefix+"*", c.gets.onAnswer)
	if err != nil {
		return err
	}
	// Never more than was asked for: no limit of its own.
	return sub.SetPendingLimits(-1, -1)
}

// getBatch sends one batched direct get and waits for all of its answer, at
// most requestTimeout. Whichever replica answers may be behind the others.
func (c *client) getBatch(ctx context.Context, req getRequest) (*batch, error) {
	b, n, err := c.askBatch(req)
	if err != nil {
		return nil, err
	}
	return b, c.awaitBatch(ctx, b, n)
}

// askBatch sends a batched direct get, as number n. awaitBatch or gets.end must
// follow.
func (c *client) askBatch(req getRequest) (b *batch, n uint64, err error) {
	nc, err := c.usable()
	if err != nil {
		return nil, 0, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, 0, err
	}
	b, n = c.gets.begin()
	if err := nc.PublishRequest(directGet, c.gets.prefix+strconv.FormatUint(n, 36), body); err != nil {
		c.gets.end(n, 0, nil)
		return nil, 0, fmt.Errorf("%w: direct get: %w", broker.ErrDown, err)
	}
	return b, n, nil
}

// awaitBatch waits for all of the answer to number n, at most requestTimeout from
// now.
func (c *client) awaitBatch(ctx context.Context, b *batch, n uint64) error {
	timer := time.NewTimer(requestTimeout)
	defer timer.Stop()
	select {
	case <-b.done:
	case <-timer.C:
		c.gets.end(n, 0, fmt.Errorf("%w: direct get: no answer within %v", broker.ErrDown, requestTimeout))
	case <-ctx.Done():
		c.gets.end(n, 0, context.Cause(ctx))
	}
	<-b.done // closed by now; orders what others wrote before what we read
	return b.err
}

// lastBefore reads the newest message with Seq <= upTo of each subject (0 means
// the newest of all), at most 1000 subjects, about bytes of them at a time, and
// calls each with those that are readable. It believes whichever replica
// answers.
func (c *client) lastBefore(ctx context.Context, subjects []string, upTo uint64, bytes int, each func(*broker.Message)) error {
	req := getRequest{MultiLast: subjects, UpToSeq: upTo, MaxBytes: bytes}
	for {
		b, err := c.getBatch(ctx, req)
		if err != nil {
			return err
		}
		last := uint64(0)
		for _, m := range b.msgs {
			if msg, st, ok := stored(m); ok {
				each(&msg)
				last = st.seq
			}
		}
		// They come in stream order; what bytes cut off is asked for again.
		if b.pending == 0 || last < req.Seq || last == 0 {
			return nil
		}
		req.Seq = last + 1
	}
}
