package capacity

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Sample is one reading of how much memory is in use.
type Sample struct {
	// Used is the working set, bytes: usage less the file pages that the kernel
	// would take back first.
	Used int64
	// Of is the limit that Used must stay under.
	Of Limit
	// Limit is the smallest limit in force, which the formula is to be computed
	// from. It differs from Of where a smaller limit is further away.
	Limit Limit
	// Changed says that Limit.Bytes is not what it was in the sample before.
	Changed bool
	// HeapLive is what the collector could not free when it ran last, HeapLimit
	// GOMEMLIMIT, bytes; 0 without one.
	HeapLive, HeapLimit int64
	// Err is why a part of this sample is an old one; nil most of the time.
	Err error
}

// UsageConfig says what an Usage reads.
type UsageConfig struct {
	// Root is the file system's root; "" means "/".
	Root string
	// Set is a limit set by the user, who wants it held whatever the kernel
	// says. Zero Bytes: none. The process's own memory is held against it.
	Set Limit
	// Kernel returns what the kernel holds for this process's sockets, bytes;
	// it is added to the resident set, which does not have it, where that is
	// held against Set. nil: nothing is added. From the goroutine that reads.
	Kernel func() int64
}

// Usage reads working set and limit, cheaply enough for ten times a second:
// files stay open and a reading does not allocate. It reads
//
//   - where a cgroup limits memory: memory.current − inactive_file (v2) or
//     memory.usage_in_bytes − total_inactive_file (v1) of the group with the
//     smallest limit, which may be an ancestor,
//   - where the user set a limit: the resident set + Kernel,
//   - else the host: MemTotal − MemAvailable.
//
// Of several the one nearest to its limit is the sample. Limits are read anew
// each time: one that shrinks, grows, is set or lifted is noticed, and so is a
// move to another group. A file that vanishes or does not parse leaves the last
// good figure standing, counts an error and is looked for again.
//
// Not for concurrent use.
type Usage struct {
	cfg    UsageConfig
	page   int64
	groups []*groupUsage
	cgroup file   // /proc/self/cgroup, to notice a move
	seen   []byte // its contents when groups was made
	statm  file
	host   file
	buf    [32 << 10]byte

	last    Sample
	errors  uint64
	rescan  int // readings until the groups are looked for again; -1: nothing is wrong
	process level
	machine level
	heap    heap
}

// level is the last good pair of an account.
type level struct {
	used  int64
	limit Limit
	known bool
}

// rescanAfter is how many readings a fault may last before files are looked
// for again.
const rescanAfter = 10

// OpenUsage finds the files and reads them once. It fails if nothing can be
// read; close it with Close.
func OpenUsage(cfg UsageConfig) (*Usage, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Set.Bytes < 0 {
		return nil, fmt.Errorf("capacity: a memory limit of %s (from %s) holds nothing: raise it or set --memory-limit", FormatSize(cfg.Set.Bytes), cfg.Set.Source)
	}
	u := &Usage{cfg: cfg, page: int64(os.Getpagesize()), rescan: -1}
	u.cgroup, u.statm, u.host = u.file(procCgroup), u.file("/proc/self/statm"), u.file(meminfo)
	if err := u.find(); err != nil {
		u.Close()
		return nil, err
	}
	s := u.Read()
	if s.Err != nil {
		u.Close()
		return nil, s.Err
	}
	u.last.Changed = false
	return u, nil
}

// SetLimit changes UsageConfig.Set; zero Bytes: none. The next Read is held against it,
// and says that the limit has changed if that is so.
func (u *Usage) SetLimit(l Limit) {
	u.cfg.Set = l
	u.process = level{}
}

// Close closes the files.
func (u *Usage) Close() {
	u.closeGroups()
	for _, f := range []*file{&u.cgroup, &u.statm, &u.host} {
		f.close()
	}
}

func (u *Usage) closeGroups() {
	for _, g := range u.groups {
		g.close()
	}
	u.groups = nil
}

// Errors is how many readings were not whole, since OpenUsage.
func (u *Usage) Errors() uint64 { return u.errors }

// Read takes a sample. It does not allocate unless something is wrong.
func (u *Usage) Read() Sample {
	err := u.rediscover()
	err = join(err, u.read())
	s, ok := u.pick()
	if !ok {
		if err == nil {
			err = fmt.Errorf("capacity: nothing says how much memory is in use: no cgroup limits it and %s has no MemAvailable", meminfo)
		}
		s = Sample{Used: u.last.Used, Of: u.last.Of, Limit: u.last.Limit}
	}
	s.Changed = s.Limit.Bytes != u.last.Limit.Bytes
	s.HeapLive, s.HeapLimit = u.heap.read()
	s.Err = err
	if err != nil {
		u.errors++
		if u.rescan < 0 {
			u.rescan = rescanAfter
		}
	}
	u.last = s
	return s
}

// rediscover looks for the groups again when the process was moved, or some
// readings after a fault.
func (u *Usage) rediscover() error {
	text, err := u.cgroup.read(u.buf[:])
	moved := err == nil && !bytes.Equal(text, u.seen)
	if u.rescan > 0 {
		u.rescan--
	}
	if !moved && u.rescan != 0 {
		return nil
	}
	u.rescan = -1
	return u.find()
}

// find opens the files of the process's groups. The last good figures of those
// there were stand until new ones are read.
func (u *Usage) find() error {
	if text, err := u.cgroup.read(u.buf[:]); err == nil {
		u.seen = append(u.seen[:0], text...)
	}
	dirs, err := cgroupDirs(os.DirFS(u.cfg.Root))
	if err != nil {
		return err
	}
	var groups []*groupUsage
	for _, d := range dirs {
		g := &groupUsage{version: d.version, above: -1}
		_ = d.up(func(dir string) (bool, error) {
			g.levels = append(g.levels, u.newLevel(g.version, dir))
			return false, nil
		})
		for _, old := range u.groups {
			if old.version == g.version {
				g.level, g.above = old.level, old.above
			}
		}
		groups = append(groups, g)
	}
	u.closeGroups()
	u.groups = groups
	return nil
}

// read reads every account there is.
func (u *Usage) read() (err error) {
	limited := false
	for _, g := range u.groups {
		err = join(err, g.read(u.buf[:]))
		limited = limited || g.known
	}
	if u.cfg.Set.Bytes > 0 {
		err = join(err, u.readProcess())
	}
	// The host's total is a limit in any case; its use counts if none else does.
	if e := u.readHost(); !limited && u.cfg.Set.Bytes == 0 {
		err = join(err, e)
	}
	return err
}

// readProcess reads the resident set: proc_pid_statm(5), second number, pages.
func (u *Usage) readProcess() error {
	text, err := u.statm.read(u.buf[:])
	if err != nil {
		return err
	}
	_, rest, _ := bytes.Cut(text, []byte(" "))
	if i := bytes.IndexByte(rest, ' '); i >= 0 {
		rest = rest[:i]
	}
	n, ok := parseBytes(rest)
	if !ok || n > math.MaxInt64/2/u.page {
		return garbage(u.statm.path, string(text))
	}
	n *= u.page
	if u.cfg.Kernel != nil {
		n += max(0, min(u.cfg.Kernel(), math.MaxInt64/2))
	}
	u.process = level{n, u.cfg.Set, true}
	return nil
}

func (u *Usage) readHost() error {
	text, err := u.host.read(u.buf[:])
	if err != nil {
		return err
	}
	total, ok1 := field(text, "MemTotal:")
	available, ok2 := field(text, "MemAvailable:")
	if !ok1 || !ok2 || total <= 0 || total > 1<<52 || available > 1<<52 {
		return garbage(u.host.path, string(text))
	}
	u.machine = level{max(0, total-available) << 10, Limit{total << 10, "host memory " + meminfo}, true}
	return nil
}

// pick returns the account nearest to its limit, and the smallest limit.
func (u *Usage) pick() (s Sample, ok bool) {
	var worst, smallest *level
	consider := func(l *level, uses bool) {
		if !l.known {
			return
		}
		if smallest == nil || l.limit.Bytes < smallest.limit.Bytes {
			smallest = l
		}
		if uses && (worst == nil || nearer(l, worst)) {
			worst = l
		}
	}
	consider(&u.process, true)
	for _, g := range u.groups {
		consider(&g.level, true)
	}
	consider(&u.machine, worst == nil)
	if worst == nil {
		return Sample{}, false
	}
	return Sample{Used: worst.used, Of: worst.limit, Limit: smallest.limit}, true
}

// nearer reports whether a is nearer to its limit than b.
func nearer(a, b *level) bool {
	return float64(a.used)*float64(b.limit.Bytes) > float64(b.used)*float64(a.limit.Bytes)
}

// groupUsage reads the process's group and its ancestors in one hierarchy.
type groupUsage struct {
	level
	version int
	levels  []groupLevel // own first
	above   int64        // v1: hierarchical_memory_limit as read last, -1 for none
}

// groupLevel is one group on the way up.
type groupLevel struct {
	max, usage, stat file
	limit            Limit  // as read last; no limit: Bytes < 0
	above            string // the source of v1's hierarchical limit
}

func (u *Usage) newLevel(version int, dir string) groupLevel {
	names := [3]string{"memory.max", "memory.current", "memory.stat"}
	if version == 1 {
		names = [3]string{"memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"}
	}
	limit := path.Join(dir, names[0])
	return groupLevel{
		max:   u.file(limit),
		usage: u.file(path.Join(dir, names[1])),
		stat:  u.file(path.Join(dir, names[2])),
		limit: Limit{-1, fmt.Sprintf("cgroup v%d %s", version, limit)},
		above: fmt.Sprintf("cgroup v1 %s (hierarchical_memory_limit)", path.Join(dir, "memory.stat")),
	}
}

func (g *groupUsage) close() {
	for i := range g.levels {
		l := &g.levels[i]
		l.max.close()
		l.usage.close()
		l.stat.close()
	}
}

// read reads limits and the use of the group that has the smallest.
func (g *groupUsage) read(buf []byte) error {
	var err error
	var own, least *groupLevel // the nearest that is there, the one with the smallest limit
	for i := range g.levels {
		l := &g.levels[i]
		there, e := l.readMax(buf, g.version)
		err = join(err, e)
		if !there {
			continue
		}
		if own == nil {
			own = l
			if g.version == 1 {
				err = join(err, g.readAbove(l, buf))
			}
		}
		switch {
		case l.limit.Bytes < 0:
		case g.version == 1 && g.above >= 0 && l.limit.Bytes != g.above:
			// The kernel goes by another: an ancestor's, or this one is an
			// ancestor without use_hierarchy.
		case g.version == 1 && g.above < 0 && l != own:
			// The kernel knows of no ancestor's.
		case least == nil || l.limit.Bytes < least.limit.Bytes:
			least = l
		}
	}
	var limit Limit
	use := least
	switch {
	case least != nil:
		limit = least.limit
	case own != nil && g.above >= 0:
		// An ancestor's that is not mounted here: of its use nothing can be seen.
		limit, use = Limit{g.above, own.above}, own
	default:
		if err == nil {
			g.level = level{}
		}
		return err
	}
	used, e := use.readUse(buf, g.version)
	if e != nil {
		err, used = join(err, e), g.used
	}
	if e == nil || g.known {
		g.level = level{used, limit, true}
	}
	return err
}

// join is errors.Join without a word for nothing.
func join(err, more error) error {
	switch {
	case more == nil:
		return err
	case err == nil:
		return more
	}
	return errors.Join(err, more)
}

// readMax reads a group's own limit into l.limit, -1 for none, or leaves the
// last one with an error. It reports false where groups have no such file.
func (l *groupLevel) readMax(buf []byte, version int) (there bool, err error) {
	text, err := l.max.read(buf)
	switch {
	case l.max.absent:
		return false, nil // the root, or no controller here
	case err != nil:
		return true, err
	}
	text = bytes.TrimSuffix(text, []byte("\n"))
	n, ok := parseBytes(text)
	switch {
	case version == 2 && string(text) == "max",
		version == 1 && (ok && n >= unlimitedV1 || !ok && allDigits(text)): // past 2^63: ULLONG_MAX, on older kernels
		n = -1
	case !ok:
		return true, garbage(l.max.path, string(text))
	}
	l.limit.Bytes = n
	return true, nil
}

func allDigits(b []byte) bool {
	return len(b) > 0 && len(b) <= 20 && len(bytes.Trim(b, "0123456789")) == 0
}

// readAbove reads what v1 says that the group and its ancestors may use.
func (g *groupUsage) readAbove(own *groupLevel, buf []byte) error {
	text, err := own.stat.read(buf)
	if own.stat.absent {
		return nil
	}
	if err != nil {
		return err
	}
	n, ok := field(text, "hierarchical_memory_limit")
	if !ok || n >= unlimitedV1 {
		n = -1
	}
	g.above = n
	return nil
}

// readUse returns the group's working set.
func (l *groupLevel) readUse(buf []byte, version int) (int64, error) {
	text, err := l.usage.read(buf)
	if err != nil {
		return 0, err
	}
	used, ok := parseBytes(bytes.TrimSuffix(text, []byte("\n")))
	if !ok {
		return 0, garbage(l.usage.path, string(text))
	}
	key := "inactive_file"
	if version == 1 {
		key = "total_inactive_file"
	}
	if text, err = l.stat.read(buf); err != nil {
		return 0, err
	}
	inactive, ok := field(text, key)
	if !ok {
		return 0, garbage(l.stat.path, "no "+key)
	}
	return max(0, used-inactive), nil
}

// file is a file of /proc or /sys that is read again and again.
type file struct {
	at     string // where it is opened
	path   string // what it is called in messages
	fd     int
	open   bool
	found  bool // it was there once
	absent bool // it never was: not tried again
}

func (u *Usage) file(p string) file {
	return file{at: strings.TrimSuffix(u.cfg.Root, "/") + p, path: p}
}

func (f *file) close() {
	if f.open {
		_ = unix.Close(f.fd)
		f.open = false
	}
}

var errAbsent = errors.New("capacity: there is no such file")

// read returns the whole file, in buf. One that fails is closed and opened anew
// by the next read, unless it never was there.
func (f *file) read(buf []byte) ([]byte, error) {
	if f.absent {
		return nil, errAbsent
	}
	if !f.open {
		fd, err := unix.Open(f.at, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			f.absent = !f.found && err == unix.ENOENT
			return nil, f.failed(err)
		}
		f.fd, f.open, f.found = fd, true, true
	}
	for n := 0; n < len(buf); {
		got, err := unix.Pread(f.fd, buf[n:], int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			f.close()
			return nil, f.failed(err)
		case got == 0:
			return buf[:n], nil
		default:
			n += got
		}
	}
	return nil, fmt.Errorf("capacity: %s is longer than %d bytes", f.path, len(buf))
}

func (f *file) failed(err error) error {
	return fmt.Errorf("capacity: reading %s: %w", f.path, err)
}
