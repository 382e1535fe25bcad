package capacity

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// FuzzLimit lets a kernel write anything into the files that say how much
// memory there is. What is understood is a limit no larger than the host's, from
// a file that is there; what is not is an error that names a file and the way
// out. The running watch, which reads the same files by other code, agrees.
func FuzzLimit(f *testing.F) {
	const unlimited = "9223372036854771712\n"
	add := func(cgroup, mounts, own, above, stat, meminfo string) {
		f.Add(cgroup, mounts, own, above, stat, meminfo)
	}
	add("0::/a/b\n", v2Mount, "536870912\n", "max\n", "", hostMemory)
	add("0::/a/b (deleted)\n", v2Mount, "max\n", "268435456\n", "", hostMemory)
	add("4:memory:/a/b\n2:cpu,cpuacct:/\n", v1Mounts, unlimited, "1048576\n", "cache 1\nhierarchical_memory_limit 268435456\n", hostMemory)
	add("4:memory:/a/b\n0::/a/b\n", hybridMounts, "18446744073709551615\n", "0\n", "hierarchical_memory_limit "+unlimited, hostMemory)
	add("0::/../other\n", v2Mount, "99999999999999999999\n", "-1\n", "", "MemTotal: 5 MB\n")
	add("0::/a b/c\n", `510 500 0:26 /a\040b /my\040cg\134x ro - cgroup2 cgroup rw`+"\n", "1\n", "2\n", "3", "MemTotal: 0 kB\n")
	add("0::/\n", "30 22 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "", "", "", "")
	root := f.TempDir()
	for path := range memoryFiles("", "", "", "", "", "") {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o700); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "proc/self"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, cgroup, mounts, own, above, stat, meminfoText string) {
		files := memoryFiles(cgroup, mounts, own, above, stat, meminfoText)
		got, err := DetectLimit(files)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "capacity: ") || !strings.Contains(err.Error(), "--memory-limit") || !strings.Contains(err.Error(), "/") {
				t.Fatalf("an error that helps nobody: %v", err)
			}
			return
		}
		if got.Bytes < 0 {
			t.Fatalf("%+v", got)
		}
		host, err := hostLimit(files)
		if err != nil || len(host) > 0 && got.Bytes > host[0].Bytes {
			t.Fatalf("%+v, of the host's %v, %v", got, host, err)
		}
		at := strings.TrimSuffix(got.Source[strings.IndexByte(got.Source, '/'):], " (hierarchical_memory_limit)")
		if _, err := fs.Stat(files, strings.TrimPrefix(at, "/")); err != nil {
			t.Fatalf("%+v: %v", got, err)
		}
		if n, ok := field([]byte(stat), "hierarchical_memory_limit"); ok && n > got.Bytes && strings.HasSuffix(got.Source, ".limit_in_bytes") {
			return // no kernel: the hierarchical limit is at most the group's own, and the watch goes by that
		}
		for path, file := range files {
			if err := os.WriteFile(filepath.Join(root, path), file.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		u, err := OpenUsage(UsageConfig{Root: root})
		if err != nil {
			return // of what only the watch reads, or what a limit can do without
		}
		defer u.Close()
		if s := u.Read(); s.Err == nil && s.Limit.Bytes != got.Bytes {
			t.Fatalf("the formula goes by %+v, the watch by %+v", got, s.Limit)
		}
	})
}

// memoryFiles is a file system with these files; own, above and stat are what the group
// /a/b and those above it say wherever a hierarchy may be mounted.
func memoryFiles(cgroup, mounts, own, above, stat, meminfoText string) fstest.MapFS {
	files := map[string]string{
		meminfo: meminfoText + "\nMemAvailable: 1 kB\n", procCgroup: cgroup, procMountinfo: mounts, "/proc/self/statm": "1 1 1 1 0 1 0\n",
	}
	stat += "\ninactive_file 1\ntotal_inactive_file 1\n"
	for _, at := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"} {
		for dir, text := range map[string]string{at: above, at + "/a": above, at + "/a/b": own} {
			for name, text := range map[string]string{"max": text, "limit_in_bytes": text, "current": "2", "usage_in_bytes": "2", "stat": stat} {
				files[dir+"/memory."+name] = text
			}
		}
	}
	return tree("", "", files)
}
