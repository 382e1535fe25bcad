package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// server is everything.
type server struct {
	cfg      config
	places   chan struct{} // the semaphore
	epoch    string
	upgrader websocket.Upgrader

	hub hub

	mu      sync.Mutex
	clients map[*client]struct{} // guarded by mu

	// Any goroutine.
	ids                        atomic.Uint64
	slow, limited, replayAsked atomic.Uint64
}

func newServer(c config) *server {
	s := &server{
		cfg: c, places: make(chan struct{}, c.maxConnections), clients: map[*client]struct{}{},
		epoch: strconv.FormatUint(uint64(rand.Uint32()), 36),
	}
	s.hub.channels = map[string]*channel{}
	s.hub.wild = map[string]map[*client]struct{}{}
	s.upgrader = websocket.Upgrader{
		Subprotocols: []string{protocol},
		// Commands are short. Frames are written by the client's own goroutine,
		// whole: gorilla needs a buffer for goodbyes only, and borrows it.
		ReadBufferSize: 512, WriteBufferSize: 512, WriteBufferPool: &sync.Pool{},
		HandshakeTimeout: 10 * time.Second,
	}
	return s
}

// handleWS waits for a place, upgrades, and leaves the connection to two
// goroutines of its own: net/http's and all it holds ends with this call.
func (s *server) handleWS(w http.ResponseWriter, r *http.Request) {
	select {
	case s.places <- struct{}{}:
	default:
		t := time.NewTimer(s.cfg.wait)
		select {
		case s.places <- struct{}{}:
			t.Stop()
		case <-t.C:
			http.Error(w, "Server at capacity", http.StatusServiceUnavailable)
			return
		case <-r.Context().Done():
			t.Stop()
			return
		}
	}
	conn, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		<-s.places
		return
	}
	c := newClient(s, conn)
	s.mu.Lock()
	s.clients[c] = struct{}{}
	s.mu.Unlock()
	go c.writePump()
	go c.readPump()
}

// forget gives everything of a client back, once.
func (s *server) forget(c *client) {
	s.mu.Lock()
	_, known := s.clients[c]
	delete(s.clients, c)
	s.mu.Unlock()
	if !known {
		return
	}
	s.hub.drop(c)
	<-s.places
}

// care looks at all clients once a second: who is due a ping or a heartbeat, and
// who has shown no sign of life. Frames that are the same for all are made once.
func (s *server) care(ctx context.Context) {
	ping := &message{frame: appendFrame(nil, websocket.PingMessage, nil)}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			hb := &message{frame: appendFrame(nil, websocket.TextMessage, fmt.Appendf(nil, `{"t":"hb","ts":%d}`, now.UnixMilli()))}
			for _, c := range s.everyone() {
				if now.Sub(time.Unix(0, c.heard.Load())) > 2*s.cfg.ping {
					c.cut(4201)
					continue
				}
				if c.due(&c.pinged, s.cfg.ping, now) {
					c.offer(ping)
				}
				if c.due(&c.told, s.cfg.heartbeat, now) {
					c.offer(hb)
				}
			}
		}
	}
}

func (s *server) everyone() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*client, 0, len(s.clients))
	for c := range s.clients {
		all = append(all, c)
	}
	return all
}

// goodbye sends the two words of a shutdown.
func (s *server) goodbye() {
	for _, c := range s.everyone() {
		c.offer(&message{frame: appendFrame(nil, websocket.TextMessage, fmt.Appendf(nil, `{"t":"bye","code":1012,"retry_ms":%d}`, 1000+rand.IntN(5000)))})
		c.cut(1012)
	}
	time.Sleep(100 * time.Millisecond) // for the goodbyes to be written
}

func (s *server) handleStats(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"currentConnections":      len(s.places),
		"maxConnections":          s.cfg.maxConnections,
		"memoryMB":                float64(m.Sys-m.HeapReleased) / (1 << 20),
		"slowClientsDisconnected": s.slow.Load(),
		"rateLimitedMessages":     s.limited.Load(),
		"messageReplayRequests":   s.replayAsked.Load(),
	})
}

// item is a publication, and its result.
type item struct {
	Ch   string          `json:"ch"`
	Data json.RawMessage `json:"data"`
	Key  string          `json:"key"` // of a repeat; this server knows none
}

type result struct {
	Epoch string `json:"epoch,omitempty"`
	Seq   uint64 `json:"seq,omitempty"`
	Code  string `json:"code,omitempty"`
}

func (s *server) publish(it *item) result {
	if !validChannel(it.Ch) {
		return result{Code: "bad_channel"}
	}
	if len(it.Data) == 0 {
		return result{Code: "bad_request"}
	}
	return result{Epoch: s.epoch, Seq: s.hub.publish(it.Ch, it.Data)}
}

func (s *server) handlePublish(w http.ResponseWriter, r *http.Request) {
	var it item
	if !decode(w, r, 128<<10, &it) {
		return
	}
	res := s.publish(&it)
	w.Header().Set("Content-Type", "application/json")
	if res.Code != "" {
		w.WriteHeader(http.StatusBadRequest)
	}
	_ = json.NewEncoder(w).Encode(res)
}

func (s *server) handleBatch(w http.ResponseWriter, r *http.Request) {
	const lines = "application/x-ndjson"
	var items []item
	if r.Header.Get("Content-Type") != lines {
		if !decode(w, r, 32<<20, &items) {
			return
		}
	} else {
		for dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 32<<20)); ; {
			var it item
			err := dec.Decode(&it)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				http.Error(w, `{"code":"bad_request"}`, http.StatusBadRequest)
				return
			}
			items = append(items, it)
		}
	}
	out := make([]result, len(items))
	for i := range items {
		out[i] = s.publish(&items[i])
	}
	enc := json.NewEncoder(w)
	if r.Header.Get("Content-Type") != lines {
		w.Header().Set("Content-Type", "application/json")
		_ = enc.Encode(out)
		return
	}
	w.Header().Set("Content-Type", lines)
	for _, res := range out {
		_ = enc.Encode(res)
	}
}

func decode(w http.ResponseWriter, r *http.Request, most int64, into any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		http.Error(w, `{"code":"bad_request"}`, http.StatusBadRequest)
	}
	return err == nil
}

// validChannel is docs/protocol.md's rule, wildcards left out.
func validChannel(name string) bool {
	if name == "" || len(name) > 128 || strings.HasPrefix(name, "_sys") {
		return false
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" {
			return false
		}
		for _, c := range []byte(token) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
				return false
			}
		}
	}
	return true
}
