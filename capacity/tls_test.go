package capacity

import "testing"

func TestTLSTerms(t *testing.T) {
	for _, c := range []struct {
		limit      int64
		tls        TLSRecords
		max        int
		handshakes int
	}{
		{512 * MiB, TLSNone, 54613, 0},
		{512 * MiB, TLSOwn, 38912, 390},
		{512 * MiB, TLSKernel, int(304 * MiB / (KernelPerConnection + OwnPerConnection + TLSKernelPerConnection)), 390},
		{2 * GiB, TLSOwn, (2048 - 128 - 256 - 42) * MiB / (8 * KiB), 1024},
	} {
		r, err := Compute(Input{Limit: Limit{Bytes: c.limit}, Profile: EventLoop, Backlog: DefaultBacklog, TLS: c.tls})
		if err != nil || r.Max != c.max || r.TLSHandshakes() != c.handshakes {
			t.Errorf("%s, %q: %d connections, %d handshakes, %v; want %d, %d", FormatSize(c.limit), c.tls, r.Max, r.TLSHandshakes(), err, c.max, c.handshakes)
			continue
		}
		process, err := r.ProcessTerms()
		if err != nil || sum(process) != r.Overhead {
			t.Errorf("%q: the process's terms are %d, the overhead %d, %v", c.tls, sum(process), r.Overhead, err)
		}
		terms := r.ConnectionTerms()
		if sum(terms) != r.BytesPerConnection || len(terms) < 2 {
			t.Errorf("%q: a connection's terms are %d, not %d", c.tls, sum(terms), r.BytesPerConnection)
		}
		// What lies outside of Go's memory is outside of its limit, the sockets of
		// handshakes with it: of one under way and one that waits for each.
		if g := r.GoMemLimit(); g > c.limit-r.Backlog-int64(r.Max+2*c.handshakes)*KernelPerConnection {
			t.Errorf("%q: GOMEMLIMIT %d", c.tls, g)
		}
		if n, err := r.Recompute(Limit{Bytes: 2 * c.limit}); err != nil || n.TLS != c.tls || n.Max <= r.Max {
			t.Errorf("%q: under twice the limit %+v, %v", c.tls, n, err)
		}
	}
	if _, err := Compute(Input{Limit: Limit{Bytes: GiB}, Profile: EventLoop, TLS: "some"}); err == nil {
		t.Error("unknown records")
	}
}
