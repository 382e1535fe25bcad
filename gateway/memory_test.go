package gateway

import (
	"slices"
	"testing"

	"github.com/odin-ws/odin/capacity"
)

// The terms add up to what is in use, whatever is held against the limit, and name the
// kernel's sockets where they are a part of it.
func TestMemoryTerms(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	st := g.Stats()
	st.CurrentConnections, st.MaxConnections, st.BacklogBytes = 1000, 2000, 3<<20
	st.LogBytes, st.HistoryBytes, st.PooledBytes, st.PooledIdle = 4<<20, 1<<20, 1<<20, 1<<20
	const inGo = 20 << 20
	for source, want := range map[string]struct {
		account string
		sockets bool
	}{
		"cgroup v2 /sys/fs/cgroup/memory.max":                              {"cgroup", true},
		"cgroup v1 /sys/fs/cgroup/memory/memory.limit_in_bytes":            {"cgroup", false},
		"cgroup v1 /sys/fs/cgroup/memory.stat (hierarchical_memory_limit)": {"cgroup", false},
		"host memory /proc/meminfo":                                        {"host", true},
		"--memory-limit":                                                   {"process", false},
	} {
		for _, used := range []int64{0, 1 << 20, inGo, inGo + 1<<20, 200 << 20} {
			g.memory.Store(&capacity.Sample{Used: used, Of: capacity.Limit{Bytes: 512 << 20, Source: source}})
			m := g.memoryStats(&st, inGo)
			sum, names := int64(0), []string(nil)
			for _, term := range m.Terms {
				if term.Bytes < 0 {
					t.Errorf("%s: %+v", source, term)
				}
				sum += term.Bytes
				names = append(names, term.Name)
			}
			if m.Account != want.account || sum != used || slices.Contains(names, "kernel: sockets") != want.sockets || slices.Contains(names, "backlog") != want.sockets {
				t.Errorf("%s, %d in use: %d in %+v", source, used, sum, m)
			}
			if used > 100<<20 && (m.Terms[0].Bytes != st.LogBytes || m.Terms[3].Bytes != inGo-7<<20) {
				t.Errorf("%s: %+v", source, m.Terms)
			}
		}
	}
	g.memory.Store(nil)
	m := g.memoryStats(&st, inGo)
	sum := int64(0)
	for _, term := range m.Terms {
		sum += term.Bytes
	}
	if m.Account != "go" || sum != inGo {
		t.Errorf("%d in %+v", sum, m)
	}
}
