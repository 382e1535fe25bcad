package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// report is a run's trials and the medians of each server.
type report struct {
	Connections int      `json:"connections"`
	Size        int      `json:"message_bytes"`
	Medians     []median `json:"medians"`
	Trials      []trial  `json:"trials"`
}

type median struct {
	Server         string    `json:"server"`
	RSSPerConn     float64   `json:"rss_bytes_per_connection"`
	GoroutinesGrow int       `json:"goroutines_grown"`
	ConnectPerSec  float64   `json:"connections_per_second"`
	MicrosPerFrm   []float64 `json:"cpu_us_per_frame"` // by phase
	FramesPerSec   []float64 `json:"frames_per_second"`
}

func summarize(o *options, kinds []kind, all []trial) report {
	rep := report{Connections: o.connections, Size: o.size, Trials: all}
	for _, k := range kinds {
		var mine []trial
		for _, t := range all {
			if t.Server == k.name {
				mine = append(mine, t)
			}
		}
		of := func(f func(trial) float64) float64 { return middle(mine, f) }
		m := median{
			Server:         k.name,
			RSSPerConn:     of(func(t trial) float64 { return t.RSSPerConn }),
			GoroutinesGrow: int(of(func(t trial) float64 { return float64(t.GoroutinesGrow) })),
			ConnectPerSec:  of(func(t trial) float64 { return float64(t.Connections) / t.ConnectSeconds }),
		}
		for i := range o.phases {
			m.MicrosPerFrm = append(m.MicrosPerFrm, of(func(t trial) float64 { return t.Phases[i].MicrosPerFrm }))
			m.FramesPerSec = append(m.FramesPerSec, of(func(t trial) float64 { return t.Phases[i].FramesPerSec }))
		}
		rep.Medians = append(rep.Medians, m)
	}
	return rep
}

func middle(ts []trial, f func(trial) float64) float64 {
	var v []float64
	for _, t := range ts {
		v = append(v, f(t))
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// table prints the medians, and beside those of two servers the first's as a
// multiple of the second's.
func (r report) table(out io.Writer) {
	fmt.Fprintf(out, "%d connections, %d B messages, medians of %d\n\n%30s", r.Connections, r.Size, len(r.Trials)/len(r.Medians), "")
	for _, m := range r.Medians {
		fmt.Fprintf(out, "%12s", m.Server)
	}
	row := func(name string, digits int, of func(m median) float64) {
		fmt.Fprintf(out, "\n%-30s", name)
		for _, m := range r.Medians {
			fmt.Fprintf(out, "%12.*f", digits, of(m))
		}
		if len(r.Medians) == 2 {
			fmt.Fprintf(out, "%10.2f×", of(r.Medians[0])/of(r.Medians[1]))
		}
	}
	row("RSS, bytes a connection", 0, func(m median) float64 { return m.RSSPerConn })
	row("connections a second", 0, func(m median) float64 { return m.ConnectPerSec })
	for i, p := range r.Trials[0].Phases {
		row(fmt.Sprintf("CPU µs a frame, %g msg/s", p.Rate), 2, func(m median) float64 { return m.MicrosPerFrm[i] })
		row(fmt.Sprintf("frames a second, %g msg/s", p.Rate), 0, func(m median) float64 { return m.FramesPerSec[i] })
	}
	fmt.Fprintln(out)
}

// write prints the table, or JSON, or the one here and the other there.
func (r report) write(jsonTo string) error {
	out := io.Writer(os.Stdout)
	if jsonTo == "-" {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	r.table(out)
	if jsonTo == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonTo, append(b, '\n'), 0o644)
}
