package wire

import (
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/flate"
)

const (
	// rsv1 marks the first frame of a compressed message, RFC 7692 section 6.
	rsv1 = 0x40
	// MinDeflated is from how many bytes of payload on a frame is compressed: what
	// is shorter mostly is not made shorter by it.
	MinDeflated = 128
	// DeflaterSize and InflaterSize are what one of each holds, bytes, at most; for
	// the time of a call a Deflater holds more, where the message is longer than its
	// buffer. Held by a test.
	DeflaterSize = 320<<10 + maxScratch
	InflaterSize = 56 << 10
)

// maxScratch is how large a Deflater's buffer may be between two calls, bytes.
const maxScratch = 128 << 10

// Deflater compresses frames for permessage-deflate without context takeover
// (RFC 7692 section 7.2.1): each by itself, so that one compressed frame is good for
// every connection that negotiated it. The zero value is ready. It holds no state
// from one frame to the next but a buffer, and is not safe for concurrent use.
type Deflater struct{ out []byte }

// Write is the compressor's; it never fails.
func (d *Deflater) Write(p []byte) (int, error) {
	d.out = append(d.out, p...)
	return len(p), nil
}

// Append appends a whole unmasked data frame compressed, or as it is where its
// payload is shorter than MinDeflated or does not get shorter. It reports which.
func (d *Deflater) Append(dst, frame []byte) (out []byte, deflated bool) {
	defer d.trim()
	at := payloadAt(frame)
	payload := d.deflate(frame[at:])
	if payload == nil {
		return append(dst, frame...), false
	}
	dst = AppendHeader(dst, frame[0]&0x0f|rsv1, len(payload))
	return append(dst, payload...), true
}

// AppendMessage is Append for a payload that has no frame yet.
func (d *Deflater) AppendMessage(dst []byte, op byte, payload []byte) []byte {
	defer d.trim()
	if z := d.deflate(payload); z != nil {
		return append(AppendHeader(dst, op|rsv1, len(z)), z...)
	}
	return AppendFrame(dst, op, payload)
}

// deflate returns what a payload is compressed, valid until the next call; nil
// where that is not worth it.
func (d *Deflater) deflate(payload []byte) []byte {
	if len(payload) < MinDeflated {
		return nil
	}
	d.out = d.out[:0]
	if err := flate.StatelessDeflate(d, payload, false, nil); err != nil {
		return nil // Write does not fail, so nor does this
	}
	// Section 7.2.1: the empty block that ends the flush is left out.
	n := len(d.out) - len(flushed)
	if n < 0 || n >= len(payload) || string(d.out[n:]) != flushed {
		return nil
	}
	return d.out[:n]
}

// trim gives the buffer up after an exceptionally long message.
func (d *Deflater) trim() {
	if cap(d.out) > maxScratch {
		d.out = nil
	}
}

// What is behind every compressed payload but not sent, section 7.2.2; and an empty
// final block, for a reader to come to an end at.
const (
	flushed = "\x00\x00\xff\xff"
	ended   = "\x01\x00\x00\xff\xff"
)

// Inflater decompresses messages that came compressed, each by itself. The zero value
// is ready. Not safe for concurrent use.
type Inflater struct {
	z    io.Reader // a flate.Resetter too
	head bytes.Reader
	tail bytes.Reader
}

// Inflate returns what the payload of a compressed message is, in a buffer lent by
// a, the caller's to put back; it is nil for an empty message. The buffer follows
// what has come out, at most twice as much, and nothing beyond max bytes does: such a
// message is 1009. One that is not well-formed is 1007, no buffer 1013. text asks for
// UTF-8.
func (f *Inflater) Inflate(payload []byte, max int, text bool, a Alloc) ([]byte, *CloseError) {
	f.head.Reset(payload)
	f.tail.Reset(trailer)
	if f.z == nil {
		f.z = flate.NewReader(f)
	} else if err := f.z.(flate.Resetter).Reset(f, nil); err != nil {
		return nil, badDeflate() // it does not fail
	}
	out, cerr := f.read(len(payload), max, a)
	f.head.Reset(nil)
	if cerr == nil && text {
		if good, ok := textPrefix(out); !ok || good < len(out) {
			cerr = badText()
		}
	}
	if cerr != nil && out != nil {
		a.Put(out)
		out = nil
	}
	return out, cerr
}

var trailer = []byte(flushed + ended)

func badDeflate() *CloseError { return &CloseError{1007, "malformed compressed message"} }

// read reads the message out of z; its buffer is returned with an error too.
func (f *Inflater) read(compressed, max int, a Alloc) (out []byte, cerr *CloseError) {
	for room := 0; ; {
		if len(out) == room {
			if room == max {
				return out, f.end()
			}
			room = min(max, 2*room)
			if out == nil {
				room = min(max, 2*compressed+64)
			}
			bigger, err := a.Get(room)
			if err != nil {
				return out, &CloseError{1013, "out of buffers"}
			}
			bigger = bigger[:copy(bigger, out)]
			if out != nil {
				a.Put(out)
			}
			out = bigger
		}
		n, err := f.z.Read(out[len(out):room])
		out = out[:len(out)+n]
		if errors.Is(err, io.EOF) {
			return out, f.whole()
		}
		if err != nil {
			return out, badDeflate()
		}
	}
}

// end is the judgement of a message that has reached its greatest length.
func (f *Inflater) end() *CloseError {
	var one [1]byte
	switch n, err := io.ReadFull(f.z, one[:]); {
	case n > 0:
		return &CloseError{1009, "message too big"}
	case errors.Is(err, io.EOF):
		return f.whole()
	default:
		return badDeflate()
	}
}

// whole reports whether nothing but the trailer is left behind the message's final
// block: a client that ends with one of its own (section 7.2.3.4) has an empty
// block's first byte behind it.
func (f *Inflater) whole() *CloseError {
	if f.head.Len() > 1 {
		return badDeflate()
	}
	return nil
}

// Read and ReadByte are the decompressor's: the payload, and the trailer behind it.
func (f *Inflater) Read(p []byte) (int, error) {
	if f.head.Len() > 0 {
		return f.head.Read(p)
	}
	return f.tail.Read(p)
}

// ReadByte is Read of one byte.
func (f *Inflater) ReadByte() (byte, error) {
	if f.head.Len() > 0 {
		return f.head.ReadByte()
	}
	return f.tail.ReadByte()
}
