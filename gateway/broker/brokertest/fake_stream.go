package brokertest

import (
	"context"

	"github.com/odin-ws/odin/gateway/broker"
)

// Stream implements broker.Broker.
func (f *Fake) Stream(context.Context) (broker.StreamState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usable(); err != nil {
		return broker.StreamState{}, err
	}
	return broker.StreamState{Epoch: f.epoch(f.life), First: f.first, Last: f.last()}, nil
}
