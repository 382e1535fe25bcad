//go:build linux

package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scenario is one fault.
type scenario struct {
	name  string
	fault string        // in the table's words
	limit time.Duration // until all is well again, from the fault or from its end
	fast  bool          // among those CI runs
	root  bool
	run   func(r *run)
}

// rig is what all scenarios share. Static after main's flags.
type rig struct {
	odin, nats, haproxy string // binaries
	cfg                 string // haproxy.cfg
	source              string // the checkout, to build a binary with a mistake in it
	tmp                 string
	fast                bool
	hostile             bool
	churn               time.Duration // how long clients come and go in churn
	list                []scenario    // those of this table
}

func main() {
	g := &rig{}
	only := flag.String("only", "", "only these scenarios, comma-separated")
	out := flag.String("out", "", "write the table to this file too; with --only, rows of others that it has stay")
	list := flag.Bool("list", false, "list the scenarios")
	tmp := flag.String("tmp", "", "directory for logs and data; default: a temporary one")
	flag.BoolVar(&g.hostile, "hostile", false, "what clients break, instead of what is around the binary")
	flag.DurationVar(&g.churn, "churn", 5*time.Minute, "how long clients come and go in the scenario churn; for the record 1h")
	flag.StringVar(&g.source, "source", ".", "the checkout, of which panics builds a binary with mistakes")
	flag.BoolVar(&g.fast, "fast", false, "the short form, and only those scenarios that have one")
	flag.StringVar(&g.odin, "odin", "bin/odin", "the binary under test")
	flag.StringVar(&g.nats, "nats-server", "bin/nats-server", "nats-server (make builds it)")
	flag.StringVar(&g.haproxy, "haproxy", "haproxy", "haproxy (Debian: apt-get install haproxy)")
	flag.StringVar(&g.cfg, "haproxy-cfg", "deploy/haproxy/haproxy.cfg", "its configuration")
	flag.Parse()
	g.list = scenarios
	if g.hostile {
		g.list = hostileScenarios
	}
	if *list {
		for _, s := range g.list {
			fast := ""
			if s.fast {
				fast = "(also fast) "
			}
			if s.root {
				fast += "(root) "
			}
			fmt.Printf("%-16s %s%s\n", s.name, fast, s.fault)
		}
		return
	}
	if err := g.main(*only, *out, *tmp); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

func (g *rig) main(only, out, tmp string) (err error) {
	for _, p := range []*string{&g.odin, &g.nats, &g.cfg, &g.source} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if _, err := os.Stat(g.odin); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	if g.tmp = tmp; tmp == "" {
		if g.tmp, err = os.MkdirTemp("", "odin-faults-"); err != nil {
			return err
		}
		defer os.RemoveAll(g.tmp)
	}
	raiseFiles()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	var names []string
	if only != "" {
		names = strings.Split(only, ",")
	}
	var rows []row
	ran := map[string]bool{}
	for _, s := range g.list {
		if len(names) > 0 && !slices.Contains(names, s.name) || g.fast && !s.fast && len(names) == 0 {
			continue
		}
		ran[s.name] = true
		rows = append(rows, g.play(s, interrupted))
		if rows[len(rows)-1].interrupted {
			return fmt.Errorf("interrupted in %s", s.name)
		}
	}
	for _, n := range names {
		if !ran[n] {
			return fmt.Errorf("no scenario %q (--list)", n)
		}
	}
	text := g.head() + "\n" + table(rows)
	fmt.Print("\n" + text)
	failed := 0
	for _, r := range rows {
		for _, f := range r.faults {
			fmt.Printf("FAULT %s: %s\n", r.name, f)
		}
		if len(r.faults) > 0 {
			failed++
		}
	}
	if out != "" {
		old := ""
		if only != "" {
			b, _ := os.ReadFile(out) // none: nothing to keep
			old = string(b)
		}
		if err := os.WriteFile(out, []byte(merge(g.list, old, text)), 0o644); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d scenarios failed", failed, len(rows))
	}
	return nil
}

func (g *rig) head() string {
	v, _ := exec.Command(g.odin, "--version").Output()
	var u syscall.Utsname
	_ = syscall.Uname(&u)
	var release []byte
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	target := "e2e-faults"
	if g.hostile {
		target = "e2e-hostile"
	}
	form := ""
	if g.fast {
		form = " --fast"
	}
	cpus, _ := exec.Command("nproc").Output()
	return fmt.Sprintf("# make %s%s\n\n%s, Linux %s, %s CPUs, shared.\nWhat is checked in each, and why: [operations-faults.md](../operations-faults.md).\n",
		target, form, strings.TrimSpace(string(v)), release, strings.TrimSpace(string(cpus)))
}

// row is a scenario's result.
type row struct {
	scenario
	clients          int
	acked, delivered uint64
	refused          uint64
	gaps, told       uint64
	recovered        time.Duration
	timed            bool
	before, after    usage
	notes            []string
	faults           []string
	took             time.Duration
	when             string
	interrupted      bool
}

func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| scenario | fault | clients | acked (refused, repeated) | delivered | gaps (messages told of) | well again | limit | MB, descriptors, goroutines before → after | | verdict | run |\n")
	b.WriteString("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | --- | --- |\n")
	for _, r := range rows {
		verdict := "held"
		if len(r.faults) > 0 {
			verdict = "**FAULT** " + strings.ReplaceAll(strings.Join(r.faults, "; "), "\n", " ")
			verdict = strings.ReplaceAll(verdict[:min(len(verdict), 400)], "|", "/")
		}
		recovered, limit := "–", "–"
		if r.timed {
			recovered = fmt.Sprintf("%.1f s", r.recovered.Seconds())
		}
		if r.limit > 0 {
			limit = fmt.Sprintf("%.0f s", r.limit.Seconds())
		}
		use := "–"
		if r.before.nodes > 0 {
			use = fmt.Sprintf("%.0f → %.0f, %d → %d, %d → %d", r.before.mb, r.after.mb, r.before.fds, r.after.fds, r.before.goroutines, r.after.goroutines)
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d (%d) | %d | %d (%d) | %s | %s | %s | %s | %s | %s |\n",
			r.name, r.fault, r.clients, r.acked, r.refused, r.delivered, r.gaps, r.told, recovered, limit, use, strings.Join(r.notes, "; "), verdict, r.when)
	}
	return b.String()
}

// merge puts the rows of old that text has not into it, in the order of list.
func merge(list []scenario, old, text string) string {
	lines := map[string]string{}
	head := ""
	for _, t := range []string{old, text} {
		head = ""
		for line := range strings.Lines(t) {
			name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
			if slices.ContainsFunc(list, func(s scenario) bool { return strings.HasPrefix(line, "| ") && s.name == name }) {
				lines[name] = line
			} else {
				head += line
			}
		}
	}
	for _, s := range list {
		head += lines[s.name]
	}
	return head
}

func raiseFiles() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
	}
}
