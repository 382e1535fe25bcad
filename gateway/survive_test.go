package gateway

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/channel"
)

// onShard runs f on a shard and waits for it.
func (g *testGateway) onShard(i int, f func(s *shard)) {
	g.t.Helper()
	done := make(chan struct{})
	if !g.shards[i].post(func(s *shard) { defer close(done); f(s) }) {
		g.t.Fatal("the shard has ended")
	}
	<-done
}

// A handler that panics on a loop costs the connection whose bytes called it, and
// the others on that loop nothing.
func TestPanicOnTheLoop(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.Shards, c.IPConnections = 1, 1000 })
	k := g.canary(t)
	stays := g.dial()
	stays.say(`{"op":"sub","id":1,"ch":["other"]}`)
	stays.want("ack")
	const each = 20
	for range each {
		// A map that isn't there is written to by the next subscribe to a channel
		// nobody knows.
		c := g.rawOpen(t)
		g.onShard(0, func(s *shard) { s.lookups = nil })
		c.send(say(`{"op":"ping","id":1}`)+say(`{"op":"sub","id":2,"ch":["fresh.name"]}`)+say(`{"op":"ping","id":3}`), 0)
		c.wantClose(closeInternal, `{"t":"pong","id":1}`)
		g.onShard(0, func(s *shard) { s.lookups = make(map[string][]lookup) })
	}
	for range each {
		c := g.raw(t)
		g.onShard(0, func(s *shard) { s.peerOf = nil })
		c.send(g.head(), 0)
		c.wantStatus(http.StatusInternalServerError)
		g.onShard(0, func(s *shard) { s.peerOf = make(map[uint32]netip.Addr) })
	}
	if n := g.count.LoopPanics.Swap(0); n != 2*each {
		t.Errorf("%d panics counted of %d", n, 2*each)
	}
	seq := g.publish("other", `"on"`)
	if f := stays.want("msg"); f.Seq != seq {
		t.Error(f.raw)
	}
	if err := g.visit(0); err != nil {
		t.Error(err)
	}
	stays.CloseNow()
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// Also when it had done half of its work: nothing of the connection stays in the
// channels, where the next in its slot would be given what it never asked for,
// and nothing of the others is taken.
func TestPanicHalfWay(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, func(c *Config) { c.Shards = 1 })
	k := g.canary(t)
	stays := g.dial()
	stays.say(`{"op":"sub","id":1,"ch":["a","b","x.*"]}`)
	stays.want("ack")
	g.publish("a", "1")
	g.publish("b", "1")
	g.publish("x.y", "1")
	for range 3 {
		stays.want("msg")
	}
	for name, half := range map[string]func(s *shard, r connRef, c *slot){
		"a member that its connection does not know": func(s *shard, r connRef, c *slot) {
			s.chanNamed("b").Add(channel.Member{Conn: r.index})
		},
		"a subscription without a member": func(s *shard, r connRef, c *slot) {
			sc := s.chanNamed("b")
			i, _ := c.findSub(sc.id)
			c.addSub(i, sub{chanID: sc.id, index: uint32(sc.Len())})
			s.g.count.Subscriptions.Add(1)
		},
		"a subscription that names another's member": func(s *shard, r connRef, c *slot) {
			sc := s.chanNamed("b")
			i, _ := c.findSub(sc.id)
			c.addSub(i, sub{chanID: sc.id, index: 0})
			s.g.count.Subscriptions.Add(1)
		},
		"a wildcard that its connection does not know": func(s *shard, r connRef, c *slot) {
			s.wild["x."] = append(s.wild["x."], wildMember{connRef: r})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := g.raw(t).open(g)
			c.send(say(`{"op":"sub","id":1,"ch":["a"]}`), 0)
			c.text()
			var was connRef
			g.onShard(0, func(s *shard) {
				sc := s.chanNamed("a")
				was.index = sc.At(uint32(sc.Len() - 1)).Conn
				was.gen = s.slots.at(was.index).gen
				s.unbusy(was, func(c *slot) {
					half(s, was, c)
					panic(name)
				})
			})
			c.wantClose(closeInternal)
			c.conn.Close()
			g.eventually("its slot to be free", func() bool { return g.held() == 2 })
			next := g.dial()
			g.publish("a", "2")
			g.publish("b", "2")
			g.publish("x."+fmt.Sprint(len(name)), "2")
			for range 3 {
				stays.want("msg")
			}
			next.say(`{"op":"ping","id":9}`)
			next.want("pong")
			g.onShard(0, func(s *shard) {
				if s.slots.get(was) != nil || s.slots.at(was.index).state != stateOpen {
					t.Error("nobody followed it into its slot")
				}
				for _, prefix := range []string{"x."} {
					if n := len(s.wild[prefix]); n != 1 {
						t.Errorf("%d follow %s*", n, prefix)
					}
				}
			})
			next.CloseNow()
			g.eventually("the next to be gone", func() bool { return g.held() == 2 })
		})
	}
	if n := g.count.LoopPanics.Swap(0); n != 4 {
		t.Errorf("%d panics counted", n)
	}
	stays.CloseNow()
	g.wantNothingHeld(t, 1, 1)
	k.stop()
}

// chanNamed is a shard's side of a channel that somebody follows.
func (s *shard) chanNamed(name string) *shardChan {
	return s.chanOf[s.g.hub.Lookup(name)]
}

// net/http gives a listener up for good after an error that isn't temporary.
func TestAdminOutlivesAcceptErrors(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errs := []error{syscall.ENOBUFS, syscall.ENOMEM, syscall.EPROTO, syscall.EMFILE}
	failing := &failingListener{Listener: inner, errs: errs}
	served := make(chan error, 1)
	server := &http.Server{Handler: g.admin.Handler, ErrorLog: quietLog}
	go func() { served <- server.Serve(patientListener{failing}) }()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + inner.Addr().String() + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK || len(failing.errs) > 0 {
		t.Errorf("%v, %v; %d errors left", resp, err, len(failing.errs))
	} else {
		resp.Body.Close()
	}
	server.Close()
	if err := <-served; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Serve: %v", err)
	}
}

// failingListener fails with each of its errors first.
type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
	}
	return l.Listener.Accept()
}
