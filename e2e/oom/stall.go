//go:build linux

package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/odin-ws/odin/internal/selfsigned"
)

const mib = 1 << 20

// scenario is one run: N clients, a feed, all stop reading.
type scenario struct {
	name    string
	limit   int64         // of the group, bytes
	args    []string      // of serve
	want    int           // what the formula must give
	more    float64       // a control: N is this many times the formula's, and the sum must be passed
	lie     int64         // a control: what the server is told its limit is
	tls     bool          // the port speaks TLS, its records made by the process
	connect time.Duration // in which all must have connected; less is taken if they are sooner
	fed     time.Duration // they read for so long, all connected
	hold    time.Duration // stalled for so long, at most

	// What is published once they have stopped reading: flat out, unless pause
	// says otherwise. Slow enough and no client is too far behind: then nothing
	// but the backlog budget keeps every socket from filling.
	pause time.Duration
	size  int
}

// row is a line of the table.
type row struct {
	name                     string
	limit                    int64
	n, connected, open       int
	working, sock, sum, full int64 // at the sum's peak
	groupPeak                int64
	kills                    int64
	cut                      int64
	back                     time.Duration // until memory was back, after the last cut
	again                    int           // admitted afterwards
	fed, sent                int64
	why                      map[string]int64
	faults                   []string
}

// watch samples a group and a port every 100 ms, or as the rig says.
type watch struct {
	g      *group
	port   uint16
	object int64 // of a socket, not charged to the group

	mu      sync.Mutex
	now     row
	peak    row
	samples int
	err     error
	quit    chan struct{}
	wait    sync.WaitGroup
}

func (g *group) watch(port uint16, every time.Duration) *watch {
	w := &watch{g: g, port: port, quit: make(chan struct{})}
	if !g.v2 {
		w.object = socketStruct()
	}
	w.sample()
	w.wait.Go(func() {
		for tick := time.NewTicker(max(every, 100*time.Millisecond)); ; {
			select {
			case <-tick.C:
				w.sample()
			case <-w.quit:
				return
			}
		}
	})
	return w
}

func (w *watch) sample() {
	u, err := w.g.usage()
	now := row{working: u.working, sock: u.sock, sum: u.working, full: u.working}
	if err == nil && !w.g.v2 {
		var s sockets
		s, err = socketMemory(w.port)
		now.sock = s.memory
		now.sum = u.working + s.memory
		now.full = now.sum + int64(s.n)*w.object
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = err
		return
	}
	w.samples++
	w.now = now
	if now.sum > w.peak.sum {
		w.peak = now
	}
}

func (w *watch) current() row { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *watch) end() { close(w.quit); w.wait.Wait() }

func (r *rig) stall(sc scenario) (out row) {
	out = row{name: sc.name, limit: sc.limit, why: map[string]int64{}}
	fault := func(format string, a ...any) {
		out.faults = append(out.faults, fmt.Sprintf(format, a...))
		r.say("%s: FAULT "+format, append([]any{sc.name}, a...)...)
	}
	g, err := newGroup(r.v2, sc.name, sc.limit)
	if err != nil {
		fault("%v", err)
		return out
	}
	defer func() {
		if err := g.remove(); err != nil {
			fault("%v", err)
		}
	}()
	control := sc.more > 0
	n, args := sc.want, slices.Concat(r.serveArgs, sc.args)
	if control {
		n = int(float64(sc.want) * sc.more)
		args = append([]string{
			"--memory-limit", fmt.Sprint(sc.lie), "--backlog", fmt.Sprint(sc.lie / 2),
			"--max-connections", fmt.Sprint(n), "--send-queue", "4096", "--slow-timeout", "5m", "--ping", "5m",
		}, args...)
	}
	load := r.stressArgs
	if sc.tls {
		cert, key, err := selfsigned.Write(r.tmp, "odin", 24*time.Hour)
		if err != nil {
			fault("%v", err)
			return out
		}
		args = append(args, "--tls-cert", cert, "--tls-key", key)
		load = []string{"--rate", "300", "--in-flight", "32"} // fewer than the server takes handshakes
	}
	s, err := r.serve(g, sc.name, args...)
	if err != nil {
		fault("%v", err)
		return out
	}
	defer s.stop()
	w := g.watch(s.port, r.look)
	defer func() {
		if w != nil {
			w.end()
		}
	}()
	st, err := s.stats()
	if err != nil {
		fault("/stats: %v", err)
		return out
	}
	out.n = st.Max
	if st.Max != n {
		fault("the formula gives %d, not %d", st.Max, n)
	}
	r.say("%s: limit %s, %d connections; empty: working set %s", sc.name, size(sc.limit), st.Max, size(w.current().working))

	// Connect all; what follows must be within the run.
	began := time.Now()
	total := sc.connect + sc.fed + sc.hold + 30*time.Second
	cl, err := r.stress(s, st.Max, total, append([]string{
		"--channel", "stress.0", "--rcvbuf", "4KiB", "--timeout", "2m",
	}, load...)...)
	if err != nil {
		fault("%v", err)
		return out
	}
	ended := false
	defer func() {
		if !ended {
			_, _ = cl.end()
		}
	}()
	for said := began; time.Since(began) < sc.connect && s.alive() && st.Current < n; {
		time.Sleep(max(r.look, 250*time.Millisecond))
		if time.Since(said) > 20*time.Second {
			said = time.Now()
			r.say("%s: %d of %d connected", sc.name, st.Current, n)
		}
		if now, err := s.stats(); err == nil {
			st = now
		}
	}
	out.connected = st.Current
	idle := w.current()
	r.say("%s: %d connected after %s; working set %s, sockets %s, sum %s", sc.name, st.Current, time.Since(began).Round(time.Second/10), size(idle.working), size(idle.sock), size(idle.full))

	// A feed while they read, until they stop.
	feed := s.publish(1, 1, 150, r.feedPause)
	for t := time.Now(); time.Since(t) < sc.fed && s.alive(); {
		time.Sleep(100 * time.Millisecond)
	}
	feed.end()
	out.fed = feed.sent
	before := w.current()
	if st, err = s.stats(); err == nil {
		out.open = st.Current
		if st.Current < n && !control {
			fault("%d of %d connected when the stall began", st.Current, n)
		}
	}
	fedPeak := w.peakNow()
	r.say("%s: %d messages fed, %d connected; working set %s, sockets %s; peak so far %s", sc.name, out.fed, st.Current, size(before.working), size(before.sock), size(fedPeak.full))

	// All stop reading; publish flat out.
	cl.stall()
	batch, length, pause := 200, 1000, r.flatPause
	if sc.pause > 0 {
		batch, length, pause = 1, sc.size, sc.pause
	}
	flat := s.publish(1, batch, length, pause)
	stallBegan, lastCut, cutAll := time.Now(), time.Time{}, false
	last := st.Current
	for time.Since(stallBegan) < sc.hold && s.alive() {
		time.Sleep(200 * time.Millisecond)
		if now, err := s.stats(); err == nil {
			st = now
			if st.Current < last {
				last, lastCut = st.Current, time.Now()
			}
			if cutAll = st.Current == 0; cutAll && !control {
				break
			}
		}
		if control && w.peakNow().sum > sc.limit {
			break
		}
	}
	flat.end()
	out.sent = flat.sent
	p := w.peakNow()
	out.working, out.sock, out.sum, out.full = p.working, p.sock, p.sum, p.full
	out.cut = st.Slow + st.Evicted
	maps.Copy(out.why, st.Closes)
	out.groupPeak = g.peak()
	if out.kills, err = g.kills(); err != nil {
		fault("%v", err)
	}
	r.say("%s: %d left after %s, %d published meanwhile; slow %d, evicted %d, held back %d, closes %v; peak working %s + sockets %s = %s (with socket structures %s); OOM kills %d",
		sc.name, st.Current, time.Since(stallBegan).Round(time.Second/10), out.sent, st.Slow, st.Evicted, st.Held, st.Closes,
		size(p.working), size(p.sock), size(p.sum), size(p.full), out.kills)
	if !s.alive() {
		r.say("%s: the server ended: %v", sc.name, s.err)
	}

	if control {
		if out.kills == 0 && out.sum <= sc.limit {
			fault("a control must pass the limit or be killed, and was not: the rig proves nothing")
		}
		return out
	}
	switch {
	case !s.alive():
		b, _ := os.ReadFile(s.log)
		fault("the server ended: %v\n%s", s.err, lastLines(string(b), 20))
		return out
	case out.kills != 0:
		fault("%d OOM kills", out.kills)
	}
	if out.sum > sc.limit {
		fault("usage + sockets %s > limit %s", size(out.sum), size(sc.limit))
	} else if out.full > sc.limit {
		fault("usage + sockets + socket structures %s > limit %s", size(out.full), size(sc.limit))
	}
	if w.err != nil {
		fault("sampling: %v", w.err)
	}
	if !cutAll {
		fault("%d laggards are still connected %s after they stopped reading", st.Current, time.Since(stallBegan).Round(time.Second))
	}

	// Memory returns and admission resumes, within 10 s of the last cut. Back is
	// what idle connections were: no more than before they were fed.
	back := false
	for time.Since(lastCut) < 10*time.Second {
		if c := w.current(); c.sock <= 2*mib && c.full <= max(idle.full, sc.limit*3/4) {
			back, out.back = true, time.Since(lastCut)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	c := w.current()
	r.say("%s: %s after the last cut: working set %s, sockets %s", sc.name, time.Since(lastCut).Round(time.Second/10), size(c.working), size(c.sock))
	if !back {
		fault("10 s after the last cut: working set %s, sockets %s (idle with all connected: %s)", size(c.working), size(c.sock), size(idle.full))
	}
	// The stalled clients hold on to descriptors of theirs until they are ended.
	res, err := cl.end()
	ended = true
	if err != nil {
		fault("%v", err)
	} else {
		r.say("%s: clients: %d connected, errors %v, ended %v, ended while stalled %v, %d messages, %d gaps", sc.name, res.Connected, res.Errors, res.Ended, res.Stalled, res.Messages, res.Gaps)
		out.connected = res.Connected
		if res.Connected != n {
			fault("%d of %d connected: %v", res.Connected, n, res.Errors)
		}
	}
	again := min(n, r.again)
	more, err := r.stress(s, again, sc.connect, append([]string{"--channel", "stress.1", "--timeout", "1m"}, load...)...)
	if err != nil {
		fault("%v", err)
		return out
	}
	for t := time.Now(); time.Since(t) < sc.connect && out.again < again && s.alive(); time.Sleep(100 * time.Millisecond) {
		if st, err := s.stats(); err == nil {
			out.again = max(out.again, st.Current)
		}
	}
	if res, err = more.end(); err != nil {
		fault("%v", err)
	} else if res.Connected != again {
		fault("afterwards %d of %d connected: %v", res.Connected, again, res.Errors)
	}
	out.again = res.Connected
	r.say("%s: admitted again: %d of %d", sc.name, out.again, again)
	return out
}

func (w *watch) peakNow() row { w.mu.Lock(); defer w.mu.Unlock(); return w.peak }

func size(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/mib) }

func lastLines(s string, n int) string {
	l := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(l[max(len(l)-n, 0):], "\n")
}

func table(v2 bool, rows []row) string {
	var b strings.Builder
	full, grp := "+ structures", "usage's high-water mark"
	if v2 {
		full, grp = "as charged", "memory.peak"
	}
	fmt.Fprintf(&b, "| scenario | limit | N | stalled | working set | sockets | sum | %s | %s | OOM kills | cut (by code) | back after | admitted again | verdict |\n", full, grp)
	b.WriteString("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |\n")
	for _, o := range rows {
		var why []string
		for _, k := range slices.Sorted(maps.Keys(o.why)) {
			why = append(why, fmt.Sprintf("%s: %d", k, o.why[k]))
		}
		verdict := "held"
		if strings.Contains(o.name, "control") {
			verdict = "failed, as it must"
		}
		if len(o.faults) > 0 {
			verdict = "**FAULT** " + strings.ReplaceAll(strings.Join(o.faults, "; "), "\n", " ")
			verdict = verdict[:min(len(verdict), 300)]
		}
		back, again := "–", "–"
		if o.back > 0 {
			back = o.back.Round(100 * time.Millisecond).String()
		}
		if o.again > 0 {
			again = fmt.Sprint(o.again)
		}
		sum := size(o.sum)
		if v2 {
			sum = "(in the set)"
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %s | %s | %s | %s | %s | %d | %s | %s | %s | %s |\n",
			o.name, size(o.limit), o.n, o.open, size(o.working), size(o.sock), sum, size(o.full), size(o.groupPeak), o.kills,
			strings.Join(why, ", "), back, again, verdict)
	}
	return b.String()
}
