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

const (
	// listBatch is how many channels' last messages one request asks for; the
	// server refuses more than 1024.
	listBatch = 1000
	// beyondAll is an offset into a list of subjects that gets none of them, only
	// how many there are.
	beyondAll = 1 << 31
	// witnessTries is how often replicas are asked for what one that is behind
	// wouldn't know, and witnessPause how long in between.
	witnessTries = 8
	witnessPause = 25 * time.Millisecond
)

// Channels implements broker.Broker.
//
// The list is the leader's. The last sequences are a replica's, if it shows the
// newest message the leader knew of, else the leader's too. Names that a native
// publisher gave and that are patterns for NATS are left out.
func (b *Broker) Channels(ctx context.Context, prefix string, limit int) ([]broker.ChannelHead, error) {
	heads, err := b.channels(ctx, prefix, limit)
	if err != nil {
		if !errors.Is(err, broker.ErrTooMany) && !errors.Is(err, errBadPrefix) {
			err = unanswered(err)
		}
		return nil, fmt.Errorf("channels of %q: %w", prefix, err)
	}
	return heads, nil
}

var errBadPrefix = errors.New("jetstream: not a prefix of channels")

func (b *Broker) channels(ctx context.Context, prefix string, limit int) ([]broker.ChannelHead, error) {
	if err := b.readable(); err != nil {
		return nil, err
	}
	if prefix != "" && !strings.HasSuffix(prefix, ".") || isWild(prefix) {
		return nil, errBadPrefix
	}
	filter := inPrefix + prefix + ">"
	st, err := b.subjects(ctx, filter, beyondAll)
	if err != nil {
		return nil, err
	}
	if st.Total > limit {
		return nil, fmt.Errorf("%w: %d, at most %d", broker.ErrTooMany, st.Total, limit)
	}
	total := st.Total
	unknown := make(map[string]bool, total)
	for offset := 0; offset < total; {
		page, err := b.subjects(ctx, filter, offset)
		if err != nil {
			return nil, err
		}
		for s := range page.State.Subjects {
			if !isWild(s) {
				unknown[s] = true
			}
		}
		if len(unknown) > limit {
			return nil, fmt.Errorf("%w: at least %d, at most %d", broker.ErrTooMany, len(unknown), limit)
		}
		if page.Limit <= 0 {
			break
		}
		offset += page.Limit
	}
	if len(unknown) == 0 {
		return nil, nil
	}
	return b.lastOf(ctx, unknown, st.State.LastSeq)
}

// subjectList is the part of a STREAM.INFO answer that lists subjects, sorted
// by name from an offset on.
type subjectList struct {
	Cluster *nats.ClusterInfo `json:"cluster"`
	Total   int               `json:"total"`
	Limit   int               `json:"limit"`
	State   struct {
		LastSeq  uint64            `json:"last_seq"`
		Subjects map[string]uint64 `json:"subjects"` // how many messages each has
	} `json:"state"`
}

func (c *client) subjects(ctx context.Context, filter string, offset int) (l subjectList, err error) {
	req := struct {
		Filter string `json:"subjects_filter"`
		Offset int    `json:"offset"`
	}{filter, offset}
	if err = c.api(ctx, "STREAM.INFO."+streamName, req, &l); err == nil {
		err = leaderless(l.Cluster)
	}
	return l, err
}

// lastOf reads the last sequence of each of the subjects: from replicas that
// have the stream up to newest, else from the leader. It empties unknown.
func (b *Broker) lastOf(ctx context.Context, unknown map[string]bool, newest uint64) ([]broker.ChannelHead, error) {
	heads := make([]broker.ChannelHead, 0, len(unknown))
	// The subject of the newest message, asked for with each batch, shows how
	// far the replica is.
	witness, err := b.leaderGet(ctx, getRequest{Seq: newest})
	if errors.Is(err, broker.ErrNotFound) {
		return heads, nil // it has aged out, and with it all before it
	}
	if err != nil {
		return nil, err
	}
	for len(unknown) > 0 {
		ask := make([]string, 0, listBatch)
		for s := range unknown {
			delete(unknown, s)
			if ask = append(ask, s); len(ask) == listBatch {
				break
			}
		}
		if err := b.gets.reading.Acquire(ctx, pageBytes); err != nil {
			return nil, err
		}
		last, err := b.provenLast(ctx, ask, 0, pageBytes, witness)
		b.gets.reading.Release(pageBytes)
		if err != nil {
			return nil, err
		}
		for _, s := range ask {
			seq := last[s]
			if seq == 0 { // no replica could say; some 100 µs each
				m, err := b.leaderGet(ctx, getRequest{LastFor: s})
				if err != nil && !errors.Is(err, broker.ErrNotFound) {
					return nil, err
				}
				seq = m.Seq
			}
			if seq != 0 {
				heads = append(heads, broker.ChannelHead{Channel: strings.TrimPrefix(s, inPrefix), Last: seq})
			}
		}
	}
	return heads, nil
}

// provenLast reads the last sequence up to upTo (0: of all) of each of the
// subjects, at most 1000, from a replica that also shows witness or a newer
// message of its channel, so isn't behind. It gives up soon, with nothing: the
// replicas may be behind for long, or witness be unreadable for its publisher's
// headers.
func (c *client) provenLast(ctx context.Context, subjects []string, upTo uint64, bytes int, witness broker.Message) (map[string]uint64, error) {
	if isWild(witness.Channel) {
		return nil, nil
	}
	ask := append(subjects[:len(subjects):len(subjects)], inPrefix+witness.Channel) // the same twice counts once
	for range witnessTries {
		last := make(map[string]uint64, len(ask))
		err := c.lastBefore(ctx, ask, upTo, bytes, func(m *broker.Message) { last[inPrefix+m.Channel] = m.Seq })
		if err != nil || last[inPrefix+witness.Channel] >= witness.Seq {
			return last, err
		}
		select {
		case <-time.After(witnessPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, nil
}
