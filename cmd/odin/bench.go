package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/odin-ws/odin/bench/suite"
	"github.com/odin-ws/odin/internal/market"
)

const benchHelp = `
Bench measures what connections and frames cost, and what they cost others: in
turn it starts this binary as a gateway, a goroutine-per-connection server with the
same promises (bench/baseline), a raw loop without any (bench/rawloop,
with an event loop for each processor, and with one) and other
people's libraries (bench/peers), each in a process of its own and fresh for every
trial, and puts them under the same load. The others are built from the checkout
that the working directory lies in, with Go; anywhere else only this binary and
--rival are measured.

Server CPU is the kernel's clock of the server's process, memory the growth of its
resident set. Each scenario is played by all in turn and then again, --rounds
times; figures are medians, ratios are taken within a round. Run it on a machine
that does nothing else: server and clients share it.

--rival adds a server from outside, as often as it is given:

  --rival 'uws=bin/uws {port} {control_port} {size}'
      a command, with {addr}, {port}, {control}, {control_port} and {size} filled
      in, that stays in the foreground and speaks the wire of bench/peers/peer
      (bench/peers/uws has uWebSockets); the name uws is known to the targets
  --rival 'name=ws://127.0.0.1:9000/ws,pid=1234,control=http://127.0.0.1:9001'
      one that runs already; without control it can't be told to broadcast, and
      only idle, storm and echo are measured

--out PATH writes PATH.json, with every sample, and PATH.md. Scenarios:
`

// benchFlags are what bench can be told.
type benchFlags struct {
	scenarios, servers, rates list
	rounds, libraryRounds     count
	connections, size         count
	load, settle              span
	sweep, asJSON             bool
	recording, out, odinArgs  string
	rivals                    []string
}

func newBench() *cobra.Command {
	f := benchFlags{rounds: 2, connections: 10_000, size: 150, load: span(5 * time.Second), settle: span(2 * time.Second)}
	help := strings.TrimPrefix(benchHelp, "\n")
	for _, s := range suite.Scenarios() {
		help += fmt.Sprintf("\n  %-10s%s", s[0], s[1])
	}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure memory, CPU and latency against other servers",
		Long:  help,
		Example: `  odin bench --out docs/results/bench-quick
  odin bench --scenario idle,fanout --server odin,baseline --rounds 5
  odin bench --scenario latency --server odin --for 30s`,
		Args: nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Var(&f.scenarios, "scenario", "only these (default: all)")
	fs.Var(&f.servers, "server", `only these: odin, "raw loop", "raw loop 1", baseline, gorilla, coder, gws, gobwas, nbio, greatws, and rivals (default: all)`)
	fs.StringArrayVar(&f.rivals, "rival", nil, "also measure NAME=COMMAND or NAME=ws://…,pid=N; may be given again")
	fs.Var(&f.rounds, "rounds", "trials of odin, the raw loop, the baseline and each --rival")
	fs.Var(&f.libraryRounds, "library-rounds", "trials of the libraries (default: as --rounds)")
	fs.Var(&f.connections, "connections", "connections; scenarios take parts and multiples of it")
	fs.Var(&f.load, "for", "how long one load lasts")
	fs.Var(&f.settle, "settle", "pause before memory is read")
	fs.Var(&f.rates, "rate", "messages a second in fanout (default: 10,100,150, which the targets are about)")
	fs.BoolVar(&f.sweep, "sweep", false, "in fanout a tenth of the connections, too")
	fs.Var(&f.size, "size", "bytes of a broadcast message")
	fs.StringVar(&f.recording, "recording", "", "recorded market for the scenario channels (default: multi-venue-31s.ndjson.gz in $ODIN_TESTDATA, else a synthetic one)")
	fs.StringVar(&f.odinArgs, "odin-args", "", "more flags for the gateway, separated by spaces")
	fs.StringVar(&f.out, "out", "", "write PATH.json and PATH.md")
	fs.BoolVar(&f.asJSON, "json", false, "print the report as JSON instead of tables")
	return cmd
}

func (f *benchFlags) run(cmd *cobra.Command) error {
	if f.rounds < 1 || f.connections < 1 || f.load <= 0 || f.settle <= 0 || f.size < 80 {
		return usagef("--rounds and --connections want at least 1, --for and --settle more than 0, --size at least 80")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o := suite.Options{
		Odin: self, OdinArgs: strings.Fields(f.odinArgs), Child: []string{self, swarmChild}, Version: strings.TrimPrefix(readBuildInfo().String(), "odin "), Source: suite.Checkout(),
		Scenarios: f.scenarios.items, Servers: f.servers.items,
		Rounds: int(f.rounds), LibraryRounds: int(f.libraryRounds), Connections: int(f.connections),
		For: time.Duration(f.load), Settle: time.Duration(f.settle), Sweep: f.sweep, Size: int(f.size),
		Recording: f.recording, Notes: cmd.ErrOrStderr(), Command: f.command(cmd),
	}
	for _, text := range f.rates.items {
		rate, err := strconv.ParseFloat(text, 64)
		if err != nil || rate <= 0 {
			return usagef("--rate: %q is no number of messages a second", text)
		}
		o.Rates = append(o.Rates, rate)
	}
	for _, text := range f.rivals {
		r, err := suite.ParseRival(text)
		if err != nil {
			return usagef("--rival %w", err)
		}
		o.Rivals = append(o.Rivals, r)
	}
	if err := suite.CheckNames(o); err != nil {
		return usageError{err}
	}
	if dir, ok := market.TestData(); ok && o.Recording == "" {
		path := filepath.Join(dir, "multi-venue-31s.ndjson.gz")
		if _, err := os.Stat(path); err == nil {
			o.Recording = path
		}
	}
	rep, failed := suite.Run(cmd.Context(), o)
	if rep == nil {
		return failed
	}
	if f.out != "" {
		if err := rep.Write(f.out); err != nil {
			return errors.Join(failed, err)
		}
	}
	if f.asJSON {
		return errors.Join(failed, json.NewEncoder(cmd.OutOrStdout()).Encode(rep))
	}
	rep.Print(cmd.OutOrStdout())
	return failed
}

// command is this call as it can be repeated, what it prints and writes left
// out.
func (f *benchFlags) command(cmd *cobra.Command) string {
	parts := []string{"odin bench"}
	add := func(name, value string) {
		if strings.ContainsAny(value, " {}$'\"") {
			value = "'" + value + "'"
		}
		parts = append(parts, "--"+name+" "+value)
	}
	cmd.Flags().Visit(func(fl *pflag.Flag) {
		switch fl.Name {
		case "out", "json":
		case "rival":
			for _, r := range f.rivals {
				add(fl.Name, r)
			}
		case "sweep":
			parts = append(parts, "--sweep")
		default:
			add(fl.Name, fl.Value.String())
		}
	})
	return strings.Join(parts, " ")
}
