package suite

import (
	"strconv"
	"strings"
	"time"
)

// Case is one of the suite's, static once made.
type Case struct {
	ID    string // "6.4.2"
	Sends string // what is sent, for people
	Heavy bool   // megabytes, or a thousand large messages: seconds, not milliseconds

	script  func(*sender) []step // what is sent whatever is answered; nil with rounds
	rounds  *rounds              // what is sent message by message; nil with script
	want    []event              // what must come, in this order
	lenient *[]event             // what may come instead: NON-STRICT
	end     ending
	undef   bool          // the RFC does not say: any answer is INFORMATIONAL
	limit   time.Duration // until the last byte; longer is a failure
	deflate []string      // permessage-deflate offers, best first; the case needs one accepted
}

// step is bytes that are written together, and a wait after them.
type step struct {
	data    []byte
	chop    int           // bytes a write; 0: data is one write, joined with its neighbours
	alone   bool          // a write of its own, though whole
	closing bool          // data is a close frame of ours
	wait    time.Duration // then; cut short by the server's end
	name    string        // of the wait: an event, if the connection outlives it
}

// rounds are messages each of which is sent when the one before came back.
type rounds struct {
	count    int
	binary   bool
	fragment int                // bytes a frame; 0: one frame a message
	message  func(i int) []byte // the same for the same i
}

// ending is how a connection must end.
type ending struct {
	ours  bool     // we close; else the server must, or drop the connection
	codes []uint16 // what the server's close may say; an empty one is always right
	clean bool     // both close frames must be seen
}

var (
	weClose   = ending{ours: true, codes: []uint16{1000}, clean: true}
	badFrame  = ending{codes: []uint16{1002}}
	badText   = ending{codes: []uint16{1007}}
	ourBadEnd = ending{ours: true, codes: []uint16{1002}}
)

// event is what was received.
type event struct {
	kind    string // "text", "binary", "pong", "wait"; or what was wrong with a frame
	payload string // of a wait: its name
}

// Cases are all of the suite's, in its order.
func Cases() []*Case {
	var all []*Case
	for _, section := range []func() []*Case{framing, pings, reserved, opcodes, fragments, utf8Cases, closes, limits, misc, compression} {
		all = append(all, section()...)
	}
	for _, c := range all {
		if c.limit == 0 {
			c.limit = 20 * time.Second // the suite's second or ten, and room for a busy machine
		}
	}
	return all
}

// Select returns those of all whose number is one of ids or below one: "9"
// selects section 9, "9.1" its first part.
func Select(all []*Case, ids ...string) []*Case {
	var out []*Case
	for _, c := range all {
		for _, id := range ids {
			if c.ID == id || strings.HasPrefix(c.ID, id+".") {
				out = append(out, c)
				break
			}
		}
	}
	return out
}

// Section is the number's first part.
func (c *Case) Section() int {
	s, _, _ := strings.Cut(c.ID, ".")
	n, _ := strconv.Atoi(s)
	return n
}

// SmallWindow reports whether a case offers permessage-deflate only with a window below
// 32 KiB for what the server sends, RFC 7692 section 7.1.2.1.
func (c *Case) SmallWindow() bool {
	for _, offer := range c.deflate {
		if _, bits, ok := strings.Cut(offer, "server_max_window_bits="); !ok || strings.HasPrefix(bits, "15") {
			return false
		}
	}
	return len(c.deflate) > 0
}

// Part is the number without its last part: "6.4" of "6.4.2", "3" of "3.2".
func (c *Case) Part() string { return c.ID[:strings.LastIndexByte(c.ID, '.')] }
