package brokertest

import (
	"errors"
	"slices"

	"github.com/odin-ws/odin/gateway/broker"
)

// run is the delivery goroutine: it alone calls the Sink, without holding mu.
func (f *Fake) run() {
	defer close(f.done)
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.closed {
		call := f.next()
		if call == nil {
			f.wake.Wait()
			continue
		}
		f.mu.Unlock()
		call()
		f.mu.Lock()
	}
}

// next returns the Sink call that is due, nil for none. Called with mu held.
func (f *Fake) next() func() {
	sink := f.sink
	if f.down != nil {
		if f.toldDown {
			return nil
		}
		err := f.down
		f.toldDown, f.opened, f.owesLive = true, false, false
		return func() { sink.Down(err) }
	}
	if !f.opened || f.openLife != f.life {
		if f.openLife != f.life {
			f.openLife, f.delivered = f.life, f.first-1
		}
		if f.toldDown {
			f.counters.Reconnects++
		}
		f.toldDown, f.opened, f.owesLive = false, true, true
		epoch, head := f.epoch(f.life), f.delivered
		return func() { sink.Open(epoch, head) }
	}
	if f.hold {
		return nil
	}
	if len(f.raw) > 0 {
		m := f.raw[0]
		f.raw = f.raw[1:]
		return func() { sink.Message(&m) }
	}
	return f.nextStored(sink)
}

func (f *Fake) nextStored(sink broker.Sink) func() {
	seq := f.delivered + 1
	if seq > f.last() {
		if f.owesLive {
			f.owesLive = false
			return sink.Live
		}
		return nil
	}
	end := max(seq, f.first) // first sequence that is still there
	for end <= f.last() && f.lost[end] {
		end++
	}
	if end > seq {
		after := f.delivered
		f.delivered = end - 1
		f.counters.Lost += end - seq
		return func() { sink.Lost(after, end) }
	}
	m := f.log[seq-f.first]
	f.delivered = seq
	f.counters.Delivered++
	if f.skip[seq] {
		delete(f.skip, seq)
		f.counters.Refetched++
	}
	return func() { sink.Message(&m) }
}

// SetDown takes the broker away: the Sink hears Down(err), and every call
// fails with ErrDown wrapping err. A nil err stands for one of Fake's own.
func (f *Fake) SetDown(err error) {
	if err == nil {
		err = errors.New("fake broker: set down")
	}
	f.change(func() { f.down = err })
}

// SetUp brings it back: Open with the same epoch, then what Inject stored
// meanwhile. Without a SetDown before it does nothing.
func (f *Fake) SetUp() { f.change(func() { f.down = nil }) }

// Hold stops deliveries, as when this node lags behind the stream, or lets them
// go on. Publishes and reads work all the same.
func (f *Fake) Hold(on bool) { f.change(func() { f.hold = on }) }

// Reader returns the broker of another node on what is stored now, not started.
func (f *Fake) Reader() *Fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := NewFake()
	r.life, r.log, r.first = f.life, slices.Clone(f.log), f.first
	return r
}

// NewEpoch deletes the stream and makes it anew: everything stored is gone,
// sequences begin at 1, and the Sink hears Open with another epoch.
func (f *Fake) NewEpoch() { f.change(func() { f.life++; f.reset() }) }

// DropNext makes the next n stored messages miss their live delivery. The Sink
// still gets them, in order, counted as Refetched.
func (f *Fake) DropNext(n int) { f.change(func() { f.dropNext = n }) }

// LoseNext makes the next n stored messages vanish after their ack: the Sink
// hears Lost for them, and Last and Get don't see them.
func (f *Fake) LoseNext(n int) { f.change(func() { f.loseNext = n }) }

// Evict removes what is stored with Seq < before, as retention does: what the
// Sink has not had yet becomes Lost, and the next message of a channel that
// has nothing left carries Prev 0.
func (f *Fake) Evict(before uint64) {
	f.change(func() {
		n := min(max(before, f.first)-f.first, uint64(len(f.log)))
		f.log = f.log[n:]
		f.first += n
	})
}

// FailNext makes the next n publications fail with err (one of broker's
// errors, or any other) without storing them.
func (f *Fake) FailNext(n int, err error) { f.change(func() { f.failN, f.failWith = n, err }) }

// Inject stores data as a native publisher would: any channel text, any bytes,
// also while the broker is down for us. It returns the sequence.
func (f *Fake) Inject(channel string, data []byte) (seq uint64) {
	f.change(func() { seq = f.store(channel, data) })
	return seq
}

// Raw hands m to the Sink as it is, before anything stored and without storing
// it: for sequences and prevs no real broker should ever send.
func (f *Fake) Raw(m broker.Message) {
	f.change(func() { f.raw = append(f.raw, m) })
}

func (f *Fake) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	f.wake.Broadcast()
}
