package gateway

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/odin-ws/odin/gateway/secure"
)

const (
	// maxPlain bounds the plain HTTP requests under way on the public port;
	// each costs a goroutine or two for as long as it lasts.
	maxPlain = 128
	// plainTimeout bounds one of them.
	plainTimeout = 5 * time.Second
	// stuckLoop is after how long without a tick a loop counts as stuck.
	stuckLoop = 5 * time.Second
)

// plainServer answers /healthz, /readyz and /stats on the public port: net/http
// over connections the shards hand over, one request each.
type plainServer struct {
	g      *Gateway
	server *http.Server
	conns  chan net.Conn
	active atomic.Int64
	closed chan struct{}
	once   sync.Once
}

func newPlainServer(g *Gateway) *plainServer {
	p := &plainServer{g: g, conns: make(chan net.Conn, maxPlain), closed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", p.healthz)
	mux.HandleFunc("/readyz", p.readyz)
	mux.HandleFunc("/stats", p.stats)
	p.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: plainTimeout,
		ReadTimeout:       plainTimeout,
		WriteTimeout:      plainTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          quietLog,
	}
	p.server.SetKeepAlivesEnabled(false)
	return p
}

func (p *plainServer) start() { go p.server.Serve(p) }

func (p *plainServer) stop() {
	p.once.Do(func() { close(p.closed) })
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		p.server.Close()
	}
	for {
		select {
		case c := <-p.conns:
			c.Close()
		default:
			return
		}
	}
}

// reserve takes a place for one request; hand must follow.
func (p *plainServer) reserve() bool {
	if p.active.Add(1) > maxPlain {
		p.active.Add(-1)
		return false
	}
	return true
}

// hand takes a descriptor over, with the bytes already read from it; secured is nil
// where they are not TLS's.
func (p *plainServer) hand(fd int, prefix []byte, secured *secure.Conn) {
	f := os.NewFile(uintptr(fd), "client")
	c, err := net.FileConn(f) // a duplicate; for a request's length that is no matter
	f.Close()
	if err != nil {
		p.active.Add(-1)
		p.g.sampled("plain", "a plain HTTP connection could not be taken over", "err", err)
		return
	}
	if secured != nil {
		c = secured.Stream(c, &p.g.secured)
	}
	pc := &plainConn{Conn: c, prefix: prefix, active: &p.active}
	select {
	case p.conns <- pc:
	case <-p.closed:
		pc.Close()
	}
}

// Accept, Close and Addr make the server its own net.Listener.
func (p *plainServer) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *plainServer) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *plainServer) Addr() net.Addr { return p.g.listener.Addr() }

// plainConn is a connection whose first bytes were read already.
type plainConn struct {
	net.Conn
	prefix []byte
	active *atomic.Int64
	once   sync.Once
}

func (c *plainConn) Read(b []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(b, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *plainConn) Close() error {
	c.once.Do(func() { c.active.Add(-1) })
	return c.Conn.Close()
}

// healthz says whether the loops turn.
func (p *plainServer) healthz(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	for _, s := range p.g.shards {
		if age := now.Sub(time.Unix(0, s.beat.Load())); age > stuckLoop {
			writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "stuck", "shard": s.id, "stuck_ms": age.Milliseconds()})
			return
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "ok"})
}

// readyz says whether clients should be sent here, and why not.
func (p *plainServer) readyz(w http.ResponseWriter, _ *http.Request) {
	reason, detail := p.g.notReady()
	if reason == "" {
		writeJSON(w, http.StatusOK, map[string]any{"status": "ready"})
		return
	}
	body := map[string]any{"status": "not ready", "reason": reason}
	if detail != "" {
		body["detail"] = detail
	}
	writeJSON(w, http.StatusServiceUnavailable, body)
}

// notReady is why clients should not be sent here, "" when they should, and more of
// it in words where there are any.
func (g *Gateway) notReady() (reason, detail string) {
	state := g.broker.State()
	switch {
	case g.draining.Load():
		reason = "draining"
	case state.Epoch == "" && state.Err == nil:
		reason = "starting"
	case !state.Connected:
		reason = "broker_down"
	case g.gate.Max() == 0:
		reason = "memory_limit" // it shrank to where nothing fits
	}
	if reason == "" {
		return "", ""
	}
	if why := g.unfit.Load(); reason == "memory_limit" && why != nil {
		detail = *why
	} else if state.Err != nil {
		detail = state.Err.Error()
	}
	return reason, detail
}

func (p *plainServer) stats(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, p.g.Stats())
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// writeError answers with the one shape errors have.
func writeError(w http.ResponseWriter, status int, code, message string, retryMs int) {
	body := map[string]any{"code": code, "message": message}
	if retryMs > 0 {
		body["retry_after_ms"] = retryMs
	}
	writeJSON(w, status, body)
}
