package capacity

import (
	"fmt"
	"slices"
	"strings"
)

// Shares is the runtime overhead, split. Every share is a bound that its owner
// enforces, bytes.
type Shares struct {
	// Runtime is for what has no bound of its own: Go's runtime and stacks, the
	// program's pages, page tables, tables that grow with channels, garbage
	// that waits for the collector.
	Runtime int64 `json:"runtime"`
	// Broker is for the embedded server: its queues, caches and index, and the
	// node's subscription to it.
	Broker int64 `json:"broker"`
	// Logs bounds the channel logs (gateway.Config.LogBudget).
	Logs int64 `json:"logs"`
	// Buffers bounds pooled buffers: request heads, partial frames, control
	// frames not yet taken (gateway.Config.BufferBudget).
	Buffers int64 `json:"buffers"`
	// Subscriptions is for those beyond 16 a connection, all connections
	// together; see MoreSubscriptions.
	Subscriptions int64 `json:"subscriptions"`
	// Handshakes is for connections without a place at the gate: not upgraded
	// yet, waiting for a place, or being told that there is none; see
	// Unadmitted.
	Handshakes int64 `json:"handshakes"`
}

// share is how much of the overhead goes where: least, and at 128 MiB.
type share struct {
	name, what, source string
	least, usual       int64
	of                 func(*Shares) *int64
}

var shares = []share{
	{"runtime", "runtime, stacks, the program's pages, garbage until the collector comes", "measured: 22 MB idle, 17 MB of it the program's pages",
		26*MiB + 384*KiB, 56 * MiB, func(s *Shares) *int64 { return &s.Runtime }},
	{"embedded broker", "the JetStream server: its queues, caches and index", "measured: 17 MB with the runtime, idle; its queues are bounded by this share",
		8 * MiB, 28 * MiB, func(s *Shares) *int64 { return &s.Broker }},
	{"channel logs", "the messages all channels keep, which are the send queues and the replay too", "enforced: the oldest messages go first",
		2 * MiB, 24 * MiB, func(s *Shares) *int64 { return &s.Logs }},
	{"pooled buffers", "request heads, partial frames, control frames not yet taken", "enforced: refused beyond it",
		1 * MiB, 8 * MiB, func(s *Shares) *int64 { return &s.Buffers }},
	{"more subscriptions", fmt.Sprintf("those beyond %d a connection, %d B each", IncludedSubscriptions, SubscriptionCost), "enforced: answered with limit beyond it",
		256 * KiB, 4 * MiB, func(s *Shares) *int64 { return &s.Subscriptions }},
	{"handshakes", "connections not upgraded yet, waiting for a place, or being refused, 6 KB each, 8 with TLS", "enforced: the oldest is answered 408 beyond it",
		384 * KiB, 8 * MiB, func(s *Shares) *int64 { return &s.Handshakes }},
}

// buffersAt is the place of the pooled buffers in shares.
const buffersAt = 3

var buffersShare = shares[buffersAt]

// Needs are floors for shares; zero values mean the usual ones.
type Needs struct {
	// Buffers is the least the pooled buffers must hold, bytes: a few of the
	// longest messages, where --max-message is large.
	Buffers int64
}

// Budgets splits the runtime overhead under a memory limit, both bytes. Each
// share grows from its least (at 38 MiB) through its usual size (at 128
// MiB) in a straight line; what rounding leaves is the runtime's. An error
// names the flags and what would be enough.
func Budgets(limit, overhead int64) (Shares, error) {
	return BudgetsFor(limit, overhead, Needs{})
}

// BudgetsFor is Budgets with floors.
func BudgetsFor(limit, overhead int64, need Needs) (Shares, error) {
	switch {
	case limit <= 0:
		return Shares{}, fmt.Errorf("capacity: a memory limit of %s holds nothing: raise it or set --memory-limit", FormatSize(limit))
	case overhead <= 0:
		return Shares{}, fmt.Errorf("capacity: a runtime overhead of %s holds nothing: raise --runtime-overhead", FormatSize(overhead))
	case overhead >= limit:
		return Shares{}, fmt.Errorf("capacity: the memory limit of %s leaves nothing beyond the runtime overhead of %s: raise --memory-limit or lower --runtime-overhead", FormatSize(limit), FormatSize(overhead))
	}
	var out Shares
	grows, usual, left := shares, int64(0), overhead
	for _, s := range shares {
		usual += s.usual
	}
	if need.Buffers > buffersShare.at(overhead, usual) {
		// They are served first, and the others grow with what is left.
		grows, usual = slices.Concat(shares[:buffersAt], shares[buffersAt+1:]), usual-buffersShare.usual
		out.Buffers = need.Buffers
		left -= need.Buffers
	}
	if least := leastOf(grows); left < least {
		why, hint := "", ""
		if out.Buffers > 0 {
			why = fmt.Sprintf(" with %s for buffers of the longest messages", FormatSize(out.Buffers))
			hint = ", or lower --max-message"
		}
		return Shares{}, fmt.Errorf("capacity: a runtime overhead of %s is too little%s: the least is %s (%s); raise --runtime-overhead, and --memory-limit if need be%s",
			FormatSize(overhead), why, FormatSize(least+out.Buffers), leastShares(grows), hint)
	}
	of := left
	for _, s := range grows {
		*s.of(&out) = s.grow(of, leastOf(grows), usual)
		left -= *s.of(&out)
	}
	out.Runtime += left
	return out, nil
}

// at returns the share of an overhead that all share.
func (s share) at(overhead, usual int64) int64 { return s.grow(overhead, leastOf(shares), usual) }

// grow returns the share of a total on the line through its least at one total
// and its usual at another, whole pages.
func (s share) grow(total, least, usual int64) int64 {
	more := float64(s.usual-s.least) * float64(max(0, total-least)) / float64(usual-least)
	return s.least + int64(more)/4096*4096
}

func leastOf(of []share) (n int64) {
	for _, s := range of {
		n += s.least
	}
	return n
}

func leastShares(of []share) string {
	text := make([]string, len(of))
	for i, s := range of {
		text[i] = s.name + " " + FormatSize(s.least)
	}
	return strings.Join(text, ", ")
}

// MoreSubscriptions is how many subscriptions beyond 16 a connection fit, all
// connections together.
func (s Shares) MoreSubscriptions() int { return int(s.Subscriptions / SubscriptionCost) }

// Unadmitted is how many connections may be open without a place at the gate; with
// TLS these have shaken hands.
func (s Shares) Unadmitted(t TLSRecords) int {
	return int(s.Handshakes / (KernelPerConnection + OwnPerConnection + t.perConnection()))
}

// Terms returns the shares by name; together they are the runtime overhead.
func (s Shares) Terms() []Term {
	terms := make([]Term, len(shares))
	for i, one := range shares {
		terms[i] = Term{one.name, one.what, *one.of(&s), PerProcess, one.source}
	}
	return terms
}
