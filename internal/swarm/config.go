package swarm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/sys/unix"
)

// Config says what a swarm does. The zero value of a field is its default.
type Config struct {
	// URL is ws://HOST[:PORT]/PATH, or wss://.
	URL string
	// CA are the certificates believed for wss, PEM; "": the system's. Insecure
	// believes any.
	CA       string
	Insecure bool
	// Plain offers no subprotocol: any WebSocket server will do, and a connection
	// that it upgraded is connected. Not with Channels.
	Plain bool
	// Token goes into each head as a bearer token; "" for none.
	Token string

	// Connections is how many are attempted, at least 1, those of the roles
	// below included.
	Connections       int
	Slow, Flood, Drip int
	// SlowRead is how many bytes a second a slow client reads; 0: none.
	SlowRead int
	// RcvBuf is SO_RCVBUF, bytes; 0: the kernel's default, and 4096 for slow
	// and flooding clients.
	RcvBuf int

	// Channels are subscribed to by every connection; none: no subscription.
	Channels []string
	// Deal gives each connection so many of Channels instead, in turn: with 2,
	// attempt 0 has the first two, attempt 1 the next two, and so on around.
	// 0: all of them. Not with Check, at most 200.
	Deal int
	// Volley is a text that Swarm.Volley sends; what is not subscribed to a
	// channel answers it with one frame.
	Volley string
	// Mode and MS go into the subscription; "" is "all".
	Mode string
	MS   int

	// Rate is how many attempts begin a second; 0: as many as InFlight lets.
	Rate float64
	// InFlight bounds the handshakes under way at once; 0: no bound.
	// Dripped heads don't count.
	InFlight int
	// Timeout is how long an attempt may take; 0 means 30 s.
	Timeout time.Duration
	// Sources are local addresses to connect from, in turn. None: the kernel's
	// choice; with several processes and a loopback target, 127.0.0.1 for the
	// first, 127.0.0.2 for the second and so on, because one address has only
	// some 28 000 ports.
	Sources []netip.Prefix

	// StallAfter is after how long normal clients stop reading (0: at
	// Swarm.Stall only), ResumeAfter how long they stay so (0: for good).
	StallAfter, ResumeAfter time.Duration

	// Check keeps the ledger.
	Check bool
	// Mark, from NewMark, tells payloads made with AppendPayload: their delays
	// are measured, and for the ledger they are the publisher's own.
	Mark string
	// Pause is slept after each look at the sockets, once all attempts are made:
	// bursts are then read together, at less cost to a server on the same
	// cores. Delays are measured that much coarser.
	Pause time.Duration

	// Processes is over how many to spread; 0: as many as descriptors require,
	// at most 15 000 connections each. 1 runs in this process.
	Processes int
	// Child is the command that calls Child.
	Child []string
}

// perProcess is how many connections one process is given.
const perProcess = 15_000

// descriptors that a process needs for itself.
const spareFDs = 64

// check completes the configuration.
func (c *Config) check() error {
	if c.Connections < 1 {
		return errors.New("no connections asked for")
	}
	if c.Slow < 0 || c.Flood < 0 || c.Drip < 0 || c.Slow+c.Flood+c.Drip > c.Connections {
		return fmt.Errorf("%d slow, %d flooding and %d dripping clients among %d connections", c.Slow, c.Flood, c.Drip, c.Connections)
	}
	if c.Plain && len(c.Channels) > 0 {
		return errors.New("channels of a server that is not odin")
	}
	if c.Deal < 0 || c.Deal > subBatch || c.Deal > len(c.Channels) || c.Deal > 0 && c.Check {
		return fmt.Errorf("dealing %d of %d channels", c.Deal, len(c.Channels))
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	if c.Processes == 0 {
		most := perProcess
		var limit unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Max < perProcess+spareFDs {
			most = max(1, int(limit.Max)-spareFDs)
		}
		c.Processes = (c.Connections + most - 1) / most
	}
	if c.Processes > c.Connections {
		c.Processes = c.Connections
	}
	return nil
}

// part is one process's share: the attempts Of·i + Index.
type part struct{ Index, Of int }

// size is how many of n attempts it has.
func (p part) size(n int) int { return (n - p.Index + p.Of - 1) / p.Of }

// of is the configuration of the process with part p.
func (c Config) of(p part, loopback bool) Config {
	c.Rate /= float64(p.Of)
	c.InFlight = (c.InFlight + p.Of - 1) / p.Of
	if len(c.Sources) == 0 && loopback && p.Of > 1 {
		a := netip.AddrFrom4([4]byte{127, 0, byte(p.Index / 254), byte(1 + p.Index%254)})
		c.Sources = []netip.Prefix{netip.PrefixFrom(a, 32)}
	}
	return c
}

// target is where to connect to.
type target struct {
	addr netip.AddrPort
	host string // as in the Host header
	path string
	tls  bool
}

func (c *Config) target() (target, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" {
		return target{}, fmt.Errorf("want ws://HOST:PORT/PATH, not %q", c.URL)
	}
	port := u.Port()
	switch {
	case u.Scheme != "ws" && u.Scheme != "wss":
		return target{}, fmt.Errorf("%q: the swarm speaks ws and wss", c.URL)
	case port == "" && u.Scheme == "wss":
		port = "443"
	case port == "":
		port = "80"
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return target{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return target{}, err
	}
	addr := addrs[0].Unmap()
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			addr = a
			break
		}
	}
	return target{netip.AddrPortFrom(addr, uint16(number)), u.Host, u.RequestURI(), u.Scheme == "wss"}, nil
}

// sources deals local addresses to attempts.
type sources struct {
	first []netip.Addr // of each range
	sizes []int
	total int
}

func newSources(ps []netip.Prefix) sources {
	var s sources
	for _, p := range ps {
		bits := min(16, p.Addr().BitLen()-p.Bits()) // 65 536 addresses are enough
		n, first := 1<<bits, p.Masked().Addr()
		if bits > 1 {
			n, first = n-2, first.Next() // not the network's own address, nor its broadcast
		}
		s.first, s.sizes, s.total = append(s.first, first), append(s.sizes, n), s.total+n
	}
	return s
}

// of is the address of attempt g; ok is false when the kernel is to choose.
func (s *sources) of(g int) (a netip.Addr, ok bool) {
	if s.total == 0 {
		return a, false
	}
	g %= s.total
	for i, n := range s.sizes {
		if g < n {
			return plus(s.first[i], g), true
		}
		g -= n
	}
	return a, false
}

// plus is the address n further on, n < 65 536.
func plus(a netip.Addr, n int) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; n > 0 && i >= 0; i-- {
		n += int(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	sum, _ := netip.AddrFromSlice(b)
	return sum
}

// Role is how a client behaves.
type Role uint8

// The roles.
const (
	Normal Role = iota
	Slow
	Flood
	Drip
	roles // how many there are
)

func (r Role) String() string { return [...]string{"normal", "slow", "flood", "drip"}[r] }

// role is attempt g's, and its number within the role: each role is spread evenly
// over all attempts.
func (c *Config) role(g int) (Role, int) {
	n := c.Connections
	for _, r := range []struct {
		role Role
		of   int
	}{{Slow, c.Slow}, {Flood, c.Flood}, {Drip, c.Drip}} {
		before := g * r.of / n
		if (g+1)*r.of/n > before {
			return r.role, before
		}
		// What is left is numbered anew.
		g -= before
		n -= r.of
	}
	return Normal, g
}
