package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway"
)

// golden compares what a command printed with testdata/capacity/NAME. With
// ODIN_TEST_UPDATE=1 it writes the file instead.
func golden(t *testing.T, name, got string) {
	t.Helper()
	// This machine's descriptor limit is shown too.
	got = regexp.MustCompile(`File descriptors here: \d+, which would allow \d+;`).ReplaceAllString(got, "File descriptors here: N, which would allow N;")
	got = regexp.MustCompile(`"descriptor_limit": \d+`).ReplaceAllString(got, `"descriptor_limit": 0`)
	file := filepath.Join("testdata", "capacity", name)
	if os.Getenv("ODIN_TEST_UPDATE") != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (ODIN_TEST_UPDATE=1 writes it anew):\n%s", file, got)
	}
}

func TestCapacityGolden(t *testing.T) {
	for name, args := range map[string]string{
		"event-loop.txt":        "--memory 512MiB",
		"event-loop.json":       "--memory 512MiB --json",
		"goroutine.txt":         "--memory 512MiB --profile goroutine",
		"goroutine-phase-1.txt": "--memory 512MiB --profile goroutine --replay 0",
		"small.txt":             "--memory 96MiB --runtime-overhead 48MiB --backlog 8MiB",
		"own-figures.txt":       "--memory 1GiB --bytes-per-connection 10KiB --backlog 0 --max-connections 5000",
		"plan.txt":              "--memory 512MiB --users 300000 --active 5%",
	} {
		t.Run(name, func(t *testing.T) {
			r := odin(t, nil, "", append([]string{"capacity"}, strings.Fields(args)...)...)
			if r.code != exitOK || r.err != "" {
				t.Fatalf("code %d, %s", r.code, r.err)
			}
			golden(t, name, r.out)
		})
	}
}

// The figures that the formula is known for.
func TestCapacityFigures(t *testing.T) {
	for args, want := range map[string]int{
		"--memory 512MiB":                                             54613,
		"--memory 512MiB --profile goroutine":                         2184,
		"--memory 512MiB --profile goroutine --replay 0":              7864,
		"--memory 512MiB --profile goroutine --replay 20":             2808,
		"--memory 2GiB --profile goroutine":                           10922,
		"--memory 512MiB --backlog 0":                                 65536,
		"--memory 512MiB --backlog 64MiB":                             54613,
		"--memory 96MiB --runtime-overhead 48MiB":                     6144,
		"--memory 512MiB --max-connections 7":                         7,
		"--memory 512MiB --bytes-per-connection 12KiB":                27306,
		"--memory 512MiB --profile goroutine --backlog 64MiB":         1820,
		"--memory 512MiB --users 300000 --active 5% --replay 100":     54613,
		"--memory 512MiB --profile goroutine --runtime-overhead 64MB": 2548,
	} {
		var c capacityReport
		r := odin(t, nil, "", append([]string{"capacity", "--json"}, strings.Fields(args)...)...)
		if err := json.Unmarshal([]byte(r.out), &c); err != nil || c.Max != want {
			t.Errorf("%s: %d, want %d (%v, %s)", args, c.Max, want, err, r.err)
			continue
		}
		per, process := int64(0), int64(0)
		for _, term := range c.Terms {
			switch term.Per {
			case capacity.PerConnection:
				per += term.Bytes
			case capacity.PerProcess:
				process += term.Bytes
			}
		}
		if per != c.BytesPerConnection || process != c.Overhead {
			t.Errorf("%s: the terms are %d and %d, the sums %d and %d", args, per, process, c.BytesPerConnection, c.Overhead)
		}
	}
}

func TestCapacityPlan(t *testing.T) {
	var c capacityReport
	r := odin(t, nil, "", "capacity", "--json", "--memory", "512MiB", "--users", "300000", "--active", "5%")
	if err := json.Unmarshal([]byte(r.out), &c); err != nil || c.Plan == nil {
		t.Fatal(err, r)
	}
	if c.Plan.Connected != 15_000 || len(c.Plan.Sizes) != 6 {
		t.Fatalf("%+v", c.Plan)
	}
	for memory, want := range map[int64][2]planFor{
		256 * capacity.MiB: {{728, 21}, {16384, 1}},
		512 * capacity.MiB: {{2184, 7}, {54613, 1}},
		2 * capacity.GiB:   {{10922, 2}, {283989, 1}},
		8 * capacity.GiB:   {{45875, 1}, {1201493, 1}},
	} {
		found := false
		for _, s := range c.Plan.Sizes {
			if s.Memory == memory {
				found = true
				if s.Goroutine != want[0] || s.EventLoop != want[1] {
					t.Errorf("%+v, want %+v", s, want)
				}
			}
		}
		if !found {
			t.Errorf("no row for %d", memory)
		}
	}
	// What does not fit is said so, not divided by.
	r = odin(t, nil, "", "capacity", "--json", "--memory", "8GiB", "--runtime-overhead", "1GiB", "--users", "10")
	if err := json.Unmarshal([]byte(r.out), &c); err != nil || c.Plan.Sizes[0].EventLoop != (planFor{}) || c.Plan.Connected != 10 {
		t.Errorf("%v, %+v", err, c.Plan)
	}
}

// What serve takes from environment and file holds; a flag beats both.
func TestCapacityFromEnvironment(t *testing.T) {
	file := writeFile(t, "odin.yaml", "capacity_profile: goroutine\nmemory_limit: 2GiB\nreplay: 0\n")
	environ := []string{"ODIN_MEMORY_LIMIT=512MiB", "ODIN_CAPACITY_PROFILE=event-loop", "ODIN_BACKLOG=0", "ODIN_MAX_CONNECTIONS=1000000"}
	for name, c := range map[string]struct {
		args, env []string
		max       int
		source    string
	}{
		"file":             {[]string{"--config", file}, nil, 39321, file + ":2"},
		"file by variable": {nil, []string{"ODIN_CONFIG=" + file}, 39321, file + ":2"},
		"environment":      {nil, environ, 65536, "env ODIN_MEMORY_LIMIT"},
		"both":             {[]string{"--config", file}, environ, 65536, "env ODIN_MEMORY_LIMIT"},
		"flags":            {[]string{"--config", file, "--memory", "1GiB", "--profile", "event-loop", "--backlog", "128MiB"}, environ, 131072, "--memory"},
		"own variables":    {nil, append(environ, "ODIN_MEMORY=1GiB", "ODIN_PROFILE=goroutine"), 5097, "--memory"},
		"empty variables":  {[]string{"--config", file}, []string{"ODIN_REPLAY=", "ODIN_MEMORY="}, 39321, file + ":2"},
	} {
		var got capacityReport
		r := odin(t, c.env, "", append([]string{"capacity", "--json"}, c.args...)...)
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.ByMemory != c.max || got.Limit.Source != c.source {
			t.Errorf("%s: %d from %s, want %d from %s (%v, %s)", name, got.ByMemory, got.Limit.Source, c.max, c.source, err, r.err)
		}
	}
}

// Compression is counted by the shards that serve would have.
func TestCapacityCompressionByShards(t *testing.T) {
	file := writeFile(t, "odin.yaml", "shards: 7\n")
	for name, c := range map[string]struct {
		args, env []string
		shards    int
	}{
		"file":        {[]string{"--config", file, "--compression"}, nil, 7},
		"environment": {[]string{"--compression"}, []string{"ODIN_SHARDS=5"}, 5},
		"neither":     {nil, []string{"ODIN_COMPRESSION=true"}, runtime.GOMAXPROCS(0)},
	} {
		var got capacityReport
		r := odin(t, c.env, "", append([]string{"capacity", "--json", "--memory", "1GiB"}, c.args...)...)
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Compression != gateway.CompressionMemory(c.shards) {
			t.Errorf("%s: %d, want that of %d shards (%v, %s)", name, got.Compression, c.shards, err, r.err)
		}
	}
}

// Here: the container's own limit and descriptors.
func TestCapacityHere(t *testing.T) {
	r := odin(t, nil, "", "capacity")
	if r.code != exitOK || !strings.Contains(r.out, "file descriptors allow") || strings.Contains(r.out, "not applied") {
		t.Errorf("%+v", r)
	}
}

func TestCapacityMeasure(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 4000 sockets")
	}
	r := odin(t, nil, "", "capacity", "--memory", "512MiB", "--measure")
	if r.code != exitOK {
		if !strings.Contains(r.err, "--bytes-per-connection") {
			t.Errorf("%+v", r)
		}
		t.Skip(r.err) // a busy machine, or no account that may be read
	}
	if !strings.Contains(r.out, "Measured: an idle socket costs the kernel") || !strings.Contains(r.out, "  used: the ") {
		t.Error(r.out)
	}
}

// Which figure was used is said, whichever it was.
func TestCapacityMeasuredText(t *testing.T) {
	for name, c := range map[string]struct {
		profile string
		per     size
		bytes   int64
		want    string
	}{
		"less":     {"event-loop", 0, 3900, "used: the model's 5 120, because it is larger; to go by the measured one: --bytes-per-connection 4924"},
		"more":     {"event-loop", 0, 6000, "used: the measured figure, because it is larger than the model's 5 120"},
		"given":    {"event-loop", 9000, 6000, "used: neither; --bytes-per-connection was given"},
		"no share": {"goroutine", 0, 6000, "used: neither; this profile has no term for the kernel"},
	} {
		f := &capacityFlags{perConnection: c.per, measured: &capacity.Measurement{Bytes: c.bytes}}
		report := capacityReport{Report: capacity.Report{Result: capacity.Result{Profile: capacity.Profile(c.profile)}}, Measured: f.measured}
		var b strings.Builder
		report.measuredText(&b, f)
		if !strings.Contains(b.String(), c.want) {
			t.Errorf("%s: %s", name, b.String())
		}
	}
}

func TestCapacityErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--memory 0":                             "want a size above zero",
		"--memory -5MiB":                         "is negative",
		"--memory much":                          "unknown unit",
		"--memory 96MiB":                         "lower --runtime-overhead or --backlog",
		"--memory 128MiB":                        "leaves nothing beyond the overhead",
		"--memory 96MiB --runtime-overhead 8MiB": "the least is 38MB",
		"--memory 512MiB --bytes-per-connection 1GiB": "too little for one connection",
		"--memory 512MiB --backlog -1":                "is negative",
		"--memory 512MiB --backlog 400MiB":            "lower --runtime-overhead or --backlog",
		"--memory 512MiB --replay -1":                 "want a whole number",
		"--memory 9999999TiB":                         "too large",
		"--profile threads":                           "want one of event-loop, goroutine",
		"--active 0%":                                 "want a part such as 5%",
		"--active 101%":                               "want a part such as 5%",
		"--active NaN":                                "want a part such as 5%",
		"--users -1":                                  "want a whole number",
		"extra":                                       "too many arguments",
		"--config /none/odin.yaml":                    "configuration file",
	} {
		r := odin(t, nil, "", append([]string{"capacity"}, strings.Fields(args)...)...)
		if r.code != exitUsage || !strings.Contains(r.err, want) || r.out != "" {
			t.Errorf("%s: %+v; want code 2 and %q", args, r, want)
		}
	}
	if r := odin(t, []string{"ODIN_MEMORY_LIMIT=1MiB"}, "", "capacity"); r.code != exitUsage || !strings.Contains(r.err, "ODIN_MEMORY_LIMIT") {
		t.Errorf("%+v", r)
	}
}

func TestCapacityHelp(t *testing.T) {
	r := odin(t, nil, "", "capacity", "--help")
	if r.code != exitOK || !strings.Contains(r.out, "odin capacity --memory 512MiB") || !strings.Contains(r.out, "--users") {
		t.Errorf("%+v", r)
	}
}

// A backlog of none can be said, and is not the same as saying nothing.
func TestBudgetValue(t *testing.T) {
	for text, want := range map[string]struct {
		n    budget
		back string
	}{"": {capacity.DefaultBacklog, ""}, "0": {0, "0"}, "0MiB": {0, "0"}, "64MiB": {64 << 20, "64MiB"}, "1500": {1500, "1500B"}} {
		var b budget
		if err := b.Set(text); err != nil || b != want.n || b.String() != want.back {
			t.Errorf("%q: %d, %q, %v; want %d, %q", text, b, b.String(), err, want.n, want.back)
		}
	}
	for _, args := range [][]string{nil, {"--backlog", "0"}} {
		l, err := load(t, append([]string{"--memory-limit", "512MiB"}, args...), nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := capacity.DefaultBacklog + len(args)/2; int(l.Backlog) != want {
			t.Errorf("%v: backlog %d, want %d", args, l.Backlog, want)
		}
	}
	l, err := load(t, []string{"--config", writeFile(t, "odin.yaml", "backlog: 0\n")}, nil)
	if err != nil || l.Backlog != 0 {
		t.Errorf("backlog: 0 in a file: %d, %v", l.Backlog, err)
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1 000", 54613: "54 613", 1234567: "1 234 567", -1000: "-1 000", -100: "-100"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// A memory.high below the limit is named by the command and at start, and
// changes no figure.
func TestMemoryHigh(t *testing.T) {
	const group = "sys/fs/cgroup/"
	files := fstest.MapFS{
		"proc/meminfo":        {Data: []byte("MemTotal: 16777216 kB\n")},
		"proc/self/cgroup":    {Data: []byte("0::/\n")},
		"proc/self/mountinfo": {Data: []byte("30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")},
		group + "memory.max":  {Data: []byte("536870912\n")},
		group + "memory.high": {Data: []byte("419430400\n")},
	}
	old := systemRoot
	systemRoot = files
	defer func() { systemRoot = old }()
	const want = "memory.high 400MB (cgroup v2 /sys/fs/cgroup/memory.high) is below the limit of 512MB"

	r := odin(t, nil, "", "capacity", "--max-connections", "100")
	if r.code != exitOK || !strings.Contains(r.out, "Warning       "+want) {
		t.Errorf("%+v", r)
	}
	var c capacityReport
	r = odin(t, nil, "", "capacity", "--json")
	if err := json.Unmarshal([]byte(r.out), &c); err != nil || c.ByMemory != 54613 || c.High == nil || c.High.Bytes != 400*capacity.MiB || !strings.HasPrefix(c.Warning, want) {
		t.Errorf("%v: %s", err, r.out)
	}
	if r = odin(t, nil, "", "capacity", "--memory", "512MiB"); strings.Contains(r.out, "memory.high") {
		t.Errorf("another container is warned of this one's: %s", r.out)
	}

	var log bytes.Buffer
	warnHigh(capacity.Limit{Bytes: 512 * capacity.MiB}, slog.New(slog.NewTextHandler(&log, nil)))
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), want) {
		t.Errorf("start-up log: %s", &log)
	}
	log.Reset()
	warnHigh(capacity.Limit{Bytes: 400 * capacity.MiB}, slog.New(slog.NewTextHandler(&log, nil)))
	if log.Len() != 0 {
		t.Errorf("start-up log: %s", &log)
	}
	files[group+"memory.high"] = &fstest.MapFile{Data: []byte("?")}
	warnHigh(capacity.Limit{Bytes: 1}, slog.New(slog.NewTextHandler(&log, nil)))
	if r = odin(t, nil, "", "capacity"); r.code != exitOK || !strings.Contains(r.err, "memory.high") || !strings.Contains(log.String(), "memory.high") {
		t.Errorf("garbage: %+v, %s", r, &log)
	}
}

// Where readers need tokens the sum says so, wherever the key is.
func TestCapacityWithTokens(t *testing.T) {
	secret := writeFile(t, "secret", testSecret)
	bytes := func(environ []string, args ...string) (n struct {
		Bytes int64 `json:"bytes_per_connection"`
	}) {
		t.Helper()
		r := odin(t, environ, "", append([]string{"capacity", "--memory", "512MiB", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(r.out), &n); r.code != 0 || err != nil {
			t.Fatalf("%+v, %v", r, err)
		}
		return n
	}
	none := bytes(nil).Bytes
	for name, got := range map[string]int64{
		"flag": bytes(nil, "--tokens").Bytes, "file": bytes([]string{"ODIN_TOKEN_KEY_FILE=" + secret}).Bytes,
		"text": bytes([]string{"ODIN_TOKEN_KEY=" + testSecret}).Bytes, "set": bytes([]string{"ODIN_JWKS=https://id.example/x"}).Bytes,
	} {
		if got != none+capacity.TokensPerConnection {
			t.Errorf("%s: %d bytes, %d without", name, got, none)
		}
	}
	if got := bytes([]string{"ODIN_TOKEN_KEY=" + testSecret}, "--tokens=false").Bytes; got != none {
		t.Errorf("said not to: %d", got)
	}
}
