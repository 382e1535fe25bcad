package gateway

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The model test turns two shards by hand over netpolltest's kernel, one random
// step after another, and compares every byte that every client's socket took
// with what a plain model of the stream says it must be.
//
//	go test -run TestModel ./gateway                      # about 20 s of seeds
//	go test -run TestModel ./gateway -model.seed=1234 -v  # one again, with its steps
//	ODIN_MODEL_TIME=10m go test -run TestModel ./gateway  # longer
var modelSeed = flag.Uint64("model.seed", 0, "run this seed of TestModel only, and print its steps")

func TestModel(t *testing.T) {
	if *modelSeed != 0 {
		runSeed(t, *modelSeed, testing.Verbose(), make(map[string]int))
		return
	}
	limit, first := 20*time.Second, uint64(1)
	if testing.Short() {
		limit = 2 * time.Second
	}
	if s := os.Getenv("ODIN_MODEL_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		limit = d
		first = uint64(time.Now().UnixNano()) // longer runs look elsewhere
	}
	seen := make(map[string]int)
	n := 0
	for end := time.Now().Add(limit); time.Now().Before(end); n++ {
		if !runSeed(t, first+uint64(n), false, seen) {
			return
		}
	}
	seen["learned"] = int(learned.Load())
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		t.Logf("%-28s %d", k, seen[k])
	}
	t.Logf("%d seeds", n)
	if n < 400 {
		return // too few to have seen everything, as on a busy machine
	}
	for _, k := range []string{
		"gap slow", "gap evicted", "gap epoch", "entry gap broker", "entry gap invalid", "entry gap epoch",
		"entry stale", "entry live", "told stale", "frame split", "unsub mid-frame", "cut", "peer reset", "peer closed",
		"stale event", "recovered", "not recovered", "wildcard message", "chunk pinned and trimmed", "descriptor reused",
		"skipped", "replayed", "replay with a gap", "evicted", "told how it is", "learned", "bad_position", "epoch changed", "lost", "add failed",
		"deflated", "deflated skip", "deflated split", "as it is where it could be deflated", "deflated command",
	} {
		if seen[k] == 0 {
			t.Errorf("no seed ever saw: %s", k)
		}
	}
}

// runSeed runs one seed; a failure prints it.
func runSeed(t *testing.T, seed uint64, verbose bool, seen map[string]int) (ok bool) {
	t.Helper()
	w := newWorld(t, seed, seen)
	w.verbose = verbose
	defer func() {
		if p := recover(); p != nil {
			tail := w.trace[max(0, len(w.trace)-60):]
			stack := ""
			if _, ours := p.(modelFailure); !ours {
				stack = "\n" + string(debug.Stack())
			}
			// All steps go to a file, because a seed doesn't always fail again: the
			// order of maps in the hub isn't the seed's.
			file := filepath.Join(os.TempDir(), fmt.Sprintf("odin-model-%d.txt", seed))
			if err := os.WriteFile(file, []byte(strings.Join(w.trace, "\n")), 0o644); err != nil {
				file = err.Error()
			}
			t.Errorf("seed %d, step %d: %v\nthe last steps (all: %s):\n  %s%s\nagain: go test -run 'TestModel$' ./gateway -model.seed=%d", seed, w.step, p, file, strings.Join(tail, "\n  "), stack, seed)
			ok = false
		}
		w.discard()
	}()
	w.run()
	return true
}

// modelFailure is what a check panics with.
type modelFailure string

func (w *world) failf(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if len(s) > 2500 {
		s = s[:2000] + " … " + s[len(s)-200:]
	}
	panic(modelFailure(s))
}

func (w *world) say(format string, args ...any) {
	line := strconv.Itoa(w.step) + " " + fmt.Sprintf(format, args...)
	w.trace = append(w.trace, line)
	if w.verbose {
		w.t.Log(line)
	}
}

// chance is true n times of 100.
func (w *world) chance(n int) bool { return w.rng.IntN(100) < n }

func pick[T any](rng *rand.Rand, s []T) T { return s[rng.IntN(len(s))] }

func (w *world) run() {
	if w.chance(80) {
		w.open(false)
	}
	steps := 200 + w.rng.IntN(1000)
	for w.step = 1; w.step <= steps; w.step++ {
		w.op()
		if w.step%20 == 0 {
			w.invariants()
		}
	}
	w.quiesce()
	w.closeAll()
}

// op takes one random step.
func (w *world) op() {
	live := w.living()
	n := w.rng.IntN(1000)
	switch {
	case n < 25 && len(live) < w.maxClients || len(live) == 0:
		w.connect()
	case n < 130:
		w.command(pick(w.rng, live))
	case n < 260:
		w.arrive(pick(w.rng, live))
	case n < 520:
		w.publish()
	case n < 530:
		w.publishInvalid()
	case n < 536:
		w.publishLate()
	case n < 545:
		w.toggleBroker()
	case n < 549:
		w.newEpoch()
	case n < 550:
		w.evict()
	case n < 560:
		w.tickHub()
	case n < 680:
		w.room(pick(w.rng, live))
	case n < 684:
		w.squeeze(pick(w.rng, live))
	case n < 686:
		if !w.down {
			w.churn()
		}
	case n < 694:
		w.leave(pick(w.rng, live))
	case n < 715:
		w.tick()
	case n < 740:
		w.deflate()
	case n < 850:
		w.events(w.rng.IntN(len(w.loops)))
	default:
		w.mail(w.rng.IntN(len(w.loops)))
	}
	w.settlePool()
	w.readAll()
}

// quiesce lets everything happen that is still to happen, and checks that
// everybody has everything.
func (w *world) quiesce() {
	w.say("quiesce")
	if w.down {
		w.open(false)
	}
	w.rest()
}

// rest is quiesce with the broker as it is.
func (w *world) rest() {
	for _, c := range w.clients { // also those that have finished their side
		c.sock.SetMaxWrite(0)
		c.sock.SetRoom(1 << 40)
	}
	for range 100_000 {
		busy := false
		for i := range w.loops {
			w.events(i)
			w.settlePool()
			busy = w.mail(i) || busy
			w.settlePool()
			busy = w.deflate() || busy
		}
		for _, c := range w.living() {
			if len(c.toSend) > 0 {
				c.sock.Send(c.toSend)
				c.toSend, busy = nil, true
			}
		}
		w.readAll()
		for i, l := range w.loops {
			busy = busy || l.Pending()
			if len(w.g.shards[i].retries) > 0 && !w.down || len(w.g.shards[i].gated) > 0 {
				// A read of the past waits to be repeated, or a conflated channel for
				// its time.
				busy = true
				w.clock += tick.Milliseconds()
				l.Tick(1)
				w.settlePool()
			}
		}
		if !busy {
			w.invariants()
			for _, c := range w.living() {
				c.checkComplete()
			}
			return
		}
	}
	w.failf("the shards never come to rest")
}

// closeAll ends every connection, one way or another, and checks that nothing
// of them is left.
func (w *world) closeAll() {
	w.say("close all")
	for range 4 {
		for _, c := range w.living() {
			w.leave(c)
		}
		for i := range w.loops {
			for w.loops[i].Pending() {
				w.events(i)
				w.settlePool()
				w.mail(i)
				w.settlePool()
			}
		}
		w.readAll()
	}
	// Those told goodbye that don't answer, those who finished and take nothing.
	for range 150 {
		w.tick()
		for i := range w.loops {
			for w.loops[i].Pending() {
				w.events(i)
				w.settlePool()
				w.mail(i)
				w.settlePool()
			}
		}
		w.readAll()
	}
	w.nothingLeft()
}
