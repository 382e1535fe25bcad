package jetstream

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

// Names on the NATS side.
const (
	streamName  = "ODIN"
	inPrefix    = "odin.in."  // publishers send to it
	outPrefix   = "odin.out." // the stream republishes to it
	dedupWindow = 2 * time.Minute
)

const (
	// clusterReplicas is how many replicas the stream has where there are as many
	// servers.
	clusterReplicas = 3
	// quorumSilence is how long a replica may be silent towards the leader before
	// it counts as gone; it answers every second.
	quorumSilence = 4 * time.Second
)

// info is the part of the stream's state that delivery turns on.
type info struct {
	epoch       string
	created     int64  // Unix ns by the server's clock
	first, last uint64 // first is last+1 when the stream is empty
}

func newInfo(si *nats.StreamInfo) info {
	in := info{
		epoch:   epochOf(si.Created, si.Config.Metadata),
		created: si.Created.UnixNano(),
		first:   si.State.FirstSeq,
		last:    si.State.LastSeq,
	}
	if si.State.Msgs == 0 {
		in.first = in.last + 1 // the server says 0 of a stream that never had any
	}
	return in
}

// lifeKey is the stream metadata that counts how often the stream lost its end
// and went on under the same creation time.
const lifeKey = "odin-life"

// epochOf names a stream's life by its creation time, which survives restarts,
// updates and changes of leader, and which every node reads alike; and by
// lifeKey if there is one.
func epochOf(created time.Time, metadata map[string]string) string {
	e := "e" + strconv.FormatInt(created.UnixNano(), 36)
	if n := metadata[lifeKey]; n != "" {
		e += "-" + n
	}
	return e
}

// newLife gives a stream that lost its end another epoch, unless some node has
// done so already. Nodes that do it at once write the same.
func (c *client) newLife(ctx context.Context, epoch string) (info, error) {
	in, si, err := c.streamInfo(ctx)
	if err != nil || in.epoch != epoch {
		return in, err
	}
	cfg := si.Config
	n, _ := strconv.Atoi(cfg.Metadata[lifeKey])
	cfg.Metadata = maps.Clone(cfg.Metadata)
	if cfg.Metadata == nil {
		cfg.Metadata = make(map[string]string)
	}
	cfg.Metadata[lifeKey] = strconv.Itoa(n + 1)
	var updated nats.StreamInfo
	if err := c.api(ctx, "STREAM.UPDATE."+streamName, cfg, &updated); err != nil {
		return info{}, err
	}
	return newInfo(&updated), nil
}

// streamInfo asks the stream's leader.
func (c *client) streamInfo(ctx context.Context) (info, *nats.StreamInfo, error) {
	var si nats.StreamInfo
	if err := c.api(ctx, "STREAM.INFO."+streamName, nil, &si); err != nil {
		return info{}, nil, err
	}
	return newInfo(&si), &si, leaderless(si.Cluster)
}

// streamState is streamInfo without what reads don't need, at half its cost.
func (c *client) streamState(ctx context.Context) (info, error) {
	var si struct {
		Cluster *nats.ClusterInfo `json:"cluster"`
		Created time.Time         `json:"created"`
		Config  struct {
			Metadata map[string]string `json:"metadata"`
		} `json:"config"`
		State nats.StreamState `json:"state"`
	}
	if err := c.api(ctx, "STREAM.INFO."+streamName, nil, &si); err != nil {
		return info{}, err
	}
	in := newInfo(&nats.StreamInfo{Created: si.Created, State: si.State, Config: nats.StreamConfig{Metadata: si.Config.Metadata}})
	return in, leaderless(si.Cluster)
}

// leaderless is an error while nobody can speak for the stream: its replicas
// elect, and any of them answers with what it has itself; or its leader is cut
// off from the others and doesn't know yet that they have another (the server
// gives up that office after 10 s).
func leaderless(c *nats.ClusterInfo) error {
	if c == nil {
		return nil // no cluster
	}
	if c.Leader == "" {
		return fmt.Errorf("%w: the stream has no leader", broker.ErrDown)
	}
	here := 1
	for _, r := range c.Replicas {
		if !r.Offline && r.Active < quorumSilence { // 0 is one never heard of, as in the moments after its creation
			here++
		}
	}
	if all := len(c.Replicas) + 1; here <= all/2 {
		return fmt.Errorf("%w: the stream's leader hears %d of %d replicas", broker.ErrDown, here, all)
	}
	return nil
}

// ensureStream creates the stream or makes an existing one as it should be,
// and returns its state. What is the operator's business stays as it is.
func (c *client) ensureStream(ctx context.Context) (info, error) {
	in, si, err := c.streamInfo(ctx)
	if isCode(err, codeStreamMissing) {
		return c.createStream(ctx)
	}
	if err != nil {
		return info{}, err
	}
	want := c.adjust(si.Config)
	if reflect.DeepEqual(want, si.Config) {
		return in, nil
	}
	c.cfg.Log.Info("updating the stream", "stream", streamName)
	var updated nats.StreamInfo
	if err := c.api(ctx, "STREAM.UPDATE."+streamName, want, &updated); err != nil {
		return info{}, fmt.Errorf("the stream %s exists and can't be changed to what Odin needs: %w; delete it, or correct it with the nats tool", streamName, err)
	}
	return newInfo(&updated), nil
}

// growStream raises the stream's replicas to three if there are as many
// servers. It never lowers them.
func (c *client) growStream(ctx context.Context) error {
	if c.servers() < clusterReplicas {
		return nil
	}
	_, si, err := c.streamInfo(ctx)
	if err != nil || si.Config.Replicas >= clusterReplicas {
		return err
	}
	cfg := si.Config
	cfg.Replicas = clusterReplicas
	if err := c.api(ctx, "STREAM.UPDATE."+streamName, cfg, &nats.StreamInfo{}); err != nil {
		return err
	}
	c.cfg.Log.Info("the stream has more replicas", "stream", streamName, "replicas", cfg.Replicas, "before", si.Config.Replicas)
	return nil
}

// adjust returns s with the settings that are ours.
func (c *client) adjust(s nats.StreamConfig) nats.StreamConfig {
	s.Subjects = []string{inPrefix + ">"} // another subject's messages would be holes in ours
	s.Retention = nats.LimitsPolicy
	s.Discard = nats.DiscardOld
	s.MaxBytes = c.cfg.Retention
	s.MaxAge = c.cfg.MaxAge
	s.MaxMsgs, s.MaxMsgsPerSubject = -1, -1
	orDefault(&s.MaxConsumers, -1)
	orDefault(&s.MaxMsgSize, -1)
	s.Duplicates = min(dedupWindow, c.cfg.MaxAge)
	s.AllowDirect, s.DenyDelete = true, true
	s.AllowRollup = false
	s.RePublish = &nats.RePublish{Source: inPrefix + ">", Destination: outPrefix + ">"}
	return s
}

// servers is how many servers the cluster has, as far as can be told.
func (c *client) servers() int {
	if c.emb != nil {
		return c.emb.peers()
	}
	nc := c.nc.Load()
	if nc == nil || nc.ConnectedClusterName() == "" {
		return 1
	}
	return len(nc.Servers())
}
