//go:build linux

package main

import (
	"fmt"
	"maps"
	"time"
)

// exact is the gate to the connection, in a 512 MiB group with the first
// generation's cost model: 2184.
func (r *rig) exact() (lines []string, faults []string) {
	const places = 2184
	fail := func(err error) ([]string, []string) { return lines, append(faults, "exact: "+err.Error()) }
	g, err := newGroup(r.v2, "exact", 512*mib)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = g.remove() }()
	s, err := r.serve(g, "exact", "--capacity-profile", "goroutine")
	if err != nil {
		return fail(err)
	}
	defer s.stop()
	judge := func(what string, res result, connected int, refused int64) {
		want := map[string]int64{}
		if refused > 0 {
			want["http_503"] = refused
		}
		verdict := "as it must be"
		if res.Connected != connected || !maps.Equal(res.Errors, want) {
			verdict = fmt.Sprintf("FAULT: want %d, %v", connected, want)
			faults = append(faults, fmt.Sprintf("exact: %s: %d connected, errors %v", what, res.Connected, res.Errors))
		}
		lines = append(lines, fmt.Sprintf("| %s | %d | %v | %s |", what, res.Connected, res.Errors, verdict))
		r.say("exact: %s: %d connected, errors %v: %s", what, res.Connected, res.Errors, verdict)
	}
	settle := func(n int) {
		for t := time.Now(); time.Since(t) < 20*time.Second; time.Sleep(50 * time.Millisecond) {
			if st, err := s.stats(); err == nil && st.Current == n {
				return
			}
		}
		st, _ := s.stats()
		faults = append(faults, fmt.Sprintf("exact: %d connections, want %d", st.Current, n))
	}
	offer := func(n int, d time.Duration, args ...string) (*stress, error) {
		return r.stress(s, n, d, append([]string{"--no-subscribe"}, args...)...)
	}
	for _, c := range []struct {
		n, in int
		args  []string
	}{
		{places, places, nil},
		{places + 1, places, nil},
		{10_000, places, []string{"--rate", "0", "--processes", "5"}},
	} {
		st, err := offer(c.n, 15*time.Second, c.args...)
		if err != nil {
			return fail(err)
		}
		res, err := st.wait()
		if err != nil {
			return fail(err)
		}
		judge(fmt.Sprintf("%d offered", c.n), res, c.in, int64(c.n-c.in))
		settle(0)
	}
	a, err := offer(places-100, time.Hour)
	if err != nil {
		return fail(err)
	}
	defer func() { _, _ = a.end() }()
	settle(places - 100)
	b, err := offer(100, time.Hour)
	if err != nil {
		return fail(err)
	}
	settle(places)
	step := func(what string, n, in int) error {
		st, err := offer(n, 4*time.Second, "--rate", "0", "--processes", "3")
		if err != nil {
			return err
		}
		res, err := st.wait()
		if err != nil {
			return err
		}
		judge(what, res, in, int64(n-in))
		return nil
	}
	if err := step("full, 300 offered", 300, 0); err != nil {
		return fail(err)
	}
	if _, err := b.end(); err != nil {
		return fail(err)
	}
	settle(places - 100)
	if err := step("100 of them gone, 300 offered", 300, 100); err != nil {
		return fail(err)
	}
	if _, err := a.end(); err != nil {
		return fail(err)
	}
	s.stop()
	more, f, err := r.waiting(g, places)
	lines, faults = append(lines, more...), append(faults, f...)
	if err != nil {
		return fail(err)
	}
	if n, err := g.kills(); err != nil || n != 0 {
		faults = append(faults, fmt.Sprintf("exact: %d OOM kills, %v", n, err))
	}
	return lines, faults
}

// waiting is the same gateway with --admission-wait 5s: a caller for whom there is
// no place waits that long for one, in a room of bounded size, and then has the
// 503. (The first generation did so without a bound.)
func (r *rig) waiting(g *group, places int) (lines []string, faults []string, err error) {
	const wait, free = 5 * time.Second, 100
	s, err := r.serve(g, "exact-wait", "--capacity-profile", "goroutine", "--admission-wait", wait.String())
	if err != nil {
		return nil, nil, err
	}
	defer s.stop()
	hold := func(n int) (*stress, error) {
		return r.stress(s, n, time.Hour, "--no-subscribe")
	}
	settle := func(n int) error {
		for t := time.Now(); time.Since(t) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
			if st, err := s.stats(); err == nil && st.Current == n {
				return nil
			}
		}
		return fmt.Errorf("never %d connections", n)
	}
	a, err := hold(places - free)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _, _ = a.end() }()
	b, err := hold(free)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _, _ = b.end() }()
	if err := settle(places); err != nil {
		return nil, nil, err
	}
	// offer lets n come at once and reports how many waited at most, after how
	// long the first and the last were refused, and what became of all.
	offer := func(n int, during func() error) (most int, first, last time.Duration, res result, err error) {
		before, err := s.stats()
		if err != nil {
			return 0, 0, 0, res, err
		}
		began := time.Now()
		st, err := r.stress(s, n, wait+4*time.Second, "--no-subscribe", "--rate", "0", "--in-flight", "0")
		if err != nil {
			return 0, 0, 0, res, err
		}
		told, refused := during == nil, before.Reject["503"]
		for time.Since(began) < wait+3*time.Second {
			now, err := s.stats()
			if err != nil {
				continue
			}
			most = max(most, now.Waiting)
			if n := now.Reject["503"]; n > refused {
				if refused, last = n, time.Since(began); first == 0 {
					first = last
				}
			}
			if !told && time.Since(began) > 2*time.Second {
				told = true
				if err := during(); err != nil {
					return most, first, last, res, err
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		res, err = st.wait()
		return most, first, last, res, err
	}
	near := func(d, want time.Duration) bool {
		return d > want-300*time.Millisecond && d < want+1500*time.Millisecond
	}
	judge := func(what string, ok bool, want string, most int, first, last time.Duration, res result) {
		verdict := "as it must be"
		if !ok {
			verdict = "FAULT: want " + want
			faults = append(faults, fmt.Sprintf("exact: %s: %d waited, refused after %v to %v, %d connected, errors %v; want %s", what, most, first, last, res.Connected, res.Errors, want))
		}
		line := fmt.Sprintf("| %s | %d | %v (after %.1f to %.1f s; %d waited) | %s |", what, res.Connected, res.Errors, first.Seconds(), last.Seconds(), most, verdict)
		lines = append(lines, line)
		r.say("exact: %s", line)
	}

	most, first, last, res, err := offer(300, func() error { _, err := b.end(); return err })
	if err != nil {
		return lines, faults, err
	}
	judge("`--admission-wait 5s`: full, 300 wait, 100 places are freed after 2 s",
		res.Connected == free && maps.Equal(res.Errors, map[string]int64{"http_503": 200}) && most == 300 && near(first, wait) && near(last, wait),
		"100 in, 200 refused after 5 s", most, first, last, res)
	if err := settle(places - free); err != nil {
		return lines, faults, err
	}
	if b, err = hold(free); err != nil {
		return lines, faults, err
	}
	if err := settle(places); err != nil {
		return lines, faults, err
	}
	const room, many = 455, 1000 // by the handshakes' share of the overhead, a third of it for who waits: 8 MiB / 6 KiB / 3
	most, first, last, res, err = offer(many, nil)
	if err != nil {
		return lines, faults, err
	}
	judge(fmt.Sprintf("the same, full, %d offered; the room has %d", many, room),
		res.Connected == 0 && maps.Equal(res.Errors, map[string]int64{"http_503": many}) && most == room && first < 2*time.Second && near(last, wait),
		fmt.Sprintf("%d wait for 5 s, the others are refused at once", room), most, first, last, res)
	return lines, faults, nil
}
