package jetstream

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

// Publisher publishes to an existing stream from outside a gateway, for
// `odin publish` and `odin feed` with --nats-url. It neither creates the stream
// nor delivers. Its methods may be called from any goroutine.
type Publisher struct {
	client
	cancel context.CancelFunc
}

// NewPublisher connects to servers (as Config.URL) and makes sure that a stream
// takes what it will publish. It takes a few seconds at most. Afterwards the
// connection comes back by itself when it breaks.
func NewPublisher(servers string) (*Publisher, error) {
	cfg, err := Config{URL: servers}.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{cancel: cancel}
	p.cfg = cfg
	q := cfg.queues()
	p.acks.init(q.unacked)
	p.gets.init(q.reads)
	nc, err := p.connect(ctx, "publish", p.lostConn, p.forgetLife)
	if err != nil {
		cancel()
		return nil, err
	}
	p.nc.Store(nc)
	in, _, err := p.streamInfo(ctx)
	if err == nil {
		p.setEpoch(in.epoch, in.last)
		err = p.openAcks(nc)
	}
	if isCode(err, codeStreamMissing) {
		err = fmt.Errorf("no stream %s at %s: start a gateway (odin serve --nats-url %s), which makes it", streamName, connectedTo(nc), connectedTo(nc))
	} else if errors.Is(err, nats.ErrNoResponders) {
		err = fmt.Errorf("JetStream isn't enabled at %s", connectedTo(nc))
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// connectedTo is the server of a connection, without who connects: a name alone may
// be a token.
func connectedTo(nc *nats.Conn) string {
	at, err := url.Parse(nc.ConnectedUrl())
	if err != nil {
		return "the server"
	}
	at.User = nil
	return at.String()
}

// forgetLife makes the next acks be checked: the stream may have been made
// anew while we were away.
func (p *Publisher) forgetLife() {
	p.acks.mu.Lock()
	defer p.acks.mu.Unlock()
	p.acks.stale = true
}

// Publish stores one message and waits for the ack; errors as broker.Broker's.
func (p *Publisher) Publish(ctx context.Context, m broker.Publication) (broker.Ack, error) {
	r := p.publish(ctx, []broker.Publication{m})[0]
	return r.Ack, r.Err
}

// PublishBatch stores messages in order and returns a result for each, as
// broker.Broker's.
func (p *Publisher) PublishBatch(ctx context.Context, ms []broker.Publication) []broker.Result {
	return p.publish(ctx, ms)
}

// Close releases the connection. Publishes under way fail with ErrUncertain.
func (p *Publisher) Close() error {
	p.cancel()
	p.close()
	p.lostConn(errors.New("closed"))
	return nil
}
