package suite

// Row is a target and what was measured of it.
type Row struct {
	ID       string `json:"id"`
	What     string `json:"what"`
	Target   string `json:"target"`
	Stretch  string `json:"stretch"`
	Unit     string `json:"unit,omitempty"`
	Measured Spread `json:"measured"`
	Verdict  string `json:"verdict"` // "stretch", "met", "NOT MET", or why nothing was measured

	digits int
}

// saturationRate is from where on fanout's rates, messages a second to all, count
// for saturation: the most frames a second that all arrived, and for which nobody
// was cut. 100 alone would offer 10 000 connections no more than the target itself.
const saturationRate = 100

// target is a bound on a median.
type target struct {
	id, what, unit  string
	digits          int
	atLeast         bool // else at most
	target, stretch float64
	targetText      string
	stretchText     string
	of              func(*Report) Spread
	without         string // said when there is nothing
}

func notRun(scenario string) string { return "not measured: scenario " + scenario }

// targets of a gateway with all its promises switched on.
var targets = []target{
	{
		id: "T1", what: "RSS a connection, one subscription each", unit: "B", target: 700, stretch: 350, targetText: "≤ 700 B", stretchText: "≤ 350 B",
		of:      func(r *Report) Spread { return r.spread("idle", first, "rss_bytes_per_connection", odinName) },
		without: notRun("idle"),
	},
	{
		id: "T2", what: "goroutines more than without connections", target: 19, stretch: 0, targetText: "< 20", stretchText: "0",
		of:      func(r *Report) Spread { return r.spread("idle", first, "goroutines_grown", odinName) },
		without: notRun("idle"),
	},
	{
		id: "T3", what: "CPU a frame, 10 msg/s to all, over the raw loop's", unit: "×", digits: 2, target: 1.25, stretch: 1.05, targetText: "≤ 1.25 ×", stretchText: "≤ 1.05 ×",
		of:      func(r *Report) Spread { return r.ratio("fanout", r.at(10), "cpu_us_per_frame", odinName, rawName) },
		without: notRun("fanout with the raw loop"),
	},
	{
		id: "T3o", what: "the same over the raw loop's on one thread", unit: "×", digits: 2, target: 1.25, stretch: 1.05, targetText: "≤ 1.25 ×", stretchText: "≤ 1.05 ×",
		of:      func(r *Report) Spread { return r.ratio("fanout", r.at(10), "cpu_us_per_frame", odinName, rawOneName) },
		without: notRun("fanout with the raw loop 1"),
	},
	{
		id: "T4", what: "CPU a frame, 10 msg/s to all, over uWebSockets'", unit: "×", digits: 2, target: 0.9, stretch: 0.75, targetText: "≤ 0.9 ×", stretchText: "≤ 0.75 ×",
		of:      func(r *Report) Spread { return r.ratio("fanout", r.at(10), "cpu_us_per_frame", odinName, uwsName) },
		without: notRun("fanout with --rival uws=…"),
	},
	{
		id: "T5", what: "frames a second, the most that all arrive", unit: "/s", atLeast: true, target: 1e6, targetText: "≥ 1 000 000", stretchText: "(next row)",
		of:      func(r *Report) Spread { return r.spread("fanout", saturated, "frames_per_second", odinName) },
		without: notRun("fanout"),
	},
	{
		id: "T5s", what: "the same over uWebSockets'", unit: "×", digits: 2, atLeast: true, stretch: 1.5, stretchText: "≥ 1.5 ×",
		of:      func(r *Report) Spread { return r.ratio("fanout", saturated, "frames_per_second", odinName, uwsName) },
		without: notRun("fanout with --rival uws=…"),
	},
	{
		id: "T6m", what: "memory a connection over the goroutine baseline's", unit: "×", digits: 4, target: 1. / 20, stretch: 1. / 100, targetText: "≤ 1/20", stretchText: "≤ 1/100",
		of: func(r *Report) Spread {
			return r.ratio("idle", first, "rss_bytes_per_connection", odinName, baselineName)
		},
		without: notRun("idle with the baseline"),
	},
	{
		id: "T6c", what: "CPU a frame, 10 msg/s to all, over the baseline's", unit: "×", digits: 3, target: 1. / 3, stretch: 1. / 5, targetText: "≤ 1/3", stretchText: "≤ 1/5",
		of:      func(r *Report) Spread { return r.ratio("fanout", r.at(10), "cpu_us_per_frame", odinName, baselineName) },
		without: notRun("fanout with the baseline"),
	},
	{
		id: "T7", what: "new connections a second, upgrade and first subscription", unit: "/s", atLeast: true, target: 15_000, stretch: 25_000, targetText: "≥ 15 000", stretchText: "≥ 25 000",
		of:      func(r *Report) Spread { return r.spread("storm", first, "connections_per_second", odinName) },
		without: notRun("storm"),
	},
	{
		id: "T8a", what: "POST /v1/publish to one subscriber's socket, p50", unit: "µs", target: 150, stretch: 60, targetText: "≤ 150 µs", stretchText: "≤ 60 µs",
		of:      func(r *Report) Spread { return r.spread("latency", first, "p50_us", odinName) },
		without: notRun("latency"),
	},
	{
		id: "T8b", what: "the same, p99", unit: "µs", target: 1000, stretch: 300, targetText: "≤ 1 ms", stretchText: "≤ 300 µs",
		of:      func(r *Report) Spread { return r.spread("latency", first, "p99_us", odinName) },
		without: notRun("latency"),
	},
	{
		id: "T9", what: "messages a second over NATS, acknowledged and delivered, 500 channels", unit: "/s", atLeast: true, target: 60_000, stretch: 120_000, targetText: "≥ 60 000", stretchText: "≥ 120 000",
		of:      func(r *Report) Spread { return r.spread("ingest", first, "messages_per_second", odinName) },
		without: notRun("ingest"),
	},
	{
		id: "T10", what: "connections admitted in 512 MiB (make e2e-oom, e2e-vm hold them)", atLeast: true, target: 54_613, stretch: 80_000, targetText: "≥ 54 613", stretchText: "≥ 80 000",
		of:      func(r *Report) Spread { return r.spread("capacity", first, "connections", odinName) },
		without: notRun("capacity"),
	},
	{
		id: "T11", what: "CPU a frame at 1/10, 1/2 and 3/2 of the connections, dearest over cheapest", unit: "×", digits: 2, target: 1.15, targetText: "≤ 1.15 ×",
		of:      func(r *Report) Spread { return r.spread("growth", growthSpread, "times", odinName) },
		without: notRun("growth"),
	},
	{
		id: "T12", what: "CPU a command (ping)", unit: "µs", digits: 2, target: 6, stretch: 3.5, targetText: "≤ 6 µs", stretchText: "≤ 3.5 µs",
		of:      func(r *Report) Spread { return r.spread("command", first, "cpu_us_per_frame", odinName) },
		without: notRun("command"),
	},
}

// rows judges every target by its median.
func rows(r *Report) []Row {
	var out []Row
	for _, t := range targets {
		row := Row{ID: t.id, What: t.what, Target: t.targetText, Stretch: t.stretchText, Unit: t.unit, digits: t.digits, Measured: t.of(r)}
		holds := func(bound float64) bool {
			if t.atLeast {
				return row.Measured.Median >= bound
			}
			return row.Measured.Median <= bound
		}
		switch {
		case row.Measured.N == 0:
			row.Verdict = t.without
		case t.stretchNumber() && holds(t.stretch):
			row.Verdict = "stretch"
		case t.targetText == "": // only a stretch
			row.Verdict = "not yet"
		case holds(t.target):
			row.Verdict = "met"
		default:
			row.Verdict = "NOT MET"
		}
		out = append(out, row)
	}
	return out
}

// stretchNumber tells a stretch of 0 from none.
func (t target) stretchNumber() bool { return t.stretch != 0 || t.stretchText == "0" }
