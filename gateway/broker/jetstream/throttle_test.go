package jetstream

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

// memory is a store and a process around it, in which memory is short where the
// store's blocks and all else pass a limit: what the pace is for.
type memory struct {
	pace
	stored, cached int64 // bytes ever; bytes that the store holds in memory
	at             time.Duration
	each           []int64 // what was stored in each step
}

// run plays d in steps of 100 ms: publishers offer rate bytes a second, memory is
// short while cached is over the limit. It returns what was stored and the most cached.
func (m *memory) run(d time.Duration, rate, limit int64) (stored, peak int64) {
	const step = 100 * time.Millisecond
	for end := m.at + d; m.at < end; m.at += step {
		hold := m.pace.step(m.at, m.stored, m.cached > limit)
		n := int64(0)
		if !hold {
			n = rate / 10
		}
		m.stored += n
		stored += n
		m.each = append(m.each, n)
		m.cached += n
		if out := len(m.each) - 1 - int(10100*time.Millisecond/step); out >= 0 {
			m.cached -= m.each[out]
		}
		peak = max(peak, m.cached)
	}
	return stored, peak
}

// Publishers that are faster than memory allows get most of what it does, and the
// bound is hardly passed; with enough memory nobody is held, and in the end the share
// is always there.
func TestPaceFindsWhatMemoryHolds(t *testing.T) {
	const mib = 1 << 20
	m := &memory{pace: pace{share: mib}}
	if stored, _ := m.run(time.Minute, 4*mib, 64*mib); stored < 239*mib {
		t.Errorf("held back without need: %d MiB of 240", stored/mib)
	}
	m.run(20*time.Second, 20*mib, 64*mib) // it finds the pace
	stored, peak := m.run(5*time.Minute, 20*mib, 64*mib)
	if peak > 70*mib {
		t.Errorf("%d MiB cached, 64 are there", peak/mib)
	}
	if rate := stored / 300; rate < 64*mib/11/2 {
		t.Errorf("%d KiB a second stored, memory holds %d", rate>>10, 64*mib/11>>10)
	}
	// Something else holds the memory: the share is stored all the same.
	m.run(time.Minute, 20*mib, -1)
	stored, _ = m.run(time.Minute, 20*mib, -1)
	if want := int64(60 * mib * 10 / 105); stored < want/2 || stored > 60*2*mib*10/105+6*2*mib {
		t.Errorf("%d MiB stored in a minute, the share is %d", stored/mib, want/mib)
	}
	// And it comes back by itself.
	m.run(2*time.Minute, 4*mib, 64*mib)
	if stored, _ := m.run(time.Minute, 4*mib, 64*mib); stored < 239*mib {
		t.Errorf("still held back: %d MiB of 240", stored/mib)
	}
}

// With a first guess nobody meets a wall: what is stored is stored evenly. A bound that
// held nobody back does not grow, so that a burst after an idle hour is none either.
func TestPaceIsEven(t *testing.T) {
	const mib = 1 << 20
	m := &memory{pace: pace{share: mib, most: 48 * mib}}
	for i := range 15 {
		if stored, _ := m.run(2*time.Second, 20*mib, 64*mib); stored < 4*mib || stored > 16*mib {
			t.Errorf("seconds %d and %d: %.1f MiB stored", 2*i, 2*i+1, float64(stored)/mib)
		}
	}
	m.run(time.Minute, mib, 64*mib)
	before := m.most
	if m.run(time.Hour, mib, 64*mib); m.most != before {
		t.Errorf("an idle hour made %d of a bound of %d", m.most, before)
	}
}

// A clock that stood still for a while loses nothing and counts nothing twice.
func TestPaceAfterAPause(t *testing.T) {
	p := pace{share: 1000}
	p.step(0, 500, true)
	if p.step(time.Second, 1500, true); p.sum != 1500 {
		t.Errorf("sum %d", p.sum)
	}
	if hold := p.step(time.Hour, 1560, true); hold || p.sum != 60 {
		t.Errorf("after an hour: held %v, sum %d", hold, p.sum)
	}
	if p.step(time.Hour+cacheTime+throttleSlot, 1560, true); p.sum != 0 {
		t.Errorf("sum %d after nothing", p.sum)
	}
}

// short makes the broker's node short of memory until it refuses.
func short(t *testing.T, b *Broker) {
	t.Helper()
	data := []byte(`"` + strings.Repeat("x", 256<<10) + `"`)
	for range 256 {
		b.Throttle(true)
		if b.State().Throttled {
			return
		}
		if _, err := b.Publish(t.Context(), broker.Publication{Channel: "c", Data: data}); err != nil {
			t.Fatal(err)
		}
		brokertest.Wait(t, "delivery", func() bool { return b.position.Load() == b.head.Load() })
	}
	t.Fatal("takes everything")
}

// listening is a started broker whose server takes clients.
func listening(t *testing.T) *Broker {
	t.Helper()
	return start(t, func(c *Config) { c.Listen = "127.0.0.1:0" }).Broker
}

// takesAgain waits until memory that is not short any more lets a native publisher in.
func takesAgain(t *testing.T, b *Broker, js nats.JetStreamContext) {
	t.Helper()
	brokertest.Wait(t, "it is taken again", func() bool {
		b.Throttle(false)
		_, err := js.Publish(inPrefix+"native", []byte(`1`))
		return err == nil
	})
}

// TestThrottleOverNATS: who publishes by NATS is refused too, and nothing of what is
// stored is lost by it.
func TestThrottleOverNATS(t *testing.T) {
	b := listening(t)
	js := jetStream(t, dial(t, b.ClientURL()))
	short(t, b)
	before, err := js.StreamInfo(streamName)
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.Publish(inPrefix+"native", []byte(`1`))
	if api := new(nats.APIError); !errors.As(err, &api) || api.ErrorCode != codeAccountFull {
		t.Errorf("a publisher over NATS: %v", err)
	}
	after, err := js.StreamInfo(streamName)
	if err != nil {
		t.Fatal(err)
	}
	if after.State.Msgs != before.State.Msgs || after.State.FirstSeq != before.State.FirstSeq {
		t.Errorf("the stream was %+v and is %+v", before.State, after.State)
	}
	takesAgain(t, b, js)
}

// TestThrottleLeavesTheOperatorsLimit: an account that the configuration limits keeps
// its limit, and a full one is full.
func TestThrottleLeavesTheOperatorsLimit(t *testing.T) {
	cfg := testConfig()
	cfg.DataDir = t.TempDir()
	cfg.ConfigFile = filepath.Join(cfg.DataDir, "nats.conf")
	conf := "listen: 127.0.0.1:-1\njetstream { max_file: 2GB }\naccounts { A { jetstream: { max_file: 300MB }, users = [ {user: a, password: b} ] } }"
	if err := os.WriteFile(cfg.ConfigFile, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	b, sink := newBroker(t, cfg), brokertest.NewRecorder(t)
	if err := b.Start(sink); err != nil {
		t.Fatal(err)
	}
	brokertest.Wait(t, "up", sink.Up)
	short(t, b)
	if _, err := b.Publish(t.Context(), broker.Publication{Channel: "c", Data: []byte(`1`)}); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("by this node: %v", err)
	}
	js := jetStream(t, dial(t, b.ClientURL(), nats.UserInfo("a", "b")))
	if _, err := js.Publish(inPrefix+"native", []byte(`1`)); err != nil {
		t.Errorf("over NATS: %v", err)
	}
	info, err := js.AccountInfo()
	if err != nil || info.Limits.MaxStore != 300_000_000 && info.Limits.MaxStore != 300<<20 {
		t.Errorf("the account's limits are %+v, %v", info.Limits, err)
	}
}

// TestThrottleOfTheLeader: in a cluster it is the memory of the stream's leader that
// counts, whichever node is published to.
func TestThrottleOfTheLeader(t *testing.T) {
	g := newTrio(t, 3)
	for i := range g.nodes {
		g.start(t, i)
	}
	leader, others := leads(t, g)
	other := others[0]
	short(t, leader.Broker)
	p := broker.Publication{Channel: "c", Data: []byte(`1`)}
	if _, err := other.Publish(t.Context(), p); !errors.Is(err, broker.ErrBusy) {
		t.Errorf("by another node: %v", err)
	}
	brokertest.Wait(t, "it is taken again", func() bool {
		leader.Throttle(false)
		_, err := other.Publish(t.Context(), p)
		return err == nil
	})
}

// leads splits the nodes of a trio into the stream's leader and the others.
func leads(t *testing.T, g *trio) (leader *rig, others []*rig) {
	t.Helper()
	si := g.stream(t, 3)
	for _, r := range g.up(t) {
		if r.emb.server().Name() == si.Cluster.Leader {
			leader = r
		} else {
			others = append(others, r)
		}
	}
	if leader == nil {
		t.Fatalf("none of the nodes is %s", si.Cluster.Leader)
	}
	return leader, others
}

// TestThrottleOfAReplica: what the leader takes is stored by the others too, so that
// it takes no more either where one of them is short.
func TestThrottleOfAReplica(t *testing.T) {
	g := newTrio(t, 3)
	for i := range g.nodes {
		g.start(t, i)
	}
	leader, others := leads(t, g)
	short(t, others[0].Broker)
	p := broker.Publication{Channel: "c", Data: []byte(`1`)}
	for _, r := range []*rig{leader, others[1]} {
		brokertest.Wait(t, "it is refused by "+r.cfg.Name, func() bool {
			others[0].Throttle(true)
			leader.Throttle(false)
			_, err := r.Publish(t.Context(), p)
			if err != nil && !errors.Is(err, broker.ErrBusy) {
				t.Fatal(err)
			}
			return err != nil
		})
	}
	brokertest.Wait(t, "it is taken again", func() bool {
		leader.Throttle(false)
		_, err := others[1].Publish(t.Context(), p)
		return err == nil
	})
}

// TestThrottleAndTheConfiguration: a replica whose memory is short takes over what is
// changed of the stream all the same. One that did not would have another
// configuration than the others until it is started again.
func TestThrottleAndTheConfiguration(t *testing.T) {
	g := newTrio(t, 3)
	for i := range g.nodes {
		g.start(t, i)
	}
	leader, others := leads(t, g)
	for _, r := range others {
		if err := r.emb.hold(true); err != nil {
			t.Fatal(err)
		}
	}
	cfg := g.stream(t, 3).Config
	cfg.Description = "changed"
	if _, err := leader.js.UpdateStream(&cfg); err != nil {
		t.Error(err)
	}
	for _, r := range g.up(t) {
		brokertest.Wait(t, r.cfg.Name+" takes the change over", func() bool {
			all, err := r.emb.server().Jsz(&server.JSzOptions{Accounts: true, Streams: true, Config: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range all.AccountDetails {
				for _, s := range a.Streams {
					if s.Name == streamName && s.Config.Description == cfg.Description {
						return true
					}
				}
			}
			return false
		})
	}
}

// TestThrottleAfterARepair: a server that was started anew is held like the one before,
// which is forgotten.
func TestThrottleAfterARepair(t *testing.T) {
	b := listening(t)
	short(t, b)
	old := b.emb.server()
	b.emb.shutdown()
	brokertest.Wait(t, "it is up again", func() bool { return b.emb.server() != nil && b.State().Connected })
	b.emb.mu.Lock()
	kept := b.emb.held == old
	b.emb.mu.Unlock()
	if kept {
		t.Error("the server that is gone is kept")
	}
	js := jetStream(t, dial(t, b.ClientURL()))
	brokertest.Wait(t, "it is refused", func() bool {
		b.Throttle(true)
		_, err := js.Publish(inPrefix+"native", []byte(`1`))
		api := new(nats.APIError)
		return errors.As(err, &api) && api.ErrorCode == codeAccountFull
	})
	takesAgain(t, b, js)
}

// TestThrottleOfAnAccount: it is the account of this process's client that is held,
// however the configuration names it.
func TestThrottleOfAnAccount(t *testing.T) {
	const nkey = "UC6NLCN7AS34YOJVCYD4PJ3QB7QGLYG5B5IMBT25VW5K4TNUJODM7BOX"
	for name, conf := range map[string]string{
		"none":        "",
		"a user":      `authorization { users = [ {user: a, password: b} ] }`,
		"its own":     `accounts { A { jetstream: enabled, users = [ {user: a, password: b} ] } }`,
		"no user":     "no_auth_user: a\n" + `accounts { A { jetstream: enabled, users = [ {user: a, password: b} ] }, B { users = [ {user: c, password: d} ] } }`,
		"no nkey":     "no_auth_user: " + nkey + "\n" + `accounts { A { jetstream: enabled, users = [ {nkey: ` + nkey + `} ] } }`,
		"memory only": `accounts { A { jetstream: { max_mem: 1MB }, users = [ {user: a, password: b} ] } }`,
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			cfg.DataDir = t.TempDir()
			cfg.ConfigFile = filepath.Join(cfg.DataDir, "nats.conf")
			if err := os.WriteFile(cfg.ConfigFile, []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			b, sink := newBroker(t, cfg), brokertest.NewRecorder(t)
			if err := b.Start(sink); err != nil {
				t.Fatal(err)
			}
			brokertest.Wait(t, "up", sink.Up)
			p := broker.Publication{Channel: "c", Data: []byte(`1`)}
			for _, on := range []bool{false, true, false} {
				if err := b.emb.hold(on); err != nil {
					t.Fatal(err)
				}
				if _, err := b.Publish(t.Context(), p); errors.Is(err, broker.ErrBusy) != on || err != nil && !on {
					t.Errorf("held is %v: %v", on, err)
				}
			}
		})
	}
}

// TestHeadersAreCounted: a publisher's headers are stored too, also where only the
// stream's leader can tell them from the server's.
func TestHeadersAreCounted(t *testing.T) {
	b := listening(t)
	for name, c := range map[string]struct {
		header string
		least  int64
		most   int64
	}{
		"none":          {"NATS/1.0\r\n\r\n", 1, 100},
		"long":          {"NATS/1.0\r\nX: " + strings.Repeat("h", 8000) + "\r\n\r\n", 7800, 8300},
		"written oddly": {"NATS/1.0\r\nX:" + strings.Repeat("h", 8000) + "\r\n\r\n", 7800, 8300},
	} {
		before, delivered := b.throttle.stored.Load(), b.Counters().Delivered
		rawPublish(t, b, "c", c.header, `1`)
		brokertest.Wait(t, name+" is delivered", func() bool { return b.Counters().Delivered > delivered })
		if n := b.throttle.stored.Load() - before; n < c.least || n > c.most {
			t.Errorf("%s: %d bytes counted", name, n)
		}
	}
}

// TestThrottleWhileBehind: what is stored and not delivered yet is in no count, so that
// no more is taken while memory is short.
func TestThrottleWhileBehind(t *testing.T) {
	cfg := testConfig()
	cfg.DataDir = t.TempDir()
	b, sink := newBroker(t, cfg), brokertest.NewRecorder(t)
	if err := b.Start(sink); err != nil {
		t.Fatal(err)
	}
	brokertest.Wait(t, "up", sink.Up)
	for _, c := range []struct{ short, behind, held bool }{{true, false, false}, {false, true, false}, {true, true, true}, {true, false, false}} {
		b.throttle.behind.Store(c.behind)
		if b.Throttle(c.short); b.State().Throttled != c.held {
			t.Errorf("short %v, behind %v: held %v", c.short, c.behind, !c.held)
		}
	}
}
