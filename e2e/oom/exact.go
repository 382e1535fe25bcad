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
	if n, err := g.kills(); err != nil || n != 0 {
		faults = append(faults, fmt.Sprintf("exact: %d OOM kills, %v", n, err))
	}
	return lines, faults
}
