package gateway

import (
	"net/netip"
	"time"

	"github.com/odin-ws/odin/capacity"
)

// Live is the part of a Config that Reload may change. What each change means to those
// who are connected stands at its field; where nothing does, it holds for them from the
// next moment it matters. A Live that was given to New or Reload is never modified.
type Live struct {
	// MaxConnections is the most WebSocket connections admitted at once, the
	// result of the capacity formula; at least 1. Those beyond a lowered one stay,
	// and nobody is admitted until enough have left.
	MaxConnections int
	// Recompute gives the most connections and the backlog, bytes, under a limit that
	// has changed, 0 connections with the reason when it holds none; nil:
	// MaxConnections and Backlog stand.
	Recompute func(capacity.Limit) (connections int, backlog int64, err error)
	// RejectWS upgrades those there is no place for and closes them with 1013, those
	// without a good token with 4001, instead of answering 503 and 401.
	RejectWS bool

	// MaxMessage is the largest message a client may send, bytes (1009 past it), also
	// one that is under way.
	MaxMessage int
	// MaxSubscriptions bounds one connection; a wildcard counts its matches. Who has
	// more keeps them.
	MaxSubscriptions int
	// MoreSubscriptions bounds the subscriptions beyond IncludedSubscriptions of
	// each connection, of all connections together.
	MoreSubscriptions int
	// Replay is how many messages each channel keeps in memory for resuming. A larger
	// one is reached as messages come.
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
	// RateBurst and RatePerSec are the token bucket for one client's commands. A
	// client that was told others in its hello is held against these all the same.
	RateBurst, RatePerSec int
	// Heartbeat is after how much silence a client is sent one, so that it can
	// tell a quiet market from a dead connection.
	Heartbeat time.Duration
	// MaxAge closes a connection after about this long with 1012; 0 means never.
	MaxAge time.Duration
	// Drain is how long Shutdown spreads the goodbyes over.
	Drain time.Duration

	// AllowOrigin lists origins admitted besides an absent one and the Host's
	// own; "*" admits all. Looked at once, in the handshake.
	AllowOrigin []string
	// IPConnections bounds the connections one client address (an IPv6 /64) may
	// have at once, and IPRate how many it may open a second; 0 is no bound. Who came
	// while neither was bounded is not counted.
	IPConnections, IPRate int
	// TrustedProxies may say the client's address in X-Forwarded-For. Looked at once,
	// in the handshake.
	TrustedProxies []netip.Prefix
}

// boundsPeers reports whether an address may do only so much.
func (l *Live) boundsPeers() bool { return l.IPConnections > 0 || l.IPRate > 0 }

// pastBudget is the part of LogBudget that is for what was read of the stream, bytes.
func (l *Live) pastBudget() int64 { return l.LogBudget / historyShare }

// keep is how many messages the logs keep of a channel.
func (l *Live) keep() int { return max(l.Replay, l.SendQueue) }

// ipConfig is what the limiter is to enforce.
func (l *Live) ipConfig() capacity.IPConfig {
	return capacity.IPConfig{Connections: l.IPConnections, Rate: l.IPRate}
}
