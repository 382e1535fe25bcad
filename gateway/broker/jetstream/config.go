package jetstream

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// Defaults of Config's fields.
const (
	DefaultPing       = 500 * time.Millisecond
	DefaultRetention  = 256 << 20
	DefaultMaxAge     = 24 * time.Hour
	DefaultMaxPayload = 1 << 20
	DefaultAckTimeout = 5 * time.Second
	DefaultAudit      = time.Second
	DefaultQueue      = 16384
)

// Config says where the stream lives and how much it keeps. The zero value of
// a field means its default; the zero Config lacks only DataDir.
type Config struct {
	// URL of a NATS server or cluster, several separated by commas, with
	// user:password@ where it needs them. "" runs a server in this process.
	URL string
	// Credentials is a .creds file for URL; "" for none.
	Credentials string

	// DataDir holds the embedded server's store. One process at a time may use
	// it. Required without URL, unused with it.
	DataDir string
	// Listen is the embedded server's client address, host:port. "" means it
	// listens nowhere unless ConfigFile says so.
	Listen string
	// ConfigFile is a nats-server configuration for the embedded server: routes,
	// leaf nodes, accounts, TLS, limits, sync_interval. What it doesn't set keeps
	// this package's values; without a port in it (or Listen) nobody can connect
	// from outside. "" for none.
	ConfigFile string
	// Account is the account of ConfigFile in which the stream lives; "" means
	// the only one it names, or the global one.
	Account string

	// Retention is how many bytes the stream keeps before it drops the oldest.
	// Disk use is this plus about a sixteenth. Default 256 MiB.
	Retention int64
	// MaxAge is how long the stream keeps a message. Default 24 h.
	MaxAge time.Duration
	// MaxPayload is the largest publication in bytes; the embedded server takes
	// no more from anyone (headers come on top). Default 1 MiB.
	MaxPayload int
	// Memory is what may wait between this node and the stream, bytes: the
	// embedded server's queues and caches, publishes that are not acked, and the
	// live subscription. No queue is less than a few of the largest messages.
	// 0 means fixed figures for a process that isn't short of memory: 16 MiB for
	// each connection to the embedded server, 32 MiB for its store, 16 MiB not
	// acked, 64 MiB live.
	Memory int64
	// StoreCache is how much of what was stored in the last ten seconds the embedded
	// server's blocks may hold at first, bytes; Broker.Throttle finds what they may in the
	// end. 0 means no bound until memory is short.
	StoreCache int64
	// Queue is the bound of the live subscription, in messages, where Memory
	// allows that many. What arrives while it is full is dropped and read from the stream
	// again, so it trades memory against speed, not against loss. Default 16384.
	Queue int
	// AckTimeout is how long a publish waits for its ack before it fails with
	// broker.ErrUncertain. Default 5 s.
	AckTimeout time.Duration
	// Audit is how often a silent subscription is compared with the stream. A
	// lost last message is found within two of them. Default 1 s.
	Audit time.Duration
	// Ping is how often a broker at URL is asked whether it is there; after three
	// without an answer the connection counts as broken. Default 500 ms, so that
	// a stopped broker is noticed within 2 s; a machine that is starved of CPU
	// for longer than that wants more.
	Ping time.Duration

	// Name is how this node calls itself towards NATS. Default: the host name.
	Name string
	// Log gets what happens to the connection and the embedded server's warnings
	// and errors. Default: slog.Default().
	Log *slog.Logger

	// rollbackGrace is how long a stream may say it ends before what was
	// delivered (a new leader that hasn't caught up with itself) until it is
	// believed. 10 s but in tests.
	rollbackGrace time.Duration
	// lagGrace is how long a leader is given that lacks what it says it has. 5 s
	// but in tests.
	lagGrace time.Duration
	// growAfter is how long after the stream was opened its replicas are compared
	// with the cluster's size; from then on twice as long each time, up to
	// growEvery. 2 s but in tests.
	growAfter time.Duration
}

// withDefaults fills what is unset and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if c.URL == "" && c.DataDir == "" {
		return c, errors.New("jetstream: neither a NATS URL nor a data directory is set")
	}
	if c.URL != "" && (c.Listen != "" || c.ConfigFile != "") {
		return c, errors.New("jetstream: a listen address or configuration file is for the embedded server, but a NATS URL is set")
	}
	for _, n := range []struct {
		what  string
		value int64
	}{
		{"retention", c.Retention}, {"max age", int64(c.MaxAge)}, {"max payload", int64(c.MaxPayload)},
		{"queue", int64(c.Queue)}, {"memory", c.Memory}, {"store cache", c.StoreCache}, {"ack timeout", int64(c.AckTimeout)}, {"audit", int64(c.Audit)},
		{"ping", int64(c.Ping)},
	} {
		if n.value < 0 {
			return c, fmt.Errorf("jetstream: %s is negative: %d", n.what, n.value)
		}
	}
	if c.MaxPayload > 32<<20 {
		return c, fmt.Errorf("jetstream: max payload is %d bytes, at most 32 MiB", c.MaxPayload)
	}
	if c.Retention != 0 && c.Retention < 1<<20 {
		return c, fmt.Errorf("jetstream: retention is %d bytes, at least 1 MiB", c.Retention)
	}
	orDefault(&c.Retention, DefaultRetention)
	orDefault(&c.MaxAge, DefaultMaxAge)
	orDefault(&c.MaxPayload, DefaultMaxPayload)
	orDefault(&c.Queue, DefaultQueue)
	orDefault(&c.AckTimeout, DefaultAckTimeout)
	orDefault(&c.Audit, DefaultAudit)
	orDefault(&c.Ping, DefaultPing)
	orDefault(&c.rollbackGrace, 10*time.Second)
	orDefault(&c.lagGrace, 5*time.Second)
	orDefault(&c.growAfter, 2*time.Second)
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unnamed"
		}
		c.Name = host
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c, nil
}

func orDefault[T comparable](v *T, def T) {
	if *v == *new(T) {
		*v = def
	}
}
