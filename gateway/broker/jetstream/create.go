package jetstream

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

const (
	claimSubject = "odin.ctl.create"
	claimWindow  = 150 * time.Millisecond // in which nodes that want to create hear of each other
)

// createStream makes the stream, on one node only.
//
// A nats-server outside a cluster doesn't serialize the creation of a stream:
// of two requests at once both succeed, and two streams write to one store
// (seen with 2.15.2: lost acks, "error creating store"). Gateways that start
// together over an empty server, or see the stream deleted, would do that.
func (c *client) createStream(ctx context.Context) (info, error) {
	for {
		won, err := c.claimCreation(ctx)
		if err != nil {
			return info{}, err
		}
		in, _, err := c.streamInfo(ctx)
		if !isCode(err, codeStreamMissing) {
			return in, err
		}
		if won {
			break
		}
	}
	cfg := c.adjust(nats.StreamConfig{Name: streamName, Storage: nats.FileStorage, Replicas: 1})
	if c.servers() >= clusterReplicas {
		cfg.Replicas = clusterReplicas
	}
	var si nats.StreamInfo
	err := c.api(ctx, "STREAM.CREATE."+streamName, cfg, &si)
	if err != nil && cfg.Replicas > 1 && ctx.Err() == nil {
		c.cfg.Log.Warn("no room for three replicas, the stream gets one", "err", err)
		cfg.Replicas = 1
		err = c.api(ctx, "STREAM.CREATE."+streamName, cfg, &si)
	}
	if err != nil {
		return info{}, fmt.Errorf("create the stream %s: %w", streamName, err)
	}
	c.cfg.Log.Info("created the stream", "stream", streamName, "replicas", cfg.Replicas, "bytes", cfg.MaxBytes)
	return newInfo(&si), nil
}

// claimCreation waits for the window and returns true on the node with the
// lowest of all claims made in it. A claim is repeated for each higher one
// heard, so that a node which subscribed later hears it too.
func (c *client) claimCreation(ctx context.Context) (won bool, err error) {
	nc, err := c.usable()
	if err != nil {
		return false, err
	}
	claims := make(chan *nats.Msg, 64)
	sub, err := nc.ChanSubscribe(claimSubject, claims)
	if err != nil {
		return false, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	own := nuid.New().Next()
	if err := nc.Publish(claimSubject, []byte(own)); err != nil {
		return false, err
	}
	end := time.NewTimer(claimWindow)
	defer end.Stop()
	for won = true; ; {
		select {
		case m := <-claims:
			switch other := string(m.Data); {
			case other < own:
				won = false
			case other > own && won:
				if err := nc.Publish(claimSubject, []byte(own)); err != nil {
					return false, err
				}
			}
		case <-end.C:
			return won, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}
