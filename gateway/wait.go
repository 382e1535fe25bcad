package gateway

import (
	"time"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/netpoll"
)

// waiting is the side of a shard that capacity.WaitingRoom knows. Its methods
// may be called from any goroutine.
type waiting shard

// Admitted implements capacity.Waiter: a place at the gate was taken for the
// connection, which may have gone.
func (w *waiting) Admitted(token uint64) {
	s := (*shard)(w)
	if !s.post(func(s *shard) { s.admitWaiting(refOf(token)) }) {
		s.g.gate.Release()
	}
}

// Expired implements capacity.Waiter.
func (w *waiting) Expired(token uint64) {
	(*shard)(w).post(func(s *shard) {
		r := refOf(token)
		if c := s.slots.get(r); c != nil && c.state == stateWaiting {
			s.refuse(r, c, refuseFull)
		}
	})
}

// maxAhead is how many bytes one who waits may send ahead of its admission: a
// subscription or two.
const maxAhead = 4 << 10

// wait keeps a checked handshake until a place is free, --admission-wait at
// most. It reports false when the waiting room is full.
func (s *shard) wait(r connRef, c *slot, head, rest []byte) bool {
	if p := s.g.pool; p.InUse() > p.Budget()/2 {
		return false // those inside need the buffers
	}
	if !s.keepHead(c, head, rest) {
		return false
	}
	s.leaveHeads(c)
	c.state = stateWaiting
	if s.g.room.Enter((*waiting)(s), r.token(), time.Now()) {
		s.g.count.Waited.Add(1)
		return true
	}
	c.state = stateHead
	s.heads++
	s.headsNow.Store(int64(s.heads))
	return false
}

// admitWaiting goes on with a handshake that waited, with its place.
func (s *shard) admitWaiting(r connRef) {
	c := s.slots.get(r)
	if c == nil || c.state != stateWaiting {
		s.g.leaveGate()
		return
	}
	defer s.survive(r)
	c.flags |= flagAdmitted
	c.state = stateHead
	s.heads++
	s.headsNow.Store(int64(s.heads))
	if s.g.refusing() {
		s.refuse(r, c, refuseFull) // what was freed is what the process is short of
		return
	}
	if session, known := s.sessions[r.index]; known {
		if why := s.endOf(&session); why != auth.OK { // while it waited
			s.refuseKept(r, c, why)
			return
		}
	}
	s.headAgain(r, c)
}

// readWaiting reads what comes from one who waits: its going, or bytes sent
// ahead, which are kept as far as a head may be long.
func (s *shard) readWaiting(r connRef, c *slot) {
	n, err := s.loop.Read(int(c.fd), s.rbuf)
	e := c.ext
	switch {
	case err != nil && netpoll.Again(err):
		c.flags &^= flagReadable
		return
	case err != nil || n == 0 || len(e.in)+n > wire.MaxHead+maxAhead:
		s.g.room.Leave((*waiting)(s), r.token())
		s.g.count.HeadsAborted.Add(1)
		s.close(r, c, err != nil || n > 0)
		return
	}
	was := len(e.in)
	in, err := s.g.pool.Grow(e.in, was+n)
	if err != nil {
		s.g.room.Leave((*waiting)(s), r.token())
		s.refuse(r, c, refuseNoBuffer)
		return
	}
	copy(in[was:], s.rbuf[:n])
	e.in = in
	s.again(r, c)
}

// leaveGate gives a place back, to who waits for one first.
func (g *Gateway) leaveGate() {
	g.gate.Release()
	g.room.Admit()
}
