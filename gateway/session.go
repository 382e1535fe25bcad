package gateway

import (
	"time"
	"unsafe"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/wire"
)

// What a connection with a token may do is kept beside its slot, by index: an
// idle one without costs nothing.

// sessionBytes is what a session costs: key and value in the shard's map and a
// control byte, where the map has just doubled and is 7/16 full.
const sessionBytes = (8 + int64(unsafe.Sizeof(auth.Session{})) + 1) * 16 / 7

// setSession remembers whose a connection is.
func (s *shard) setSession(r connRef, session auth.Session) {
	if _, had := s.sessions[r.index]; !had {
		s.g.count.Sessions.Add(1)
	}
	s.sessions[r.index] = session
}

// forgetSession undoes setSession.
func (s *shard) forgetSession(r connRef) {
	if _, had := s.sessions[r.index]; had {
		delete(s.sessions, r.index)
		s.g.count.Sessions.Add(-1)
	}
}

// mayRead reports whether a connection may be given a channel, or all of a
// wildcard. A token adds to what everybody may read. Nothing is looked up, so the
// answer says nothing of what there is.
func (s *shard) mayRead(r connRef, name string) bool {
	tokens := s.g.cfg.Tokens
	if tokens == nil || tokens.Anonymous().Covers(name) {
		return true
	}
	session, known := s.sessions[r.index]
	return known && session.Grant.Reads.Covers(name)
}

// stranger ends a connection that has shown no token and asks for what needs one;
// it reports whether it did. Names that are nobody's are left to be answered.
func (s *shard) stranger(r connRef, c *slot, cmd *wire.Command) bool {
	if s.g.cfg.Tokens == nil {
		return false
	}
	if _, known := s.sessions[r.index]; known {
		return false
	}
	for _, name := range cmd.Ch {
		if _, _, ok := wire.ParsePattern(name); !ok || s.mayRead(r, name) {
			continue
		}
		s.g.count.AuthFailed[auth.Missing].Add(1)
		s.wbuf = wire.AppendErr(s.wbuf[:0], cmd.ID, "unauthorized", "this needs a token", 0)
		if s.send(r, c, s.wbuf) && c.state == stateOpen {
			s.fail(r, c, closeToken, auth.Missing.Error())
		}
		return true
	}
	return false
}

// authCommand has the token of an op auth verified.
func (s *shard) authCommand(r connRef, c *slot, cmd *wire.Command) {
	switch {
	case s.g.cfg.Tokens == nil:
		s.refuseCommand(r, c, cmd.ID, "bad_request", "no token keys are configured; anyone may read")
	case len(cmd.Token) > auth.MaxToken:
		s.authenticated(c, &check{connRef: r, reason: auth.Malformed})
	case !s.verify(r, c, check{token: cmd.Token, id: cmd.ID}):
		s.poolFull(r, c, cmd.ID)
	}
}

// authenticated answers an op auth whose token was verified. A connection keeps
// its subject; what the new token does not allow ends.
func (s *shard) authenticated(c *slot, ch *check) {
	r := ch.connRef
	old, had := s.sessions[r.index]
	switch {
	case ch.reason == auth.Unavailable:
		s.g.count.AuthFailed[ch.reason].Add(1)
		s.g.count.CommandErrors.Add(1)
		s.wbuf = wire.AppendErr(s.wbuf[:0], ch.id, "limit", ch.reason.Error(), retryAfter())
		s.send(r, c, s.wbuf)
		return
	case ch.reason == auth.None:
		s.fail(r, c, 1011, "internal error")
		return
	case ch.reason != auth.OK:
		s.noteRefused(r, c, ch.reason)
		s.fail(r, c, closeToken, ch.reason.Error())
		return
	case had && !old.Grant.SameSubject(ch.session.Grant):
		s.noteRefused(r, c, auth.Identity)
		s.fail(r, c, closeAbuse, auth.Identity.Error())
		return
	}
	s.setSession(r, ch.session)
	s.wbuf = wire.AppendAck(s.wbuf[:0], ch.id)
	if s.send(r, c, s.wbuf) && c.state == stateOpen && had && old.Grant != ch.session.Grant {
		s.narrow(r, c)
	}
}

// narrow ends the subscriptions a connection may have no longer, and tells it of
// each.
func (s *shard) narrow(r connRef, c *slot) {
	var ended []byte
	if c.ext != nil {
		for i := 0; i < len(c.ext.wild); {
			prefix := c.ext.wild[i].prefix
			if s.mayRead(r, prefix+"*") {
				i++
				continue
			}
			s.unsubWild(r, c, prefix) // takes it out of c.ext.wild
			ended = wire.AppendForbidden(ended, prefix+"*")
		}
	}
	for at := 0; at < len(c.subs); {
		name := s.chans[c.subs[at].chanID].ch.Name
		if s.mayRead(r, name) {
			at++
			continue
		}
		s.leave(c, at)
		ended = wire.AppendForbidden(ended, name)
	}
	s.settle(c)
	if len(ended) > 0 {
		s.send(r, c, ended)
	}
}

// endOf is why a session is over, OK while it is not.
func (s *shard) endOf(session *auth.Session) auth.Reason {
	switch {
	case time.Now().UnixMilli() >= session.Until:
		return auth.Expired
	case s.g.cfg.Tokens.Revoked(session):
		return auth.Revoked
	}
	return auth.OK
}

// outlived ends a connection whose token has expired or was revoked; it reports
// whether it did.
func (s *shard) outlived(r connRef, c *slot) bool {
	session, known := s.sessions[r.index]
	if !known {
		return false
	}
	why := s.endOf(&session)
	if why == auth.OK {
		return false
	}
	s.g.count.AuthEnded[why].Add(1)
	s.fail(r, c, closeToken, why.Error())
	return true
}
