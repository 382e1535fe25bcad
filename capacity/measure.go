package capacity

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Measurement is the kernel's share of a connection, as found on this machine.
type Measurement struct {
	// Bytes is what one idle socket holds in the kernel, with its inode, file,
	// directory entry and place in an epoll: the median of Rounds.
	Bytes int64 `json:"bytes"`
	// Method says which of the kernel's accounts was used, and how.
	Method string `json:"method"`
	// Sockets is how many were opened in each round, both ends counted.
	Sockets int `json:"sockets"`
	// Rounds is each round's result in order, bytes a socket.
	Rounds []int64 `json:"rounds"`
	// Kernel is the running kernel's release, as uname -r prints it.
	Kernel string `json:"kernel"`
	// Passed says why better accounts were not used.
	Passed []string `json:"passed,omitempty"`
}

// MeasureOptions are for Measure; zero values mean the defaults.
type MeasureOptions struct {
	// Pairs is how many loopback connections are opened in a round; 0 means 256,
	// or less where descriptors are few.
	Pairs int
	// Rounds is how often; 0 means 7, or 5 where descriptors are few.
	Rounds int

	// For tests.
	root   string
	meters []meter
	open   func(pairs int) (batch, error)
}

// What a socket can plausibly cost the kernel, bytes. Below, the account does
// not see sockets; above, somebody else's work is in it.
const (
	leastPlausible = 1 * KiB
	mostPlausible  = 32 * KiB
)

// measureSpread is how far the middle half of the rounds may lie apart, as a
// part of their median.
const measureSpread = 0.2

// Measure finds out what an idle connection costs the kernel it runs on. It
// opens loopback connections with the gateway's socket options, sends a
// handshake's worth of bytes each way, reads it, registers both ends with an
// epoll, and takes the difference in the first of these accounts that shows it:
//
//   - cgroup v2: kernel + sock of the own group's memory.stat. It is what the
//     limit is held against, and other groups' work is not in it.
//   - /proc/slabinfo (root only): the sockets' own caches, and what the sockets
//     say they hold for data (SO_MEMINFO). Without what a group is charged on top.
//   - /proc/meminfo: Slab, and SO_MEMINFO. The whole machine's work is in it.
//
// Left out because they mislead: /proc/net/sockstat (TCP takes a megabyte a CPU
// at a time) and cgroup v1's memory.kmem.usage_in_bytes (it misses accepted
// sockets, which are made outside any process).
//
// Both ends are ours and alike, so a socket is half a pair. It takes less than a
// second and up to 4000 descriptors. An error says why no account could be used;
// nothing is guessed.
func Measure(o MeasureOptions) (Measurement, error) {
	if o.Pairs < 0 || o.Rounds < 0 {
		return Measurement{}, fmt.Errorf("capacity: measuring %d pairs in %d rounds", o.Pairs, o.Rounds)
	}
	var l unix.Rlimit
	few := unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Cur < 8192
	if o.Rounds == 0 {
		o.Rounds = 7
		if few {
			o.Rounds = 5
		}
	}
	if o.Pairs == 0 {
		o.Pairs = 256
		if few { // three quarters of them, two for each pair
			o.Pairs = max(32, min(o.Pairs, int(l.Cur)*3/8/(o.Rounds+1)))
		}
	}
	if o.root == "" {
		o.root = "/"
	}
	var passed []string
	if o.meters == nil {
		o.meters, passed = findMeters(o.root)
	}
	if len(o.meters) == 0 {
		return Measurement{}, noMeter(passed)
	}
	if o.open == nil {
		pairs, err := newPairs()
		if err != nil {
			return Measurement{}, fmt.Errorf("capacity: measuring: %w", err)
		}
		defer pairs.close()
		o.open = pairs.open
	}
	rounds, err := o.rounds()
	if err != nil {
		return Measurement{}, fmt.Errorf("capacity: measuring: %w", err)
	}
	for i, m := range o.meters {
		bytes, why := judge(rounds[i])
		if why == "" {
			return Measurement{Bytes: bytes, Method: m.name, Sockets: 2 * o.Pairs, Rounds: rounds[i], Kernel: release(), Passed: passed}, nil
		}
		passed = append(passed, m.name+": "+why)
	}
	return Measurement{}, noMeter(passed)
}

func noMeter(passed []string) error {
	return fmt.Errorf("capacity: no account of the kernel shows what a socket costs here: %s; try again on a quieter machine, as root, or set --bytes-per-connection", strings.Join(passed, "; "))
}

// batch is a number of open connections.
type batch interface {
	// held is what the sockets' send and receive queues are charged, bytes.
	held() int64
	close()
}

// rounds returns bytes a socket, by meter and round. Nothing is closed before
// the end: places that a round frees would hide what the next one costs, and
// the kernel frees late.
func (o MeasureOptions) rounds() ([][]int64, error) {
	var opened []batch
	defer func() {
		for _, b := range opened {
			b.close()
		}
	}()
	open := func(n int) (batch, error) {
		b, err := o.open(n)
		if err == nil {
			opened = append(opened, b)
		}
		return b, err
	}
	if _, err := open(o.fill()); err != nil {
		return nil, err
	}
	out := make([][]int64, len(o.meters))
	before, after := make([]int64, len(o.meters)), make([]int64, len(o.meters))
	for range o.Rounds {
		if err := readMeters(o.meters, before); err != nil {
			return nil, err
		}
		b, err := open(o.Pairs)
		if err != nil {
			return nil, err
		}
		if err := readMeters(o.meters, after); err != nil {
			return nil, err
		}
		held := b.held()
		for i, m := range o.meters {
			grown := after[i] - before[i]
			if !m.data {
				grown += held
			}
			out[i] = append(out[i], grown/int64(2*o.Pairs)+m.plus)
		}
	}
	return out, nil
}

// fill is how many pairs take the places that are free before the first round.
func (o MeasureOptions) fill() int { return o.Pairs }

// judge returns the median of rounds, or why it can't be trusted.
func judge(rounds []int64) (median int64, why string) {
	s := slices.Sorted(slices.Values(rounds))
	median = s[len(s)/2]
	low, high := s[len(s)/4], s[len(s)-1-len(s)/4]
	switch {
	case median < leastPlausible:
		return 0, fmt.Sprintf("%d B a socket: it does not count sockets", median)
	case median > mostPlausible:
		return 0, fmt.Sprintf("%d B a socket: other work is in it", median)
	case float64(high-low) > measureSpread*float64(median):
		return 0, fmt.Sprintf("the rounds lie too far apart (%d to %d B)", low, high)
	}
	return median, ""
}

// meter is one of the kernel's accounts.
type meter struct {
	name string
	read func() (int64, error) // bytes now
	plus int64                 // bytes a socket that are known and not in read
	data bool                  // read counts the sockets' queues
}

func readMeters(meters []meter, into []int64) (err error) {
	for i, m := range meters {
		if into[i], err = m.read(); err != nil {
			return err
		}
	}
	return nil
}

// findMeters returns the accounts there are, best first, and why others are not.
func findMeters(root string) (meters []meter, passed []string) {
	fsys := os.DirFS(root)
	groups, err := cgroupDirs(fsys)
	if err != nil {
		passed = append(passed, err.Error())
	}
	add := func(m meter) {
		if _, err := m.read(); err != nil {
			passed = append(passed, m.name+": "+strings.TrimPrefix(err.Error(), "capacity: "))
			return
		}
		meters = append(meters, m)
	}
	file := func(path string) (string, error) {
		text, ok, err := readOptional(fsys, path)
		if err == nil && !ok {
			err = errors.New("there is no " + path)
		}
		return text, err
	}
	for _, g := range groups {
		if g.version != 2 {
			continue
		}
		stat := g.dir + "/memory.stat"
		add(meter{name: "cgroup v2 " + stat + " (kernel + sock)", data: true, read: func() (int64, error) {
			text, err := file(stat)
			if err != nil {
				return 0, err
			}
			return parseStatV2(stat, text)
		}})
	}
	slabs := func() (own, shared int64, err error) {
		text, err := file("/proc/slabinfo")
		if err != nil {
			return 0, 0, err
		}
		return parseSlabinfo(text)
	}
	_, shared, _ := slabs() // an error comes again from read
	add(meter{name: "/proc/slabinfo (caches of sockets, files and epoll) + SO_MEMINFO", plus: shared, read: func() (int64, error) {
		own, _, err := slabs()
		return own, err
	}})
	add(meter{name: meminfo + " (Slab) + SO_MEMINFO", read: func() (int64, error) {
		text, err := file(meminfo)
		if err != nil {
			return 0, err
		}
		n, ok := field([]byte(text), "Slab:")
		if !ok || n > math.MaxInt64>>10 {
			return 0, garbage(meminfo, text)
		}
		return n << 10, nil
	}})
	return meters, passed
}

// parseStatV2 returns the kernel memory charged to a group, bytes. Before Linux
// 5.18 there is no sum of it, and slab comes nearest.
func parseStatV2(file, text string) (int64, error) {
	sock, ok := field([]byte(text), "sock")
	if !ok {
		return 0, garbage(file, text)
	}
	for _, key := range []string{"kernel", "slab"} {
		if n, ok := field([]byte(text), key); ok {
			return n + sock, nil
		}
	}
	return 0, garbage(file, text)
}

// parseSlabinfo returns the bytes of the caches that only sockets and epolls
// use, and what a socket takes from caches that all files share, which move too
// much to be compared: one file and one directory entry. An object counts with
// its part of the slab's waste. Columns by slabinfo(5).
func parseSlabinfo(text string) (own, shared int64, err error) {
	found := 0
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || strings.HasPrefix(f[0], "#") || f[0] == "slabinfo" {
			continue
		}
		isOwn := slices.Contains([]string{"TCP", "sock_inode_cache", "eventpoll_epi", "eventpoll_pwq"}, f[0])
		if !isOwn && f[0] != "filp" && f[0] != "dentry" {
			continue
		}
		active, ok1 := parseBytes([]byte(f[1]))
		perSlab, ok2 := parseBytes([]byte(f[4]))
		pages, ok3 := parseBytes([]byte(f[5]))
		if !ok1 || !ok2 || !ok3 || perSlab == 0 || active > 1<<40 || pages > 1<<20 {
			return 0, 0, garbage("/proc/slabinfo", line)
		}
		each := pages * int64(os.Getpagesize())
		if isOwn {
			own += active * each / perSlab
		} else {
			shared += each / perSlab
		}
		if f[0] == "TCP" || f[0] == "sock_inode_cache" || f[0] == "filp" || f[0] == "dentry" {
			found++
		}
	}
	if found < 4 {
		return 0, 0, errors.New("capacity: the caches of sockets are not listed by name")
	}
	return own, shared, nil
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
