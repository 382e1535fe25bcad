//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"time"
)

// p99 measures the delays of a fleet's measured members for a while.
func (f *fleet) p99(d time.Duration) (time.Duration, int) {
	f.watch()
	time.Sleep(d)
	return f.watched()
}

// watch begins to measure; watched ends it.
func (f *fleet) watch() {
	f.mu.Lock()
	f.delays = f.delays[:0]
	f.mu.Unlock()
	f.measure.Store(true)
}

func (f *fleet) watched() (p99 time.Duration, n int) {
	f.measure.Store(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.delays)
	if len(f.delays) == 0 {
		return 0, 0
	}
	return time.Duration(f.delays[len(f.delays)*99/100]), len(f.delays)
}

func halfSlow(r *run) {
	n := r.node("a")
	n.waitReady()
	chs := channels(4)
	from := r.seed(n, chs)
	clients := 40
	slow := r.fleet(fleetOptions{n: clients, urls: rotate(n), channels: some(chs, 2), from: from, wrap: true, rcvbuf: 4096, maxBackoff: 3 * time.Second,
		slow: func(i int) bool { return i%2 == 0 }})
	f := r.fleet(fleetOptions{n: clients, urls: rotate(n), channels: some(chs, 2), from: from})
	f.before = slow.before
	p := r.publish([]*node{n}, chs, 200, 800)
	whole := func() {
		now := time.Now()
		next := p.next(now)
		seq := <-next
		r.within(now, 60*time.Second, "the slow back and given all", func() bool {
			return slow.all(func(m *member) bool { return m.up.Load() && m.page.Last() >= seq })
		})
	}
	var a, b []time.Duration
	span := time.Duration(r.long(6, 5)) * time.Second
	for range r.long(12, 3) {
		whole()
		da, na := f.p99(span)
		for _, m := range slow.members {
			m.slow.Store(true)
		}
		time.Sleep(500 * time.Millisecond)
		db, nb := f.p99(span)
		for _, m := range slow.members {
			m.slow.Store(false)
		}
		r.say("p99 of the others: all read %v (%d), half read 1 B/s %v (%d)", da, na, db, nb)
		a, b = append(a, da), append(b, db)
	}
	whole()
	slices.Sort(a)
	slices.Sort(b)
	ma, mb := a[len(a)/2], b[len(b)/2]
	st, err := n.stats()
	r.must(err)
	cut, conflated := st.SlowBy["cut"]+st.SlowBy["evict"], st.SlowBy["conflate"]
	r.note("p99 %.2f ms → %.2f ms (medians of %d), %d cut, %d times conflated", ms(ma), ms(mb), len(a), cut, conflated)
	// A millisecond is what the machine's scheduler moves by itself.
	if mb > ma+ma/10 && mb > ma+time.Millisecond {
		r.fault("the others' p99 went from %v to %v", ma, mb)
	}
	r.want(cut > 0, "no slow client was cut: %v", st.SlowBy)
	f.members = append(f.members, slow.members...)
	f.finish(p)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func flatOut(r *run) {
	n := r.node("a")
	n.waitReady()
	chs := channels(4)
	f := r.fleet(fleetOptions{n: 24, urls: rotate(n), channels: some(chs, 1), from: r.seed(n, chs), wrap: true})
	for i, m := range f.members {
		if i%3 == 0 {
			m.pause.Store(int64(2 * time.Millisecond)) // takes at most 500 a second
		}
	}
	p := r.publish([]*node{n}, chs, 0, 300)
	time.Sleep(time.Duration(r.long(10, 3)) * time.Second)
	r.within(time.Now(), 60*time.Second, "somebody too slow", func() bool {
		st, err := n.stats()
		return err == nil && st.SlowBy["cut"] > 0
	})
	p.stop(20 * time.Second)
	for _, m := range f.members {
		m.pause.Store(0)
	}
	at := time.Now()
	q := r.publish([]*node{n}, chs, 20, 300)
	f.recovers(q, at, at, r.row.limit)
	st, err := n.stats()
	r.must(err)
	r.note("%d cut as slow (4101 or reset)", st.SlowBy["cut"])
	f.finish(p, q)
}

func burst(r *run) {
	b := r.broker("nats", "", "")
	n := []*node{r.node("a", "--nats-url", b.url()), r.node("b", "--nats-url", b.url())}
	waitReady(n...)
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: 40, urls: rotate(n...), channels: some(chs, 2), from: r.seed(n[0], chs)})
	p := r.publish(n, chs, 20, loadSize)
	time.Sleep(2 * time.Second)
	before := p.acked.Load()
	p.rate.Store(2000)
	began := time.Now()
	time.Sleep(time.Duration(r.long(10, 5)) * time.Second)
	p.rate.Store(20)
	at := time.Now()
	rate := float64(p.acked.Load()-before) / at.Sub(began).Seconds()
	d := f.recovers(p, at, at, r.row.limit)
	r.note("20 → %.0f messages a second", rate)
	if rate < 1000 {
		r.fault("the burst had only %.0f messages a second", rate)
	}
	r.say("well again %.2f s after the burst", d.Seconds())
	f.finish(p)
}

// stress starts `odin stress`: clients that don't resume, in a process that can be
// stopped.
func (r *run) stress(n *node, connections int, channel string) (*proc, int) {
	p := r.start("stress", r.odin, "stress", "--url", n.url(), "--connections", fmt.Sprint(connections),
		"--duration", "30m", "--channel", channel, "--rate", "3000", "--json", "--processes", "1")
	// Each is attempted once, and on a machine that stands still for seconds some
	// attempts fail. What counts is how many are there then.
	most, since := 0, time.Now()
	r.within(time.Now(), 90*time.Second, "all connected", func() bool {
		s, err := n.stats()
		r.want(p.alive(), "stress ended: %s", p.tail())
		if err == nil && s.Current > most {
			most, since = s.Current, time.Now()
		}
		return most >= connections || most >= connections*9/10 && time.Since(since) > 5*time.Second
	})
	r.row.clients += most
	return p, most
}

func drain(r *run) { r.drain(false) }

func drainStopped(r *run) { r.drain(true) }

func (r *run) drain(stopped bool) {
	over := time.Duration(r.long(20, 5)) * time.Second
	want := r.long(10000, 3000)
	n := r.node("a", "--drain", over.String())
	n.waitReady()
	from := r.seed(n, []string{"fault.c0"})
	s, clients := r.stress(n, want, "fault.c0")
	p := r.publish([]*node{n}, []string{"fault.c0"}, 5, 100)
	time.Sleep(time.Second)
	if stopped {
		s.signal(syscall.SIGSTOP)
		r.atEnd(func() { s.signal(syscall.SIGCONT) })
	} else {
		p.stop(5 * time.Second)
	}
	at := time.Now()
	n.signal(syscall.SIGTERM)
	// The admin port answers until the end.
	perSecond := make([]int, int(over.Seconds())+10)
	last := clients
	for n.alive() && time.Since(at) < 2*over+20*time.Second {
		var st stats
		resp, err := web.Get("http://" + n.admin + "/stats")
		if err == nil {
			if resp.StatusCode == http.StatusOK && json.NewDecoder(resp.Body).Decode(&st) == nil && st.Current < last {
				perSecond[min(int(time.Since(at).Seconds()), len(perSecond)-1)] += last - st.Current
				last = st.Current
			}
			_ = resp.Body.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := n.ends(at, r.row.limit)
	r.recovered(took)
	perSecond[min(int(took.Seconds()), len(perSecond)-1)] += last
	mean := float64(clients) / over.Seconds()
	peak := slices.Max(perSecond)
	r.note("drain over %.0f s, exit after %.1f s", over.Seconds(), took.Seconds())
	r.say("closed in each second: %v", perSecond[:int(took.Seconds())+1])
	if n.cmd.ProcessState.ExitCode() != 0 {
		// Who can't be told goodbye is cut: that is what the exit code says.
		r.note("exit code %d", n.cmd.ProcessState.ExitCode())
		if !stopped {
			r.fault("exit code %d: %s", n.cmd.ProcessState.ExitCode(), n.tail())
		}
	}
	if !stopped {
		r.note("peak second %.2f × mean", float64(peak)/mean)
		if float64(peak) > 2*mean {
			r.fault("%d closed in one second, the mean is %.0f: %v", peak, mean, perSecond)
		}
	}
	p.stop(0)
	r.row.acked = p.acked.Load() + uint64(len(from))
}

func resetAll(r *run) {
	n := r.node("a")
	n.waitReady()
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: r.long(3000, 500), urls: rotate(n), channels: some(chs, 1), from: r.seed(n, chs), wrap: true})
	p := r.publish([]*node{n}, chs, 20, loadSize)
	time.Sleep(time.Second)
	at := time.Now()
	for _, m := range f.members {
		m.reset()
	}
	r.within(at, 10*time.Second, "all resets noticed", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.errors["network"] >= len(f.members)
	})
	d := f.recovers(p, at, at, r.row.limit)
	r.say("well again %.2f s after", d.Seconds())
	f.finish(p)
}

func stoppedClients(r *run) {
	n := r.node("a")
	n.waitReady()
	chs := channels(2)
	from := r.seed(n, chs)
	f := r.fleet(fleetOptions{n: 30, urls: rotate(n), channels: some(chs, 1), from: from, wrap: true})
	s, _ := r.stress(n, r.long(3000, 600)+30, chs[0]) // the clients of f are connected, too
	p := r.publish([]*node{n}, chs, 50, 300)
	time.Sleep(time.Second)
	// Their process is stopped; the resuming ones, in this process, stop reading.
	at := time.Now()
	s.signal(syscall.SIGSTOP)
	for _, m := range f.members {
		m.blocked.Store(true)
	}
	p.rate.Store(0) // flat out
	d := r.within(at, r.row.limit, "all that don't read cut", func() bool {
		st, err := n.stats()
		return err == nil && st.Current == 0
	})
	r.recovered(d)
	st, err := n.stats()
	r.must(err)
	p.rate.Store(50)
	for _, m := range f.members {
		m.blocked.Store(false)
	}
	s.signal(syscall.SIGCONT)
	s.kill()
	r.note("cut: %v", st.SlowBy)
	now := time.Now()
	seq := <-p.next(now)
	r.within(now, 60*time.Second, "the resuming ones back and given all", func() bool {
		return f.all(func(m *member) bool { return m.up.Load() && m.page.Last() >= seq })
	})
	f.finish(p)
}
