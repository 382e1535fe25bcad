package capacity

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Limit is how much memory this process may use, and who says so.
type Limit struct {
	// Bytes is the limit; 0 is a limit too (a cgroup may say so).
	Bytes int64 `json:"bytes"`
	// Source is the file it was read from with its kind, for people, like
	// "cgroup v2 /sys/fs/cgroup/memory.max", or a flag's name if the user set it.
	Source string `json:"source"`
}

// flag is the flag that raises the limit: the one that set it, if one did.
func (l Limit) flag() string {
	if strings.HasPrefix(l.Source, "--") {
		return l.Source
	}
	return "--memory-limit"
}

// DetectLimit reads the memory limit of this process: the smallest of
//
//   - cgroup v2: memory.max of its group and of each ancestor that is mounted,
//   - cgroup v1: memory.limit_in_bytes of its group, and
//     hierarchical_memory_limit of that group's memory.stat, which includes the
//     ancestors, mounted or not,
//   - the host: MemTotal of /proc/meminfo.
//
// root is the file system's root, os.DirFS("/") in production. The group is
// found by /proc/self/cgroup and /proc/self/mountinfo, so containers, bind
// mounts, hybrid layouts and private namespaces need no settings. Files that
// are not there do not limit; a file that is there but does not parse or cannot
// be read is an error with its path. Of equal limits the host's is named, then
// v2's, the nearest group first. Nothing is cached.
//
// Sources: Documentation/admin-guide/cgroup-v2.rst (memory.max),
// cgroup-v1/memory.rst (section 5.2), cgroups(7), proc_pid_mountinfo(5),
// cgroup_namespaces(7).
func DetectLimit(root fs.FS) (Limit, error) {
	limits, err := hostLimit(root)
	if err != nil {
		return Limit{}, err
	}
	groups, err := cgroupDirs(root)
	if err != nil {
		return Limit{}, err
	}
	for _, g := range groups {
		more, err := g.limits(root)
		if err != nil {
			return Limit{}, err
		}
		limits = append(limits, more...)
	}
	if len(limits) == 0 {
		return Limit{}, fmt.Errorf("capacity: no memory limit found: no cgroup sets one and %s is not there; set --memory-limit", meminfo)
	}
	return slices.MinFunc(limits, func(a, b Limit) int { return cmp.Compare(a.Bytes, b.Bytes) }), nil
}

const meminfo = "/proc/meminfo"

// hostLimit reads MemTotal, the most any process can have (proc_meminfo(5)).
// None if the file is not there.
func hostLimit(root fs.FS) ([]Limit, error) {
	text, ok, err := readOptional(root, meminfo)
	if !ok {
		return nil, err
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemTotal:" {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil || kib <= 0 || kib > 1<<52 || len(f) != 3 || f[2] != "kB" {
			return nil, garbage(meminfo, line)
		}
		return []Limit{{Bytes: kib << 10, Source: "host memory " + meminfo}}, nil
	}
	return nil, garbage(meminfo, text)
}

// readOptional reads the file at an absolute path below root; ok is false if it
// is not there. An error names the path.
func readOptional(root fs.FS, path string) (text string, ok bool, err error) {
	b, err := fs.ReadFile(root, strings.TrimPrefix(path, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err // its path lacks the leading slash
	}
	if err != nil {
		return "", false, fmt.Errorf("capacity: reading %s: %w; set --memory-limit to go without it", path, err)
	}
	return string(b), true, nil
}

// garbage is the error for contents that no kernel writes.
func garbage(path, contents string) error {
	contents = strings.TrimSpace(contents)
	if len(contents) > 80 {
		contents = contents[:80] + "…"
	}
	return fmt.Errorf("capacity: %s: cannot make sense of %q; set --memory-limit to go without it", path, contents)
}
