//go:build linux

package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// netns is a network namespace and the wire to it.
type netns struct {
	name      string
	near, far string // addresses: ours and the one inside
	near2     string // another one of ours
	run       *run
}

var netnses atomic.Int32

// netns makes one.
func (r *run) netns() *netns {
	k := int(netnses.Add(1))
	id := os.Getpid() % 10000
	x := &netns{
		run: r, name: fmt.Sprintf("odin-f%d-%d", id, k),
		near: fmt.Sprintf("10.231.%d.1", k), far: fmt.Sprintf("10.231.%d.2", k), near2: fmt.Sprintf("10.231.%d.3", k),
	}
	link, peer := fmt.Sprintf("of%d-%da", id, k), fmt.Sprintf("of%d-%db", id, k)
	r.sh("ip", "netns", "add", x.name)
	r.atEnd(func() {
		quiet("ip", "link", "del", link)
		quiet("ip", "netns", "del", x.name)
	})
	r.sh("ip", "link", "add", link, "type", "veth", "peer", "name", peer)
	r.sh("ip", "link", "set", peer, "netns", x.name)
	r.sh("ip", "addr", "add", x.near+"/24", "dev", link)
	r.sh("ip", "addr", "add", x.near2+"/24", "dev", link)
	r.sh("ip", "link", "set", link, "up")
	x.sh("ip", "addr", "add", x.far+"/24", "dev", peer)
	x.sh("ip", "link", "set", peer, "up")
	x.sh("ip", "link", "set", "lo", "up")
	return x
}

func (x *netns) args(args ...string) []string {
	return append([]string{"ip", "netns", "exec", x.name}, args...)
}

func (x *netns) sh(args ...string) { x.run.sh(x.args(args...)...) }

// cut drops all packets inside that match, both ways: in are the words for those
// that come in, out for those that go out.
func (x *netns) cut(in, out []string) {
	x.sh(append([]string{"iptables", "-w", "-A", "INPUT", "-j", "DROP"}, in...)...)
	x.sh(append([]string{"iptables", "-w", "-A", "OUTPUT", "-j", "DROP"}, out...)...)
}

func (x *netns) heal() { x.sh("iptables", "-w", "-F") }

// nodeIn starts a node in a namespace. Its admin port can't be reached from here.
func (r *run) nodeIn(x *netns, name string, args ...string) *node {
	return r.nodeAt(x.args(), name, x.far+":8080", "127.0.0.1:8081", args...)
}

func partition(r *run) {
	x := r.netns()
	b := r.broker("nats", x.near+":24222", "")
	far, here := r.nodeIn(x, "far", "--nats-url", b.url()), r.node("here", "--nats-url", b.url())
	waitReady(far, here)
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: loadClients, urls: rotate(far), channels: some(chs, 2), from: r.seed(here, chs)})
	// What was missed in five minutes must be taken by all clients, which share a
	// machine, within ten seconds.
	p := r.publish([]*node{here}, chs, r.long(20, loadRate), loadSize)
	time.Sleep(time.Second)
	at := time.Now()
	x.cut([]string{"-p", "tcp", "--sport", "24222"}, []string{"-p", "tcp", "--dport", "24222"})
	down := r.within(at, 2*time.Second, "/readyz 503", func() bool { return !far.ready() })
	stale := r.within(at, 5*time.Second, "clients told stale", func() bool { return f.all(func(m *member) bool { return int(m.stale.Load()) >= len(m.channels) }) })
	hold := time.Duration(r.long(300, 8)) * time.Second
	time.Sleep(time.Until(at.Add(hold)))
	if n := f.count(func(m *member) bool { return m.up.Load() }); n != len(f.members) {
		r.fault("%d of %d clients still connected after %s", n, len(f.members), hold)
	}
	at = time.Now()
	x.heal()
	d := f.recovers(p, at, at, r.row.limit)
	live := r.within(at, r.row.limit, "clients told live", func() bool { return f.all(func(m *member) bool { return m.stale.Load() == 0 }) })
	r.note("cut for %.0f s, not ready after %.1f s, told stale after %.1f s, live %.1f s after", hold.Seconds(), down.Seconds(), stale.Seconds(), live.Seconds())
	r.say("well again %.2f s after the cut's end", d.Seconds())
	f.finish(p)
}

func halfOpen(r *run) {
	x := r.netns()
	b := r.broker("nats", x.near+":24222", "")
	far, here := r.nodeIn(x, "far", "--nats-url", b.url()), r.node("here", "--nats-url", b.url())
	waitReady(far, here)
	chs := channels(loadChannels)
	from := r.seed(here, append(chs, "fault.idle"))
	// A third of the dead follow a channel on which nothing happens.
	dead := r.fleet(fleetOptions{n: 60, urls: rotate(far), from: from, wrap: true, local: x.near2, channels: func(i int) []string {
		if i%3 == 0 {
			return []string{"fault.idle"}
		}
		return some(chs, 2)(i)
	}})
	f := r.fleet(fleetOptions{n: 60, urls: rotate(far), channels: some(chs, 2), from: from})
	p := r.publish([]*node{here}, chs, loadRate, loadSize)
	time.Sleep(2 * time.Second)
	at := time.Now()
	x.cut([]string{"-s", x.near2}, []string{"-d", x.near2})
	last := 0
	d := r.within(at, r.row.limit, "the dead reaped", func() bool {
		s, err := far.stats()
		if err == nil && s.Current != last {
			last = s.Current
			r.say("%d connections after %.1f s", last, time.Since(at).Seconds())
		}
		return err == nil && s.Current == len(f.members)
	})
	r.recovered(d)
	x.heal()
	healed := time.Now()
	r.within(healed, 60*time.Second, "the dead back and given all", func() bool { return dead.all(func(m *member) bool { return m.up.Load() }) })
	// Those on the idle channel are owed one message, too.
	q := r.publish([]*node{here}, []string{"fault.idle"}, 5, loadSize)
	dead.recovers2(q, p, healed, 60*time.Second)
	f.members = append(f.members, dead.members...)
	f.before = dead.before
	f.finish(p, q)
}

// recovers2 is recovers for members whose channels have different publishers.
func (f *fleet) recovers2(a, b *publisher, since time.Time, limit time.Duration) {
	now := time.Now()
	na, nb := a.next(now), b.next(now)
	var seq uint64
	for _, c := range []<-chan uint64{na, nb} {
		select {
		case s := <-c:
			seq = max(seq, s) // both go on, so everyone comes past it
		case <-time.After(30 * time.Second):
			f.r.fault("nothing is acknowledged")
		}
	}
	f.r.within(since, limit, "all given what was published after the fault", func() bool {
		return f.all(func(m *member) bool { return m.up.Load() && m.page.Last() >= seq })
	})
}
