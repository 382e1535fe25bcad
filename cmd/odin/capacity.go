package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway"
)

// capacityFlags are what `odin capacity` can be asked.
type capacityFlags struct {
	memory                  size
	profile                 choice
	replay, maxConnections  count
	perConnection, overhead size
	backlog                 budget
	users                   count
	active                  percent
	config                  string
	compression             toggle
	shards                  int // serve's
	tokens                  toggle
	measure, asJSON         bool
	tls                     choice

	// Found out by load and run.
	limit       capacity.Limit
	high        capacity.Limit // memory.high of this container, without a Source where there is none
	elsewhere   bool           // the limit is --memory's, not this container's
	descriptors uint64         // this machine's
	measured    *capacity.Measurement
}

func newCapacity(environ []string) *cobra.Command {
	f := &capacityFlags{
		profile: choice{"event-loop", []string{"event-loop", "goroutine"}},
		tls:     choice{"", []string{"", "own", "kernel"}},
		replay:  capacity.DefaultReplay, backlog: capacity.DefaultBacklog, active: 100,
	}
	cmd := &cobra.Command{
		Use:   "capacity",
		Short: "Show how many connections fit, and why",
		Long: `Capacity prints the sum that serve enforces, term by term, for the container it
runs in or for another size, which bound wins, and what would change it.

With --memory the sum is for a container elsewhere: this one's descriptor limit
is shown but not applied. What serve takes from the environment and --config
(memory_limit, capacity_profile, max_connections, bytes_per_connection,
runtime_overhead, backlog, compression, replay, and whether readers need tokens)
holds here too, unless a flag says otherwise, and so does shards, which compression
is counted by.

--measure opens loopback connections and reads what they cost this kernel. The
sum goes by the larger of that and the model's figure: what was measured is an
idle socket on a quiet path. --bytes-per-connection has the last word.

--users plans: how many instances of which size hold so many users, or the part
of them that is connected at once (--active).

docs/capacity.md explains every term; --json says where each figure is from.`,
		Example: `  odin capacity                                     # this container
  odin capacity --memory 512MiB
  odin capacity --memory 512MiB --profile goroutine # a goroutine and a queue each
  odin capacity --memory 512MiB --profile goroutine --replay 0
  odin capacity --measure                           # calibrate the kernel's share
  odin capacity --memory 96MiB --runtime-overhead 48MiB
  odin capacity --users 300000 --active 5%          # how many instances?`,
		Args: nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.load(cmd, environ); err != nil {
				return err
			}
			return f.run(cmd.OutOrStdout())
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Var(&f.memory, "memory", "size of the container to reckon for; empty: this one")
	fs.Var(&f.profile, "profile", "cost model: event-loop (this server) or goroutine (a goroutine, queue and replay buffer each)")
	fs.VarPF(&f.tokens, "tokens", "", "readers show tokens, each of a subject of its own; left out: as --token-key-file and --jwks are set").NoOptDefVal = "true"
	fs.VarPF(&f.tls, "tls", "", "the port speaks TLS, its records done by this process (own, the same as no value) or by the kernel; empty: plain, or as --tls-cert is set").NoOptDefVal = "own"
	fs.Var(&f.replay, "replay", "messages kept for resuming; 0 with goroutine: its first phase, without a replay buffer")
	fs.Var(&f.perConnection, "bytes-per-connection", "memory of one connection, kernel included; empty: the profile's")
	fs.Var(&f.overhead, "runtime-overhead", "memory set aside for the process itself; empty: 128MiB")
	fs.Var(&f.backlog, "backlog", "memory for bytes not yet acknowledged, all clients together; empty: the profile's; 0: none")
	fs.VarPF(&f.compression, "compression", "", "with permessage-deflate").NoOptDefVal = "true"
	fs.Var(&f.maxConnections, "max-connections", "connections configured; 0: not configured")
	fs.BoolVar(&f.measure, "measure", false, "measure what a socket costs this machine's kernel")
	fs.Var(&f.users, "users", "plan for so many users")
	fs.Var(&f.active, "active", "part of them that is connected at once, e.g. 5%")
	fs.StringVar(&f.config, "config", "", "serve's configuration file (YAML)")
	fs.BoolVar(&f.asJSON, "json", false, "print everything as JSON")
	return cmd
}

// load fills in what serve would take from file and environment.
func (f *capacityFlags) load(cmd *cobra.Command, environ []string) error {
	l, err := loadLayers(f.config, environ, nil)
	if err != nil {
		return err
	}
	given := func(flag string) bool {
		if cmd.Flags().Changed(flag) {
			return true
		}
		text, ok := lookupEnv(environ, envName(flag)) // set by flagsFromEnv
		return ok && text != ""
	}
	f.shards = l.shards()
	for flag, take := range map[string]func(){
		"profile":              func() { f.profile.word = l.CapacityProfile.word },
		"replay":               func() { f.replay = l.Replay },
		"bytes-per-connection": func() { f.perConnection = l.BytesPerConnection },
		"runtime-overhead":     func() { f.overhead = l.RuntimeOverhead },
		"backlog":              func() { f.backlog = l.Backlog },
		"compression":          func() { f.compression = l.Compression },
		"tokens":               func() { f.tokens = toggle(l.readersNeedTokens()) },
		"max-connections":      func() { f.maxConnections = l.MaxConnections },
		"tls": func() {
			if l.TLSCert != "" {
				f.tls.word = string(recordsHere(l.TLSKernel.word))
			}
		},
	} {
		if !given(flag) {
			take()
		}
	}
	if f.descriptors, err = capacity.Descriptors(); err != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "odin: the descriptor limit could not be raised:", err)
	}
	switch {
	case f.memory > 0:
		f.limit, f.elsewhere = capacity.Limit{Bytes: int64(f.memory), Source: "--memory"}, true
	case l.MemoryLimit > 0:
		f.limit = capacity.Limit{Bytes: int64(l.MemoryLimit), Source: l.origin["memory_limit"]}
	default:
		if f.limit, err = capacity.DetectLimit(systemRoot); err != nil {
			return hinted{err, "Give the size with --memory."}
		}
	}
	if !f.elsewhere {
		if f.high, _, err = capacity.DetectHigh(systemRoot); err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "odin:", err)
		}
	}
	return nil
}

// input is the formula's, for a profile under a limit.
func (f *capacityFlags) input(p capacity.Profile, limit capacity.Limit) capacity.Input {
	return capacity.Input{
		Limit: limit, Profile: p, Replay: int(f.replay), RuntimeOverhead: int64(f.overhead), Backlog: int64(f.backlog),
		TLS: capacity.TLSRecords(f.tls.word), Tokens: bool(f.tokens),
		Compression: compressionMemory(f.compression, f.shards),
	}
}

// run works the sum out and prints it.
func (f *capacityFlags) run(out io.Writer) error {
	profile := capacity.Profile(f.profile.word)
	in := f.input(profile, f.limit)
	in.BytesPerConnection, in.Configured = int64(f.perConnection), int(f.maxConnections)
	if !f.elsewhere {
		in.Descriptors = f.descriptors
		in.ReservedDescriptors = reserved(f.descriptors, gateway.DefaultConfig().MaxHandshakes, capacity.TLSRecords(f.tls.word))
	}
	if f.measure {
		m, err := capacity.Measure(capacity.MeasureOptions{})
		if err != nil {
			return err
		}
		f.measured = &m
		if profile == capacity.EventLoop && f.perConnection == 0 && m.Bytes > capacity.KernelPerConnection {
			in.BytesPerConnection = m.Bytes + capacity.OwnPerConnection
		}
	}
	r, err := capacity.Compute(in)
	if err != nil {
		return usageError{err}
	}
	report, err := f.report(r)
	if err != nil {
		return usageError{err}
	}
	if f.asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	_, err = io.WriteString(out, report.text(f))
	return err
}

// capacityReport is all that the command prints; its fields are the JSON.
type capacityReport struct {
	capacity.Report
	// DescriptorLimit is this machine's, applied or not.
	DescriptorLimit uint64                `json:"descriptor_limit"`
	Measured        *capacity.Measurement `json:"measured,omitempty"`
	WhatIf          []whatIf              `json:"what_if"`
	Plan            *plan                 `json:"plan,omitempty"`
	// High is cgroup v2's memory.high, where it is set for this container, and
	// Warning what follows when it is below the limit. It is no bound.
	High    *capacity.Limit `json:"memory_high,omitempty"`
	Warning string          `json:"warning,omitempty"`
}

func (f *capacityFlags) report(r capacity.Result) (*capacityReport, error) {
	report, err := r.Report()
	if err != nil {
		return nil, err
	}
	c := &capacityReport{Report: report, DescriptorLimit: f.descriptors, Measured: f.measured, WhatIf: f.whatIfs()}
	if f.users > 0 {
		c.Plan = f.plan()
	}
	if f.high.Source != "" {
		c.High, c.Warning = &f.high, capacity.HighSentence(r.Limit, f.high)
	}
	return c, nil
}

// text is the report for people.
func (c *capacityReport) text(f *capacityFlags) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Memory limit  %s, from %s\nProfile       %s\n", capacity.FormatSize(c.Limit.Bytes), c.Limit.Source, c.Profile)

	if c.Warning != "" {
		fmt.Fprintf(&b, "Warning       %s\n", c.Warning)
	}

	terms := func(title, per string, total int64, name string) {
		fmt.Fprintf(&b, "\n%s\n", title)
		for _, t := range c.Terms {
			if t.Per == per {
				fmt.Fprintf(&b, "  %12s  %-24s%s\n", grouped(t.Bytes), t.Name, t.What)
			}
		}
		fmt.Fprintf(&b, "  %12s  %s, %s\n", grouped(total), name, capacity.FormatSize(total))
	}
	terms("One connection, bytes", capacity.PerConnection, c.BytesPerConnection, "bytes per connection")
	terms("The process, bytes", capacity.PerProcess, c.Overhead, "overhead")
	if c.Measured != nil {
		c.measuredText(&b, f)
	}

	fmt.Fprintf(&b, "\n(%s − %s) / %s = %d\n", capacity.FormatSize(c.Limit.Bytes), capacity.FormatSize(c.Overhead), capacity.FormatSize(c.BytesPerConnection), c.ByMemory)
	fmt.Fprintf(&b, "%s\n%s\n", c.Sentence, c.BoundSentence())
	if c.ByDescriptors == 0 {
		fmt.Fprintf(&b, "File descriptors here: %d, which would allow %d; not applied to --memory\n",
			c.DescriptorLimit, max(0, int64(min(c.DescriptorLimit, 1<<62))-int64(reserved(c.DescriptorLimit, gateway.DefaultConfig().MaxHandshakes, capacity.TLSRecords(f.tls.word)))))
	}
	fmt.Fprintf(&b, "GOMEMLIMIT of this model: %s\n", capacity.FormatSize(c.GoMemLimit))

	b.WriteString("\nWhat if                                              goroutine    event-loop\n")
	for _, w := range c.WhatIf {
		fmt.Fprintf(&b, "  %-46s %13s %13s\n", w.Name, orDash(w.Goroutine), orDash(w.EventLoop))
		if w.Note != "" {
			fmt.Fprintf(&b, "      %s\n", w.Note)
		}
	}
	if c.Plan != nil {
		c.Plan.text(&b)
	}
	return b.String()
}

func (c *capacityReport) measuredText(b *strings.Builder, f *capacityFlags) {
	m := c.Measured
	fmt.Fprintf(b, "\nMeasured: an idle socket costs the kernel %s bytes (Linux %s, median of %d rounds of %d sockets)\n  by %s\n",
		grouped(m.Bytes), m.Kernel, len(m.Rounds), m.Sockets, m.Method)
	model := grouped(capacity.KernelPerConnection)
	switch {
	case f.perConnection > 0:
		fmt.Fprintf(b, "  used: neither; --bytes-per-connection was given\n")
	case c.Profile != capacity.EventLoop:
		fmt.Fprintf(b, "  used: neither; this profile has no term for the kernel\n")
	case m.Bytes > capacity.KernelPerConnection:
		fmt.Fprintf(b, "  used: the measured figure, because it is larger than the model's %s\n", model)
	default:
		fmt.Fprintf(b, "  used: the model's %s, because it is larger; to go by the measured one: --bytes-per-connection %d\n",
			model, m.Bytes+capacity.OwnPerConnection)
	}
}

// grouped writes a number with gaps, like 54 613.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

func orDash(n int) string {
	if n == 0 {
		return "–"
	}
	return grouped(int64(n))
}

// percent is a part of a hundred: "5%", "5" or "0.5%".
type percent float64

func (p *percent) Type() string { return "percent" }

func (p *percent) String() string { return strconv.FormatFloat(float64(*p), 'f', -1, 64) + "%" }

func (p *percent) Set(text string) error {
	v, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "%")), 64)
	if err != nil || !(v > 0 && v <= 100) {
		return fmt.Errorf("want a part such as 5%%, above 0 and up to 100%%, not %q", text)
	}
	*p = percent(v)
	return nil
}

// budget is a size that may be 0; capacity.DefaultBacklog stands for "not given"
// and is written as "".
type budget int64

func (b *budget) Type() string { return "size" }

func (b *budget) Set(text string) error {
	if text == "" {
		*b = capacity.DefaultBacklog
		return nil
	}
	n, err := capacity.ParseSize(text)
	if err != nil {
		return err
	}
	*b = budget(n)
	return nil
}

func (b *budget) String() string {
	switch *b {
	case capacity.DefaultBacklog:
		return ""
	case 0:
		return "0"
	}
	s := size(*b)
	return s.String()
}
