package swarm

import "encoding/binary"

// Opcodes, RFC 6455 section 5.2.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// maxFrame is the largest frame taken from a server.
const maxFrame = 64 << 20

// header is a server's frame header.
type header struct {
	op    byte
	fin   bool
	start int // of the payload
	size  int // of the payload
}

// control reports whether it is one of a control frame.
func (h *header) control() bool { return h.op >= opClose }

// readHeader reads a header at the start of b. ok is false while it is
// incomplete; bad says that no server may send it.
func readHeader(b []byte, fragmented bool) (h header, ok bool, bad string) {
	if len(b) < 2 {
		return h, false, ""
	}
	h = header{op: b[0] & 0x0f, fin: b[0]&0x80 != 0, start: 2, size: int(b[1] & 0x7f)}
	switch {
	case b[0]&0x70 != 0:
		return h, false, "reserved bits"
	case b[1]&0x80 != 0:
		return h, false, "masked by the server"
	case h.op > opPong || h.op > opBinary && h.op < opClose:
		return h, false, "unknown opcode"
	case h.control() && (!h.fin || h.size > 125):
		return h, false, "long or fragmented control frame"
	case h.op == opContinuation && !fragmented:
		return h, false, "continuation of nothing"
	case (h.op == opText || h.op == opBinary) && fragmented:
		return h, false, "new message inside another"
	}
	least := 0
	switch h.size {
	case 126:
		if len(b) < 4 {
			return h, false, ""
		}
		h.start, h.size, least = 4, int(binary.BigEndian.Uint16(b[2:])), 126
	case 127:
		if len(b) < 10 {
			return h, false, ""
		}
		n := binary.BigEndian.Uint64(b[2:])
		if n > maxFrame {
			return h, false, "too large"
		}
		h.start, h.size, least = 10, int(n), 1<<16
	}
	if h.size < least {
		return h, false, "length not minimal"
	}
	return h, true, ""
}

// appendFrame appends a client's frame, masked.
func appendFrame(dst []byte, op byte, payload []byte, mask uint32) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|op, 0x80|byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|op, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|op, 0x80|127), uint64(n))
	}
	dst = binary.BigEndian.AppendUint32(dst, mask)
	key := [4]byte(dst[len(dst)-4:])
	at := len(dst)
	dst = append(dst, payload...)
	for i := range payload {
		dst[at+i] ^= key[i&3]
	}
	return dst
}
