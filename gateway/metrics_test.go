package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/internal/histogram"
)

// scrape is /metrics as a scraper that speaks format is given it, by name.
func (g *testGateway) scrape(accept string) map[string]*dto.MetricFamily {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), "GET", "http://"+g.AdminAddr()+"/metrics", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		g.t.Fatal(resp.Status)
	}
	d := expfmt.NewDecoder(resp.Body, expfmt.ResponseFormat(resp.Header))
	families := make(map[string]*dto.MetricFamily)
	for {
		f := new(dto.MetricFamily)
		if err := d.Decode(f); errors.Is(err, io.EOF) {
			return families
		} else if err != nil {
			g.t.Fatal(err)
		}
		families[f.GetName()] = f
	}
}

// fetch is what the public port answers.
func (g *testGateway) fetch(path string) []byte {
	g.t.Helper()
	resp, err := http.Get("http://" + g.Addr() + path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return body
}

// valuesOf are the values of a family by the value of its one label, "" without.
func valuesOf(f *dto.MetricFamily) map[string]float64 {
	values := make(map[string]float64)
	for _, m := range f.GetMetric() {
		label := ""
		if len(m.GetLabel()) > 0 {
			label = m.GetLabel()[0].GetValue()
		}
		values[label] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return values
}

// The names that others rely on, with their labels: they are fixed.
var promised = map[string]string{
	"connections": "", "connections_max": "", "capacity_ratio": "", "admitted_total": "", "rejected_total": "reason", "closes_total": "code",
	"slow_total": "action", "rate_limited_total": "", "replay_requests_total": "result", "messages_in_total": "", "messages_out_total": "",
	"bytes_out_total": "", "gaps_total": "why", "delivery_seconds": "", "loop_lag_seconds": "", "backlog_bytes": "",
	"cgroup_memory_bytes": "", "cgroup_memory_limit_bytes": "", "broker_connected": "",
}

// Every name and every value of a label is there before anything has happened, and
// no other comes with what happens.
func TestMetricsAreThereFromTheStart(t *testing.T) {
	g := newTestGateway(t, nil)
	series := func() (list []string) {
		for name, f := range g.scrape("") {
			if !strings.HasPrefix(name, "odin_") {
				continue
			}
			for _, m := range f.GetMetric() {
				list = append(list, name+fmt.Sprint(m.GetLabel()))
			}
		}
		slices.Sort(list)
		return list
	}
	before := series()
	families := g.scrape("")
	for name, label := range promised {
		f := families["odin_"+name]
		switch {
		case f == nil:
			t.Errorf("no odin_%s", name)
		case label == "" && len(f.GetMetric()) != 1,
			label != "" && (len(f.GetMetric()) < 3 || f.GetMetric()[0].GetLabel()[0].GetName() != label):
			t.Errorf("odin_%s is %v", name, f.GetMetric())
		}
	}
	for _, name := range []string{"go_goroutines", "process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_start_time_seconds", "odin_build_info"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	if n := len(before); n > 250 {
		t.Errorf("%d series of our own", n)
	}

	// Channels, users and codes of their own choosing make no series.
	for i := range 20 {
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":["user-%d.private"]}`, i)
		c.want("ack")
		g.publish(fmt.Sprintf("user-%d.private", i), "1")
		c.want("msg")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_ = c.Write(ctx, 1, []byte("{"))
		cancel()
		_ = c.Close(3000+1, "of its own")
	}
	g.fetch("/nothing/there")
	g.eventually("the clients to be gone", func() bool { return g.Stats().CurrentConnections == 0 })
	if after := series(); !slices.Equal(before, after) {
		t.Errorf("series came or went: %d, then %d", len(before), len(after))
	}
	if n := valuesOf(g.scrape("")["odin_closes_total"])["other"]; n != 20 {
		t.Errorf("%v closed with a code of their own", n)
	}
}

// What /metrics says is what /stats says.
func TestMetricsEqualStats(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.MaxConnections, c.RateBurst, c.Version = 3, 3, "v1.2.3" })
	clients := []*client{g.dial(), g.dial(), g.dial()}
	if body := g.fetch("/ws"); !bytes.Contains(body, []byte("upgrade_required")) {
		t.Fatalf("%s", body)
	}
	if c, status := g.tryAs(""); c != nil || status != http.StatusServiceUnavailable {
		t.Fatalf("the fourth of three: %d", status)
	}
	for _, c := range clients {
		c.say(`{"op":"sub","id":1,"ch":["x","y.*"]}`)
		c.want("ack")
	}
	for i := range 5 {
		g.publish("x", fmt.Sprint(i))
		g.publish("y.z", fmt.Sprint(i))
	}
	for _, c := range clients {
		for range 10 {
			c.want("msg")
		}
	}
	for range 5 {
		clients[0].say(`{"op":"list","id":1}`)
	}
	clients[1].CloseNow()
	g.eventually("what was said", func() bool {
		s := g.Stats()
		return s.RateLimitedMessages > 0 && s.CurrentConnections == 2 && s.Delivery.Count == 30
	})

	var st Stats
	if body := g.fetch("/stats"); json.Unmarshal(body, &st) != nil {
		t.Fatalf("%s", body)
	}
	families := g.scrape("")
	// What goes on by itself between the two.
	moving := map[string]bool{"bytes_in_total": true, "accepted_total": true, "buffers_lent_bytes": true, "buffers_idle_bytes": true, "late_ticks_total": true, "goodbyes_failed_total": true}
	for _, m := range metrics {
		got := valuesOf(families["odin_"+m.name])
		want := map[string]float64{}
		if m.label == "" {
			want[""] = m.one(&st)
		}
		for _, v := range m.values {
			want[v] = m.of(&st, v)
		}
		if !reflect.DeepEqual(got, want) && !moving[m.name] {
			t.Errorf("%s: %v in /metrics, %v in /stats", m.name, got, want)
		}
	}
	for name, want := range map[string]float64{
		"odin_connections": 2, "odin_connections_max": 3, "odin_capacity_ratio": 2. / 3, "odin_admitted_total": 3, "odin_messages_in_total": 10,
		"odin_messages_out_total": 30, "odin_broker_connected": 1, "odin_subscriptions": 2 * 2,
	} {
		if got := valuesOf(families[name])[""]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if n := valuesOf(families["odin_rejected_total"])["at_capacity"]; n != 1 {
		t.Errorf("%v refused for want of a place", n)
	}
	if v := families["odin_build_info"].GetMetric()[0].GetLabel()[0].GetValue(); v != "v1.2.3" {
		t.Errorf("version %q", v)
	}
	h := families["odin_delivery_seconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 30 || math.Abs(h.GetSampleSum()-st.Delivery.Sum) > 1e-9 || len(h.GetBucket()) < 12 || len(h.GetBucket()) > 17 {
		t.Errorf("%v", h)
	}
}

// Fields of Stats that are in no metric, and why.
var notMetrics = map[string]string{
	"memoryMB":                "go_memstats_sys_bytes less go_memstats_heap_released_bytes",
	"slowClientsDisconnected": `slow_total{action="cut"}`,
	"slowStrikes":             `slow_total{action="strike"}`,
	"evicted":                 `slow_total{action="evict"}`,
	"messageReplayRequests":   "the sum of replay_requests_total",
	"rejected":                "rejected_total, by reason",
	"node":                    "the scraper's label instance; a random one would be a new series at each start",
	"version":                 "build_info",
	"uptimeSeconds":           "process_start_time_seconds",
	"goroutines":              "go_goroutines",
	"broker.epoch":            "text, and a new series at each change",
	"broker.error":            "text",
	"delivery":                "delivery_seconds, with finer buckets",
	"loopLag":                 "loop_lag_seconds, with finer buckets",
	"capacity":                "what the formula is made of: connections_max is its result",
	"memory":                  "cgroup_memory_bytes split up by the metrics named so: log, history_cache, buffers, backlog",
}

// TestEveryCounterIsAMetric gives every field of Stats a value of its own, and looks
// for it among the metrics.
func TestEveryCounterIsAMetric(t *testing.T) {
	var st Stats
	want := map[string][]float64{} // by path
	next := 1000.0
	var labels []string
	for _, m := range metrics {
		labels = append(labels, m.values...)
	}
	var fill func(path string, v reflect.Value)
	fill = func(path string, v reflect.Value) {
		value := func() float64 {
			next += 7
			want[path] = append(want[path], next)
			return next
		}
		switch v.Kind() {
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(path, v.Elem())
		case reflect.Struct:
			switch v.Type() {
			case reflect.TypeFor[LatencyStats](), reflect.TypeFor[MemoryStats](), reflect.TypeFor[capacity.Report]():
				want[path] = []float64{-1}
				return
			}
			for i := range v.NumField() {
				name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
				fill(strings.TrimPrefix(path+"."+name, "."), v.Field(i))
			}
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			for _, l := range labels {
				next++
				v.SetMapIndex(reflect.ValueOf(l), reflect.ValueOf(uint64(next)))
				want[path] = append(want[path], next)
			}
		case reflect.String:
			want[path] = []float64{-1}
			if path == "pressure" {
				v.SetString("evict")
				delete(want, path) // below
			}
		case reflect.Bool:
			v.SetBool(true) // below
		case reflect.Float64:
			v.SetFloat(value())
		case reflect.Int, reflect.Int64:
			v.SetInt(int64(value()))
		case reflect.Uint64:
			v.SetUint(uint64(value()))
		default:
			t.Fatalf("%s is a %v", path, v.Kind())
		}
	}
	fill("", reflect.ValueOf(&st).Elem())

	ch := make(chan prometheus.Metric, 1000)
	collectStats(&st, ch)
	close(ch)
	seen := map[float64]bool{}
	byName := map[string]float64{}
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			t.Fatal(err)
		}
		value := d.GetGauge().GetValue() + d.GetCounter().GetValue()
		seen[value], seen[math.Round(value*1e3)] = true, true // some are ms in Stats
		name := regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(m.Desc().String())[1]
		for _, l := range d.GetLabel() {
			name += " " + l.GetValue()
		}
		byName[name] = value
	}
	for path, values := range want {
		found := slices.ContainsFunc(values, func(v float64) bool { return seen[v] })
		why, listed := notMetrics[path]
		switch {
		case !found && !listed:
			t.Errorf("%s is in no metric", path)
		case found && listed:
			t.Errorf("%s is in a metric, and listed as in none: %s", path, why)
		}
	}
	for path := range notMetrics {
		if _, is := want[path]; !is {
			t.Errorf("%s is no field of Stats", path)
		}
	}
	for name, value := range map[string]float64{
		"odin_memory_pressure normal": 0, "odin_memory_pressure refuse": 0, "odin_memory_pressure evict": 1,
		"odin_broker_connected": 1,
	} {
		if got, is := byName[name]; !is || got != value {
			t.Errorf("%s is %v, want %v", name, got, value)
		}
	}
	// Where nothing is known of tokens, TLS and memory.
	for _, st := range []*Stats{{}, {Tokens: &TokenStats{KeysAgeMs: -1}}} {
		ch := make(chan prometheus.Metric, 1000)
		collectStats(st, ch)
		close(ch)
		n := 0
		for range ch {
			n++
		}
		if n != len(byName) {
			t.Errorf("%d metrics of %+v, want %d", n, st, len(byName))
		}
	}
}

// The codes of refusals are all there are in the code, each with its status.
func TestRefusalCodes(t *testing.T) {
	codes := map[string]bool{"ip_connections": true, "ip_rate": true} // of capacity.IPVerdict
	for _, dir := range []string{".", "wire"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`Status: http\.Status(\w+), Code: "(\w+)"|ref\.Status, ref\.Code = http\.Status(\w+), "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
				status, code := m[1]+m[3], m[2]+m[4]
				codes[code] = true
				i, known := refusalIndex[code]
				if known && strings.NewReplacer(" ", "", "-", "").Replace(http.StatusText(refusalCodes[i].status)) != status {
					t.Errorf("%s: %s goes with %s, and counts as %d", file, code, status, refusalCodes[i].status)
				}
			}
			if filepath.Base(file) == "refusal.go" {
				for _, m := range regexp.MustCompile(`return "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
					codes[m[1]] = true
				}
			}
		}
	}
	if len(codes) < 15 {
		t.Fatalf("only %v were found", codes)
	}
	for code := range codes {
		if _, known := refusalIndex[code]; !known {
			t.Errorf("%s is not in refusalCodes: it would count as other", code)
		}
	}
	for _, ref := range tokenRefusals {
		if i, known := refusalIndex[ref.Code]; !known || refusalCodes[i].status != ref.Status {
			t.Errorf("%d %s counts as something else", ref.Status, ref.Code)
		}
	}
	for _, r := range refusalCodes {
		if !codes[r.code] && r.code != other {
			t.Errorf("%s is the code of nothing", r.code)
		}
	}
}

// promlint finds nothing.
func TestMetricsAreClean(t *testing.T) {
	g := newTestGateway(t, nil)
	resp, err := http.Get("http://" + g.AdminAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	problems, err := promlint.New(resp.Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "odin_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, m := range metrics {
		if !strings.HasSuffix(m.help, ".") || len(m.help) < 12 {
			t.Errorf("%s: %q explains nothing", m.name, m.help)
		}
		if isCounter := strings.HasSuffix(m.name, "_total"); isCounter != (m.kind == prometheus.CounterValue) {
			t.Errorf("%s and its type don't agree", m.name)
		}
	}
}

// A scraper that takes native histograms is given one with every bucket, and one that
// reads text the same in fewer.
func TestHistogramsInBothForms(t *testing.T) {
	var h histogram.Histogram
	durations := []time.Duration{0, 7 * time.Microsecond, 100 * time.Microsecond, 976_562 * time.Nanosecond, 3 * time.Millisecond, 3 * time.Second, 5 * time.Minute}
	for _, d := range durations {
		h.Add(d, 2)
	}
	h.Publish()
	var s histogram.Snapshot
	s.Take(&h)
	var d dto.Metric
	if err := newLatencyMetric(deliveryDesc, s, time.Unix(1, 0)).Write(&d); err != nil {
		t.Fatal(err)
	}
	out := d.GetHistogram()
	if out.GetSampleCount() != 14 || out.GetSchema() != 2 || out.GetZeroCount() != 4 || len(out.GetPositiveSpan()) == 0 {
		t.Errorf("%v", out)
	}
	// The native buckets, unrolled: each duration but those below the first is in its own.
	at, sum, last := int32(0), int64(0), int64(0)
	k := 0
	for _, span := range out.GetPositiveSpan() {
		at += span.GetOffset()
		for range span.GetLength() {
			last += out.GetPositiveDelta()[k]
			k++
			if last > 0 {
				sum += last
				most := math.Exp2(float64(at) / 4)
				if !slices.ContainsFunc(durations, func(d time.Duration) bool {
					return d.Seconds() <= most && d.Seconds() > most/math.Exp2(0.25) || most > 64 && d > time.Minute
				}) {
					t.Errorf("%d up to %v s", last, most)
				}
			}
			at++
		}
	}
	if sum != 10 {
		t.Errorf("%d in the native buckets", sum)
	}
	for _, b := range out.GetBucket() {
		want := uint64(0)
		for _, d := range durations {
			if d.Seconds() <= b.GetUpperBound() {
				want += 2
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d up to %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	g := newTestGateway(t, nil)
	g.eventually("ticks", func() bool { return g.Stats().LoopLag.Count > 0 })
	native := g.scrape(string(expfmt.NewFormat(expfmt.TypeProtoDelim)))["odin_loop_lag_seconds"].GetMetric()[0].GetHistogram()
	text := g.scrape("")["odin_loop_lag_seconds"].GetMetric()[0].GetHistogram()
	if native.GetSchema() != 2 || native.GetZeroThreshold() == 0 || len(native.GetBucket()) == 0 || text.GetZeroThreshold() != 0 || len(text.GetBucket()) == 0 {
		t.Errorf("native: %v\ntext: %v", native, text)
	}
}

// A profile says which shard a loop's goroutine is of, and shows it.
func TestProfilesNameShards(t *testing.T) {
	g := newTestGateway(t, nil)
	resp, err := http.Get("http://" + g.AdminAddr() + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for shard := range 2 {
		if want := fmt.Sprintf(`"shard":"%d"`, shard); !strings.Contains(string(text), want) {
			t.Errorf("no %s among the goroutines", want)
		}
	}
}

// Scrapes go on while everything under them is drained and stopped; more at once than
// maxScrapes are refused, and take nothing.
func TestScrapesWhileItStops(t *testing.T) {
	g := newTestGateway(t, nil)
	for range 5 {
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":["x"]}`)
		c.want("ack")
	}
	h := g.metricsHandler()
	stop := make(chan struct{})
	var scrapers sync.WaitGroup
	var good, refused atomic.Int64
	for range 50 {
		scrapers.Go(func() {
			last := 0.0
			for {
				select {
				case <-stop:
					return
				default:
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
				switch w.Code {
				case http.StatusOK:
					good.Add(1)
					m := regexp.MustCompile(`(?m)^odin_loop_lag_seconds_count (\S+)$`).FindStringSubmatch(w.Body.String())
					n, err := strconv.ParseFloat(m[1], 64)
					if err != nil || n < last {
						t.Errorf("%v ticks after %v: %v", n, last, err)
					}
					last = n
				case http.StatusServiceUnavailable:
					refused.Add(1)
				default:
					t.Errorf("%d: %s", w.Code, w.Body)
				}
			}
		})
	}
	for i := range 20 {
		g.publish("x", fmt.Sprint(i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := g.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	close(stop)
	scrapers.Wait()
	if good.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d good, %d refused", good.Load(), refused.Load())
	}
}
