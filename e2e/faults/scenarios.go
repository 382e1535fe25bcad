//go:build linux

package main

import (
	"syscall"
	"time"
)

// scenarios are all of them, in the order they are played.
var scenarios = []scenario{
	{name: "mutants", fault: "none; beside it relays that do one thing wrong in a million", fast: true, run: showMutants},
	{name: "kill-gateway", fault: "gateway kill −9 under load, 20 times; clients resume on another node", limit: 3 * time.Second, fast: true, run: killGateway},
	{name: "kill-broker", fault: "outside nats-server kill −9 and restart", limit: 10 * time.Second, fast: true, run: killBroker},
	{name: "stop-broker", fault: "outside nats-server SIGSTOP for 60 s", limit: 10 * time.Second, run: stopBroker},
	{name: "kill-leader", fault: "leader of three nats-servers kill −9", limit: 20 * time.Second, fast: true, run: killLeader},
	{name: "three-alone", fault: "three odin whose embedded servers are the cluster: one killed, one drained, the leader killed", limit: 20 * time.Second, run: threeAlone},
	{name: "rolling", fault: "rolling restart of three nodes behind HAProxy, --drain 10s", limit: 5 * time.Second, fast: true, run: rolling},
	{name: "partition", fault: "gateway cut from the broker for 5 min (iptables in a namespace)", limit: 10 * time.Second, fast: true, root: true, run: partition},
	{name: "disk-full", fault: "JetStream's disk full (tmpfs of 64 MiB)", limit: 30 * time.Second, fast: true, root: true, run: diskFull},
	{name: "retention", fault: "retention ran out while a node was away", limit: 10 * time.Second, fast: true, run: retention},
	{name: "recreated", fault: "stream deleted, and made anew", limit: 10 * time.Second, fast: true, run: recreated},
	{name: "half-slow", fault: "half the clients read 1 byte/s (A B A B)", run: halfSlow},
	{name: "flat-out", fault: "feed flat out, default settings, a third of the clients too slow", limit: 60 * time.Second, fast: true, run: flatOut},
	{name: "burst", fault: "100 × the steady rate for 10 s", limit: 10 * time.Second, fast: true, run: burst},
	{name: "drain", fault: "SIGTERM with 10 000 clients, --drain 20s", limit: 25 * time.Second, run: drain},
	{name: "drain-stopped", fault: "the same, every client SIGSTOPped", limit: 25 * time.Second, fast: true, run: drainStopped},
	{name: "reset-all", fault: "all clients reset at once", limit: 60 * time.Second, fast: true, run: resetAll},
	{name: "stopped-clients", fault: "all clients stop reading, publisher flat out", limit: 10 * time.Second, fast: true, run: stoppedClients},
	{name: "half-open", fault: "peers that vanish (their packets dropped)", limit: 30 * time.Second, root: true, run: halfOpen},
	{name: "poison", fault: "1 MiB, not JSON, not UTF-8, forged headers on odin.in", limit: 5 * time.Second, fast: true, run: poison},
}

// load is what most scenarios put on: few enough for a loaded machine, all the
// channels of a client interleaved.
const (
	loadClients  = 120
	loadChannels = 8
	loadRate     = 200
	loadSize     = 200
)

// long is n, or less in the fast form.
func (r *run) long(n, fast int) int {
	if r.rig.fast {
		return fast
	}
	return n
}

func killGateway(r *run) {
	b := r.broker("nats", "", "")
	var nodes []*node
	for _, name := range []string{"a", "b", "c"} {
		nodes = append(nodes, r.node(name, "--nats-url", b.url()))
	}
	waitReady(nodes...)
	chs := channels(loadChannels)
	from := r.seed(nodes[0], chs)
	f := r.fleet(fleetOptions{n: loadClients, urls: rotate(nodes...), channels: someWild(chs, 2), from: from})
	p := r.publish(nodes, chs, loadRate, loadSize)
	time.Sleep(time.Second) // load before the first fault
	kills := r.long(20, 3)
	moved := 0
	for i := range kills {
		if !r.rig.fast {
			// A client's back-off forgets what was when a connection has lasted for 10 s;
			// until then each loss doubles it.
			time.Sleep(10 * time.Second)
		}
		n := nodes[i%len(nodes)]
		mine := f.count(func(m *member) bool { return m.up.Load() && *m.url.Load() == n.url() })
		moved += mine
		at := time.Now()
		n.kill()
		d := f.recovers(p, at, at, r.row.limit)
		r.say("kill %d of %d: %s, %d clients, well again after %.2f s", i+1, kills, n.name, mine, d.Seconds())
		n.restart()
		n.waitReady()
	}
	r.want(moved > kills, "only %d clients lost their node in %d kills", moved, kills)
	r.note("%d kills, %d clients moved", kills, moved)
	f.finish(p)
}

func killBroker(r *run) {
	b := r.broker("nats", "", "")
	n := []*node{r.node("a", "--nats-url", b.url()), r.node("b", "--nats-url", b.url())}
	waitReady(n...)
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: loadClients, urls: rotate(n...), channels: someWild(chs, 2), from: r.seed(n[0], chs)})
	p := r.publish(n, chs, loadRate, loadSize)
	for range r.long(5, 2) {
		time.Sleep(time.Second)
		at := time.Now()
		b.kill()
		d := r.within(at, 2*time.Second, "both /readyz 503", func() bool { return !n[0].ready() && !n[1].ready() })
		stale := r.within(at, 5*time.Second, "clients told stale", func() bool { return f.all(func(m *member) bool { return int(m.stale.Load()) >= len(m.channels) }) })
		b.restart()
		at = time.Now()
		b.waitUp()
		back := f.recovers(p, at, at, r.row.limit)
		r.say("not ready after %.2f s, clients told stale after %.2f s, well again %.2f s after the restart", d.Seconds(), stale.Seconds(), back.Seconds())
		r.within(time.Now(), 5*time.Second, "clients told live", func() bool { return f.all(func(m *member) bool { return m.stale.Load() == 0 }) })
	}
	f.finish(p)
}

func stopBroker(r *run) {
	b := r.broker("nats", "", "")
	n := []*node{r.node("a", "--nats-url", b.url()), r.node("b", "--nats-url", b.url())}
	waitReady(n...)
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: loadClients, urls: rotate(n...), channels: someWild(chs, 2), from: r.seed(n[0], chs)})
	p := r.publish(n, chs, loadRate, loadSize)
	time.Sleep(time.Second)
	at := time.Now()
	b.signal(syscall.SIGSTOP)
	d := r.within(at, 2*time.Second, "both /readyz 503", func() bool { return !n[0].ready() && !n[1].ready() })
	stale := r.within(at, 5*time.Second, "clients told stale", func() bool { return f.all(func(m *member) bool { return int(m.stale.Load()) >= len(m.channels) }) })
	hold := time.Duration(r.long(60, 8)) * time.Second
	time.Sleep(time.Until(at.Add(hold)))
	at = time.Now()
	b.signal(syscall.SIGCONT)
	back := f.recovers(p, at, at, r.row.limit)
	r.note("not ready after %.1f s, clients told stale after %.1f s, stopped for %.0f s", d.Seconds(), stale.Seconds(), hold.Seconds())
	r.say("well again %.2f s after SIGCONT", back.Seconds())
	f.finish(p)
}
