package capacity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// world is a file system of one process, on disk so that it can change under
// open files.
type world struct {
	t    *testing.T
	root string
}

func newWorld(t *testing.T, files map[string]string) world {
	t.Helper()
	w := world{t, t.TempDir()}
	w.set(map[string]string{
		meminfo:            "MemTotal:       1048576 kB\nMemFree: 1 kB\nMemAvailable:    524288 kB\n", // 1 GiB, half of it free
		"/proc/self/statm": "30000 25600 1000 1 0 1 0\n",
	})
	w.set(files)
	return w
}

// set writes files; a text of "-" removes one.
func (w world) set(files map[string]string) {
	w.t.Helper()
	for path, text := range files {
		at := filepath.Join(w.root, path)
		if text == "-" {
			if err := os.RemoveAll(at); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil { // in place: open files see it
			w.t.Fatal(err)
		}
	}
}

func (w world) open(cfg UsageConfig) *Usage {
	w.t.Helper()
	cfg.Root = w.root
	u, err := OpenUsage(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(u.Close)
	return u
}

const v2Stat = "anon 1\nfile 9\nactive_file 7\ninactive_file 104857600\nslab 3\n" // 100 MiB inactive

// group2 is a v2 group's files.
func group2(dir, limit, current string) map[string]string {
	return map[string]string{dir + "/memory.max": limit + "\n", dir + "/memory.current": current + "\n", dir + "/memory.stat": v2Stat}
}

func both(maps ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range maps {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func TestUsage(t *testing.T) {
	const group = "/sys/fs/cgroup"
	v1 := func(dir, limit, usage, hierarchical string) map[string]string {
		return map[string]string{
			dir + "/memory.limit_in_bytes": limit + "\n", dir + "/memory.usage_in_bytes": usage + "\n",
			dir + "/memory.stat": "cache 1\ninactive_file 5\nhierarchical_memory_limit " + hierarchical + "\ntotal_cache 9\ntotal_inactive_file 52428800\n", // 50 MiB
		}
	}
	const unlimited = "9223372036854771712"
	host := Limit{GiB, "host memory /proc/meminfo"}
	for name, tc := range map[string]struct {
		cgroup, mounts string
		files          map[string]string
		set            Limit
		kernel         int64
		used           int64
		of, limit      Limit // limit zero: as of
	}{
		"v2": {
			cgroup: "0::/a\n", mounts: v2Mount,
			files: group2(group+"/a", "536870912", "419430400"), // 400 MiB
			used:  300 * MiB, of: Limit{512 * MiB, "cgroup v2 /sys/fs/cgroup/a/memory.max"},
		},
		"v2 ancestor's limit, ancestor's use": {
			cgroup: "0::/a/b\n", mounts: v2Mount,
			files: both(group2(group+"/a", "268435456", "209715200"), group2(group+"/a/b", "max", "157286400")),
			used:  100 * MiB, of: Limit{256 * MiB, "cgroup v2 /sys/fs/cgroup/a/memory.max"},
		},
		"v2 the smaller of two": {
			cgroup: "0::/a/b\n", mounts: v2Mount,
			files: both(group2(group+"/a", "536870912", "419430400"), group2(group+"/a/b", "268435456", "157286400")),
			used:  50 * MiB, of: Limit{256 * MiB, "cgroup v2 /sys/fs/cgroup/a/b/memory.max"},
		},
		"v2 all of it inactive": {
			cgroup: "0::/a\n", mounts: v2Mount, files: group2(group+"/a", "536870912", "1048576"),
			used: 0, of: Limit{512 * MiB, "cgroup v2 /sys/fs/cgroup/a/memory.max"},
		},
		"v2 nothing allowed": {
			cgroup: "0::/a\n", mounts: v2Mount, files: group2(group+"/a", "0", "105906176"),
			used: MiB, of: Limit{0, "cgroup v2 /sys/fs/cgroup/a/memory.max"},
		},
		"v2 without a limit": {
			cgroup: "0::/a\n", mounts: v2Mount, files: group2(group+"/a", "max", "419430400"),
			used: 512 * MiB, of: host,
		},
		"v1": {
			cgroup: "4:memory:/a\n", mounts: v1Mounts, files: v1(group+"/memory/a", "536870912", "419430400", "536870912"),
			used: 350 * MiB, of: Limit{512 * MiB, "cgroup v1 /sys/fs/cgroup/memory/a/memory.limit_in_bytes"},
		},
		"v1 ancestor's limit, ancestor's use": {
			cgroup: "4:memory:/a/b\n", mounts: v1Mounts,
			files: both(v1(group+"/memory/a", "268435456", "209715200", "268435456"), v1(group+"/memory/a/b", unlimited, "104857600", "268435456")),
			used:  150 * MiB, of: Limit{256 * MiB, "cgroup v1 /sys/fs/cgroup/memory/a/memory.limit_in_bytes"},
		},
		"v1 ancestor without use_hierarchy": {
			cgroup: "4:memory:/a/b\n", mounts: v1Mounts,
			files: both(v1(group+"/memory/a", "1048576", "1048576", "1048576"), v1(group+"/memory/a/b", "536870912", "104857600", "536870912")),
			used:  50 * MiB, of: Limit{512 * MiB, "cgroup v1 /sys/fs/cgroup/memory/a/b/memory.limit_in_bytes"},
		},
		"v1 Docker, ancestor outside the mount": {
			cgroup: "11:memory:/docker/4f\n", mounts: "700 690 0:32 /docker/4f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			files: v1(group+"/memory", "536870912", "104857600", "268435456"),
			used:  50 * MiB, of: Limit{256 * MiB, "cgroup v1 /sys/fs/cgroup/memory/memory.stat (hierarchical_memory_limit)"},
		},
		"v1 without a limit": {
			cgroup: "4:memory:/a\n", mounts: v1Mounts, files: v1(group+"/memory/a", unlimited, "419430400", unlimited),
			used: 512 * MiB, of: host,
		},
		"v1 without a limit, older kernels": {
			cgroup: "4:memory:/a\n", mounts: v1Mounts, files: v1(group+"/memory/a", "18446744073709551615", "419430400", "18446744073709551615"),
			used: 512 * MiB, of: host,
		},
		"v1's group is gone, its parent is not": {
			cgroup: "4:memory:/a/b\n", mounts: v1Mounts, files: v1(group+"/memory/a", "536870912", "419430400", "536870912"),
			used: 350 * MiB, of: Limit{512 * MiB, "cgroup v1 /sys/fs/cgroup/memory/a/memory.limit_in_bytes"},
		},
		"no cgroups": {used: 512 * MiB, of: host},
		"set, no cgroups": {
			set: Limit{256 * MiB, "--memory-limit"}, kernel: 10 * MiB,
			used: 25600*int64(os.Getpagesize()) + 10*MiB, of: Limit{256 * MiB, "--memory-limit"},
		},
		"set, and the group is nearer to its limit": {
			cgroup: "0::/a\n", mounts: v2Mount, files: group2(group+"/a", "536870912", "629145600"),
			set:  Limit{256 * MiB, "--memory-limit"},
			used: 500 * MiB, of: Limit{512 * MiB, "cgroup v2 /sys/fs/cgroup/a/memory.max"}, limit: Limit{256 * MiB, "--memory-limit"},
		},
		"set above the group's limit": {
			cgroup: "0::/a\n", mounts: v2Mount, files: group2(group+"/a", "268435456", "157286400"),
			set:  Limit{512 * MiB, "--memory-limit"},
			used: 50 * MiB, of: Limit{256 * MiB, "cgroup v2 /sys/fs/cgroup/a/memory.max"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.files)
			w.set(map[string]string{procCgroup: tc.cgroup, procMountinfo: tc.mounts})
			if name == "set above the group's limit" {
				w.set(map[string]string{"/proc/self/statm": "9 9 9\n"})
			}
			s := w.open(UsageConfig{Set: tc.set, Kernel: func() int64 { return tc.kernel }}).Read()
			if tc.limit == (Limit{}) {
				tc.limit = tc.of
			}
			if s.Used != tc.used || s.Of != tc.of || s.Limit != tc.limit || s.Changed || s.Err != nil {
				t.Errorf("got  %+v\nwant %d of %+v, limit %+v", s, tc.used, tc.of, tc.limit)
			}
			// The same sum as at the start.
			if tc.set.Bytes == 0 {
				if d, err := DetectLimit(os.DirFS(w.root)); err != nil || d.Bytes != s.Limit.Bytes {
					t.Errorf("DetectLimit says %+v, %v", d, err)
				}
			}
		})
	}
}

// A limit that changes is noticed; what can't be read leaves the last figures
// standing, counts, and is found again.
func TestUsageFollows(t *testing.T) {
	const dir, own = "/sys/fs/cgroup/a", "/sys/fs/cgroup/a/b"
	w := newWorld(t, both(group2(dir, "max", "419430400"), group2(own, "536870912", "419430400"),
		map[string]string{procCgroup: "0::/a/b\n", procMountinfo: v2Mount}))
	u := w.open(UsageConfig{})
	read := func(what string, used, limit int64, changed bool, fault string) {
		t.Helper()
		s := u.Read()
		if s.Used != used || s.Limit.Bytes != limit || s.Changed != changed {
			t.Errorf("%s: got %+v, want %d of %d, changed %v", what, s, used, limit, changed)
		}
		if (s.Err != nil) != (fault != "") || s.Err != nil && !strings.Contains(s.Err.Error(), fault) {
			t.Errorf("%s: error %v, want %q", what, s.Err, fault)
		}
	}
	read("at first", 300*MiB, 512*MiB, false, "")
	w.set(map[string]string{own + "/memory.max": "268435456\n"})
	read("shrunk", 300*MiB, 256*MiB, true, "")
	read("shrunk, again", 300*MiB, 256*MiB, false, "")
	w.set(map[string]string{own + "/memory.max": "1073741824\n"})
	read("grown", 300*MiB, GiB, true, "")
	w.set(map[string]string{dir + "/memory.max": "134217728\n"})
	read("an ancestor's", 300*MiB, 128*MiB, true, "")
	w.set(map[string]string{dir + "/memory.max": "max\n", own + "/memory.max": "536870912\n"})
	read("lifted", 300*MiB, 512*MiB, true, "")

	for _, c := range []struct{ file, bad, good, fault string }{
		{"/memory.max", "lots\n", "536870912\n", `memory.max: cannot make sense of "lots"`},
		{"/memory.max", "", "536870912\n", "memory.max: cannot make sense"},
		{"/memory.max", "-1\n", "536870912\n", "memory.max: cannot make sense"},
		{"/memory.current", "x\n", "419430400\n", "memory.current: cannot make sense"},
		{"/memory.current", "99999999999999999999\n", "419430400\n", "memory.current: cannot make sense"},
		{"/memory.stat", "anon 5\n", v2Stat, "memory.stat: cannot make sense"},
		{"/memory.stat", strings.Repeat("x", 40<<10), v2Stat, "longer than"},
	} {
		before := u.Errors()
		w.set(map[string]string{own + c.file: c.bad})
		read(c.fault, 300*MiB, 512*MiB, false, c.fault)
		read(c.fault, 300*MiB, 512*MiB, false, c.fault)
		if u.Errors() != before+2 {
			t.Errorf("%s: %d errors counted, want 2", c.fault, u.Errors()-before)
		}
		w.set(map[string]string{own + c.file: c.good})
		read("mended", 300*MiB, 512*MiB, false, "")
	}

	// Moved to another group; then that one vanishes under the process.
	w.set(both(group2("/sys/fs/cgroup/c", "268435456", "209715200"), map[string]string{procCgroup: "0::/c\n"}))
	read("moved", 100*MiB, 256*MiB, true, "")
	for i := range u.groups[0].levels { // as the kernel does: open files of a removed group fail
		l := &u.groups[0].levels[i]
		l.max.close()
		l.usage.close()
		l.stat.close()
	}
	w.set(map[string]string{"/sys/fs/cgroup/c": "-"})
	for range rescanAfter {
		read("gone", 100*MiB, 256*MiB, false, "no such file")
	}
	if s := u.Read(); s.Err != nil || s.Limit.Source != "host memory /proc/meminfo" || !s.Changed || s.Used != 512*MiB {
		t.Errorf("long gone: %+v", s)
	}
	w.set(map[string]string{meminfo: "MemTotal: 1 MB\n"})
	if s := u.Read(); s.Err == nil || s.Used != 512*MiB || s.Limit.Bytes != GiB || s.Changed {
		t.Errorf("garbage of the host: %+v", s)
	}
}

func TestOpenUsageErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		set   Limit
		want  string
	}{
		"garbage limit":  {both(group2("/sys/fs/cgroup/a", "lots", "5"), map[string]string{procCgroup: "0::/a\n", procMountinfo: v2Mount}), Limit{}, "memory.max"},
		"garbage usage":  {both(group2("/sys/fs/cgroup/a", "500", ""), map[string]string{procCgroup: "0::/a\n", procMountinfo: v2Mount}), Limit{}, "memory.current"},
		"garbage cgroup": {map[string]string{procCgroup: "0:/a\n"}, Limit{}, "/proc/self/cgroup"},
		"nothing":        {map[string]string{meminfo: "-"}, Limit{}, "/proc/meminfo"},
		"old kernel":     {map[string]string{meminfo: "MemTotal: 5 kB\n"}, Limit{}, "/proc/meminfo"},
		"statm":          {map[string]string{"/proc/self/statm": "x y\n"}, Limit{GiB, "--memory-limit"}, "/proc/self/statm"},
		"negative limit": {nil, Limit{-1, "--memory-limit"}, "--memory-limit"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.files)
			u, err := OpenUsage(UsageConfig{Root: w.root, Set: tc.set})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v, %v; want an error that names %s", u, err, tc.want)
			}
		})
	}
}

// Ten times a second must cost next to nothing.
func TestUsageDoesNotAllocate(t *testing.T) {
	u, err := OpenUsage(UsageConfig{Set: Limit{64 * GiB, "--memory-limit"}})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	var last Sample
	if n := testing.AllocsPerRun(100, func() { last = u.Read() }); n != 0 {
		t.Errorf("%v allocations a reading", n)
	}
	if last.Err != nil || last.Used <= 0 {
		t.Errorf("%+v", last)
	}
}

func TestUsageCloses(t *testing.T) {
	before := descriptorsOpen(t)
	u, err := OpenUsage(UsageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.find(); err != nil { // the files of a find before are closed
		t.Fatal(err)
	}
	u.Read()
	u.Close()
	if after := descriptorsOpen(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func descriptorsOpen(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no /proc")
	}
	return len(all)
}

func BenchmarkUsage(b *testing.B) {
	u, err := OpenUsage(UsageConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer u.Close()
	b.ReportAllocs()
	for b.Loop() {
		u.Read()
	}
}

// A limit that the user sets, changes and lifts while it is watched.
func TestUsageSetLimit(t *testing.T) {
	w := newWorld(t, nil)
	u := w.open(UsageConfig{})
	first := u.Read()
	for _, set := range []Limit{{GiB / 4, "file"}, {GiB / 8, "file"}} {
		u.SetLimit(set)
		if s := u.Read(); s.Limit != set || !s.Changed || s.Err != nil {
			t.Errorf("%+v, want the limit %v", s, set)
		}
		if s := u.Read(); s.Changed {
			t.Error("changed again")
		}
	}
	u.SetLimit(Limit{})
	if s := u.Read(); s.Limit != first.Limit || !s.Changed {
		t.Errorf("%+v, want %+v", s, first)
	}
}
