package capacity

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	procCgroup    = "/proc/self/cgroup"
	procMountinfo = "/proc/self/mountinfo"
)

// cgroupDir is where a memory limit of this process may stand: its group in one
// mounted hierarchy.
type cgroupDir struct {
	version int    // 1 or 2
	mount   string // the mount point, absolute
	dir     string // the group's directory, mount or below it
}

// limits returns the limits that hold for the group.
func (g cgroupDir) limits(root fs.FS) ([]Limit, error) {
	if g.version == 1 {
		return g.limitsV1(root)
	}
	return g.limitsV2(root)
}

// up calls f with the group's directory and each above it to the mount point,
// until f reports true or an error.
func (g cgroupDir) up(f func(dir string) (done bool, err error)) error {
	for dir := g.dir; ; dir = path.Dir(dir) {
		if done, err := f(dir); done || err != nil || dir == g.mount || dir == "/" {
			return err
		}
	}
}

// cgroupDirs finds this process's groups with a say over memory, in every mount
// that shows them: a bind mount of the host's tree shows ancestors that the
// container's own does not. None on a kernel or in a chroot without cgroups.
func cgroupDirs(root fs.FS) ([]cgroupDir, error) {
	memberships, err := readMemberships(root)
	if err != nil || len(memberships) == 0 {
		return nil, err
	}
	mounts, err := readMounts(root)
	if err != nil {
		return nil, err
	}
	var dirs []cgroupDir
	for _, version := range []int{2, 1} {
		group, member := memberships[version]
		if !member {
			continue
		}
		var blind []cgroupDir
		found := false
		for _, m := range mounts {
			if m.version != version {
				continue
			}
			if below, ok := within(m.root, group); ok {
				dirs = append(dirs, cgroupDir{version, m.point, path.Join(m.point, below)})
				found = true
			} else {
				blind = append(blind, cgroupDir{version, m.point, m.point})
			}
		}
		if !found {
			// The mount shows a part of the tree that the process's path does
			// not lie in (a path or root that leaves the namespace begins with
			// "/.."). The mount point is most often an ancestor of the group or
			// the container's own group: too small a limit is the safe error.
			dirs = append(dirs, blind...)
		}
	}
	return dirs, nil
}

// within returns the part of group below top, both paths in a hierarchy as the
// kernel shows them. It reports false if group is not visible below top.
func within(top, group string) (string, bool) {
	if leaves(top) || leaves(group) {
		return "", false
	}
	if top == "/" || top == group {
		return strings.TrimPrefix(group, top), true
	}
	return strings.CutPrefix(group, top+"/")
}

// leaves reports whether the path points out of the cgroup namespace
// (cgroup_namespaces(7)).
func leaves(p string) bool { return p == "/.." || strings.HasPrefix(p, "/../") }

// readMemberships returns the process's group path by cgroup version: 2 for the
// unified hierarchy, 1 for the v1 hierarchy that has the memory controller.
// Lines are hierarchy-ID:controller-list:cgroup-path (cgroups(7)).
func readMemberships(root fs.FS) (map[int]string, error) {
	text, ok, err := readOptional(root, procCgroup)
	if !ok {
		return nil, err
	}
	groups := make(map[int]string)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "/") {
			return nil, garbage(procCgroup, line)
		}
		switch {
		case f[0] == "0" && f[1] == "":
			groups[2] = strings.TrimSuffix(f[2], " (deleted)")
		case slices.Contains(strings.Split(f[1], ","), "memory"):
			groups[1] = strings.TrimSuffix(f[2], " (deleted)")
		}
	}
	return groups, nil
}

// cgroupMount is a mounted cgroup hierarchy that may limit memory.
type cgroupMount struct {
	version int    // 2, or 1 for the one with the memory controller
	root    string // the group that stands at the mount point
	point   string
}

// readMounts finds them. A line is, by proc_pid_mountinfo(5):
//
//	36 35 98:0 /root /mount/point rw,noatime master:1 - cgroup source rw,memory
//	(1)(2)(3)  (4)   (5)          (6)        (7 …)   (8) (9)   (10)   (11)
//
// with any number of optional fields at (7).
func readMounts(root fs.FS) ([]cgroupMount, error) {
	text, ok, err := readOptional(root, procMountinfo)
	if !ok {
		return nil, err
	}
	var mounts []cgroupMount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if !ok || len(b) < 6 || len(a) < 1 {
			return nil, garbage(procMountinfo, line)
		}
		version := 0
		switch a[0] {
		case "cgroup2":
			version = 2
		case "cgroup":
			if len(a) >= 2 && slices.Contains(strings.Split(a[len(a)-1], ","), "memory") {
				version = 1
			}
		}
		if version == 0 {
			continue
		}
		m := cgroupMount{version, unescape.Replace(b[3]), unescape.Replace(b[4])}
		if !strings.HasPrefix(m.root, "/") || !strings.HasPrefix(m.point, "/") {
			return nil, garbage(procMountinfo, line)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// unescape undoes the kernel's octal escapes (fs/proc_namespace.c, mangle).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")
