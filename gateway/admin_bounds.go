package gateway

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

const (
	// bodyTimeout is how long a request's body may take on the admin port, from its
	// head on.
	bodyTimeout = 30 * time.Second
	// maxAdminConns bounds the connections of the admin port. Each has a goroutine
	// and two buffers of 4 KiB.
	maxAdminConns = 256
)

// boundBodies gives every request's body a deadline. It is not http.Server's
// ReadTimeout: that also ends what is only written, such as a profile of a minute.
func boundBodies(h http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.Body != http.NoBody {
			rc := http.NewResponseController(w)
			if rc.SetReadDeadline(time.Now().Add(timeout)) == nil {
				r.Body = &boundBody{r.Body, rc}
			}
		}
		h.ServeHTTP(w, r)
	})
}

// boundBody takes the deadline away when all has come: what reads on then waits for
// the peer's going, and its end would be taken for that.
type boundBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// boundListener answers 503 to connections beyond its places, and closes them: a
// place in the kernel's queue would tell nobody anything.
type boundListener struct {
	net.Listener
	places  chan struct{}
	refused func()
}

func newBoundListener(l net.Listener, places int, refused func()) boundListener {
	return boundListener{l, make(chan struct{}, places), refused}
}

var refuseAdminFull = &wire.Refusal{Status: http.StatusServiceUnavailable, Code: "busy", Message: "too many connections to the admin port at once"}

func (l boundListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &boundConn{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
		default:
		}
		l.refused()
		_ = c.SetWriteDeadline(time.Now().Add(tick)) // a new socket takes it at once
		_, _ = c.Write(refuseAdminFull.AppendResponse(nil, retryAfter()))
		c.Close()
	}
}

// boundConn gives its place back when it is closed.
type boundConn struct {
	net.Conn
	leave func()
}

// NetConn is the connection itself.
func (c *boundConn) NetConn() net.Conn { return c.Conn }

func (c *boundConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
