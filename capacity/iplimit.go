package capacity

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// IPVerdict is an IPLimiter's answer. The zero value admits.
type IPVerdict uint8

const (
	IPAdmitted    IPVerdict = iota
	IPConnections           // too many connections of this address are open
	IPRate                  // too many came lately
	IPTableFull             // too many addresses are connected at once to count them all
)

func (v IPVerdict) String() string {
	switch v {
	case IPAdmitted:
		return "admitted"
	case IPConnections:
		return "ip_connections"
	case IPRate:
		return "ip_rate"
	case IPTableFull:
		return "ip_table_full"
	}
	return "unknown"
}

// IPConfig bounds what one address may do. An IPv6 client counts by its /64,
// which is what one household or host has; an IPv4 address in IPv6 form as
// IPv4. Zero values mean no bound.
type IPConfig struct {
	// Connections is how many an address may have open at once.
	Connections int
	// Rate is how many connections a second an address may open in the long
	// run, and Burst how many at once after a pause (0: the rate, at least 1).
	Rate, Burst int
	// Addresses bounds those remembered, about 100 B each; 0 means 65 536. At
	// the bound, who has nothing open and came last the longest ago is
	// forgotten. An address with connections is never forgotten.
	Addresses int
}

// IPLimiter enforces an IPConfig. Any goroutine may call any method; a nil one
// admits all.
type IPLimiter struct {
	mu         sync.Mutex
	cfg        IPConfig
	interval   int64 // ns between connections at Rate; 0: no rate
	slack      int64 // ns by which they may come early: (Burst - 1) intervals
	addrs      map[ipKey]int32
	table      []ipEntry
	free       int32 // list of unused entries, by next
	head, tail int32 // addresses with nothing open, longest ago first

	refused [4]atomic.Uint64 // by verdict; 0 counts the admitted
}

// ipKey is an address without its zone, or its network.
type ipKey struct{ hi, lo uint64 }

type ipEntry struct {
	key        ipKey
	due        int64 // ns: GCRA's theoretical arrival time
	open       int32
	prev, next int32 // in the idle list while open is 0
}

// NewIPLimiter returns a limiter. Where c bounds nothing it need not be asked: all it
// could do is count, and refuse who finds its table full.
func NewIPLimiter(c IPConfig) (*IPLimiter, error) {
	l := &IPLimiter{addrs: make(map[ipKey]int32), free: none, head: none, tail: none}
	return l, l.SetBounds(c)
}

// SetBounds changes the bounds from now on. What was admitted stays, and counts; of
// Addresses only what is beyond those remembered has an effect.
func (l *IPLimiter) SetBounds(c IPConfig) error {
	for _, f := range []struct {
		name  string
		value int
	}{{"--ip-connections", c.Connections}, {"--ip-rate", c.Rate}, {"the per-address burst", c.Burst}, {"the number of addresses", c.Addresses}} {
		if f.value < 0 || f.value > 1<<30 {
			return fmt.Errorf("capacity: %s is %d: want 0 to %d", f.name, f.value, 1<<30)
		}
	}
	if c.Addresses == 0 {
		c.Addresses = 1 << 16
	}
	if c.Burst == 0 {
		c.Burst = max(1, c.Rate)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg, l.interval, l.slack = c, 0, 0
	if c.Rate > 0 {
		l.interval = max(1, int64(time.Second)/int64(c.Rate))
		l.slack = l.interval * int64(c.Burst-1)
	}
	return nil
}

// Admit counts a new connection from addr. IPAdmitted is to be answered by one
// Done; with IPRate, retry is when the next would be admitted.
func (l *IPLimiter) Admit(addr netip.Addr, now time.Time) (v IPVerdict, retry time.Duration) {
	if l == nil {
		return IPAdmitted, 0
	}
	v, retry = l.admit(keyOf(addr), now.UnixNano())
	l.refused[v].Add(1)
	return v, retry
}

func (l *IPLimiter) admit(key ipKey, now int64) (IPVerdict, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, known := l.addrs[key]
	if !known {
		l.expire(now)
		if i = l.take(key); i == none {
			return IPTableFull, 0
		}
	}
	e := &l.table[i]
	switch {
	case l.cfg.Connections > 0 && int(e.open) >= l.cfg.Connections:
		return IPConnections, 0
	case l.interval > 0 && e.due-now > l.slack:
		return IPRate, time.Duration(e.due - now - l.slack)
	}
	if l.interval > 0 {
		e.due = max(e.due, now) + l.interval
	}
	if e.open == 0 {
		l.unlink(i)
	}
	e.open++
	return IPAdmitted, 0
}

// Done takes back one Admit that was IPAdmitted. It panics without one.
func (l *IPLimiter) Done(addr netip.Addr) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := l.addrs[keyOf(addr)]
	if !ok || l.table[i].open == 0 {
		panic("capacity: IPLimiter.Done without Admit")
	}
	if l.table[i].open--; l.table[i].open == 0 {
		l.link(i)
	}
}

// keyOf returns what counts of an address.
func keyOf(a netip.Addr) ipKey {
	b := a.As16() // an IPv4 address in its IPv6 form; the invalid one is ::
	k := ipKey{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
	if !a.Is4() && !a.Is4In6() {
		k.lo = 0
	}
	return k
}

// take gives an address an entry at the end of the idle list, or returns none.
// With mu held, as all below.
func (l *IPLimiter) take(key ipKey) int32 {
	i := l.free
	switch {
	case i != none:
		l.free = l.table[i].next
	case len(l.table) < l.cfg.Addresses:
		l.table = append(l.table, ipEntry{})
		i = int32(len(l.table) - 1)
	case l.head != none:
		i = l.head
		l.forget(i)
		l.free = l.table[i].next
	default:
		return none
	}
	l.table[i] = ipEntry{key: key}
	l.addrs[key] = i
	l.link(i)
	return i
}

// expire forgets a few idle addresses whose rate says nothing any more.
func (l *IPLimiter) expire(now int64) {
	for range 2 {
		if l.head == none || l.table[l.head].due > now {
			return
		}
		l.forget(l.head)
	}
}

// forget drops an idle address and frees its entry.
func (l *IPLimiter) forget(i int32) {
	l.unlink(i)
	delete(l.addrs, l.table[i].key)
	l.table[i] = ipEntry{next: l.free}
	l.free = i
}

func (l *IPLimiter) link(i int32) {
	e := &l.table[i]
	e.prev, e.next = l.tail, none
	if l.tail == none {
		l.head = i
	} else {
		l.table[l.tail].next = i
	}
	l.tail = i
}

func (l *IPLimiter) unlink(i int32) {
	e := &l.table[i]
	if e.prev == none {
		l.head = e.next
	} else {
		l.table[e.prev].next = e.next
	}
	if e.next == none {
		l.tail = e.prev
	} else {
		l.table[e.next].prev = e.prev
	}
}

// Addresses is how many are remembered now.
func (l *IPLimiter) Addresses() int {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.addrs)
}

// Count returns how many connections got that verdict, ever.
func (l *IPLimiter) Count(v IPVerdict) uint64 {
	if l == nil || int(v) >= len(l.refused) {
		return 0
	}
	return l.refused[v].Load()
}
