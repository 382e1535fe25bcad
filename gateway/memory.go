package gateway

import (
	"strings"

	"github.com/odin-ws/odin/capacity"
)

// MemoryStats says what the memory in use is, by who holds it. The terms add up to
// Stats.MemoryUsedBytes; where that is not watched, to what Go has.
type MemoryStats struct {
	// Account is what is held against the limit: the "cgroup" (v1 does not charge the
	// kernel's sockets to it), this "process" alone
	// (a limit set by hand; the kernel's sockets are not in it), the "host" with all that
	// runs there, or "go" where none is watched.
	Account string       `json:"account"`
	Source  string       `json:"source,omitempty"` // where the limit was read from
	Terms   []MemoryTerm `json:"terms"`
}

// MemoryTerm is one holder of memory, bytes.
type MemoryTerm struct {
	Name   string `json:"name"`
	What   string `json:"what"`
	Bytes  int64  `json:"bytes"`
	Budget int64  `json:"budget,omitempty"` // what it may hold; 0: it has no budget of its own
}

// memoryStats splits the memory in use. goBytes is what Go has from the system. What
// is measured goes first; the kernel's part is reckoned by the model, and what is left
// is the rest, or nothing where the reckoning comes to more than there is.
func (g *Gateway) memoryStats(st *Stats, goBytes int64) MemoryStats {
	m := MemoryStats{Account: "go"}
	left := goBytes
	if s := g.memory.Load(); s != nil {
		m.Account, m.Source, left = accountOf(s.Of.Source), s.Of.Source, s.Used
	}
	take := func(bytes int64) int64 {
		bytes = max(0, min(bytes, left))
		left -= bytes
		return bytes
	}
	add := func(name, what string, bytes, budget int64) {
		m.Terms = append(m.Terms, MemoryTerm{name, what, bytes, budget})
	}
	inGo := goBytes
	own := func(name, what string, bytes, budget int64) {
		bytes = take(min(bytes, inGo))
		inGo -= bytes
		add(name, what, bytes, budget)
	}
	own("channel logs", "the messages all channels keep", st.LogBytes, st.LogBudget)
	own("history cache", "what was read of the stream for those behind the logs", st.HistoryBytes, g.history.limit.Load())
	own("pooled buffers", "partial frames, frames not yet taken, and buffers at rest", st.PooledBytes+st.PooledIdle, g.live.Load().BufferBudget)
	own("Go heap and stacks", "all else in Go's memory: connections, subscriptions, the embedded broker, garbage", inGo, 0)
	unseen := strings.HasPrefix(m.Source, "cgroup v1") // it does not charge sockets to the group
	if m.Account == "cgroup" && !unseen || m.Account == "host" {
		sockets := int64(st.CurrentConnections) + st.Handshakes
		add("backlog", "bytes sent and not yet acknowledged, as charged", take(st.BacklogBytes), st.BacklogBudget)
		add("kernel: sockets", "reckoned: "+capacity.FormatSize(capacity.KernelPerConnection)+" for each", take(sockets*capacity.KernelPerConnection),
			int64(st.MaxConnections)*capacity.KernelPerConnection)
	}
	switch rest := left; m.Account {
	case "go":
	case "host":
		add("rest", "the program's pages, the kernel's, and all else that runs on this machine", rest, 0)
	default:
		add("rest", "the program's pages, page tables, the store's files in memory", rest, 0)
	}
	return m
}

// accountOf says what a limit's source limits.
func accountOf(source string) string {
	switch {
	case strings.HasPrefix(source, "cgroup"):
		return "cgroup"
	case strings.HasPrefix(source, "host"):
		return "host"
	}
	return "process"
}
