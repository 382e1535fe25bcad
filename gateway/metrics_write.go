package gateway

import (
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/odin-ws/odin/internal/histogram"
)

// classicBounds are the buckets of a classic histogram: 61 µs and each doubling of it
// up to a second, and 4 s. They are bounds of the native one too.
var classicBounds = func() (buckets []int) {
	const octave = 1 << histogram.Schema
	for exp := -14; exp <= 0; exp++ {
		buckets = append(buckets, exp*octave-histogram.FirstIndex+1)
	}
	return append(buckets, 2*octave-histogram.FirstIndex+1)
}()

// Write implements prometheus.Metric.
func (m latencyMetric) Write(out *dto.Metric) error {
	if err := m.Metric.Write(out); err != nil {
		return err
	}
	sum, at := uint64(0), 0
	for _, bucket := range classicBounds {
		for ; at <= bucket; at++ {
			sum += m.s.Counts[at]
		}
		out.Histogram.Bucket = append(out.Histogram.Bucket, &dto.Bucket{
			UpperBound: proto.Float64(histogram.Bound(bucket)), CumulativeCount: proto.Uint64(sum),
		})
	}
	return nil
}
