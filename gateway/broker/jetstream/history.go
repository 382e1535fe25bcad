package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/odin-ws/odin/gateway/broker"
)

const (
	// pageBytes is what one request of History or Channels asks for at most. What
	// all that are under way ask for is bounded by queues.reads: a quarter of the
	// server's max_pending, at which it cuts the connection.
	pageBytes = 1 << 20
	// lives is how often a read is begun again because the stream was made anew
	// under it.
	lives = 3
)

// History implements broker.Broker.
//
// A page costs three requests: where its channel's message before From is, the
// messages from that one on, and the stream's state, which comes last so that
// what was evicted meanwhile shows in First. The first and the last page of a
// channel cost one more, to the stream's leader: it alone can say that nothing
// is there. Bytes are rounded down by the subjects and headers the server
// counts with the data.
func (b *Broker) History(ctx context.Context, r broker.HistoryRequest) (broker.Page, error) {
	p, err := b.history(ctx, r)
	if err != nil {
		return broker.Page{}, fmt.Errorf("history of %s: %w", r.Channel, unanswered(err))
	}
	return p, nil
}

func (b *Broker) history(ctx context.Context, r broker.HistoryRequest) (broker.Page, error) {
	if err := b.readable(); err != nil {
		return broker.Page{}, err
	}
	if isWild(r.Channel) {
		return broker.Page{}, errors.New("jetstream: not a channel")
	}
	r.From, r.Messages, r.Bytes = max(r.From, 1), max(r.Messages, 1), max(r.Bytes, 1)
	// The state is read after the messages, so the life it names is theirs only
	// if it was that of before, too.
	epoch := b.epoch()
	for range lives {
		rd := pageReader{c: &b.client, r: r, subject: inPrefix + r.Channel}
		if err := rd.read(ctx); err != nil {
			return broker.Page{}, err
		}
		in, err := b.streamState(ctx)
		if err != nil {
			return broker.Page{}, err
		}
		same := in.epoch == epoch
		if same && len(rd.page) > 0 && rd.page[0].Time < in.created/1e6 {
			// Older than the stream: a replica that still holds an earlier life, or
			// the clocks of two servers.
			m, err := b.leaderGet(ctx, getRequest{Seq: rd.page[0].Seq})
			same = err == nil && m.Channel == r.Channel && m.Time == rd.page[0].Time
		}
		if same {
			return broker.Page{Messages: rd.page, More: rd.more, Epoch: in.epoch, First: in.first, Last: in.last}, nil
		}
		epoch = in.epoch
	}
	return broker.Page{}, fmt.Errorf("%w: the stream is being made anew", broker.ErrDown)
}

// pageReader reads one page. It belongs to the goroutine that made it.
type pageReader struct {
	c       *client
	r       broker.HistoryRequest
	subject string

	next uint64 // nothing of the channel was read from this sequence on
	prev uint64 // the channel's last before next, 0 while none was seen
	page []broker.Message
	size int  // bytes of data in page
	done bool // the page is full, or To is reached
	more bool // it is full and To isn't reached
}

// read fills the page. What a replica answers is a part of the stream without a
// hole; that it is also all there is, only the leader is believed.
func (p *pageReader) read(ctx context.Context) error {
	if p.r.From > p.r.To {
		return nil
	}
	// The message before From is read together with the page: that they follow
	// one another is then certain, however far behind the replica is.
	p.next = p.r.From
	if p.next > 1 {
		err := p.c.lastBefore(ctx, []string{p.subject}, p.r.From-1, pageBytes, func(m *broker.Message) { p.next = m.Seq })
		if err != nil {
			return err
		}
	}
	for !p.done {
		ended, err := p.readBatch(ctx)
		if err == nil && ended && !p.done {
			err = p.askLeader(ctx)
		}
		if err != nil {
			return err
		}
	}
	if len(p.page) == 0 || p.page[0].Prev != 0 || p.page[0].Seq == 1 {
		return nil
	}
	prev, err := p.c.leaderPrev(ctx, p.subject, p.page[0].Seq)
	p.page[0].Prev = prev
	return err
}

// take adds the channel's message after prev to the page, unless it belongs
// before or behind it.
func (p *pageReader) take(m broker.Message) {
	if m.Seq > p.r.To {
		p.done = true
		return
	}
	if m.Seq >= p.r.From {
		m.Prev = p.prev
		p.page = append(p.page, m)
		p.size += len(m.Data)
	}
	p.prev, p.next = m.Seq, m.Seq+1
	switch {
	case m.Seq == p.r.To:
		p.done = true
	case len(p.page) >= p.r.Messages || p.size >= p.r.Bytes:
		p.done, p.more = true, true
	}
}

// askLeader takes the next message from the leader, or its word that there is
// none. One message costs as much as a small page.
func (p *pageReader) askLeader(ctx context.Context) error {
	m, err := p.c.leaderGet(ctx, getRequest{Seq: p.next, NextFor: p.subject})
	if errors.Is(err, broker.ErrNotFound) {
		p.done = true
		return nil
	}
	if err == nil {
		p.take(m)
	}
	return err
}

// readBatch takes the messages of one answer, and from the leader those that
// can't be read in it. ended says that the replica had no more.
func (p *pageReader) readBatch(ctx context.Context) (ended bool, err error) {
	want := min(p.r.Messages-len(p.page), fetchBatch-1)
	if p.next < p.r.From {
		want++ // the one before the page
	}
	left := p.r.Bytes - p.size
	size := min(left, pageBytes)
	if err := p.c.gets.reading.Acquire(ctx, int64(size)); err != nil {
		return false, err
	}
	b, err := p.c.getBatch(ctx, getRequest{Seq: p.next, NextFor: p.subject, Batch: want, MaxBytes: size})
	p.c.gets.reading.Release(int64(size))
	if err != nil {
		return false, err
	}
	for _, m := range b.msgs {
		msg, st, ok := stored(m)
		// Unreadable, or the one before it got lost on the way.
		for !p.done && (!ok || st.prev >= p.next) {
			if err := p.askLeader(ctx); err != nil {
				return false, err
			}
			if !ok {
				break
			}
		}
		if p.done {
			return false, nil
		}
		if ok && msg.Seq >= p.next {
			p.take(msg)
		}
	}
	if b.pending > 0 && size == left && len(b.msgs) < want && len(p.page) > 0 && !p.done {
		p.done, p.more = true, true // the server counts subjects and headers too
	}
	return b.pending == 0, nil
}

// leaderPrev finds the newest message of subject with Seq < before, 0 for none,
// where no replica's word is enough: where it says there is none, or a
// publisher's headers hide it. The leader can only be asked for the next one
// from somewhere on, so it is halved in: one request where there is none, some
// twenty otherwise.
func (c *client) leaderPrev(ctx context.Context, subject string, before uint64) (uint64, error) {
	low, high := uint64(0), before-1 // what is sought is in between, or low
	for mid := uint64(1); low < high; mid = low + (high-low+1)/2 {
		m, err := c.leaderGet(ctx, getRequest{Seq: mid, NextFor: subject})
		switch {
		case err == nil && m.Seq <= high:
			low = m.Seq
		case err == nil || errors.Is(err, broker.ErrNotFound):
			high = mid - 1
		default:
			return 0, err
		}
	}
	return low, nil
}

// isWild says that subject means others than itself: a publisher can store
// under such a name, but not be asked for it.
func isWild(subject string) bool {
	for token := range strings.SplitSeq(subject, ".") {
		if token == "*" || token == ">" {
			return true
		}
	}
	return false
}
