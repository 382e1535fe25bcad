package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

const (
	dialTimeout    = time.Second
	requestTimeout = 2 * time.Second // one API or direct get request; readiness turns on it
	writeTimeout   = 1500 * time.Millisecond
	pingsMissed    = 2 // without an answer; the next one finds the connection broken
	maxBackoff     = time.Second
)

// client is one NATS connection for requests and publishes: all of a
// Publisher, and half of a Broker. Its methods may be called from any
// goroutine.
type client struct {
	// Static after construction.
	cfg Config
	emb *embedded // nil for an outside server

	nc   atomic.Pointer[nats.Conn] // nil until the first connection
	life atomic.Pointer[life]      // nil until the stream was seen
	head atomic.Uint64             // highest sequence known to be stored in this life
	acks acks
	gets gets
	// refuse is why publishes and reads fail at once, nil while they work.
	refuse atomic.Pointer[error]
}

// life is one existence of the stream, from its creation to its deletion.
type life struct {
	epoch string
}

// options are those every connection has. onDown gets the cause of a lost
// connection, onUp follows when it is back; both may be nil.
func (c *client) options(ctx context.Context, role string, onDown func(error), onUp func()) []nats.Option {
	ping, write := c.cfg.Ping, writeTimeout
	if c.emb != nil {
		// In one process nothing stops on one side alone; a busy machine must not
		// look like a dead server.
		ping, write = 5*time.Second, 10*time.Second
	}
	opts := []nats.Option{
		nats.Name("odin " + c.cfg.Name + " " + role),
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), // never buffer while disconnected
		nats.CustomReconnectDelay(backoff),
		nats.PingInterval(ping),
		nats.MaxPingsOutstanding(pingsMissed),
		nats.FlusherTimeout(write), // a write that blocks holds the lock the ping needs
		nats.NoCallbacksAfterClientClose(),
		nats.SetCustomDialer(ctxDialer{ctx}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if !errors.Is(err, nats.ErrSlowConsumer) && !errors.Is(err, nats.ErrBadHeaderMsg) {
				c.cfg.Log.Warn("nats connection", "role", role, "err", err)
			}
		}),
	}
	if onDown != nil {
		opts = append(opts, nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil {
				err = errors.New("the broker closed the connection")
			}
			onDown(err)
		}))
	}
	if onUp != nil {
		opts = append(opts, nats.ReconnectHandler(func(*nats.Conn) { onUp() }))
	}
	if c.emb != nil {
		opts = append(opts, nats.InProcessServer(c.emb))
		if c.emb.login().user != "" {
			opts = append(opts, nats.UserInfoHandler(c.emb.userInfo)) // anew after each restart
		}
	}
	if c.cfg.Credentials != "" {
		opts = append(opts, nats.UserCredentials(c.cfg.Credentials))
	}
	return opts
}

// backoff doubles from 20 ms up to a second.
func backoff(attempt int) time.Duration {
	return min(10*time.Millisecond<<min(max(attempt, 1), 10), maxBackoff)
}

// ctxDialer ends dials with its context, so that Close doesn't wait for them.
type ctxDialer struct{ ctx context.Context }

func (d ctxDialer) Dial(network, address string) (net.Conn, error) {
	nd := net.Dialer{Timeout: dialTimeout}
	return nd.DialContext(d.ctx, network, address)
}

// connect makes a connection and checks that the server is new enough.
func (c *client) connect(ctx context.Context, role string, onDown func(error), onUp func()) (*nats.Conn, error) {
	nc, err := nats.Connect(c.cfg.URL, c.options(ctx, role, onDown, onUp)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if v := nc.ConnectedServerVersion(); !atLeast(v, 2, 11) {
		nc.Close()
		return nil, fmt.Errorf("nats-server %s is too old: Odin needs 2.11 or later (batched direct get)", v)
	}
	return nc, nil
}

// atLeast compares a version like "2.11.3-beta" with major.minor; what can't
// be read passes.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return true
	}
	ma, err1 := strconv.Atoi(parts[0])
	mi, err2 := strconv.Atoi(parts[1])
	return err1 != nil || err2 != nil || ma > major || ma == major && mi >= minor
}

// refusal is the error publishes and reads get without being tried, or nil.
func (c *client) refusal() error {
	if p := c.refuse.Load(); p != nil {
		return *p
	}
	return nil
}

// readable is the refusal of reads: a full store can still be read.
func (c *client) readable() error {
	if err := c.refusal(); err != nil && !errors.Is(err, broker.ErrFull) {
		return err
	}
	return nil
}

// usable returns the connection if something can be sent on it now.
func (c *client) usable() (*nats.Conn, error) {
	nc := c.nc.Load()
	switch {
	case nc == nil:
		return nil, fmt.Errorf("%w: not connected yet", broker.ErrDown)
	case !nc.IsConnected():
		err := nc.LastError()
		if err == nil {
			err = nats.ErrDisconnected
		}
		return nil, fmt.Errorf("%w: %w", broker.ErrDown, err)
	}
	return nc, nil
}

// request asks the JetStream API or direct get and waits at most
// requestTimeout.
func (c *client) request(ctx context.Context, subject string, req any) (*nats.Msg, error) {
	nc, err := c.usable()
	if err != nil {
		return nil, err
	}
	var body []byte
	if req != nil {
		if body, err = json.Marshal(req); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", subject, err)
	}
	return m, nil
}

// api is request for the JSON API: it decodes the answer into resp and returns
// the *apiError in it, if there is one.
func (c *client) api(ctx context.Context, subject string, req, resp any) error {
	m, err := c.request(ctx, "$JS.API."+subject, req)
	if err != nil {
		return err
	}
	if bytes.Contains(m.Data, []byte(`"error"`)) {
		var failed struct {
			Error *apiError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &failed); err == nil && failed.Error != nil {
			return fmt.Errorf("%s: %w", subject, failed.Error)
		}
	}
	return json.Unmarshal(m.Data, resp)
}

func isCode(err error, code int) bool {
	var e *apiError
	return errors.As(err, &e) && e.ErrCode == code
}

// epoch is the current life's name, "" before the stream was seen.
func (c *client) epoch() string {
	if l := c.life.Load(); l != nil {
		return l.epoch
	}
	return ""
}

// setEpoch begins a life. Sequences known from another one are forgotten.
func (c *client) setEpoch(epoch string, head uint64) {
	if c.epoch() != epoch {
		c.life.Store(&life{epoch})
		c.head.Store(head)
	}
}

// raiseHead records that seq is stored.
func (c *client) raiseHead(seq uint64) {
	for old := c.head.Load(); seq > old && !c.head.CompareAndSwap(old, seq); old = c.head.Load() {
	}
}

func (c *client) close() {
	if nc := c.nc.Load(); nc != nil {
		nc.Close()
	}
}
