package capacity

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func limiter(t testing.TB, c IPConfig) *IPLimiter {
	t.Helper()
	l, err := NewIPLimiter(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestIPLimiterConnections(t *testing.T) {
	l := limiter(t, IPConfig{Connections: 2})
	admit := func(addr string, want IPVerdict) {
		t.Helper()
		if v, _ := l.Admit(ip(addr), noon); v != want {
			t.Errorf("%s: %v, want %v", addr, v, want)
		}
	}
	admit("10.0.0.1", IPAdmitted)
	admit("::ffff:10.0.0.1", IPAdmitted) // the same client over a dual-stack listener
	admit("10.0.0.1", IPConnections)
	admit("10.0.0.2", IPAdmitted)
	admit("2001:db8:1:2::1", IPAdmitted)
	admit("2001:db8:1:2:ffff::9", IPAdmitted) // the same /64
	admit("2001:db8:1:2::3", IPConnections)
	admit("2001:db8:1:3::1", IPAdmitted)
	admit("fe80::1%eth0", IPAdmitted)
	l.Done(ip("10.0.0.1"))
	admit("10.0.0.1", IPAdmitted)
	admit("10.0.0.1", IPConnections)
	l.Done(ip("fe80::2%eth1"))
	if got := l.Count(IPConnections); got != 3 {
		t.Errorf("%d refused, want 3", got)
	}
	if got := l.Count(IPAdmitted); got != 8 {
		t.Errorf("%d admitted, want 8", got)
	}
}

func TestIPLimiterRate(t *testing.T) {
	l := limiter(t, IPConfig{Rate: 10, Burst: 3})
	a := ip("10.0.0.1")
	for i, c := range []struct {
		at    time.Duration
		want  IPVerdict
		retry time.Duration
	}{
		{0, IPAdmitted, 0}, {0, IPAdmitted, 0}, {0, IPAdmitted, 0},
		{0, IPRate, 100 * time.Millisecond},
		{99 * time.Millisecond, IPRate, time.Millisecond},
		{100 * time.Millisecond, IPAdmitted, 0},
		{100 * time.Millisecond, IPRate, 100 * time.Millisecond},
		{time.Hour, IPAdmitted, 0}, {time.Hour, IPAdmitted, 0}, {time.Hour, IPAdmitted, 0},
		{time.Hour, IPRate, 100 * time.Millisecond},
	} {
		v, retry := l.Admit(a, noon.Add(c.at))
		if v != c.want || retry != c.retry {
			t.Errorf("connection %d: %v, retry %v; want %v, %v", i, v, retry, c.want, c.retry)
		}
		if v == IPAdmitted {
			l.Done(a)
		}
	}
	// In the long run: the rate and the burst, no more.
	n := 0
	for i := range 10_000 {
		if v, _ := l.Admit(ip("10.0.0.2"), noon.Add(time.Duration(i)*time.Millisecond)); v == IPAdmitted {
			n++
		}
	}
	if n != 102 {
		t.Errorf("%d admitted in 10 s at 10/s with a burst of 3", n)
	}
}

// Memory is bounded, and an address with connections is never forgotten.
func TestIPLimiterTable(t *testing.T) {
	const room = 100
	l := limiter(t, IPConfig{Connections: 1, Rate: 1, Burst: 1, Addresses: room})
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 50 { // stay
		l.Admit(at(i), noon)
	}
	for i := range 10_000 { // come and go
		a := at(1000 + i)
		if v, _ := l.Admit(a, noon); v != IPAdmitted {
			t.Fatalf("%v: %v", a, v)
		}
		l.Done(a)
		if n := l.Addresses(); n > room {
			t.Fatalf("%d addresses remembered, want %d at most", n, room)
		}
	}
	if len(l.table) > room {
		t.Errorf("%d entries", len(l.table))
	}
	for i := range 50 {
		if v, _ := l.Admit(at(i), noon.Add(time.Hour)); v != IPConnections {
			t.Fatalf("address %d was forgotten with a connection open: %v", i, v)
		}
	}
	for i := range 50 { // connected all
		if v, _ := l.Admit(at(2_000_000+i), noon.Add(time.Hour)); v != IPAdmitted {
			t.Fatal(v)
		}
	}
	if v, _ := l.Admit(at(3_000_000), noon.Add(time.Hour)); v != IPTableFull || l.Count(IPTableFull) != 1 {
		t.Errorf("a table of connected addresses: %v", v)
	}
	for i := range 50 {
		l.Done(at(i))
		l.Done(at(2_000_000 + i))
	}
	// All idle: new ones drive two of the old out each, once their rate says nothing.
	for i := range 60 {
		l.Admit(at(4_000_000+i), noon.Add(2*time.Hour))
	}
	if n := l.Addresses(); n != 60 {
		t.Errorf("%d addresses remembered, want the 60 connected", n)
	}
}

func TestIPLimiterConfig(t *testing.T) {
	counting := limiter(t, IPConfig{})
	for range 1000 {
		if v, _ := counting.Admit(ip("10.0.0.1"), noon); v != IPAdmitted {
			t.Fatal("a limiter without bounds refuses")
		}
	}
	var off *IPLimiter
	if v, retry := off.Admit(ip("::1"), noon); v != IPAdmitted || retry != 0 || off.Addresses() != 0 || off.Count(IPRate) != 0 {
		t.Error("a nil limiter refuses")
	}
	off.Done(ip("::1"))
	for _, c := range []IPConfig{{Connections: -1}, {Rate: -1}, {Rate: 1, Burst: -1}, {Rate: 1, Addresses: -1}, {Rate: 1 << 31}} {
		if _, err := NewIPLimiter(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("Done without Admit: no panic")
		}
	}()
	limiter(t, IPConfig{Rate: 1}).Done(ip("::1"))
}

func TestIPLimiterRace(t *testing.T) {
	l := limiter(t, IPConfig{Connections: 3, Rate: 1 << 29, Addresses: 16})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 2000 {
				a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 20)})
				if v, _ := l.Admit(a, noon); v == IPAdmitted {
					l.Done(a)
				}
			}
		})
	}
	wg.Wait()
	for i := range l.table {
		if l.table[i].open != 0 {
			t.Errorf("%d connections left over", l.table[i].open)
		}
	}
}

func TestVerdictString(t *testing.T) {
	for v, want := range []string{"admitted", "ip_connections", "ip_rate", "ip_table_full", "unknown"} {
		if got := IPVerdict(v).String(); got != want {
			t.Errorf("%d is %q", v, got)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 1000 {
		d := RetryAfter(time.Second, 5*time.Second)
		if d < time.Second || d > 5*time.Second {
			t.Fatal(d)
		}
		seen[d/time.Second] = true
	}
	if len(seen) < 4 {
		t.Errorf("little jitter: %v", seen)
	}
	if d := RetryAfter(3*time.Second, time.Second); d != 3*time.Second {
		t.Error(d)
	}
	if d := RetryAfter(-1, -1); d != 0 {
		t.Error(d)
	}
	for d, want := range map[time.Duration]int{0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, 5 * time.Second: 5} {
		if got := RetrySeconds(d); got != want {
			t.Errorf("%v: %d s, want %d", d, got, want)
		}
	}
}

func BenchmarkIPLimiter(b *testing.B) {
	l := limiter(b, IPConfig{Connections: 10, Rate: 1000, Addresses: 1 << 16})
	addrs := make([]netip.Addr, 1<<17)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	for _, n := range []int{1, 1 << 10, 1 << 17} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			now, i := time.Now(), 0
			for b.Loop() {
				if v, _ := l.Admit(addrs[i%n], now); v == IPAdmitted {
					l.Done(addrs[i%n])
				}
				now = now.Add(time.Millisecond)
				i++
			}
		})
	}
}

// Bounds change under who is admitted: they stay, and count.
func TestIPLimiterSetBounds(t *testing.T) {
	l := limiter(t, IPConfig{Connections: 3})
	a := ip("10.0.0.1")
	for range 3 {
		if v, _ := l.Admit(a, noon); v != IPAdmitted {
			t.Fatal(v)
		}
	}
	set := func(c IPConfig) {
		t.Helper()
		if err := l.SetBounds(c); err != nil {
			t.Fatal(err)
		}
	}
	set(IPConfig{Connections: 1})
	for range 3 {
		if v, _ := l.Admit(a, noon); v != IPConnections {
			t.Errorf("beyond a lowered bound: %v", v)
		}
		l.Done(a)
	}
	if v, _ := l.Admit(a, noon); v != IPAdmitted {
		t.Errorf("all have left: %v", v)
	}
	set(IPConfig{Connections: 2, Rate: 1})
	if v, _ := l.Admit(a, noon); v != IPAdmitted {
		t.Errorf("its first by the rate: %v", v)
	}
	l.Done(a)
	if v, _ := l.Admit(a, noon); v != IPRate {
		t.Errorf("its second: %v", v)
	}
	set(IPConfig{Connections: 2})
	if v, _ := l.Admit(a, noon); v != IPAdmitted {
		t.Errorf("without a rate: %v", v)
	}
	if err := l.SetBounds(IPConfig{Rate: -1}); err == nil {
		t.Error("a bad bound was taken")
	}
}
