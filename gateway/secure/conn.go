package secure

import (
	"errors"
	"sync/atomic"

	"github.com/odin-ws/odin/internal/tlsrec"
)

// Counters grow only. Any goroutine.
type Counters struct {
	Kernel, Own    atomic.Uint64 // connections attached, by who does their records
	BadRecords     atomic.Uint64 // ended for what is no good TLS
	PeerAlerts     atomic.Uint64 // ended by the peer with an alert that is no goodbye
	KeyUpdates     atomic.Uint64 // ended because the kernel doesn't change keys
	KeyFloods      atomic.Uint64 // ended because the peer changed its keys too often
	RecordTimeouts atomic.Uint64 // ended for a record that did not come to its end
	NoBuffer       atomic.Uint64 // ended because no buffer was left for one
	Rests          atomic.Uint64 // records that a socket took in part
}

// Conn is one socket that speaks TLS: 1.9 KB with a session, 120 B without.
type Conn struct {
	session *tlsrec.Session // nil: the kernel's
	token   uint64          // the handler's
	gen     uint32
	since   uint32 // tick at which what is in began
	in      []byte // pooled: a record, so far
	out     []byte // what the socket has not taken
	err     error  // what reading ends with, once what came before has been given
	window  uint32 // tick at which the second of updates began
	updates uint8  // KeyUpdates in it

	v12, fin, told, listed bool
}

// errEnd is Conn.err for the end of the stream.
var errEnd = errors.New("end of stream")

// maxUpdates is how many KeyUpdates a peer may send in a second: each costs some
// microseconds and garbage, and a key is good for millions of records.
const maxUpdates = 32

// errKeyFlood ends a connection with more of them.
var errKeyFlood = errors.New("tls: too many changes of keys")

// renewed counts a KeyUpdate at tick now, a second being so many; an error says
// that it was one too many.
func (c *Conn) renewed(now, second uint32) error {
	if now-c.window >= second {
		c.window, c.updates = now, 0
	}
	if c.updates++; c.updates > maxUpdates {
		return errKeyFlood
	}
	return nil
}

// Secure begins TLS on a socket that has shaken hands, with kernel by the kernel
// where it takes the suite; the keys are wiped. On error the socket can't be used.
// Any goroutine may call it.
func Secure(fd int, keys *tlsrec.Keys, kernel bool, count *Counters) (*Conn, error) {
	defer keys.Wipe()
	c := &Conn{v12: keys.V12()}
	if kernel {
		err := keys.Offload(fd)
		if err == nil {
			count.Kernel.Add(1)
			return c, nil
		}
		if !errors.Is(err, tlsrec.ErrNotOffloaded) {
			return nil, err
		}
	}
	s, err := keys.Session()
	if err != nil {
		return nil, err
	}
	c.session = s
	count.Own.Add(1)
	return c, nil
}

// ours is the token that the inner loop is given.
func (c *Conn) ours(fd int) uint64 { return uint64(c.gen)<<32 | uint64(uint32(fd)) }
