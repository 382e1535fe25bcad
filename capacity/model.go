package capacity

import "fmt"

// Term is one summand of the formula: who holds how much memory, and how that
// is known.
type Term struct {
	Name   string `json:"name"`
	What   string `json:"what"`
	Bytes  int64  `json:"bytes"`
	Per    string `json:"per"` // PerConnection or PerProcess
	Source string `json:"source"`
}

// What Term.Per may be.
const (
	PerConnection = "connection"
	PerProcess    = "process"
)

// sum adds the terms up, bytes.
func sum(terms []Term) (n int64) {
	for _, t := range terms {
		n += t.Bytes
	}
	return n
}

// Where the event-loop profile's figures come from.
const (
	fromSlabinfo = "measured on Linux 6.18: /proc/slabinfo, an object with its part of the slab's waste"
	fromCharge   = "measured: 4.9 KB charged by cgroup v2 on Linux 6.1 against 3.9 KB of objects on 6.18"
)

// SubscriptionCost is what a subscription beyond the first 16 of a connection
// draws on the shared budget, bytes: 8 with the connection, 16 with the channel,
// and half as much again for arrays that grow ahead of need.
const SubscriptionCost = 36

// IncludedSubscriptions is how many of a connection OwnPerConnection covers.
const IncludedSubscriptions = 16

// ConnectionTerms returns what one connection may hold under the profile with
// that many messages of replay; together they are its bytes per connection.
func (p Profile) ConnectionTerms(replay int) []Term {
	var terms []Term
	add := func(bytes int64, name, what, source string) {
		terms = append(terms, Term{name, what, bytes, PerConnection, source})
	}
	switch {
	case p == EventLoop:
		add(2520, "kernel: socket", "struct tcp_sock, IPv4 or IPv6, 13 in 32 KiB", fromSlabinfo)
		add(863, "kernel: inode", "the socket's inode with its wait queue, 19 in 16 KiB", fromSlabinfo)
		add(392, "kernel: file", "struct file and its directory entry, 21 of each in 4 KiB", fromSlabinfo)
		add(192, "kernel: epoll", "the item in the epoll (128), and in the socket's wait queue (64)", fromSlabinfo)
		add(16, "kernel: descriptor", "its place in the process's table, which doubles when full", "Linux, fs/file.c")
		add(KernelPerConnection-sum(terms), "kernel: charged on top", "accounting, pages partly used, the page a socket keeps after a transfer", fromCharge)

		const slot, poller, ext = 96, 64, 208
		add(slot, "slot", "its place in the shard's slab (80) and on two lists", "gateway/slab.go, held by a test")
		add(poller, "poller", "its callback (24) and that one's entry in a map (up to 39)", "netpoll/loop.go; measured 40–54")
		add(ext, "unfinished business", "state of a half-read or half-written frame (200); none while idle", "gateway/slab.go, held by a test")
		add(8+16, "first subscription", "which channel (8), and its position there (16)", "gateway/slab.go and gateway/channel, held by a test")
		const more = IncludedSubscriptions - 1
		add(more*(8+16), "subscriptions 2 to 16", "24 each; more draw on the budget all share", "gateway/slab.go and gateway/channel, held by a test")
		add(OwnPerConnection-slot-poller-ext-IncludedSubscriptions*(8+16), "slack", "arrays that grow ahead of need, garbage until the collector comes", "the rest of 1 KiB")
	case replay == 0:
		add(goroutineWithoutLog, "first phase", "send queue and all else, as the first generation of this service budgeted it", "its documentation")
	default:
		add(goroutineQueue, "send queue", "a channel of 256 messages of 500 B on average", "the first generation's documentation")
		add(int64(replay)*goroutineMessage, "replay buffer", fmt.Sprintf("%d messages kept for this client alone, 512 B each", replay), "the first generation's documentation")
		add(goroutineRest, "client", "its struct, mutexes and pointers; the kernel's socket was forgotten", "the first generation's documentation")
	}
	return terms
}

// ConnectionTerms returns what BytesPerConnection is made of.
func (r Result) ConnectionTerms() []Term {
	terms := append(r.Profile.ConnectionTerms(r.Replay), r.TLS.connectionTerms()...)
	terms = append(terms, tokenTerms(r.Tokens)...)
	if sum(terms) == r.BytesPerConnection {
		return terms
	}
	return []Term{{"as set", "in place of the profile's " + FormatSize(sum(terms)), r.BytesPerConnection, PerConnection, "--bytes-per-connection"}}
}

// ProcessTerms returns what Overhead is made of: the budgets of the runtime
// overhead, the backlog, and compression where it is on. Its error is that of Budgets.
func (r Result) ProcessTerms() ([]Term, error) {
	b, err := Budgets(r.Limit.Bytes, r.RuntimeOverhead)
	if err != nil {
		return nil, err
	}
	backlog := Term{"backlog", "bytes sent and not yet acknowledged, all clients together", r.Backlog, PerProcess, "--backlog; an eighth of the limit unless set"}
	if r.Profile == Goroutine {
		backlog.What, backlog.Source = "none: the send queue is counted per connection", "--backlog"
	}
	terms := append(b.Terms(), backlog)
	if r.TLS != TLSNone {
		terms = append(terms, Term{"tls handshakes", fmt.Sprintf("%d of them under way, %s each", r.TLSHandshakes(), FormatSize(TLSHandshake)), r.TLSHandshakeBytes, PerProcess, "a thirty-second of the limit, 42 MiB at most; measured 23 KB each, and the sockets of it and of one that waits"})
	}
	if r.Compression > 0 {
		terms = append(terms, Term{"compression", "compressors and decompressors; what they make counts with the logs and the pooled buffers", r.Compression, PerProcess, "measured: so many and no more, whatever the number of connections"})
	}
	return terms, nil
}

// outsideGo is the part of the runtime overhead, in percent, that the runtime
// does not count: the program's pages, page tables, pages of the store's files,
// the kernel's share of handshakes under way.
const outsideGo = 40

// GoMemLimit returns what to give debug.SetMemoryLimit for this result, bytes:
// the limit less what lies outside Go's memory by this model, which is the
// backlog, the kernel's share of Max connections and of TLS handshakes, and 40 % of
// the overhead. What
// remains holds all that Go has under the model when every term is full. Where
// nothing fits (see Recompute), it is Go's part of the overhead.
//
// With the default overhead and 512 MiB it is what the function GoMemLimit
// returns. In larger containers that one keeps a tenth of all memory from Go,
// more than the model leaves to spare; in smaller ones its floor of 64 MiB is
// more than there is.
func (r Result) GoMemLimit() int64 {
	kernel := int64(KernelPerConnection)
	if r.TLS == TLSKernel {
		kernel += TLSKernelPerConnection
	}
	kernel = min(kernel, r.BytesPerConnection)
	outside := r.RuntimeOverhead/100*outsideGo + int64(r.TLSHandshakes())*tlsHandshakeKernel
	return max(r.Limit.Bytes-r.Backlog-int64(r.Max)*kernel-outside, r.RuntimeOverhead+r.TLSHandshakeBytes-outside)
}
