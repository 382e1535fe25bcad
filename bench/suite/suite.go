// Package suite measures what connections and frames cost a WebSocket server, from
// outside: the gateway, the goroutine-per-connection baseline, the raw loop, other
// people's libraries, and any server of yours. It is what `odin bench` runs.
//
// A server always has a process of its own, fresh for each trial. The load
// (internal/swarm, one goroutine and 72 bytes a connection) runs in the caller's
// process and does no more than count. Server CPU is the kernel's clock of the
// server's process, user and system; memory is the growth of its resident set.
//
// A scenario is played by all servers in turn, then by all again: A B C A B C.
// Absolute figures drift with the machine, so what is judged is a ratio of two
// servers within the same round where there is one to take, and the median of the
// rounds, with the least and the most beside it.
package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options says what to measure. The zero value of a field is its default.
type Options struct {
	Odin     string   // the gateway's binary
	OdinArgs []string // more flags for its serve
	Child    []string // the command that runs swarm.Child, for loads that take several processes
	Version  string   // of the binary
	Source   string   // a checkout, to build the others from; "": only odin and Rivals
	Rivals   []Rival

	Scenarios []string // none: all
	Servers   []string // none: all there are

	Rounds        int           // of odin, the raw loop, the baseline and Rivals; 0: 2
	LibraryRounds int           // of the libraries; 0: as Rounds
	Connections   int           // 0: 10 000
	For           time.Duration // how long a load lasts; 0: 5 s
	Settle        time.Duration // pause before memory is read; 0: 2 s
	Sweep         bool          // fanout to a tenth of the connections too
	Rates         []float64     // messages a second in fanout; none: 10, 100 and 150, which the targets are about
	Size          int           // bytes of a broadcast message; 0: 150

	Recording string    // events for the scenario channels; "": synthetic
	Notes     io.Writer // progress; nil: none
	Command   string    // how this run was called, for the report
}

// Sample is what one trial measured.
type Sample struct {
	Scenario string             `json:"scenario"`
	Case     string             `json:"case"`
	Server   string             `json:"server"`
	Round    int                `json:"round"` // from 1
	Values   map[string]float64 `json:"values"`
}

// bench is one run.
type bench struct {
	Options
	dir        string // scratch
	contenders []contender
	feed       *feedSource // for the scenario channels
	trials     int
}

// Run measures. Trials that fail are reported and do not end the run; if one of
// odin's did, there is an error beside the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	var failed error
	o.defaults()
	scenarios, err := choose(o.Scenarios)
	if err != nil {
		return nil, err
	}
	b := &bench{Options: o}
	if b.dir, err = os.MkdirTemp("", "odin-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	rep := &Report{
		Taken: time.Now().UTC().Truncate(time.Second), Version: o.Version, Commit: commit(o.Source), Command: o.Command,
		Machine: machine(), Connections: o.Connections, For: o.For, Rounds: o.Rounds, LibraryRounds: o.LibraryRounds, Size: o.Size,
	}
	if m := rep.Machine; m.Load > float64(m.Cores)/2 {
		b.note("the load average is %.1f on %d cores: what is measured beside other work is worth little", m.Load, m.Cores)
	}
	if err := b.prepare(ctx, rep); err != nil {
		return nil, err
	}
	if b.feed, err = openFeed(o.Recording); err != nil {
		return nil, err
	}
	rep.Feed = b.feed.name
	for _, sc := range scenarios {
		for round := range max(o.Rounds, o.LibraryRounds) {
			for _, c := range b.contenders {
				if !c.library && round >= o.Rounds || c.library && round >= o.LibraryRounds || !sc.fits(&c) {
					continue
				}
				began := time.Now()
				samples, err := sc.play(ctx, b, c)
				for i := range samples {
					samples[i].Scenario, samples[i].Server, samples[i].Round = sc.name, c.name, round+1
					b.note("%-9s %-10s round %d  %s", sc.name, c.name, round+1, samples[i])
				}
				rep.Samples = append(rep.Samples, samples...)
				switch {
				case ctx.Err() != nil:
					return nil, ctx.Err()
				case err == nil:
				default:
					if c.name == odinName {
						failed = errors.Join(failed, fmt.Errorf("%s, %s, round %d: %w", sc.name, c.name, round+1, err))
					}
					rep.Failures = append(rep.Failures, fmt.Sprintf("%s, %s, round %d: %v", sc.name, c.name, round+1, err))
					b.note("%-9s %-10s round %d  FAILED: %v", sc.name, c.name, round+1, err)
				}
				rep.Seconds += time.Since(began).Seconds()
			}
		}
	}
	rep.Samples = append(rep.Samples, growth(rep.Samples)...)
	rep.Samples = append(rep.Samples, saturation(rep.Samples, o.Connections)...)
	rep.judge()
	return rep, failed
}

func (o *Options) defaults() {
	o.Rounds = max(0, o.Rounds)
	if o.Rounds == 0 {
		o.Rounds = 2
	}
	if o.LibraryRounds == 0 {
		o.LibraryRounds = o.Rounds
	}
	if o.Connections == 0 {
		o.Connections = 10_000
	}
	if o.For == 0 {
		o.For = 5 * time.Second
	}
	if o.Settle == 0 {
		o.Settle = 2 * time.Second
	}
	if len(o.Rates) == 0 {
		o.Rates = []float64{10, saturationRate, 1.5 * saturationRate}
	}
	if o.Size == 0 {
		o.Size = 150
	}
	if o.Notes == nil {
		o.Notes = io.Discard
	}
}

// Names of servers that rows are about.
const (
	odinName     = "odin"
	rawName      = "raw loop"
	rawOneName   = "raw loop 1" // with one event loop, not one for each processor
	baselineName = "baseline"
	uwsName      = "uws" // by convention of --rival
)

// libraries are the servers of bench/peers.
var libraries = []string{"gorilla", "coder", "gws", "gobwas", "nbio", "greatws"}

// Servers lists those that are known without a rival.
func Servers() []string {
	return append([]string{odinName, rawName, rawOneName, baselineName}, libraries...)
}

// CheckNames says which scenario or server of the options there is none of.
func CheckNames(o Options) error {
	if _, err := choose(o.Scenarios); err != nil {
		return err
	}
	known := Servers()
	for _, r := range o.Rivals {
		if slices.Contains(known, r.Name) {
			return fmt.Errorf("there is a server %q already", r.Name)
		}
		known = append(known, r.Name)
	}
	for _, s := range o.Servers {
		if !slices.Contains(known, s) {
			return fmt.Errorf("no server %q; there are %s", s, strings.Join(known, ", "))
		}
	}
	return nil
}

// prepare builds what is measured.
func (b *bench) prepare(ctx context.Context, rep *Report) error {
	wanted := func(name string) bool {
		return len(b.Servers) == 0 || slices.Contains(b.Servers, name)
	}
	if err := CheckNames(b.Options); err != nil {
		return err
	}
	add := func(c contender) { b.contenders = append(b.contenders, c) }
	if wanted(odinName) {
		add(contender{name: odinName, wire: odinWire, own: true, start: startOdin(b.Odin, b.OdinArgs)})
	}
	if b.Source == "" {
		b.note("not in a checkout: no raw loop, baseline and libraries to compare with")
	} else {
		if wanted(rawName) || wanted(rawOneName) {
			bin, err := b.build(ctx, "./bench/rawloop")
			if err != nil {
				return err
			}
			if wanted(rawName) {
				add(contender{name: rawName, wire: peerWire, own: true, start: startPeer(bin, false)})
			}
			if wanted(rawOneName) {
				add(contender{name: rawOneName, wire: peerWire, start: startPeer(bin, false, "--loops", "1")})
			}
		}
		if wanted(baselineName) {
			bin, err := b.build(ctx, "./bench/baseline")
			if err != nil {
				return err
			}
			add(contender{name: baselineName, wire: odinWire, own: true, start: startBaseline(bin)})
		}
		for _, name := range libraries {
			if !wanted(name) {
				continue
			}
			b.note("building bench/peers/%s", name)
			bin, err := build(ctx, filepath.Join(b.Source, "bench", "peers"), "./"+name, b.dir)
			if err != nil {
				rep.Failures = append(rep.Failures, err.Error())
				b.note("%v", err)
				continue
			}
			add(contender{name: name, wire: peerWire, library: true, start: startPeer(bin, true)})
		}
	}
	for _, r := range b.Rivals {
		if wanted(r.Name) {
			add(r.contender())
		}
	}
	if len(b.contenders) == 0 {
		return errors.New("nothing to measure")
	}
	return nil
}

// build makes a server of the root module.
func (b *bench) build(ctx context.Context, pkg string) (bin string, err error) {
	b.note("building %s", pkg)
	return build(ctx, b.Source, pkg, b.dir)
}

func (b *bench) note(format string, args ...any) {
	fmt.Fprintf(b.Notes, format+"\n", args...)
}

// begin starts a server for one trial.
func (b *bench) begin(ctx context.Context, c contender, n need) (*server, error) {
	b.trials++
	n.size = b.Size
	n.data = filepath.Join(b.dir, fmt.Sprintf("data-%d", b.trials))
	return c.start(ctx, n)
}

// end stops it and removes what it kept.
func (b *bench) end(s *server) {
	s.stop()
	_ = os.RemoveAll(filepath.Join(b.dir, fmt.Sprintf("data-%d", b.trials)))
}

func (s Sample) String() string {
	var parts []string
	for _, m := range metrics {
		if v, ok := s.Values[m.name]; ok {
			parts = append(parts, strings.TrimSpace(m.title+" "+m.format(v)+" "+m.unit))
		}
	}
	return s.Case + ": " + strings.Join(parts, ", ")
}
