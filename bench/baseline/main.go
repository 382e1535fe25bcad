// Command baseline is what Odin is measured against: a WebSocket server of the
// usual design, a goroutine to read and a goroutine to write for every client,
// which keeps the promises the first generation of this service made and speaks
// the same protocol (docs/protocol.md). It is not for use.
//
// Each client has a channel of 256 messages to be sent, a buffer of the last 100
// messages it was sent, a token bucket, and a count of strikes: three messages in
// a row that find its channel full cut it with 4101. A semaphore bounds the
// connections; who finds it full waits 5 s and is answered 503.
//
// It is meant to be as good as that design can be. A message is encoded once, as
// a whole WebSocket frame, and shared by all clients; the writing goroutine puts
// what has piled up into one write; the goroutine and the buffers of net/http
// are given back after the upgrade; buffers for reading are small; one goroutine
// looks after all pings and heartbeats.
//
// It numbers messages itself and keeps the last 100 of each channel in memory:
// nothing is durable, numbers begin anew with the process, and there is no other
// node. That only makes it cheaper. Modes (latest, slow) and auth are refused.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os/signal"
	"syscall"
	"time"
)

// config is static once the server runs.
type config struct {
	maxConnections int
	wait           time.Duration // for a place
	burst          int           // commands at once
	perSec         float64       // and then each second
	ping           time.Duration
	heartbeat      time.Duration
}

// What the first generation fixed.
const (
	sendSlots   = 256
	replayKeep  = 100
	strikesMost = 3
	maxCommand  = 64 << 10
	maxChannels = 1024 // of one client
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("baseline: ")
	var c config
	addr := flag.String("addr", "127.0.0.1:8080", "public listener: /ws, /healthz, /readyz, /stats")
	admin := flag.String("admin-addr", "127.0.0.1:8081", "where messages are published; also /debug/pprof/")
	flag.IntVar(&c.maxConnections, "max-connections", 100_000, "connections at once")
	flag.DurationVar(&c.wait, "admission-wait", 5*time.Second, "how long a caller waits for a place")
	flag.IntVar(&c.burst, "rate-burst", 100, "commands a client may send at once")
	flag.Float64Var(&c.perSec, "rate-per-sec", 10, "commands a second after that")
	flag.DurationVar(&c.ping, "ping", 20*time.Second, "interval of pings; silence for two ends a connection (4201)")
	flag.DurationVar(&c.heartbeat, "heartbeat", 15*time.Second, "silence after which a client is told hb")
	flag.Parse()
	if flag.NArg() > 0 || c.maxConnections < 1 || c.burst < 1 || c.perSec <= 0 || c.ping <= 0 || c.heartbeat <= 0 {
		log.Fatal("unexpected argument or a flag out of range; see --help")
	}
	if err := run(c, *addr, *admin); err != nil {
		log.Fatal(err)
	}
}

func run(c config, addr, admin string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s := newServer(c)
	go s.care(ctx)

	failed := make(chan error, 2)
	for _, l := range []struct {
		addr string
		mux  *http.ServeMux
	}{{addr, s.public()}, {admin, s.private()}} {
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return err
		}
		srv := &http.Server{Handler: l.mux, ReadHeaderTimeout: 10 * time.Second}
		go func() { failed <- srv.Serve(ln) }()
		defer srv.Close()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		s.goodbye()
		return nil
	}
}

func (s *server) public() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ws", s.handleWS)
	mux.HandleFunc("GET /stats", s.handleStats)
	for _, path := range []string{"GET /healthz", "GET /readyz"} {
		mux.HandleFunc(path, func(http.ResponseWriter, *http.Request) {})
	}
	return mux
}

func (s *server) private() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/publish", s.handlePublish)
	mux.HandleFunc("POST /v1/publish/batch", s.handleBatch)
	mux.HandleFunc("GET /stats", s.handleStats)
	mux.Handle("GET /debug/pprof/", http.DefaultServeMux)
	return mux
}
