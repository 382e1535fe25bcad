package gateway

import (
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/odin-ws/odin/gateway/secure"
	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/netpoll"
)

// Refusals the gateway decides; wire decides those of syntax.
var (
	refuseNotFound  = &wire.Refusal{Status: http.StatusNotFound, Code: "not_found", Message: "there is nothing here; the WebSocket endpoint is /ws"}
	refuseMethod    = &wire.Refusal{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "this is read with GET", Header: [][2]string{{"Allow", "GET, HEAD"}}}
	refuseTimeout   = &wire.Refusal{Status: http.StatusRequestTimeout, Code: "timeout", Message: "the request head did not arrive in time"}
	refuseDisplaced = &wire.Refusal{Status: http.StatusRequestTimeout, Code: "timeout", Message: "too many unfinished handshakes, and this was the oldest"}
	refuseFull      = &wire.Refusal{Status: http.StatusServiceUnavailable, Code: "at_capacity", Message: "Server at capacity"}
	refuseDraining  = &wire.Refusal{Status: http.StatusServiceUnavailable, Code: "draining", Message: "this server is shutting down; another will take you"}
	refuseHTTPBusy  = &wire.Refusal{Status: http.StatusServiceUnavailable, Code: "busy", Message: "too many plain HTTP requests at once"}
	refuseNoBuffer  = &wire.Refusal{Status: http.StatusServiceUnavailable, Code: "busy", Message: "no buffer left for an unfinished request"}
)

// retryAfter is when a refused client should come back, ms: spread so that
// those refused together don't come back together.
func retryAfter() int { return 1000 + rand.IntN(4000) }

// readHead reads what has come of a request head and acts on it when whole.
func (s *shard) readHead(r connRef, c *slot) {
	for range readRounds {
		if c.flags&flagBusy != 0 {
			return // verified comes back for it
		}
		n, err := s.loop.Read(int(c.fd), s.rbuf)
		if err != nil {
			if !netpoll.Again(err) {
				s.g.count.HeadsAborted.Add(1)
				s.close(r, c, true)
			} else {
				c.flags &^= flagReadable
			}
			return
		}
		if n == 0 {
			s.g.count.HeadsAborted.Add(1)
			s.close(r, c, false)
			return
		}
		c.readAt = s.now
		s.g.count.BytesIn.Add(uint64(n))
		if n < len(s.rbuf) && c.flags&flagHangup == 0 {
			c.flags &^= flagReadable
		}
		if !s.headBytes(r, c, s.rbuf[:n]) || c.flags&flagReadable == 0 {
			return
		}
	}
	s.again(r, c)
}

// headBytes takes more bytes of a head; it reports whether the connection still
// wants some.
func (s *shard) headBytes(r connRef, c *slot, b []byte) bool {
	var scratch wire.HeadScanner
	scanner, head := &scratch, b
	if c.ext != nil && c.ext.in != nil {
		// A head is refused before it is larger than MaxHead, so no more than
		// that and one read is ever held, and only for this call.
		e := c.ext
		was := len(e.in)
		in, err := s.g.pool.Grow(e.in, was+len(b))
		if err != nil {
			s.refuse(r, c, refuseNoBuffer)
			return false
		}
		copy(in[was:], b)
		e.in = in
		scanner, head = &e.scanner, in
	}
	end, ref := scanner.Scan(head)
	switch {
	case ref != nil:
		s.refuse(r, c, ref)
		return false
	case end > 0:
		s.headDone(r, c, head[:end], head[end:])
		return false
	}
	e := s.extOf(c)
	if e.in == nil {
		in, err := s.g.pool.Get(len(b))
		if err != nil {
			s.refuse(r, c, refuseNoBuffer)
			return false
		}
		copy(in, b)
		e.in, e.scanner = in, scratch
	}
	return true
}

// headDone acts on a complete head. rest is what came behind it; both may lie
// in the ext's buffer or in the shard's.
func (s *shard) headDone(r connRef, c *slot, head, rest []byte) {
	defer s.survive(r)
	req, ref := wire.ParseHead(head)
	if ref != nil {
		s.refuse(r, c, ref)
		return
	}
	echo := false
	switch {
	case req.Path == "/ws":
	case req.Path == "/echo" && s.g.cfg.Echo:
		echo = true
	case req.Path == "/healthz" || req.Path == "/readyz" || req.Path == "/stats":
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			// Not left to net/http, which would wait for the body, a place taken.
			s.refuse(r, c, refuseMethod)
			return
		}
		s.handOff(r, c, head, rest)
		return
	default:
		s.refuse(r, c, refuseNotFound)
		return
	}
	if ref = wire.CheckUpgrade(&req); ref == nil {
		ref = wire.CheckOrigin(&req, s.live.AllowOrigin)
	}
	if ref == nil {
		ref = s.admitPeer(r, c, &req)
	}
	switch {
	case ref != nil:
	case s.draining.Load():
		ref = refuseDraining
	case c.flags&flagAdmitted != 0: // it waited for its place
	default:
		var waits bool
		if ref, waits = s.admit(r, c, &req, head, rest); waits {
			return
		}
	}
	if ref != nil {
		s.refuseChecked(r, c, &req, ref)
		return
	}
	c.flags |= flagAdmitted
	deflate := s.g.cfg.Compression && req.AcceptDeflate()
	answer, err := req.AppendUpgrade(s.wbuf[:0])
	if err != nil {
		s.g.sampled("upgrade", "upgrading a checked handshake failed", "err", err)
		s.refuse(r, c, &wire.Refusal{Status: http.StatusBadRequest, Code: "bad_request", Message: "the handshake can't be answered"})
		return
	}
	if deflate {
		c.flags |= flagDeflate
		s.g.count.Compressing.Add(1)
	}
	s.open(r, c, answer, rest, echo)
}

// admit finds out who a handshake is of and takes a place for it. It returns the
// refusal; or waits, and headDone is called again for the kept head.
func (s *shard) admit(r connRef, c *slot, req *wire.Request, head, rest []byte) (ref *wire.Refusal, waits bool) {
	// Who can't be let in anyway need not be known.
	if s.g.refusing() || s.g.cfg.AdmissionWait == 0 && s.g.gate.InUse() >= s.g.gate.Max() {
		return refuseFull, false
	}
	if ref, waits = s.identify(r, c, req, head, rest); ref != nil || waits {
		return ref, waits
	}
	switch {
	case s.g.room.TryAcquire():
		return nil, false
	case s.wait(r, c, head, rest):
		return nil, true
	}
	return refuseFull, false
}

// open turns a handshake into a WebSocket: the 101 and the hello go out
// together, then what came behind the head is parsed.
func (s *shard) open(r connRef, c *slot, answer, rest []byte, echo bool) {
	s.g.count.Admitted.Add(1)
	s.leaveHeads(c)
	c.state = stateOpen
	if echo {
		c.flags |= flagEcho
	} else {
		answer = wire.AppendHello(answer, &wire.Hello{
			Conn: s.connID(r), Node: s.g.node,
			PingMs: int(s.g.cfg.Ping.Milliseconds()), Replay: s.live.Replay, MaxCh: s.live.MaxSubscriptions,
			Burst: s.live.RateBurst, PerSec: s.live.RatePerSec,
		})
	}
	s.wbuf = answer[:0]
	var held []byte // rest lies in it
	if c.ext != nil {
		held, c.ext.in = c.ext.in, nil
	}
	if s.send(r, c, answer) {
		if len(rest) > 0 {
			s.feed(r, c, rest)
		}
	}
	s.g.pool.Put(held)
	if c = s.slots.get(r); c == nil {
		return
	}
	s.settle(c)
	if c.flags&flagReadable != 0 {
		s.again(r, c)
	}
}

// connID is what the client is told it is called, unique within the node.
func (s *shard) connID(r connRef) string {
	var b [40]byte
	id := strconv.AppendUint(b[:0], uint64(s.id), 36)
	id = strconv.AppendUint(append(id, '-'), uint64(r.index), 36)
	id = strconv.AppendUint(append(id, '-'), uint64(r.gen), 36)
	return string(id)
}

// refuse answers a handshake with an HTTP status and closes it.
func (s *shard) refuse(r connRef, c *slot, ref *wire.Refusal) {
	s.g.count.refused(ref)
	s.g.recent.note(uint16(ref.Status), ref.Code, func() netip.Addr { return s.addr(r, c) })
	retry := 0
	if ref.Status == http.StatusServiceUnavailable || ref.Status == http.StatusTooManyRequests {
		retry = retryAfter()
	}
	s.wbuf = ref.AppendResponse(s.wbuf[:0], retry)
	s.goodbye(r, c, s.wbuf, uint16(ref.Status))
}

// trimHandshakes forgets the oldest as far as they are upgraded or gone.
func (s *shard) trimHandshakes() {
	for {
		r, ok := s.handshakes.peek()
		if !ok {
			return
		}
		if c := s.slots.get(r); c != nil && c.state == stateHead {
			return
		}
		s.handshakes.pop()
	}
}

// refuseChecked refuses a good handshake: with a status, or, for want of a place or
// of a good token, by upgrading it and closing it if --reject ws says so. A page in
// a browser can't see the status of a refused one.
func (s *shard) refuseChecked(r connRef, c *slot, req *wire.Request, ref *wire.Refusal) {
	var code uint16
	var reason string
	switch {
	case s.live.RejectWS && ref == refuseFull:
		code, reason = closeBusy, "at capacity"
	case s.live.RejectWS && ref.Status == http.StatusUnauthorized:
		code, reason = closeToken, ref.Message
	default:
		s.refuse(r, c, ref)
		return
	}
	answer, err := req.AppendUpgrade(s.wbuf[:0])
	if err != nil {
		s.refuse(r, c, ref)
		return
	}
	s.g.count.refused(ref)
	s.g.count.closed(code)
	s.g.recent.note(code, ref.Code, func() netip.Addr { return s.addr(r, c) })
	s.wbuf = wire.AppendClose(answer, code, reason)
	s.goodbye(r, c, s.wbuf, code)
}

// leaveHeads counts a connection out of the unfinished handshakes, if it is one.
func (s *shard) leaveHeads(c *slot) {
	if c.state != stateHead {
		return
	}
	s.heads--
	s.headsNow.Store(int64(s.heads))
	if c.flags&flagBusy != 0 {
		s.verifying--
	}
}

// dropOldestHead answers 408 to the oldest unfinished handshake that is not being
// verified; it reports false when there is none. Those that are it forgets: the
// verdict ends them soon.
func (s *shard) dropOldestHead() bool {
	for {
		r, ok := s.handshakes.peek()
		if !ok {
			return false
		}
		s.handshakes.pop()
		c := s.slots.get(r)
		if c == nil || c.state != stateHead {
			continue
		}
		// In a storm its head may be waiting in the socket, unread.
		s.readHead(r, c)
		switch c = s.slots.get(r); {
		case c == nil || c.state != stateHead:
		case c.flags&flagBusy != 0:
			continue
		default:
			s.refuse(r, c, refuseDisplaced)
		}
		return true
	}
}

// handOff gives a plain HTTP request to the net/http server, with the bytes
// read so far; the shard forgets it.
func (s *shard) handOff(r connRef, c *slot, head, rest []byte) {
	prefix := make([]byte, 0, len(head)+len(rest))
	prefix = append(append(prefix, head...), rest...)
	if !s.g.plain.reserve() {
		s.refuse(r, c, refuseHTTPBusy)
		return
	}
	s.g.count.PlainRequests.Add(1)
	fd := int(c.fd)
	s.loop.Del(fd)
	var secured *secure.Conn
	if s.tls != nil {
		secured = s.tls.Detach(fd)
	}
	s.forget(r, c)
	s.g.plain.hand(fd, prefix, secured)
}
