package capacity

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeKernel charges each socket, in each of its accounts.
type fakeKernel struct {
	sockets int64
	noise   []int64 // added to an account's reading, by reading
	at      int
}

type fakeBatch struct {
	k    *fakeKernel
	n    int64
	data int64
}

func (b fakeBatch) held() int64 { return b.n * b.data }
func (b fakeBatch) close()      { b.k.sockets -= b.n }

func (k *fakeKernel) meter(name string, each int64, noisy bool) meter {
	return meter{name: name, read: func() (int64, error) {
		n := k.sockets * each
		if noisy && len(k.noise) > 0 {
			n += k.noise[k.at%len(k.noise)]
			k.at++
		}
		return n, nil
	}}
}

func TestMeasureOverFakes(t *testing.T) {
	plus := func(m meter, n int64) meter { m.plus = n; return m }
	data := func(m meter) meter { m.data = true; return m }
	for name, tc := range map[string]struct {
		meters func(k *fakeKernel) []meter
		noise  []int64 // before and after of each round
		held   int64
		want   int64
		used   string
		fault  string
	}{
		"plain":               {func(k *fakeKernel) []meter { return []meter{k.meter("a", 4000, false)} }, nil, 0, 4000, "a", ""},
		"with what is known":  {func(k *fakeKernel) []meter { return []meter{plus(k.meter("a", 3500, false), 390)} }, nil, 0, 3890, "a", ""},
		"with queues":         {func(k *fakeKernel) []meter { return []meter{k.meter("a", 3900, false)} }, nil, 100, 4000, "a", ""},
		"queues in it":        {func(k *fakeKernel) []meter { return []meter{data(k.meter("a", 4900, false))} }, nil, 100, 4900, "a", ""},
		"sees no sockets":     {func(k *fakeKernel) []meter { return []meter{k.meter("a", 3, false), k.meter("b", 3900, false)} }, nil, 0, 3900, "b", ""},
		"two rounds in noise": {func(k *fakeKernel) []meter { return []meter{k.meter("a", 3900, true)} }, []int64{0, 0, 0, 9 << 20, 0, 0, 5 << 20, 0, 0, 0, 0, 0, 0, 0}, 0, 3900, "a", ""},
		"noise in each round": {func(k *fakeKernel) []meter { return []meter{k.meter("a", 3900, true), k.meter("b", 4000, false)} }, []int64{0, 1 << 20, 0, 0, 2 << 20, 0, 0, 3 << 20, 1 << 20}, 0, 4000, "b", ""},
		"only noise":          {func(k *fakeKernel) []meter { return []meter{k.meter("a", 3900, true)} }, []int64{0, 1 << 20, 0, 0, 2 << 20, 0, 0, 3 << 20, 1 << 20}, 0, 0, "", "a: the rounds lie too far apart"},
		"somebody's leak":     {func(k *fakeKernel) []meter { return []meter{k.meter("a", 40_000, false)} }, nil, 0, 0, "", "a: 40000 B a socket: other work is in it"},
		"no account":          {func(*fakeKernel) []meter { return []meter{} }, nil, 0, 0, "", "--bytes-per-connection"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &fakeKernel{noise: tc.noise}
			m, err := Measure(MeasureOptions{Pairs: 100, meters: tc.meters(k), open: func(pairs int) (batch, error) {
				k.sockets += int64(2 * pairs)
				return fakeBatch{k, int64(2 * pairs), tc.held}, nil
			}})
			if k.sockets != 0 {
				t.Errorf("%d sockets left open", k.sockets)
			}
			if tc.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fault) || !strings.Contains(err.Error(), "--bytes-per-connection") {
					t.Errorf("%+v, %v; want %q", m, err, tc.fault)
				}
				return
			}
			if err != nil || m.Bytes != tc.want || m.Method != tc.used || m.Sockets != 200 || len(m.Rounds) != 7 || m.Kernel == "" {
				t.Errorf("%+v, %v; want %d by %s", m, err, tc.want, tc.used)
			}
		})
	}
}

func TestMeasureFailures(t *testing.T) {
	k := &fakeKernel{}
	boom := errors.New("boom")
	n := 0
	_, err := Measure(MeasureOptions{Pairs: 10, meters: []meter{k.meter("a", 4000, false)}, open: func(pairs int) (batch, error) {
		if n++; n > 3 {
			return nil, boom
		}
		k.sockets += int64(2 * pairs)
		return fakeBatch{k, int64(2 * pairs), 0}, nil
	}})
	if !errors.Is(err, boom) || k.sockets != 0 {
		t.Errorf("%v, %d sockets left open", err, k.sockets)
	}
	_, err = Measure(MeasureOptions{Pairs: 10, meters: []meter{{name: "a", read: func() (int64, error) { return 0, boom }}}, open: func(int) (batch, error) { return fakeBatch{k, 0, 0}, nil }})
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	for _, o := range []MeasureOptions{{Pairs: -1}, {Rounds: -1}} {
		if _, err := Measure(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

const slabinfo = `slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
tw_sock_TCP          128    208    256   16    1 : tunables    0    0    0 : slabdata     13     13      0
TCP                  100    169   2368   13    8 : tunables    0    0    0 : slabdata     13     13      0
eventpoll_epi         10    384    128   32    1 : tunables    0    0    0 : slabdata     12     12      0
sock_inode_cache     200    247    832   19    4 : tunables    0    0    0 : slabdata     13     13      0
filp                 963   1071    192   21    1 : tunables    0    0    0 : slabdata     51     51      0
dentry            235322 235725    192   21    1 : tunables    0    0    0 : slabdata  11225  11225      0
`

func TestMeters(t *testing.T) {
	page := int64(os.Getpagesize())
	stat := "anon 9\nkernel 1000\nsock 24\nslab 700\n"
	for name, tc := range map[string]struct {
		files  map[string]string
		meters []string
		first  int64
		plus   int64
		passed string
	}{
		"v2": {
			map[string]string{procCgroup: "0::/a\n", procMountinfo: v2Mount, "/sys/fs/cgroup/a/memory.stat": stat, "/proc/slabinfo": slabinfo},
			[]string{"cgroup v2 /sys/fs/cgroup/a/memory.stat (kernel + sock)", "/proc/slabinfo", "/proc/meminfo"}, 1024, 0, "",
		},
		"v2 before 5.18": {
			map[string]string{procCgroup: "0::/a\n", procMountinfo: v2Mount, "/sys/fs/cgroup/a/memory.stat": "sock 24\nslab 700\n"},
			[]string{"cgroup v2 /sys/fs/cgroup/a/memory.stat (kernel + sock)", "/proc/meminfo"}, 724, 0, "/proc/slabinfo",
		},
		"v2 root group": {
			map[string]string{procCgroup: "0::/\n", procMountinfo: v2Mount, "/proc/slabinfo": slabinfo},
			[]string{"/proc/slabinfo", "/proc/meminfo"}, 100*8*page/13 + 10*page/32 + 200*4*page/19, 2 * (page / 21), "memory.stat",
		},
		"v2 garbage": {
			map[string]string{procCgroup: "0::/a\n", procMountinfo: v2Mount, "/sys/fs/cgroup/a/memory.stat": "sock many\n", "/proc/slabinfo": "x"},
			[]string{"/proc/meminfo"}, 400 << 10, 0, "memory.stat",
		},
		"merged caches": {
			map[string]string{"/proc/slabinfo": strings.ReplaceAll(slabinfo, "sock_inode_cache", "kmalloc-832")},
			[]string{"/proc/meminfo"}, 400 << 10, 0, "not listed by name",
		},
		"garbage slabinfo": {
			map[string]string{"/proc/slabinfo": strings.ReplaceAll(slabinfo, "2368   13    8", "2368   0    8")},
			[]string{"/proc/meminfo"}, 400 << 10, 0, "cannot make sense",
		},
		"nothing": {map[string]string{meminfo: "-"}, nil, 0, 0, "/proc/meminfo"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, map[string]string{meminfo: "MemTotal: 9 kB\nSlab:             400 kB\n"})
			w.set(tc.files)
			meters, passed := findMeters(w.root)
			if len(meters) != len(tc.meters) {
				t.Fatalf("%+v; passed %q", meters, passed)
			}
			for i := range meters {
				if !strings.HasPrefix(meters[i].name, tc.meters[i]) {
					t.Errorf("meter %d is %s, want %s", i, meters[i].name, tc.meters[i])
				}
			}
			if len(meters) > 0 {
				if n, err := meters[0].read(); n != tc.first || meters[0].plus != tc.plus || err != nil {
					t.Errorf("%d + %d, %v; want %d + %d", n, meters[0].plus, err, tc.first, tc.plus)
				}
			}
			if !strings.Contains(strings.Join(passed, "; "), tc.passed) {
				t.Errorf("passed %q, want one that says %q", passed, tc.passed)
			}
		})
	}
}

// On this machine: a socket costs what sockets cost, and the model has room.
func TestMeasureHere(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 4000 sockets")
	}
	before := descriptorsOpen(t)
	for attempt := 1; ; attempt++ { // other packages' tests open sockets too
		m, err := Measure(MeasureOptions{})
		if err != nil {
			t.Skip(err) // a busy machine, or no account that may be read
		}
		t.Logf("%+v", m)
		if m.Bytes >= 2*KiB && m.Bytes <= KernelPerConnection {
			break
		}
		if attempt == 5 {
			t.Errorf("an idle socket costs %d bytes by %s; the model says %d", m.Bytes, m.Method, KernelPerConnection)
			break
		}
		time.Sleep(time.Second)
	}
	if after := descriptorsOpen(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// Too few descriptors is an error that says so.
func TestPairsOutOfDescriptors(t *testing.T) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: uint64(descriptorsOpen(t) + 20), Max: l.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	before := descriptorsOpen(t)
	_, err := Measure(MeasureOptions{Pairs: 100})
	if err == nil || !strings.Contains(err.Error(), "ulimit -n") {
		t.Errorf("%v; want a word about ulimit -n", err)
	}
	if after := descriptorsOpen(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}
