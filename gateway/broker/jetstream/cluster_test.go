package jetstream

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// startCluster starts three servers and returns them with the URL of all.
func startCluster(t *testing.T) ([]*outside, string) {
	t.Helper()
	var routes []string
	var ports []int
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
		routes = append(routes, "nats://"+ln.Addr().String())
		_ = ln.Close()
	}
	var nodes []*outside
	var urls []string
	for i := range 3 {
		o := &outside{t: t, opts: server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true,
			StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: ports[i]},
			Routes:  server.RoutesFromStr(strings.Join(routes, ",")),
		}}
		o.start()
		t.Cleanup(o.stop)
		nodes = append(nodes, o)
		urls = append(urls, o.url)
	}
	return nodes, strings.Join(urls, ",")
}

// TestClusterLeaderKilled: three replicas; the stream's leader goes, publishes
// are acked, refused or uncertain, and every acked one reaches every node.
func TestClusterLeaderKilled(t *testing.T) {
	nodes, url := startCluster(t)
	a := start(t, func(c *Config) { c.URL, c.DataDir, c.Ping, c.AckTimeout = url, "", 2*time.Second, 2*time.Second })
	b := start(t, func(c *Config) { c.URL, c.DataDir, c.Ping = url, "", 2*time.Second })
	si, err := a.js.StreamInfo(streamName)
	if err != nil || si.Config.Replicas != 3 {
		t.Fatalf("%+v, %v", si, err)
	}
	acked := map[uint64]string{}
	sent := 0
	publish := func() (ok bool) {
		ps := make([]broker.Publication, 20)
		for i := range ps {
			ps[i] = broker.Publication{Channel: fmt.Sprintf("c%d", i), Data: fmt.Appendf(nil, "%d", sent+i)}
		}
		sent += len(ps)
		ok = true
		for i, r := range a.PublishBatch(t.Context(), ps) {
			switch {
			case r.Err == nil:
				acked[r.Ack.Seq] = string(ps[i].Data)
			case errors.Is(r.Err, broker.ErrDown), errors.Is(r.Err, broker.ErrUncertain):
				ok = false
			default:
				t.Fatalf("%v", r.Err)
			}
		}
		return ok
	}
	for range 20 {
		publish()
	}
	for _, n := range nodes {
		if n.opts.ServerName == si.Cluster.Leader {
			n.stop()
		}
	}
	since := time.Now()
	brokertest.Wait(t, "publishes are acked again", publish)
	t.Logf("acked again after %v", time.Since(since))
	for range 20 {
		publish()
	}
	last := uint64(0)
	for seq := range acked {
		last = max(last, seq)
	}
	for i, r := range []*rig{a, b} {
		brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(last) })
		got := map[uint64]string{}
		for _, m := range r.sink.Messages() {
			got[m.Seq] = string(m.Data)
		}
		for seq, data := range acked {
			if got[seq] != data {
				t.Errorf("node %d: acked %d %s, delivered %q", i, seq, data, got[seq])
			}
		}
		if len(r.sink.Losses()) != 0 || r.sink.Opens()[0].Epoch != r.State().Epoch {
			t.Errorf("node %d: losses %v, opens %v", i, r.sink.Losses(), r.sink.Opens())
		}
		t.Logf("node %d: %+v", i, r.Counters())
	}
}
