package gateway

import (
	"cmp"
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway/auth"
)

// The values of labels. Each list is all there are, in no order that matters.
var (
	gapReasons    = []string{"evicted", "epoch", "slow", "broker", "invalid"}
	slowActions   = []string{"strike", "conflate", "restore", "cut", "evict"}
	replayEnds    = []string{"complete", "gap", "refused"}
	pressures     = []string{capacity.Normal.String(), capacity.Hold.String(), capacity.Refuse.String(), capacity.Evict.String()}
	closeCodes    = []string{"1000", "1001", "1002", "1003", "1006", "1007", "1008", "1009", "1011", "1012", "1013", "4001", "4003", "4101", "4102", "4201", other}
	rejectReasons = func() (codes []string) {
		for _, r := range refusalCodes {
			codes = append(codes, r.code)
		}
		return codes
	}()
	authReasons = func() (names []string) {
		for r := range auth.Reasons {
			if r != auth.OK {
				names = append(names, r.String())
			}
		}
		return names
	}()
)

// other is the label of what clients make up: close codes of their own.
const other = "other"

// metrics are all but the histograms. docs/operations.md lists them.
var metrics = describe([]metric{
	// Connections.
	gauge("connections", "WebSocket connections now.", func(s *Stats) float64 { return float64(s.CurrentConnections) }),
	gauge("connections_max", "WebSocket connections there is room for.", func(s *Stats) float64 { return float64(s.MaxConnections) }),
	gauge("capacity_ratio", "Connections now, as a part of those there is room for; 1 where there is room for none.", func(s *Stats) float64 {
		if s.MaxConnections == 0 {
			return 1
		}
		return float64(s.CurrentConnections) / float64(s.MaxConnections)
	}),
	gauge("handshakes", "Handshakes under way: accepted and not upgraded.", func(s *Stats) float64 { return float64(s.Handshakes) }),
	gauge("admission_waiting", "Handshakes that wait for a place.", func(s *Stats) float64 { return float64(s.Waiting) }),
	counter("admission_waited_total", "Handshakes that had to wait for a place.", func(s *Stats) uint64 { return s.Waited }),
	counter("admitted_total", "Handshakes that became WebSocket connections.", func(s *Stats) uint64 { return s.Admitted }),
	countersBy("rejected_total", "Handshakes refused, by the code of the answer.", "reason", rejectReasons, func(s *Stats, v string) uint64 { return s.RejectedFor[v] }),
	counter("addresses_rejected_total", "Handshakes refused because their address has too many connections open, or opens too many.", func(s *Stats) uint64 { return s.PeersRefused }),
	countersBy("closes_total", "Connections closed, by close code; 1006 is those gone without one.", "code", closeCodes, closesOf),
	counter("drained_total", "Connections told to come back later, or elsewhere.", func(s *Stats) uint64 { return s.Drained }),
	countersBy("goodbyes_failed_total", "Connections reset at their end: unsaid, the socket did not take the last bytes; unanswered, the client did not close after them.", "reason", []string{"unsaid", "unanswered"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"unsaid": s.GoodbyesUnsaid, "unanswered": s.GoodbyesUnanswered}[v]
	}),
	counter("accepted_total", "TCP connections accepted on the public port.", func(s *Stats) uint64 { return s.Accepted }),
	counter("accept_refused_total", "TCP connections refused because no descriptor was left.", func(s *Stats) uint64 { return s.AcceptRefused }),
	counter("accept_aborted_total", "TCP connections gone before they were accepted.", func(s *Stats) uint64 { return s.AcceptAborted }),
	counter("heads_aborted_total", "TCP connections closed by the client before its request was whole.", func(s *Stats) uint64 { return s.HeadsAborted }),
	counter("poll_refused_total", "Connections that epoll did not take.", func(s *Stats) uint64 { return s.PollRefused }),
	counter("frame_timeouts_total", "Connections closed because a message was not finished in time.", func(s *Stats) uint64 { return s.FrameTimeouts }),

	// Messages.
	counter("messages_in_total", "Messages the broker delivered and a log took.", func(s *Stats) uint64 { return s.MessagesIn }),
	counter("messages_out_total", "Log entries written to sockets, whole or begun: messages, gaps, and what is said of freshness.", func(s *Stats) uint64 { return s.MessagesOut }),
	countersBy("messages_ignored_total", "Stored messages not delivered as such: invalid, announced as a gap; bad_channel, on a subject that is no channel; no_channel, of a channel beyond the most; late, delivered before.", "reason", []string{"invalid", "bad_channel", "no_channel", "late"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"invalid": s.Invalid, "bad_channel": s.BadChannel, "no_channel": s.NoChannel, "late": s.Late}[v]
	}),
	counter("bytes_in_total", "Bytes read from clients.", func(s *Stats) uint64 { return s.BytesIn }),
	counter("bytes_out_total", "Bytes written to clients.", func(s *Stats) uint64 { return s.BytesOut }),
	countersBy("gaps_total", "Gaps announced, by reason. Once for each who is told, but in three cases: broker and invalid count once for all followers of a channel, epoch once for all who were there when the stream changed.", "why", gapReasons, func(s *Stats, v string) uint64 { return s.Gaps[v] }),
	gauge("subscriptions", "Subscriptions now.", func(s *Stats) float64 { return float64(s.Subscriptions) }),
	gauge("channels", "Channels this node knows.", func(s *Stats) float64 { return float64(s.Channels) }),
	counter("channel_silences_total", "Times a channel was silent for longer than configured.", func(s *Stats) uint64 { return s.Silences }),
	counter("wildcard_overflows_total", "New channels that a wildcard matched beyond its connection's limit.", func(s *Stats) uint64 { return s.WildcardOverflow }),

	// Commands.
	counter("commands_in_total", "Messages from clients.", func(s *Stats) uint64 { return s.CommandsIn }),
	counter("command_errors_total", "Commands answered with an error.", func(s *Stats) uint64 { return s.CommandErrors }),
	counter("rate_limited_total", "Commands refused for their rate.", func(s *Stats) uint64 { return s.RateLimitedMessages }),

	// Replays and the stream's past.
	countersBy("replay_requests_total", "Requests for the past, since and replay: complete; gap, a part could not be had; refused.", "result", replayEnds, func(s *Stats, v string) uint64 { return s.Replays[v] }),
	counter("replayed_messages_total", "Log entries sent in answer to replay commands.", func(s *Stats) uint64 { return s.ReplayedMessages }),
	counter("fell_behind_total", "Subscriptions that fell off a channel's log and went on from the stream.", func(s *Stats) uint64 { return s.FellBehind }),
	counter("history_reads_total", "Reads of the stream for those who are behind the logs.", func(s *Stats) uint64 { return s.HistoryReads }),
	counter("history_read_failures_total", "Of those, the ones that failed.", func(s *Stats) uint64 { return s.HistoryFailed }),
	gauge("history_cache_bytes", "Memory of what was read of the stream.", func(s *Stats) float64 { return float64(s.HistoryBytes) }),
	counter("lookup_failures_total", "Questions about a channel that the broker did not answer.", func(s *Stats) uint64 { return s.LookupsFailed }),

	// Slow clients.
	countersBy("slow_total", "Slow clients, by what was done: strike, seen too far behind; conflate and restore; cut, disconnected; evict, reset for the memory it held.", "action", slowActions, func(s *Stats, v string) uint64 { return s.Slow[v] }),
	counter("skipped_messages_total", "Messages passed over for conflated subscriptions.", func(s *Stats) uint64 { return s.SkippedMessages }),
	counter("held_back_total", "Writes not made for want of backlog budget.", func(s *Stats) uint64 { return s.HeldBack }),
	gauge("backlog_bytes", "Kernel memory charged for bytes that clients have not acknowledged.", func(s *Stats) float64 { return float64(s.BacklogBytes) }),
	gauge("backlog_limit_bytes", "The most that may be.", func(s *Stats) float64 { return float64(s.BacklogBudget) }),
	countersBy("send_buffer_changes_total", "Times a send buffer was doubled for who takes what it is given, or taken back.", "direction", []string{"grow", "shrink"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"grow": s.SendBuffersGrown, "shrink": s.SendBuffersShrunk}[v]
	}),

	// Memory.
	gauge("cgroup_memory_bytes", "Memory that counts against the limit, less what the kernel can reclaim; 0 where it is not watched.", func(s *Stats) float64 { return float64(s.MemoryUsedBytes) }),
	gauge("cgroup_memory_limit_bytes", "The memory limit; 0 where it is not watched.", func(s *Stats) float64 { return float64(s.MemoryLimitBytes) }),
	gaugesBy("memory_pressure", "1 for the state that memory is in: normal; hold, the store takes no more than its share; refuse, nobody is admitted; evict, who holds memory without progress is cut.", "state", pressures, func(s *Stats, v string) float64 { return truth(s.Pressure == v) }),
	counter("memory_read_errors_total", "Readings of the memory in use that were not whole.", func(s *Stats) uint64 { return s.MemoryErrors }),
	gauge("log_bytes", "Memory of all channels' logs.", func(s *Stats) float64 { return float64(s.LogBytes) }),
	gauge("log_limit_bytes", "The most that may be.", func(s *Stats) float64 { return float64(s.LogBudget) }),
	counter("log_chunks_evicted_total", "Chunks of logs dropped for that limit, younger than promised.", func(s *Stats) uint64 { return s.LogEvicted }),
	gauge("buffers_lent_bytes", "Pooled buffers in use.", func(s *Stats) float64 { return float64(s.PooledBytes) }),
	gauge("buffers_idle_bytes", "Pooled buffers kept for the next who needs one.", func(s *Stats) float64 { return float64(s.PooledIdle) }),

	// The machinery.
	gauge("shards", "Event loops.", func(s *Stats) float64 { return float64(s.Shards) }),
	counter("late_ticks_total", "Ticks of 100 ms that busy event loops missed.", func(s *Stats) uint64 { return s.LateTicks }),
	counter("pool_overloads_total", "Work refused because the worker pool was full.", func(s *Stats) uint64 { return s.PoolOverloads }),
	countersBy("panics_total", "Mistakes in the program that cost one connection each: loop, in a handler on an event loop; pool, in a worker.", "where", []string{"loop", "pool"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"loop": s.LoopPanics, "pool": s.PoolPanics}[v]
	}),
	counter("log_lines_left_out_total", "Log lines left out because clients caused too many of their kind.", func(s *Stats) uint64 { return s.LogLinesLeftOut }),
	countersBy("config_reloads_total", "Times the configuration was read again.", "result", []string{"ok", "failed"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"ok": s.ConfigReloads, "failed": s.ConfigReloadFailed}[v]
	}),
	gauge("config_loaded_timestamp_seconds", "When the settings in force were taken, Unix time.", func(s *Stats) float64 { return float64(s.ConfigLoadedAt) / 1e3 }),

	// The status page.
	gauge("stats_feed_connections", "Connections of the admin port's /ws.", func(s *Stats) float64 { return float64(s.Feed.Connections) }),
	gauge("stats_feed_subscribers", "Of those, the ones that follow _sys.stats.", func(s *Stats) float64 { return float64(s.Feed.Subscribers) }),
	counter("stats_feed_samples_total", "Messages of _sys.stats made, each once for all subscribers.", func(s *Stats) uint64 { return s.Feed.Samples }),
	counter("stats_feed_sent_total", "Messages of _sys.stats written.", func(s *Stats) uint64 { return s.Feed.Sent }),
	counter("stats_feed_cut_total", "Connections of the admin port's /ws reset because they took nothing.", func(s *Stats) uint64 { return s.Feed.Cut }),

	// Publishers.
	countersBy("publish_total", "Publications through the admin port: stored; refused, bad ones; limited, beyond --publish-rate; held, refused by the store because it held as much as memory has room for; failed, not acknowledged by the broker.", "result", []string{"stored", "refused", "limited", "held", "failed"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"stored": s.Published, "refused": s.PublishRefused, "limited": s.PublishLimited, "held": s.PublishHeld, "failed": s.PublishFailed}[v]
	}),
	counter("publish_waited_total", "Publish requests that waited because the store held as much as memory had room for.", func(s *Stats) uint64 { return s.PublishWaited }),
	counter("publish_busy_total", "Publish requests refused because too many bytes were under way, or the store held as much as memory had room for.", func(s *Stats) uint64 { return s.PublishBusy }),

	// The broker.
	gauge("broker_connected", "1 while publishes and reads work.", func(s *Stats) float64 { return truth(s.Broker.Connected) }),
	gauge("broker_head", "The last sequence of the stream this node was given.", func(s *Stats) float64 { return float64(s.Broker.Head) }),
	counter("broker_delivered_total", "Messages the broker delivered.", func(s *Stats) uint64 { return s.Broker.Delivered }),
	counter("broker_refetched_total", "Of those, the ones missed live and read from the stream.", func(s *Stats) uint64 { return s.Broker.Refetched }),
	counter("broker_lost_total", "Messages that the stream no longer had when they were missed.", func(s *Stats) uint64 { return s.Broker.Lost }),
	counter("broker_duplicates_total", "Live copies of messages delivered already.", func(s *Stats) uint64 { return s.Broker.Duplicates }),
	counter("broker_overflows_total", "Times live delivery outran this node.", func(s *Stats) uint64 { return s.Broker.Overflows }),
	counter("broker_reconnects_total", "Times the connection to the broker was made anew.", func(s *Stats) uint64 { return s.Broker.Reconnects }),
	counter("broker_epochs_total", "Times the stream was found to be another than before: every position is void then.", func(s *Stats) uint64 { return s.Broker.Epochs }),

	// Compression.
	gauge("compression_connections", "Connections that negotiated compression.", func(s *Stats) float64 { return float64(s.Compression.Connections) }),
	counter("compression_messages_total", "Messages of the logs compressed, each once for all who are given it.", func(s *Stats) uint64 { return s.Compression.Messages }),
	countersBy("compression_bytes_total", "Bytes of these messages, before and after.", "stage", []string{"before", "after"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"before": s.Compression.BytesBefore, "after": s.Compression.BytesAfter}[v]
	}),
	counter("compression_passed_total", "Log entries left as they were because compression was too far behind.", func(s *Stats) uint64 { return s.Compression.Passed }),
	gauge("compression_lag_seconds", "For how long what is next to be compressed has waited.", func(s *Stats) float64 { return float64(s.Compression.LagMs) / 1e3 }),
	counter("compression_conflated_total", "Conflated messages compressed.", func(s *Stats) uint64 { return s.Compression.Conflated }),
	counter("inflated_messages_total", "Messages of clients that came compressed.", func(s *Stats) uint64 { return s.Compression.Inflated }),
	counter("inflate_refused_total", "Of those, the malformed and the too big.", func(s *Stats) uint64 { return s.Compression.InflateRefused }),

	// Who may do what.
	countersBy("auth_failures_total", "Tokens and API keys not accepted.", "reason", authReasons, func(s *Stats, v string) uint64 { return s.AuthFailed[v] }),
	countersBy("auth_ended_total", "Connections ended because their token went bad.", "reason", authReasons, func(s *Stats, v string) uint64 { return s.AuthEnded[v] }),
	counter("api_key_forbidden_total", "Requests whose API key is for something else.", func(s *Stats) uint64 { return s.Forbidden }),
	counter("admin_rejected_total", "Connections to the admin port beyond its bound.", func(s *Stats) uint64 { return s.AdminBusy }),
	counter("access_file_failures_total", "Times a file of keys or revocations was changed to what can't be used.", func(s *Stats) uint64 { return uint64(max(0, s.FilesBad)) }),
	gauge("token_sessions", "Connections that have shown a token.", func(s *Stats) float64 { return float64(s.tokens().Sessions) }),
	gauge("token_session_bytes", "What these cost beside their connections.", func(s *Stats) float64 { return float64(s.tokens().SessionBytes) }),
	gauge("token_grants", "Different permissions among them.", func(s *Stats) float64 { return float64(s.tokens().Grants) }),
	gauge("token_keys", "Keys that tokens are verified with.", func(s *Stats) float64 { return float64(s.tokens().Keys) }),
	gauge("token_revocations", "Entries of the list of revocations.", func(s *Stats) float64 { return float64(s.tokens().Revoked) }),
	counter("token_key_fetch_failures_total", "Sets of token keys that could not be fetched.", func(s *Stats) uint64 { return uint64(max(0, s.tokens().FetchFails)) }),
	gauge("token_keys_age_seconds", "Since the set of token keys that is longest out of date was fetched; +Inf when one never was, 0 without sets.", func(s *Stats) float64 {
		if s.tokens().KeysAgeMs < 0 {
			return math.Inf(1)
		}
		return float64(s.tokens().KeysAgeMs) / 1e3
	}),

	// TLS.
	gauge("tls_handshakes", "TLS handshakes under way.", func(s *Stats) float64 { return float64(s.tls().Handshakes) }),
	gauge("tls_handshakes_waiting", "TLS handshakes that wait to begin.", func(s *Stats) float64 { return float64(s.tls().Waiting) }),
	counter("tls_handshakes_done_total", "TLS handshakes that succeeded.", func(s *Stats) uint64 { return s.tls().Done }),
	countersBy("tls_handshakes_failed_total", "TLS handshakes that came to nothing.", "reason", shakeReasons[:], func(s *Stats, v string) uint64 { return s.tls().Failed[v] }),
	countersBy("tls_connections_total", "TLS connections, by who does their records: kernel, or own, this process.", "records", []string{"kernel", "own"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"kernel": s.tls().KernelRecords, "own": s.tls().OwnRecords}[v]
	}),
	countersBy("tls_connection_failures_total", "TLS connections ended by what their client sent, or did not: bad_record, alert, key_update refused, key_flood, record_timeout; or no_buffer was left.", "reason", tlsFailures, func(s *Stats, v string) uint64 {
		t := s.tls()
		return map[string]uint64{"bad_record": t.BadRecords, "alert": t.PeerAlerts, "key_update": t.KeyUpdates, "key_flood": t.KeyFloods, "record_timeout": t.RecordTimeouts, "no_buffer": t.NoBuffer}[v]
	}),
	counter("tls_records_partial_total", "TLS records that a socket took in part.", func(s *Stats) uint64 { return s.tls().Rests }),
	countersBy("tls_certificates_total", "Certificates that replaced one while running: taken, or refused.", "result", []string{"taken", "refused"}, func(s *Stats, v string) uint64 {
		return map[string]uint64{"taken": s.tls().CertificatesTaken, "refused": s.tls().CertificatesBad}[v]
	}),
	gauge("tls_certificate_expiry_timestamp_seconds", "When the certificate in use is no longer valid, Unix time; 0 without TLS.", func(s *Stats) float64 { return float64(s.tls().CertificateEnds) }),
})

var tlsFailures = []string{"bad_record", "alert", "key_update", "key_flood", "record_timeout", "no_buffer"}

func gauge(name, help string, of func(*Stats) float64) metric {
	return metric{name: name, help: help, kind: prometheus.GaugeValue, one: of}
}

func gaugesBy(name, help, label string, values []string, of func(*Stats, string) float64) metric {
	return metric{name: name, help: help, kind: prometheus.GaugeValue, label: label, values: values, of: of}
}

func counter(name, help string, of func(*Stats) uint64) metric {
	return metric{name: name, help: help, kind: prometheus.CounterValue, one: func(s *Stats) float64 { return float64(of(s)) }}
}

// countersBy is counter for a name with a label.
func countersBy(name, help, label string, values []string, of func(*Stats, string) uint64) metric {
	return metric{
		name: name, help: help, kind: prometheus.CounterValue, label: label, values: values,
		of: func(s *Stats, v string) float64 { return float64(of(s, v)) },
	}
}

// describe gives each its description.
func describe(ms []metric) []metric {
	for i := range ms {
		m := &ms[i]
		if m.label == "" {
			m.desc = newDesc(m.name, m.help)
		} else {
			m.desc = newDesc(m.name, m.help, m.label)
		}
	}
	return ms
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// closesOf is how many connections were closed with a code; other is those with one
// that has no series of its own.
func closesOf(s *Stats, code string) uint64 {
	if code != other {
		return s.Closes[code]
	}
	n := uint64(0)
	for c, k := range s.Closes {
		if !slices.Contains(closeCodes, c) {
			n += k
		}
	}
	return n
}

// tokens is the part about tokens, all zero where there is none.
func (s *Stats) tokens() *TokenStats { return cmp.Or(s.Tokens, new(TokenStats)) }

// tls is the part about TLS, all zero where there is none.
func (s *Stats) tls() *TLSStats { return cmp.Or(s.TLS, new(TLSStats)) }
