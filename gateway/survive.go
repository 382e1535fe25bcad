package gateway

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"

	"github.com/odin-ws/odin/gateway/wire"
)

// closeInternal is sent to who ran into a mistake of ours.
const closeInternal = 1011

var refuseInternal = &wire.Refusal{Status: http.StatusInternalServerError, Code: "internal", Message: "a mistake of ours; it has been logged"}

// survive, deferred around a handler that one connection's bytes have called,
// makes a panic that connection's end instead of the process's. Panics
// elsewhere, in the fan-out or a sweep, are nobody's in particular and do end the
// process: what they leave behind can't be told.
func (s *shard) survive(r connRef) {
	p := recover()
	if p == nil {
		return
	}
	if s.g.byHand {
		panic(p) // tests that turn a shard by hand want to see it
	}
	s.g.count.LoopPanics.Add(1)
	s.g.sampledAt(slog.LevelError, "panic", "a handler panicked; only its connection is closed", "conn", s.connID(r), "panic", p, "stack", string(debug.Stack()))
	c := s.slots.get(r)
	if c == nil {
		return
	}
	s.expel(r, c)
	switch c.state {
	case stateOpen:
		s.fail(r, c, closeInternal, "internal error")
	case stateHead:
		s.refuse(r, c, refuseInternal)
	default:
		s.close(r, c, true)
	}
}

// expel takes a connection out of everything, though what it knows of itself and
// what the channels know of it may no longer be the same: the handler may have
// ended between the two.
func (s *shard) expel(r connRef, c *slot) {
	has := len(c.subs)
	c.subs = slices.DeleteFunc(c.subs, func(n sub) bool {
		sc := s.chans[n.chanID]
		return sc == nil || int(n.member()) >= sc.Len() || sc.At(n.member()).Conn != r.index
	})
	s.g.count.Subscriptions.Add(int64(len(c.subs) - has))
	s.leaveAll(r, c)
	for _, sc := range s.chans {
		for i := 0; sc != nil && i < sc.Len(); {
			if sc.At(uint32(i)).Conn == r.index {
				s.removeMember(sc, uint32(i))
			} else {
				i++
			}
		}
	}
	for prefix := range s.wild {
		s.dropWild(r, prefix)
	}
}
