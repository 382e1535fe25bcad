package jetstream

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Headers the server stamps on what it republishes and on direct get answers.
const (
	hdrStream      = "Nats-Stream"
	hdrSubject     = "Nats-Subject"
	hdrSequence    = "Nats-Sequence"
	hdrTime        = "Nats-Time-Stamp"
	hdrPrev        = "Nats-Last-Sequence"
	hdrPending     = "Nats-Num-Pending"
	hdrStatus      = "Status"
	hdrDescription = "Description"
)

// stamp is what the server's headers say of a message.
type stamp struct {
	subject string // the subject it was stored under
	seq     uint64
	prev    uint64 // republished: the sequence before it on its subject; 0 for unknown
	time    int64  // Unix nanoseconds
}

// readStamp reads the server's headers of m, false if there are none to trust.
//
// The server appends its headers to the publisher's, so of several values the
// last one is the server's. But nats.go stops parsing at a blank line, and a
// publisher may have smuggled one in: then all that was parsed is the
// publisher's, so a header block whose length isn't that of its parsed parts
// is not trusted at all. Blocks that are merely written oddly ("Key:value")
// fail this test too; such messages are read from the stream's leader instead.
func readStamp(m *nats.Msg) (s stamp, ok bool) {
	if len(m.Header) == 0 {
		return s, false
	}
	if blockSize(m.Header) != headerSize(m) {
		return s, false
	}
	s.subject = lastValue(m.Header, hdrSubject)
	s.seq, ok = number(lastValue(m.Header, hdrSequence))
	if !ok || s.seq == 0 || s.subject == "" {
		return s, false
	}
	if s.time, ok = unixNano(lastValue(m.Header, hdrTime)); !ok {
		return s, false
	}
	s.prev, _ = number(lastValue(m.Header, hdrPrev))
	return s, true
}

// blockSize is how long a block with these fields is as the server writes it.
func blockSize(h nats.Header) int {
	size := len("NATS/1.0\r\n\r\n")
	for k, vs := range h {
		for _, v := range vs {
			size += len(k) + len(v) + len(": \r\n")
		}
	}
	return size
}

// headerSize is how long m's header block was on the wire.
func headerSize(m *nats.Msg) int {
	return m.Size() - len(m.Subject) - len(m.Reply) - len(m.Data)
}

// isEnd tells the end of a batch (204), a refusal (4xx, 500) and no responders
// (503) from a stored message whose publisher wrote a Status of its own: the
// server takes that out of the first line and puts Nats-Stream behind it, and a
// block in which that can't be seen isn't parsed whole.
func isEnd(m *nats.Msg) bool {
	status, text := lastValue(m.Header, hdrStatus), lastValue(m.Header, hdrDescription)
	if len(m.Data) != 0 || status == "" || len(m.Header[hdrStream]) != 0 {
		return false
	}
	size := blockSize(m.Header) - len(hdrStatus+": \r\n") + len(" ")
	if text != "" {
		size += len(" ") - len(hdrDescription+": \r\n")
	}
	return size == headerSize(m)
}

func lastValue(h nats.Header, key string) string {
	vs := h[key]
	if len(vs) == 0 {
		return ""
	}
	return vs[len(vs)-1]
}

func number(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// unixNano parses what the server writes with time.RFC3339Nano in UTC, about
// three times as fast as time.Parse.
func unixNano(s string) (int64, bool) {
	const layout = "2006-01-02T15:04:05"
	if len(s) < len(layout)+1 || s[len(s)-1] != 'Z' ||
		s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return slowUnixNano(s)
	}
	field := func(from, to int) int {
		n := 0
		for _, c := range []byte(s[from:to]) {
			if c < '0' || c > '9' {
				return -1 << 20
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	frac := strings.TrimPrefix(s[len(layout):len(s)-1], ".")
	ns := 0
	if frac != "" {
		ns = field(len(layout)+1, len(s)-1)
		for range 9 - len(frac) {
			ns *= 10
		}
	}
	y, mo, d := field(0, 4), field(5, 7), field(8, 10)
	h, mi, sec := field(11, 13), field(14, 16), field(17, 19)
	if y < 0 || mo < 0 || d < 0 || h < 0 || mi < 0 || sec < 0 || ns < 0 || len(frac) > 9 {
		return 0, false
	}
	return time.Date(y, time.Month(mo), d, h, mi, sec, ns, time.UTC).UnixNano(), true
}

func slowUnixNano(s string) (int64, bool) {
	t, err := time.Parse(time.RFC3339Nano, s)
	return t.UnixNano(), err == nil
}
