// Command density measures what many connections cost a WebSocket server from
// outside: memory a connection, CPU a delivered frame, frames a second.
//
//	density --compare                  odin and the raw loop in turn, A B A B
//	density                            odin alone
//	density --url ws://HOST/ws --subscribe CH
//	                                   only hold connections and count frames
//
// Each server runs in a process of its own, fresh for every trial; the clients
// (internal/swarm) are 15 000 a goroutine and process, the first in this one,
// doing no more than count. Server CPU is user
// and system time of the server's process; memory is the growth of its VmRSS.
// Only ratios taken within one run are worth anything: absolute figures drift
// with the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/odin-ws/odin/internal/swarm"
)

type options struct {
	connections int
	rounds      int
	settle      time.Duration
	phases      []phase
	size        int
	odin        string
	odinArgs    []string
	rawloop     string
}

// phase is one load: count messages to every connection, rate of them a second.
type phase struct {
	name  string
	rate  float64
	count int
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == swarmChild {
		if err := swarm.Child(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "density:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "density:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	compare := flag.Bool("compare", false, "measure the raw loop too, in turn with odin")
	jsonTo := flag.String("json", "", "write the results as JSON to this `file` (- for standard output, then nothing else goes there)")
	url := flag.String("url", "", "only connect to this WebSocket `URL` and count")
	channel := flag.String("subscribe", "", "with --url: subscribe each connection to this `channel`")
	flag.IntVar(&o.connections, "connections", 10_000, "connections to each server")
	flag.IntVar(&o.rounds, "rounds", 3, "trials of each server; medians are printed")
	flag.DurationVar(&o.settle, "settle", 3*time.Second, "pause before memory is read")
	steadyRate := flag.Float64("rate", 10, "messages a second of the steady phase")
	steadyFor := flag.Duration("for", 10*time.Second, "length of the steady phase")
	floodRate := flag.Float64("flood-rate", 100, "messages a second of the saturated phase")
	floodFor := flag.Duration("flood-for", 5*time.Second, "length of the saturated phase")
	flag.IntVar(&o.size, "size", 150, "bytes of a message as a client receives it")
	flag.StringVar(&o.odin, "odin", "", "odin `binary` (default: build ./cmd/odin)")
	args := flag.String("odin-args", "", "more `flags` for odin serve, separated by spaces")
	flag.StringVar(&o.rawloop, "rawloop", "", "raw loop `binary` (default: build ./bench/rawloop)")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if *url != "" {
		return watch(ctx, *url, *channel, o.connections)
	}
	o.odinArgs = strings.Fields(*args)
	o.phases = []phase{
		{"steady", *steadyRate, int(*steadyRate * steadyFor.Seconds())},
		{"flood", *floodRate, int(*floodRate * floodFor.Seconds())},
	}

	dir, err := os.MkdirTemp("", "odin-density-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kinds := []kind{{"odin", startOdin}}
	if o.odin == "" {
		o.odin, err = build(ctx, dir, "odin", "./cmd/odin")
	}
	if *compare {
		kinds = append(kinds, kind{"raw loop", startRawLoop})
		if err == nil && o.rawloop == "" {
			o.rawloop, err = build(ctx, dir, "rawloop", "./bench/rawloop")
		}
	}
	if err != nil {
		return err
	}

	var all []trial
	for round := range o.rounds {
		for _, k := range kinds {
			tr, err := runTrial(ctx, k, &o, filepath.Join(dir, fmt.Sprintf("data-%d", round)))
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", k.name, round+1, err)
			}
			fmt.Fprintf(os.Stderr, "round %d  %s\n", round+1, tr)
			all = append(all, tr)
		}
	}
	rep := summarize(&o, kinds, all)
	return rep.write(*jsonTo)
}

// build compiles a server as it is shipped.
func build(ctx context.Context, dir, name, pkg string) (string, error) {
	bin := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, pkg)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build %s (run this from the module's root): %w", pkg, err)
	}
	return bin, nil
}

// watch holds connections to a server that is already running and prints each
// second what came in.
func watch(ctx context.Context, url, channel string, n int) error {
	h, err := startHerd(url, channel, n)
	if err != nil {
		return err
	}
	defer h.close()
	start := h.Counts()
	all := start.Total()
	fmt.Fprintf(os.Stderr, "%d connected in %.2f s, failed %s\n", all.Connected, start.Settled.Seconds(), all.Errors)
	for last := start; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		now := h.Counts()
		all := now.Total()
		fmt.Printf("open %d  closed %d  frames/s %d  MB/s %.1f\n", all.Open, all.Connected-all.Open, now.Frames-last.Frames, float64(now.Bytes-last.Bytes)/1e6)
		last = now
	}
}
