//go:build linux

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroupV2 says whether memory is limited by the unified hierarchy here.
func cgroupV2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// groupFile is a file of a container's memory cgroup: v2's name, or v1's.
func groupFile(id, v2, v1 string) string {
	if cgroupV2() {
		return filepath.Join("/sys/fs/cgroup", id, v2)
	}
	return filepath.Join("/sys/fs/cgroup/memory", id, v1)
}

// groupBytes reads a figure of a container's memory cgroup, bytes.
func groupBytes(id, v2, v1 string) (int64, error) {
	b, err := os.ReadFile(groupFile(id, v2, v1))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// kills is how often the OOM killer struck in a container.
func kills(id string) (int, error) {
	return keyed(groupFile(id, "memory.events", "memory.oom_control"), "oom_kill")
}

// keyed reads one figure of a file with lines of a name, perhaps a colon, and a number.
func keyed(file, name string) (int, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && strings.TrimSuffix(fields[0], ":") == name {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
