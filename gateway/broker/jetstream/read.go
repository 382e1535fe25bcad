package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

// getRequest is the request of direct get and of STREAM.MSG.GET.
type getRequest struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextFor   string   `json:"next_by_subj,omitempty"`
	LastFor   string   `json:"last_by_subj,omitempty"`
	Batch     int      `json:"batch,omitempty"`     // direct get only
	MaxBytes  int      `json:"max_bytes,omitempty"` // direct get only
	MultiLast []string `json:"multi_last,omitempty"`
	UpToSeq   uint64   `json:"up_to_seq,omitempty"`
	NoHeaders bool     `json:"no_hdr,omitempty"`
}

const directGet = "$JS.API.DIRECT.GET." + streamName

// get finds one stored message: by direct get from any replica, and from the
// stream's leader if that finds none (the replica may be behind) or answers
// with headers that can't be trusted.
func (c *client) get(ctx context.Context, req getRequest) (broker.Message, error) {
	if err := c.readable(); err != nil {
		return broker.Message{}, err
	}
	m, err := c.request(ctx, directGet, req)
	if err != nil {
		return broker.Message{}, unanswered(err)
	}
	if msg, _, ok := stored(m); ok {
		return msg, nil
	}
	msg, err := c.leaderGet(ctx, req)
	if err != nil {
		return broker.Message{}, unanswered(err)
	}
	return msg, nil
}

// stored reads a direct get answer. Stored messages carry no prev.
func stored(m *nats.Msg) (msg broker.Message, st stamp, ok bool) {
	if st, ok = readStamp(m); !ok {
		return msg, st, false
	}
	channel, ok := strings.CutPrefix(st.subject, inPrefix)
	return broker.Message{Channel: channel, Seq: st.seq, Time: st.time / 1e6, Nanos: st.time % 1e6, Data: m.Data}, st, ok
}

// leaderGet asks the stream's leader, whose answer is slower but authoritative,
// and written by the server alone. ErrNotFound means that it isn't stored.
func (c *client) leaderGet(ctx context.Context, req getRequest) (broker.Message, error) {
	one, err := c.leaderGot(ctx, req)
	return one.msg, err
}

// leaderGot is leaderGet with what the delivery wants to know beside the message.
func (c *client) leaderGot(ctx context.Context, req getRequest) (got, error) {
	var resp struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Headers []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := c.api(ctx, "STREAM.MSG.GET."+streamName, req, &resp)
	var e *apiError
	switch {
	case errors.As(err, &e) && e.ErrCode == codeNoMessage:
		return got{}, broker.ErrNotFound
	case err != nil:
		return got{}, err
	}
	m := resp.Message
	return got{
		msg: broker.Message{
			Channel: strings.TrimPrefix(m.Subject, inPrefix),
			Seq:     m.Seq,
			Time:    m.Time.UnixMilli(),
			Nanos:   m.Time.UnixNano() % 1e6,
			Data:    m.Data,
		},
		nanos:   m.Time.UnixNano(),
		headers: stampRoom + len(m.Headers), // without the server's
	}, nil
}

// Last implements broker.Broker. It asks the leader: a replica that is behind
// has an older one, with which a client's position looked like the future. That
// takes two to three times as long as a direct get.
func (b *Broker) Last(ctx context.Context, channel string) (broker.Message, error) {
	err := b.readable()
	var m broker.Message
	if err == nil {
		m, err = b.leaderGet(ctx, getRequest{LastFor: inPrefix + channel})
	}
	if err != nil {
		err = unanswered(err)
		return m, fmt.Errorf("last of %s: %w", channel, err)
	}
	return m, nil
}

// Get implements broker.Broker.
func (b *Broker) Get(ctx context.Context, channel string, from uint64) (broker.Message, error) {
	m, err := b.get(ctx, getRequest{Seq: max(from, 1), NextFor: inPrefix + channel})
	if err != nil {
		return m, fmt.Errorf("%s from %d: %w", channel, from, err)
	}
	return m, nil
}

// Stream implements broker.Broker.
func (b *Broker) Stream(ctx context.Context) (broker.StreamState, error) {
	err := b.readable()
	var in info
	if err == nil {
		in, err = b.streamState(ctx)
	}
	if err != nil {
		return broker.StreamState{}, fmt.Errorf("the stream's state: %w", unanswered(err))
	}
	return broker.StreamState{Epoch: in.epoch, First: in.first, Last: in.last}, nil
}
