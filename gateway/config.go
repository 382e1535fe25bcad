package gateway

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/wire"
)

// Config is all a Gateway needs. Fields are static after New. DefaultConfig
// gives each its default; zero values are not defaults.
type Config struct {
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
	// MaxConnections is the most WebSocket connections admitted at once, the
	// result of the capacity formula; at least 1.
	MaxConnections int
	// AdmissionWait is how long a caller may wait for a place when all are
	// taken; 0 refuses it at once. As many may wait as MaxHandshakes.
	AdmissionWait time.Duration
	// RejectWS upgrades those there is no place for and closes them with 1013, those
	// without a good token with 4001, instead of answering 503 and 401.
	RejectWS bool
	// Memory reads the memory in use and its limit; nil: it isn't watched. It is
	// called from one goroutine.
	Memory func() capacity.Sample
	// Recompute gives the most connections and the backlog, bytes, under a limit that
	// has changed, 0 connections with the reason when it holds none; nil:
	// MaxConnections and Backlog stand.
	Recompute func(capacity.Limit) (connections int, backlog int64, err error)
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

	// MaxMessage is the largest message a client may send, bytes (1009 past it).
	MaxMessage int
	// MaxPublish is the largest payload a publisher may send, bytes.
	MaxPublish int
	// MaxSubscriptions bounds one connection; a wildcard counts its matches.
	MaxSubscriptions int
	// MoreSubscriptions bounds the subscriptions beyond IncludedSubscriptions of
	// each connection, of all connections together.
	MoreSubscriptions int
	// MaxChannels bounds the channels a node knows at once.
	MaxChannels int
	// Replay is how many messages each channel keeps in memory for resuming.
	Replay int
	// LogBudget bounds the memory of all channel logs, bytes.
	LogBudget int64
	// BufferBudget bounds pooled buffers (partial frames, unsent control frames), bytes.
	BufferBudget int64
	// Backlog bounds the kernel memory of bytes that clients have not
	// acknowledged, all together, bytes; writes beyond it wait.
	Backlog int64
	// SendQueue is how many messages a client may be behind before it counts as slow.
	SendQueue int
	// SlowTimeout is how long a client with something to read may take no byte.
	SlowTimeout time.Duration
	// Silences say after how long without a message the followers of a channel are
	// told that it is stale, by pattern; the longest that matches counts, and
	// without one they are not told. It is seen up to a second late.
	Silences []Silence
	// PublishRate is how many messages a second the publish API takes, all
	// publishers together; 0 is no bound. A second's worth, or one full batch if
	// that is more, may come at once.
	PublishRate int
	// RateBurst and RatePerSec are the token bucket for one client's commands.
	RateBurst, RatePerSec int
	// Ping is the interval of WebSocket pings; no sign of life for two of them is 4201.
	Ping time.Duration
	// Heartbeat is after how much silence a client is sent one, so that it can
	// tell a quiet market from a dead connection.
	Heartbeat time.Duration
	// MaxAge closes a connection after about this long with 1012; 0 means never.
	MaxAge time.Duration
	// Drain is how long Shutdown spreads the goodbyes over.
	Drain time.Duration

	// SndBuf and RcvBuf are SO_SNDBUF and SO_RCVBUF of client sockets, bytes
	// as passed to setsockopt (the kernel doubles them).
	SndBuf, RcvBuf int

	// Tokens says who may read; nil: anyone. It is the caller's to close, after
	// Shutdown.
	Tokens *auth.Tokens

	// AllowOrigin lists origins admitted besides an absent one and the Host's
	// own; "*" admits all.
	AllowOrigin []string
	// IPConnections bounds the connections one client address (an IPv6 /64) may
	// have at once, and IPRate how many it may open a second; 0 is no bound.
	IPConnections, IPRate int
	// TrustedProxies may say the client's address in X-Forwarded-For.
	TrustedProxies []netip.Prefix
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

// Silence is how long the channels of a pattern may be silent.
type Silence struct {
	Pattern string // a channel, "trade.*", or "*" for all
	For     time.Duration
}

// ParseSilence reads PATTERN=DURATION.
func ParseSilence(text string) (Silence, error) {
	pattern, d, _ := strings.Cut(text, "=")
	after, err := time.ParseDuration(d)
	if _, _, ok := wire.ParsePattern(pattern); err != nil || after <= 0 || !ok && pattern != "*" {
		return Silence{}, fmt.Errorf("want PATTERN=DURATION such as trade.*=5s, not %q", text)
	}
	return Silence{pattern, after}, nil
}

// silence is how long a channel may be silent, ms; 0: as long as it likes.
func (c *Config) silence(name string) int64 {
	best, length := time.Duration(0), -1
	for _, s := range c.Silences {
		prefix, wildcard := strings.CutSuffix(s.Pattern, "*")
		n := len(prefix)
		if !wildcard && s.Pattern == name {
			n = 1 << 20 // its own name counts more than any wildcard
		} else if !wildcard || !strings.HasPrefix(name, prefix) {
			continue
		}
		if n > length {
			best, length = s.For, n
		}
	}
	return best.Milliseconds()
}

// DefaultConfig returns the defaults of `odin serve`, without a Broker.
func DefaultConfig() Config {
	return Config{
		Addr:             ":8080",
		AdminAddr:        "127.0.0.1:8081",
		MaxConnections:   54613,
		MaxHandshakes:    1024,
		HandshakeTimeout: 10 * time.Second,
		FrameTimeout:     10 * time.Second,
		MaxMessage:       64 << 10,
		MaxPublish:       64 << 10,
		MaxSubscriptions: 1024,

		MoreSubscriptions: 1_000_000,
		MaxChannels:       100_000,
		Replay:            100,
		LogBudget:         64 << 20,
		BufferBudget:      32 << 20,
		Backlog:           64 << 20,
		SendQueue:         256,
		SlowTimeout:       5 * time.Second,
		RateBurst:         100,
		RatePerSec:        10,
		Ping:              20 * time.Second,
		Heartbeat:         15 * time.Second,
		Drain:             30 * time.Second,
		SndBuf:            4096,
		RcvBuf:            4096,
		grace:             (slowStrikes*slowEvery + 2) * tick,
	}
}
