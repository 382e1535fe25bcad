package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// sample is one of odin bench's.
type sample struct {
	Scenario, Case, Server string
	Values                 map[string]float64
}

// bench runs odin bench in a process of its own.
func bench(t *testing.T, args ...string) []sample {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), odin(t), append([]string{"bench", "--json"}, args...)...)
	cmd.Env = cleanEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	t.Logf("%s", &stderr)
	if err != nil {
		t.Fatalf("odin bench: %v", err)
	}
	var report struct {
		Samples  []sample
		Failures []string
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Failures) > 0 {
		t.Fatalf("odin bench reports %s (%v)", out, err)
	}
	return report.Samples
}

// TestTenThousand holds 10 000 connections with one subscription each and looks at
// what they cost. Goroutines are judged; memory and CPU are printed, for machines
// differ: make bench compares them with other servers in one run.
func TestTenThousand(t *testing.T) {
	const connections, reserve = 10_000, 500
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < connections+reserve {
		t.Skipf("the hard limit of descriptors is %d, this needs %d", limit.Max, connections+reserve)
	}
	samples := bench(t, "--server", "odin", "--scenario", "idle,fanout", "--connections", strconv.Itoa(connections), "--rounds", "1", "--for", "5s")
	get := func(scenario, kase string) map[string]float64 {
		t.Helper()
		for _, s := range samples {
			if s.Scenario == scenario && s.Case == kase {
				return s.Values
			}
		}
		t.Fatalf("no sample of %s, %s in %v", scenario, kase, samples)
		return nil
	}
	idle := get("idle", fmt.Sprintf("%d connections, 1 subscriptions", connections))
	if grown := idle["goroutines_grown"]; grown >= 20 {
		t.Errorf("goroutines grew by %g, want fewer than 20", grown)
	}
	// What the capacity model reckons with for a connection's part of this process.
	if each := idle["rss_bytes_per_connection"]; each > 1024 {
		t.Errorf("%.0f bytes a connection: the model says 1024, and every limit computed from it is wrong", each)
	}
	if f := get("fanout", fmt.Sprintf("%d connections, 10 msg/s", connections)); f["delivered"] != 1 || f["cut"] != 0 {
		t.Errorf("%g of all frames arrived, %g clients were cut", f["delivered"], f["cut"])
	}
}

// A frame costs the gateway at most so many times the CPU that it costs a loop
// which does nothing but write it. Measured in one run, turn about, so that the
// machine's speed and its other work fall out; the target is 1.25 with ten times
// the connections, where what a message costs once weighs less.
const dearestFrame = 2.5

func TestFanOutAgainstTheRawLoop(t *testing.T) {
	const rounds = 3
	samples := bench(t, "--server", "odin,raw loop", "--scenario", "fanout", "--connections", "1000", "--rate", "50",
		"--rounds", strconv.Itoa(rounds), "--for", "1s", "--settle", "100ms")
	cost := map[string][]float64{}
	for _, s := range samples {
		cost[s.Server] = append(cost[s.Server], s.Values["cpu_us_per_frame"])
	}
	if len(cost["odin"]) != rounds || len(cost["raw loop"]) != rounds {
		t.Fatalf("%v", samples)
	}
	var ratios []float64
	for i, ours := range cost["odin"] {
		ratios = append(ratios, ours/cost["raw loop"][i])
	}
	slices.Sort(ratios)
	t.Logf("odin over raw loop: %.2f", ratios)
	if ratios[rounds/2] > dearestFrame {
		t.Errorf("a frame costs %.2f times the raw loop's, more than %.1f", ratios[rounds/2], dearestFrame)
	}
}
