package capacity

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// DetectHigh reads cgroup v2's memory.high: the smallest of the process's group
// and of each ancestor that is mounted. Above it the kernel takes memory back and
// slows the processes down, but kills nobody: it is no limit, and the formula does
// not use it. ok is false where none is set, and under v1. A file that does not
// parse or cannot be read is an error with its path.
//
// Source: Documentation/admin-guide/cgroup-v2.rst (memory.high).
func DetectHigh(root fs.FS) (high Limit, ok bool, err error) {
	groups, err := cgroupDirs(root)
	if err != nil {
		return Limit{}, false, err
	}
	var highs []Limit
	for _, g := range groups {
		if g.version != 2 {
			continue
		}
		err := g.up(func(dir string) (bool, error) {
			file := path.Join(dir, "memory.high")
			n, set, err := readV2(root, file)
			if set {
				highs = append(highs, Limit{Bytes: n, Source: "cgroup v2 " + file})
			}
			return false, err
		})
		if err != nil {
			return Limit{}, false, err
		}
	}
	if len(highs) == 0 {
		return Limit{}, false, nil
	}
	return slices.MinFunc(highs, func(a, b Limit) int { return cmp.Compare(a.Bytes, b.Bytes) }), true, nil
}

// HighSentence is the warning that a memory.high lies below the limit the formula
// goes by, "" when it does not:
//
//	memory.high 400MB (cgroup v2 /sys/fs/cgroup/memory.high) is below the limit of 512MB: from there on the kernel slows this process down and takes its memory back, before anybody is refused; raise it, or set --memory-limit 400MB
func HighSentence(limit, high Limit) string {
	if high.Source == "" || high.Bytes >= limit.Bytes {
		return ""
	}
	size := FormatSize(high.Bytes)
	return fmt.Sprintf("memory.high %s (%s) is below the limit of %s: from there on the kernel slows this process down and takes its memory back, before anybody is refused; raise it, or set --memory-limit %s",
		size, high.Source, FormatSize(limit.Bytes), size)
}

// readV2 reads one of v2's files with a number of bytes or "max"; ok is false
// for "max" and where the file is not there.
func readV2(root fs.FS, file string) (n int64, ok bool, err error) {
	text, ok, err := readOptional(root, file)
	if !ok || err != nil {
		return 0, false, err
	}
	text = strings.TrimSpace(text)
	if text == "max" {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, false, garbage(file, text)
	}
	return n, true, nil
}
