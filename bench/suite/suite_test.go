package suite

import (
	"bytes"
	"context"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseRival(t *testing.T) {
	for _, c := range []struct {
		text string
		want Rival
		bad  bool
	}{
		{text: "uws=bin/uws {port} {size}", want: Rival{Name: "uws", Command: "bin/uws {port} {size}"}},
		{text: "x=a=b", want: Rival{Name: "x", Command: "a=b"}},
		{text: "c=ws://h:1/ws,pid=12,control=http://h:2/", want: Rival{Name: "c", URL: "ws://h:1/ws", PID: 12, Control: "http://h:2"}},
		{text: "c=ws://h:1/ws", bad: true},
		{text: "c=ws://h:1/ws,pid=0", bad: true},
		{text: "c=ws://h:1/ws,pid=1,what=2", bad: true},
		{text: "c=ws://h:1/ws,pid=1,control=h:2", bad: true},
		{text: "=x", bad: true},
		{text: "a b=x", bad: true},
		{text: "alone", bad: true},
	} {
		got, err := ParseRival(c.text)
		if (err != nil) != c.bad || !c.bad && got != c.want {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
	}
}

func TestSpread(t *testing.T) {
	if s := spreadOf([]float64{5, 1, 3}); s != (Spread{3, 1, 5, 3}) {
		t.Error(s)
	}
	if s := spreadOf([]float64{4, 1}); s != (Spread{2.5, 1, 4, 2}) {
		t.Error(s)
	}
	if s := spreadOf(nil); s.N != 0 || s.span(metric{}) != "–" {
		t.Error(s)
	}
}

// A ratio pairs what was measured in the same round, so that a machine that
// becomes slower in between changes nothing.
func TestRatiosArePaired(t *testing.T) {
	r := &Report{Rounds: 3, Connections: 100}
	add := func(server string, round int, cpu float64) {
		r.Samples = append(r.Samples, Sample{"fanout", fanoutCase(100, 10), server, round, map[string]float64{"cpu_us_per_frame": cpu}})
	}
	for round, drift := range []float64{1, 10, 100} {
		add(odinName, round+1, 2*drift)
		add(rawName, round+1, drift)
	}
	add(baselineName, 2, 60)
	r.judge()
	by := map[string]Row{}
	for _, row := range r.Rows {
		by[row.ID] = row
	}
	if t3 := by["T3"]; t3.Measured != (Spread{2, 2, 2, 3}) || t3.Verdict != "NOT MET" {
		t.Errorf("%+v", t3)
	}
	if t6 := by["T6c"]; t6.Measured.N != 1 || math.Abs(t6.Measured.Median-1./3) > 1e-9 || t6.Verdict != "met" {
		t.Errorf("%+v", t6)
	}
	if t1 := by["T1"]; t1.Measured.N != 0 || !strings.Contains(t1.Verdict, "not measured") {
		t.Errorf("%+v", t1)
	}
	if len(r.Times) != 2 || r.Times[0].Server != rawName || r.Times[0].Fanout.Median != .5 || r.Times[0].Memory.N != 0 {
		t.Errorf("%+v", r.Times)
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		id    string
		s     Sample
		wants string
	}{
		{"T2", Sample{"idle", "", odinName, 1, map[string]float64{"goroutines_grown": 0}}, "stretch"},
		{"T2", Sample{"idle", "", odinName, 1, map[string]float64{"goroutines_grown": 19}}, "met"},
		{"T2", Sample{"idle", "", odinName, 1, map[string]float64{"goroutines_grown": 20}}, "NOT MET"},
		{"T7", Sample{"storm", "", odinName, 1, map[string]float64{"connections_per_second": 15_000}}, "met"},
		{"T7", Sample{"storm", "", odinName, 1, map[string]float64{"connections_per_second": 14_999}}, "NOT MET"},
		{"T11", Sample{"growth", growthSpread, odinName, 1, map[string]float64{"times": 1}}, "met"},
	} {
		r := &Report{Rounds: 1, Samples: []Sample{c.s}}
		r.judge()
		for _, row := range r.Rows {
			if row.ID == c.id && row.Verdict != c.wants {
				t.Errorf("%s of %v: %s, want %s", c.id, c.s.Values, row.Verdict, c.wants)
			}
		}
	}
}

func TestGrowth(t *testing.T) {
	var all []Sample
	for i, cpu := range []float64{4, 5, 4.4} {
		all = append(all, Sample{"growth", fanoutCase(growthSizes(1000)[i], 10), odinName, 1, map[string]float64{"cpu_us_per_frame": cpu}})
	}
	got := growth(all)
	if len(got) != 1 || got[0].Values["times"] != 1.25 || got[0].Case != growthSpread {
		t.Errorf("%+v", got)
	}
	if got := growth(all[:2]); got != nil { // one size failed: nothing to compare
		t.Errorf("%+v", got)
	}
}

// Of the rates from 100 on the best counts at which all arrived and nobody was cut;
// a server that managed none has none.
func TestSaturation(t *testing.T) {
	s := func(server string, n int, rate, fps, delivered, cut float64) Sample {
		return Sample{"fanout", fanoutCase(n, rate), server, 1, map[string]float64{"frames_per_second": fps, "delivered": delivered, "cut": cut}}
	}
	got := saturation([]Sample{
		s("odin", 1000, 10, 9999, 1, 0), s("odin", 1000, 100, 90, 1, 0), s("odin", 1000, 150, 110, .995, 0),
		s("odin", 1000, 200, 300, .7, 0), s("odin", 1000, 300, 400, 1, 3), s("odin", 100, 100, 500, 1, 0),
		s("raw loop", 1000, 100, 80, .5, 0),
	}, 1000)
	if len(got) != 2 || got[0].Values["frames_per_second"] != 110 || got[0].Values["at_rate"] != 150 ||
		got[1].Server != "raw loop" || got[1].Values["frames_per_second"] != 0 {
		t.Errorf("%+v", got)
	}
	var o Options
	o.defaults()
	if !slices.Contains(o.Rates, 10) || slices.Max(o.Rates) <= saturationRate {
		t.Errorf("the targets are about other rates than the default's %v", o.Rates)
	}
}

func TestChoices(t *testing.T) {
	if _, err := choose([]string{"idle", "nonsense"}); err == nil {
		t.Error("nonsense is a scenario")
	}
	all, err := choose([]string{"echo", "idle"})
	if err != nil || len(all) != 2 || all[0].name != "idle" {
		t.Errorf("%v, %v", all, err)
	}
	b := &bench{Options: Options{Servers: []string{"nobody"}}}
	b.defaults()
	if err := b.prepare(context.Background(), &Report{}); err == nil {
		t.Error("nobody is a server")
	}
}

// The clock of another process counts what it and its children do.
func TestProcess(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read x; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; (read x) ; :")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	p := process{cmd.Process.Pid}
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = in.Write([]byte("go\n"))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		now, err := p.cpu()
		if err != nil {
			t.Fatal(err)
		}
		if now.since(before).total > 20*time.Millisecond && len(p.family()) == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s used, family %v", now.since(before).total, p.family())
		}
	}
	rss, pss, err := p.memory()
	if err != nil || rss < 1<<18 || pss <= 0 || pss > rss {
		t.Errorf("rss %d, pss %d, %v", rss, pss, err)
	}
	if _, err := (process{1 << 22}).cpu(); err == nil {
		t.Error("a process that does not exist has a clock")
	}
}

func TestFeed(t *testing.T) {
	f, err := openFeed("")
	if err != nil {
		t.Fatal(err)
	}
	if len(f.channels) != feedChannels || len(f.events) < feedEvents*9/10 {
		t.Errorf("%d channels, %d events", len(f.channels), len(f.events))
	}
	seen := map[string]int{}
	for _, e := range f.events {
		seen[e.Channel]++
	}
	if len(seen) != len(f.channels) || seen[f.channels[0]] < 10*seen[f.channels[len(f.channels)-1]] {
		t.Errorf("%d channels, %d events on the busiest and %d on the quietest", len(seen), seen[f.channels[0]], seen[f.channels[len(f.channels)-1]])
	}
	if _, err := openFeed("testdata/none"); err == nil {
		t.Error("a recording that is not there")
	}
}

// A rival from outside is started, measured and stopped like the rest; the raw
// loop stands for it here.
func TestRunWithARival(t *testing.T) {
	source := Checkout()
	if source == "" {
		t.Skip("not in a checkout")
	}
	bin, err := build(t.Context(), source, "./bench/rawloop", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	rival, err := ParseRival("mine=" + bin + " --addr {addr} --control {control} --size {size}")
	if err != nil {
		t.Fatal(err)
	}
	var notes bytes.Buffer
	rep, err := Run(t.Context(), Options{
		Rivals: []Rival{rival}, Servers: []string{"mine"}, Scenarios: []string{"idle", "storm", "fanout", "echo"},
		Connections: 50, Rounds: 1, For: 200 * time.Millisecond, Settle: 50 * time.Millisecond, Notes: &notes, Command: "test",
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, &notes)
	}
	if len(rep.Failures) > 0 || len(rep.Samples) != 7 {
		t.Errorf("failures %v, %d samples\n%s", rep.Failures, len(rep.Samples), &notes)
	}
	for _, s := range rep.Samples {
		if s.Scenario == "fanout" && s.Case != saturated && (s.Values["delivered"] != 1 || s.Values["cpu_us_per_frame"] <= 0 || s.Values["cut"] != 0) {
			t.Errorf("%+v", s)
		}
	}
	path := t.TempDir() + "/results/run"
	if err := rep.Write(path); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(path + ".md")
	if err != nil || !bytes.Contains(md, []byte("| mine |")) || !bytes.Contains(md, []byte(runtime.Version())) {
		t.Errorf("%v\n%s", err, md)
	}
}
