package sysfeed

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// queueLen is how many frames may wait for one connection's socket. At one more
	// it is reset.
	queueLen = 16
	// sendBuffer is SO_SNDBUF of a connection, bytes: what a page that takes nothing
	// can make the kernel hold, beside the queue.
	sendBuffer = 64 << 10
	// writeTime bounds one write, closeWait the wait for the peer's end of a goodbye.
	writeTime = 10 * time.Second
	closeWait = time.Second
	// keyTime is how long a connection may go without a key where one is needed.
	keyTime = 10 * time.Second
	// maxMessage is the longest command, bytes.
	maxMessage = 8 << 10
	// maxErrors is how many commands may be misunderstood, maxWarnings how many refused
	// for their rate, maxControl how many pings and pongs a second may come.
	maxErrors, maxWarnings, maxControl = 3, 10, 200
)

// The close codes of docs/protocol.md that are used here.
const (
	closeNormal    = 1000
	closeAbuse     = 1008
	closeRestart   = 1012
	closeToken     = 4001
	closeRateLimit = 4102
	closeNoPong    = 4201
)

var limits = wire.Limits{MaxMessage: maxMessage, MaxFragments: 64}

// conn is one connection. Its reader is the goroutine net/http has for it.
type conn struct {
	// Static.
	f     *Feed
	id    string
	nc    net.Conn
	wrote chan struct{} // closed when the writer has ended

	// Guarded by Feed.mu, written by the reader: the key it has shown.
	key string

	// Guarded by mu.
	mu     sync.Mutex
	queue  chan outgoing // closed with last
	last   bool          // nothing may be queued any more
	leaves time.Time     // when the reader ends at the latest; zero: not known yet

	// Owned by the reader.
	parser   wire.Parser
	command  wire.Command
	commands *rate.Limiter
	control  *rate.Limiter
	warnings int
	errs     int
	begun    time.Time // of the unfinished message; zero: there is none
	heard    time.Time
	pinged   bool
	broken   bool // the peer broke the rules of frames: nothing more of it is understood
}

// outgoing is a frame for the writer.
type outgoing struct {
	frame   []byte // not changed once queued
	message bool
}

func newConn(f *Feed, nc net.Conn, key string) *conn {
	now := time.Now()
	burst, perSec := f.cfg.Rate()
	c := &conn{
		f: f, id: "p-" + strconv.FormatUint(f.ids.Add(1), 36), nc: nc, key: key,
		wrote: make(chan struct{}), queue: make(chan outgoing, queueLen),
		commands: rate.NewLimiter(rate.Limit(perSec), burst),
		control:  rate.NewLimiter(maxControl, maxControl),
		heard:    now,
	}
	if tcp, ok := socket(nc).(interface{ SetWriteBuffer(int) error }); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // without it the queue still bounds what waits
	}
	return c
}

// socket is the connection below those that wrap it.
func socket(nc net.Conn) net.Conn {
	for {
		w, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = w.NetConn()
	}
}

// send queues a frame. What finds the queue full ends the connection.
func (c *conn) send(frame []byte) { c.put(outgoing{frame: frame}, false) }

// message queues a message of the channel.
func (c *conn) message(frame []byte) { c.put(outgoing{frame, true}, false) }

// fail closes the connection with a reason.
func (c *conn) fail(code uint16, reason string) {
	c.put(outgoing{frame: wire.AppendClose(nil, code, reason)}, true)
}

// bye tells the client when to come back, and closes.
func (c *conn) bye() {
	c.send(wire.AppendBye(nil, closeRestart, c.f.cfg.Retry()))
	c.fail(closeRestart, "shutting down")
}

func (c *conn) put(o outgoing, last bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last {
		return
	}
	select {
	case c.queue <- o:
	default:
		c.f.count.cut.Add(1)
		c.reset()
		last = true
	}
	if last {
		c.last = true
		close(c.queue)
	}
}

// end lets nothing more be queued.
func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last {
		c.last = true
		close(c.queue)
	}
}

// reset ends the connection now, and what the kernel holds for it.
func (c *conn) reset() {
	if tcp, ok := socket(c.nc).(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	c.nc.Close()
}

// write is the writer: it sends what is queued, and a heartbeat in a silence.
func (c *conn) write() {
	defer close(c.wrote)
	silence := time.NewTimer(c.f.heartbeat())
	defer silence.Stop()
	for {
		var o outgoing
		select {
		case next, more := <-c.queue:
			if !more {
				c.leave(closeWait)
				return
			}
			o = next
		case <-silence.C:
			o.frame = wire.AppendHB(nil, time.Now().UnixMilli())
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(writeTime)) // a write fails where it can't be set
		if _, err := c.nc.Write(o.frame); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.f.count.cut.Add(1)
			}
			c.reset()
			return
		}
		if o.message {
			c.f.count.sent.Add(1)
		}
		silence.Reset(c.f.heartbeat())
	}
}

// leave gives the reader so much longer, for the peer's goodbye.
func (c *conn) leave(in time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaves = time.Now().Add(in)
	_ = c.nc.SetReadDeadline(c.leaves)
}

// wait sets when the reader looks at its clocks at the latest.
func (c *conn) wait(until time.Time) (leaving bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaves.IsZero() {
		_ = c.nc.SetReadDeadline(until)
	}
	return !c.leaves.IsZero()
}
