package gateway

import (
	"log/slog"
	"time"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/broker"
)

// Config is all a Gateway needs. Fields are static after New, but those of Live, which
// Reload changes. DefaultConfig gives each its default; zero values are not defaults.
type Config struct {
	Live

	// Addr is the public listener: /ws, /healthz, /readyz, /stats (and /echo).
	// Port 0 picks a free one.
	Addr string
	// AdminAddr is the admin listener (publish, channels, pprof). Without APIKeys it
	// must be a loopback address: on any other, New fails, because nothing guards it.
	AdminAddr string
	// APIKeys guard the admin listener; nil: whoever reaches it may do anything. They
	// are the caller's to close, after Shutdown.
	APIKeys *auth.APIKeys

	// Broker is started and closed by the Gateway.
	Broker broker.Broker

	// Shards is the number of event loops; 0 means GOMAXPROCS as found at start.
	Shards int
	// AdmissionWait is how long a caller may wait for a place when all are
	// taken; 0 refuses it at once. As many may wait as MaxHandshakes.
	AdmissionWait time.Duration
	// Memory reads the memory in use and its limit; nil: it isn't watched. It is
	// called from one goroutine.
	Memory func() capacity.Sample
	// Capacity returns the formula worked out under the limit as it is now, to be shown;
	// nil: it isn't. Any goroutine calls it, and nobody changes what it returns.
	Capacity func() *capacity.Report
	// MaxHandshakes bounds connections that are not upgraded yet; at the bound
	// the oldest unfinished one is answered 408. As many more may wait for the verdict
	// on a token; the next one is answered 503.
	MaxHandshakes int
	// HandshakeTimeout is how long a head may take (408 after it).
	HandshakeTimeout time.Duration
	// FrameTimeout is how long a started frame or message may stay unfinished.
	FrameTimeout time.Duration

	// MaxPublish is the largest payload a publisher may send, bytes.
	MaxPublish int
	// PublishBudget is what publish requests under way may hold, bytes; each counts with
	// three times its body. The next one is answered 503.
	PublishBudget int64
	// MaxChannels bounds the channels a node knows at once.
	MaxChannels int
	// Ping is the interval of WebSocket pings; no sign of life for two of them is 4201.
	Ping time.Duration

	// SndBuf and RcvBuf are SO_SNDBUF and SO_RCVBUF of client sockets, bytes
	// as passed to setsockopt (the kernel doubles them).
	SndBuf, RcvBuf int

	// Tokens says who may read; nil: anyone. It is the caller's to close, after
	// Shutdown.
	Tokens *auth.Tokens

	// TLS makes the public port speak TLS, and nothing else; nil: plain.
	TLS *TLS
	// Echo serves /echo for conformance suites.
	Echo bool
	// Compression accepts permessage-deflate from clients that offer it.
	Compression bool

	// Node names this process to clients; empty picks a random one.
	Node string
	// Version is what /stats and /metrics say of the program; empty is "devel".
	Version string
	// Log receives structured logs; nil discards them.
	Log *slog.Logger

	// grace is how long a channel keeps messages beyond the last Replay or
	// SendQueue ones, budget permitting: a client must survive the looks it is
	// given to catch up. Shorter in tests only.
	grace time.Duration
	// deflateLate is channel.Config.DeflateLate.
	deflateLate time.Duration
}

// DefaultConfig returns the defaults of `odin serve`, without a Broker.
func DefaultConfig() Config {
	return Config{
		Live: Live{
			MaxConnections:    54613,
			MaxMessage:        64 << 10,
			MaxSubscriptions:  1024,
			MoreSubscriptions: 1_000_000,
			Replay:            100,
			LogBudget:         64 << 20,
			BufferBudget:      32 << 20,
			Backlog:           64 << 20,
			SendQueue:         256,
			SlowTimeout:       5 * time.Second,
			RateBurst:         100,
			RatePerSec:        10,
			Heartbeat:         15 * time.Second,
			Drain:             30 * time.Second,
		},
		Addr:             ":8080",
		AdminAddr:        "127.0.0.1:8081",
		MaxHandshakes:    1024,
		HandshakeTimeout: 10 * time.Second,
		FrameTimeout:     10 * time.Second,
		MaxPublish:       64 << 10,
		PublishBudget:    32 << 20,
		MaxChannels:      100_000,
		Ping:             20 * time.Second,
		SndBuf:           4096,
		RcvBuf:           4096,
		grace:            (slowStrikes*slowEvery + 2) * tick,
	}
}
