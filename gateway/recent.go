package gateway

import (
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// recentKept is how many lines of refusals are kept.
const recentKept = 128

// refusal is whom this node turned away or closed, and why: all alike within a second
// are one line.
type refusal struct {
	TS   int64  `json:"ts"`             // Unix ms, the begin of the second
	What string `json:"what"`           // the HTTP status or the close code
	Why  string `json:"why,omitempty"`  // the error's code, or the close frame's reason
	From string `json:"from,omitempty"` // the address of the first of them
	N    uint64 `json:"n"`
}

// recent remembers the last refusals, for people: counters say how many there were.
// Any goroutine.
type recent struct {
	mu    sync.Mutex
	lines [recentKept]refusalLine
	added uint64 // lines since the start; the newest is at (added-1) % recentKept
}

type refusalLine struct {
	second int64 // Unix
	code   uint16
	why    string // a constant, or made once for many
	from   netip.Addr
	n      uint64
}

// foldBack is how many lines are looked through for the one to fold a refusal into:
// kinds of refusals within one second beyond it get a line each.
const foldBack = 16

// note counts a refusal, an HTTP status or a close code. from is asked only for the
// first of its kind in a second, so that a storm of refusals costs no system calls
// here.
func (l *recent) note(code uint16, why string, from func() netip.Addr) {
	now := time.Now().Unix()
	if l.fold(now, code, why) {
		return
	}
	var addr netip.Addr
	if from != nil {
		addr = from()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines[l.added%recentKept] = refusalLine{now, code, why, addr, 1}
	l.added++
}

// fold counts a refusal in the line of its kind of this second, if there is one.
func (l *recent) fold(now int64, code uint16, why string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range min(l.added, foldBack) {
		line := &l.lines[(l.added-1-i)%recentKept]
		switch {
		case line.second != now:
			return false
		case line.code == code && line.why == why:
			line.n++
			return true
		}
	}
	return false
}

// list returns the lines, newest first.
func (l *recent) list() []refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]refusal, min(l.added, recentKept))
	for i := range out {
		line := &l.lines[(l.added-1-uint64(i))%recentKept]
		out[i] = refusal{TS: line.second * 1000, What: strconv.Itoa(int(line.code)), Why: line.why, N: line.n}
		if line.from.IsValid() {
			out[i].From = line.from.String()
		}
	}
	return out
}

// addr is a connection's address as it counts, for recent.
func (s *shard) addr(r connRef, c *slot) netip.Addr {
	if addr, counted := s.peerOf[r.index]; counted {
		return addr
	}
	addr, _ := s.loop.Peer(int(c.fd)) // one without an address has gone
	return addr
}
