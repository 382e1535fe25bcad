package brokertest

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

// patience is how long a condition may take to come true on a busy machine.
const patience = 20 * time.Second

// Opened is one call of Sink.Open.
type Opened struct {
	Epoch string
	Head  uint64
}

// Lost is one call of Sink.Lost.
type Lost struct{ After, Before uint64 }

// Recorder is a broker.Sink that keeps all it hears and checks, as it hears
// it, what every broker owes: calls from one goroutine at a time, Open first,
// sequences that grow by one or by a Lost, and prev naming the message before
// on the channel. What it finds wrong fails the test at the end.
type Recorder struct {
	tb   testing.TB
	busy atomic.Bool
	gate sync.RWMutex // write-held while blocked

	mu       sync.Mutex
	wrong    []string
	opened   []Opened
	lives    int // Opens that Live followed
	downs    []error
	lost     []Lost
	messages []broker.Message // of the current epoch
	calls    int
	up       bool
	last     uint64
	heads    map[string]uint64 // last sequence by channel, in this epoch since the last Lost
	evicted  bool              // prev may be 0 for a message that has a predecessor
}

var _ broker.Sink = (*Recorder)(nil)

// NewRecorder returns a Recorder that reports to tb when the test ends.
func NewRecorder(tb testing.TB) *Recorder {
	r := &Recorder{tb: tb, heads: map[string]uint64{}}
	tb.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, w := range r.wrong {
			tb.Error(w)
		}
	})
	return r
}

// enter brackets a Sink call; the returned function ends it.
func (r *Recorder) enter(call string) func() {
	if !r.busy.CompareAndSwap(false, true) {
		r.mu.Lock()
		r.fail("%s while another Sink call runs", call)
		r.mu.Unlock()
	}
	r.gate.RLock()
	r.mu.Lock()
	r.calls++
	return func() {
		r.mu.Unlock()
		r.gate.RUnlock()
		r.busy.Store(false)
	}
}

// fail notes a broken promise, at most a few. Called with mu held.
func (r *Recorder) fail(format string, v ...any) {
	if len(r.wrong) < 10 {
		r.wrong = append(r.wrong, fmt.Sprintf(format, v...))
	}
}

// Open implements broker.Sink.
func (r *Recorder) Open(epoch string, head uint64) {
	defer r.enter("Open")()
	if n := len(r.opened); n > 0 && r.opened[n-1].Epoch == epoch {
		if head != r.last {
			r.fail("Open(%s, %d) goes on with the same epoch, but %d was the last delivered", epoch, head, r.last)
		}
	} else {
		r.messages, r.lost = nil, nil
		clear(r.heads)
	}
	if epoch == "" {
		r.fail("Open with an empty epoch")
	}
	r.last, r.up = head, true
	r.opened = append(r.opened, Opened{epoch, head})
}

// Live implements broker.Sink.
func (r *Recorder) Live() {
	defer r.enter("Live")()
	if !r.up {
		r.fail("Live while not open")
	}
	if len(r.opened) <= r.lives {
		r.fail("Live more often than Open")
	}
	r.lives = len(r.opened)
}

// Message implements broker.Sink.
func (r *Recorder) Message(m *broker.Message) {
	defer r.enter("Message")()
	if !r.up {
		r.fail("Message %d while not open", m.Seq)
	}
	if m.Seq != r.last+1 {
		r.fail("Message %d after %d", m.Seq, r.last)
	}
	head, seen := r.heads[m.Channel]
	switch {
	case m.Prev >= m.Seq:
		r.fail("message %d has prev %d", m.Seq, m.Prev)
	case seen && m.Prev != head && (m.Prev != 0 || !r.evicted):
		r.fail("message %d on %q has prev %d, the one before is %d", m.Seq, m.Channel, m.Prev, head)
	}
	r.last = m.Seq
	r.heads[m.Channel] = m.Seq
	c := *m
	c.Data = bytes.Clone(m.Data)
	r.messages = append(r.messages, c)
}

// Lost implements broker.Sink.
func (r *Recorder) Lost(after, before uint64) {
	defer r.enter("Lost")()
	if !r.up || after != r.last || before < after+2 {
		r.fail("Lost(%d, %d) after %d (open: %v)", after, before, r.last, r.up)
	}
	r.last = before - 1
	clear(r.heads)
	r.lost = append(r.lost, Lost{after, before})
}

// Down implements broker.Sink.
func (r *Recorder) Down(err error) {
	defer r.enter("Down")()
	if err == nil {
		r.fail("Down(nil)")
	}
	r.up = false
	r.downs = append(r.downs, err)
}

// Block makes the next Sink call hang until the returned function is called.
func (r *Recorder) Block() (unblock func()) {
	r.gate.Lock()
	return sync.OnceFunc(r.gate.Unlock)
}

// AllowZeroPrev accepts prev 0 where a predecessor was seen: it was evicted.
func (r *Recorder) AllowZeroPrev() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evicted = true
}

// Messages returns what was delivered in the current epoch.
func (r *Recorder) Messages() []broker.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

// Losses returns what was reported lost in the current epoch.
func (r *Recorder) Losses() []Lost {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lost)
}

// Opens returns all Open calls.
func (r *Recorder) Opens() []Opened {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.opened)
}

// Downs returns the causes of all Down calls.
func (r *Recorder) Downs() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.downs)
}

// Calls counts Sink calls of every kind.
func (r *Recorder) Calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

// Up says whether the last of Open and Down was Open.
func (r *Recorder) Up() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up
}

// Reached says whether seq was delivered or reported lost.
func (r *Recorder) Reached(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last >= seq
}

// Wait fails the test if ok doesn't become true.
func Wait(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}
