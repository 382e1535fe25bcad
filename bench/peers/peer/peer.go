// Package peer is what the servers below bench/peers have in common: one small
// wire, so that all can be put under the same load.
//
//	WebSocket, any path                 a client gets every broadcast, and every
//	                                    text it sends comes back
//	POST /broadcast?rate=10&count=100   on the control address: sends count texts
//	                                    to every client, rate a second, or as many
//	                                    as it can in that time; the answer counts
//	                                    messages, and frames sent and failed
//	GET  /readyz
//	GET  /debug/pprof/
//
// Each server is its library as the library's own documentation shows it, with
// what it offers for broadcasts. There is nothing else: no channels, numbers,
// replay or limits, and a client that does not read is waited for.
package peer

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	_ "net/http/pprof"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Main runs a server. Start is given the address for clients and returns when it
// listens there; the broadcast it returns sends one text to every client and is
// never called concurrently.
func Main(name string, start func(addr string) (broadcast func(text []byte) (sent, failed int64), err error)) {
	log.SetFlags(0)
	log.SetPrefix(name + ": ")
	addr := flag.String("addr", "127.0.0.1:9080", "where clients connect")
	control := flag.String("control", "127.0.0.1:9081", "where broadcasts are ordered")
	size := flag.Int("size", 150, "bytes of each message")
	flag.Parse()
	broadcast, err := start(*addr)
	if err != nil {
		log.Fatal(err)
	}
	text := []byte(strings.Repeat("x", *size))
	var one sync.Mutex
	http.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("POST /broadcast", func(w http.ResponseWriter, r *http.Request) {
		rate, err1 := strconv.ParseFloat(r.FormValue("rate"), 64)
		count, err2 := strconv.Atoi(r.FormValue("count"))
		if err1 != nil || err2 != nil || rate <= 0 {
			http.Error(w, "want rate and count", http.StatusBadRequest)
			return
		}
		var done struct {
			Messages int   `json:"messages"`
			Sent     int64 `json:"sent"`
			Failed   int64 `json:"failed"`
		}
		one.Lock()
		defer one.Unlock()
		begun := time.Now()
		at := func(i int) time.Time { return begun.Add(time.Duration(float64(i) / rate * float64(time.Second))) }
		for i := 0; i < count && time.Now().Before(at(count)); i++ {
			time.Sleep(time.Until(at(i)))
			sent, failed := broadcast(text)
			done.Messages++
			done.Sent += sent
			done.Failed += failed
		}
		_ = json.NewEncoder(w).Encode(done)
	})
	log.Fatal(http.ListenAndServe(*control, nil))
}

// Set is the open connections.
type Set[C comparable] struct {
	mu    sync.Mutex
	all   map[C]struct{} // guarded by mu
	order []C            // all as a list, made by Each after a change; guarded by mu
}

// Add and Remove may be called from any goroutine.
func (s *Set[C]) Add(c C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[C]struct{}{}
	}
	s.all[c], s.order = struct{}{}, nil
}

// Remove takes a connection out; it may be called twice.
func (s *Set[C]) Remove(c C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
	s.order = nil
}

// Each calls send for every connection, on as many goroutines as there are
// processors, and waits for all.
func (s *Set[C]) Each(send func(C) error) (sent, failed int64) {
	s.mu.Lock()
	if s.order == nil {
		s.order = make([]C, 0, len(s.all))
		for c := range s.all {
			s.order = append(s.order, c)
		}
	}
	order := s.order
	s.mu.Unlock()
	var ok, bad atomic.Int64
	var wg sync.WaitGroup
	parts := runtime.GOMAXPROCS(0)
	for p := range parts {
		wg.Go(func() {
			var failed int64
			mine := order[p*len(order)/parts : (p+1)*len(order)/parts]
			for _, c := range mine {
				if send(c) != nil {
					failed++
				}
			}
			ok.Add(int64(len(mine)) - failed)
			bad.Add(failed)
		})
	}
	wg.Wait()
	return ok.Load(), bad.Load()
}

// Serve runs net/http with one handler for every path.
func Serve(addr string, handle http.HandlerFunc) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	go func() { log.Fatal(http.Serve(ln, handle)) }()
	return nil
}
