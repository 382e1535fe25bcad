package gateway

import (
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// counters is everything a gateway counts. Each grows only, but those that say now.
// Any goroutine.
type counters struct {
	Admitted      atomic.Uint64 // upgraded
	PeersRefused  atomic.Uint64 // handshakes refused for their address
	Waited        atomic.Uint64 // handshakes that waited for a place
	AddFailed     atomic.Uint64 // accepted, and refused by epoll
	HeadsAborted  atomic.Uint64 // left before their request head was whole
	PlainRequests atomic.Uint64 // handed to net/http

	CertificatesTaken atomic.Uint64 // TLS certificates replaced while running
	CertificatesBad   atomic.Uint64 // and those that could not be used

	ConfigReloads      atomic.Uint64
	ConfigReloadFailed atomic.Uint64 // settings that were to be taken, and could not be
	ConfigLoadedAt     atomic.Int64  // Unix ms: those in force, of the start or of a reload

	BytesIn     atomic.Uint64
	BytesOut    atomic.Uint64
	CommandsIn  atomic.Uint64 // messages from clients
	MessagesOut atomic.Uint64 // log entries written to sockets, whole or begun

	CommandErrors      atomic.Uint64 // answered err
	RateLimited        atomic.Uint64 // commands refused for their rate
	PoolOverloads      atomic.Uint64 // commands refused because the pool was full
	PoolPanics         atomic.Uint64 // workers that panicked
	LoopPanics         atomic.Uint64 // handlers on a shard that did
	LookupsFailed      atomic.Uint64 // the broker didn't say where a channel stands
	WildcardOverflow   atomic.Uint64 // new channels a wildcard matched beyond its connection's limit
	GapsSlow           atomic.Uint64 // positions that fell off the log, and could not be had from the stream
	GapsEvicted        atomic.Uint64 // positions older than what there is
	GapsEpoch          atomic.Uint64 // positions of another epoch
	GapsBroker         atomic.Uint64 // positions whose messages could not be read from the stream
	FellBehind         atomic.Uint64 // positions that fell off the log and went on from the stream
	HistoryReads       atomic.Uint64 // of the stream, for those behind the logs
	HistoryFailed      atomic.Uint64
	Replayed           atomic.Uint64 // frames sent in answer to replay commands
	Skipped            atomic.Uint64 // messages passed over for conflated subscriptions
	SlowStrikes        atomic.Uint64
	SlowConflated      atomic.Uint64 // clients conflated because they were slow
	SlowRestored       atomic.Uint64 // of those, given every message again
	SlowCut            atomic.Uint64
	FrameTimeouts      atomic.Uint64 // messages not finished in time
	HeldBack           atomic.Uint64 // writes not made for want of backlog budget
	BuffersGrown       atomic.Uint64 // times a send buffer was doubled
	BuffersShrunk      atomic.Uint64 // times one was taken back
	Evicted            atomic.Uint64 // connections reset for holding that budget without progress
	GoodbyesUnsaid     atomic.Uint64 // closed by reset: the socket didn't take the last words
	GoodbyesUnanswered atomic.Uint64 // the peer didn't close after them
	Drained            atomic.Uint64 // told to come back later
	MemoryErrors       atomic.Uint64 // readings of the memory in use that were not whole
	LateTicks          atomic.Uint64 // ticks a busy loop missed
	PublishRefused     atomic.Uint64 // publications refused before the broker
	PublishBusy        atomic.Uint64 // requests refused for the bytes under way, or for what the store holds
	PublishWaited      atomic.Uint64 // requests that waited for the store, refused or not in the end
	PublishHeld        atomic.Uint64 // publications the store refused for what it holds
	PublishLimited     atomic.Uint64 // publications refused for their rate
	PublishFailed      atomic.Uint64 // publications the broker did not ack
	Published          atomic.Uint64

	Repacked       atomic.Uint64 // conflated messages compressed, one for all who passed over as many
	Inflated       atomic.Uint64 // messages of clients that came compressed
	InflateRefused atomic.Uint64 // of those, malformed or too big

	Subscriptions atomic.Int64 // now
	Compressing   atomic.Int64 // connections that negotiated compression, now

	Replays [replayResults]atomic.Uint64 // since and replay, by how it went

	Sessions      atomic.Int64                // connections that have shown a token, now
	AuthFailed    [auth.Reasons]atomic.Uint64 // tokens and API keys not accepted, by reason
	KeysForbidden atomic.Uint64               // requests of an API key of another role
	AdminRefused  atomic.Uint64               // connections to the admin port beyond its bound
	AuthEnded     [auth.Reasons]atomic.Uint64 // connections whose token went bad, by reason

	refusals [len(refusalCodes)]atomic.Uint64 // handshakes refused, by code
	closes   [5000]atomic.Uint64              // connections closed, by close code
}

// How a request for the past went.
const (
	replayDone    = iota // all of it is there
	replayGap            // a part of it can't be had
	replayRefused        // it asked for what there can't be
	replayResults
)

// resumed counts a subscription with a position; recovered is what its ack says.
func (c *counters) resumed(recovered *bool) {
	switch {
	case recovered == nil:
	case *recovered:
		c.Replays[replayDone].Add(1)
	default:
		c.Replays[replayGap].Add(1)
	}
}

// gap counts a gap told to one connection.
func (c *counters) gap(why string) {
	switch why {
	case channel.WhyEpoch:
		c.GapsEpoch.Add(1)
	case channel.WhyEvicted:
		c.GapsEvicted.Add(1)
	case channel.WhyBroker:
		c.GapsBroker.Add(1)
	default:
		c.GapsSlow.Add(1)
	}
}

// refusalCodes are the codes of refusals, each with its HTTP status. One that is not
// here counts as the last.
var refusalCodes = [...]struct {
	code   string
	status int
}{
	{"bad_request", http.StatusBadRequest}, {"tls_required", http.StatusBadRequest}, {"unauthorized", http.StatusUnauthorized},
	{"forbidden", http.StatusForbidden}, {"not_found", http.StatusNotFound}, {"method_not_allowed", http.StatusMethodNotAllowed},
	{"timeout", http.StatusRequestTimeout}, {"uri_too_long", http.StatusRequestURITooLong}, {"upgrade_required", http.StatusUpgradeRequired},
	{"ip_connections", http.StatusTooManyRequests}, {"ip_rate", http.StatusTooManyRequests},
	{"head_too_large", http.StatusRequestHeaderFieldsTooLarge}, {"internal", http.StatusInternalServerError},
	{"at_capacity", http.StatusServiceUnavailable}, {"draining", http.StatusServiceUnavailable}, {"busy", http.StatusServiceUnavailable},
	{"keys_unavailable", http.StatusServiceUnavailable},
	{"version_not_supported", http.StatusHTTPVersionNotSupported}, {"other", http.StatusInternalServerError},
}

// refusalIndex is where a code is in refusalCodes.
var refusalIndex = func() map[string]int {
	m := make(map[string]int, len(refusalCodes))
	for i, c := range refusalCodes {
		m[c.code] = i
	}
	return m
}()

func (c *counters) refused(ref *wire.Refusal) {
	i, known := refusalIndex[ref.Code]
	if !known {
		i = len(refusalCodes) - 1
	}
	c.refusals[i].Add(1)
}

// rejected is what was refused, by code and by status, the latter without zeros.
func (c *counters) rejected() (byCode, byStatus map[string]uint64) {
	byCode, byStatus = make(map[string]uint64, len(refusalCodes)), make(map[string]uint64)
	for i, r := range refusalCodes {
		n := c.refusals[i].Load()
		byCode[r.code] = n
		if n > 0 {
			byStatus[strconv.Itoa(r.status)] += n
		}
	}
	return byCode, byStatus
}

func (c *counters) closed(code uint16) {
	if int(code) < len(c.closes) {
		c.closes[code].Add(1)
	}
}

// nonzero renders an array of counters as JSON object keys.
func nonzero(a []atomic.Uint64) map[string]uint64 {
	m := make(map[string]uint64)
	for i := range a {
		if n := a[i].Load(); n > 0 {
			m[strconv.Itoa(i)] = n
		}
	}
	return m
}

// byReason renders counters by reason, those that are not zero.
func byReason(a *[auth.Reasons]atomic.Uint64) map[string]uint64 {
	m := make(map[string]uint64)
	for r := range auth.Reasons {
		if n := a[r].Load(); n > 0 {
			m[r.String()] = n
		}
	}
	return m
}
