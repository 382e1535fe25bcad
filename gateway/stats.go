package gateway

import (
	"cmp"
	"runtime"
	"time"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/sysfeed"
)

// Stats is a gateway's condition as /stats shows it. Counts are since the start.
type Stats struct {
	// The keys of the first generation of this service.
	CurrentConnections      int     `json:"currentConnections"`
	MaxConnections          int     `json:"maxConnections"`
	MemoryMB                float64 `json:"memoryMB"` // Go heap and stacks obtained from the system, less what was returned
	SlowClientsDisconnected uint64  `json:"slowClientsDisconnected"`
	RateLimitedMessages     uint64  `json:"rateLimitedMessages"`
	MessageReplayRequests   uint64  `json:"messageReplayRequests"`

	Node          string  `json:"node"`
	Version       string  `json:"version"`
	UptimeSeconds float64 `json:"uptimeSeconds"`
	Goroutines    int     `json:"goroutines"`
	Shards        int     `json:"shards"`

	Handshakes    int64             `json:"handshakes"` // under way
	Admitted      uint64            `json:"admitted"`
	Waiting       int64             `json:"waiting"` // for a place, now
	Waited        uint64            `json:"waited"`
	PeersRefused  uint64            `json:"addressesRefused"`
	Rejected      map[string]uint64 `json:"rejected"`    // handshakes, by HTTP status
	RejectedFor   map[string]uint64 `json:"rejectedFor"` // the same, by the code of the answer
	Closes        map[string]uint64 `json:"closes"`      // by close code; 1006 is gone without one
	Accepted      uint64            `json:"accepted"`
	AcceptRefused uint64            `json:"acceptRefused"` // no descriptor left
	AcceptAborted uint64            `json:"acceptAborted"`
	HeadsAborted  uint64            `json:"headsAborted"`
	PollRefused   uint64            `json:"pollRefused"`

	Subscriptions int64  `json:"subscriptions"`
	Channels      int    `json:"channels"`
	BytesIn       uint64 `json:"bytesIn"`
	BytesOut      uint64 `json:"bytesOut"`
	CommandsIn    uint64 `json:"commandsIn"`
	CommandErrors uint64 `json:"commandErrors"`
	MessagesIn    uint64 `json:"messagesIn"`
	MessagesOut   uint64 `json:"messagesOut"`

	Published      uint64 `json:"published"`
	PublishRefused uint64 `json:"publishRefused"`
	PublishFailed  uint64 `json:"publishFailed"`
	PublishBusy    uint64 `json:"publishBusy"`
	PublishWaited  uint64 `json:"publishWaited"`
	PublishHeld    uint64 `json:"publishHeld"`
	PublishLimited uint64 `json:"publishLimited"`

	Gaps               map[string]uint64 `json:"gaps"`
	Invalid            uint64            `json:"invalidMessages"`
	BadChannel         uint64            `json:"badChannelMessages"`
	NoChannel          uint64            `json:"noChannelMessages"`
	Late               uint64            `json:"lateMessages"`
	Silences           uint64            `json:"silentChannels"`   // times a channel was silent for too long
	Slow               map[string]uint64 `json:"slow"`             // by action: strike, conflate, restore, cut, evict
	Replays            map[string]uint64 `json:"replays"`          // since and replay, by result: complete, gap, refused
	ReplayedMessages   uint64            `json:"replayedMessages"` // in answer to replay commands
	SkippedMessages    uint64            `json:"skippedMessages"`  // passed over for conflated subscriptions
	FellBehind         uint64            `json:"fellBehind"`       // positions that left the logs and went on from the stream
	HistoryReads       uint64            `json:"historyReads"`
	HistoryFailed      uint64            `json:"historyReadsFailed"`
	HistoryBytes       int64             `json:"historyBytes"` // cached
	SlowStrikes        uint64            `json:"slowStrikes"`
	FrameTimeouts      uint64            `json:"frameTimeouts"`
	HeldBack           uint64            `json:"heldBack"`
	Evicted            uint64            `json:"evicted"`
	GoodbyesUnsaid     uint64            `json:"goodbyesUnsaid"`
	GoodbyesUnanswered uint64            `json:"goodbyesUnanswered"`
	Drained            uint64            `json:"drained"`
	PoolOverloads      uint64            `json:"poolOverloads"`
	PoolPanics         uint64            `json:"poolPanics"`
	LoopPanics         uint64            `json:"loopPanics"`
	LookupsFailed      uint64            `json:"lookupsFailed"`
	WildcardOverflow   uint64            `json:"wildcardOverflow"`
	LateTicks          uint64            `json:"lateTicks"`

	Delivery LatencyStats `json:"delivery"` // news, from the stream's timestamp to the write to a socket
	LoopLag  LatencyStats `json:"loopLag"`  // for how long event loops let wait what was ready

	BacklogBytes  int64 `json:"backlogBytes"` // kernel memory charged for unacknowledged bytes
	BacklogBudget int64 `json:"backlogBudgetBytes"`

	SendBuffersGrown  uint64 `json:"sendBuffersGrown"`  // times SO_SNDBUF was doubled for who fills it and takes what it is given
	SendBuffersShrunk uint64 `json:"sendBuffersShrunk"` // times it was taken back under pressure

	Pressure         string `json:"pressure"` // normal, hold, refuse or evict
	MemoryUsedBytes  int64  `json:"memoryUsedBytes,omitempty"`
	MemoryLimitBytes int64  `json:"memoryLimitBytes,omitempty"`
	MemoryErrors     uint64 `json:"memoryErrors"`

	Compression CompressionStats `json:"compression"`

	PooledBytes int64  `json:"pooledBytes"` // buffers lent
	PooledIdle  int64  `json:"pooledIdleBytes"`
	LogBytes    int64  `json:"logBytes"`
	LogBudget   int64  `json:"logBudgetBytes"`
	LogEvicted  uint64 `json:"logChunksEvicted"`

	Tokens     *TokenStats       `json:"tokens,omitempty"` // where a token key is configured
	AuthFailed map[string]uint64 `json:"authFailed"`       // tokens and API keys not accepted, by reason
	Forbidden  uint64            `json:"apiKeysForbidden"` // requests whose API key is for something else
	AdminBusy  uint64            `json:"adminRefused"`     // connections to the admin port beyond its bound
	FilesBad   int64             `json:"accessFilesBad"`   // times a file of keys or revocations was changed to what can't be used
	AuthEnded  map[string]uint64 `json:"authEnded"`        // connections whose token went bad, by reason
	TLS        *TLSStats         `json:"tls,omitempty"`

	ConfigLoadedAt     int64  `json:"configLoadedAt"`     // Unix ms: when the settings in force were taken
	ConfigReloads      uint64 `json:"configReloads"`      // settings taken while running
	ConfigReloadFailed uint64 `json:"configReloadFailed"` // settings that were to be, and could not be used

	LogLinesLeftOut uint64 `json:"logLinesLeftOut"` // of kinds that a client can cause in any number

	Broker BrokerStats `json:"broker"`

	Capacity *capacity.Report `json:"capacity,omitempty"` // the formula with its terms, as odin capacity --json has it
	Memory   MemoryStats      `json:"memory"`
	Feed     sysfeed.Stats    `json:"statsFeed"` // the admin port's /ws
}

// TokenStats is the part of Stats about tokens.
type TokenStats struct {
	Sessions     int64 `json:"sessions"`     // connections that have shown one
	SessionBytes int64 `json:"sessionBytes"` // what they cost beside their slots
	Grants       int   `json:"grants"`       // different ones among them
	Keys         int   `json:"keys"`
	Revoked      int   `json:"revoked"`        // entries of the list
	FetchFails   int64 `json:"keyFetchFailed"` // of sets of keys
	KeysAgeMs    int64 `json:"keysAgeMs"`      // since the oldest set was fetched; -1: one never was
}

// CompressionStats is what permessage-deflate has done.
type CompressionStats struct {
	Connections    int64  `json:"connections"`    // that negotiated it, now
	Messages       uint64 `json:"messages"`       // of the logs compressed, each once for all who are given it
	BytesBefore    uint64 `json:"bytesBefore"`    // of these
	BytesAfter     uint64 `json:"bytesAfter"`     // of these, compressed
	Passed         uint64 `json:"passed"`         // log entries left as they are, or trimmed, because compression was too far behind
	LagMs          int64  `json:"lagMs"`          // for how long what is next to be compressed has waited, now
	Conflated      uint64 `json:"conflated"`      // messages compressed with the number of those passed over
	Inflated       uint64 `json:"inflated"`       // messages of clients
	InflateRefused uint64 `json:"inflateRefused"` // of those, malformed or too big
}

// BrokerStats is the broker's part of Stats.
type BrokerStats struct {
	Connected  bool   `json:"connected"`
	Epoch      string `json:"epoch"`
	Head       uint64 `json:"head"`
	Error      string `json:"error,omitempty"`
	Delivered  uint64 `json:"delivered"`
	Refetched  uint64 `json:"refetched"`
	Lost       uint64 `json:"lost"`
	Duplicates uint64 `json:"duplicates"`
	Overflows  uint64 `json:"overflows"`
	Reconnects uint64 `json:"reconnects"`
	Epochs     uint64 `json:"epochs"` // times the stream was another than before
}

// Stats reads the counters; any goroutine may call it.
func (g *Gateway) Stats() Stats {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	var handshakes int64
	for _, s := range g.shards {
		handshakes += s.headsNow.Load()
	}
	c, h := &g.count, &g.hub.Counters
	state, bc := g.broker.State(), g.broker.Counters()
	st := Stats{
		CurrentConnections:      g.gate.InUse(),
		MaxConnections:          g.gate.Max(),
		MemoryMB:                float64(mem.Sys-mem.HeapReleased) / (1 << 20),
		SlowClientsDisconnected: c.SlowCut.Load(),
		RateLimitedMessages:     c.RateLimited.Load(),
		MessageReplayRequests:   c.Replays[replayDone].Load() + c.Replays[replayGap].Load() + c.Replays[replayRefused].Load(),

		Node:          g.node,
		Version:       cmp.Or(g.cfg.Version, "devel"),
		UptimeSeconds: time.Since(g.started).Seconds(),
		Goroutines:    runtime.NumGoroutine(),
		Shards:        len(g.shards),

		Handshakes:   handshakes,
		Admitted:     c.Admitted.Load(),
		Waiting:      int64(g.room.Counts().Waiting),
		Waited:       c.Waited.Load(),
		PeersRefused: c.PeersRefused.Load(),
		Closes:       nonzero(c.closes[:]),
		HeadsAborted: c.HeadsAborted.Load(),
		PollRefused:  c.AddFailed.Load(),

		Subscriptions: c.Subscriptions.Load(),
		Channels:      g.hub.Len(),
		BytesIn:       c.BytesIn.Load(),
		BytesOut:      c.BytesOut.Load(),
		CommandsIn:    c.CommandsIn.Load(),
		CommandErrors: c.CommandErrors.Load(),
		MessagesIn:    h.Messages.Load(),
		MessagesOut:   c.MessagesOut.Load(),

		Published:      c.Published.Load(),
		PublishRefused: c.PublishRefused.Load(),
		PublishFailed:  c.PublishFailed.Load(),
		PublishBusy:    c.PublishBusy.Load(),
		PublishWaited:  c.PublishWaited.Load(),
		PublishHeld:    c.PublishHeld.Load(),
		PublishLimited: c.PublishLimited.Load(),

		Gaps: map[string]uint64{
			"broker": h.Gaps.Load() + c.GapsBroker.Load(), "invalid": h.Invalid.Load(), "slow": c.GapsSlow.Load(),
			"evicted": c.GapsEvicted.Load(), "epoch": c.GapsEpoch.Load() + h.Epochs.Load(),
		},
		Invalid:    h.Invalid.Load(),
		BadChannel: h.BadChannel.Load(),
		NoChannel:  h.NoChannel.Load(),
		Late:       h.Late.Load(),
		Slow: map[string]uint64{
			"strike": c.SlowStrikes.Load(), "conflate": c.SlowConflated.Load(), "restore": c.SlowRestored.Load(),
			"cut": c.SlowCut.Load(), "evict": c.Evicted.Load(),
		},
		Replays: map[string]uint64{
			"complete": c.Replays[replayDone].Load(), "gap": c.Replays[replayGap].Load(), "refused": c.Replays[replayRefused].Load(),
		},
		ReplayedMessages:   c.Replayed.Load(),
		SkippedMessages:    c.Skipped.Load(),
		FellBehind:         c.FellBehind.Load(),
		HistoryReads:       c.HistoryReads.Load(),
		HistoryFailed:      c.HistoryFailed.Load(),
		HistoryBytes:       g.history.size(),
		SlowStrikes:        c.SlowStrikes.Load(),
		FrameTimeouts:      c.FrameTimeouts.Load(),
		HeldBack:           c.HeldBack.Load(),
		Evicted:            c.Evicted.Load(),
		GoodbyesUnsaid:     c.GoodbyesUnsaid.Load(),
		GoodbyesUnanswered: c.GoodbyesUnanswered.Load(),
		Drained:            c.Drained.Load(),
		PoolOverloads:      c.PoolOverloads.Load(),
		PoolPanics:         c.PoolPanics.Load(),
		LoopPanics:         c.LoopPanics.Load(),
		LookupsFailed:      c.LookupsFailed.Load(),
		WildcardOverflow:   c.WildcardOverflow.Load(),
		LateTicks:          c.LateTicks.Load(),

		Delivery: latencyStats(g.deliveryTimes()),
		LoopLag:  latencyStats(g.loopLags()),

		BacklogBytes:  g.backlog.used.Load(),
		BacklogBudget: g.backlog.limit.Load(),

		SendBuffersGrown:  c.BuffersGrown.Load(),
		SendBuffersShrunk: c.BuffersShrunk.Load(),

		Compression: CompressionStats{
			Connections: c.Compressing.Load(),
			Messages:    h.Deflated.Load(), BytesBefore: h.DeflatedFrom.Load(), BytesAfter: h.DeflatedTo.Load(),
			Passed: h.DeflatePassed.Load(), LagMs: g.hub.DeflateLag(), Conflated: c.Repacked.Load(),
			Inflated: c.Inflated.Load(), InflateRefused: c.InflateRefused.Load(),
		},

		ConfigLoadedAt:     c.ConfigLoadedAt.Load(),
		ConfigReloads:      c.ConfigReloads.Load(),
		ConfigReloadFailed: c.ConfigReloadFailed.Load(),

		PooledBytes: g.pool.InUse(),
		PooledIdle:  g.pool.Idle(),
		LogBytes:    g.hub.Budget().Used(),
		LogBudget:   g.hub.Budget().Limit(),
		LogEvicted:  h.Evicted.Load(),

		Broker: BrokerStats{
			Connected: state.Connected, Epoch: state.Epoch, Head: state.Head,
			Delivered: bc.Delivered, Refetched: bc.Refetched, Lost: bc.Lost,
			Duplicates: bc.Duplicates, Overflows: bc.Overflows, Reconnects: bc.Reconnects, Epochs: h.Epochs.Load(),
		},
	}
	st.RejectedFor, st.Rejected = c.rejected()
	if t := g.cfg.Tokens; t != nil {
		ts, n := t.Stats(), c.Sessions.Load()
		st.Tokens = &TokenStats{
			Sessions: n, SessionBytes: n * sessionBytes, Grants: ts.Grants, Keys: ts.Keys,
			Revoked: ts.Revoked, FetchFails: ts.FetchFails, KeysAgeMs: ts.OldestMs,
		}
		st.FilesBad = ts.FileFails
	}
	if keys := g.cfg.APIKeys; keys != nil {
		st.FilesBad += keys.ReloadFails()
	}
	st.Forbidden, st.AdminBusy = c.KeysForbidden.Load(), c.AdminRefused.Load()
	st.AuthFailed, st.AuthEnded = byReason(&c.AuthFailed), byReason(&c.AuthEnded)
	st.TLS = g.tlsStats()
	st.LogLinesLeftOut = g.sampler.leftOut.Load()
	st.Pressure = capacity.State(g.pressure.Load()).String()
	st.MemoryErrors = c.MemoryErrors.Load()
	if s := g.memory.Load(); s != nil {
		st.MemoryUsedBytes, st.MemoryLimitBytes = s.Used, s.Of.Bytes
	}
	if state.Err != nil {
		st.Broker.Error = state.Err.Error()
	}
	if a := g.acceptor.Load(); a != nil {
		ac := a.Counters()
		st.Accepted, st.AcceptRefused, st.AcceptAborted = ac.Accepted, ac.Refused, ac.Aborted
	}
	if g.cfg.Capacity != nil {
		st.Capacity = g.cfg.Capacity()
	}
	st.Memory = g.memoryStats(&st, int64(mem.Sys-mem.HeapReleased))
	st.Feed = g.feed.Stats()
	return st
}
