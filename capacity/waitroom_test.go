package capacity

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// told is a Waiter that remembers.
type told struct {
	mu               sync.Mutex
	admitted, expire []uint64
}

func (w *told) Admitted(token uint64) {
	w.mu.Lock()
	w.admitted = append(w.admitted, token)
	w.mu.Unlock()
}

func (w *told) Expired(token uint64) {
	w.mu.Lock()
	w.expire = append(w.expire, token)
	w.mu.Unlock()
}

func full(n int) *Gate {
	g := NewGate(n)
	for range n {
		g.TryAcquire()
	}
	return g
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestWaitingRoom(t *testing.T) {
	gate, w, other := full(1), &told{}, &told{}
	r := NewWaitingRoom(gate, 3, 5*time.Second)
	for i, c := range []struct {
		w     Waiter
		token uint64
		want  bool
	}{{w, 1, true}, {w, 1, false}, {other, 1, true}, {w, 2, true}, {w, 3, false}} {
		if r.Enter(c.w, c.token, noon.Add(time.Duration(i)*time.Second)) != c.want {
			t.Fatalf("enter %d: want %v", i, c.want)
		}
	}
	if gate.Rejected() != 0 {
		t.Errorf("%d rejected: who waits is not refused", gate.Rejected())
	}

	// First come, first served; nobody overtakes.
	gate.Release()
	if r.TryAcquire() {
		t.Error("overtook who waits")
	}
	r.Admit()
	if !slices.Equal(w.admitted, []uint64{1}) || other.admitted != nil || gate.InUse() != 1 {
		t.Fatalf("admitted %v and %v", w.admitted, other.admitted)
	}

	// The next leaves; then the slot is the third's.
	if !r.Leave(other, 1) || r.Leave(other, 1) || r.Leave(w, 1) {
		t.Error("leave: want true once, and false after admission")
	}
	gate.Release()
	r.Admit()
	if !slices.Equal(w.admitted, []uint64{1, 2}) {
		t.Fatalf("admitted %v", w.admitted)
	}

	// Deadlines, in order, the second 1 s after the first.
	r.Enter(w, 7, noon)
	r.Enter(w, 8, noon.Add(time.Second))
	r.Expire(noon.Add(5*time.Second - 1))
	if w.expire != nil {
		t.Fatal("expired early")
	}
	r.Expire(noon.Add(5 * time.Second))
	if !slices.Equal(w.expire, []uint64{7}) {
		t.Fatalf("expired %v", w.expire)
	}
	gate.SetMax(2)
	r.Admit()
	if !slices.Equal(w.admitted, []uint64{1, 2, 8}) {
		t.Fatalf("admitted %v after the gate widened", w.admitted)
	}
	r.Expire(noon.Add(time.Hour))
	want := WaitCounts{Waiting: 0, Places: 3, Entered: 5, Admitted: 3, Expired: 1, Left: 1, Refused: 2}
	if got := r.Counts(); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(r.places) > 3 || len(r.at) != 0 {
		t.Errorf("%d places, %d waiting", len(r.places), len(r.at))
	}
}

func TestWaitingRoomClosed(t *testing.T) {
	w := &told{}
	for name, r := range map[string]*WaitingRoom{
		"no wait":   NewWaitingRoom(full(1), 10, 0),
		"no places": NewWaitingRoom(full(1), 0, time.Second),
	} {
		if r.Enter(w, 1, noon) || r.Counts().Refused != 1 {
			t.Errorf("%s: entered, %+v", name, r.Counts())
		}
	}
	for name, misuse := range map[string]func(){
		"places": func() { NewWaitingRoom(NewGate(1), -1, time.Second) },
		"wait":   func() { NewWaitingRoom(NewGate(1), 1, -time.Second) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("negative %s: no panic", name)
				}
			}()
			misuse()
		}()
	}
}

// A slot given back before the caller stands in line is not lost on it.
func TestWaitingRoomSlotBeforeEnter(t *testing.T) {
	gate, w := full(1), &told{}
	r := NewWaitingRoom(gate, 1, time.Second)
	if r.TryAcquire() {
		t.Fatal("admitted by a full gate")
	}
	gate.Release()
	r.Admit() // nobody there yet
	if !r.Enter(w, 1, noon) || !slices.Equal(w.admitted, []uint64{1}) {
		t.Errorf("admitted %v", w.admitted)
	}
}

// Clocks of several goroutines are read before they get the lock.
func TestWaitingRoomClocksOutOfOrder(t *testing.T) {
	gate, w := full(1), &told{}
	r := NewWaitingRoom(gate, 2, time.Second)
	r.Enter(w, 1, noon.Add(time.Millisecond))
	r.Enter(w, 2, noon)
	r.Expire(noon.Add(time.Second + time.Millisecond))
	if !slices.Equal(w.expire, []uint64{1, 2}) {
		t.Errorf("expired %v", w.expire)
	}
}

// crowd counts the slots it was given.
type crowd struct {
	gate           *Gate
	room           *WaitingRoom
	holders, gone  atomic.Int64
	over, finished atomic.Int64
	max            int64
}

func (c *crowd) hold() {
	if c.holders.Add(1) > c.max {
		c.over.Add(1)
	}
	c.holders.Add(-1)
	c.finished.Add(1)
	c.gate.Release()
	c.room.Admit()
}

func (c *crowd) Admitted(uint64) { c.hold() }
func (c *crowd) Expired(uint64)  { c.gone.Add(1) }

// Goroutines fight for slots, wait, leave and expire: the gate is never over,
// every wait ends exactly once, and no slot is left unused while one waits.
func TestWaitingRoomRace(t *testing.T) {
	const slots, callers, rounds = 5, 16, 500
	gate := NewGate(slots)
	c := &crowd{gate: gate, max: slots}
	c.room = NewWaitingRoom(gate, 8, time.Nanosecond*50_000)
	var left, refused atomic.Int64
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			for i := range rounds {
				token := uint64(n*rounds + i)
				switch {
				case c.room.TryAcquire():
					if rnd.IntN(2) == 0 {
						time.Sleep(time.Microsecond)
					}
					c.hold()
				case !c.room.Enter(c, token, time.Now()):
					refused.Add(1)
				case rnd.IntN(3) == 0 && c.room.Leave(c, token):
					left.Add(1)
				}
				if rnd.IntN(8) == 0 {
					c.room.Expire(time.Now())
				}
			}
		})
	}
	wg.Wait()
	if n := c.room.Counts().Waiting; n > 0 && gate.InUse() < slots {
		t.Errorf("%d wait though only %d of %d slots are taken", n, gate.InUse(), slots)
	}
	c.room.Expire(time.Now().Add(time.Hour))
	counts := c.room.Counts()
	if c.over.Load() > 0 || gate.InUse() != 0 {
		t.Errorf("over the gate %d times, %d in use", c.over.Load(), gate.InUse())
	}
	if total := c.finished.Load() + c.gone.Load() + left.Load() + refused.Load(); total != callers*rounds {
		t.Errorf("%d of %d callers accounted for: %+v", total, callers*rounds, counts)
	}
	if counts.Entered != counts.Admitted+counts.Expired+counts.Left || counts.Waiting != 0 {
		t.Errorf("%+v", counts)
	}
}

func BenchmarkWaitingRoomEmpty(b *testing.B) {
	r := NewWaitingRoom(NewGate(1000), 100, time.Second)
	b.ReportAllocs()
	for b.Loop() {
		if r.TryAcquire() {
			r.gate.Release()
			r.Admit()
		}
	}
}
