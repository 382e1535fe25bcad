package capacity

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// childEnv makes the test binary print its limit and exit, once told to by a
// line on its standard input.
const childEnv = "ODIN_CAPACITY_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	in := bufio.NewReader(os.Stdin)
	_, _ = in.ReadString('\n')
	if os.Getenv(childEnv) == "usage" {
		usageChild(in)
		return
	}
	limit, err := DetectLimit(os.DirFS("/"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(limit)
}

// A child in a group of this machine's own kernel finds the group's limit.
func TestDetectLimitInARealGroup(t *testing.T) {
	const outer, inner = 256 * MiB, 96 * MiB
	for _, tc := range []struct {
		name         string
		outer, inner int64 // 0: unset
		want         int64
	}{
		{"own", 0, inner, inner},
		{"ancestor", outer, 0, outer},
		{"both", outer, inner, inner},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := realHierarchy(t)
			dir := filepath.Join(h.point, fmt.Sprintf("odin-capacity-test-%d", os.Getpid()))
			h.mkdir(t, dir, tc.outer)
			if h.version == 2 { // a limit below needs the controller enabled here
				h.write(t, filepath.Join(dir, "cgroup.subtree_control"), "+memory")
			}
			child := filepath.Join(dir, "child")
			h.mkdir(t, child, tc.inner)

			got := limitInside(t, child)
			if got.Bytes != tc.want {
				t.Errorf("got %+v, want %d bytes", got, tc.want)
			}
			if !strings.Contains(got.Source, dir) {
				t.Errorf("source %q does not name the group %s", got.Source, dir)
			}
			t.Logf("%+v", got)
		})
	}
}

// limitInside returns what a child process finds in the group of that directory.
func limitInside(t *testing.T, dir string) Limit {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	moved := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0)
	_, _ = io.WriteString(in, "go\n")
	var limit Limit
	decoded := json.NewDecoder(out).Decode(&limit)
	if err := errors.Join(moved, decoded, cmd.Wait()); err != nil {
		t.Fatal(err)
	}
	return limit
}

// hierarchy is this machine's mounted hierarchy with the memory controller.
type hierarchy struct {
	version int
	point   string
	file    string // the limit's name
}

// realHierarchy finds it, or skips the test with the reason.
func realHierarchy(t *testing.T) hierarchy {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	mounts, err := readMounts(os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	reason := "no cgroup hierarchy with the memory controller is mounted"
	for _, m := range mounts {
		h := hierarchy{m.version, m.point, "memory.limit_in_bytes"}
		if h.version == 2 {
			h.file = "memory.max"
			enabled, _ := os.ReadFile(filepath.Join(h.point, "cgroup.subtree_control"))
			if !slices.Contains(strings.Fields(string(enabled)), "memory") {
				continue
			}
		}
		probe := filepath.Join(h.point, fmt.Sprintf("odin-capacity-probe-%d", os.Getpid()))
		if err := os.Mkdir(probe, 0o755); err != nil {
			reason = fmt.Sprintf("the cgroup hierarchy is not writable: %v", err)
			continue
		}
		_, err := os.Stat(filepath.Join(probe, h.file))
		if rm := os.Remove(probe); rm != nil {
			t.Fatal(rm)
		}
		if errors.Is(err, fs.ErrNotExist) {
			reason = fmt.Sprintf("groups in %s have no %s", h.point, h.file)
			continue
		}
		return h
	}
	t.Skip(reason)
	return hierarchy{}
}

// mkdir makes a group with that limit (0: none) for the time of the test.
func (h hierarchy) mkdir(t *testing.T, dir string, limit int64) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	if limit > 0 {
		h.write(t, filepath.Join(dir, h.file), strconv.FormatInt(limit, 10))
	}
}

func (h hierarchy) write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}
