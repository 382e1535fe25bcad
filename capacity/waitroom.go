package capacity

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Waiter is told how a wait ended, once for each Enter that was not undone by
// Leave. It is called on whatever goroutine freed the slot or noticed the
// deadline, with no lock held, and must not block: an event loop posts the
// token to its own mailbox.
//
// Tokens are the waiter's own affair; a room tells equal tokens of different
// waiters apart. Waiters are compared with ==, so they are pointers.
type Waiter interface {
	// Admitted passes a slot of the gate on. It is to be answered by one
	// Gate.Release, also if the token's connection has gone meanwhile.
	Admitted(token uint64)
	// Expired says that no slot came in time: 503.
	Expired(token uint64)
}

// WaitingRoom is where callers wait for a slot of a Gate, bounded, each for the
// same time, first come first served. Any goroutine may call any method; none
// waits.
//
//	if !room.TryAcquire() {                    // instead of gate.TryAcquire
//		if !room.Enter(shard, token, now) { … 503 … }
//	}
//	gate.Release(); room.Admit()               // when a slot is given back
//	room.Admit()                               // after gate.SetMax
//	room.Expire(now)                           // on a tick
//	if room.Leave(shard, token) { … }          // when the caller hangs up
type WaitingRoom struct {
	// Static after NewWaitingRoom.
	gate *Gate
	wait time.Duration
	max  int

	// Written under mu, read by anyone.
	waiting  atomic.Int64
	deadline atomic.Int64 // Unix ns of the first in line; 0 when nobody waits

	mu         sync.Mutex
	places     []place
	free       int32 // head of the list of free places, by next; none without
	head, tail int32 // the line, none when empty
	at         map[placeKey]int32

	entered, admitted, expired, left, refused atomic.Uint64
}

type placeKey struct {
	waiter Waiter
	token  uint64
}

type place struct {
	placeKey
	deadline   time.Time
	prev, next int32
}

const none = -1

// NewWaitingRoom returns a room of so many places before gate, in which a
// caller waits so long. With 0 places or no wait, nobody may enter.
func NewWaitingRoom(gate *Gate, places int, wait time.Duration) *WaitingRoom {
	if places < 0 || wait < 0 || places > 1<<30 {
		panic(fmt.Sprintf("capacity: a waiting room of %d places for %v", places, wait))
	}
	if wait == 0 {
		places = 0
	}
	return &WaitingRoom{gate: gate, wait: wait, max: places, free: none, head: none, tail: none, at: make(map[placeKey]int32)}
}

// TryAcquire is the gate's, but for who comes while others wait: it reports
// false without asking, so that no one overtakes. Gate.Rejected therefore does
// not say how many were refused; who calls this counts its 503s itself.
func (r *WaitingRoom) TryAcquire() bool {
	return r.waiting.Load() == 0 && r.gate.TryAcquire()
}

// Enter makes a caller wait from now on and reports true, or reports false: the
// room is full, or the token waits already. Its waiter may be called before
// Enter returns, if a slot has become free meanwhile.
func (r *WaitingRoom) Enter(w Waiter, token uint64, now time.Time) bool {
	if !r.enter(placeKey{w, token}, now) {
		r.refused.Add(1)
		return false
	}
	r.entered.Add(1)
	// A slot given back before the caller stood in line told no one.
	r.Admit()
	return true
}

func (r *WaitingRoom) enter(key placeKey, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, twice := r.at[key]; twice || len(r.at) >= r.max {
		return false
	}
	i := r.free
	if i == none {
		r.places = append(r.places, place{})
		i = int32(len(r.places) - 1)
	} else {
		r.free = r.places[i].next
	}
	deadline := now.Add(r.wait)
	if r.tail != none && deadline.Before(r.places[r.tail].deadline) {
		deadline = r.places[r.tail].deadline // a clock read earlier by another goroutine
	}
	r.places[i] = place{placeKey: key, deadline: deadline, prev: r.tail, next: none}
	if r.tail == none {
		r.head = i
	} else {
		r.places[r.tail].next = i
	}
	r.tail = i
	r.at[key] = i
	r.note()
	return true
}

// Leave takes a caller out and reports true: its waiter will not be called. It
// reports false if it does not wait any more: the waiter was called or is about
// to be.
func (r *WaitingRoom) Leave(w Waiter, token uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := r.at[placeKey{w, token}]
	if ok {
		r.remove(i)
		r.left.Add(1)
	}
	return ok
}

// Admit passes free slots of the gate on to those who wait. Call it after every
// Gate.Release and Gate.SetMax; it is one load when nobody waits.
func (r *WaitingRoom) Admit() {
	for r.waiting.Load() > 0 {
		key, ok := r.next()
		if !ok {
			return
		}
		r.admitted.Add(1)
		key.waiter.Admitted(key.token)
	}
}

// next takes the first in line out if there is a slot for it.
func (r *WaitingRoom) next() (key placeKey, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The gate is only asked when it seems free, so that those who wait are not
	// counted as rejected time and again.
	if r.head == none || r.gate.InUse() >= r.gate.Max() || !r.gate.TryAcquire() {
		return placeKey{}, false
	}
	key = r.places[r.head].placeKey
	r.remove(r.head)
	return key, true
}

// Expire ends the waits whose time is up. Call it on a tick; it is one load when
// there is none.
func (r *WaitingRoom) Expire(now time.Time) {
	for {
		first := r.deadline.Load()
		if first == 0 || now.UnixNano() < first {
			return
		}
		r.mu.Lock()
		if r.head == none || now.Before(r.places[r.head].deadline) {
			r.mu.Unlock()
			return
		}
		key := r.places[r.head].placeKey
		r.remove(r.head)
		r.mu.Unlock()
		r.expired.Add(1)
		key.waiter.Expired(key.token)
	}
}

// remove frees a place. With mu held.
func (r *WaitingRoom) remove(i int32) {
	p := &r.places[i]
	delete(r.at, p.placeKey)
	if p.prev == none {
		r.head = p.next
	} else {
		r.places[p.prev].next = p.next
	}
	if p.next == none {
		r.tail = p.prev
	} else {
		r.places[p.next].prev = p.prev
	}
	*p = place{next: r.free, prev: none}
	r.free = i
	r.note()
}

// note publishes what is read without the lock. With mu held.
func (r *WaitingRoom) note() {
	r.waiting.Store(int64(len(r.at)))
	first := int64(0)
	if r.head != none {
		first = max(1, r.places[r.head].deadline.UnixNano())
	}
	r.deadline.Store(first)
}

// WaitCounts are a room's figures. But for Waiting they only grow; Entered =
// Admitted + Expired + Left + Waiting when nothing is under way.
type WaitCounts struct {
	Waiting  int    `json:"waiting"`
	Places   int    `json:"places"`
	Entered  uint64 `json:"entered"`
	Admitted uint64 `json:"admitted"`
	Expired  uint64 `json:"expired"`
	Left     uint64 `json:"left"`
	Refused  uint64 `json:"refused"` // found the room full
}

// Counts returns them.
func (r *WaitingRoom) Counts() WaitCounts {
	return WaitCounts{
		Waiting: int(r.waiting.Load()), Places: r.max,
		Entered: r.entered.Load(), Admitted: r.admitted.Load(), Expired: r.expired.Load(),
		Left: r.left.Load(), Refused: r.refused.Load(),
	}
}
