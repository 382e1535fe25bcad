package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/odin-ws/odin/gateway/secure"
	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/internal/tlsrec"
)

// TLS is how the public port speaks it.
type TLS struct {
	// Certificates are read anew while the gateway runs.
	Certificates *secure.Certificates
	// Kernel lets the kernel do the records where it can (tlsrec.KernelReady).
	Kernel bool
	// Handshakes bounds those under way. As many more may wait to begin; beyond
	// these, the one that has waited longest for its client gives way.
	Handshakes int

	reload, patience time.Duration // reloadEvery, and both patiences, but in tests
}

// Why a TLS handshake came to nothing, as /stats names it.
const (
	shakePlain     = "plain"     // the client doesn't speak TLS; told so where it speaks HTTP
	shakeTimeout   = "timeout"   // not done within the handshake timeout
	shakeDisplaced = "displaced" // too many under way, and this had waited longest for its client
	shakeBusy      = "busy"      // too many under way, none of which waited for its client
	shakeAborted   = "aborted"   // the client hung up
	shakeTooLong   = "too_long"  // the client sent more than any needs to
	shakeAlert     = "alert"     // the client refused: the certificate, most of all
	shakeRefused   = "refused"   // nothing in common: version, cipher suite, protocol
	shakeInternal  = "internal"  // ours: the keys could not be used
)

// shakeReasons are all of them.
var shakeReasons = [...]string{shakePlain, shakeTimeout, shakeDisplaced, shakeBusy, shakeAborted, shakeTooLong, shakeAlert, shakeRefused, shakeInternal}

const (
	// reloadEvery is how often the certificate's files are looked at.
	reloadEvery = 2 * time.Second
	// While others wait to begin, a handshake may wait so long for its client: for the
	// first byte, which comes with the connection, and for the next, which is a round
	// trip away. As many may wait to begin; beyond these it may not wait at all.
	silentPatience = 100 * time.Millisecond
	shakePatience  = time.Second
	// plainWait is how long a client that spoke HTTP where TLS was due may take to
	// hang up, having been told.
	plainWait = time.Second
)

var refusePlain = &wire.Refusal{Status: http.StatusBadRequest, Code: "tls_required", Message: "this port speaks TLS: use https:// and wss://"}

// handshakes shakes hands on descriptors from the acceptor and gives them to the
// shards. Each takes a goroutine, for as long as it lasts.
type handshakes struct {
	// Static.
	g    *Gateway
	cfg  *tls.Config
	most int
	// computing has room for the handshakes that may compute at once, half of the
	// processors': the shards and those already connected have the rest.
	computing chan struct{}

	// Any goroutine.
	failed [len(shakeReasons)]atomic.Uint64
	done   atomic.Uint64
	all    sync.WaitGroup

	// Guarded by mu.
	mu      sync.Mutex
	under   []*shake // under way, oldest first
	waiting []int    // descriptors whose handshake has not begun
	looking bool     // a timer will look at these
	closed  bool
}

// shake is one of them.
type shake struct {
	fd        int      // the acceptor's, blocking calls go to file
	file      *os.File // a duplicate, known to the runtime's poller
	computing chan struct{}
	idle      atomic.Int64 // since when it waits for its client, Unix ns; 0: it doesn't
	displaced atomic.Bool
	read      atomic.Bool // the first byte has come
	plain     bool        // and was none of TLS
}

func newHandshakes(g *Gateway, t *TLS) *handshakes {
	cfg := tlsrec.Config()
	cfg.GetCertificate = t.Certificates.Get
	return &handshakes{
		g: g, cfg: cfg, most: max(1, t.Handshakes),
		computing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
}

// take begins handshakes; the descriptors are its own from here on.
func (h *handshakes) take(fds []int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range fds {
		switch {
		case h.closed:
			unix.Close(fd)
		case len(h.waiting) < h.most || h.displace(false):
			h.waiting = append(h.waiting, fd)
			h.beginSome()
		default:
			h.count(shakeBusy)
			unix.Close(fd)
		}
	}
}

// beginSome begins those that wait, as far as there may be more or others give way.
// mu is held.
func (h *handshakes) beginSome() {
	for len(h.waiting) > 0 && (len(h.under) < h.most || h.displace(true)) {
		fd := h.waiting[0]
		h.waiting = append(h.waiting[:0], h.waiting[1:]...)
		h.begin(fd)
	}
	if len(h.waiting) > 0 && !h.looking {
		h.looking = true
		h.all.Add(1)
		time.AfterFunc(silentPatience/2, func() {
			defer h.all.Done()
			h.mu.Lock()
			defer h.mu.Unlock()
			h.looking = false
			h.beginSome()
		})
	}
}

// displace ends the oldest handshake that waits for its client, whose bytes are not
// there already, patient or not; it reports false when there is none. mu is held.
func (h *handshakes) displace(patient bool) bool {
	now := time.Now().UnixNano()
	for i, s := range h.under {
		since := s.idle.Load()
		if since == 0 || patient && now-since < h.patience(s).Nanoseconds() || unread(s.fd) {
			continue
		}
		s.displaced.Store(true)
		_ = s.file.SetDeadline(time.Unix(1, 0)) // fails on a closed one, which has ended
		h.under = append(h.under[:i], h.under[i+1:]...)
		return true
	}
	return false
}

// patience is how long a handshake may wait for its client while others wait.
func (h *handshakes) patience(s *shake) time.Duration {
	switch p := h.g.cfg.TLS.patience; {
	case p > 0:
		return p
	case !s.read.Load():
		return silentPatience
	}
	return shakePatience
}

// unread reports whether a socket has bytes that nobody has read.
func unread(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// begin starts one. mu is held.
func (h *handshakes) begin(fd int) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		h.count(shakeBusy)
		h.g.sampled("tls", "no descriptor left for a TLS handshake", "err", err)
		unix.Close(fd)
		return
	}
	s := &shake{fd: fd, file: os.NewFile(uintptr(dup), "client"), computing: h.computing}
	_ = s.file.SetDeadline(time.Now().Add(h.g.cfg.HandshakeTimeout))
	h.under = append(h.under, s)
	h.all.Go(func() { h.run(s) })
}

// run is a handshake's goroutine.
func (h *handshakes) run(s *shake) {
	s.computing <- struct{}{}
	keys, err := tlsrec.Server(shakeConn{s}, h.cfg)
	<-s.computing
	if err != nil && s.plain {
		h.tellPlain(s)
	}
	_ = s.file.Close()
	h.end(s)
	if err == nil {
		var c *secure.Conn
		c, err = secure.Secure(s.fd, keys, h.g.cfg.TLS.Kernel, &h.g.secured)
		if err == nil {
			h.done.Add(1)
			h.g.placeSecured(s.fd, c)
			return
		}
		h.g.sampled("tls", "the keys of a TLS handshake could not be used", "err", err)
		h.count(shakeInternal)
	} else {
		h.count(s.reason(err))
	}
	unix.Close(s.fd)
}

// end forgets a handshake, and begins one that waits.
func (h *handshakes) end(s *shake) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, o := range h.under {
		if o == s {
			h.under = append(h.under[:i], h.under[i+1:]...)
			break
		}
	}
	h.beginSome()
}

// stop ends all.
func (h *handshakes) stop() {
	h.mu.Lock()
	h.closed = true
	for _, fd := range h.waiting {
		unix.Close(fd)
	}
	h.waiting = nil // beginSome has nothing to begin from here on
	for _, s := range h.under {
		_ = s.file.SetDeadline(time.Unix(1, 0))
	}
	h.mu.Unlock()
	h.all.Wait()
}

// reason says why a handshake failed.
func (s *shake) reason(err error) string {
	var remote *net.OpError
	switch {
	case s.plain:
		return shakePlain
	case s.displaced.Load():
		return shakeDisplaced
	case errors.Is(err, os.ErrDeadlineExceeded):
		return shakeTimeout
	case errors.Is(err, tlsrec.ErrTooLong):
		return shakeTooLong
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return shakeAborted
	case errors.As(err, &remote) && remote.Op == "remote error":
		return shakeAlert
	}
	return shakeRefused
}

func (h *handshakes) count(reason string) {
	for i, r := range shakeReasons {
		if r == reason {
			h.failed[i].Add(1)
		}
	}
}

// tellPlain answers a client that speaks HTTP without TLS, and waits a little for it
// to hang up, so that a reset doesn't overtake the answer.
func (h *handshakes) tellPlain(s *shake) {
	h.g.count.refused(refusePlain)
	h.g.recent.note(uint16(refusePlain.Status), refusePlain.Code, nil)
	h.mu.Lock()
	if !h.closed && !s.displaced.Load() { // else its time is up
		_ = s.file.SetDeadline(time.Now().Add(plainWait))
	}
	h.mu.Unlock()
	s.idle.Store(time.Now().UnixNano()) // from here on it may give way
	if _, err := s.file.Write(refusePlain.AppendResponse(nil, 0)); err != nil {
		return
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_WR)
	_, _ = io.CopyN(io.Discard, s.file, 64<<10)
}

// shakeConn is the socket as crypto/tls sees it.
type shakeConn struct{ s *shake }

// waitFor reads or writes, which may take as long as the client likes; others
// compute meanwhile.
func (s *shake) waitFor(do func([]byte) (int, error), p []byte) (int, error) {
	<-s.computing
	s.idle.Store(time.Now().UnixNano())
	n, err := do(p)
	s.idle.Store(0)
	s.computing <- struct{}{}
	return n, err
}

var errPlain = errors.New("no TLS handshake")

func (c shakeConn) Read(p []byte) (int, error) {
	n, err := c.s.waitFor(c.s.file.Read, p)
	if !c.s.read.Load() && n > 0 {
		c.s.read.Store(true)
		if tlsrec.Kind(p[0]) != tlsrec.Handshake {
			c.s.plain = true
			return 0, errPlain
		}
	}
	return n, err
}

func (c shakeConn) Write(p []byte) (int, error)        { return c.s.waitFor(c.s.file.Write, p) }
func (c shakeConn) Close() error                       { return nil } // run closes it
func (c shakeConn) LocalAddr() net.Addr                { return nil }
func (c shakeConn) RemoteAddr() net.Addr               { return nil }
func (c shakeConn) SetDeadline(t time.Time) error      { return nil }
func (c shakeConn) SetReadDeadline(t time.Time) error  { return nil }
func (c shakeConn) SetWriteDeadline(t time.Time) error { return nil }

// securedFD is a descriptor that has shaken hands.
type securedFD struct {
	fd   int
	conn *secure.Conn
}

// placeSecured gives one to the shard with the fewest connections.
func (g *Gateway) placeSecured(fd int, c *secure.Conn) {
	least := g.shards[0]
	for _, s := range g.shards[1:] {
		if s.conns.Load() < least.conns.Load() {
			least = s
		}
	}
	if !least.handSecured(securedFD{fd, c}) {
		unix.Close(fd)
	}
}

// handSecured gives one to the shard.
func (s *shard) handSecured(f securedFD) bool {
	s.box.mu.Lock()
	if s.box.closed {
		s.box.mu.Unlock()
		return false
	}
	s.box.secured = append(s.box.secured, f)
	s.box.mu.Unlock()
	s.conns.Add(1)
	s.loop.Wake()
	return true
}

// watchCertificates takes a new certificate when its files change.
func (g *Gateway) watchCertificates() {
	defer g.tickers.Done()
	every := g.cfg.TLS.reload
	if every == 0 {
		every = reloadEvery
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			g.reloadCertificates()
		case <-g.down:
			return
		}
	}
}

func (g *Gateway) reloadCertificates() {
	switch leaf, err := g.cfg.TLS.Certificates.Reload(); {
	case err != nil:
		g.count.CertificatesBad.Add(1)
		g.log.Error("The TLS certificate was changed and can't be used; the one before is kept", "err", err)
	case leaf != nil:
		g.CertificateTaken(leaf)
	}
}

// CertificateTaken counts and logs another certificate of TLS.Certificates. Any goroutine
// may call it.
func (g *Gateway) CertificateTaken(leaf *x509.Certificate) {
	g.count.CertificatesTaken.Add(1)
	g.log.Info("A new TLS certificate is used for connections from now on", "names", leaf.DNSNames, "until", leaf.NotAfter.UTC())
}

// TLSStats is the TLS part of Stats. All but the first two are totals since the start.
type TLSStats struct {
	Handshakes        int               `json:"handshakes"`        // under way
	Waiting           int               `json:"handshakesWaiting"` // to begin
	Done              uint64            `json:"handshakesDone"`
	Failed            map[string]uint64 `json:"handshakesFailed"` // by reason
	KernelRecords     uint64            `json:"kernelRecords"`    // connections whose records the kernel did
	OwnRecords        uint64            `json:"ownRecords"`       // and those whose records were done here
	BadRecords        uint64            `json:"badRecords"`
	PeerAlerts        uint64            `json:"peerAlerts"`
	KeyUpdates        uint64            `json:"keyUpdatesRefused"`
	KeyFloods         uint64            `json:"keyFloods"`
	RecordTimeouts    uint64            `json:"recordTimeouts"`
	NoBuffer          uint64            `json:"recordsWithoutBuffer"`
	Rests             uint64            `json:"recordsTakenInPart"`
	CertificatesTaken uint64            `json:"certificatesTaken"`
	CertificatesBad   uint64            `json:"certificatesRefused"`
	CertificateEnds   int64             `json:"certificateEnds"` // when the one in use is no longer valid, Unix seconds
}

func (g *Gateway) tlsStats() *TLSStats {
	h, c := g.handshakes, &g.secured
	if h == nil {
		return nil
	}
	h.mu.Lock()
	under, waiting := len(h.under), len(h.waiting)
	h.mu.Unlock()
	st := &TLSStats{
		Handshakes: under, Waiting: waiting, Done: h.done.Load(), Failed: make(map[string]uint64, len(shakeReasons)),
		KernelRecords: c.Kernel.Load(), OwnRecords: c.Own.Load(),
		BadRecords: c.BadRecords.Load(), PeerAlerts: c.PeerAlerts.Load(), KeyUpdates: c.KeyUpdates.Load(), KeyFloods: c.KeyFloods.Load(),
		RecordTimeouts: c.RecordTimeouts.Load(), NoBuffer: c.NoBuffer.Load(), Rests: c.Rests.Load(),
		CertificatesTaken: g.count.CertificatesTaken.Load(), CertificatesBad: g.count.CertificatesBad.Load(),
		CertificateEnds: g.cfg.TLS.Certificates.NotAfter().Unix(),
	}
	for i, r := range shakeReasons {
		st.Failed[r] = h.failed[i].Load()
	}
	return st
}
