package suite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// Opcodes, RFC 6455 section 5.2.
const (
	opCont   = 0
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// maxFrame bounds what a server's frame may claim, bytes: more than any case
// sends.
const maxFrame = 32 << 20

// sender makes a client's frames. Its masks follow from its seed, so that a case
// sends the same bytes whenever it runs.
type sender struct {
	rng *rand.Rand
}

// frame is one frame, masked: fin is 0 or 1, rsv three bits.
func (s *sender) frame(op, fin, rsv byte, payload []byte) []byte {
	b := s.header(op, fin, rsv, len(payload))
	key := b[len(b)-4:]
	at := len(b)
	b = append(b, payload...)
	mask(b[at:], [4]byte(key), 0)
	return b
}

// header is a frame's header, which ends with the mask.
func (s *sender) header(op, fin, rsv byte, n int) []byte {
	b := make([]byte, 1, 14+n)
	b[0] = fin<<7 | rsv<<4 | op
	switch {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return binary.BigEndian.AppendUint32(b, s.rng.Uint32())
}

// mask applies key to b, whose first byte is the payload's at-th.
func mask(b []byte, key [4]byte, at int) {
	for i := range b {
		b[i] ^= key[(at+i)&3]
	}
}

// whole is an unfragmented frame.
func (s *sender) whole(op byte, payload string) []byte { return s.frame(op, 1, 0, []byte(payload)) }

// part is a frame that is not its message's last.
func (s *sender) part(op byte, payload string) []byte { return s.frame(op, 0, 0, []byte(payload)) }

// close is a close frame; reason is ignored without a code.
func (s *sender) close(code uint16, reason string) []byte {
	if code == 0 {
		return s.frame(opClose, 1, 0, nil)
	}
	return s.frame(opClose, 1, 0, append(binary.BigEndian.AppendUint16(nil, code), reason...))
}

// split is a message in frames of n bytes. As the suite has it, a message of a
// multiple of n ends in an empty frame.
func (s *sender) split(op, rsv byte, payload []byte, n int) []byte {
	if n == 0 || len(payload) <= n {
		return s.frame(op, 1, rsv, payload)
	}
	out := make([]byte, 0, len(payload)+(len(payload)/n+1)*14)
	for i := 0; ; i += n {
		last := i+n > len(payload)
		end, fin := i+n, byte(0)
		if last {
			end, fin = len(payload), 1
		}
		out = append(out, s.frame(op, fin, rsv, payload[i:end])...)
		if last {
			return out
		}
		op, rsv = opCont, 0
	}
}

// received is a frame of the server's.
type received struct {
	op, rsv byte
	fin     bool
	payload []byte
}

// errFrame is a frame that the RFC forbids a server to send.
type errFrame string

func (e errFrame) Error() string { return string(e) }

// readFrame reads one frame and holds it against RFC 6455 section 5: what a
// server may not send is an errFrame.
func readFrame(in *bufio.Reader) (f received, err error) {
	var h [8]byte
	if _, err := io.ReadFull(in, h[:2]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return f, errFrame("half a frame header")
		}
		return f, err
	}
	f.op, f.rsv, f.fin = h[0]&0x0f, h[0]>>4&7, h[0]&0x80 != 0
	if h[1]&0x80 != 0 {
		return f, errFrame("masked frame")
	}
	if f.op > opBinary && f.op < opClose || f.op > opPong {
		return f, errFrame(fmt.Sprintf("frame with opcode %d", f.op))
	}
	n, least := uint64(h[1]), uint64(0)
	switch n {
	case 126:
		_, err = io.ReadFull(in, h[:2])
		n, least = uint64(binary.BigEndian.Uint16(h[:])), 126
	case 127:
		_, err = io.ReadFull(in, h[:8])
		n, least = binary.BigEndian.Uint64(h[:]), 1<<16
	}
	switch {
	case err != nil:
		return f, errFrame("half a frame header")
	case n < least:
		return f, errFrame("length not in its shortest form")
	case n > maxFrame:
		return f, errFrame(fmt.Sprintf("frame of %d bytes", n))
	case f.op >= opClose && (n > 125 || !f.fin):
		return f, errFrame("control frame fragmented or longer than 125 bytes")
	}
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(in, f.payload); err != nil {
		return f, errFrame("half a frame")
	}
	return f, nil
}
