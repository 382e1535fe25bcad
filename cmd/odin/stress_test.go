package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/odin-ws/odin/internal/swarm"
)

// The test binary started by stress as a part of a swarm is one.
func init() {
	if len(os.Args) == 2 && os.Args[1] == swarmChild {
		if swarm.Child(os.Stdin, os.Stdout) != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// lastLines are the last two of an output.
func lastLines(out string) string {
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-2):], "\n")
}

func TestStress(t *testing.T) {
	g := startServe(t, "--max-connections", "40")
	// A channel that exists takes no trip to the broker, for which a gateway has
	// few places: those in excess would be asked to come back in seconds.
	for _, ch := range []string{"stress.0", "a.b", "c.0"} {
		if r := odin(t, nil, "", "publish", "--admin-addr", g.admin, ch, "0"); r.code != exitOK {
			t.Fatalf("%+v", r)
		}
	}
	common := []string{"stress", "--url", "ws://" + g.addr + "/ws", "--admin-addr", g.admin, "--duration", "2s"}

	r := odin(t, nil, "", append(common, "--connections", "65", "--expect", "40", "--expect-errors", `{"http_503": 25}`)...)
	want := "Progress: 40/65 connections (61.5% success rate)\nError breakdown: {\"http_503\": 25}"
	if r.code != exitOK || lastLines(r.out) != want || r.err != "" {
		t.Errorf("code %d, stderr %q\n%s", r.code, r.err, r.out)
	}

	r = odin(t, nil, "", append(common, "--connections", "40", "--publish-rate", "200", "--check", "--channel", "a.b", "--channel", "c.*", "--processes", "2")...)
	want = "Progress: 40/40 connections (100.0% success rate)\nError breakdown: {}"
	if r.code != exitOK || lastLines(r.out) != want || !strings.Contains(r.out, ": no difference\n") || !strings.Contains(r.out, "\nEnded early: {}\n") ||
		!regexp.MustCompile(`(?m)^delay     p50 \d`).MatchString(r.out) || !strings.Contains(r.out, "2 process(es)") {
		t.Errorf("code %d, stderr %q\n%s", r.code, r.err, r.out)
	}

	r = odin(t, nil, "", append(common, "--connections", "12", "--json", "--check", "--publish-rate", "50", "--publish-size", "500")...)
	var o struct {
		OK          bool            `json:"ok"`
		Unmet       []string        `json:"unmet"`
		Connected   int             `json:"connected"`
		Errors      swarm.Breakdown `json:"errors"`
		Ended       swarm.Breakdown `json:"ended_early"`
		Messages    uint64          `json:"messages"`
		Bytes       uint64          `json:"bytes"`
		SuccessRate float64         `json:"success_rate"`
		Delay       struct {
			P50 int64 `json:"p50_ns"`
		} `json:"delay"`
		Published struct {
			Acked int `json:"acked"`
		} `json:"published"`
		Ledger struct {
			Published int `json:"published"`
		} `json:"ledger"`
	}
	if err := json.Unmarshal([]byte(r.out), &o); err != nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	if r.code != exitOK || !o.OK || o.Connected != 12 || o.Errors == nil || o.Ended == nil || o.SuccessRate != 1 ||
		o.Delay.P50 <= 0 || o.Published.Acked == 0 || o.Ledger.Published != o.Published.Acked || o.Bytes < 500*o.Messages {
		t.Errorf("code %d: %+v", r.code, o)
	}
}

func TestStressFails(t *testing.T) {
	g := startServe(t, "--max-connections", "5")
	odin(t, nil, "", "publish", "--admin-addr", g.admin, "stress.0", "0")
	url := "ws://" + g.addr + "/ws"
	for _, c := range []struct {
		args string
		want string
	}{
		{"--url ws://127.0.0.1:1/ws --connections 3", "Unmet: normal clients failed to connect: {\"ECONNREFUSED\": 3}\n"},
		{"--url ws://" + g.addr + "/nothing --connections 3", "Unmet: normal clients failed to connect: {\"http_404\": 3}\n"},
		{"--url " + url + " --connections 7 --duration 500ms --expect 7", "Unmet: 5 connected, not 7\n"},
		{"--url " + url + " --connections 7 --duration 500ms --expect-errors {}", "Unmet: the errors are not {}\n"},
		{"--url " + url + " --connections 3 --duration 500ms --check", "Unmet: the ledger has nothing to check"},
		{"--url " + url + " --connections 3 --duration 1s --publish-rate 10 --admin-addr " + g.addr, "Unmet: publishing: "},
	} {
		r := odin(t, nil, "", append([]string{"stress"}, strings.Fields(c.args)...)...)
		if r.code != exitFailure || !strings.Contains(r.out, c.want) || !strings.HasPrefix(lastLines(r.out), "Progress: ") || strings.Contains(r.err, "odin: failed") {
			t.Errorf("%s: code %d, stderr %q\n%s", c.args, r.code, r.err, r.out)
		}
	}
	r := odin(t, nil, "", "stress", "--url", "ws://127.0.0.1:1/ws", "--connections", "3", "--allow", "ECONNREFUSED")
	if r.code != exitOK {
		t.Errorf("allowed: code %d\n%s", r.code, r.out)
	}
}

func TestStressUsage(t *testing.T) {
	for args, want := range map[string]string{
		"--connections 0":                    "--connections: want at least 1",
		"--connections 5 --slow 3 --drip 3":  "of the --connections: 6 of 5",
		"--mode some":                        "want all or latest",
		"--ms 5":                             "--ms belongs to --mode latest",
		"--expect-errors x":                  "want JSON such as",
		"--connections 5 --expect 6":         "--expect 6 of 5",
		"--duration 0":                       "--duration",
		"--channel a..b":                     `channel "a..b"`,
		"--source ten":                       "want an address range",
		"--no-subscribe --check":             "--no-subscribe",
		"--rate -1":                          "below 0",
		"extra":                              "too many arguments",
		"--publish-rate 1 --admin-addr 8081": "--admin-addr: want HOST:PORT",
	} {
		r := odin(t, nil, "", append([]string{"stress"}, strings.Fields(args)...)...)
		if r.code != exitUsage || !strings.Contains(r.err, want) || r.out != "" {
			t.Errorf("%s: code %d, stderr %q, stdout %q; want %q", args, r.code, r.err, r.out, want)
		}
	}
	if r := odin(t, nil, "", "stress", "--help"); r.code != exitOK || !strings.Contains(r.out, "Error breakdown: {\"http_503\": 7816}") || !strings.Contains(r.out, "Usage:\n  odin stress") {
		t.Errorf("%+v", r)
	}
	if r := odin(t, nil, "", "--help"); strings.Contains(r.out, swarmChild) {
		t.Error("the swarm's child is on show")
	}
}
