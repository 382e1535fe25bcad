package capacity

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// limitsV2 returns memory.max of the group and its visible ancestors. The file
// is absent in the root group and where the memory controller is not enabled;
// "max" is no limit.
func (g cgroupDir) limitsV2(root fs.FS) ([]Limit, error) {
	var limits []Limit
	err := g.up(func(dir string) (bool, error) {
		file := path.Join(dir, "memory.max")
		text, ok, err := readOptional(root, file)
		if !ok || err != nil {
			return false, err
		}
		text = strings.TrimSpace(text)
		if text == "max" {
			return false, nil
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return false, garbage(file, text)
		}
		limits = append(limits, Limit{Bytes: n, Source: "cgroup v2 " + file})
		return false, nil
	})
	return limits, err
}
