package wire

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/gobwas/ws"
)

// Opcodes, RFC 6455 section 5.2.
const (
	OpText   = byte(ws.OpText)
	OpBinary = byte(ws.OpBinary)
	OpClose  = byte(ws.OpClose)
	OpPing   = byte(ws.OpPing)
	OpPong   = byte(ws.OpPong)
)

// Limits bound what a client may send. They may be shared by all parsers.
type Limits struct {
	MaxMessage   int  // bytes of one message, all fragments together; over it: 1009. At most 2 GiB - 1
	MaxFragments int  // frames of one message; over it: 1008. 0 is unlimited
	Binary       bool // accept binary messages; else 1003
	Deflate      bool // permessage-deflate was negotiated; else a compressed message is 1002
}

// room is how many bytes of one message may be received, more of one that is
// compressed: what is not to be compressed grows by 5 in 65 535 (RFC 1951 section
// 3.2.4), with the block sizes that are met in the field by some more.
func (l *Limits) room(deflated bool) int {
	if !deflated {
		return min(l.MaxMessage, math.MaxInt32)
	}
	return min(l.MaxMessage+l.MaxMessage/128+64, math.MaxInt32)
}

// Alloc lends buffers; bufpool is one. It is called with n ≥ 1, on the caller's
// goroutine, and never for a message that lies whole in the input.
type Alloc interface {
	// Get lends a buffer of length n and any capacity ≥ n, or says why not.
	Get(n int) ([]byte, error)
	// Put takes back a buffer from Get, with its first byte and capacity as
	// lent and any length.
	Put(b []byte)
}

// EventKind says what an Event is.
type EventKind uint8

// The kinds of Event.
const (
	None    EventKind = iota // more bytes are needed
	Message                  // a whole text or binary message
	Ping                     // to be answered by a pong with the same payload
	Pong                     // solicited or not
	Close                    // the client's close frame; what it sends after is to be ignored
)

// Event is what one call of [Parser.Next] found.
type Event struct {
	Kind     EventKind
	Op       byte   // OpText or OpBinary of a Message, else 0
	Deflated bool   // of a Message: the Payload is for an Inflater, and text not yet known to be UTF-8
	Code     uint16 // of a Close: its code, 1005 when it gave none
	Payload  []byte // unmasked; of a Close: the reason, UTF-8. Borrowed: see Next
}

// CloseError says that the connection must be closed, and with which code: 1002
// framing, 1003 binary, 1007 bad UTF-8, 1008 too many fragments, 1009 too big,
// 1013 no buffer to be had.
type CloseError struct {
	Code   uint16
	Reason string // for the close frame; at most 123 bytes of ASCII
}

// Error is "code reason".
func (e *CloseError) Error() string {
	return "websocket: close " + strconv.Itoa(int(e.Code)) + ": " + e.Reason
}

// Parser turns the bytes of one client into messages and control frames, RFC
// 6455 section 5, however they are cut. The zero value is ready and means
// "between messages": an owner keeps one only while [Parser.Idle] is false.
// It is 72 bytes and not safe for concurrent use.
type Parser struct {
	buf   []byte // from Alloc or nil: buf[:msg] is the message so far, the rest a control frame's payload
	msg   int32  // bytes of the current message in buf
	valid int32  // of those, bytes seen to be whole UTF-8 characters (text only)
	need  int32  // bytes of the current frame's payload still to come
	frags int32  // frames of the current message begun

	mask  [4]byte  // key of the current frame
	hdr   [14]byte // a header not yet complete
	hdrN  uint8    // bytes in hdr
	off   uint8    // mask offset of the next payload byte, 0..3
	op    uint8    // opcode of the current frame
	msgOp uint8    // opcode of the current message, with rsv1 where it is compressed; 0 between messages
	fin   bool     // the current frame is its message's last
	frame bool     // a header is complete and its payload is not
}

// Next consumes bytes of in, in order, up to and including the frame that
// completes one event; n says how many. Kind None means all of in was consumed
// and more is needed: call it until then. in is unmasked in place.
//
// The Payload is borrowed until the next call of Next or Release. It is a part
// of in when the frame lies whole and unfragmented there, else the parser's own
// buffer, lent by a and given back by the next call. An error is final: send
// its code, Release, and feed no more.
func (p *Parser) Next(in []byte, lim *Limits, a Alloc) (ev Event, n int, cerr *CloseError) {
	if !p.frame {
		p.trim(a)
	}
	for {
		if !p.frame {
			used, cerr := p.header(in[n:], lim)
			n += used
			if cerr != nil || !p.frame {
				return Event{}, n, cerr
			}
		}
		chunk := in[n:min(len(in), n+int(p.need))]
		n += len(chunk)
		ev, cerr := p.payload(chunk, lim, a)
		if ev.Kind != None || cerr != nil {
			return ev, n, cerr
		}
		if p.frame { // and in is used up
			return Event{}, n, nil
		}
	}
}

// Idle reports whether the parser retains nothing: it may be dropped.
func (p *Parser) Idle() bool { return p.buf == nil && !p.Mid() }

// Mid reports whether a frame or a fragmented message has begun and not ended.
func (p *Parser) Mid() bool { return p.frame || p.hdrN > 0 || p.msgOp != 0 }

// Held is the capacity, in bytes, of the buffer lent by the Alloc. It may be
// above 0 between messages: the last Payload, until Next or Release.
func (p *Parser) Held() int { return cap(p.buf) }

// Release gives the buffer back and makes p the zero value. Between messages
// that ends the last Payload; mid-message the rest must not be fed.
func (p *Parser) Release(a Alloc) {
	if p.buf != nil {
		a.Put(p.buf)
	}
	*p = Parser{}
}

// trim ends the loan of the last event's payload, between frames.
func (p *Parser) trim(a Alloc) {
	p.buf = p.buf[:p.msg]
	if p.msg == 0 && p.buf != nil {
		a.Put(p.buf)
		p.buf = nil
	}
}

// header consumes a header from in, or as much of one as there is, and sets
// frame when it is complete.
func (p *Parser) header(in []byte, lim *Limits) (used int, cerr *CloseError) {
	b := in
	if p.hdrN > 0 {
		b = p.hdr[:int(p.hdrN)+copy(p.hdr[p.hdrN:], in)]
	}
	size, length, cerr := p.check(b, lim)
	if cerr != nil {
		return 0, cerr
	}
	if size == 0 {
		p.hdrN = uint8(copy(p.hdr[:], b)) // b is shorter than 14, or it were complete
		return len(in), nil
	}
	used = size - int(p.hdrN)
	p.op, p.fin = b[0]&0x0f, b[0]&0x80 != 0
	p.mask = [4]byte(b[size-4:])
	p.need, p.off, p.hdrN, p.frame = length, 0, 0, true
	if p.op < OpClose {
		p.frags += min(1, math.MaxInt32-p.frags)
		if p.msgOp == 0 {
			p.msgOp = p.op | b[0]&rsv1 // check has judged it
		}
	}
	return used, nil
}

// check judges the first bytes of a header as far as they go, always in the
// same order, so that the answer does not hang on where they were cut. size is
// 0 until the header is complete.
func (p *Parser) check(b []byte, lim *Limits) (size int, length int32, cerr *CloseError) {
	if len(b) < 2 {
		return 0, 0, nil
	}
	state := ws.StateServerSide
	if p.msgOp != 0 {
		state = state.Set(ws.StateFragmented)
	}
	first, deflated := b[0], p.msgOp&rsv1 != 0
	if op := first & 0x0f; lim.Deflate && first&0x70 == rsv1 && (op == OpText || op == OpBinary) {
		// RFC 7692 section 6: on a message's first frame only.
		first, deflated = first&^rsv1, true
	}
	h := ws.Header{ // a Length of 126 or 127 suffices for what CheckHeader asks
		Fin: first&0x80 != 0, Rsv: first >> 4 & 7, OpCode: ws.OpCode(first & 0x0f),
		Masked: b[1]&0x80 != 0, Length: int64(b[1] & 0x7f),
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return 0, 0, &CloseError{1002, err.Error()}
	}
	if h.OpCode == ws.OpBinary && !lim.Binary {
		return 0, 0, &CloseError{1003, "binary messages are not accepted"}
	}
	if lim.MaxFragments > 0 && !h.OpCode.IsControl() && int(p.frags) >= lim.MaxFragments {
		return 0, 0, &CloseError{1008, "too many fragments"}
	}

	size, n, least := 2, uint64(h.Length), uint64(0) // section 5.2: the minimal form must be used
	switch n {
	case 126:
		if size, least = 4, 126; len(b) < size {
			return 0, 0, nil
		}
		n = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if size, least = 10, 1<<16; len(b) < size {
			return 0, 0, nil
		}
		n = binary.BigEndian.Uint64(b[2:])
	}
	if n < least || n > math.MaxInt64 {
		return 0, 0, &CloseError{1002, "malformed payload length"}
	}
	room := lim.room(deflated) - int(p.msg)
	if !h.OpCode.IsControl() && n > uint64(max(0, room)) {
		return 0, 0, &CloseError{1009, "message too big"}
	}
	if size += 4; len(b) < size {
		return 0, 0, nil
	}
	return size, int32(n), nil
}

// payload takes the next bytes of the current frame's payload, all that are
// still needed or all there are.
func (p *Parser) payload(chunk []byte, lim *Limits, a Alloc) (Event, *CloseError) {
	ws.Cipher(chunk, p.mask, int(p.off))
	p.off = (p.off + uint8(len(chunk)&3)) & 3
	last := int(p.need) == len(chunk)
	p.need -= int32(len(chunk))
	p.frame = !last

	if p.op >= OpClose {
		if !last || len(p.buf) > int(p.msg) {
			if cerr := p.grow(chunk, lim, a); cerr != nil {
				return Event{}, cerr
			}
			chunk = p.buf[p.msg:]
		}
		if !last {
			return Event{}, nil
		}
		return control(p.op, chunk)
	}

	if last && p.fin && p.frags == 1 && p.msg == 0 { // whole and unfragmented in the input
		op := p.msgOp
		p.msgOp, p.frags = 0, 0
		if op == OpText {
			if good, ok := textPrefix(chunk); !ok || good < len(chunk) {
				return Event{}, badText()
			}
		}
		return message(op, chunk), nil
	}

	if cerr := p.grow(chunk, lim, a); cerr != nil {
		return Event{}, cerr
	}
	p.msg += int32(len(chunk))
	end := last && p.fin
	if p.msgOp == OpText {
		good, ok := textPrefix(p.buf[p.valid:])
		p.valid += int32(good)
		if !ok || end && p.valid < p.msg {
			return Event{}, badText()
		}
	}
	if !end {
		return Event{}, nil
	}
	ev := message(p.msgOp, p.buf)
	p.msgOp, p.frags, p.msg, p.valid = 0, 0, 0, 0 // buf is lent until the next trim
	return ev, nil
}

// message is the event of a whole message; op as in Parser.msgOp.
func message(op byte, payload []byte) Event {
	return Event{Kind: Message, Op: op &^ rsv1, Deflated: op&rsv1 != 0, Payload: payload}
}

// grow appends b to the buffer, which at most doubles or takes what b needs:
// never what a header merely claims. A message whose last frame has not begun
// doubles it, or many small fragments would be copied once for each.
func (p *Parser) grow(b []byte, lim *Limits, a Alloc) *CloseError {
	n := len(p.buf) + len(b)
	if n > cap(p.buf) {
		most := n + int(p.need)
		if p.op < OpClose && !p.fin {
			most = lim.room(p.msgOp&rsv1 != 0)
		}
		bigger, err := a.Get(max(n, min(2*len(p.buf), most)))
		if err != nil {
			return &CloseError{1013, "out of buffers"}
		}
		bigger = bigger[:copy(bigger, p.buf)]
		if p.buf != nil {
			a.Put(p.buf)
		}
		p.buf = bigger
	}
	p.buf = append(p.buf, b...)
	return nil
}
