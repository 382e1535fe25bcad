package capacity

import (
	"math"
	"strings"
	"testing"
)

const v2Source = "cgroup v2 /sys/fs/cgroup/memory.max"

func TestCompute(t *testing.T) {
	for name, tc := range map[string]struct {
		in       Input
		max      int
		bound    string
		per, off int64 // bytes per connection, overhead
	}{
		"event-loop, 512 MiB":           {Input{Limit: mem(512 * MiB), Profile: EventLoop, Replay: 100, Backlog: DefaultBacklog}, 54613, "memory", 6 * KiB, 192 * MiB},
		"event-loop, without replay":    {Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: DefaultBacklog}, 54613, "memory", 6 * KiB, 192 * MiB},
		"event-loop, 2 GiB":             {Input{Limit: mem(2 * GiB), Profile: EventLoop, Backlog: DefaultBacklog}, 283989, "memory", 6 * KiB, 384 * MiB},
		"goroutine, 512 MiB":            {Input{Limit: mem(512 * MiB), Profile: Goroutine, Replay: 100, Backlog: DefaultBacklog}, 2184, "memory", 180 * KiB, 128 * MiB},
		"goroutine, no replay":          {Input{Limit: mem(512 * MiB), Profile: Goroutine, Backlog: DefaultBacklog}, 7864, "memory", 50 * KiB, 128 * MiB},
		"goroutine, 20 messages":        {Input{Limit: mem(512 * MiB), Profile: Goroutine, Replay: 20, Backlog: DefaultBacklog}, 2808, "memory", 140 * KiB, 128 * MiB},
		"goroutine, 2 GiB":              {Input{Limit: mem(2 * GiB), Profile: Goroutine, Replay: 100, Backlog: DefaultBacklog}, 10922, "memory", 180 * KiB, 128 * MiB},
		"goroutine, 2 GiB, no replay":   {Input{Limit: mem(2 * GiB), Profile: Goroutine, Backlog: DefaultBacklog}, 39321, "memory", 50 * KiB, 128 * MiB},
		"goroutine, 2 GiB, 20 messages": {Input{Limit: mem(2 * GiB), Profile: Goroutine, Replay: 20, Backlog: DefaultBacklog}, 14043, "memory", 140 * KiB, 128 * MiB},
		"own figures": {
			Input{Limit: mem(512 * MiB), Profile: EventLoop, BytesPerConnection: 10 * KiB, RuntimeOverhead: 64 * MiB, Backlog: 32 * MiB},
			42598, "memory", 10 * KiB, 96 * MiB,
		},
		"-1 means default":   {Input{Limit: mem(512 * MiB), Profile: EventLoop, RuntimeOverhead: -1, Backlog: -1}, 54613, "memory", 6 * KiB, 192 * MiB},
		"a backlog of none":  {Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: 0}, 65536, "memory", 6 * KiB, 128 * MiB},
		"goroutine, backlog": {Input{Limit: mem(512 * MiB), Profile: Goroutine, Replay: 100, Backlog: 64 * MiB}, 1820, "memory", 180 * KiB, 192 * MiB},
		"one connection":     {Input{Limit: mem(192*MiB + 6*KiB), Profile: EventLoop, Backlog: 64 * MiB}, 1, "memory", 6 * KiB, 192 * MiB},

		"descriptors":                {Input{Limit: mem(512 * MiB), Profile: EventLoop, Descriptors: 20000, Backlog: DefaultBacklog}, 19744, "file descriptors", 6 * KiB, 192 * MiB},
		"descriptors, own reserve":   {Input{Limit: mem(512 * MiB), Profile: EventLoop, Descriptors: 20000, ReservedDescriptors: 100, Backlog: DefaultBacklog}, 19900, "file descriptors", 6 * KiB, 192 * MiB},
		"descriptors, unlimited":     {Input{Limit: mem(512 * MiB), Profile: EventLoop, Descriptors: math.MaxUint64, Backlog: DefaultBacklog}, 54613, "memory", 6 * KiB, 192 * MiB},
		"descriptors, one left":      {Input{Limit: mem(512 * MiB), Profile: EventLoop, Descriptors: 257, Backlog: DefaultBacklog}, 1, "file descriptors", 6 * KiB, 192 * MiB},
		"configured below":           {Input{Limit: mem(512 * MiB), Profile: EventLoop, Descriptors: 20000, Configured: 500, Backlog: DefaultBacklog}, 500, "configured", 6 * KiB, 192 * MiB},
		"configured above memory":    {Input{Limit: mem(512 * MiB), Profile: EventLoop, Configured: 1_000_000, Backlog: DefaultBacklog}, 54613, "memory", 6 * KiB, 192 * MiB},
		"configured above the files": {Input{Limit: mem(512 * MiB), Profile: EventLoop, Descriptors: 20000, Configured: 30000, Backlog: DefaultBacklog}, 19744, "file descriptors", 6 * KiB, 192 * MiB},
		"configured equal to memory": {Input{Limit: mem(512 * MiB), Profile: EventLoop, Configured: 54613, Backlog: DefaultBacklog}, 54613, "memory", 6 * KiB, 192 * MiB},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Compute(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if r.Max != tc.max || r.Bound != tc.bound || r.BytesPerConnection != tc.per || r.Overhead != tc.off {
				t.Errorf("got  %d by %s, %d bytes each, overhead %d\nwant %d by %s, %d, %d",
					r.Max, r.Bound, r.BytesPerConnection, r.Overhead, tc.max, tc.bound, tc.per, tc.off)
			}
			if used := int64(r.ByMemory)*r.BytesPerConnection + r.Overhead; used > r.Limit.Bytes || used+r.BytesPerConnection <= r.Limit.Bytes {
				t.Errorf("%d connections use %d of %d", r.ByMemory, used, r.Limit.Bytes)
			}
			if r.Overhead != r.RuntimeOverhead+r.Backlog {
				t.Errorf("overhead %d of %d and %d", r.Overhead, r.RuntimeOverhead, r.Backlog)
			}
		})
	}
}

func TestComputeErrorsNameTheFlag(t *testing.T) {
	for name, tc := range map[string]struct {
		in   Input
		want []string
	}{
		"zero limit":            {Input{Limit: mem(0), Profile: EventLoop, Backlog: DefaultBacklog}, []string{"--memory-limit", v2Source}},
		"negative limit":        {Input{Limit: mem(-GiB), Profile: EventLoop, Backlog: DefaultBacklog}, []string{"--memory-limit", "-1GB"}},
		"limit below overhead":  {Input{Limit: mem(100 * MiB), Profile: EventLoop, Backlog: DefaultBacklog}, []string{"--memory-limit", "--runtime-overhead", "--backlog", "100MB", "140.5MB"}},
		"limit at the overhead": {Input{Limit: mem(128 * MiB), Profile: Goroutine, Backlog: DefaultBacklog}, []string{"--memory-limit", "--runtime-overhead", "--backlog"}},
		"less than one":         {Input{Limit: mem(128*MiB + 1), Profile: Goroutine, Backlog: DefaultBacklog}, []string{"--memory-limit", "--bytes-per-connection", "1B"}},
		"hardly any per":        {Input{Limit: mem(GiB), Profile: EventLoop, BytesPerConnection: 1000, Backlog: DefaultBacklog}, []string{"--bytes-per-connection", "1024"}},
		"as asked":              {Input{Limit: Limit{MiB, "--memory"}, Profile: EventLoop, Backlog: DefaultBacklog}, []string{"raise --memory,"}},
		"negative per":          {Input{Limit: mem(GiB), Profile: EventLoop, BytesPerConnection: -1, Backlog: DefaultBacklog}, []string{"--bytes-per-connection"}},
		"negative overhead":     {Input{Limit: mem(GiB), Profile: EventLoop, RuntimeOverhead: -2, Backlog: DefaultBacklog}, []string{"--runtime-overhead"}},
		"negative backlog":      {Input{Limit: mem(GiB), Profile: EventLoop, Backlog: -2}, []string{"--backlog"}},
		"huge overheads":        {Input{Limit: mem(GiB), Profile: EventLoop, RuntimeOverhead: math.MaxInt64, Backlog: 1}, []string{"--runtime-overhead", "--backlog"}},
		"negative replay":       {Input{Limit: mem(GiB), Profile: EventLoop, Replay: -1, Backlog: DefaultBacklog}, []string{"--replay"}},
		"huge replay":           {Input{Limit: mem(GiB), Profile: Goroutine, Replay: math.MaxInt, Backlog: DefaultBacklog}, []string{"--replay"}},
		"negative configured":   {Input{Limit: mem(GiB), Profile: EventLoop, Configured: -1, Backlog: DefaultBacklog}, []string{"--max-connections"}},
		"negative reserve":      {Input{Limit: mem(GiB), Profile: EventLoop, ReservedDescriptors: -1, Backlog: DefaultBacklog}, []string{"reserve"}},
		"too few descriptors":   {Input{Limit: mem(GiB), Profile: EventLoop, Descriptors: 256, Backlog: DefaultBacklog}, []string{"open files", "ulimit -n"}},
		"no profile":            {Input{Limit: mem(GiB), Backlog: DefaultBacklog}, []string{"--capacity-profile", "event-loop", "goroutine"}},
		"unknown profile":       {Input{Limit: mem(GiB), Profile: "threads", Backlog: DefaultBacklog}, []string{"threads", "--capacity-profile"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Compute(tc.in)
			if err == nil {
				t.Fatalf("%+v", r)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

// A limit that changes while running: the new maximum, or 0 and why.
func TestRecompute(t *testing.T) {
	r, err := Compute(Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: DefaultBacklog, Descriptors: 50_000, Configured: 30_000})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		limit   int64
		max     int
		bound   string
		backlog int64
		why     string
	}{
		{256 * MiB, 16384, BoundMemory, 32 * MiB, ""},
		{128 * MiB, 0, BoundMemory, 16 * MiB, "leaves nothing beyond the overhead of 144MB"},
		{0, 0, BoundMemory, 0, "holds nothing"},
		{-5, 0, BoundMemory, 0, "holds nothing"},
		{512 * MiB, 30_000, BoundConfigured, 64 * MiB, ""},
		{math.MaxInt64, 30_000, BoundConfigured, math.MaxInt64 / 8, ""},
	} {
		if r, err = r.Recompute(mem(step.limit)); (err != nil) != (step.why != "") || err != nil && !strings.Contains(err.Error(), step.why) {
			t.Errorf("%d: %v, want %q", step.limit, err, step.why)
		}
		if r.Max != step.max || r.Bound != step.bound || r.Backlog != step.backlog || r.Limit.Bytes != step.limit || (r.ByMemory == 0) != (step.max == 0) {
			t.Errorf("%d: %+v, want %d by %s, backlog %d", step.limit, r, step.max, step.bound, step.backlog)
		}
	}
	// A backlog that was set stays.
	r, err = Compute(Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: 0})
	if err != nil {
		t.Fatal(err)
	}
	if r, err = r.Recompute(mem(256 * MiB)); err != nil || r.Max != 21845 || r.Backlog != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := (Result{}).Recompute(mem(GiB)); err == nil || r.Max != 0 {
		t.Errorf("a zero Result: %+v, %v", r, err)
	}
}

func TestSentences(t *testing.T) {
	for name, tc := range map[string]struct {
		in              Input
		sentence, bound string
	}{
		"event-loop": {
			Input{Limit: mem(512 * MiB), Profile: EventLoop, Replay: 100, Descriptors: 1_000_000, Backlog: DefaultBacklog},
			"Calculated max connections: 54613 (based on 6KB per connection + 192MB overhead)",
			"Bound by memory: memory allows 54613, file descriptors allow 999744, not configured; memory limit 512MB read from cgroup v2 /sys/fs/cgroup/memory.max",
		},
		"goroutine": {
			Input{Limit: Limit{512 * MiB, "--memory-limit"}, Profile: Goroutine, Replay: 100, Descriptors: 20000, Backlog: DefaultBacklog},
			"Calculated max connections: 2184 (based on 180KB per connection + 128MB overhead)",
			"Bound by memory: memory allows 2184, file descriptors allow 19744, not configured; memory limit 512MB read from --memory-limit",
		},
		"goroutine, no replay": {
			Input{Limit: mem(512 * MiB), Profile: Goroutine, Backlog: DefaultBacklog},
			"Calculated max connections: 7864 (based on 50KB per connection + 128MB overhead)",
			"Bound by memory: memory allows 7864, file descriptors not applied, not configured; memory limit 512MB read from cgroup v2 /sys/fs/cgroup/memory.max",
		},
		"descriptors": {
			Input{Limit: mem(8 * GiB), Profile: EventLoop, Descriptors: 20000, Backlog: DefaultBacklog},
			"Calculated max connections: 19744 (based on 6KB per connection + 1152MB overhead)",
			"Bound by file descriptors: memory allows 1201493, file descriptors allow 19744, not configured; memory limit 8GB read from cgroup v2 /sys/fs/cgroup/memory.max",
		},
		"configured": {
			Input{Limit: mem(300 * MiB), Profile: EventLoop, Descriptors: 20000, Configured: 100, BytesPerConnection: 6500, Backlog: DefaultBacklog},
			"Calculated max connections: 100 (based on 6.35KB per connection + 165.5MB overhead)",
			"Bound by configured: memory allows 21697, file descriptors allow 19744, configured 100; memory limit 300MB read from cgroup v2 /sys/fs/cgroup/memory.max",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Compute(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Sentence(); got != tc.sentence {
				t.Errorf("got  %s\nwant %s", got, tc.sentence)
			}
			if got := r.BoundSentence(); got != tc.bound {
				t.Errorf("got  %s\nwant %s", got, tc.bound)
			}
		})
	}
}

func TestGoMemLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		limit       int64
		max         int
		kernel, lag int64
		want        int64
	}{
		"512 MiB, event-loop": {512 * MiB, 54613, 5 * KiB, 64 * MiB, 512*MiB - 512*MiB/10 - 54613*5*KiB - 64*MiB},
		"no connections":      {GiB, 0, 5 * KiB, 0, GiB - GiB/10},
		"floor":               {100 * MiB, 20000, 5 * KiB, 0, 64 * MiB},
		"floor by backlog":    {100 * MiB, 0, 0, 90 * MiB, 64 * MiB},
		"overflow":            {math.MaxInt64, math.MaxInt, math.MaxInt64, math.MaxInt64, 64 * MiB},
		"nothing":             {0, 0, 0, 0, 64 * MiB},
		"negative":            {math.MinInt64, -1, -1, math.MaxInt64, 64 * MiB},
	} {
		if got := GoMemLimit(tc.limit, tc.max, tc.kernel, tc.lag); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

func mem(n int64) Limit { return Limit{Bytes: n, Source: v2Source} }

// Compression is a term of its own: the process's, once, and none while it is off.
func TestCompressionTerm(t *testing.T) {
	in := Input{Limit: Limit{Bytes: 512 * MiB, Source: "--memory-limit"}, Profile: EventLoop, Backlog: DefaultBacklog}
	without, err := Compute(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Compression = 3 * MiB
	with, err := Compute(in)
	if err != nil {
		t.Fatal(err)
	}
	if with.Overhead != without.Overhead+3*MiB || with.Max != without.Max-3*MiB/(6*KiB) || with.BytesPerConnection != without.BytesPerConnection {
		t.Errorf("%d connections with %s, %d without it", with.Max, FormatSize(with.Overhead), without.Max)
	}
	for r, want := range map[*Result]bool{&with: true, &without: false} {
		terms, err := r.ProcessTerms()
		if err != nil {
			t.Fatal(err)
		}
		if got := sum(terms); got != r.Overhead {
			t.Errorf("the terms make %d, the overhead is %d", got, r.Overhead)
		}
		if last := terms[len(terms)-1]; (last.Name == "compression") != want {
			t.Errorf("the last term is %s", last.Name)
		}
	}
	if again, err := with.Recompute(Limit{Bytes: 1 * GiB, Source: "x"}); err != nil || again.Compression != 3*MiB {
		t.Errorf("recomputed: %v, %d", err, again.Compression)
	}
	in.Limit.Bytes = 130 * MiB
	if _, err := Compute(in); err == nil || !strings.Contains(err.Error(), "3MB compression") {
		t.Errorf("too little: %v", err)
	}
	in.Compression = -1
	if _, err := Compute(in); err == nil {
		t.Error("a negative term is taken")
	}
}
