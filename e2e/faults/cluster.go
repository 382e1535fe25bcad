//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// leader asks for the server that leads the stream.
func (r *run) leader(url string) string {
	var name string
	r.within(time.Now(), 20*time.Second, "a leader of the stream known", func() bool {
		nc, err := nats.Connect(url, nats.Timeout(2*time.Second))
		if err != nil {
			return false
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, "ODIN")
		if err != nil || s.CachedInfo().Cluster == nil || s.CachedInfo().Cluster.Leader == "" {
			return false
		}
		// All replicas must be there and current, or the one killed is the last.
		for _, p := range s.CachedInfo().Cluster.Replicas {
			if p.Offline || !p.Current {
				return false
			}
		}
		if len(s.CachedInfo().Cluster.Replicas) != 2 {
			return false
		}
		name = s.CachedInfo().Cluster.Leader
		return true
	})
	return name
}

func killLeader(r *run) {
	var routes, urls []string
	for range 3 {
		routes = append(routes, r.free())
		urls = append(urls, r.free())
	}
	var brokers []*broker
	for i := range 3 {
		brokers = append(brokers, r.brokerLater(fmt.Sprintf("nats-%d", i), urls[i], fmt.Sprintf(
			"cluster { name: c, listen: %q, routes: [nats://%s] }\n", routes[i], strings.Join(routes, ", nats://"))))
	}
	for _, b := range brokers {
		b.waitUp()
	}
	url := "nats://" + strings.Join(urls, ",nats://")
	n := []*node{r.node("a", "--nats-url", url), r.node("b", "--nats-url", url)}
	waitReady(n...)
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: loadClients, urls: rotate(n...), channels: some(chs, 2), from: r.seed(n[0], chs)})
	p := r.publish(n, chs, loadRate, loadSize)
	for range r.long(3, 1) {
		time.Sleep(time.Second)
		name := r.leader(url)
		i := slices.IndexFunc(brokers, func(b *broker) bool { return b.name == name })
		r.want(i >= 0, "the leader is %q", name)
		at := time.Now()
		brokers[i].kill()
		d := f.recovers(p, at, at, r.row.limit)
		r.say("%s led and was killed; well again after %.1f s", name, d.Seconds())
		brokers[i].restart()
		brokers[i].waitUp()
	}
	f.finish(p)
}

// alone starts three nodes whose embedded servers are the cluster.
func (r *run) alone() (nodes []*node, urls []string) {
	var routes []string
	for range 3 {
		routes = append(routes, r.free())
		urls = append(urls, r.free())
	}
	for i := range 3 {
		name := fmt.Sprintf("node-%d", i)
		file := filepath.Join(r.dir, name+".nats.conf")
		r.must(os.WriteFile(file, fmt.Appendf(nil, "server_name: %s\nlisten: %q\ncluster { name: odin, listen: %q, routes: [nats://%s] }\n",
			name, urls[i], routes[i], strings.Join(routes, ", nats://")), 0o644))
		nodes = append(nodes, r.node(name, "--nats-config", file))
	}
	waitReady(nodes...)
	return nodes, urls
}

func threeAlone(r *run) {
	n, urls := r.alone()
	chs := channels(loadChannels)
	f := r.fleet(fleetOptions{n: loadClients, urls: rotate(n...), channels: some(chs, 2), from: r.seed(n[0], chs)})
	p := r.publish(n, chs, loadRate, loadSize)
	at := func(name string) int { return slices.IndexFunc(n, func(x *node) bool { return x.name == name }) }
	url := "nats://" + strings.Join(urls, ",nats://")
	step := func(what string, i int, end func()) {
		time.Sleep(time.Second)
		began := time.Now()
		end()
		d := f.recovers(p, began, began, r.row.limit)
		r.say("%s (%s): well again after %.1f s", what, n[i].name, d.Seconds())
		n[i].restart()
		n[i].waitReady()
		r.leader(url) // all replicas are current again
	}
	lead := at(r.leader(url))
	r.want(lead >= 0, "no node leads")
	i := (lead + 1) % 3
	step("one killed that doesn't lead", i, n[i].kill)
	i = (at(r.leader(url)) + 1) % 3
	step("one drained", i, func() {
		n[i].signal(syscall.SIGTERM)
		n[i].ends(time.Now(), 10*time.Second)
	})
	i = at(r.leader(url))
	step("the leader killed", i, n[i].kill)
	f.finish(p)
}

// proxy starts HAProxy with the configuration that is shipped.
func (r *run) proxy(nodes []*node, maxconn int) string {
	addr := r.free()
	p := r.start("haproxy", "env", "ODIN_BIND="+addr, "ODIN_1="+nodes[0].addr, "ODIN_2="+nodes[1].addr, "ODIN_3="+nodes[2].addr,
		fmt.Sprintf("ODIN_MAXCONN=%d", maxconn), r.haproxy, "-db", "-f", r.cfg)
	r.within(time.Now(), 20*time.Second, "HAProxy up", func() bool {
		r.want(p.alive(), "HAProxy ended: %s", p.tail())
		resp, err := web.Get("http://" + addr + "/ws") // no handshake: 426, by a node
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == 426
	})
	return "ws://" + addr + "/ws"
}

func rolling(r *run) {
	drain := time.Duration(r.long(10, 4)) * time.Second
	b := r.broker("nats", "", "")
	var n []*node
	for _, name := range []string{"a", "b", "c"} {
		n = append(n, r.node(name, "--nats-url", b.url(), "--drain", drain.String(), "--trusted-proxy", "127.0.0.1/32"))
	}
	waitReady(n...)
	url := r.proxy(n, 9000)
	chs := channels(loadChannels)
	clients := r.long(5000, 600)
	f := r.fleet(fleetOptions{
		n: clients, channels: some(chs, 1), from: r.seed(n[0], chs),
		urls: func(int) []string { return []string{url} },
	})
	// Each client has one of eight channels. All of this runs on one machine, with
	// HAProxy in between: what is shown is the spread, not the throughput.
	p := r.publish(n, chs, r.long(6, 20), loadSize)
	time.Sleep(time.Second)
	worst, worstCame := 0.0, 0.0
	for _, x := range n {
		st, err := x.stats()
		r.must(err)
		f.mu.Lock()
		f.back, f.asked = f.back[:0], f.asked[:0]
		f.mu.Unlock()
		at := time.Now()
		x.signal(syscall.SIGTERM)
		took := x.ends(at, drain+5*time.Second)
		exit := time.Now()
		d := f.recovers(p, exit, exit, r.row.limit)
		// How even: in each second, against the mean over the drain. What the node and
		// the client decide is when to come back; when they do come is also the
		// scheduler's doing on a machine that stands still now and then.
		f.mu.Lock()
		perSecond := func(ts []time.Time) []int {
			out := make([]int, 1)
			for _, t := range ts {
				i := max(0, int(t.Sub(at).Seconds()))
				for len(out) <= i {
					out = append(out, 0)
				}
				out[i]++
			}
			return out
		}
		seconds, came := perSecond(f.asked), perSecond(f.back)
		moved := len(f.back)
		f.mu.Unlock()
		mean := float64(moved) / drain.Seconds()
		peak := slices.Max(seconds)
		worst = max(worst, float64(peak)/mean)
		worstCame = max(worstCame, float64(slices.Max(came))/mean)
		r.say("%s had %d clients, exit after %.1f s; %d reconnects, due in each second %v (peak %.2f × mean), made %v; well again %.2f s after the exit",
			x.name, st.Current, took.Seconds(), moved, seconds, float64(peak)/mean, came, d.Seconds())
		if moved < st.Current*9/10 {
			r.fault("%s had %d clients, and %d reconnected", x.name, st.Current, moved)
		}
		for _, y := range n {
			if y != x {
				st, err := y.stats()
				r.must(err)
				r.say("%s: %d late ticks, since its start", y.name, st.LateTicks)
			}
		}
		if float64(peak) > 2*mean {
			r.fault("%s: %d reconnects due in one second, the mean is %.0f: %v (this process was not run for up to %v)", x.name, peak, mean, seconds, r.stalls.worst(at))
		}
		x.restart()
		x.waitReady()
		time.Sleep(1500 * time.Millisecond) // two health checks of HAProxy's
	}
	r.note("peak second of reconnects %.2f × mean when due, %.2f × mean when made", worst, worstCame)
	f.finish(p)
}
