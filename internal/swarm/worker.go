package swarm

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	tick        = 100 * time.Millisecond
	ticksPerSec = 10
	dialsATurn  = 64 // attempts begun before events are looked at again
	readRounds  = 8  // reads of one connection before the others have theirs
	subBatch    = 200
)

// worker is one process's part of a swarm.
type worker struct {
	// Static after newWorker.
	cfg       Config
	part      part
	target    target
	tls       *tls.Config // nil: plain
	sources   sources
	heads     heads
	subs      [][]byte // sub commands, ids from 1; none when channels are dealt
	commands  int      // sub commands of each connection
	floodWith []byte   // whole frames
	dripWith  []byte   // one frame that never ends
	volleyed  []byte   // a whole frame
	began     time.Time

	// Owned by the loop's goroutine.
	epoll    int
	events   []unix.EpollEvent
	conns    []conn
	next     int // attempts begun
	oldest   int // the first that may still be in its handshake
	inFlight int // handshakes under way, those of dripped heads left out
	buf      []byte
	spare    [][]byte         // buffers for what was cut off
	outs     map[int32][]byte // what a socket didn't take, rarely
	secure   map[int32]*secured
	sealed   []byte   // scratch
	raw      []byte   // scratch: what was read of a TLS socket
	again    []int32  // connections with more to read or write
	turning  []int32  // again of the turn before
	timed    []int32  // slow and dripping connections
	repeats  []repeat // sub commands that the server was too busy for
	clock    int64    // of this turn, Unix nanoseconds
	ticks    int
	stalled  bool
	counts   Counts
	delays   Delays
	ledger   *ledger // nil without Config.Check
	rng      *rand.Rand
	volleys  int // sent and to be kept in the air, 0 for none
	ending   *ending
	report   chan Report

	// Any goroutine.
	mailMu   sync.Mutex
	mail     []func()
	snapshot atomic.Pointer[Counts]
	over     chan struct{} // closed when nothing is left to happen
	overOnce sync.Once
}

// repeat is a sub command to be sent again.
type repeat struct {
	i    int32
	id   int
	when uint32 // ms
}

// ending is the end asked for.
type ending struct {
	tails []tail
	until time.Time
}

func newWorker(cfg Config, p part) (*worker, error) {
	to, err := cfg.target()
	if err != nil {
		return nil, err
	}
	w := &worker{
		cfg: cfg, part: p, target: to, sources: newSources(cfg.Sources),
		heads:  newHeads(to, cfg.Plain, cfg.Token, rand.Uint64()),
		events: make([]unix.EpollEvent, 4096),
		conns:  make([]conn, p.size(cfg.Connections)),
		buf:    make([]byte, 256<<10),
		outs:   map[int32][]byte{},
		secure: map[int32]*secured{},
		rng:    rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		report: make(chan Report, 1),
		over:   make(chan struct{}),
	}
	if w.tls, err = cfg.tlsConfig(to); err != nil {
		return nil, err
	}
	for i := range w.conns {
		w.conns[i].fd = -1
	}
	for n := 0; n < len(cfg.Channels) && cfg.Deal == 0; n += subBatch {
		w.subs = append(w.subs, subscription(&cfg, len(w.subs)+1, cfg.Channels[n:min(n+subBatch, len(cfg.Channels))]))
	}
	if len(w.subs) > 255 {
		return nil, fmt.Errorf("%d channels: at most %d", len(cfg.Channels), 255*subBatch)
	}
	w.commands = len(w.subs)
	if cfg.Deal > 0 {
		w.commands = 1
	}
	if cfg.Flood > 0 {
		w.floodWith = floodFrames(w.rng)
	}
	w.dripWith = appendFrame(nil, opText, make([]byte, 4096), w.rng.Uint32())
	w.volleyed = appendFrame(nil, opText, []byte(cfg.Volley), w.rng.Uint32())
	if cfg.Check {
		w.ledger = newLedger()
	}
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	w.began = time.Now()
	w.snapshot.Store(&Counts{})
	return w, nil
}

// sub is a connection's sub command.
func (w *worker) sub(i int32, id int) []byte {
	if w.cfg.Deal == 0 {
		return w.subs[id-1]
	}
	all := w.cfg.Channels
	hand := make([]string, w.cfg.Deal)
	for n := range hand {
		hand[n] = all[(w.attempt(i)*w.cfg.Deal+n)%len(all)]
	}
	return subscription(&w.cfg, id, hand)
}

func subscription(cfg *Config, id int, channels []string) []byte {
	var b strings.Builder
	b.WriteString(`{"op":"sub","id":` + strconv.Itoa(id) + `,"ch":[`)
	for i, ch := range channels {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(ch))
	}
	b.WriteByte(']')
	if cfg.Mode != "" && cfg.Mode != "all" {
		b.WriteString(`,"mode":` + strconv.Quote(cfg.Mode))
	}
	if cfg.MS > 0 {
		b.WriteString(`,"ms":` + strconv.Itoa(cfg.MS))
	}
	return []byte(b.String() + "}")
}

// post runs f on the loop's goroutine, soon.
func (w *worker) post(f func()) {
	w.mailMu.Lock()
	w.mail = append(w.mail, f)
	w.mailMu.Unlock()
}

// run is the loop; it ends with the report.
func (w *worker) run() {
	nextTick, nextShot := w.began.Add(tick), w.began
	for {
		w.begin()
		w.poll(w.patience(nextTick))
		w.goOn()
		w.decide()
		now := time.Now()
		if !now.Before(nextTick) {
			w.tick()
			nextTick = now.Add(tick)
		}
		settled := w.counts.Settled == 0 && w.oldest == len(w.conns)
		if settled {
			w.counts.Settled = now.Sub(w.began)
		}
		if !now.Before(nextShot) || settled || w.ending != nil {
			w.shoot()
			nextShot = now.Add(50 * time.Millisecond)
		}
		if e := w.ending; e != nil && (!w.lagging() || now.After(e.until)) {
			break
		}
		if w.cfg.Pause > 0 && w.next == len(w.conns) {
			time.Sleep(w.cfg.Pause)
		}
	}
	w.finish()
}

// patience is how long to wait for events, milliseconds.
func (w *worker) patience(nextTick time.Time) int {
	switch {
	case len(w.again) > 0:
		return 0
	case w.ending != nil:
		return 5
	case w.next < len(w.conns) && w.mayBegin():
		return 0
	case w.next < len(w.conns) && w.cfg.Rate > 0:
		return 1
	}
	return min(20, max(1, int(time.Until(nextTick)/time.Millisecond)))
}

func (w *worker) poll(ms int) {
	n, err := unix.EpollWait(w.epoll, w.events, ms)
	w.clock = time.Now().UnixNano()
	if err != nil {
		if errors.Is(err, unix.EINTR) {
			return // the next turn
		}
		panic(fmt.Sprintf("swarm: epoll_wait: %v", err))
	}
	// What was posted before these bytes were sent comes before them.
	w.mailMu.Lock()
	mail := w.mail
	w.mail = nil
	w.mailMu.Unlock()
	for _, f := range mail {
		f()
	}
	for i := range w.events[:n] {
		w.ready(w.events[i].Fd, w.events[i].Events)
	}
}

// goOn serves those who had more to do than one turn's share.
func (w *worker) goOn() {
	w.turning, w.again = w.again, w.turning[:0]
	for _, i := range w.turning {
		k := &w.conns[i]
		k.flags &^= flagAgain
		switch {
		case k.state == ended:
		case k.state == open && k.role == Flood && k.flags&flagHup == 0:
			w.flood(i)
		case w.reads(k):
			w.read(i)
		}
	}
}

func (w *worker) later(i int32) {
	if k := &w.conns[i]; k.flags&flagAgain == 0 {
		k.flags |= flagAgain
		w.again = append(w.again, i)
	}
}

// millis is the time since the start.
func (w *worker) millis() uint32 { return uint32(time.Since(w.began) / time.Millisecond) }

// decide passes over the attempts that have succeeded or failed, and ends those
// that take too long.
func (w *worker) decide() {
	limit := uint32(w.cfg.Timeout / time.Millisecond)
	for ; w.oldest < w.next; w.oldest++ {
		k := &w.conns[w.oldest]
		if k.state == open || k.state == ended {
			continue
		}
		if w.millis()-k.began < limit {
			return
		}
		w.end(int32(w.oldest), "timeout")
	}
}

// mayBegin reports whether an attempt is due.
func (w *worker) mayBegin() bool {
	if w.ending != nil || w.cfg.InFlight > 0 && w.inFlight >= w.cfg.InFlight {
		return false
	}
	return w.cfg.Rate == 0 || float64(w.next) <= time.Since(w.began).Seconds()*w.cfg.Rate
}

// begin makes the attempts that are due.
func (w *worker) begin() {
	for range dialsATurn {
		if w.next == len(w.conns) || !w.mayBegin() {
			return
		}
		i := int32(w.next)
		w.next++
		w.dial(i)
	}
}

// attempt is the number of connection i among all processes'.
func (w *worker) attempt(i int32) int { return w.part.Index + int(i)*w.part.Of }

func (w *worker) dial(i int32) {
	k := &w.conns[i]
	g := w.attempt(i)
	role, nth := w.cfg.role(g)
	k.role = role
	if role == Drip && nth%2 == 0 {
		k.flags |= flagDripHead
	}
	k.began = w.millis()
	k.state = connecting
	w.counts.Roles[k.role].Attempts++
	if k.flags&flagDripHead == 0 {
		w.inFlight++
	}
	if err := w.connect(k, g); err != nil {
		w.end(i, errName(err))
		return
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: i}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, int(k.fd), &ev); err != nil {
		w.end(i, errName(err))
		return
	}
	if k.flags&flagDripHead == 0 && w.tls == nil {
		w.head(i, w.heads.request(g))
	}
}

// head sends a head without waiting for the connection to stand: on loopback
// connect(2) has done the whole handshake, though it said EINPROGRESS.
func (w *worker) head(i int32, b []byte) {
	k := &w.conns[i]
	n, errno := writeRaw(k.fd, b)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return // the event will come
	case errno != 0:
		k.state = upgrading
		w.broken(i, errno)
		return
	}
	k.state = upgrading
	if n < len(b) {
		w.outs[i] = bytes.Clone(b[n:])
	}
}

func (w *worker) connect(k *conn, g int) error {
	family, to := sockaddr(w.target.addr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	k.fd = int32(fd)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	size := w.cfg.RcvBuf
	if size == 0 && (k.role == Slow || k.role == Flood) {
		size = 4096
	}
	if size > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size); err != nil {
			return err
		}
	}
	if from, ok := w.sources.of(g); ok {
		// The port is then chosen by connect, for this target alone.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		_, local := sockaddr(netip.AddrPortFrom(from, 0))
		if err := unix.Bind(fd, local); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return nil
}

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// errName is an error number's name.
func errName(err error) string {
	var no unix.Errno
	if errors.As(err, &no) {
		if name := unix.ErrnoName(no); name != "" {
			return name
		}
	}
	return err.Error()
}

// readRaw and writeRaw never block, because the descriptors don't, so the
// scheduler need not hear of them.
func readRaw(fd int32, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), e
}

func writeRaw(fd int32, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), e
}

// tick looks at the clocks.
func (w *worker) tick() {
	w.ticks++
	now := w.millis()
	kept := w.timed[:0]
	for _, i := range w.timed {
		k := &w.conns[i]
		if k.state == ended || k.flags&flagHup != 0 {
			continue
		}
		kept = append(kept, i)
		if int(i)%ticksPerSec == w.ticks%ticksPerSec {
			w.oncePerSecond(i)
		}
	}
	w.timed = kept

	w.repeats = slices.DeleteFunc(w.repeats, func(r repeat) bool {
		if now < r.when && w.conns[r.i].state == joining {
			return false
		}
		w.write(r.i, appendFrame(nil, opText, w.sub(r.i, r.id), w.rng.Uint32()))
		return true
	})

	since := time.Since(w.began)
	stall := w.cfg.StallAfter > 0 && since >= w.cfg.StallAfter &&
		(w.cfg.ResumeAfter == 0 || since < w.cfg.StallAfter+w.cfg.ResumeAfter)
	if stall && !w.stalled {
		w.delays.stop = true // from here on they would measure the stall
	}
	if !stall && w.stalled {
		w.stalled = false
		for i := range w.conns[:w.next] {
			if w.conns[i].state == open {
				w.later(int32(i))
			}
		}
	}
	w.stalled = stall
}

// shoot lets others see the counts.
func (w *worker) shoot() {
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		w.counts.CPU = float64(use.Utime.Nano()+use.Stime.Nano()) / 1e9
	}
	w.counts.RSS = residentBytes()
	c := w.counts.clone()
	w.snapshot.Store(&c)
	if c.over(len(w.conns)) {
		w.overOnce.Do(func() { close(w.over) })
	}
}

// residentBytes is this process's resident memory.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// lagging reports whether a client that reads has not come to the last message.
func (w *worker) lagging() bool {
	for i := range w.conns[:w.next] {
		if w.behind(int32(i)) != nil {
			return true
		}
	}
	return false
}

func (w *worker) behind(i int32) *tail {
	k := &w.conns[i]
	if w.ledger == nil || len(w.ending.tails) == 0 || k.state != open || k.role == Slow || k.role == Flood || w.stalled {
		return nil
	}
	return w.ledger.behind(i, k, w.ending.tails)
}

// finish makes the report and hangs up.
func (w *worker) finish() {
	if w.ledger != nil {
		for i := range w.conns[:w.next] {
			if t := w.behind(int32(i)); t != nil {
				w.ledger.fault(faultTail, "%s: connection %d has not come to seq %d", w.ledger.names[t.ch], w.attempt(int32(i)), t.seq)
			}
		}
	}
	for i := range w.conns {
		k := &w.conns[i]
		switch {
		case i >= w.next:
			role, _ := w.cfg.role(w.attempt(int32(i)))
			w.counts.Roles[role].Errors.count("not_attempted", 1)
		case k.state != open && k.state != ended:
			w.end(int32(i), "unfinished")
		}
	}
	w.shoot()
	rep := Report{Counts: *w.snapshot.Load(), delays: w.delays}
	if w.ledger != nil {
		l := w.ledger.finish()
		rep.Ledger = &l
	}
	for i := range w.conns {
		if k := &w.conns[i]; k.state == open {
			hangUp(k)
		}
	}
	_ = unix.Close(w.epoll)
	w.report <- rep
	w.overOnce.Do(func() { close(w.over) })
}
