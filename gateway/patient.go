package gateway

import (
	"errors"
	"net"
)

// patientListener is a listener that outlives a kernel short of memory: net/http
// waits and accepts again after an error that is temporary, and gives up for good
// after any other. accept(2) has more of the first kind than syscall.Errno knows.
type patientListener struct{ net.Listener }

func (l patientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return nil, passing{err}
	}
	return c, err
}

// passing is an error that does not stay.
type passing struct{ error }

func (p passing) Unwrap() error { return p.error }
func (passing) Timeout() bool   { return false }
func (passing) Temporary() bool { return true }
