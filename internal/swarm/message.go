package swarm

import (
	"bytes"
	"encoding/json"
	"hash/crc32"
	"math/rand/v2"
	"strconv"
	"time"
)

// message is the server's "msg" frame. Its slices lie in the frame.
type message struct {
	ch              []byte
	seq, prev, skip uint64
	d               []byte
}

// kind is the letter that tells the server's frames apart when it writes
// "t" first, as odin does: m(sg), g(ap), a(ck), e(rr), h(ello, hb), p(ong),
// s(tale), l(ive), b(ye); 0 when it doesn't.
func kind(payload []byte) byte {
	const lead = `{"t":"`
	if len(payload) <= len(lead) || string(payload[:len(lead)]) != lead {
		return 0
	}
	return payload[len(lead)]
}

// parse reads a msg frame. The order odin writes it in takes no allocation; any
// other is read by encoding/json.
func (m *message) parse(p []byte) bool {
	if m.parseUsual(p) {
		return true
	}
	var slow struct {
		T               string
		Ch              string
		Seq, Prev, Skip uint64
		D               json.RawMessage
	}
	if json.Unmarshal(p, &slow) != nil || slow.T != "msg" || slow.D == nil {
		return false
	}
	*m = message{ch: []byte(slow.Ch), seq: slow.Seq, prev: slow.Prev, skip: slow.Skip, d: slow.D}
	return true
}

func (m *message) parseUsual(p []byte) bool {
	const lead = `{"t":"msg","ch":"`
	if len(p) < len(lead) || string(p[:len(lead)]) != lead || p[len(p)-1] != '}' {
		return false
	}
	p = p[len(lead) : len(p)-1]
	end := bytes.IndexByte(p, '"')
	if end < 0 || bytes.IndexByte(p[:end], '\\') >= 0 {
		return false
	}
	m.ch, p = p[:end], p[end+1:]
	var ok bool
	if m.seq, p, ok = number(p, `,"seq":`); !ok {
		return false
	}
	if m.prev, p, ok = number(p, `,"prev":`); !ok {
		return false
	}
	if _, p, ok = number(p, `,"ts":`); !ok {
		return false
	}
	m.skip, p, _ = number(p, `,"skip":`)
	const data = `,"d":`
	if len(p) <= len(data) || string(p[:len(data)]) != data {
		return false
	}
	m.d = p[len(data):]
	return true
}

// number reads a member that is a whole number; the rest is p itself when there
// is none.
func number(p []byte, name string) (n uint64, rest []byte, ok bool) {
	if len(p) <= len(name) || string(p[:len(name)]) != name {
		return 0, p, false
	}
	i := len(name)
	for ; i < len(p) && p[i] >= '0' && p[i] <= '9'; i++ {
		n = n*10 + uint64(p[i]-'0')
	}
	if i == len(name) || i > len(name)+20 {
		return 0, p, false
	}
	return n, p[i:], true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Hash is of a payload, byte for byte: two CRCs, both made by the processor. It
// is never 0.
func Hash(data []byte) uint64 {
	return uint64(crc32.Checksum(data, castagnoli))<<32 | uint64(crc32.ChecksumIEEE(data)) | 1
}

// atDigits is the length of a Unix time in nanoseconds, until 2286.
const atDigits = 19

// NewMark begins the payloads of one run.
func NewMark() string {
	return `{"run":"` + strconv.FormatUint(rand.Uint64()|1<<63, 36) + `","at":`
}

// AppendPayload appends payload n of a run: JSON of size bytes, or a little more
// when size is too small. Stamp it before it is sent.
func AppendPayload(dst []byte, mark string, n uint64, size int) []byte {
	at := len(dst)
	dst = append(dst, mark...)
	dst = append(dst, "1000000000000000000"...)
	dst = strconv.AppendUint(append(dst, `,"n":`...), n, 10)
	const pad = `,"pad":""}`
	if left := size - (len(dst) - at) - len(pad); left >= 0 {
		dst = append(dst, `,"pad":"`...)
		for i := range left {
			dst = append(dst, "abcdefghijklmnopqrstuvwxyz012345"[(n+uint64(i))&31])
		}
		return append(dst, `"}`...)
	}
	return append(dst, '}')
}

// Stamp writes the moment of sending into a payload of the run.
func Stamp(data []byte, mark string, at time.Time) {
	strconv.AppendInt(data[len(mark):len(mark)], at.UnixNano(), 10)
}

// stamped is when a payload of the run was sent; ok is false for any other.
func stamped(data []byte, mark string) (at int64, ok bool) {
	if mark == "" || len(data) < len(mark)+atDigits || string(data[:len(mark)]) != mark {
		return 0, false
	}
	for _, d := range data[len(mark) : len(mark)+atDigits] {
		at = at*10 + int64(d-'0')
	}
	return at, true
}
