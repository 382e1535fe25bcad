package gateway

import (
	"sort"

	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// connState is where a connection is in its life.
type connState uint8

const (
	stateFree    connState = iota // the slot has no connection
	stateHead                     // its request head is not complete
	stateWaiting                  // its handshake is good, and waits for a place at the gate
	stateOpen                     // a WebSocket
	stateClosing                  // told goodbye; read and discarded until the peer closes, or closeWait
)

// connFlags are facts about a connection that come and go.
type connFlags uint16

const (
	flagBlocked   connFlags = 1 << iota // the socket is full: its writable edge will come
	flagReadable                        // bytes may be left in the socket
	flagHangup                          // the peer has closed or reset: read to the end
	flagRunning                         // on the shard's run list
	flagLagging                         // on the shard's lag list
	flagBusy                            // a command of its is at the pool
	flagEcho                            // /echo
	flagPinged                          // a WebSocket ping was sent since the last sign of life
	flagAdmitted                        // holds a place at the gate
	flagDrained                         // was told to go
	flagCharged                         // holds a part of the backlog budget, and is on the shard's list of those
	flagHeld                            // is not written to for want of that budget, and is on the list of those
	flagFetching                        // waits for a part of the stream's past
	flagConflated                       // some of its subscriptions are conflated because it was slow
	flagDeflate                         // negotiated permessage-deflate
)

// slot is one connection: what an idle client costs this process, besides a
// few words in the poller. All of it is owned by the shard.
type slot struct {
	gen   uint32 // of the connection in it; grows when one leaves
	fd    int32
	state connState
	flags connFlags

	strikes   uint8  // sweeps in a row at which it was too far behind
	errs      uint8  // protocol-level errors answered
	warnings  uint8  // commands refused for their rate
	charge    uint8  // of the backlog budget, pages
	sendShift uint8  // SO_SNDBUF is the configured one shifted so often
	calm      uint8  // with flagConflated: sweeps in a row at which its socket was not full
	control   uint16 // control frames received this second
	ackedAt   uint16 // low half of the tick at which its unacknowledged bytes were last seen to shrink
	pend      int32  // head of its pending channels in shard.nodes, noNode without

	opened   uint32 // tick at which it was accepted
	readAt   uint32 // tick of the last bytes from it
	wroteAt  uint32 // tick of the last bytes its socket took
	refillAt uint32 // tick up to which tokens are counted
	tokens   uint32 // of the rate limit, tenths of a command

	subs []sub // sorted by chanID
	ext  *ext  // what only a connection in the middle of something has
}

// sub is one subscription as its connection knows it: 8 bytes. The position is
// in the channel's member array.
type sub struct {
	chanID uint32 // of the shard's channel
	index  uint32 // of the member, and the flags below
}

// What a sub's index says besides.
const (
	explicitSub = 1 << 31 // the channel was named, not matched by a wildcard
	pastSub     = 1 << 30 // its position is older than the log: a sequence only
	fellSub     = 1 << 29 // with pastSub: it was in the log, and fell off it
	replaySub   = 1 << 28 // what it is given of the log is no news: it has not come to the head yet
	subFlags    = explicitSub | pastSub | fellSub | replaySub
)

func (s sub) member() uint32 { return s.index &^ subFlags }
func (s sub) explicit() bool { return s.index&explicitSub != 0 }
func (s sub) past() bool     { return s.index&pastSub != 0 }
func (s sub) replay() bool   { return s.index&replaySub != 0 }

// ext is the part of a connection that exists only while something is
// unfinished: a head, a frame, a write, a command at the pool, or wildcards.
type ext struct {
	parser  wire.Parser
	scanner wire.HeadScanner
	in      []byte      // pooled: the head so far, or bytes read and not to be parsed yet
	out     []byte      // pooled: control frames the socket has not taken
	outAt   int         // of out, already written
	pin     channel.Pin // the rest of a half-written frame of a log
	since   uint32      // tick at which the head, frame or goodbye began
	timed   bool        // since holds
	why     uint16      // stateClosing: the close code or HTTP status given
	wild    []wildSub   // the wildcards subscribed
	replay  *replay     // a replay command under way
}

// idle reports whether the connection can do without it.
func (e *ext) idle() bool {
	return e.in == nil && e.out == nil && len(e.pin.Rest()) == 0 && e.parser.Idle() && len(e.wild) == 0 && e.replay == nil && !e.timed
}

// findSub returns the index in subs of a channel, and whether it is there.
func (c *slot) findSub(chanID uint32) (int, bool) {
	if len(c.subs) == 1 {
		if c.subs[0].chanID == chanID {
			return 0, true
		}
	}
	i := sort.Search(len(c.subs), func(i int) bool { return c.subs[i].chanID >= chanID })
	return i, i < len(c.subs) && c.subs[i].chanID == chanID
}

// slab is a shard's slots, in pages that never move.
type slab struct {
	pages []*[slabPage]slot
	free  []uint32 // slots without a connection
	used  int
}

const slabPage = 256

// take returns a free slot, with its generation kept and all else zero.
func (s *slab) take() uint32 {
	if len(s.free) == 0 {
		base := uint32(len(s.pages) * slabPage)
		s.pages = append(s.pages, new([slabPage]slot))
		for i := uint32(slabPage); i > 0; i-- {
			s.free = append(s.free, base+i-1)
		}
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.used++
	return i
}

// at returns the slot with index i.
func (s *slab) at(i uint32) *slot { return &s.pages[i/slabPage][i%slabPage] }

// give takes a slot back; every token and reference to it is void from here on.
func (s *slab) give(i uint32) {
	c := s.at(i)
	*c = slot{gen: c.gen + 1}
	s.free = append(s.free, i)
	s.used--
}

// size is the number of slots there are, used or not.
func (s *slab) size() uint32 { return uint32(len(s.pages) * slabPage) }

// connRef names a connection so that it can be told from the next in its slot.
type connRef struct{ index, gen uint32 }

func (r connRef) token() uint64 { return uint64(r.gen)<<32 | uint64(r.index) }

func refOf(token uint64) connRef { return connRef{index: uint32(token), gen: uint32(token >> 32)} }

// get returns the connection r names, nil when it has gone.
func (s *slab) get(r connRef) *slot {
	if r.index >= s.size() {
		return nil
	}
	if c := s.at(r.index); c.gen == r.gen && c.state != stateFree {
		return c
	}
	return nil
}
