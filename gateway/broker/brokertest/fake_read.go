package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/odin-ws/odin/gateway/broker"
)

// Last implements broker.Broker.
func (f *Fake) Last(_ context.Context, channel string) (broker.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return broker.Message{}, err
	}
	for i := len(f.log) - 1; i >= 0; i-- {
		if m := f.log[i]; m.Channel == channel && !f.lost[m.Seq] {
			return read(m), nil
		}
	}
	return broker.Message{}, fmt.Errorf("last of %s: %w", channel, broker.ErrNotFound)
}

// Get implements broker.Broker.
func (f *Fake) Get(_ context.Context, channel string, from uint64) (broker.Message, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return broker.Message{}, err
	}
	for _, m := range f.log {
		if m.Seq >= from && m.Channel == channel && !f.lost[m.Seq] {
			return read(m), nil
		}
	}
	return broker.Message{}, fmt.Errorf("%s from %d: %w", channel, from, broker.ErrNotFound)
}

// read makes m what a read returns: the caller's own data, no Prev.
func read(m broker.Message) broker.Message {
	m.Prev, m.Data = 0, slices.Clone(m.Data)
	return m
}

// History implements broker.Broker.
func (f *Fake) History(_ context.Context, r broker.HistoryRequest) (broker.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return broker.Page{}, fmt.Errorf("history of %s: %w", r.Channel, err)
	}
	p := broker.Page{Epoch: f.epoch(f.life), First: f.first, Last: f.last()}
	var prev uint64
	size := 0
	for _, m := range f.log {
		if m.Seq > r.To {
			break
		}
		if m.Channel != r.Channel || f.lost[m.Seq] {
			continue
		}
		if m.Seq >= r.From {
			if n := len(p.Messages); n > 0 && (n >= r.Messages || size >= r.Bytes) {
				p.More = true
				break
			}
			c := read(m)
			c.Prev = prev
			p.Messages = append(p.Messages, c)
			size += len(m.Data)
		}
		prev = m.Seq
	}
	return p, nil
}

// Channels implements broker.Broker.
func (f *Fake) Channels(_ context.Context, prefix string, limit int) ([]broker.ChannelHead, error) {
	if prefix != "" && !strings.HasSuffix(prefix, ".") {
		return nil, errors.New("fake broker: a prefix that doesn't end in a dot")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return nil, fmt.Errorf("channels of %q: %w", prefix, err)
	}
	last := map[string]uint64{}
	for _, m := range f.log {
		if strings.HasPrefix(m.Channel, prefix) && !f.lost[m.Seq] {
			last[m.Channel] = m.Seq
		}
	}
	if len(last) > limit {
		return nil, fmt.Errorf("channels of %q: %w: %d, at most %d", prefix, broker.ErrTooMany, len(last), limit)
	}
	heads := make([]broker.ChannelHead, 0, len(last))
	for ch, seq := range last {
		heads = append(heads, broker.ChannelHead{Channel: ch, Last: seq})
	}
	return heads, nil
}

// Stream implements broker.Broker.
func (f *Fake) Stream(context.Context) (broker.StreamState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return broker.StreamState{}, err
	}
	return broker.StreamState{Epoch: f.epoch(f.life), First: f.first, Last: f.last()}, nil
}
