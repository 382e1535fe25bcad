//go:build linux

package main

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"
)

// noFiles: out of descriptors a node neither spins nor goes silent.
func noFiles(r *run) {
	n := r.nodeAt([]string{"prlimit", "--nofile=1024:1024"}, "a", r.free(), r.free())
	n.waitReady()
	b := r.bystanders(n, false)
	a := r.attack(n)
	st, err := n.stats()
	r.must(err)
	r.want(st.Max < 1024, "%d connections with 1024 descriptors", st.Max)
	// Everyone who fits, then those who don't: some want in, some say nothing.
	for range st.Max - bystanderClients {
		a.add(attacker{kind: "holds a place", open: true})
	}
	for range 1500 {
		a.add(attacker{kind: "wants in", first: []byte(n.head())})
	}
	for range 1500 {
		a.add(attacker{kind: "silent"})
	}
	b.f.watch()
	before, began := n.cpu(), time.Now()
	slowest := r.healthy(n, time.Duration(r.long(5, 3))*time.Second, http.StatusOK)
	used := float64(n.cpu()-before) / float64(time.Since(began))
	d, deliveries := b.f.watched()
	fds := n.descriptors()
	r.note("%d connections, %d descriptors: %.0f %% of a core, /healthz within %.0f ms, p99 of %d deliveries %.1f ms", st.Max, fds, 100*used, ms(slowest), deliveries, ms(d))
	r.want(deliveries > 0, "nothing was delivered")
	if used > 0.5 {
		r.fault("%.0f %% of a core with nothing to do", 100*used)
	}
	r.recovered(slowest)
	a.hangUp("wants in")
	a.hangUp("silent")
	for last := 0; last != n.descriptors(); time.Sleep(500 * time.Millisecond) {
		last = n.descriptors()
	}

	// None left: the limit is lowered to the first number that is free, but for what
	// the store's files leave now and then. Who comes is refused with the one kept
	// for that, and told why.
	r.sh("prlimit", "--pid", strconv.Itoa(n.pid()), fmt.Sprintf("--nofile=%d:", n.firstFree()))
	before, began = n.cpu(), time.Now()
	slowest = r.healthy(n, 3*time.Second, http.StatusServiceUnavailable, http.StatusOK)
	const comers = 200
	a2 := r.attack(n)
	for range comers {
		a2.add(attacker{kind: "comes without a descriptor left", first: []byte(n.head())})
	}
	time.Sleep(2 * time.Second)
	a2.hangUp("")
	if told := a2.endedBy("503"); told < comers*3/4 {
		r.fault("%d of %d that came without a descriptor left were told 503", told, comers)
	}
	used = float64(n.cpu()-before) / float64(time.Since(began))
	if used > 0.5 {
		r.fault("%.0f %% of a core without a descriptor left", 100*used)
	}
	r.sh("prlimit", "--pid", strconv.Itoa(n.pid()), "--nofile=1024:")
	at := time.Now()
	r.recovered(r.within(at, r.row.limit, "/healthz 200", func() bool { return n.health() == http.StatusOK }))
	st, err = n.stats()
	r.must(err)
	if st.AcceptRefused == 0 {
		r.fault("nobody was refused with the reserve descriptor")
	}
	r.note("with none left: %.0f %% of a core, an answer within %.0f ms, %d refused so", 100*used, ms(slowest), st.AcceptRefused)
	a.hangUp("")
	b.stayed(0)
	b.f.finish(b.p)
}

// healthy asks /healthz for a while, and returns how long the slowest answer took.
func (r *run) healthy(n *node, d time.Duration, want ...int) (slowest time.Duration) {
	asked, silent := 0, 0
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		at := time.Now()
		status := n.health()
		slowest = max(slowest, time.Since(at))
		asked++
		if status == 0 && len(want) > 1 {
			silent++ // on a busy machine a refusal may come before the request
		} else if !slices.Contains(want, status) {
			r.fault("/healthz: %d after %v, want %v", status, time.Since(at), want)
			return slowest
		}
	}
	if silent > asked/5 {
		r.fault("/healthz: no answer to %d of %d", silent, asked)
	}
	if slowest > time.Second {
		r.fault("/healthz took %v", slowest)
	}
	return slowest
}

// health is the status of /healthz, 0 for no answer.
func (n *node) health() int {
	resp, err := web.Get("http://" + n.addr + "/healthz")
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// firstFree is the lowest number that is no open descriptor of the process.
func (p *proc) firstFree() int {
	for i := 0; ; i++ {
		if _, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/%d", p.pid(), i)); err != nil {
			return i
		}
	}
}

// descriptors is how many the process has open.
func (p *proc) descriptors() int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid()))
	p.r.must(err)
	return len(list)
}
