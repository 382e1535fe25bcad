package jetstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"

	"github.com/odin-ws/odin/gateway/broker"
)

// maxUnacked bounds what may be published and not acked yet, messages, over all
// callers. The bytes are bounded by queues.unacked.
const maxUnacked = 4096

// acks matches publish acks with their callers. nats.go's own PublishMsgAsync
// does the same job in either of its packages; this one is a tenth faster (no
// timer, channel and JSON decoding per message) and knows what went out before
// a disconnect, which is the difference between ErrDown and ErrUncertain.
type acks struct {
	// Static after open.
	prefix string // of the reply subjects, with the dot
	free   chan uint32
	bytes  *semaphore.Weighted
	most   int64 // bytes' bound

	mu    sync.Mutex
	slots []ackSlot // guarded by mu
	stale bool      // guarded by mu; the stream was made anew, see result
}

// ackSlot is one publish under way. Its generation is in the reply subject, so
// that a late ack of the slot's last user doesn't reach the next one.
type ackSlot struct {
	gen   uint32
	call  *call // nil while free
	item  int   // index in call.results
	bytes int64
	floor uint64 // highest sequence known when it was sent
}

// call is one PublishBatch. Its results are written under acks.mu.
type call struct {
	results []broker.Result
	left    int
	recheck bool          // some ack may belong to a newer life of the stream
	done    chan struct{} // closed when left is 0 and the batch is sealed
	sealed  bool          // all items were sent or refused
}

// init makes room for most bytes under way.
func (a *acks) init(most int64) {
	a.prefix = nats.NewInbox() + "."
	a.free = make(chan uint32, maxUnacked)
	a.most = most
	a.slots = make([]ackSlot, maxUnacked)
	a.bytes = semaphore.NewWeighted(most)
	for i := range uint32(maxUnacked) {
		a.free <- i
	}
}

// use gives slot to an item of c and returns the reply subject for it.
func (a *acks) use(slot uint32, c *call, item int, size int64, floor uint64) string {
	a.mu.Lock()
	s := &a.slots[slot]
	s.gen++
	*s = ackSlot{gen: s.gen, call: c, item: item, bytes: size, floor: floor}
	c.left++
	gen := s.gen
	a.mu.Unlock()
	buf := make([]byte, 0, 48)
	buf = append(buf, a.prefix...)
	buf = strconv.AppendUint(buf, uint64(gen)<<16|uint64(slot), 36)
	return string(buf)
}

// settle gives the slot's item its result and frees the slot. Called with mu held.
func (a *acks) settle(slot uint32, r broker.Result) {
	s := &a.slots[slot]
	c := s.call
	c.results[s.item] = r
	s.call = nil
	a.bytes.Release(s.bytes)
	a.free <- slot // never blocks: as many places as slots
	if c.left--; c.left == 0 && c.sealed {
		close(c.done)
	}
}

// seal says that no more items of c will be sent.
func (a *acks) seal(c *call) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.sealed = true
	if c.left == 0 {
		close(c.done)
	}
}

// drop settles one item that went nowhere.
func (a *acks) drop(slot uint32, c *call, item int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := &a.slots[slot]; s.call == c && s.item == item {
		a.settle(slot, broker.Result{Err: err})
	}
}

// fail gives every item under way that pick accepts the error. It is for a
// lost connection and for a caller that waits no longer.
func (a *acks) fail(pick func(s *ackSlot) bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.slots {
		if s := &a.slots[i]; s.call != nil && pick(s) {
			a.settle(uint32(i), broker.Result{Err: err})
		}
	}
}

// onAck is the handler of the reply subscription of c.
func (c *client) onAck(m *nats.Msg) {
	a := &c.acks
	token, err := strconv.ParseUint(m.Subject[len(a.prefix):], 36, 64)
	if err != nil || token&0xffff >= maxUnacked {
		return
	}
	slot, gen := uint32(token&0xffff), uint32(token>>16)
	ack, err := parseAck(m, c.emb != nil && !c.emb.limited)
	a.mu.Lock()
	defer a.mu.Unlock()
	s := &a.slots[slot]
	if s.call == nil || s.gen != gen {
		return
	}
	if err != nil {
		a.settle(slot, broker.Result{Err: err})
		return
	}
	// A new message can't have a number that was given out before it was sent:
	// the stream was made anew. From here on the acks' epoch isn't ours to know
	// until someone has asked.
	if !ack.Duplicate && ack.Seq <= s.floor {
		a.stale = true
	}
	if a.stale {
		s.call.recheck = true
	} else {
		ack.Epoch = c.epoch()
		if !ack.Duplicate {
			c.raiseHead(ack.Seq)
		}
	}
	a.settle(slot, broker.Result{Ack: ack})
}

// plainAck reads the usual ack, which has a sequence and nothing else to say.
func plainAck(data []byte) (seq uint64, ok bool) {
	if bytes.Contains(data, []byte(`"error"`)) || bytes.Contains(data, []byte(`"duplicate"`)) {
		return 0, false
	}
	_, rest, ok := bytes.Cut(data, []byte(`"seq":`))
	rest = bytes.TrimLeft(rest, " ")
	for i, c := range rest {
		if c < '0' || c > '9' {
			return seq, ok && i > 0 && i < 20
		}
		seq = seq*10 + uint64(c-'0')
	}
	return 0, false
}

// parseAck reads {"stream":"ODIN","seq":7,"duplicate":true} or an error; throttles as
// for refused.
func parseAck(m *nats.Msg, throttles bool) (broker.Ack, error) {
	if len(m.Data) == 0 {
		if m.Header.Get(hdrStatus) == "503" {
			return broker.Ack{}, fmt.Errorf("%w: no stream takes %s*: %w", broker.ErrDown, inPrefix, nats.ErrNoResponders)
		}
		return broker.Ack{}, errors.New("jetstream: empty publish ack")
	}
	if seq, ok := plainAck(m.Data); ok {
		return broker.Ack{Seq: seq}, nil
	}
	var ack struct {
		Seq       uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
		Error     *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return broker.Ack{}, fmt.Errorf("jetstream: publish ack: %w", err)
	}
	if ack.Error != nil {
		return broker.Ack{}, refused(ack.Error, throttles)
	}
	return broker.Ack{Seq: ack.Seq, Duplicate: ack.Duplicate}, nil
}
