package e2e

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// TestTenThousand holds 10 000 connections with one subscription each, from a
// client process of its own, and looks at what they cost. Goroutines are judged;
// memory and CPU are printed, for machines differ: bench/density compares them
// with the raw loop in one run.
func TestTenThousand(t *testing.T) {
	const connections, reserve = 10_000, 500
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < connections+reserve {
		t.Skipf("the hard limit of descriptors is %d, this needs %d", limit.Max, connections+reserve)
	}
	density, err := buildDensity()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), density, "--odin", odin(t), "--connections", strconv.Itoa(connections),
		"--rounds", "1", "--settle", "2s", "--for", "5s", "--flood-for", "3s", "--json", "-")
	cmd.Env = cleanEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("density: %v\n%s", err, &stderr)
	}
	t.Logf("%s", &stderr)

	var report struct {
		Trials []struct {
			Connections int
			Grown       int     `json:"goroutines_grown"`
			PerConn     float64 `json:"rss_bytes_per_connection"`
			Phases      []struct {
				Name           string
				Frames         int64
				FramesExpected int64 `json:"frames_expected"`
				Closed         int64
			}
		}
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Trials) != 1 || len(report.Trials[0].Phases) != 2 {
		t.Fatalf("density reports %s (%v)", out, err)
	}
	trial := report.Trials[0]
	if trial.Connections != connections {
		t.Errorf("%d connected, want %d", trial.Connections, connections)
	}
	if trial.Grown >= 20 {
		t.Errorf("goroutines grew by %d, want fewer than 20", trial.Grown)
	}
	// An order of magnitude above the target: this catches a buffer or a
	// goroutine for each connection, not a bad day.
	if trial.PerConn > 7000 {
		t.Errorf("%.0f bytes a connection", trial.PerConn)
	}
	if p := trial.Phases[0]; p.Frames != p.FramesExpected || p.Closed != 0 {
		t.Errorf("%s: %d of %d frames arrived, %d clients were cut", p.Name, p.Frames, p.FramesExpected, p.Closed)
	}
}
