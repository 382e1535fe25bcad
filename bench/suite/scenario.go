package suite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/odin-ws/odin/internal/swarm"
)

// scenario is one kind of load.
type scenario struct {
	name string
	what string
	fits func(*contender) bool
	play func(context.Context, *bench, contender) ([]Sample, error)
}

func anyone(*contender) bool       { return true }
func speaksOdin(c *contender) bool { return c.wire == odinWire }
func echoes(c *contender) bool     { return c.name != baselineName }
func floors(c *contender) bool     { return c.own }
func onlyOdin(c *contender) bool   { return c.name == odinName }

// scenarios in the order they are played.
var scenarios = []scenario{
	{"idle", "connections that do nothing, 1, 10 and 200 subscriptions each: memory and goroutines", anyone, playIdle},
	{"storm", "connections as fast as they are taken, upgrade and first subscription: connections a second, CPU each", anyone, playStorm},
	{"fanout", "one channel that all follow: CPU a frame and frames a second, by rate and number of connections", anyone, playFanout},
	{"growth", "the same at a tenth, half and one and a half times the connections: does a frame cost the same", floors, playGrowth},
	{"echo", "texts of 128 bytes sent back, one in the air on each of 1000 connections: CPU a frame", echoes, playEcho},
	{"command", "the op ping, one in the air on each of 1000 connections: CPU a command", speaksOdin, playCommand},
	{"channels", "500 channels, ten of them a connection, events by a market's popularity: CPU a frame", speaksOdin, playChannels},
	{"slow", "one connection in twenty hardly reads: what the others get, who is cut", speaksOdin, playSlow},
	{"churn", "visitors that come, subscribe and leave beside those who stay: CPU a visit, memory afterwards", speaksOdin, playChurn},
	{"latency", "POST /v1/publish to one subscriber's socket, 100 a second: p50 and p99", speaksOdin, playLatency},
	{"ingest", "JetStream publishes over NATS, acknowledged, 500 channels with a subscriber each: messages a second", onlyOdin, playIngest},
	{"capacity", "what the formula admits in 512 MiB", onlyOdin, playCapacity},
}

// Scenarios lists names and what each measures.
func Scenarios() (all [][2]string) {
	for _, s := range scenarios {
		all = append(all, [2]string{s.name, s.what})
	}
	return all
}

func choose(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var chosen []scenario
	for _, s := range scenarios {
		if slices.Contains(names, s.name) {
			chosen = append(chosen, s)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == n }) {
			var all []string
			for _, s := range scenarios {
				all = append(all, s.name)
			}
			return nil, fmt.Errorf("no scenario %q; there are %s", n, strings.Join(all, ", "))
		}
	}
	return chosen, nil
}

// herd is the load clients of one trial.
type herd struct{ *swarm.Swarm }

// gather opens connections and waits until each is ready; one that fails is an
// error.
func (b *bench) gather(cfg swarm.Config) (herd, error) {
	cfg.Child = b.Child
	if cfg.InFlight == 0 {
		cfg.InFlight = 256
	}
	cfg.Timeout = 20 * time.Second
	sw, err := swarm.Start(cfg)
	if err != nil {
		return herd{}, err
	}
	h := herd{sw}
	for {
		c := h.Counts()
		t := c.Total()
		if c.Settled > 0 && t.Connected+t.Errors.Sum() == cfg.Connections {
			if t.Errors.Sum() > 0 {
				h.close()
				return herd{}, fmt.Errorf("%d of %d connections failed: %s", t.Errors.Sum(), cfg.Connections, t.Errors)
			}
			return h, nil
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (h herd) close() { _, _ = h.Finish(swarm.End{}) }

// crowd is a configuration for s with everyone on the broadcast channel.
func crowd(s *server, n int) swarm.Config {
	cfg := swarm.Config{
		URL: s.url, Connections: n,
		// A client asleep in epoll_wait is woken for every frame, at the server's
		// expense. This one lets a burst pile up: what is measured is the server.
		Pause: time.Millisecond,
		Plain: s.channel == "",
	}
	if s.channel != "" {
		cfg.Channels = []string{s.channel}
	}
	return cfg
}

// warm makes the broadcast channel exist before thousands ask for it at once, as
// a market's channels do.
func (s *server) warm(ctx context.Context) error {
	if s.channel == "" {
		return nil
	}
	_, err := s.broadcast(ctx, phase{rate: 1, count: 1})
	return err
}

// playIdle measures what connections hold. Those that know channels are also asked
// with 10 and 200 subscriptions; 200 with a tenth of the connections and a larger
// budget for subscriptions than a container of 512 MiB has.
func playIdle(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	sizes := []struct{ subs, connections int }{{1, b.Connections}}
	if c.wire == odinWire {
		sizes = append(sizes, struct{ subs, connections int }{10, b.Connections}, struct{ subs, connections int }{200, max(1, b.Connections/10)})
	}
	var out []Sample
	for _, size := range sizes {
		var n need
		if size.subs > 16 {
			n.odin = []string{"--runtime-overhead", "1GiB"}
		}
		s, err := b.begin(ctx, c, n)
		if err != nil {
			return out, err
		}
		v, err := idle(ctx, b, s, size.subs, size.connections)
		b.end(s)
		if err != nil {
			return out, fmt.Errorf("%d subscriptions: %w", size.subs, err)
		}
		out = append(out, Sample{Case: caseOf(size.connections, fmt.Sprintf("%d subscriptions", size.subs)), Values: v})
	}
	return out, nil
}

func caseOf(connections int, rest string) string {
	return fmt.Sprintf("%d connections, %s", connections, rest)
}

func idle(ctx context.Context, b *bench, s *server, subs, n int) (map[string]float64, error) {
	cfg := crowd(s, n)
	if s.channel != "" {
		cfg.Channels = channelNames(subs)
		if err := s.makeChannels(ctx, cfg.Channels); err != nil {
			return nil, err
		}
	}
	before, err := s.goroutines() // first: its own buffers are not the connections'
	if err != nil {
		return nil, err
	}
	time.Sleep(b.Settle)
	rss, pss, err := s.proc.memory()
	if err != nil {
		return nil, err
	}
	// In two steps: what is free and resident at first is used up by the first fifth.
	first := max(1, n/5)
	cfg.Connections = first
	h, err := b.gather(cfg)
	if err != nil {
		return nil, err
	}
	defer h.close()
	time.Sleep(b.Settle)
	rssFirst, _, err := s.proc.memory()
	if err != nil {
		return nil, err
	}
	if cfg.Connections = n - first; cfg.Connections > 0 {
		h, err := b.gather(cfg)
		if err != nil {
			return nil, err
		}
		defer h.close()
	}
	time.Sleep(b.Settle)
	rssNow, pssNow, err := s.proc.memory()
	if err != nil {
		return nil, err
	}
	v := map[string]float64{
		"rss_bytes_per_connection": float64(rssNow-rss) / float64(n),
		"pss_bytes_per_connection": float64(pssNow-pss) / float64(n),
		"rss_bytes_before":         float64(rss),
	}
	if n > first {
		v["rss_bytes_per_further"] = float64(rssNow-rssFirst) / float64(n-first)
	}
	after, err := s.goroutines()
	if before >= 0 {
		v["goroutines_grown"] = float64(after - before)
	}
	return v, err
}

// channelNames are n names, as long as a market's.
func channelNames(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("trade.BENCH.%04d", i)
	}
	return all
}

// makeChannels publishes one message to each.
func (s *server) makeChannels(ctx context.Context, names []string) error {
	var body strings.Builder
	for i, ch := range names {
		sep := ','
		if i == 0 {
			sep = '['
		}
		fmt.Fprintf(&body, `%c{"ch":%q,"data":0}`, sep, ch)
	}
	_, err := post(ctx, s.admin+"/v1/publish/batch", body.String()+"]")
	return err
}

// stormProcesses is over how many processes the clients of a storm are spread: one,
// on one core, would be the bound of what is measured.
const stormProcesses = 2

// playStorm measures arrivals.
func playStorm(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	before, err := s.proc.cpu()
	if err != nil {
		return nil, err
	}
	cfg := crowd(s, b.Connections)
	cfg.Pause, cfg.InFlight = 0, 512
	if len(b.Child) > 0 {
		cfg.Processes = stormProcesses
	}
	h, err := b.gather(cfg)
	if err != nil {
		return nil, err
	}
	defer h.close()
	after, err := s.proc.cpu()
	if err != nil {
		return nil, err
	}
	counts := h.Counts()
	return []Sample{{Case: caseOf(b.Connections, "512 at once"), Values: map[string]float64{
		"connections_per_second": float64(b.Connections) / counts.Settled.Seconds(),
		"cpu_us_per_connection":  micros(after.since(before).total, b.Connections),
	}}}, nil
}

func micros(d time.Duration, n int) float64 {
	return float64(d) / float64(time.Microsecond) / float64(max(1, n))
}

// playFanout sends to all at once, by rates in turn, to one crowd after another.
func playFanout(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	crowds := []int{b.Connections}
	if b.Sweep {
		crowds = []int{max(1, b.Connections/10), b.Connections}
	}
	var out []Sample
	for _, n := range crowds {
		samples, err := b.fanout(ctx, c, n, b.Rates)
		out = append(out, samples...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

func fanoutCase(n int, rate float64) string { return caseOf(n, fmt.Sprintf("%g msg/s", rate)) }

func (b *bench) fanout(ctx context.Context, c contender, n int, rates []float64) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	if s.broadcast == nil {
		return nil, nil // a rival without control
	}
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	h, err := b.gather(crowd(s, n))
	if err != nil {
		return nil, err
	}
	defer h.close()
	// Rings and stacks that grow with the first messages are not what a frame costs.
	if _, err := spread(ctx, s, h, phase{rate: 60, count: 120}); err != nil {
		return nil, fmt.Errorf("before anything is measured: %w", err)
	}
	if err := pause(ctx, b.Settle/2); err != nil {
		return nil, err
	}
	var out []Sample
	for _, rate := range rates {
		v, err := spread(ctx, s, h, during(rate, b.For))
		if err != nil {
			return out, fmt.Errorf("%g messages a second: %w", rate, err)
		}
		out = append(out, Sample{Case: fanoutCase(n, rate), Values: v})
	}
	return out, nil
}

// saturated is the case of the samples that saturation adds.
const saturated = "saturated"

// saturation is, for each server and round, the most frames a second that a rate
// of at least saturationRate brought to all n connections, whole and with nobody
// cut: the best of several, since beyond it servers that care for slow readers cut
// them and others fall behind.
func saturation(all []Sample, n int) []Sample {
	type key struct {
		server string
		round  int
	}
	best := map[key]Sample{}
	var order []key
	for _, s := range all {
		var connections int
		var rate float64
		if s.Scenario != "fanout" {
			continue
		}
		if _, err := fmt.Sscanf(s.Case, "%d connections, %g msg/s", &connections, &rate); err != nil || connections != n || rate < saturationRate {
			continue
		}
		k := key{s.Server, s.Round}
		was, seen := best[k]
		if !seen {
			order = append(order, k)
		}
		whole := s.Values["delivered"] >= .99 && s.Values["cut"] == 0
		if !seen || whole && s.Values["frames_per_second"] > was.Values["frames_per_second"] {
			v := 0.0
			if whole {
				v = s.Values["frames_per_second"]
			}
			best[k] = Sample{"fanout", saturated, k.server, k.round, map[string]float64{"frames_per_second": v, "at_rate": rate}}
		}
	}
	var out []Sample
	for _, k := range order {
		out = append(out, best[k])
	}
	return out
}

// spread broadcasts and waits until all frames have arrived, or none has for a
// second.
func spread(ctx context.Context, s *server, h herd, p phase) (map[string]float64, error) {
	m, err := begin(s, h)
	if err != nil {
		return nil, err
	}
	messages, err := s.broadcast(ctx, p)
	if err != nil {
		return nil, err
	}
	return m.end(uint64(messages) * uint64(m.open))
}

// measurement is the time between begin and end.
type measurement struct {
	s     *server
	h     herd
	from  swarm.Counts
	open  int
	cpu   usage
	start time.Time
}

func begin(s *server, h herd) (*measurement, error) {
	m := &measurement{s: s, h: h, from: h.Counts(), start: time.Now()}
	m.open = m.from.Roles[swarm.Normal].Open
	var err error
	m.cpu, err = s.proc.cpu()
	return m, err
}

// end waits for so many frames, or a second without one.
func (m *measurement) end(expected uint64) (map[string]float64, error) {
	now := m.h.Counts()
	last := time.Now()
	for frames := now.Frames; now.Frames-m.from.Frames < expected && time.Since(last) < time.Second; {
		time.Sleep(20 * time.Millisecond)
		if now = m.h.Counts(); now.Frames != frames {
			frames, last = now.Frames, time.Now()
		}
	}
	cpu, err := m.s.proc.cpu()
	if err != nil {
		return nil, err
	}
	frames := now.Frames - m.from.Frames
	if frames == 0 {
		return nil, fmt.Errorf("no frame arrived")
	}
	used := cpu.since(m.cpu)
	seconds := time.Unix(0, now.LastNS).Sub(m.start).Seconds()
	clients := (now.CPU - m.from.CPU) * 1e6
	return map[string]float64{
		"cpu_us_per_frame":        micros(used.total, int(frames)),
		"user_us_per_frame":       micros(used.user, int(frames)),
		"client_cpu_us_per_frame": clients / float64(frames),
		"frames_per_second":       float64(frames) / seconds,
		"frames":                  float64(frames),
		"delivered":               float64(frames) / float64(max(1, expected)),
		"cut":                     float64(m.from.Roles[swarm.Normal].Open - now.Roles[swarm.Normal].Open),
	}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Fan-out at growing numbers of connections.
const growthRate = 10

func growthSizes(n int) []int { return []int{max(1, n/10), max(1, n/2), n + n/2} }

func playGrowth(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	var out []Sample
	for _, n := range growthSizes(b.Connections) {
		samples, err := b.fanout(ctx, c, n, []float64{growthRate})
		out = append(out, samples...)
		if err != nil {
			return out, fmt.Errorf("%d connections: %w", n, err)
		}
	}
	return out, nil
}

// growthSpread is the case of the samples that growth adds.
const growthSpread = "dearest over cheapest"

// growth compares the sizes of one server and round: how much dearer a frame is
// where it is dearest than where it is cheapest.
func growth(all []Sample) []Sample {
	type key struct {
		server string
		round  int
	}
	costs := map[key][]float64{}
	var order []key
	for _, s := range all {
		if s.Scenario == "growth" {
			k := key{s.Server, s.Round}
			if costs[k] == nil {
				order = append(order, k)
			}
			costs[k] = append(costs[k], s.Values["cpu_us_per_frame"])
		}
	}
	var out []Sample
	for _, k := range order {
		if c := costs[k]; len(c) == 3 {
			out = append(out, Sample{"growth", growthSpread, k.server, k.round, map[string]float64{"times": slices.Max(c) / slices.Min(c)}})
		}
	}
	return out
}

// How many volleys are in the air, each on a connection of its own that goes on
// with it; the other connections are idle.
const inTheAir = 1000

func playEcho(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	return b.rally(ctx, c, "echo of 128 B", func(s *server) swarm.Config {
		return swarm.Config{URL: s.echo, Plain: true, Connections: b.Connections, Volley: strings.Repeat("e", 128)}
	})
}

func playCommand(ctx context.Context, b *bench, c contender) ([]Sample, error) {
	return b.rally(ctx, c, "ping", func(s *server) swarm.Config {
		cfg := crowd(s, b.Connections)
		cfg.Volley = `{"op":"ping","id":1}`
		return cfg
	})
}

// rally keeps volleys in the air.
func (b *bench) rally(ctx context.Context, c contender, what string, config func(*server) swarm.Config) ([]Sample, error) {
	s, err := b.begin(ctx, c, need{})
	if err != nil {
		return nil, err
	}
	defer b.end(s)
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	cfg := config(s)
	cfg.Pause = 0
	h, err := b.gather(cfg)
	if err != nil {
		return nil, err
	}
	defer h.close()
	n := min(inTheAir, b.Connections)
	h.Volley(n)
	defer h.Volley(0)
	if err := pause(ctx, 300*time.Millisecond); err != nil { // until it flows
		return nil, err
	}
	was, start := h.Counts(), time.Now()
	before, err := s.proc.cpu()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, b.For); err != nil {
		return nil, err
	}
	after, err := s.proc.cpu()
	if err != nil {
		return nil, err
	}
	now, took := h.Counts(), time.Since(start)
	answers := int(now.Answers - was.Answers)
	if answers == 0 {
		return nil, fmt.Errorf("no answer came")
	}
	used := after.since(before)
	return []Sample{{Case: caseOf(b.Connections, fmt.Sprintf("%s, %d in the air", what, n)), Values: map[string]float64{
		"cpu_us_per_frame":        micros(used.total, answers),
		"user_us_per_frame":       micros(used.user, answers),
		"client_cpu_us_per_frame": (now.CPU - was.CPU) * 1e6 / float64(answers),
		"frames_per_second":       float64(answers) / took.Seconds(),
		"cut":                     float64(b.Connections - now.Roles[swarm.Normal].Open),
	}}}, nil
}
