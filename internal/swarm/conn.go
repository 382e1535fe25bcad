package swarm

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strconv"

	"golang.org/x/sys/unix"
)

// state is how far a connection has come.
type state uint8

const (
	waiting    state = iota // for its attempt
	connecting              // connect(2) under way
	shaking                 // hands, for TLS, on a goroutine of its own
	upgrading               // head sent, or being dripped
	joining                 // 101 received; hello, or acks, to come
	open                    // connected
	ended
)

const (
	flagHup      uint8 = 1 << iota // the server hung up: read the rest
	flagAgain                      // listed in worker.again
	flagFragment                   // within a fragmented message
	flagDripHead                   // drips its head, not a frame
	flagOdin                       // the server took the subprotocol
	flagStray                      // of another epoch than the ledger's: only its chains are checked
)

// conn is one connection, 72 bytes. It belongs to the loop's goroutine.
type conn struct {
	fd     int32
	state  state
	role   Role
	flags  uint8
	acks   uint8  // sub commands still to be acknowledged
	began  uint32 // ms
	need   uint32 // bytes of the current frame's payload to pass over
	sent   uint32 // bytes of the flood's block, or of what is dripped
	errno  uint32 // of a failed write, in case reading finds no better reason
	held   []byte // what was cut off at the end of the last read
	chains []chain
}

// reads reports whether a connection takes what comes.
func (w *worker) reads(k *conn) bool {
	if k.state != open || k.flags&flagHup != 0 {
		return true
	}
	return k.role == Drip || k.role == Normal && !w.stalled
}

// ready handles a connection's events.
func (w *worker) ready(i int32, ev uint32) {
	k := &w.conns[i]
	if k.state == ended || k.state == shaking {
		return
	}
	if k.state == connecting {
		code, err := unix.GetsockoptInt(int(k.fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		switch {
		case err != nil && ev&unix.EPOLLIN != 0:
			// It was answered and hung up on before the head was sent.
			k.state = upgrading
			k.errno = uint32(code)
			k.flags |= flagHup
			w.read(i)
			return
		case err != nil:
			w.end(i, errName(err))
			return
		case ev&unix.EPOLLOUT == 0:
			return
		}
		if w.tls != nil {
			w.shake(i)
			return
		}
		k.state = upgrading
		if k.flags&flagDripHead != 0 {
			w.timed = append(w.timed, i)
		} else if !w.write(i, w.heads.request(w.attempt(i))) {
			return
		}
	}
	if ev&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		k.flags |= flagHup
	}
	if ev&unix.EPOLLOUT != 0 && k.flags&flagHup == 0 {
		if rest := w.outs[i]; rest != nil {
			delete(w.outs, i)
			if !w.writeSealed(i, rest) {
				return
			}
		}
		if k.role == Flood && k.state == open {
			w.flood(i)
			return
		}
	}
	if ev&^unix.EPOLLOUT != 0 && w.reads(k) {
		w.read(i)
	}
}

// read takes what came.
func (w *worker) read(i int32) {
	k := &w.conns[i]
	for range readRounds {
		if !w.readSome(i, len(w.buf)) {
			return
		}
		if !w.reads(k) { // it has just become slow
			return
		}
	}
	w.later(i)
}

// readSome reads once, at most n bytes, and reports whether there may be more.
func (w *worker) readSome(i int32, n int) bool {
	k := &w.conns[i]
	was := len(k.held)
	if was == len(w.buf) { // one frame fills it
		w.buf = make([]byte, 2*len(w.buf))
	}
	if was > 0 {
		copy(w.buf, k.held)
		w.giveBack(k)
	}
	got, more, errno := w.receive(i, was, n)
	switch {
	case errno == unix.EINTR:
		w.hold(k, w.buf[:was])
		return true
	case errno == unix.EAGAIN:
		w.hold(k, w.buf[:was])
		if k.flags&flagHup != 0 && k.errno != 0 {
			w.end(i, errName(unix.Errno(k.errno)))
		}
		return false
	case errno != 0:
		w.end(i, errName(errno))
		return false
	case got == 0:
		why := "eof"
		if k.errno != 0 {
			why = errName(unix.Errno(k.errno))
		}
		w.end(i, why)
		return false
	}
	rest := w.eat(i, w.buf[:was+got])
	if k.state == ended {
		return false
	}
	w.hold(k, rest)
	return more || k.flags&flagHup != 0
}

// hold keeps what was cut off until more comes.
func (w *worker) hold(k *conn, rest []byte) {
	if len(rest) == 0 {
		return
	}
	if n := len(w.spare); n > 0 {
		k.held = w.spare[n-1]
		w.spare = w.spare[:n-1]
	}
	k.held = append(k.held[:0], rest...)
}

func (w *worker) giveBack(k *conn) {
	if cap(k.held) > 0 && cap(k.held) <= 64<<10 && len(w.spare) < 64 {
		w.spare = append(w.spare, k.held)
	}
	k.held = nil
}

// eat handles what was read and returns what is not whole yet.
func (w *worker) eat(i int32, b []byte) (rest []byte) {
	k := &w.conns[i]
	if k.state == upgrading {
		end := bytes.Index(b, []byte("\r\n\r\n"))
		switch {
		case end >= 0:
		case len(b) > maxHead:
			w.end(i, "bad_handshake")
			return nil
		default:
			return b
		}
		w.answered(i, b[:end])
		b = b[end+4:]
	}
	for len(b) > 0 && k.state != ended {
		if k.need > 0 {
			n := min(int(k.need), len(b))
			k.need -= uint32(n)
			b = b[n:]
			continue
		}
		h, ok, bad := readHeader(b, k.flags&flagFragment != 0)
		if bad != "" {
			w.end(i, "bad_frame")
			return nil
		}
		// A frame nobody looks into is passed over, but for its first bytes.
		whole := h.control() || k.state == joining || w.looks(k)
		least := h.start + h.size
		if !whole {
			least = h.start + min(h.size, 8)
		}
		if !ok || len(b) < least {
			return b
		}
		payload := b[h.start:min(len(b), h.start+h.size)]
		b = b[h.start+len(payload):]
		if !whole {
			k.need = uint32(h.size - len(payload))
		}
		w.frame(i, k, &h, payload)
	}
	return nil
}

// looks reports whether messages are read, not only counted.
func (w *worker) looks(k *conn) bool { return w.ledger != nil || w.cfg.Mark != "" && k.role == Normal }

// answered handles the head of the answer to an upgrade.
func (w *worker) answered(i int32, head []byte) {
	k := &w.conns[i]
	odin, why := w.heads.answer(w.attempt(i), head)
	if why != "" {
		w.end(i, why)
		return
	}
	k.state = joining
	if odin {
		k.flags |= flagOdin
	}
	if w.commands == 0 {
		if !odin {
			w.opened(i)
		}
		return
	}
	k.acks = uint8(w.commands)
	var frames []byte
	for id := range w.commands {
		frames = appendFrame(frames, opText, w.sub(i, id+1), w.rng.Uint32())
	}
	w.write(i, frames)
}

// opened makes a connection a connected one.
func (w *worker) opened(i int32) {
	k := &w.conns[i]
	k.state = open
	if k.flags&flagDripHead == 0 {
		w.inFlight--
	}
	c := &w.counts.Roles[k.role]
	c.Connected++
	c.Open++
	switch k.role {
	case Flood:
		w.later(i)
	case Slow, Drip:
		if k.flags&flagDripHead == 0 {
			w.timed = append(w.timed, i)
		}
	}
}

// frame handles one frame. payload is whole for a control frame, while joining,
// and when messages are read; else its first bytes.
func (w *worker) frame(i int32, k *conn, h *header, payload []byte) {
	switch h.op {
	case opPing:
		w.counts.Pings++
		// Within its own half-sent frame a dripping client can't answer.
		if k.role == Normal || k.state != open {
			w.write(i, appendFrame(nil, opPong, payload, w.rng.Uint32()))
		}
		return
	case opPong:
		return
	case opClose:
		w.closed(i, payload)
		return
	}
	first := k.flags&flagFragment == 0
	k.flags &^= flagFragment
	if !h.fin {
		k.flags |= flagFragment
	}
	kind := kind(payload)
	if k.state == joining {
		w.join(i, k, kind, payload)
		return
	}
	w.counts.Frames++
	w.counts.Bytes += uint64(h.size)
	w.counts.LastNS = w.clock
	// An answer is a pong, or, of an echo, no frame of odin's.
	if w.volleys > 0 && first && (kind == 'p' || kind == 0) {
		w.counts.Answers++
		w.write(i, w.volleyed)
	}
	if first && w.looks(k) && h.op == opText && h.fin {
		w.look(i, k, kind, payload)
		return
	}
	if w.ledger != nil {
		w.ledger.fault(faultMalformed, "a fragmented or binary frame")
	}
	switch {
	case !first:
	case kind == 'm':
		w.counts.Messages++
	case kind == 'g':
		w.counts.Gaps++
	}
}

// look reads one of the server's frames.
func (w *worker) look(i int32, k *conn, kind byte, payload []byte) {
	var m message
	switch {
	case (kind == 'm' || kind == 0) && m.parse(payload):
		w.counts.Messages++
		w.counts.Skipped += m.skip
		at, own := stamped(m.d, w.cfg.Mark)
		if own && k.role == Normal && !w.delays.stop {
			w.delays.note(w.clock - at)
		}
		if w.ledger != nil {
			w.ledger.message(i, k, &m, own)
		}
	case kind == 'g':
		w.counts.Gaps++
		var g struct {
			Ch            string
			After, Before uint64
			Why           string
		}
		switch {
		case w.ledger == nil:
		case json.Unmarshal(payload, &g) != nil:
			w.ledger.fault(faultMalformed, "%.100q", payload)
		default:
			w.ledger.gap(i, k, []byte(g.Ch), g.After, g.Before, g.Why == "epoch")
		}
	case kind == 'm' || kind == 0:
		if w.ledger != nil {
			w.ledger.fault(faultMalformed, "%.100q", payload)
		}
	}
}

// join handles what comes between the upgrade and the last ack.
func (w *worker) join(i int32, k *conn, kind byte, payload []byte) {
	switch {
	case kind == 'h' && w.commands == 0:
		w.opened(i)
	case kind == 'a':
		w.ack(i, k, payload)
	case kind == 'e':
		var e struct {
			ID    int
			Code  string
			Retry uint32 `json:"retry_ms"`
		}
		switch {
		case json.Unmarshal(payload, &e) != nil || e.ID < 1 || e.ID > w.commands:
		case e.Retry > 0: // busy: it is asked again when it says so
			w.counts.Retries++
			w.repeats = append(w.repeats, repeat{i, e.ID, w.millis() + e.Retry})
		default:
			w.end(i, "err_"+e.Code)
		}
	case kind == 'm' || kind == 'g': // of a channel acknowledged before
		if w.looks(k) {
			w.counts.Frames++
			w.look(i, k, kind, payload)
		}
	}
}

func (w *worker) ack(i int32, k *conn, payload []byte) {
	var a struct {
		ID int
		Ch map[string]struct {
			Epoch string
			Seq   uint64
		}
		Rej map[string]string
	}
	if json.Unmarshal(payload, &a) != nil || a.ID < 1 || a.ID > w.commands {
		w.end(i, "bad_ack")
		return
	}
	for _, why := range a.Rej {
		w.end(i, "rej_"+why)
		return
	}
	if w.ledger != nil {
		for name, at := range a.Ch {
			w.ledger.acked(k, name, at.Epoch, at.Seq)
		}
	}
	if k.acks--; k.acks == 0 {
		w.opened(i)
	}
}

// closed answers the server's close frame, and lets it have the last word.
func (w *worker) closed(i int32, payload []byte) {
	code := 1005
	if len(payload) >= 2 {
		code = int(binary.BigEndian.Uint16(payload))
		payload = payload[:2]
	}
	if w.conns[i].role != Flood && w.conns[i].role != Drip {
		w.write(i, appendFrame(nil, opClose, payload, w.rng.Uint32()))
	}
	w.end(i, "close_"+strconv.Itoa(code))
}

// write sends a few bytes, and keeps what the socket doesn't take. It reports
// false when the connection has ended.
func (w *worker) write(i int32, b []byte) bool {
	k := &w.conns[i]
	if k.state == ended {
		return false
	}
	if s := w.secure[i]; s != nil {
		b = w.seal(s, b)
	}
	return w.writeSealed(i, b)
}

// writeSealed is write for what needs no more sealing.
func (w *worker) writeSealed(i int32, b []byte) bool {
	k := &w.conns[i]
	if rest := w.outs[i]; rest != nil {
		w.outs[i] = append(rest, b...)
		return true
	}
	n, errno := writeRaw(k.fd, b)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		n = 0
	case errno != 0:
		w.broken(i, errno)
		return false
	}
	if n < len(b) {
		w.outs[i] = bytes.Clone(b[n:])
		if errno == unix.EINTR {
			w.later(i)
		}
	}
	return true
}

// broken handles a failed write: what the server said before it hung up is a
// better reason, so that is read first.
func (w *worker) broken(i int32, errno unix.Errno) {
	k := &w.conns[i]
	k.flags |= flagHup
	if k.errno == 0 {
		k.errno = uint32(errno)
	}
	delete(w.outs, i)
	w.later(i)
}

// end is a connection's end by the server, or its attempt's failure.
func (w *worker) end(i int32, why string) {
	k := &w.conns[i]
	if k.state == ended {
		return
	}
	c := &w.counts.Roles[k.role]
	switch {
	case k.state != open:
		c.Errors.count(why, 1)
		if k.flags&flagDripHead == 0 {
			w.inFlight--
		}
	case k.role == Normal && w.stalled:
		c.Open--
		c.Stalled.count(why, 1)
	default:
		c.Open--
		c.Ended.count(why, 1)
	}
	if k.state == shaking {
		_ = unix.Shutdown(int(k.fd), unix.SHUT_RDWR) // its goroutine has a duplicate
	}
	k.state = ended
	w.giveBack(k)
	k.chains = nil
	delete(w.outs, i)
	delete(w.secure, i)
	if k.fd >= 0 {
		_ = unix.Close(int(k.fd))
		k.fd = -1
	}
}

// hangUp closes with a reset, which leaves no port in TIME_WAIT to be in the
// way of the next run.
func hangUp(k *conn) {
	_ = unix.SetsockoptLinger(int(k.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(int(k.fd))
	k.fd, k.state = -1, ended
}
