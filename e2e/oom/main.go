//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// rig is what the scenarios share.
type rig struct {
	odin       string // the binary
	tmp        string
	v2         bool
	feedPause  time.Duration
	flatPause  time.Duration // between batches, flat out
	serveArgs  []string
	stressArgs []string
	again      int           // connections offered once memory is back
	look       time.Duration // between readings; 0: 100 ms for memory, 250 ms for /stats
}

func (r *rig) say(format string, a ...any) {
	fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", a...)
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: oom v1|vm|ktls|guest [flags]; see doc.go")
		os.Exit(2)
	}
	if os.Args[1] == "join" {
		err := join(os.Args[2], os.Args[3:])
		fmt.Fprintln(os.Stderr, "join:", err)
		os.Exit(1)
	}
	fs := flag.NewFlagSet("oom", flag.ExitOnError)
	odin := fs.String("odin", "bin/odin", "the binary under test, static")
	only := fs.String("only", "", "only these scenarios, comma-separated")
	out := fs.String("out", "", "write the tables to this file too, faults and all; vm: after each scenario")
	more := fs.Bool("append", false, "add to --out instead of replacing it")
	tmp := fs.String("tmp", "", "directory for logs and data; default: a temporary one")
	kernel := fs.String("kernel", "", "vm, ktls: a Debian linux-image package, or where one is unpacked; default: apt-get download")
	_ = fs.Parse(os.Args[2:])
	r := &rig{again: 15000}
	err := r.main(os.Args[1], *odin, *only, *out, *tmp, *kernel, *more)
	if err != nil {
		fmt.Fprintln(os.Stderr, "oom:", err)
		os.Exit(1)
	}
}

func (r *rig) main(mode, odin, only, out, tmp, kernel string, more bool) (err error) {
	if r.odin, err = filepath.Abs(odin); err != nil {
		return err
	}
	if _, err = os.Stat(r.odin); err != nil {
		return err
	}
	ours := ""
	if r.tmp = tmp; tmp == "" {
		if r.tmp, err = os.MkdirTemp("", "odin-oom-"); err != nil {
			return err
		}
		ours = r.tmp
		defer os.RemoveAll(ours)
	}
	raiseFiles()
	onInterrupt(ours)
	wanted := func(name string) bool {
		if only == "" {
			return true
		}
		for p := range strings.SplitSeq(only, ",") {
			if name == p {
				return true
			}
		}
		return false
	}
	before := "" // what out keeps
	if more {
		b, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		before = string(b) + "\n"
	}
	head := r.head(mode)
	write := func(text string) error {
		if out == "" {
			return nil
		}
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		return os.WriteFile(out, []byte(before+head+"\n"+text), 0o644)
	}
	var text string
	var faults []string
	switch mode {
	case "v1":
		r.feedPause, r.stressArgs = 500*time.Millisecond, []string{"--rate", "1500"}
		text, faults = r.run(v1, wanted, wanted("exact"))
	case "guest":
		r.v2, r.feedPause, r.stressArgs = true, 15*time.Second, []string{"--rate", "0", "--in-flight", "64"} // each process; fewer than the server takes handshakes
		r.serveArgs, r.flatPause = []string{"--ping", "5m", "--heartbeat", "10m"}, 500*time.Millisecond
		r.again, r.look = 2000, time.Second
		if only == ktlsScenario {
			text, faults = r.ktls()
			break
		}
		text, faults = r.run(v2, wanted, false)
	case "ktls":
		text, faults, err = r.machine(kernel, ktlsScenario)
		if err != nil {
			faults = append(faults, err.Error())
		}
	case "vm":
		// Each in a machine of its own: what one leaves behind is not the next
		// one's, and what held is written.
		for _, sc := range v2 {
			if !wanted(sc.name) {
				continue
			}
			one, f, err := r.machine(kernel, sc.name)
			if err != nil {
				f = append(f, sc.name+": "+err.Error())
			}
			text, faults = addTable(text, one), append(faults, f...)
			if err := write(text); err != nil {
				return err
			}
		}
		if text == "" && len(faults) == 0 {
			faults = append(faults, "no scenario has such a name: nothing was run")
		}
	default:
		return fmt.Errorf("no mode %q", mode)
	}
	if mode == "guest" {
		for l := range strings.Lines(text) {
			fmt.Print(markTable + l)
		}
		for _, f := range faults {
			fmt.Println(markFault + strings.ReplaceAll(f, "\n", " "))
		}
		return nil
	}
	fmt.Printf("\n%s\n%s\n", head, text)
	for _, f := range faults {
		fmt.Println("FAULT", f)
	}
	// A table with a fault in it says so.
	if err := write(text); err != nil || len(faults) == 0 {
		return err
	}
	return fmt.Errorf("%d faults", len(faults))
}

// addTable adds one machine's table to those before, under one head.
func addTable(all, one string) string {
	if all == "" {
		return one
	}
	n := 0
	for line := range strings.Lines(one) {
		if strings.HasPrefix(line, "|") {
			if n++; n > 2 {
				all += line
			}
		}
	}
	return all
}

// small is for a group in which the default overhead leaves next to nothing:
// (96 − 48 − 12) MiB / 6 KiB = 6144.
var small = []string{"--runtime-overhead", "48MiB", "--backlog", "12MiB"}

// v1 are the scenarios here: descriptors are 20 000 a process, so N is at most
// 15 000, and the group is as small as that.
var v1 = []scenario{
	{name: "246MiB", limit: 246 * mib, want: 14890, connect: 60 * time.Second, fed: 15 * time.Second, hold: 60 * time.Second},
	{name: "246MiB-steady", limit: 246 * mib, want: 14890, connect: 60 * time.Second, fed: 15 * time.Second, hold: 60 * time.Second, pause: 200 * time.Millisecond, size: 3500},
	{name: "96MiB", limit: 96 * mib, args: small, want: 6144, connect: 40 * time.Second, fed: 15 * time.Second, hold: 60 * time.Second},
	{name: "96MiB-steady", limit: 96 * mib, args: small, want: 6144, connect: 40 * time.Second, fed: 15 * time.Second, hold: 60 * time.Second, pause: 200 * time.Millisecond, size: 3500},
	{name: "96MiB-tls", limit: 96 * mib, args: small, want: 4224, tls: true, connect: 60 * time.Second, fed: 15 * time.Second, hold: 60 * time.Second},
	{name: "96MiB-control", limit: 96 * mib, want: 6144, more: 1.5, lie: 4096 * mib, connect: 40 * time.Second, fed: 5 * time.Second, hold: 60 * time.Second},
}

// v2 are those in the machine, where everything takes thirty times as long. Pings
// and heartbeats to tens of thousands of clients, which have no part in what they
// hold, would take more than both its processors; so they are put off.
var v2 = []scenario{
	{name: "96MiB", limit: 96 * mib, args: small, want: 6144, connect: 8 * time.Minute, fed: 30 * time.Second, hold: 120 * time.Second},
	{name: "96MiB-control", limit: 96 * mib, want: 6144, more: 1.5, lie: 4096 * mib, connect: 8 * time.Minute, fed: 5 * time.Second, hold: 120 * time.Second},
	{name: "256MiB", limit: 256 * mib, want: 16384, connect: 12 * time.Minute, fed: 30 * time.Second, hold: 5 * time.Minute},
	{name: "512MiB", limit: 512 * mib, want: 54613, connect: 40 * time.Minute, fed: 45 * time.Second, hold: 10 * time.Minute},
	{name: "512MiB-steady", limit: 512 * mib, want: 54613, connect: 40 * time.Minute, fed: 45 * time.Second, hold: 10 * time.Minute, pause: time.Second, size: 3500},
}

func (r *rig) run(all []scenario, wanted func(string) bool, exact bool) (string, []string) {
	var rows []row
	var faults []string
	var b strings.Builder
	for _, sc := range all {
		if wanted(sc.name) {
			o := r.stall(sc)
			rows = append(rows, o)
			for _, f := range o.faults {
				faults = append(faults, sc.name+": "+strings.ReplaceAll(f, "\n", "\n      "))
			}
		}
	}
	if len(rows) > 0 {
		b.WriteString(table(r.v2, rows))
	} else if !exact {
		faults = append(faults, "no scenario has such a name: nothing was run")
	}
	if exact {
		lines, f := r.exact()
		faults = append(faults, f...)
		b.WriteString("\nA 512 MiB group, `--capacity-profile goroutine`:\n\n| offered | connected | errors | |\n| --- | ---: | --- | --- |\n")
		b.WriteString(strings.Join(lines, "\n") + "\n")
	}
	return b.String(), faults
}

func (r *rig) head(mode string) string {
	v, _ := exec.Command(r.odin, "--version").Output()
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	what := "cgroup v1, Linux " + string(release) + "; sums are the working set (usage less inactive file pages) plus the memory of the server's own sockets, every 100 ms"
	if mode == "vm" || mode == "ktls" {
		what = "cgroup v2 in an emulated machine (qemu, tcg, 2 CPUs); its OOM killer is the judge"
	}
	return fmt.Sprintf("# make e2e-%s\n\n%s, %s.\n%s.\n", map[string]string{"v1": "oom", "vm": "vm", "ktls": "ktls", "guest": "vm (inside)"}[mode],
		strings.TrimSpace(string(v)), time.Now().UTC().Format("2006-01-02 15:04 UTC"), what)
}

func raiseFiles() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}
