package jetstream

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestUnixNano(t *testing.T) {
	for _, s := range []string{
		"2026-11-23T18:54:27.123456789Z", "2026-11-23T18:54:27.1Z", "2026-11-23T18:54:27Z", "1970-01-01T00:00:00Z",
		"2024-02-29T23:59:59.000000001Z", "2026-11-23T18:54:27.5+01:00", "2026-11-23T18:54:27.123456789123Z",
	} {
		want, err := time.Parse(time.RFC3339Nano, s)
		got, ok := unixNano(s)
		if err != nil || ok && got != want.UnixNano() {
			t.Errorf("%s: %d, want %d", s, got, want.UnixNano())
		}
	}
	for _, s := range []string{"", "Z", "yesterday", "2026-11-23 18:54:27Z", "2026-1x-23T18:54:27Z", "2026-11-23T18:54:27.xZ", "2026-11-23T18:54:27.-1Z"} {
		if got, ok := unixNano(s); ok {
			t.Errorf("%q is taken for %d", s, got)
		}
	}
}

func FuzzUnixNano(f *testing.F) {
	f.Add("2026-11-23T18:54:27.123456789Z")
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := unixNano(s)
		want, err := time.Parse(time.RFC3339Nano, s)
		if ok && err == nil && want.UnixNano() != got {
			t.Errorf("%q: %d, want %d", s, got, want.UnixNano())
		}
	})
}

// TestReadStampAllocates nothing: it runs for every message.
func TestReadStampAllocates(t *testing.T) {
	m := &nats.Msg{Subject: "odin.out.a", Header: nats.Header{
		hdrStream: {"ODIN"}, hdrSubject: {"odin.in.a"}, hdrSequence: {"7"}, hdrTime: {"2026-11-23T18:54:27.123456789Z"}, hdrPrev: {"6"},
	}}
	if n := testing.AllocsPerRun(100, func() { readStamp(m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
