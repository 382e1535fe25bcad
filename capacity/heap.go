package capacity

import (
	"math"
	"runtime/metrics"
)

// heap reads two of Go's own figures (https://pkg.go.dev/runtime/metrics). The zero
// value is ready.
type heap struct{ samples [2]metrics.Sample }

// read returns what the collector could not free when it ran last, and GOMEMLIMIT,
// bytes; 0 without one. It does not allocate after the first time.
func (h *heap) read() (live, limit int64) {
	h.samples[0].Name, h.samples[1].Name = "/gc/heap/live:bytes", "/gc/gomemlimit:bytes"
	metrics.Read(h.samples[:])
	live, limit = bytesOf(h.samples[0].Value), bytesOf(h.samples[1].Value)
	if limit == math.MaxInt64 {
		limit = 0
	}
	return live, limit
}

// bytesOf is a figure of a runtime that knows it, else 0.
func bytesOf(v metrics.Value) int64 {
	if v.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(min(v.Uint64(), math.MaxInt64))
}
