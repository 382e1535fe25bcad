package capacity

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// The figures a kernel shows for "no limit" in v1, and this host's memory.
const (
	v1Unlimited = "9223372036854771712\n"
	hostMemory  = "MemTotal:       16777216 kB\nMemFree:         1234 kB\n" // 16 GiB
)

// Lines of mountinfo as systemd, Docker and containerd leave them.
const (
	rootMount = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	v2Mount   = rootMount + "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	v1Mounts  = rootMount +
		"31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:14 - cgroup cgroup rw,memory\n"
	hybridMounts = v1Mounts + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)

func TestDetectLimit(t *testing.T) {
	const group = "/sys/fs/cgroup"
	for name, tc := range map[string]struct {
		cgroup, mounts string
		files          map[string]string
		want           int64
		source         string
	}{
		"v2 root group": {
			cgroup: "0::/\n", mounts: v2Mount,
			want: 16 * GiB, source: "host memory /proc/meminfo",
		},
		"v2 nested, own limit": {
			cgroup: "0::/a/b\n", mounts: v2Mount,
			files: map[string]string{group + "/a/memory.max": "1073741824\n", group + "/a/b/memory.max": "536870912\n"},
			want:  512 * MiB, source: "cgroup v2 /sys/fs/cgroup/a/b/memory.max",
		},
		"v2 nested, an ancestor's": {
			cgroup: "0::/a/b/c\n", mounts: v2Mount,
			files: map[string]string{group + "/a/memory.max": "268435456\n", group + "/a/b/memory.max": "max\n", group + "/a/b/c/memory.max": "536870912\n"},
			want:  256 * MiB, source: "cgroup v2 /sys/fs/cgroup/a/memory.max",
		},
		"v2 controller not enabled below": {
			cgroup: "0::/a/b\n", mounts: v2Mount,
			files: map[string]string{group + "/a/memory.max": "268435456\n"},
			want:  256 * MiB, source: "cgroup v2 /sys/fs/cgroup/a/memory.max",
		},
		"v2 max everywhere": {
			cgroup: "0::/a\n", mounts: v2Mount,
			files: map[string]string{group + "/a/memory.max": "max\n"},
			want:  16 * GiB, source: "host memory /proc/meminfo",
		},
		"v2 limit above the host": {
			cgroup: "0::/a\n", mounts: v2Mount,
			files: map[string]string{group + "/a/memory.max": "109951162777600\n"},
			want:  16 * GiB, source: "host memory /proc/meminfo",
		},
		"v2 limit of zero": {
			cgroup: "0::/a\n", mounts: v2Mount,
			files: map[string]string{group + "/a/memory.max": "0\n"},
			want:  0, source: "cgroup v2 /sys/fs/cgroup/a/memory.max",
		},
		"v2 Docker, private namespace": {
			cgroup: "0::/\n",
			mounts: "500 400 0:60 / / rw - overlay overlay rw\n510 500 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n",
			files:  map[string]string{group + "/memory.max": "536870912\n"},
			want:   512 * MiB, source: "cgroup v2 /sys/fs/cgroup/memory.max",
		},
		"v2 Docker, host namespace, bind mount of the own group": {
			cgroup: "0::/system.slice/docker-4f.scope\n",
			mounts: "510 500 0:26 /system.slice/docker-4f.scope /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			files:  map[string]string{group + "/memory.max": "536870912\n"},
			want:   512 * MiB, source: "cgroup v2 /sys/fs/cgroup/memory.max",
		},
		"v2 bind mount of an ancestor": {
			cgroup: "0::/machine/pod/app\n",
			mounts: "510 500 0:26 /machine /cg ro - cgroup2 cgroup rw\n",
			files:  map[string]string{"/cg/pod/memory.max": "134217728\n", "/cg/pod/app/memory.max": "max\n"},
			want:   128 * MiB, source: "cgroup v2 /cg/pod/memory.max",
		},
		"v2 sibling whose name only begins alike": {
			cgroup: "0::/machine2/app\n",
			mounts: "510 500 0:26 /machine /cg ro - cgroup2 cgroup rw\n520 500 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
			files:  map[string]string{"/cg/memory.max": "134217728\n", group + "/machine2/app/memory.max": "268435456\n"},
			want:   256 * MiB, source: "cgroup v2 /sys/fs/cgroup/machine2/app/memory.max",
		},
		"v2 Kubernetes pod, host tree mounted": {
			cgroup: "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f.slice/cri-containerd-9c.scope\n", mounts: v2Mount,
			files: map[string]string{
				group + "/kubepods.slice/memory.max":                                                                                 "8589934592\n",
				group + "/kubepods.slice/kubepods-burstable.slice/memory.max":                                                        "max\n",
				group + "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f.slice/memory.max":                         "1073741824\n",
				group + "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f.slice/cri-containerd-9c.scope/memory.max": "max\n",
			},
			want: GiB, source: "cgroup v2 /sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f.slice/memory.max",
		},
		"v2 systemd slice with an escaped name": {
			cgroup: `0::/system.slice/system-odin\x2dgw.slice/odin.service` + "\n", mounts: v2Mount,
			files: map[string]string{group + `/system.slice/system-odin\x2dgw.slice/memory.max`: "2147483648\n"},
			want:  2 * GiB, source: `cgroup v2 /sys/fs/cgroup/system.slice/system-odin\x2dgw.slice/memory.max`,
		},
		"v2 escapes in mountinfo": {
			cgroup: "0::/a b/c\n",
			mounts: `510 500 0:26 /a\040b /my\040cg\134x ro - cgroup2 cgroup rw` + "\n",
			files:  map[string]string{`/my cg\x/c/memory.max`: "134217728\n"},
			want:   128 * MiB, source: `cgroup v2 /my cg\x/c/memory.max`,
		},
		"v2 namespace entered without mounting anew": {
			cgroup: "0::/\n", mounts: "30 22 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			files: map[string]string{group + "/memory.max": "268435456\n"},
			want:  256 * MiB, source: "cgroup v2 /sys/fs/cgroup/memory.max",
		},
		"v2 process outside its namespace": {
			cgroup: "0::/../other\n", mounts: v2Mount,
			files: map[string]string{group + "/memory.max": "268435456\n"},
			want:  256 * MiB, source: "cgroup v2 /sys/fs/cgroup/memory.max",
		},
		"v2 group removed under the process": {
			cgroup: "0::/a/b (deleted)\n", mounts: v2Mount,
			files: map[string]string{group + "/a/memory.max": "268435456\n"},
			want:  256 * MiB, source: "cgroup v2 /sys/fs/cgroup/a/memory.max",
		},
		"v2 not mounted": {
			cgroup: "0::/a\n", mounts: rootMount,
			want: 16 * GiB, source: "host memory /proc/meminfo",
		},
		"v1 root group": {
			cgroup: "4:memory:/\n2:cpu,cpuacct:/\n", mounts: v1Mounts,
			files: map[string]string{group + "/memory/memory.limit_in_bytes": v1Unlimited, group + "/memory/memory.stat": "cache 0\nhierarchical_memory_limit " + v1Unlimited},
			want:  16 * GiB, source: "host memory /proc/meminfo",
		},
		"v1 own limit": {
			cgroup: "4:memory:/a\n", mounts: v1Mounts,
			files: map[string]string{group + "/memory/a/memory.limit_in_bytes": "536870912\n", group + "/memory/a/memory.stat": "hierarchical_memory_limit 536870912\n"},
			want:  512 * MiB, source: "cgroup v1 /sys/fs/cgroup/memory/a/memory.limit_in_bytes",
		},
		"v1 an ancestor's limit": {
			cgroup: "4:memory:/a/b\n", mounts: v1Mounts,
			files: map[string]string{group + "/memory/a/b/memory.limit_in_bytes": v1Unlimited, group + "/memory/a/b/memory.stat": "cache 1\nhierarchical_memory_limit 268435456\nhierarchical_memsw_limit 9\n"},
			want:  256 * MiB, source: "cgroup v1 /sys/fs/cgroup/memory/a/b/memory.stat (hierarchical_memory_limit)",
		},
		"v1 ancestor without use_hierarchy does not count": {
			cgroup: "4:memory:/a/b\n", mounts: v1Mounts,
			files: map[string]string{group + "/memory/a/memory.limit_in_bytes": "1048576\n", group + "/memory/a/b/memory.limit_in_bytes": "536870912\n", group + "/memory/a/b/memory.stat": "hierarchical_memory_limit 536870912\n"},
			want:  512 * MiB, source: "cgroup v1 /sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
		},
		"v1 Docker, ancestor outside the mount": {
			cgroup: "11:memory:/docker/4f\n",
			mounts: "700 690 0:32 /docker/4f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			files:  map[string]string{group + "/memory/memory.limit_in_bytes": "536870912\n", group + "/memory/memory.stat": "hierarchical_memory_limit 268435456\n"},
			want:   256 * MiB, source: "cgroup v1 /sys/fs/cgroup/memory/memory.stat (hierarchical_memory_limit)",
		},
		"v1 Kubernetes pod": {
			cgroup: "11:memory:/kubepods/burstable/pod1f/9c\n1:name=systemd:/kubepods/burstable/pod1f/9c\n",
			mounts: "700 690 0:32 /kubepods/burstable/pod1f/9c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			files:  map[string]string{group + "/memory/memory.limit_in_bytes": "1073741824\n", group + "/memory/memory.stat": "hierarchical_memory_limit 1073741824\n"},
			want:   GiB, source: "cgroup v1 /sys/fs/cgroup/memory/memory.limit_in_bytes",
		},
		"v1 unlimited on older kernels": {
			cgroup: "4:memory:/a\n", mounts: v1Mounts,
			files: map[string]string{group + "/memory/a/memory.limit_in_bytes": "18446744073709551615\n"},
			want:  16 * GiB, source: "host memory /proc/meminfo",
		},
		"v1 group's directory is gone": {
			cgroup: "4:memory:/a/b\n", mounts: v1Mounts,
			files: map[string]string{group + "/memory/a/memory.limit_in_bytes": "268435456\n"},
			want:  256 * MiB, source: "cgroup v1 /sys/fs/cgroup/memory/a/memory.limit_in_bytes",
		},
		"hybrid: memory in v1": {
			cgroup: "4:memory:/user.slice\n1:name=systemd:/user.slice\n0::/user.slice\n", mounts: hybridMounts,
			files: map[string]string{group + "/memory/user.slice/memory.limit_in_bytes": "536870912\n", group + "/unified/user.slice/cgroup.procs": "1\n"},
			want:  512 * MiB, source: "cgroup v1 /sys/fs/cgroup/memory/user.slice/memory.limit_in_bytes",
		},
		"hybrid: memory in v2": {
			cgroup: "2:cpu,cpuacct:/x\n0::/x\n", mounts: hybridMounts,
			files: map[string]string{group + "/unified/x/memory.max": "268435456\n", group + "/memory/x/memory.limit_in_bytes": "1\n"},
			want:  256 * MiB, source: "cgroup v2 /sys/fs/cgroup/unified/x/memory.max",
		},
		"no cgroups in the kernel": {want: 16 * GiB, source: "host memory /proc/meminfo"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DetectLimit(tree(tc.cgroup, tc.mounts, tc.files))
			if err != nil {
				t.Fatal(err)
			}
			if want := (Limit{tc.want, tc.source}); got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestDetectLimitErrorsNameTheFile(t *testing.T) {
	const v2File, v1File, v1Stat = "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "/sys/fs/cgroup/memory/a/memory.stat"
	for name, tc := range map[string]struct {
		cgroup, mounts string
		files          map[string]string
		path           string
	}{
		"v2 word":            {"0::/a\n", v2Mount, map[string]string{v2File: "lots\n"}, v2File},
		"v2 empty":           {"0::/a\n", v2Mount, map[string]string{v2File: ""}, v2File},
		"v2 negative":        {"0::/a\n", v2Mount, map[string]string{v2File: "-1\n"}, v2File},
		"v2 too large":       {"0::/a\n", v2Mount, map[string]string{v2File: "99999999999999999999\n"}, v2File},
		"v2 ancestor":        {"0::/a/b\n", v2Mount, map[string]string{v2File: "0x10\n", "/sys/fs/cgroup/a/b/memory.max": "1\n"}, v2File},
		"v1 word":            {"4:memory:/a\n", v1Mounts, map[string]string{v1File: "max\n"}, v1File},
		"v1 negative":        {"4:memory:/a\n", v1Mounts, map[string]string{v1File: "-1\n"}, v1File},
		"v1 hierarchical":    {"4:memory:/a\n", v1Mounts, map[string]string{v1File: "5\n", v1Stat: "hierarchical_memory_limit x\n"}, v1Stat},
		"cgroup line":        {"0:/a\n", v2Mount, nil, "/proc/self/cgroup"},
		"cgroup path":        {"0::a\n", v2Mount, nil, "/proc/self/cgroup"},
		"mountinfo line":     {"0::/a\n", "30 22 0:26 / /sys/fs/cgroup cgroup2\n", nil, "/proc/self/mountinfo"},
		"mountinfo path":     {"0::/a\n", "30 22 0:26 / none rw - cgroup2 cgroup2 rw\n", nil, "/proc/self/mountinfo"},
		"meminfo":            {"0::/a\n", v2Mount, map[string]string{"/proc/meminfo": "MemTotal: many kB\n"}, "/proc/meminfo"},
		"meminfo, no total":  {"0::/a\n", v2Mount, map[string]string{"/proc/meminfo": "MemFree: 1 kB\n"}, "/proc/meminfo"},
		"meminfo, other uom": {"0::/a\n", v2Mount, map[string]string{"/proc/meminfo": "MemTotal: 1 MB\n"}, "/proc/meminfo"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DetectLimit(tree(tc.cgroup, tc.mounts, tc.files))
			if err == nil || !strings.Contains(err.Error(), tc.path+":") || !strings.Contains(err.Error(), "--memory-limit") {
				t.Errorf("%+v, %v; want an error that names %s and the flag", got, err, tc.path)
			}
		})
	}

	t.Run("unreadable", func(t *testing.T) {
		files := tree("0::/a\n", v2Mount, nil)
		files["sys/fs/cgroup/a/memory.max"] = &fstest.MapFile{Mode: fs.ModeDir}
		if _, err := DetectLimit(files); err == nil || !strings.Contains(err.Error(), v2File+":") {
			t.Errorf("%v; want an error that names %s", err, v2File)
		}
	})
	t.Run("nothing at all", func(t *testing.T) {
		if _, err := DetectLimit(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), "--memory-limit") {
			t.Errorf("%v; want an error that names the flag", err)
		}
	})
}

// A cgroup's limit is enough where /proc/meminfo is hidden.
func TestDetectLimitWithoutMeminfo(t *testing.T) {
	files := tree("0::/a\n", v2Mount, map[string]string{"/sys/fs/cgroup/a/memory.max": "4096\n"})
	delete(files, "proc/meminfo")
	got, err := DetectLimit(files)
	if err != nil || got.Bytes != 4096 {
		t.Errorf("%+v, %v", got, err)
	}
}

// tree is a file system with those files, absolute paths; /proc/meminfo is
// there unless given.
func tree(cgroup, mounts string, files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{"proc/meminfo": {Data: []byte(hostMemory)}}
	for path, text := range map[string]string{procCgroup: cgroup, procMountinfo: mounts} {
		if text != "" {
			fsys[path[1:]] = &fstest.MapFile{Data: []byte(text)}
		}
	}
	for path, text := range files {
		fsys[path[1:]] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}
