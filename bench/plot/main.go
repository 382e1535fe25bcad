// Command plot draws a report of odin bench: plot REPORT.json writes REPORT.svg.
// It is a module of its own so that what draws is in nobody's binary.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// report is the part of the report that is drawn.
type report struct {
	Connections int
	Taken       string
	Commit      string
	Machine     struct {
		CPU   string
		Cores int
	}
	Stats []stat
}

type stat struct {
	Scenario, Case, Server, Metric string
	Median, Min, Max               float64
}

// panel is one diagram: the servers' values in one case of one scenario.
type panel struct {
	title, scenario, metric string
	kase                    string // what the case ends with; "" for the first
	digits                  int
}

var panels = []panel{
	{"memory a connection, bytes (log)", "idle", "rss_bytes_per_connection", "", 0},
	{"CPU a frame sent to all, 10 msg/s, µs", "fanout", "cpu_us_per_frame", " 10 msg/s", 2},
	{"CPU an echo of 128 B, µs", "echo", "cpu_us_per_frame", "", 2},
	{"frames a second, the most that all arrive (log)", "fanout", "frames_per_second", "saturated", 0},
}

func main() {
	if len(os.Args) != 2 || !strings.HasSuffix(os.Args[1], ".json") {
		fmt.Fprintln(os.Stderr, "usage: plot REPORT.json")
		os.Exit(2)
	}
	if err := run(os.Args[1], strings.TrimSuffix(os.Args[1], ".json")+".svg"); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	var plots []*plot.Plot
	for _, pn := range panels {
		if bars := pn.find(r.Stats); len(bars) > 0 {
			p, err := pn.draw(bars)
			if err != nil {
				return err
			}
			plots = append(plots, p)
		}
	}
	if len(plots) == 0 {
		return errors.New("nothing in it can be drawn: it has no scenario idle, fanout or echo")
	}
	const width, height = 12 * vg.Centimeter, 8 * vg.Centimeter
	columns := min(2, len(plots))
	rows := (len(plots) + columns - 1) / columns
	canvas := vgsvg.New(width*vg.Length(columns), height*vg.Length(rows)+vg.Centimeter)
	dc := draw.New(canvas)
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	foot := fmt.Sprintf("%d connections, medians with least and most; %s, %d cores; commit %s, %s", r.Connections, r.Machine.CPU, r.Machine.Cores, r.Commit, r.Taken)
	small := plot.DefaultFont
	small.Size = vg.Points(8)
	dc.FillText(text.Style{Color: color.Gray{90}, Font: small, Handler: plot.DefaultTextHandler}, vg.Point{X: vg.Points(6), Y: vg.Points(8)}, foot)
	for i, p := range plots {
		x := width * vg.Length(i%columns)
		y := vg.Centimeter + height*vg.Length(rows-1-i/columns)
		p.Draw(draw.Crop(dc, x+vg.Points(6), x+width-width*vg.Length(columns)-vg.Points(6), y, y+height-height*vg.Length(rows)-vg.Centimeter-vg.Points(6)))
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = canvas.WriteTo(f)
	return errors.Join(err, f.Close())
}

// find is the case's stats in the order they were measured.
func (pn panel) find(all []stat) (bars []stat) {
	kase := ""
	for _, s := range all {
		if s.Scenario != pn.scenario || s.Metric != pn.metric || !strings.HasSuffix(s.Case, pn.kase) || s.Median <= 0 {
			continue
		}
		if kase == "" || pn.kase != "" {
			kase = s.Case // with several crowds of one rate the last, which is all
		}
		if s.Case == kase {
			bars = append(bars, s)
		}
	}
	last := bars[:0:0]
	for _, s := range bars {
		if s.Case == kase {
			last = append(last, s)
		}
	}
	return last
}

func (pn panel) draw(bars []stat) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text = pn.title
	p.Title.TextStyle.Font.Size = vg.Points(11)
	p.Title.Padding = vg.Points(4)
	p.HideY()
	logarithmic := strings.HasSuffix(pn.title, "(log)")
	scale, floor := func(v float64) float64 { return v }, 0.
	if logarithmic {
		// Bars begin at a power of ten below the least.
		least := math.Inf(1)
		for _, s := range bars {
			least = min(least, s.Min, s.Median)
		}
		floor = math.Floor(math.Log10(max(least, 1)))
		if math.Pow(10, floor) > least/1.5 {
			floor--
		}
		scale = func(v float64) float64 { return max(0, math.Log10(max(v, 1e-9))-floor) }
	}
	names, most := make([]string, len(bars)), 0.
	labels := plotter.XYLabels{}
	for i, s := range bars {
		at := len(bars) - 1 - i // the first on top
		names[at] = s.Server
		bar, err := plotter.NewBarChart(plotter.Values{scale(s.Median)}, vg.Points(12))
		if err != nil {
			return nil, err
		}
		bar.Horizontal, bar.XMin, bar.LineStyle.Width = true, float64(at), 0
		bar.Color = color.RGBA{150, 160, 175, 255}
		if s.Server == "odin" {
			bar.Color = color.RGBA{30, 110, 200, 255}
		}
		whisker, err := plotter.NewLine(plotter.XYs{{X: scale(s.Min), Y: float64(at)}, {X: scale(s.Max), Y: float64(at)}})
		if err != nil {
			return nil, err
		}
		whisker.Width = vg.Points(1.5)
		p.Add(bar, whisker)
		end := max(scale(s.Median), scale(s.Max))
		most = max(most, end)
		labels.XYs = append(labels.XYs, plotter.XY{X: end, Y: float64(at)})
		labels.Labels = append(labels.Labels, fmt.Sprintf(" %.*f", pn.digits, s.Median))
	}
	l, err := plotter.NewLabels(labels)
	if err != nil {
		return nil, err
	}
	for i := range l.TextStyle {
		l.TextStyle[i].YAlign = draw.YCenter
		l.TextStyle[i].Font.Size = vg.Points(9)
	}
	p.Add(l)
	p.NominalY(names...)
	p.X.Min, p.X.Max = 0, most*1.2 // room for the labels
	p.Y.Min, p.Y.Max = -0.7, float64(len(bars))-0.3
	p.X.Tick.Label.Font.Size = vg.Points(8)
	if logarithmic {
		var ticks plot.ConstantTicks
		for e := 0.; e <= most; e++ {
			ticks = append(ticks, plot.Tick{Value: e, Label: fmt.Sprintf("%g", math.Pow(10, floor+e))})
		}
		p.X.Tick.Marker = ticks
	}
	return p, nil
}
