package wire

import "strconv"

// ID is the "id" of a command, echoed in its answer: an integer from 0 to 2^53
// or, the zero value, none.
type ID struct{ plus1 uint64 }

// MaxID is the largest id: up to it a JavaScript number is exact.
const MaxID = 1 << 53

// IntID is the ID n ≤ MaxID; a larger one is none.
func IntID(n uint64) ID {
	if n > MaxID {
		return ID{}
	}
	return ID{n + 1}
}

// Present reports whether the command had an id.
func (id ID) Present() bool { return id.plus1 > 0 }

// append appends ,"id":n or nothing.
func (id ID) append(dst []byte) []byte {
	if id.plus1 == 0 {
		return dst
	}
	return strconv.AppendUint(append(dst, `,"id":`...), id.plus1-1, 10)
}

// AckBuilder writes one answer to sub, unsub or list:
// {"t":"ack","id":1,"ch":{…},"rej":{…}}. "ch" is left out when there are only
// rejections, "rej" when there are none. Channel and Reject may come in any
// order; a name given twice is written twice, so don't. It allocates for
// rejections, and for dst's growth. The caller may not use dst until Done.
type AckBuilder struct {
	dst []byte
	rej []byte // the members of "rej", each with its comma before it
	at  int    // where the frame begins in dst
	ch  bool   // "ch" was begun
}

// NewAck begins an answer at the end of dst.
func NewAck(dst []byte, id ID) AckBuilder {
	at := len(dst)
	return AckBuilder{dst: id.append(begin(dst, `{"t":"ack"`)), at: at}
}

// Channel adds a channel or pattern, unescaped, at its position; recovered is
// left out when nil.
func (b *AckBuilder) Channel(ch, epoch string, seq uint64, recovered *bool) {
	open := `,"`
	if !b.ch {
		b.ch, open = true, `,"ch":{"`
	}
	b.dst = append(append(append(b.dst, open...), ch...), `":{"epoch":`...)
	b.dst = append(appendString(b.dst, epoch), `,"seq":`...)
	b.dst = strconv.AppendUint(b.dst, seq, 10)
	if recovered != nil {
		b.dst = strconv.AppendBool(append(b.dst, `,"recovered":`...), *recovered)
	}
	b.dst = append(b.dst, '}')
}

// Reject adds a name, any bytes, that was refused with an error code.
func (b *AckBuilder) Reject(ch, code string) {
	b.rej = appendString(append(b.rej, ','), ch)
	b.rej = appendString(append(b.rej, ':'), code)
}

// Done ends the frame and returns dst with it. The builder is spent.
func (b *AckBuilder) Done() []byte {
	if !b.ch && b.rej == nil {
		b.dst = append(b.dst, `,"ch":{`...)
		b.ch = true
	}
	if b.ch {
		b.dst = append(b.dst, '}')
	}
	if b.rej != nil {
		b.dst = append(append(b.dst, `,"rej":{`...), b.rej[1:]...)
		b.dst = append(b.dst, '}')
	}
	return finish(append(b.dst, '}'), b.at)
}
