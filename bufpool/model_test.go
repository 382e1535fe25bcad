package bufpool

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// FuzzModel plays bytes as calls against a model that knows which buffers are
// out and what is in them.
func FuzzModel(f *testing.F) {
	f.Add([]byte{0, 10, 1, 0, 0, 200, 2, 90, 3, 0})
	f.Fuzz(playModel)
}

// TestModel plays random calls, so that every test run does some.
func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 2))
		script := make([]byte, 4000)
		for i := range script {
			script[i] = byte(rng.Uint32())
		}
		playModel(t, script)
	}
}

// owned is a buffer that the model has out.
type owned struct {
	b    []byte
	mark byte
}

func playModel(t *testing.T, script []byte) {
	const budget = 3 << 20
	p := New(budget)
	var out []owned
	var inUse int64
	var refused uint64

	refusedRightly := func(err error, n int) {
		t.Helper()
		refused++
		if !errors.Is(err, ErrBudget) || inUse+chargeOf(n) <= budget {
			t.Fatalf("%d wanted with %d in use of %d: %v", n, inUse, budget, err)
		}
	}
	for i := 0; i+1 < len(script); i += 2 {
		op, arg := script[i], int(script[i+1])
		n := arg * arg * arg / 12 // 0 … 1.38 million, dense near 0
		mark := byte(i)
		switch {
		case op%8 < 4:
			b, err := p.Get(n)
			if err != nil {
				refusedRightly(err, n)
				break
			}
			inUse += chargeOf(n)
			fill(b, mark)
			out = append(out, owned{b, mark})
		case op%8 < 6 && len(out) > 0:
			k := arg % len(out)
			if !filled(out[k].b, out[k].mark) {
				t.Fatal("a buffer changed under its owner")
			}
			inUse -= chargeOf(cap(out[k].b))
			p.Put(out[k].b[:0])
			out[k] = out[len(out)-1]
			out = out[:len(out)-1]
		case op%8 == 6 && len(out) > 0:
			k := int(op/8) % len(out)
			o := &out[k]
			b, err := p.Grow(o.b, n)
			if err != nil {
				refusedRightly(err, n)
				break
			}
			if n > cap(o.b) {
				inUse += chargeOf(n) - chargeOf(cap(o.b))
			}
			if len(b) != n || !filled(b[:min(n, len(o.b))], o.mark) {
				t.Fatal("Grow lost contents")
			}
			fill(b, mark)
			*o = owned{b, mark}
		case op == 255:
			p.Trim()
			if p.Idle() != 0 {
				t.Fatalf("Idle %d after Trim", p.Idle())
			}
		}
		if p.InUse() != inUse || p.Refused() != refused {
			t.Fatalf("InUse %d, Refused %d; the model has %d, %d", p.InUse(), p.Refused(), inUse, refused)
		}
		if idle := p.Idle(); idle < 0 || idle > budget/4 || inUse+idle > budget {
			t.Fatalf("Idle %d with %d in use of %d", idle, inUse, budget)
		}
	}
	for _, o := range out {
		if !filled(o.b, o.mark) {
			t.Fatal("a buffer changed under its owner")
		}
		p.Put(o.b)
	}
	if p.InUse() != 0 {
		t.Fatalf("InUse %d after every Put", p.InUse())
	}
}
