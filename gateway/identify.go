package gateway

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// checkBatch is how many tokens a worker verifies before the shard hears of
	// them: some milliseconds' worth.
	checkBatch = 32
	// fetchPatience is how long a token waits whose key may be on its way. It is asked
	// about again at a tick after a set was fetched.
	fetchPatience = 30 // ticks
	// checkBytes bounds the tokens that wait on a shard, bytes together: a thousand of
	// 2 KiB.
	checkBytes = 2 << 20
)

// check is a token to be verified, of a handshake or of the op auth. Its
// connection's bytes wait (flagBusy).
type check struct {
	connRef
	token   string
	id      wire.ID // of the op auth
	begun   uint32  // tick
	again   bool    // it was verified before, when sets had been fetched so often:
	fetches uint64
	session auth.Session
	reason  auth.Reason // None: not verified
}

// checker is a shard's tokens to be verified. One batch of them is at the pool at
// a time, so that a storm of handshakes takes one worker and not all, and those it
// has no place for wait here instead of being refused.
type checker struct {
	queue []check
	later []check // to be asked about again at the next tick
	bytes int     // of the tokens in both
	under bool    // a batch is at the pool
}

var refuseCheckBusy = &wire.Refusal{Status: http.StatusServiceUnavailable, Code: "busy", Message: "too many tokens are being verified; come again"}

// identify finds out who a handshake is of. It returns the refusal; or waits: the
// token is being verified, and headDone is called again for the kept head.
func (s *shard) identify(r connRef, c *slot, req *wire.Request, head, rest []byte) (ref *wire.Refusal, waits bool) {
	tokens := s.g.cfg.Tokens
	if tokens == nil {
		return nil, false
	}
	if _, known := s.sessions[r.index]; known {
		return nil, false
	}
	token, shown, ref := shownToken(req)
	switch {
	case ref != nil:
	case shown && len(token) > auth.MaxToken:
		ref = s.refusedToken(r, c, auth.Malformed)
	case shown && !s.keepHead(c, head, rest):
		ref = refuseNoBuffer
	case shown:
		if waits = s.verify(r, c, check{token: strings.Clone(token)}); !waits {
			ref = refuseCheckBusy
		}
	case tokens.Anonymous() == nil:
		ref = s.refusedToken(r, c, auth.Missing)
	}
	return ref, waits
}

// keepHead keeps a head, and what came behind it, for headDone to be called again.
func (s *shard) keepHead(c *slot, head, rest []byte) bool {
	e := s.extOf(c)
	if e.in != nil {
		return true // they lie there
	}
	in, err := s.g.pool.Get(len(head) + len(rest))
	if err != nil {
		return false
	}
	copy(in, head)
	copy(in[len(head):], rest)
	e.in = in
	return true
}

// keptHead is the head that keepHead kept.
func keptHead(c *slot) []byte {
	var scanner wire.HeadScanner
	end, _ := scanner.Scan(c.ext.in)
	return c.ext.in[:end]
}

// headAgain calls headDone for a head that was kept.
func (s *shard) headAgain(r connRef, c *slot) {
	head := keptHead(c)
	s.headDone(r, c, head, c.ext.in[len(head):])
}

// awaited reports whether somebody still waits for the verdict on a token: who was
// told goodbye does not.
func (s *shard) awaited(ch check) bool {
	c := s.slots.get(ch.connRef)
	return c != nil && (c.state == stateHead || c.state == stateOpen)
}

// verify has a token verified. It reports false when too many are already
// waiting: of handshakes half of all, so that the op auth has its places.
func (s *shard) verify(r connRef, c *slot, ch check) bool {
	q := &s.checks
	if c.state == stateHead && s.verifying >= s.g.maxHeads {
		return false
	}
	full := func() bool {
		return len(q.queue)+len(q.later) >= 2*s.g.maxHeads || q.bytes+len(ch.token) > checkBytes
	}
	if full() {
		gone := func(ch check) bool {
			if s.awaited(ch) {
				return false
			}
			q.bytes -= len(ch.token)
			return true
		}
		q.queue, q.later = slices.DeleteFunc(q.queue, gone), slices.DeleteFunc(q.later, gone)
		if full() {
			return false
		}
	}
	ch.connRef, ch.begun = r, s.now
	c.flags |= flagBusy
	if c.state == stateHead {
		s.verifying++
	}
	q.queue = append(q.queue, ch)
	q.bytes += len(ch.token)
	s.verifyNext()
	return true
}

// verifyNext takes the next batch to the pool, if none is there and it has a
// place; else the next tick tries again.
func (s *shard) verifyNext() {
	q := &s.checks
	if q.under || len(q.queue) == 0 {
		return
	}
	var batch []check
	n, size := 0, 0
	for ; n < len(q.queue) && len(batch) < checkBatch; n++ {
		size += len(q.queue[n].token)
		if s.awaited(q.queue[n]) {
			batch = append(batch, q.queue[n])
		}
	}
	if len(batch) == 0 {
		q.queue = slices.Delete(q.queue, 0, n) // all have gone
		q.bytes -= size
		return
	}
	tokens := s.g.cfg.Tokens
	err := s.g.submit(func() {
		for i := range batch {
			s.g.verifyOne(tokens, &batch[i])
		}
		s.post(func(s *shard) { s.verified(batch) })
	})
	if err != nil {
		s.g.count.PoolOverloads.Add(1)
		return
	}
	q.under = true
	q.queue = slices.Delete(q.queue, 0, n)
	q.bytes -= size
}

// verifyOne verifies a token, on a worker. A mistake of ours is this token's alone:
// the others of its batch have their verdicts.
func (g *Gateway) verifyOne(tokens *auth.Tokens, ch *check) {
	defer func() {
		if p := recover(); p != nil {
			g.count.PoolPanics.Add(1)
			g.sampledAt(slog.LevelError, "token panic", "verifying a token panicked; only its connection is closed", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	ch.fetches = tokens.Fetches() // before the verdict, so that no later one is missed
	if ch.again {
		ch.session, ch.reason = tokens.VerifyAgain(ch.token)
	} else {
		ch.session, ch.reason = tokens.Verify(ch.token)
	}
}

// refuseKept refuses a handshake whose head was kept for its token.
func (s *shard) refuseKept(r connRef, c *slot, why auth.Reason) {
	// It was checked before it waited, so it can be parsed again.
	if req, ref := wire.ParseHead(keptHead(c)); ref == nil {
		s.refuseChecked(r, c, &req, s.refusedToken(r, c, why))
	}
}

// verified goes on with the connections of a batch.
func (s *shard) verified(batch []check) {
	s.checks.under = false
	for i := range batch {
		ch := &batch[i]
		if ch.reason == auth.Fetching {
			ch.again = true
			s.checks.later = append(s.checks.later, *ch)
			s.checks.bytes += len(ch.token)
			continue
		}
		s.decided(ch)
	}
	s.verifyNext()
}

// decided goes on with one connection, whose token has its verdict.
func (s *shard) decided(ch *check) {
	r := ch.connRef
	c := s.slots.get(r)
	if c == nil {
		return
	}
	defer s.survive(r)
	if c.state == stateHead {
		s.verifying--
	}
	c.flags &^= flagBusy
	switch {
	case c.state == stateOpen:
		s.authenticated(c, ch)
		if c = s.slots.get(r); c != nil && c.state == stateOpen {
			s.resume(r, c)
		}
	case c.state != stateHead: // told goodbye meanwhile
	case ch.reason != auth.OK:
		s.refuseKept(r, c, ch.reason)
	default:
		s.setSession(r, ch.session)
		s.headAgain(r, c)
		if c = s.slots.get(r); c != nil && c.flags&flagReadable != 0 {
			s.again(r, c) // it may have left meanwhile; of that no event comes again
		}
	}
}

// sweepChecks asks again about tokens whose keys may have come, gives up those that
// wait too long, and asks for a place in the pool.
func (s *shard) sweepChecks() {
	q := &s.checks
	if len(q.later) > 0 {
		fetches := s.g.cfg.Tokens.Fetches()
		was := q.later
		q.later = nil
		for i := range was {
			switch ch := &was[i]; {
			case ch.fetches != fetches:
				q.queue = append(q.queue, *ch)
			case s.now-ch.begun < fetchPatience:
				q.later = append(q.later, *ch)
			default: // nobody can say that it is bad
				ch.reason = auth.Unavailable
				q.bytes -= len(ch.token)
				s.decided(ch)
			}
		}
	}
	s.verifyNext()
}

// refusedToken is noteRefused, and the answer to a handshake.
func (s *shard) refusedToken(r connRef, c *slot, why auth.Reason) *wire.Refusal {
	s.noteRefused(r, c, why)
	return tokenRefusals[why]
}

// noteRefused counts and logs a token that is not accepted, or missing.
func (s *shard) noteRefused(r connRef, c *slot, why auth.Reason) {
	s.g.count.AuthFailed[why].Add(1)
	if why != auth.Missing { // who has none is no news
		args := []any{"reason", why.String(), "conn", s.connID(r)}
		if addr, err := s.loop.Peer(int(c.fd)); err == nil {
			args = append(args, "addr", addr)
		}
		s.g.sampled("token", "a token was refused", args...)
	}
}
