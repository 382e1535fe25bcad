package suite

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server's process with its children, seen from outside.
type process struct{ pid int }

// usage is what a process has used so far.
type usage struct {
	total time.Duration // exact: the kernel's clock of the process
	user  time.Duration // in ticks of 10 ms, as /proc has it
}

func (u usage) since(before usage) usage {
	return usage{u.total - before.total, u.user - before.user}
}

// family is the process and all below it.
func (p process) family() []int {
	all := []int{p.pid}
	for i := 0; i < len(all); i++ {
		// Missing where the kernel was built without it, or the process is gone.
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", all[i]))
		for _, t := range tasks {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", all[i], t.Name()))
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil {
					all = append(all, pid)
				}
			}
		}
	}
	return all
}

// cpu is user and system time of the family, of threads that ended too.
func (p process) cpu() (usage, error) {
	var sum usage
	for _, pid := range p.family() {
		// clock_getcpuclockid(3): the clock of process pid.
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
			return usage{}, fmt.Errorf("the CPU clock of process %d: %w", pid, err)
		}
		sum.total += time.Duration(ts.Nano())
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return usage{}, err
		}
		// The name in parentheses may hold anything; the fields after it do not.
		text := string(stat)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) < 13 {
			return usage{}, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
		}
		user, err := strconv.ParseInt(fields[11], 10, 64)
		if err != nil {
			return usage{}, err
		}
		const tick = time.Second / 100 // USER_HZ, 100 on every Linux that Go runs on
		sum.user += time.Duration(user) * tick
	}
	return sum, nil
}

// memory is resident bytes: all pages, and with shared ones divided by who shares.
func (p process) memory() (rss, pss int64, err error) {
	for _, pid := range p.family() {
		path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		b, err := os.ReadFile(path)
		if err != nil {
			return 0, 0, err
		}
		found := 0
		for line := range strings.Lines(string(b)) {
			for name, into := range map[string]*int64{"Rss:": &rss, "Pss:": &pss} {
				rest, ok := strings.CutPrefix(line, name)
				if !ok {
					continue
				}
				kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
				if err != nil {
					return 0, 0, fmt.Errorf("%s: %q", path, line)
				}
				*into += kb << 10
				found++
			}
		}
		if found != 2 {
			return 0, 0, fmt.Errorf("%s names no Rss and Pss", path)
		}
	}
	if rss == 0 {
		err = errors.New("a process without memory")
	}
	return rss, pss, err
}
