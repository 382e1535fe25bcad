//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/odin-ws/odin/internal/ledger"
)

// run is one scenario under way. Its methods are for the scenario's goroutine;
// say and fault for any.
type run struct {
	*rig
	row  row
	book *ledger.Ledger
	dir  string
	undo []func() // in reverse order at the end

	began  time.Time
	nodes  []*node // all that were started
	stalls *stalls

	mu sync.Mutex // guards row.faults
}

// errAborted is the panic that ends a scenario that can't go on.
var errAborted = errors.New("aborted")

// play runs a scenario and checks the book.
func (g *rig) play(s scenario, interrupted <-chan os.Signal) row {
	load, _ := os.ReadFile("/proc/loadavg")
	before, _, _ := strings.Cut(string(load), " ")
	r := &run{rig: g, row: row{scenario: s, when: time.Now().UTC().Format("2006-01-02 15:04") + ", load " + before}, book: ledger.New(), dir: filepath.Join(g.tmp, s.name)}
	r.began = time.Now()
	r.stalls = watchStalls()
	defer close(r.stalls.stop)
	r.say("%s", s.fault)
	if s.root && os.Geteuid() != 0 {
		r.fault("needs root")
		return r.row
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.clean()
		defer func() {
			e := recover()
			if err, ok := e.(error); e != nil && !(ok && errors.Is(err, errAborted)) {
				panic(e)
			}
		}()
		r.must(os.RemoveAll(r.dir)) // a store from before would be gone on with
		r.must(os.MkdirAll(r.dir, 0o755))
		s.run(r)
	}()
	select {
	case <-done:
	case <-interrupted:
		// Children die with this process; what outlives it is undone here.
		r.row.interrupted = true
		r.clean()
		return r.row
	}
	r.row.took = time.Since(r.began)
	if w := r.stalls.worst(r.began); w > 0 {
		r.say("this process was not run for up to %.2f s at a time", w.Seconds())
		r.row.when += fmt.Sprintf(", stood still for up to %.1f s", w.Seconds())
	}
	verdict := "held"
	if len(r.row.faults) > 0 {
		verdict = "FAULT " + strings.Join(r.row.faults, "; ")
		r.say("logs and data are in %s", r.dir)
	} else {
		_ = os.RemoveAll(r.dir)
	}
	r.say("%d clients, %d acked, %d delivered, %d gaps, well again after %.1f s (limit %s): %s [%.0f s in all]",
		r.row.clients, r.row.acked, r.row.delivered, r.row.gaps, r.row.recovered.Seconds(), s.limit, verdict, r.row.took.Seconds())
	return r.row
}

func (r *run) clean() {
	for i := len(r.undo) - 1; i >= 0; i-- {
		r.undo[i]()
	}
	r.undo = nil
}

// atEnd has f called when the scenario has ended, in reverse order.
func (r *run) atEnd(f func()) { r.undo = append(r.undo, f) }

func (r *run) say(format string, a ...any) {
	fmt.Printf("%s %s: %s\n", time.Now().Format("15:04:05"), r.row.name, fmt.Sprintf(format, a...))
}

// fault fails the scenario; it goes on.
func (r *run) fault(format string, a ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.row.faults) < 20 {
		r.row.faults = append(r.row.faults, fmt.Sprintf(format, a...))
	}
}

func (r *run) note(format string, a ...any) {
	r.row.notes = append(r.row.notes, fmt.Sprintf(format, a...))
}

// must ends the scenario on an error.
func (r *run) must(err error) {
	if err != nil {
		r.fault("%v", err)
		panic(errAborted)
	}
}

// want ends the scenario if ok is false.
func (r *run) want(ok bool, format string, a ...any) {
	if !ok {
		r.must(fmt.Errorf(format, a...))
	}
}

// within waits for a condition until a deadline measured from since, and returns
// how long after since it held. Past it, the scenario waits on, up to four times
// as long, to tell late from never.
func (r *run) within(since time.Time, limit time.Duration, what string, ok func() bool) time.Duration {
	for {
		if ok() {
			d := time.Since(since)
			if d > limit {
				r.fault("%s after %.1f s, limit %s", what, d.Seconds(), limit)
			}
			return d
		}
		if time.Since(since) > max(4*limit, limit+30*time.Second) {
			r.must(fmt.Errorf("not %s after %.0f s, limit %s", what, time.Since(since).Seconds(), limit))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// recovered notes how long it took; of several times the longest counts.
func (r *run) recovered(d time.Duration) {
	r.row.timed = true
	r.row.recovered = max(r.row.recovered, d)
}

// free is an address nobody listens on, below the range of outgoing ones.
func (r *run) free() string {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	r.must(errors.New("no free port"))
	return ""
}

// channels are n names.
func channels(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("fault.c%d", i)
	}
	return out
}
