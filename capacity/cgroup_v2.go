package capacity

import (
	"io/fs"
	"path"
)

// limitsV2 returns memory.max of the group and its visible ancestors. The file
// is absent in the root group and where the memory controller is not enabled;
// "max" is no limit.
func (g cgroupDir) limitsV2(root fs.FS) ([]Limit, error) {
	var limits []Limit
	err := g.up(func(dir string) (bool, error) {
		file := path.Join(dir, "memory.max")
		n, set, err := readV2(root, file)
		if set {
			limits = append(limits, Limit{Bytes: n, Source: "cgroup v2 " + file})
		}
		return false, err
	})
	return limits, err
}
