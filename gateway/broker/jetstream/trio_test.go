package jetstream

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// freePorts finds n TCP ports of 127.0.0.1 that are free now.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// trio are three nodes whose embedded servers form the cluster, as three odin
// binaries with --nats-config do.
type trio struct {
	configs [3]Config
	nodes   [3]*rig // nil while stopped
}

// newTrio makes the configurations of three nodes of which the first founders
// know only each other: a cluster of NATS begins when all it knows of are there.
func newTrio(t *testing.T, founders int) *trio {
	t.Helper()
	ports := freePorts(t, 3)
	var routes []string
	for _, p := range ports {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	g := &trio{}
	for i := range g.configs {
		cfg := testConfig()
		cfg.Name, cfg.DataDir = fmt.Sprintf("n%d", i), t.TempDir()
		cfg.ConfigFile = filepath.Join(cfg.DataDir, "nats.conf")
		cfg.growAfter, cfg.AckTimeout = 200*time.Millisecond, 2*time.Second
		known := routes
		if i < founders {
			known = routes[:founders]
		}
		conf := fmt.Sprintf("cluster { name: odin, listen: \"127.0.0.1:%d\", routes: [%s] }\n", ports[i], strings.Join(known, ", "))
		if err := os.WriteFile(cfg.ConfigFile, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		g.configs[i] = cfg
	}
	return g
}

func (g *trio) start(t *testing.T, i int) {
	t.Helper()
	r := &rig{Broker: newBroker(t, g.configs[i]), sink: brokertest.NewRecorder(t)}
	if err := r.Start(r.sink); err != nil {
		t.Fatal(err)
	}
	g.nodes[i] = r
}

// up are the running nodes, connected.
func (g *trio) up(t *testing.T) (rs []*rig) {
	t.Helper()
	for i, r := range g.nodes {
		if r == nil {
			continue
		}
		brokertest.Wait(t, fmt.Sprintf("node %d is connected", i), func() bool { return r.State().Connected })
		if r.nc == nil {
			r.nc = dialEmbedded(t, r.Broker)
			r.js = jetStream(t, r.nc)
		}
		rs = append(rs, r)
	}
	return rs
}

func (g *trio) stop(t *testing.T, i int) {
	t.Helper()
	r := g.nodes[i]
	g.nodes[i] = nil
	if r.nc != nil {
		r.nc.Close()
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// stream waits until the stream has n replicas, all current, and returns it.
func (g *trio) stream(t *testing.T, n int) *nats.StreamInfo {
	t.Helper()
	js := g.up(t)[0].js
	var si *nats.StreamInfo
	brokertest.Wait(t, fmt.Sprintf("the stream has %d replicas", n), func() (ok bool) {
		var err error
		si, err = js.StreamInfo(streamName)
		return err == nil && si.Config.Replicas == n && len(si.Cluster.Replicas) == n-1 && si.Cluster.Leader != "" &&
			!slices.ContainsFunc(si.Cluster.Replicas, func(p *nats.PeerInfo) bool { return !p.Current })
	})
	return si
}

// ledger is what was acked: data by sequence.
type ledger map[uint64]string

// publish stores a batch through r and notes what was acked; ok says that all was.
func (l ledger) publish(t *testing.T, r *rig, n int) (ok bool) {
	t.Helper()
	ps := make([]broker.Publication, n)
	for i := range ps {
		ps[i] = broker.Publication{Channel: fmt.Sprintf("c%d", i%5), Data: fmt.Appendf(nil, `"%s %d %d"`, r.cfg.Name, len(l), i)}
	}
	ok = true
	for i, res := range r.PublishBatch(t.Context(), ps) {
		switch {
		case res.Err == nil:
			l[res.Ack.Seq] = string(ps[i].Data)
		case errors.Is(res.Err, broker.ErrDown), errors.Is(res.Err, broker.ErrUncertain):
			ok = false
		default:
			t.Fatalf("%v", res.Err)
		}
	}
	return ok
}

func (l ledger) last() (seq uint64) {
	for s := range l {
		seq = max(seq, s)
	}
	return seq
}

// check holds that each node got all that was acked since its Open, that all
// got the same, and that their reads agree.
func (l ledger) check(t *testing.T, rs []*rig) {
	t.Helper()
	type key struct {
		seq, prev uint64
		data      string
	}
	same := map[uint64]key{}
	for _, r := range rs {
		brokertest.Wait(t, "all arrive at "+r.cfg.Name, func() bool { return r.sink.Reached(l.last()) })
		opens := r.sink.Opens()
		got := map[uint64]string{}
		for _, m := range r.sink.Messages() {
			k := key{m.Seq, m.Prev, string(m.Data)}
			if other, seen := same[m.Seq]; seen && other != k {
				t.Errorf("%s was given %+v, another node %+v", r.cfg.Name, k, other)
			}
			same[m.Seq], got[m.Seq] = k, k.data
		}
		for seq, data := range l {
			if seq > opens[0].Head && got[seq] != data {
				t.Errorf("%s: acked %d %s, delivered %q", r.cfg.Name, seq, data, got[seq])
			}
		}
		if len(r.sink.Losses()) != 0 || r.State().Epoch != opens[0].Epoch || opens[0].Epoch != rs[0].State().Epoch {
			t.Errorf("%s: losses %v, opens %v, epoch %s, others %s", r.cfg.Name, r.sink.Losses(), opens, r.State().Epoch, rs[0].State().Epoch)
		}
	}
	for _, r := range rs {
		// After an election of the meta leader publishes may be acked some time
		// before the API answers; until it does, reads say that it is down.
		brokertest.Wait(t, "reads are answered at "+r.cfg.Name, func() bool {
			_, err := r.Last(t.Context(), "c0")
			return !errors.Is(err, broker.ErrDown)
		})
		for i := range 5 {
			ch := fmt.Sprintf("c%d", i)
			last, err := r.Last(t.Context(), ch)
			if err != nil {
				t.Fatalf("%s: last of %s: %v", r.cfg.Name, ch, err)
			}
			seqs := r.walk(t, ch, 1, 0, 400)
			first, err := rs[0].Last(t.Context(), ch)
			if err != nil || first.Seq != last.Seq || len(seqs) == 0 || seqs[len(seqs)-1] != last.Seq {
				t.Errorf("%s: %s ends at %d, for the first node at %d, history at %v", r.cfg.Name, ch, last.Seq, first.Seq, seqs[max(0, len(seqs)-2):])
			}
		}
		hs, err := r.Channels(t.Context(), "", 10)
		slices.SortFunc(hs, func(a, b broker.ChannelHead) int { return cmp.Compare(a.Last, b.Last) })
		if err != nil || len(hs) != 5 || hs[4].Last < l.last() {
			t.Errorf("%s: channels %v, %v", r.cfg.Name, hs, err)
		}
		p, err := r.History(t.Context(), broker.HistoryRequest{Channel: "c0", From: 1, To: math.MaxUint64, Messages: 1, Bytes: 1})
		if err != nil || p.Epoch != rs[0].State().Epoch {
			t.Errorf("%s: %+v, %v", r.cfg.Name, p, err)
		}
	}
}

// TestTrio: three nodes alone. Each publishes, all are given the same; the one
// that leads the stream goes, the others go on, and it comes back whole.
func TestTrio(t *testing.T) {
	g := newTrio(t, 3)
	for i := range 3 {
		g.start(t, i)
	}
	rs := g.up(t)
	g.stream(t, 3)
	l := ledger{}
	for range 10 {
		for _, r := range rs {
			if !l.publish(t, r, 20) {
				t.Error("not all was acked")
			}
		}
	}
	l.check(t, rs)

	leader := -1
	si := g.stream(t, 3)
	for i, r := range rs {
		if r.emb.server().Name() == si.Cluster.Leader {
			leader = i
		}
	}
	g.stop(t, leader)
	since := time.Now()
	rs = g.up(t)
	for _, r := range rs {
		brokertest.Wait(t, "publishes are acked again", func() bool { return l.publish(t, r, 20) })
	}
	t.Logf("acked again %v after the leader closed", time.Since(since))
	l.check(t, rs)

	g.start(t, leader)
	rs = g.up(t)
	g.stream(t, 3)
	for _, r := range rs {
		brokertest.Wait(t, "publishes are acked", func() bool { return l.publish(t, r, 20) })
	}
	l.check(t, rs)
}

// TestTrioKill9: the node that leads the stream is killed -9 while it publishes.
// What it was acked is everywhere, the others go on, and it comes back whole.
func TestTrioKill9(t *testing.T) {
	g := newTrio(t, 3)
	g.start(t, 0)
	g.start(t, 1)
	l := ledger{}
	var asked time.Time
	acked := runAndKill(t, g.configs[2], func(acks int) bool {
		if acks < 100 || time.Since(asked) < 200*time.Millisecond {
			return false
		}
		asked = time.Now()
		r := g.up(t)[0]
		si, err := r.js.StreamInfo(streamName)
		if err != nil || si.Config.Replicas != 3 {
			return false
		}
		name, err := os.ReadFile(filepath.Join(g.configs[2].DataDir, "server-name"))
		if err != nil {
			t.Error(err)
		}
		if si.Cluster.Leader == string(name) {
			return true
		}
		_, _ = r.nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+streamName, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, name), time.Second)
		return false
	})
	since := time.Now()
	rs := g.nodes[:2]
	for _, r := range rs {
		brokertest.Wait(t, "publishes are acked again", func() bool { return l.publish(t, r, 20) })
	}
	back := time.Since(since)
	t.Logf("%d acked by the killed one; acked again after %v", len(acked), back)
	if back > 20*time.Second {
		t.Errorf("acked again after %v", back)
	}
	for _, seq := range acked {
		l[seq] = crashData
	}
	l.check(t, rs)
	g.start(t, 2)
	rs = g.up(t)
	g.stream(t, 3)
	for _, r := range rs {
		brokertest.Wait(t, "publishes are acked", func() bool { return l.publish(t, r, 20) })
	}
	l.check(t, rs)
}

// TestTrioAlone: a node that has lost the two others, and with them whoever
// speaks for the stream, says so and takes nothing; it goes on when one returns.
func TestTrioAlone(t *testing.T) {
	g := newTrio(t, 3)
	for i := range 3 {
		g.start(t, i)
	}
	rs := g.up(t)
	g.stream(t, 3)
	l := ledger{}
	l.publish(t, rs[0], 50)
	l.check(t, rs)
	last := l.last()
	g.stop(t, 1)
	g.stop(t, 2)
	since := time.Now()
	r := g.nodes[0]
	brokertest.Wait(t, "it is not connected", func() bool { return !r.State().Connected })
	t.Logf("not connected after %v: %v", time.Since(since), r.State().Err)
	if d := time.Since(since); d > 8*time.Second {
		t.Errorf("not connected after %v", d)
	}
	since = time.Now()
	if _, err := r.Publish(t.Context(), broker.Publication{Channel: "c0", Data: []byte(`1`)}); !errors.Is(err, broker.ErrDown) {
		t.Errorf("publish: %v", err)
	}
	if m, err := r.Last(t.Context(), "c0"); !errors.Is(err, broker.ErrDown) {
		t.Errorf("last: %+v, %v", m, err)
	}
	if p, err := r.History(t.Context(), broker.HistoryRequest{Channel: "c0", To: last, Messages: 1, Bytes: 1}); !errors.Is(err, broker.ErrDown) {
		t.Errorf("history: %+v, %v", p, err)
	}
	if d := time.Since(since); d > time.Second {
		t.Errorf("refused after %v", d)
	}
	g.start(t, 1)
	rs = g.up(t)
	for _, r := range rs {
		brokertest.Wait(t, "publishes are acked again", func() bool { return l.publish(t, r, 20) })
	}
	l.check(t, rs)
}

// TestReplicasGrow: two nodes make a stream with one replica; when a third
// joins it gets three, in the same epoch, under load.
func TestReplicasGrow(t *testing.T) {
	g := newTrio(t, 2)
	g.start(t, 0)
	g.start(t, 1)
	rs := g.up(t)
	si := g.stream(t, 1)
	epoch := rs[0].State().Epoch
	l := ledger{}
	for _, r := range rs {
		if !l.publish(t, r, 50) {
			t.Error("not all was acked")
		}
	}
	g.start(t, 2)
	rs = g.up(t)
	end := time.Now().Add(20 * time.Second)
	for si.Config.Replicas != 3 && time.Now().Before(end) {
		for _, r := range rs {
			l.publish(t, r, 20)
		}
		if again, err := rs[0].js.StreamInfo(streamName); err == nil {
			si = again
		}
	}
	g.stream(t, 3)
	for _, r := range rs {
		brokertest.Wait(t, "publishes are acked", func() bool { return l.publish(t, r, 20) })
		if e := r.State().Epoch; e != epoch {
			t.Errorf("epoch %s became %s", epoch, e)
		}
	}
	l.check(t, rs)
}

// TestServerName: the same after a restart under another host name, and not
// another node's of the same.
func TestServerName(t *testing.T) {
	name := func(dir, host string) string {
		n, err := Config{DataDir: dir, Name: host}.serverName()
		if err != nil || !strings.HasPrefix(n, "odin-") {
			t.Errorf("%q, %v", n, err)
		}
		return n
	}
	a, b := t.TempDir(), t.TempDir()
	first := name(a, "host")
	if again := name(a, "other"); again != first {
		t.Errorf("%s became %s", first, again)
	}
	if other := name(b, "host"); other == first {
		t.Errorf("two nodes are called %s", other)
	}
}

func TestLeaderless(t *testing.T) {
	peers := func(actives ...time.Duration) (ps []*nats.PeerInfo) {
		for _, a := range actives {
			ps = append(ps, &nats.PeerInfo{Active: a, Offline: a < 0})
		}
		return ps
	}
	for name, c := range map[string]struct {
		info *nats.ClusterInfo
		down bool
	}{
		"no cluster":              {nil, false},
		"one replica":             {&nats.ClusterInfo{Leader: "a"}, false},
		"electing":                {&nats.ClusterInfo{Replicas: peers(0, 0)}, true},
		"all there":               {&nats.ClusterInfo{Leader: "a", Replicas: peers(time.Second, time.Millisecond)}, false},
		"one silent":              {&nats.ClusterInfo{Leader: "a", Replicas: peers(time.Minute, time.Millisecond)}, false},
		"both silent":             {&nats.ClusterInfo{Leader: "a", Replicas: peers(quorumSilence, time.Minute)}, true},
		"one silent, one offline": {&nats.ClusterInfo{Leader: "a", Replicas: peers(quorumSilence, -1)}, true},
		"just made":               {&nats.ClusterInfo{Leader: "a", Replicas: peers(0, 0)}, false},
		"two of four":             {&nats.ClusterInfo{Leader: "a", Replicas: peers(0, time.Minute, time.Minute)}, true},
	} {
		if err := leaderless(c.info); (err != nil) != c.down || err != nil && !errors.Is(err, broker.ErrDown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPrivatePort: a server that listens only because its routes need it lets
// nobody in.
func TestPrivatePort(t *testing.T) {
	g := newTrio(t, 3)
	g.start(t, 0)
	addr := g.nodes[0].emb.server().Addr().(*net.TCPAddr)
	if !addr.IP.IsLoopback() || g.nodes[0].ClientURL() != "" {
		t.Errorf("listens on %v, says %q", addr, g.nodes[0].ClientURL())
	}
	if nc, err := nats.Connect(fmt.Sprintf("nats://%v", addr)); err == nil {
		nc.Close()
		t.Error("a stranger is let in")
	}
}
