package suite

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Report is a finished run.
type Report struct {
	Taken   time.Time `json:"taken"`
	Version string    `json:"version"`          // of the gateway's binary
	Commit  string    `json:"commit,omitempty"` // of the checkout the others were built from
	Command string    `json:"command"`
	Machine Machine   `json:"machine"`
	Seconds float64   `json:"seconds"` // of all trials

	Connections   int           `json:"connections"`
	For           time.Duration `json:"load_ns"`
	Rounds        int           `json:"rounds"`
	LibraryRounds int           `json:"library_rounds"`
	Size          int           `json:"message_bytes"`
	Feed          string        `json:"feed"`

	Rows     []Row    `json:"rows"`  // the targets
	Times    []Times  `json:"times"` // what others cost, in odin's
	Stats    []Stat   `json:"stats"`
	Samples  []Sample `json:"samples"`
	Failures []string `json:"failures,omitempty"`
}

// Spread is the median of rounds, the least and the most. With an even number of
// rounds the median is the middle of two.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

func spreadOf(v []float64) Spread {
	if len(v) == 0 {
		return Spread{}
	}
	v = slices.Sorted(slices.Values(v))
	return Spread{(v[(len(v)-1)/2] + v[len(v)/2]) / 2, v[0], v[len(v)-1], len(v)}
}

// Stat is one metric of one server in one case.
type Stat struct {
	Scenario string `json:"scenario"`
	Case     string `json:"case"`
	Server   string `json:"server"`
	Metric   string `json:"metric"`
	Unit     string `json:"unit"`
	Spread
}

// Times is how many times as much as odin a server needs, rounds paired.
type Times struct {
	Server    string `json:"server"`
	Memory    Spread `json:"memory_a_connection"`
	Storm     Spread `json:"cpu_a_new_connection"`
	Fanout    Spread `json:"cpu_a_frame"`
	Echo      Spread `json:"cpu_an_echo"`                      // of 128 bytes, for servers that echo
	Command   Spread `json:"cpu_a_command"`                    // the op ping, for servers that speak the protocol
	Saturated Spread `json:"odins_frames_per_second_over_its"` // odin's over the server's, the most of each
}

// metric is how a value is written.
type metric struct {
	name, unit, title string
	digits            int
}

// metrics in the order they are shown.
var metrics = []metric{
	{"rss_bytes_per_connection", "B", "RSS a connection", 0},
	{"pss_bytes_per_connection", "B", "PSS a connection", 0},
	{"rss_bytes_per_further", "B", "RSS a further connection", 0},
	{"rss_bytes_before", "B", "RSS before", 0},
	{"rss_bytes_grown", "B", "RSS grown", 0},
	{"goroutines_grown", "", "goroutines more", 0},
	{"connections_per_second", "/s", "connections", 0},
	{"cpu_us_per_connection", "µs", "CPU a connection", 1},
	{"messages_per_second", "/s", "messages", 0},
	{"cpu_us_per_message", "µs", "CPU a message", 2},
	{"cpu_us_per_frame", "µs", "CPU a frame", 2},
	{"user_us_per_frame", "µs", "of it user", 2},
	{"client_cpu_us_per_frame", "µs", "the clients' CPU", 2},
	{"frames_per_second", "/s", "frames", 0},
	{"frames", "", "frames", 0},
	{"delivered", "×", "delivered", 3},
	{"cut", "", "cut", 0},
	{"slow_cut", "×", "slow ones cut", 2},
	{"at_rate", "/s", "at a rate of", 0},
	{"kernel_bytes_per_slow", "B", "socket memory a slow one", 0},
	{"p50_us", "µs", "p50", 0},
	{"p99_us", "µs", "p99", 0},
	{"max_us", "µs", "max", 0},
	{"times", "×", "dearest over cheapest", 2},
	{"connections", "", "connections", 0},
}

func (m metric) format(v float64) string { return fmt.Sprintf("%.*f", m.digits, v) }

func metricOf(name string) metric {
	for _, m := range metrics {
		if m.name == name {
			return m
		}
	}
	return metric{name: name, title: name, digits: 2}
}

// judge computes everything from the samples.
func (r *Report) judge() {
	type key struct{ scenario, kase, server, metric string }
	values := map[key][]float64{}
	var order []key
	for _, s := range r.Samples {
		for _, m := range metrics {
			v, ok := s.Values[m.name]
			if !ok {
				continue
			}
			k := key{s.Scenario, s.Case, s.Server, m.name}
			if values[k] == nil {
				order = append(order, k)
			}
			values[k] = append(values[k], v)
		}
	}
	for _, k := range order {
		r.Stats = append(r.Stats, Stat{k.scenario, k.kase, k.server, k.metric, metricOf(k.metric).unit, spreadOf(values[k])})
	}
	for _, name := range r.servers() {
		if name == odinName {
			continue
		}
		t := Times{
			Server:    name,
			Memory:    r.ratio("idle", first, "rss_bytes_per_connection", name, odinName),
			Storm:     r.ratio("storm", first, "cpu_us_per_connection", name, odinName),
			Fanout:    r.ratio("fanout", r.at(10), "cpu_us_per_frame", name, odinName),
			Echo:      r.ratio("echo", first, "cpu_us_per_frame", name, odinName),
			Command:   r.ratio("command", first, "cpu_us_per_frame", name, odinName),
			Saturated: r.ratio("fanout", saturated, "frames_per_second", odinName, name),
		}
		if t != (Times{Server: name}) {
			r.Times = append(r.Times, t)
		}
	}
	r.Rows = rows(r)
}

// servers in the order they were measured.
func (r *Report) servers() (all []string) {
	for _, s := range r.Samples {
		if !slices.Contains(all, s.Server) {
			all = append(all, s.Server)
		}
	}
	return all
}

// first picks the first case of a scenario.
const first = ""

// at is the case of fanout with this rate and all connections.
func (r *Report) at(rate float64) string { return fanoutCase(r.Connections, rate) }

// value is what a server measured in a round.
func (r *Report) value(scenario, kase, metric, server string, round int) (float64, bool) {
	for _, s := range r.Samples {
		if s.Scenario == scenario && s.Server == server && s.Round == round && (kase == first || s.Case == kase) {
			v, ok := s.Values[metric]
			return v, ok
		}
	}
	return 0, false
}

func (r *Report) spread(scenario, kase, metric, server string) Spread {
	var all []float64
	for round := range max(r.Rounds, r.LibraryRounds) {
		if v, ok := r.value(scenario, kase, metric, server, round+1); ok {
			all = append(all, v)
		}
	}
	return spreadOf(all)
}

// ratio is a's value over b's, within each round that has both.
func (r *Report) ratio(scenario, kase, metric, a, b string) Spread {
	var all []float64
	for round := range max(r.Rounds, r.LibraryRounds) {
		x, ok1 := r.value(scenario, kase, metric, a, round+1)
		y, ok2 := r.value(scenario, kase, metric, b, round+1)
		if ok1 && ok2 && y != 0 {
			all = append(all, x/y)
		}
	}
	return spreadOf(all)
}

// Write makes PATH.json and PATH.md.
func (r *Report) Write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	j, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", append(j, '\n'), 0o644); err != nil {
		return err
	}
	var md strings.Builder
	r.markdown(&md, filepath.Base(path))
	return os.WriteFile(path+".md", []byte(md.String()), 0o644)
}

// grid is a table of text.
type grid struct {
	head []string
	rows [][]string
	left int // columns of words, the first ones
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

func (g *grid) markdown(out io.Writer) {
	line := func(cells []string) { fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | ")) }
	line(g.head)
	rule := make([]string, len(g.head))
	for i := range rule {
		rule[i] = "---:"
	}
	for i := range g.left {
		rule[i] = "---"
	}
	line(rule)
	for _, r := range g.rows {
		line(r)
	}
	fmt.Fprintln(out)
}

func (g *grid) text(out io.Writer) {
	width := make([]int, len(g.head))
	for _, r := range append([][]string{g.head}, g.rows...) {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, r := range append([][]string{g.head}, g.rows...) {
		for i, c := range r {
			space := strings.Repeat(" ", width[i]-len([]rune(c)))
			if i < g.left {
				c += space
			} else {
				c = space + c
			}
			if i > 0 {
				c = "  " + c
			}
			fmt.Fprint(out, c)
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out)
}

// span is a spread as text: the median, and the rest when there is more.
func (s Spread) span(m metric) string {
	switch {
	case s.N == 0:
		return "–"
	case s.N == 1 || m.format(s.Min) == m.format(s.Max):
		return m.format(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", m.format(s.Median), m.format(s.Min), m.format(s.Max))
}

// timesGrid is the table of what the others need.
func (r *Report) timesGrid() *grid {
	g := &grid{left: 1, head: []string{"against", "memory a connection", "CPU a new connection", "CPU a frame, 10 msg/s", "CPU an echo", "CPU a command", "odin's frames/s, saturated"}}
	m := metric{digits: 2}
	for _, t := range r.Times {
		g.add(t.Server, t.Memory.span(m), t.Storm.span(m), t.Fanout.span(m), t.Echo.span(m), t.Command.span(m), t.Saturated.span(m))
	}
	return g
}

func (r *Report) rowGrid() *grid {
	g := &grid{left: 2, head: []string{"", "what", "target", "stretch", "measured (min–max)", "rounds", ""}}
	for _, row := range r.Rows {
		rounds, verdict := "–", row.Verdict
		if row.Measured.N > 0 {
			rounds = fmt.Sprint(row.Measured.N)
		}
		measured := row.Measured.span(metric{digits: row.digits})
		if row.Measured.N > 0 && row.Unit != "" {
			measured += " " + row.Unit
		}
		g.add(row.ID, row.What, row.Target, row.Stretch, measured, rounds, verdict)
	}
	return g
}

// Print shows the two tables that answer the question.
func (r *Report) Print(out io.Writer) {
	if len(r.Times) > 0 {
		fmt.Fprintf(out, "How many times as much as odin each needs (medians; %d connections)\n\n", r.Connections)
		r.timesGrid().text(out)
	}
	fmt.Fprintln(out, "Targets")
	fmt.Fprintln(out)
	r.rowGrid().text(out)
	for _, f := range r.Failures {
		fmt.Fprintln(out, "failed:", f)
	}
}

func (r *Report) markdown(out io.Writer, name string) {
	fmt.Fprintf(out, "# %s\n\n", r.Command)
	fmt.Fprintf(out, "odin %s", r.Version)
	if r.Commit != "" {
		fmt.Fprintf(out, ", commit %s", r.Commit)
	}
	m := r.Machine
	fmt.Fprintf(out, ", %s. %s, %d cores, %.1f GiB, %s, %s, load %.2f before. %d connections and %s a load unless a case says otherwise, messages of %d B, %d rounds (rivals %d), %.0f s of trials; events from the %s.\n\n",
		r.Taken.Format("2006-01-02 15:04 UTC"), m.CPU, m.Cores, float64(m.Memory)/(1<<30), m.Kernel, m.Go, m.Load, r.Connections, r.For, r.Size, r.Rounds, r.LibraryRounds, r.Seconds, r.Feed)
	fmt.Fprintf(out, "Server and clients share the machine. Figures are medians of the rounds, least and most in parentheses; a ratio is taken within a round. Absolute figures drift with the machine, ratios carry over.\n\n")
	fmt.Fprintf(out, "![%s](%s.svg)\n\n", r.Command, name)
	if len(r.Times) > 0 {
		fmt.Fprintf(out, "## How many times as much as odin each needs\n\n")
		r.timesGrid().markdown(out)
	}
	fmt.Fprintf(out, "## Targets\n\n")
	r.rowGrid().markdown(out)
	for _, sc := range scenarios {
		r.scenarioMarkdown(out, sc)
	}
	if len(r.Failures) > 0 {
		fmt.Fprintf(out, "## Failed\n\n")
		for _, f := range r.Failures {
			fmt.Fprintf(out, "- %s\n", strings.ReplaceAll(strings.TrimSpace(f), "\n", " "))
		}
	}
}

// scenarioMarkdown has a table for each case, a row for each server.
func (r *Report) scenarioMarkdown(out io.Writer, sc scenario) {
	var cases, servers []string
	for _, s := range r.Stats {
		if s.Scenario != sc.name {
			continue
		}
		if !slices.Contains(cases, s.Case) {
			cases = append(cases, s.Case)
		}
		if !slices.Contains(servers, s.Server) {
			servers = append(servers, s.Server)
		}
	}
	if len(cases) == 0 {
		return
	}
	fmt.Fprintf(out, "## %s\n\n%s.\n\n", sc.name, sc.what)
	for _, c := range cases {
		cells := map[[2]string]Spread{}
		var shown []metric
		for _, s := range r.Stats {
			if s.Scenario != sc.name || s.Case != c {
				continue
			}
			m := metricOf(s.Metric)
			if !slices.Contains(shown, m) {
				shown = append(shown, m)
			}
			cells[[2]string{s.Server, s.Metric}] = s.Spread
		}
		slices.SortFunc(shown, func(a, b metric) int { return cmp.Compare(slices.Index(metrics, a), slices.Index(metrics, b)) })
		g := &grid{left: 1, head: []string{c}}
		for _, m := range shown {
			title := m.title
			if m.unit != "" {
				title += ", " + m.unit
			}
			g.head = append(g.head, title)
		}
		for _, server := range servers {
			row, some := []string{server}, false
			for _, m := range shown {
				s := cells[[2]string{server, m.name}]
				row, some = append(row, s.span(m)), some || s.N > 0
			}
			if some {
				g.add(row...)
			}
		}
		g.markdown(out)
	}
}
