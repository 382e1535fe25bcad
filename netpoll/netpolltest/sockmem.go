package netpolltest

// SetQueued sets what Queued says of the socket from now on.
func (s *Socket) SetQueued(n int) { s.queued = n }

// SendBuffer is the last value of SetSendBuffer, 0 before.
func (s *Socket) SendBuffer() int { return s.sndbuf }

// Queued implements netpoll.Loop.
func (l *Loop) Queued(fd int) (int, error) { return l.own("Queued", fd).queued, nil }

// SetSendBuffer implements netpoll.Loop.
func (l *Loop) SetSendBuffer(fd, bytes int) error {
	l.own("SetSendBuffer", fd).sndbuf = bytes
	return nil
}
