package netpolltest

// SetQueued sets what Queued says of the socket from now on.
func (s *Socket) SetQueued(n int) { s.queued = n }

// SetAcked sets what Acked says of the socket from now on.
func (s *Socket) SetAcked(n uint64) { s.acked = n }

// Acked implements netpoll.Loop.
func (l *Loop) Acked(fd int) (uint64, error) { return l.own("Acked", fd).acked, nil }

// SendBuffer is the last value of SetSendBuffer, 0 before.
func (s *Socket) SendBuffer() int { return s.sndbuf }

// Queued implements netpoll.Loop.
func (l *Loop) Queued(fd int) (int, error) { return l.own("Queued", fd).queued, nil }

// Unread implements netpoll.Loop.
func (l *Loop) Unread(fd int) (int, error) { return l.own("Unread", fd).Unread(), nil }

// SetSendBuffer implements netpoll.Loop.
func (l *Loop) SetSendBuffer(fd, bytes int) error {
	l.own("SetSendBuffer", fd).sndbuf = bytes
	return nil
}
