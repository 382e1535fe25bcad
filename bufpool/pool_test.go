package bufpool

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

func TestClasses(t *testing.T) {
	if got := classSize(numClasses - 1); got != maxClass {
		t.Fatalf("the last class is %d bytes, want %d", got, maxClass)
	}
	c := 0
	for n := range maxClass + 1 {
		if n > classSize(c) {
			c++
		}
		if got := classOf(n); got != c {
			t.Fatalf("classOf(%d) = %d (%d bytes), want %d (%d bytes)", n, got, classSize(got), c, classSize(c))
		}
	}
	for c := range numClasses {
		if classSize(c)%unit != 0 {
			t.Errorf("class %d of %d bytes is no multiple of the unit", c, classSize(c))
		}
	}
}

func TestGet(t *testing.T) {
	for _, tc := range []struct{ n, wantCap, wantCharge int }{
		{0, 256, 256},
		{1, 256, 256},
		{256, 256, 256},
		{257, 384, 384},
		{385, 512, 512},
		{4096, 4096, 4096},
		{65 << 10, 96 << 10, 96 << 10},
		{1 << 20, 1 << 20, 1 << 20},
		{1<<20 + 1, 1<<20 + 1, 1<<20 + page},
		{17 << 20, 17 << 20, 17 << 20},
	} {
		p := New(64 << 20)
		b := mustGet(t, p, tc.n)
		if len(b) != tc.n || cap(b) != tc.wantCap {
			t.Errorf("Get(%d): len %d, cap %d, want cap %d", tc.n, len(b), cap(b), tc.wantCap)
		}
		if p.InUse() != int64(tc.wantCharge) {
			t.Errorf("Get(%d): InUse %d, want %d", tc.n, p.InUse(), tc.wantCharge)
		}
		p.Put(b[:0])
		wantIdle := int64(tc.wantCharge)
		if tc.n > maxClass {
			wantIdle = 0
		}
		if p.InUse() != 0 || p.Idle() != wantIdle {
			t.Errorf("after Put of %d: InUse %d, Idle %d, want 0, %d", tc.n, p.InUse(), p.Idle(), wantIdle)
		}
		p.Trim()
		if p.Idle() != 0 {
			t.Errorf("after Trim: Idle %d", p.Idle())
		}
	}
}

func TestRefusal(t *testing.T) {
	p := New(1024)
	b := mustGet(t, p, 768)
	_, err := p.Get(257)
	if !errors.Is(err, ErrBudget) {
		t.Fatalf("Get past the budget: %v", err)
	}
	if want := "bufpool: buffer budget exhausted: 257 bytes wanted, 768 of 1024 in use"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if p.InUse() != 768 || p.Refused() != 1 {
		t.Errorf("a refusal left InUse %d, Refused %d", p.InUse(), p.Refused())
	}
	p.Put(mustGet(t, p, 256)) // what still fits is given
	p.Put(b)

	for _, tc := range []struct {
		budget int64
		n      int
		budErr bool
	}{
		{0, 0, true},
		{-5, 1, true},
		{math.MaxInt64, math.MaxInt, true},
		{math.MaxInt64, -1, false},
	} {
		b, err := New(tc.budget).Get(tc.n)
		if b != nil || err == nil || errors.Is(err, ErrBudget) != tc.budErr {
			t.Errorf("budget %d, Get(%d): %d bytes, %v", tc.budget, tc.n, len(b), err)
		}
	}
	if got := New(math.MaxInt64).Budget(); got != maxBudget {
		t.Errorf("the largest budget is %d, want %d", got, int64(maxBudget))
	}
}

// Idle buffers of other classes make way for a Get that needs their room.
func TestIdleMakesWay(t *testing.T) {
	p := New(1 << 20)
	var held [][]byte
	for range 256 {
		held = append(held, mustGet(t, p, 1024))
	}
	for _, b := range held {
		p.Put(b)
	}
	if p.Idle() != 1<<18 {
		t.Fatalf("Idle %d, want a quarter of the budget", p.Idle())
	}
	b := mustGet(t, p, 1<<20)
	if p.InUse() != 1<<20 || p.Idle() != 0 || p.Refused() != 0 {
		t.Errorf("InUse %d, Idle %d, Refused %d", p.InUse(), p.Idle(), p.Refused())
	}
	p.Put(b)
	if p.Idle() != 0 {
		t.Errorf("a buffer beyond the idle share was kept: Idle %d", p.Idle())
	}
}

func TestGrow(t *testing.T) {
	p := New(2048)
	b, err := p.Grow(nil, 3)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, "abc")
	if b, err = p.Grow(b, 200); err != nil || len(b) != 200 || string(b[:3]) != "abc" {
		t.Fatalf("Grow within the capacity: %d bytes, %v", len(b), err)
	}
	if b, err = p.Grow(b[:3], 600); err != nil || len(b) != 600 || string(b[:3]) != "abc" {
		t.Fatalf("Grow: %d bytes, %v", len(b), err)
	}
	if p.InUse() != 768 {
		t.Errorf("InUse %d, want the grown buffer's 768 only", p.InUse())
	}
	if _, err := p.Grow(b, 2048); !errors.Is(err, ErrBudget) {
		t.Fatalf("Grow past the budget: %v", err)
	}
	if string(b[:3]) != "abc" || p.InUse() != 768 {
		t.Error("a refused Grow touched the buffer or the account")
	}
	if _, err := p.Grow(b, -1); err == nil {
		t.Error("Grow to a negative length")
	}
	p.Put(b)
	p.Put(nil)
}

// A capacity that no Get gives and a surplus Put panic in every build.
func TestMisusePanics(t *testing.T) {
	for name, misuse := range map[string]func(p *Pool){
		"cut capacity": func(p *Pool) { b, _ := p.Get(512); p.Put(b[:10:300]) },
		"cut start":    func(p *Pool) { b, _ := p.Get(512); p.Put(b[10:]) },
		"empty rest":   func(p *Pool) { b, _ := p.Get(512); p.Put(b[512:]) },
		"surplus":      func(p *Pool) { p.Put(make([]byte, 512)) },
		"huge surplus": func(p *Pool) { p.Put(make([]byte, 2<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			mustPanic(t, "bufpool: ", func() { misuse(New(4 << 20)) })
		})
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	if debugging {
		t.Skip("the debug build allocates")
	}
	p := New(16 << 20)
	for _, n := range []int{1, 700, 4096, 64 << 10, 1 << 20} {
		p.Put(mustGet(t, p, n))
		if got := testing.AllocsPerRun(1000, func() {
			b, err := p.Get(n)
			if err != nil {
				t.Fatal(err)
			}
			p.Put(b)
		}); got != 0 {
			t.Errorf("Get(%d) and Put allocate %v times", n, got)
		}
	}
}

// Many goroutines in a budget too small for them: every bound holds at every
// look, no buffer has two owners, and all comes back.
func TestConcurrent(t *testing.T) {
	const budget = 256 << 10
	p := New(budget)
	rounds := 3000
	if debugging {
		rounds = 300
	}
	stop := make(chan struct{})
	var workers, watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			used, idle := split(p.account.word.Load())
			if (used+idle)*unit > budget || idle*unit > budget/4 {
				t.Errorf("in use %d, idle %d, budget %d", used*unit, idle*unit, budget)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for id := range 8 {
		workers.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(id)))
			for range rounds {
				b, err := p.Get(rng.IntN(48 << 10))
				if err != nil {
					continue
				}
				fill(b, byte(id))
				if rng.IntN(4) == 0 {
					n := len(b)
					if g, err := p.Grow(b, n+rng.IntN(32<<10)); err == nil {
						b = g[:n]
					}
				}
				if rng.IntN(64) == 0 {
					p.Trim()
				}
				if !filled(b, byte(id)) {
					t.Error("a buffer has two owners")
				}
				p.Put(b)
			}
		})
	}
	workers.Wait()
	close(stop)
	watcher.Wait()
	if p.InUse() != 0 || len(p.Outstanding()) != 0 {
		t.Errorf("InUse %d after every Put, outstanding %v", p.InUse(), p.Outstanding())
	}
	p.Trim()
	if p.Idle() != 0 {
		t.Errorf("Idle %d after Trim", p.Idle())
	}
}

// With nothing but idle buffers in the way, a Get is never refused, whatever
// others do meanwhile.
func TestNeverRefusedForIdle(t *testing.T) {
	p := New(8 * 4096)
	var wg sync.WaitGroup
	for id := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				b, err := p.Get(1 + (i*769+id*331)%4096)
				if err != nil {
					t.Errorf("8 buffers of at most an eighth: %v", err)
					return
				}
				p.Put(b)
			}
		})
	}
	wg.Wait()
}

func mustGet(t *testing.T, p *Pool, n int) []byte {
	t.Helper()
	b, err := p.Get(n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		msg, _ := recover().(string)
		if !strings.Contains(msg, want) {
			t.Errorf("panic %q, want one with %q", msg, want)
		}
	}()
	f()
}

func fill(b []byte, with byte) {
	if len(b) == 0 {
		return
	}
	b[0] = with
	for n := 1; n < len(b); n *= 2 { // copy is fast under the race detector
		copy(b[n:], b[:n])
	}
}

func filled(b []byte, with byte) bool {
	return bytes.Count(b, []byte{with}) == len(b)
}

// A budget that is lowered drops what is idle beyond it at once, and lends nothing
// until what is lent is below it.
func TestSetBudget(t *testing.T) {
	p := New(1 << 20)
	var lent [][]byte
	for range 8 {
		b, err := p.Get(64 << 10)
		if err != nil {
			t.Fatal(err)
		}
		lent = append(lent, b)
	}
	for _, b := range lent[:3] {
		p.Put(b)
	}
	if p.Idle() == 0 {
		t.Fatal("nothing is idle")
	}
	p.SetBudget(320 << 10) // just what is lent
	if p.Idle() != 0 || p.InUse() != 320<<10 || p.Budget() != 320<<10 {
		t.Errorf("%d idle, %d in use of %d", p.Idle(), p.InUse(), p.Budget())
	}
	if b, err := p.Get(128); !errors.Is(err, ErrBudget) {
		p.Put(b)
		t.Errorf("lent beyond it: %v", err)
	}
	p.Put(lent[3])
	b, err := p.Get(64 << 10)
	if err != nil {
		t.Errorf("not lent within it: %v", err)
	}
	p.SetBudget(1 << 20)
	more, err := p.Get(512 << 10)
	if err != nil {
		t.Errorf("not lent after it was raised: %v", err)
	}
	for _, b := range append(lent[4:], b, more) {
		p.Put(b)
	}
}
