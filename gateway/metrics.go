package gateway

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/odin-ws/odin/internal/histogram"
)

// metricsHandler serves /metrics: what /stats has, under Prometheus names, and what
// client_golang knows of the Go runtime and of the process. Nothing is counted for
// it: a scrape reads the counters there are.
func (g *Gateway) metricsHandler() http.Handler {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collector{g}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog:            quietLog,
		MaxRequestsInFlight: maxScrapes,
		EnableOpenMetrics:   true,
	})
}

// maxScrapes bounds the scrapes under way, each of which makes about 100 KiB of text.
const maxScrapes = 4

// collector reads a gateway when it is scraped.
type collector struct{ g *Gateway }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for i := range metrics {
		ch <- metrics[i].desc
	}
	ch <- buildDesc
	ch <- deliveryDesc
	ch <- loopLagDesc
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	st := c.g.Stats()
	collectStats(&st, ch)
	ch <- newLatencyMetric(deliveryDesc, c.g.deliveryTimes(), c.g.started)
	ch <- newLatencyMetric(loopLagDesc, c.g.loopLags(), c.g.started)
}

// collectStats makes the metrics of a Stats, all but the histograms.
func collectStats(st *Stats, ch chan<- prometheus.Metric) {
	for i := range metrics {
		m := &metrics[i]
		if m.label == "" {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.one(st))
			continue
		}
		for _, value := range m.values {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(st, value), value)
		}
	}
	ch <- prometheus.MustNewConstMetric(buildDesc, prometheus.GaugeValue, 1, st.Version)
}

// metric is one name of /metrics and where its value is in Stats. With a label, every
// value of it is there from the start, and no other comes later.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	one        func(*Stats) float64
	label      string
	values     []string
	of         func(st *Stats, value string) float64

	desc *prometheus.Desc // made of the above
}

const metricPrefix = "odin_"

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(metricPrefix+name, help, labels, nil)
}

var (
	buildDesc    = newDesc("build_info", "Always 1; the label says which version this is.", "version")
	deliveryDesc = newDesc("delivery_seconds", "Time from the stream's timestamp of a message to the end of the write that gave it to a connection's socket. Replays and conflated messages with an interval are left out.")
	loopLagDesc  = newDesc("loop_lag_seconds", "How late event loops come to their ticks, ten times a second each: so long does whatever becomes ready wait.")
)

// latencyMetric is a histogram in both forms: a native one, and, for who scrapes text,
// one with a few of its bounds.
type latencyMetric struct {
	prometheus.Metric // native
	s                 histogram.Snapshot
}

func newLatencyMetric(desc *prometheus.Desc, s histogram.Snapshot, since time.Time) prometheus.Metric {
	positive := make(map[int]int64)
	for i, n := range s.Counts[1:] {
		if n > 0 {
			positive[histogram.FirstIndex+i] = int64(n)
		}
	}
	// What is shorter than the first bucket is the zero bucket's; what is longer than
	// the last bound is in the bucket behind it.
	return latencyMetric{
		prometheus.MustNewConstNativeHistogram(desc, s.Count, s.Sum, positive, nil, s.Counts[0],
			histogram.Schema, histogram.Bound(0), since),
		s,
	}
}
