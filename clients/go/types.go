package odin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Position is a place in a channel, or of a wildcard in the stream: the number
// of the last message, in the stream's life that Epoch names.
type Position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// Positions are positions by channel and wildcard.
type Positions map[string]Position

// Message is one message of a channel.
type Message struct {
	Channel string
	Seq     uint64          // the stream's number, the same on every node
	Prev    uint64          // the number of the message before it on this channel
	Skip    uint64          // how many before it were left out: modes Latest and SlowLatest
	Time    time.Time       // when the stream stored it, to the millisecond
	Data    json.RawMessage // the publisher's JSON, byte for byte; yours to keep
}

// Why a Gap is. The server may have others.
const (
	WhyEvicted     = "evicted"      // older than what is kept
	WhyEpoch       = "epoch"        // the stream was made anew; After is a number of the old one
	WhySlow        = "slow"         // this client was too far behind
	WhyBroker      = "broker"       // the server lost it, or can't say what there was
	WhyInvalid     = "invalid"      // published past the gateway, and not deliverable
	WhyUnexplained = "unexplained"  // this client's own: a hole nothing explained and nothing filled
	WhyPosition    = "bad_position" // this client's own: the stream has lost what came before its position
)

// Gap says that messages of a channel with numbers after After and before Before
// were not delivered. Channel may be a wildcard: then it is so for those of its
// channels that messages have not come from since.
type Gap struct {
	Channel       string
	After, Before uint64
	Why           string
	Epoch         string // with WhyEpoch: the new one, whose number Before is; "" if the server did not say
}

// Mode is how much of a channel is wanted.
type Mode int

// All messages, or only the newest of each interval.
const (
	All Mode = iota
	Latest
)

// SubscribeOptions say what to follow and who is told. Channels and OnMessage
// are required.
type SubscribeOptions struct {
	// Channels are names, and wildcards that end in ".*". They may not overlap
	// with each other or with another subscription of the client.
	Channels []string
	// Mode Latest lets the server leave messages out: Message.Skip counts them.
	Mode Mode
	// Every is the interval of Latest; 0 leaves it to the server.
	Every time.Duration
	// SlowLatest lets the server treat a subscription of mode All as Latest
	// while this client is too slow, instead of closing with 4101.
	SlowLatest bool
	// Snapshot asks for the last message of each channel first, where no
	// position is known for it.
	Snapshot bool
	// Since are positions to go on from, of Channels and of channels that its
	// wildcards match. Others are ignored, so all of Positions may be given.
	Since Positions

	// OnMessage is given each message.
	OnMessage func(Message)
	// OnGap is told what was not delivered; nil: Options.OnGap is.
	OnGap func(Gap)
	// OnStale is told that the node has lost the broker, so that there may be
	// newer messages (true), or has it back and has caught up (false). Optional.
	OnStale func(channel string, stale bool)
}

// Token is what a server with token keys wants to see.
type Token struct {
	Value string
	// Expires is when it does; the client asks for a new one in time. Zero:
	// unknown, and the server closes with 4001 when it has.
	Expires time.Time
}

// Options of a Client. All are optional, but for OnGap if a subscription has
// none of its own.
type Options struct {
	// Fallback are URLs of other nodes of the same gateway, tried in turn.
	Fallback []string
	// Token is asked for a token before each connection and before the last one
	// expires. It is sent in the Authorization header and by the op auth, never
	// in a URL.
	Token func(context.Context) (Token, error)

	// OnGap is told of gaps of subscriptions without an OnGap.
	OnGap func(Gap)
	// OnError is told what went wrong, whether the client deals with it or not.
	OnError func(*Error)
	// OnState is told when the connection comes and goes.
	OnState func(State)

	// HTTPClient makes the handshake: proxies, TLS. Its Timeout bounds nothing
	// but that.
	HTTPClient *http.Client
	// Header is added to the handshake.
	Header http.Header

	// MinBackoff and MaxBackoff bound the time before a reconnect: a random part
	// of MinBackoff, doubled with each failure. 500 ms and 30 s. What a server
	// asks for comes on top.
	MinBackoff, MaxBackoff time.Duration
	// MaxMessage is the largest message the server takes (its --max-message),
	// bytes; longer commands are split. 64 KiB.
	MaxMessage int
	// Checkpoint is how often the position of wildcards is brought up to date,
	// so that after a long time it has not been evicted. 5 min.
	Checkpoint time.Duration
}

// State is a change of the connection.
type State struct {
	Connected bool
	URL       string        // of the node, or of the one to be tried next
	Node      string        // connected: the node's name
	Conn      string        // connected: this connection in the node's logs
	RetryIn   time.Duration // not connected: when it is tried again; 0 in the last State of all
	Err       error         // not connected: why
}

// Stats are counters since Dial.
type Stats struct {
	Messages    uint64 // given to OnMessage
	Skipped     uint64 // left out by the server, as their messages said
	Duplicates  uint64 // dropped because they had been given before
	Strays      uint64 // dropped because nobody follows their channel any more
	Gaps        uint64 // given to OnGap
	Unexplained uint64 // holes that no gap explained
	Repaired    uint64 // of those, filled by replay
	Connects    uint64 // connections that were greeted
	RateLimited uint64 // commands that were sent again
}

// Error is something that went wrong. Code is the server's word (bad_channel,
// forbidden, limit, …) or one of the client's: "closed" and "refused" (a close
// code or an HTTP status is in Status), "network", "silent", "bad_frame",
// "unexplained", "chain", "token", "overlap", "options".
type Error struct {
	Code    string
	Message string
	Channel string // the channel or wildcard, if it is about one
	Status  int
	Fatal   bool // the client has ended
	Err     error
}

func (e *Error) Error() string {
	s := "odin: " + e.Code
	if e.Status != 0 {
		s += fmt.Sprintf(" %d", e.Status)
	}
	if e.Channel != "" {
		s += " " + e.Channel
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }
