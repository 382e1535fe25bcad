package capacity

import "fmt"

// Sentence is the line the start-up log is known for, with the maximum that is
// enforced, whichever bound it comes from:
//
//	Calculated max connections: 54613 (based on 6KB per connection + 192MB overhead)
//
// The units are always KB and MB, with up to two decimals where the figures are
// not whole, so that a script can read it.
func (r Result) Sentence() string {
	return fmt.Sprintf("Calculated max connections: %d (based on %s per connection + %s overhead)",
		r.Max, formatIn(r.BytesPerConnection, 1), formatIn(r.Overhead, 2))
}

// BoundSentence says which bound won, what each would allow, and where the
// memory limit was read from:
//
//	Bound by memory: memory allows 54613, file descriptors allow 999744, not configured; memory limit 512MB read from cgroup v2 /sys/fs/cgroup/memory.max
func (r Result) BoundSentence() string {
	descriptors := "file descriptors not applied"
	if r.ByDescriptors > 0 {
		descriptors = fmt.Sprintf("file descriptors allow %d", r.ByDescriptors)
	}
	configured := "not configured"
	if r.Configured > 0 {
		configured = fmt.Sprintf("configured %d", r.Configured)
	}
	return fmt.Sprintf("Bound by %s: memory allows %d, %s, %s; memory limit %s read from %s",
		r.Bound, r.ByMemory, descriptors, configured, FormatSize(r.Limit.Bytes), r.Limit.Source)
}
