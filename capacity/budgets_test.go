package capacity

import (
	"strings"
	"testing"
)

func TestBudgets(t *testing.T) {
	for name, tc := range map[string]struct {
		limit, overhead int64
		need            Needs
		want            Shares // MiB·100, to be read
	}{
		"usual":          {512 * MiB, 128 * MiB, Needs{}, Shares{56_00, 28_00, 24_00, 8_00, 4_00, 8_00}},
		"96 MiB":         {96 * MiB, 48 * MiB, Needs{}, Shares{29_45, 10_30, 4_53, 1_80, 68, 1_24}},
		"the least":      {64 * MiB, 38 * MiB, Needs{}, Shares{26_37, 8_00, 2_00, 1_00, 25, 37}},
		"four times":     {4 * GiB, 512 * MiB, Needs{}, Shares{182_41, 113_33, 117_86, 37_86, 20_00, 40_53}},
		"long messages":  {512 * MiB, 128 * MiB, Needs{Buffers: 68 * MiB}, Shares{34_65, 13_46, 8_01, 68_00, 1_28, 2_46}},
		"need is met":    {512 * MiB, 128 * MiB, Needs{Buffers: MiB}, Shares{56_00, 28_00, 24_00, 8_00, 4_00, 8_00}},
		"need a bit off": {512 * MiB, 128 * MiB, Needs{Buffers: 9 * MiB}, Shares{55_64, 27_75, 23_74, 9_00, 3_95, 7_91}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := BudgetsFor(tc.limit, tc.overhead, tc.need)
			if err != nil {
				t.Fatal(err)
			}
			if got := sum(s.Terms()); got != tc.overhead {
				t.Errorf("the shares are %d of %d bytes", got, tc.overhead)
			}
			got := s
			for i, one := range shares {
				if *one.of(&s) < one.least && !(i == buffersAt && tc.need.Buffers > 0) {
					t.Errorf("%s is below its least", one.name)
				}
				*one.of(&got) = *one.of(&s) * 100 / MiB
				if diff := *one.of(&got) - *one.of(&tc.want); diff < -25 || diff > 25 {
					t.Errorf("%s is %d, want %d", one.name, *one.of(&got), *one.of(&tc.want))
				}
			}
			if s.Buffers < tc.need.Buffers {
				t.Errorf("%d bytes of buffers, want %d", s.Buffers, tc.need.Buffers)
			}
			if used := int64(s.MoreSubscriptions()) * SubscriptionCost; used > s.Subscriptions {
				t.Errorf("%d bytes of subscriptions in %d", used, s.Subscriptions)
			}
			for records, each := range map[TLSRecords]int64{TLSNone: 6 * KiB, TLSOwn: 8 * KiB, TLSKernel: 11 * KiB} {
				if used := int64(s.Unadmitted(records)) * each; used > s.Handshakes || used < s.Handshakes-each {
					t.Errorf("%q: %d bytes of handshakes in %d", records, used, s.Handshakes)
				}
			}
			t.Logf("%+v", got)
		})
	}
}

// What Go has to hold when every budget is full, and every connection too, is
// below what GOMEMLIMIT leaves it: the collector need not run all the time.
func TestBudgetsFitGoMemLimit(t *testing.T) {
	for _, c := range []struct{ limit, overhead int64 }{
		{512 * MiB, 0}, {256 * MiB, 0}, {2 * GiB, 0}, {8 * GiB, 0}, {96 * MiB, 48 * MiB}, {4 * GiB, 512 * MiB},
	} {
		r, err := Compute(Input{Limit: mem(c.limit), Profile: EventLoop, RuntimeOverhead: c.overhead, Backlog: DefaultBacklog})
		if err != nil {
			t.Fatal(err)
		}
		s, err := Budgets(c.limit, r.RuntimeOverhead)
		if err != nil {
			t.Fatal(err)
		}
		own := int64(r.Max) * OwnPerConnection
		// Of the runtime's share little is heap, of a handshake a sixth is ours.
		live := own + s.Broker + s.Logs + s.Buffers + s.Subscriptions + s.Handshakes/6
		if live > r.GoMemLimit() {
			t.Errorf("%s with %s of overhead: %s live, GOMEMLIMIT %s", FormatSize(c.limit), FormatSize(r.RuntimeOverhead), FormatSize(live), FormatSize(r.GoMemLimit()))
		}
	}
}

func TestBudgetsErrorsNameTheFlag(t *testing.T) {
	for name, tc := range map[string]struct {
		limit, overhead int64
		need            Needs
		want            []string
	}{
		"no limit":          {0, 128 * MiB, Needs{}, []string{"--memory-limit"}},
		"negative limit":    {-1, 128 * MiB, Needs{}, []string{"--memory-limit", "-1B"}},
		"no overhead":       {512 * MiB, 0, Needs{}, []string{"--runtime-overhead"}},
		"negative overhead": {512 * MiB, -MiB, Needs{}, []string{"--runtime-overhead", "-1MB"}},
		"overhead is all":   {128 * MiB, 128 * MiB, Needs{}, []string{"--memory-limit", "--runtime-overhead"}},
		"too little":        {512 * MiB, 16 * MiB, Needs{}, []string{"--runtime-overhead", "16MB", "38MB", "channel logs 2MB"}},
		"one byte short":    {512 * MiB, 38*MiB - 1, Needs{}, []string{"--runtime-overhead"}},
		"long messages":     {512 * MiB, 64 * MiB, Needs{Buffers: 68 * MiB}, []string{"--runtime-overhead", "--max-message", "68MB", "105MB"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := BudgetsFor(tc.limit, tc.overhead, tc.need)
			if err == nil {
				t.Fatalf("%+v", s)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}
