package swarm

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// TestMain runs the tests, or, started again by one of them, a part of a swarm.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "swarm-child" {
		if err := Child(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) // ants keeps a default pool from its init on
}

// site is a gateway over an in-memory broker.
type site struct {
	t      *testing.T
	g      *gateway.Gateway
	broker *brokertest.Fake
	mark   string
	n      uint64
	last   map[string]uint64
}

func newSite(t *testing.T, change func(*gateway.Config)) *site {
	t.Helper()
	s := &site{t: t, broker: brokertest.NewFake(), mark: NewMark(), last: map[string]uint64{}}
	cfg := gateway.DefaultConfig()
	cfg.Addr, cfg.AdminAddr, cfg.Broker, cfg.Drain, cfg.Shards = "127.0.0.1:0", "127.0.0.1:0", s.broker, 0, 2
	if change != nil {
		change(&cfg)
	}
	g, err := gateway.New(cfg)
	if err == nil {
		err = g.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.g = g
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	eventually(t, "the gateway is ready", func() bool {
		client, scheme := http.DefaultClient, "http://"
		if cfg.TLS != nil {
			scheme = "https://"
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			defer transport.CloseIdleConnections()
			client = &http.Client{Transport: transport}
		}
		res, err := client.Get(scheme + g.Addr() + "/readyz")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	// A channel that exists takes no trip to the broker, for which a gateway has
	// few places: those in excess would be asked to come back in seconds.
	for _, ch := range []string{"stress.0", "other.a"} {
		if _, err := s.broker.Publish(t.Context(), broker.Publication{Channel: ch, Data: []byte("0")}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *site) url() string { return "ws://" + s.g.Addr() + "/ws" }

// publish stores n messages on a channel and tells the swarm.
func (s *site) publish(sw *Swarm, ch string, n int) {
	s.t.Helper()
	for range n {
		data := AppendPayload(nil, s.mark, s.n, 120)
		s.n++
		Stamp(data, s.mark, time.Now())
		ack, err := s.broker.Publish(s.t.Context(), broker.Publication{Channel: ch, Data: data})
		if err != nil {
			s.t.Fatal(err)
		}
		s.last[ch] = ack.Seq
		sw.Published([]Entry{{ack.Epoch, ch, ack.Seq, Hash(data)}})
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func start(t *testing.T, cfg Config) *Swarm {
	t.Helper()
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func finish(t *testing.T, s *Swarm, e End) *Report {
	t.Helper()
	rep, err := s.Finish(e)
	if err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	return &rep
}

// settled waits until every attempt has succeeded or failed.
func settled(t *testing.T, s *Swarm, n int) {
	t.Helper()
	eventually(t, "all attempts made", func() bool {
		c := s.Counts()
		total := c.Total()
		return total.Connected+total.Errors.Sum() == n
	})
}

// wantTotals checks the invariant and the figures.
func wantTotals(t *testing.T, rep *Report, n, connected int, errors string) {
	t.Helper()
	total := rep.Total()
	if total.Connected+total.Errors.Sum() != n || total.Attempts > n {
		t.Errorf("%d connected and %s of %d do not add up", total.Connected, total.Errors, n)
	}
	if total.Connected != connected || total.Errors.String() != errors {
		t.Errorf("%d connected, errors %s; want %d, %s", total.Connected, total.Errors, connected, errors)
	}
}

// rawServer answers each connection by hand.
func rawServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return "ws://" + l.Addr().String() + "/ws"
}

// webSocket is another library's server; it upgrades and leaves the rest to serve.
func webSocket(t *testing.T, serve func(ctx context.Context, c *websocket.Conn)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		serve(r.Context(), c)
	}))
	t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws"
}
