package capacity

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// unlimitedV1 is where v1's values begin to mean "no limit": the kernel shows
// LONG_MAX rounded down to its page size (PAGE_COUNTER_MAX), older ones
// LLONG_MAX or ULLONG_MAX. No machine has 4 EiB.
const unlimitedV1 = 1 << 62

// limitsV1 returns the limit of the group and the one its ancestors leave it.
// The second covers ancestors outside the mount, as in a Docker container. If
// the group's directory is not there, its nearest ancestor stands in.
func (g cgroupDir) limitsV1(root fs.FS) ([]Limit, error) {
	var limits []Limit
	add := func(value, file, note string) error {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return garbage(file, value)
		}
		if n < unlimitedV1 {
			limits = append(limits, Limit{Bytes: int64(n), Source: "cgroup v1 " + file + note})
		}
		return nil
	}
	err := g.up(func(dir string) (bool, error) {
		own := path.Join(dir, "memory.limit_in_bytes")
		text, found, err := readOptional(root, own)
		if !found || err != nil {
			return false, err
		}
		if err := add(strings.TrimSpace(text), own, ""); err != nil {
			return true, err
		}
		stat := path.Join(dir, "memory.stat")
		text, _, err = readOptional(root, stat)
		if err != nil {
			return true, err
		}
		const key = "hierarchical_memory_limit"
		for line := range strings.Lines(text) {
			if value, ok := strings.CutPrefix(line, key+" "); ok {
				return true, add(strings.TrimSpace(value), stat, " ("+key+")")
			}
		}
		return true, nil
	})
	return limits, err
}
