package capacity

import "testing"

// Tokens have a term of their own, also under a limit that changes; what
// --bytes-per-connection says stands.
func TestComputeTokens(t *testing.T) {
	in := Input{Limit: mem(512 * MiB), Profile: EventLoop, Backlog: DefaultBacklog, Tokens: true}
	r, err := Compute(in)
	if err != nil || r.Max != 48545 || sum(r.ConnectionTerms()) != r.BytesPerConnection || len(r.ConnectionTerms()) < 2 {
		t.Errorf("%+v, %v: %v", r, err, r.ConnectionTerms())
	}
	if n, err := r.Recompute(mem(256 * MiB)); err != nil || !n.Tokens || n.BytesPerConnection != r.BytesPerConnection {
		t.Errorf("%+v, %v", n, err)
	}
	in.BytesPerConnection = 8 * KiB
	if r, err = Compute(in); err != nil || r.BytesPerConnection != 8*KiB {
		t.Errorf("%+v, %v", r, err)
	}
}
