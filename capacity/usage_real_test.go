package capacity

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// usageChild does what it is told, line by line, and answers each with a sample.
func usageChild(in *bufio.Reader) {
	u, err := OpenUsage(UsageConfig{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	answer := json.NewEncoder(os.Stdout)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "take": // anonymous memory
			n, _ := strconv.Atoi(arg)
			b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			for i := 0; i < n; i += 4096 {
				b[i] = 1
			}
		case "file": // pages of a file, read once
			f, err := os.Open(arg)
			if err == nil {
				_, err = io.Copy(io.Discard, f)
				f.Close()
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		_ = answer.Encode(u.Read())
	}
}

// In a group of this machine's own kernel: memory taken shows, a changed limit
// shows, and the watch goes through its states.
func TestUsageInARealGroup(t *testing.T) {
	h := realHierarchy(t)
	dir := filepath.Join(h.point, fmt.Sprintf("odin-usage-test-%d", os.Getpid()))
	h.mkdir(t, dir, 256*MiB)

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=usage")
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
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	h.write(t, filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid))
	answers := json.NewDecoder(out)
	tell := func(line string) (s Sample) {
		t.Helper()
		_, _ = io.WriteString(in, line+"\n")
		if err := answers.Decode(&s); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		t.Logf("%-14.14s %+v", line, s)
		return s
	}
	_, _ = io.WriteString(in, "go\n")
	state := Normal
	step := func(line string, want State) Sample {
		t.Helper()
		s := tell(line)
		if state = DefaultThresholds.Next(state, s); state != want {
			t.Errorf("%s: %v, want %v", line, state, want)
		}
		return s
	}

	first := step("look", Normal)
	if first.Limit.Bytes != 256*MiB || !strings.Contains(first.Limit.Source, dir) || first.Used > 32*MiB {
		t.Fatalf("%+v", first)
	}
	grown := step("take "+strconv.Itoa(64*MiB), Normal).Used - first.Used
	if grown < 63*MiB || grown > 80*MiB {
		t.Errorf("64 MiB taken, %d bytes more used", grown)
	}
	h.write(t, filepath.Join(dir, h.file), strconv.Itoa(128*MiB))
	used := step("look", Normal).Used
	h.write(t, filepath.Join(dir, h.file), strconv.FormatInt(used/94*100&^4095, 10))
	if s := step("look", Refuse); !s.Changed {
		t.Error("the shrunken limit went unnoticed")
	}
	h.write(t, filepath.Join(dir, h.file), strconv.FormatInt(used/90*100&^4095, 10))
	step("look", Refuse)
	h.write(t, filepath.Join(dir, h.file), strconv.Itoa(512*MiB))
	if s := step("look", Normal); !s.Changed || s.Limit.Bytes != 512*MiB {
		t.Errorf("the grown limit went unnoticed: %+v", s)
	}

	// What the kernel can take back is not use: usage grows, the set does not.
	file := filepath.Join(t.TempDir(), "pages")
	if err := os.WriteFile(file, make([]byte, 48*MiB), 0o600); err != nil {
		t.Fatal(err)
	}
	if fd, err := os.OpenFile(file, os.O_RDWR, 0); err == nil { // out of the cache, where this process's group paid for it
		_ = fd.Sync()
		_ = unix.Fadvise(int(fd.Fd()), 0, 0, unix.FADV_DONTNEED)
		_ = fd.Close()
	}
	usage := filepath.Join(dir, map[int]string{1: "memory.usage_in_bytes", 2: "memory.current"}[h.version])
	was, before := readInt(t, usage), tell("look").Used
	after := tell("file " + file).Used
	if now := readInt(t, usage); now-was < 40*MiB {
		t.Logf("only %d bytes of the file were charged: nothing to tell apart", now-was)
	} else if after-before > 8*MiB {
		t.Errorf("reading a file of 48 MiB counts %d bytes", after-before)
	}
}

func readInt(t *testing.T, file string) int64 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, ok := parseBytes([]byte(strings.TrimSpace(string(b))))
	if !ok {
		t.Fatalf("%s: %q", file, b)
	}
	return n
}
