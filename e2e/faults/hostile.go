//go:build linux

package main

import (
	"fmt"
	"runtime"
	"strconv"
	"time"
)

// hostileScenarios are what clients do wrong, in the order they are played.
// Those that e2e-faults has as well are clients' doing too.
var hostileScenarios = []scenario{
	{name: "half-frames", fault: "more half-sent frames than workers, and 1000 clients that drip a byte a second", limit: 13 * time.Second, fast: true, run: halfFrames},
	{name: "handshakes", fault: "5000 handshakes at a byte a second, then silent connects up to the cap", limit: 13 * time.Second, fast: true, run: slowHandshakes},
	{name: "ping-flood", fault: "clients that flood pings and never read", limit: 12 * time.Second, fast: true, run: pingFlood},
	{name: "storm", fault: "a full node, and ten times as many connection attempts at once", limit: 10 * time.Second, fast: true, run: storm},
	{name: "reset-all", fault: "all clients reset at once, and come back", limit: 60 * time.Second, run: resetAll},
	{name: "no-files", fault: "prlimit --nofile=1024, connects beyond it; then no descriptor left at all", limit: time.Second, fast: true, run: noFiles},
	{name: "syscalls", fault: "epoll_ctl, accept4 and writes to sockets fail (strace inject)", limit: 10 * time.Second, fast: true, root: true, run: failingSyscalls},
	{name: "panics", fault: "handlers that panic, on the loop and in the pool, and one that sleeps 30 s", run: panics},
	{name: "churn", fault: "clients come and go in every way (ARGS='--churn 1h' for the record)", run: churn},
	{name: "poison", fault: "1 MiB, not JSON, not UTF-8, forged headers on odin.in", limit: 5 * time.Second, run: poison},
	{name: "half-open", fault: "peers that vanish (their packets dropped)", limit: 30 * time.Second, root: true, run: halfOpen},
}

// bystanders are the legitimate clients of a hostile scenario: followers whose
// delays are measured, and visitors who come and go.
type bystanders struct {
	f *fleet
	p *publisher
	v *visitors
}

const (
	bystanderClients  = 40
	bystanderChannels = 4
	bystanderRate     = 100 // messages a second: two seconds of them are no reason to be cut
)

// bystanders connects them to a node and lets them settle.
func (r *run) bystanders(n *node, wrap bool) *bystanders {
	chs := channels(bystanderChannels)
	from := r.seed(n, chs)
	b := &bystanders{f: r.fleet(fleetOptions{n: bystanderClients, urls: rotate(n), channels: some(chs, 2), from: from, wrap: wrap})}
	b.p = r.publish([]*node{n}, chs, bystanderRate, loadSize)
	time.Sleep(time.Second)
	return b
}

// begin measures from now on.
func (b *bystanders) begin(n *node) {
	b.f.watch()
	b.v = b.f.r.visit(n, 25)
}

// end checks what they saw: nobody was cut off, and 99 in 100 messages took at
// most delivery, visits at most visit.
func (b *bystanders) end(delivery, visit time.Duration) {
	r := b.f.r
	d, n := b.f.watched()
	v, visits, failed := b.v.stop()
	r.note("p99 of %d deliveries %.1f ms (limit %d), of %d visits %.1f ms (limit %d)", n, ms(d), delivery.Milliseconds(), visits, ms(v), visit.Milliseconds())
	delivery, visit = r.forgive(delivery), r.forgive(visit)
	if n == 0 || visits == 0 {
		r.fault("%d deliveries and %d visits: nothing was measured", n, visits)
	}
	if d > delivery {
		r.fault("99 %% of deliveries within %v, limit %v", d, delivery)
	}
	if v > visit {
		r.fault("99 %% of visits within %v, limit %v", v, visit)
	}
	if failed > 0 {
		r.fault("%d of %d visits failed: %v", failed, visits, b.v.why)
	}
	b.stayed(0)
}

// forgive is a limit on a delay as it is judged. The fast form shares its machine
// with whatever else is tested: there four times as much may be, and what this
// process was not run for.
func (r *run) forgive(limit time.Duration) time.Duration {
	if !r.rig.fast {
		return limit
	}
	return 4*limit + 2*r.stalls.worst(r.began)
}

// stayed checks that no more followers lost their connection than may.
func (b *bystanders) stayed(most int) {
	if n := b.f.reconnects(); n > most {
		st, err := b.f.r.nodes[0].stats()
		b.f.r.fault("%d bystanders lost their connection, %d may; the last: %s; closes %v, slow %v, %v", n, most, b.f.lastLost(), st.Closes, st.SlowBy, err)
	}
}

// reconnects is how often a member was connected again.
func (f *fleet) reconnects() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.back) - len(f.members)
}

// lastLost says of whom a connection was lost last, when, and why.
func (f *fleet) lastLost() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// halfFrames: a half-sent frame holds a few bytes of its own, and nobody else's
// worker; a clock that a byte does not wind up again ends it.
func halfFrames(r *run) {
	n := r.node("a")
	n.waitReady()
	b := r.bystanders(n, false)
	workers := 8 * runtime.NumCPU() // as many as the gateway's pool has
	drips := r.long(1000, 200)
	b.begin(n)
	a := r.attack(n)
	for i := range workers + 1 {
		a.add(attacker{kind: "half a frame", open: true, first: longFrame()[:200+i%100]})
	}
	for i := range drips {
		if i/2%2 == 0 { // in pairs: connections go to the loops in turn
			a.add(attacker{kind: "drips a frame", open: true, drip: longFrame()})
		} else {
			a.add(attacker{kind: "drips a head", drip: []byte(n.head())})
		}
	}
	a.wait()
	a.cutAt("half a frame", "1008", 9*time.Second, r.row.limit)
	a.cutAt("drips a frame", "1008", 9*time.Second, r.row.limit)
	a.cutAt("drips a head", "408", 9*time.Second, r.row.limit)
	b.end(50*time.Millisecond, 50*time.Millisecond)
	b.f.finish(b.p)
}

// slowHandshakes: who has not finished its head can take the places of others
// like it only.
func slowHandshakes(r *run) {
	n := r.node("a")
	n.waitReady()
	most := n.logged("handshakes") // --max-handshakes, or what the descriptors leave of it
	r.want(most > 100, "at most %d handshakes: nothing can be shown", most)
	b := r.bystanders(n, false)
	b.begin(n)
	a := r.attack(n)
	peak := r.peak(n, func(s *stats) int64 { return s.Handshakes })
	slow := r.long(5000, 1500)
	for range slow {
		a.add(attacker{kind: "slow handshake", first: []byte("GET /ws HTTP/1.1\r\n"), drip: []byte(n.head()[len("GET /ws HTTP/1.1\r\n"):])})
	}
	a.wait()
	a.cutAt("slow handshake", "408", 0, r.row.limit)
	if d := a.latest("slow handshake"); d < 9*time.Second {
		r.fault("the last slow handshake was cut after %v: none was given its 10 s", d)
	}
	// Fewer than fit, so that visitors need not displace any.
	silent := r.long(most-most/10, 0)
	for range silent {
		a.add(attacker{kind: "silent"})
	}
	if silent > 0 {
		a.wait()
		a.cutAt("silent", "408", 9*time.Second, r.row.limit)
	}
	// Those accepted meanwhile are counted before the oldest are dropped.
	if p := peak(); p > int64(most)+64 {
		r.fault("%d handshakes under way, at most %d", p, most)
	} else {
		r.note("%d slow and %d silent, at most %d handshakes under way (limit %d)", slow, silent, p, most)
	}
	b.end(50*time.Millisecond, 200*time.Millisecond)
	b.f.finish(b.p)
}

// pingFlood: a client that does not read its pongs is not read either, and cut.
func pingFlood(r *run) {
	n := r.node("a")
	n.waitReady()
	b := r.bystanders(n, false)
	b.begin(n)
	st, err := n.stats()
	r.must(err)
	count := r.long(100, 40)
	// Below the limit of control frames a second: the pongs fill the socket, and
	// what is queued is seen in the pool.
	a := r.attack(n)
	peak := r.peak(n, func(s *stats) int64 { return s.Pooled - st.Pooled })
	for range count {
		a.add(attacker{kind: "pings, 100 a second", open: true, deaf: true, every: 10 * time.Millisecond, flood: pings(1)})
	}
	a.wait()
	a.cutAt("pings, 100 a second", "", 0, r.row.limit)
	queued := peak()
	// One pong is 127 bytes, from a class of the pool with room for it; beside it
	// lie the pings behind, which were read with the one that found the socket full.
	if per := queued / int64(count); per > 1024 {
		r.fault("%d bytes queued for each flooding client", per)
	}
	peak = r.peak(n, func(s *stats) int64 { return s.Pooled - st.Pooled })
	for range count {
		a.add(attacker{kind: "pings without end", open: true, deaf: true, flood: pings(64)})
	}
	a.wait()
	a.cutAt("pings without end", "", 0, r.row.limit)
	r.note("%d clients each; queued at most %d B each, then %d", count, queued/int64(count), peak()/int64(count))
	now, err := n.stats()
	r.must(err)
	// Which it is depends on what is full first, the socket or the second.
	if abuse, slow := now.Closes["1008"]-st.Closes["1008"], now.Slow-st.Slow; abuse+slow < 2*uint64(count) {
		r.fault("%d closed with 1008 and %d as slow, of %d that flooded", abuse, slow, 2*count)
	}
	b.end(50*time.Millisecond, 200*time.Millisecond)
	b.f.finish(b.p)
}

// storm: the one too many is told so, and those who are in notice nothing.
func storm(r *run) {
	most := r.long(1000, 300)
	n := r.node("a", "--max-connections", strconv.Itoa(most))
	n.waitReady()
	b := r.bystanders(n, false)
	a := r.attack(n)
	held := most - bystanderClients
	for range held {
		a.add(attacker{kind: "holds a place", open: true})
	}
	r.within(time.Now(), 20*time.Second, "all places taken", func() bool {
		s, err := n.stats()
		return err == nil && s.Current == most
	})
	b.f.watch()
	over := r.peak(n, func(s *stats) int64 { return int64(s.Current) })
	many := 10 * most
	s := r.start("stress", r.odin, "stress", "--url", n.url(), "--connections", strconv.Itoa(many), "--duration", "60s", "--processes", "1",
		"--rate", "0", "--in-flight", "2000", "--expect", "0", "--expect-errors", fmt.Sprintf(`{"http_503": %d}`, many))
	began := time.Now()
	r.within(began, 60*time.Second, "the storm over", func() bool { return !s.alive() })
	took := time.Since(began)
	d, deliveries := b.f.watched()
	if s.err != nil {
		r.fault("not everyone beyond the limit was told 503: %s", s.tail())
	}
	if p := over(); p > int64(most) {
		r.fault("%d connections at once, the limit is %d", p, most)
	}
	limit := r.forgive(50 * time.Millisecond)
	if d > limit || deliveries == 0 {
		r.fault("99 %% of %d deliveries within %v, limit %v", deliveries, d, limit)
	}
	// The next come at once when places are free.
	at := time.Now()
	a.hangUp("holds a place")
	b.v = r.visit(n, 25)
	r.recovered(r.within(at, r.row.limit, "visitors let in", func() bool { return b.v.done.Load() >= 10 }))
	b.v.forgive() // those who came while the places were being freed
	b.f.watch()
	time.Sleep(2 * time.Second)
	r.note("%d attempts in %.1f s, all 503; p99 of %d deliveries meanwhile %.1f ms (limit 50)", many, took.Seconds(), deliveries, ms(d))
	b.end(50*time.Millisecond, 200*time.Millisecond)
	b.f.finish(b.p)
}

// peak looks at /stats, ten times a second, until the function it returns is
// called, which returns the most there was.
func (r *run) peak(n *node, of func(*stats) int64) func() int64 {
	quit, most := make(chan struct{}), make(chan int64)
	go func() {
		var m int64
		for {
			select {
			case <-quit:
				most <- m
				return
			case <-time.After(100 * time.Millisecond):
			}
			if s, err := n.stats(); err == nil {
				m = max(m, of(&s))
			}
		}
	}()
	return func() int64 {
		close(quit)
		return <-most
	}
}
