//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// delayLink is a network interface whose packets take their time: what is sent
// to far arrives at near from far, delay later, and the other way round. So the
// kernel's own TCP has a round trip of twice the delay, acknowledgements
// included, which no relay of bytes could give a server on loopback: there what
// it writes is acknowledged at once, however late it is read.
//
// It is a TUN device. Each packet comes back with its two addresses exchanged,
// which leaves every checksum as it is. No packet is lost or reordered. Segments
// are of 1460 bytes, so that TCP's windows are those of the internet, but travel
// many in one packet, as through a network card that splits them (TSO): 100 MB/s
// are no trouble.
type delayLink struct {
	near, far net.IP // a server listens on near, clients dial far

	// Static after newDelayLink.
	dev   *os.File
	delay time.Duration
	wake  chan struct{}

	mu    sync.Mutex
	queue []delayed // guarded by mu, in the order they are due
	held  int       // guarded by mu, bytes in queue
	ended bool      // guarded by mu

	packets, dropped atomic.Int64
	late             atomic.Int64 // the most a packet was late, ns
}

type delayed struct {
	due    time.Time
	packet []byte
}

// linkHolds is how many bytes may be on their way; what comes then is dropped.
const linkHolds = 256 << 20

// newDelayLink makes one, removed when the test ends, or skips the test without
// the right to.
func newDelayLink(t *testing.T, delay time.Duration) *delayLink {
	t.Helper()
	// 198.18.0.0/15 is for measuring networks (RFC 2544): nobody's own.
	n := rand.IntN(1 << 14)
	l := &delayLink{
		near: net.IPv4(198, 18, byte(n>>6), byte(n<<2)|1).To4(), far: net.IPv4(198, 18, byte(n>>6), byte(n<<2)|2).To4(),
		delay: delay, wake: make(chan struct{}, 1),
	}
	if err := l.open(); err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			t.Skipf("a network with a delay needs /dev/net/tun and CAP_NET_ADMIN: %v", err)
		}
		t.Fatal(err)
	}
	// The link must not wait for the clients that share its process.
	cpus := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(cpus + 2)
	var wg sync.WaitGroup
	for _, f := range []func(){l.take, l.give} {
		wg.Go(func() {
			runtime.LockOSThread() // for good: the thread ends with its priority
			_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
			f()
		})
	}
	t.Cleanup(func() {
		l.mu.Lock()
		l.ended = true
		l.mu.Unlock()
		l.poke()
		_ = l.dev.Close()
		wg.Wait()
		runtime.GOMAXPROCS(cpus)
		t.Logf("the link carried %d packets, the latest %v late; %d dropped", l.packets.Load(), time.Duration(l.late.Load()).Round(time.Millisecond), l.dropped.Load())
	})
	return l
}

func (l *delayLink) open() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq("odin%d")
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("make a TUN device: %w", err)
	}
	// The runtime's poller takes it only now that it is a device.
	l.dev = os.NewFile(uintptr(fd), "tun")
	name := ifr.Name()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, set := range []struct {
		what string
		req  uint
		fill func(*unix.Ifreq) error
	}{
		{"address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(l.near) }},
		{"peer", unix.SIOCSIFDSTADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(l.far) }},
		// Bursts to a hundred clients are thousands of packets.
		{"queue", unix.SIOCSIFTXQLEN, func(r *unix.Ifreq) error { r.SetUint32(100_000); return nil }},
		{"state", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			err = set.fill(ifr)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, set.req, ifr)
		}
		if err != nil {
			return fmt.Errorf("set the %s of %s: %w", set.what, name, err)
		}
	}
	return nil
}

// take reads what the kernel sends.
func (l *delayLink) take() {
	const hdr = 10 // virtio_net_hdr: how to split it, where its checksum goes; it comes back as it went
	buf := make([]byte, hdr+64<<10)
	for {
		n, err := l.dev.Read(buf)
		if err != nil {
			return
		}
		if n < hdr+20 || buf[hdr]>>4 != 4 {
			continue // IPv6's own chatter
		}
		p := append([]byte(nil), buf[:n]...)
		for i := hdr + 12; i < hdr+16; i++ {
			p[i], p[i+4] = p[i+4], p[i]
		}
		l.mu.Lock()
		if l.held+n > linkHolds {
			l.mu.Unlock()
			l.dropped.Add(1)
			continue
		}
		l.queue = append(l.queue, delayed{time.Now().Add(l.delay), p})
		l.held += n
		l.mu.Unlock()
		l.poke()
	}
}

func (l *delayLink) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// give hands packets back when they are due.
func (l *delayLink) give() {
	var batch []delayed
	for {
		l.mu.Lock()
		if l.ended {
			l.mu.Unlock()
			return
		}
		batch, l.queue = l.queue, batch[:0]
		l.mu.Unlock()
		if len(batch) == 0 {
			<-l.wake
			continue
		}
		for i, p := range batch {
			wait := time.Until(p.due)
			if wait > 0 {
				time.Sleep(wait)
			} else {
				l.late.Store(max(l.late.Load(), int64(-wait)))
			}
			if _, err := l.dev.Write(p.packet); err != nil {
				if errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EBADFD) {
					return
				}
				l.dropped.Add(1)
			}
			l.packets.Add(1)
			l.mu.Lock()
			l.held -= len(p.packet)
			l.mu.Unlock()
			batch[i].packet = nil
		}
	}
}
