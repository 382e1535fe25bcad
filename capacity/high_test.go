package capacity

import (
	"strings"
	"testing"
)

func TestDetectHigh(t *testing.T) {
	const group = "/sys/fs/cgroup"
	for name, tc := range map[string]struct {
		cgroup, mounts string
		files          map[string]string
		want           Limit // no Source: none
	}{
		"own": {"0::/a/b\n", v2Mount, map[string]string{group + "/a/memory.high": "max\n", group + "/a/b/memory.high": "419430400\n"},
			Limit{400 * MiB, "cgroup v2 /sys/fs/cgroup/a/b/memory.high"}},
		"an ancestor's": {"0::/a/b\n", v2Mount, map[string]string{group + "/a/memory.high": "268435456\n", group + "/a/b/memory.high": "419430400\n"},
			Limit{256 * MiB, "cgroup v2 /sys/fs/cgroup/a/memory.high"}},
		"zero": {"0::/a\n", v2Mount, map[string]string{group + "/a/memory.high": "0\n"}, Limit{0, "cgroup v2 /sys/fs/cgroup/a/memory.high"}},
		"Docker, private namespace": {"0::/\n",
			"510 500 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n", map[string]string{group + "/memory.high": "419430400\n"},
			Limit{400 * MiB, "cgroup v2 /sys/fs/cgroup/memory.high"}},
		"hybrid, memory in v2": {"2:cpu,cpuacct:/x\n0::/x\n", hybridMounts, map[string]string{group + "/unified/x/memory.high": "1048576\n"},
			Limit{MiB, "cgroup v2 /sys/fs/cgroup/unified/x/memory.high"}},
		"max everywhere": {cgroup: "0::/a\n", mounts: v2Mount, files: map[string]string{group + "/a/memory.high": "max\n"}},
		"no file":        {cgroup: "0::/a\n", mounts: v2Mount},
		"v1 has none":    {cgroup: "4:memory:/a\n", mounts: v1Mounts, files: map[string]string{group + "/memory/a/memory.high": "1\n"}},
		"no cgroups":     {},
	} {
		got, ok, err := DetectHigh(tree(tc.cgroup, tc.mounts, tc.files))
		if err != nil || got != tc.want || ok != (tc.want.Source != "") {
			t.Errorf("%s: %+v %v %v, want %+v", name, got, ok, err, tc.want)
		}
	}
	for name, text := range map[string]string{"word": "lots\n", "negative": "-1\n", "empty": ""} {
		_, _, err := DetectHigh(tree("0::/a\n", v2Mount, map[string]string{group + "/a/memory.high": text}))
		if err == nil || !strings.Contains(err.Error(), "/sys/fs/cgroup/a/memory.high:") {
			t.Errorf("%s: %v; want an error that names the file", name, err)
		}
	}
}

// memory.high is no limit, whatever it says.
func TestHighIsNoLimit(t *testing.T) {
	got, err := DetectLimit(tree("0::/a\n", v2Mount, map[string]string{
		"/sys/fs/cgroup/a/memory.max": "536870912\n", "/sys/fs/cgroup/a/memory.high": "1048576\n",
	}))
	if err != nil || got.Bytes != 512*MiB {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestHighSentence(t *testing.T) {
	limit := Limit{512 * MiB, "cgroup v2 /x/memory.max"}
	high := Limit{400 * MiB, "cgroup v2 /x/memory.high"}
	for _, want := range []string{"400MB", "/x/memory.high", "512MB", "--memory-limit 400MB"} {
		if got := HighSentence(limit, high); !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	for _, h := range []Limit{{}, {512 * MiB, "x"}, {GiB, "x"}} {
		if got := HighSentence(limit, h); got != "" {
			t.Errorf("%+v: %q", h, got)
		}
	}
}
