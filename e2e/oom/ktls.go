//go:build linux

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/odin-ws/odin/internal/selfsigned"
)

// ktlsScenario is the name by which the machine knows it.
const ktlsScenario = "ktls"

// secure is one way of the public port.
type secure struct {
	name string
	args []string
}

// ktls measures what TLS costs a connection and a frame, its records done by the
// process and by the kernel, beside a plain port; and checks what is delivered.
func (r *rig) ktls() (string, []string) {
	const n, quiet, fed = 1000, 4 * time.Second, 15 * time.Second
	var b strings.Builder
	var faults []string
	b.WriteString("| port | connections | RSS a connection | machine's slab a connection, both ends | server CPU a frame | against plain | ledger of 40 |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |\n")
	cert, key, err := selfsigned.Write(r.tmp, "odin", 24*time.Hour)
	if err != nil {
		return "", []string{"ktls: " + err.Error()}
	}
	plain := 0.0
	for _, way := range []secure{
		{"plain", nil},
		{"own records", []string{"--tls-cert", cert, "--tls-key", key}},
		{"kernel's records", []string{"--tls-cert", cert, "--tls-key", key, "--tls-kernel", "auto"}},
	} {
		o, err := r.measureTLS(way, n, quiet, fed)
		if err != nil {
			faults = append(faults, "ktls, "+way.name+": "+err.Error())
			continue
		}
		if plain == 0 {
			plain = o.frame
		}
		ledger := "empty"
		if o.fault != "" {
			ledger = "FAULT"
			faults = append(faults, "ktls, "+way.name+": "+o.fault)
		}
		line := fmt.Sprintf("| %s | %d | %d B | %d B | %.1f µs | %.2f | %s |\n", way.name, n, o.rss, o.slab, o.frame*1e6, o.frame/plain, ledger)
		r.say("%s", line)
		b.WriteString(line)
	}
	return b.String(), faults
}

// tlsCost is what measureTLS finds.
type tlsCost struct {
	rss, slab int64   // bytes a connection; the kernel's contexts are charged to no group
	frame     float64 // seconds of the server's CPU
	fault     string
}

func (r *rig) measureTLS(way secure, n int, quiet, fed time.Duration) (o tlsCost, err error) {
	g, err := newGroup(r.v2, "ktls", 1<<30)
	if err != nil {
		return o, err
	}
	defer func() { _ = g.remove() }()
	s, err := r.serve(g, "ktls", append(way.args, r.serveArgs...)...)
	if err != nil {
		return o, err
	}
	defer s.stop()
	time.Sleep(quiet)
	rss, slab := residentBytes(s.cmd.Process.Pid), slabBytes()
	st, err := r.stress(s, n, time.Hour, append([]string{"--channel", "stress.0"}, r.stressArgs...)...)
	if err != nil {
		return o, err
	}
	defer func() { _, _ = st.end() }()
	for end := time.Now().Add(6 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		if now, err := s.stats(); err == nil && now.Current == n && now.Subscriptions == n {
			break
		}
		if time.Now().After(end) {
			return o, fmt.Errorf("not all %d connected", n)
		}
	}
	time.Sleep(quiet)
	o.rss, o.slab = (residentBytes(s.cmd.Process.Pid)-rss)/int64(n), (slabBytes()-slab)/int64(n)
	before, err := s.stats()
	if err != nil {
		return o, err
	}
	cpu := cpuSeconds(s.cmd.Process.Pid)
	p := s.publish(1, 1, 150, 700*time.Millisecond)
	time.Sleep(fed)
	p.end()
	time.Sleep(3 * time.Second)
	after, err := s.stats()
	if err != nil {
		return o, err
	}
	frames := after.MessagesOut - before.MessagesOut
	if frames < int64(5*n) {
		return o, fmt.Errorf("%d frames to %d clients", frames, n)
	}
	o.frame = (cpuSeconds(s.cmd.Process.Pid) - cpu) / float64(frames)
	if _, err := st.end(); err != nil {
		return o, err
	}
	if err := r.ledger(s); err != nil {
		o.fault = err.Error()
	}
	switch t := after.TLS; {
	case way.args == nil && t != nil, way.args != nil && t == nil:
		o.fault = "the port is not as asked for"
	case t != nil && t.KernelRecords > 0 && len(way.args) == 4, t != nil && t.OwnRecords > 10 && len(way.args) == 6:
		o.fault = fmt.Sprintf("records: %d the kernel's, %d own", t.KernelRecords, t.OwnRecords)
	case t != nil && t.BadRecords > 0:
		o.fault = fmt.Sprintf("%d bad records", t.BadRecords)
	}
	return o, nil
}

// ledger checks what 40 clients are given of messages of several records.
func (r *rig) ledger(s *server) error {
	st, err := r.stress(s, 40, 30*time.Second, "--rate", "4", "--settle", "10s",
		"--check", "--publish-rate", "3", "--publish-size", "9000", "--admin-addr", s.admin, "--expect", "40")
	if err != nil {
		return err
	}
	res, err := st.wait()
	if err == nil && !res.OK {
		err = fmt.Errorf("stress: %v", res.Unmet)
	}
	return err
}

// slabBytes is the kernel's memory for objects, all of the machine's.
func slabBytes() int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "Slab: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}

// residentBytes is a process's resident memory.
func residentBytes(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, resident int64
	_, _ = fmt.Sscan(string(b), &size, &resident)
	return resident * int64(os.Getpagesize())
}

// cpuSeconds is what a process has used, user and system, in hundredths.
func cpuSeconds(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	var user, system int64
	_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	return float64(user+system) / 100
}
