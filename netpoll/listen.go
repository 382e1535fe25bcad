package netpoll

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SocketOptions are set on the listening socket before listen(2): Linux hands
// them down to every accepted socket, so accepting costs no setsockopt.
type SocketOptions struct {
	SndBuf, RcvBuf int           // SO_SNDBUF, SO_RCVBUF in bytes (the kernel doubles them); 0 leaves the default
	UserTimeout    time.Duration // TCP_USER_TIMEOUT: unacked data this old ends the connection; 0 leaves the default
	KeepAlive      time.Duration // idle time before TCP keepalive probes; 0 turns them off
	Backlog        int           // of listen(2), capped by net.core.somaxconn; 0 means 4096
}

// Listener is a listening TCP socket. Accept it with an Acceptor.
type Listener struct {
	fd   int
	addr net.Addr
}

// Listen opens a listening socket on a "host:port" address; an empty host is
// every address of both families.
func Listen(addr string, o SocketOptions) (*Listener, error) {
	// net resolves the address and binds; the backlog is given anew below.
	lc := net.ListenConfig{
		KeepAlive: -1,
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if cerr := c.Control(func(fd uintptr) { err = o.set(int(fd)) }); cerr != nil {
				return cerr
			}
			return err
		},
	}
	lc.SetMultipathTCP(false) // an MPTCP socket costs several times the memory
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	backlog := o.Backlog
	if backlog == 0 {
		backlog = 4096
	}
	if err := unix.Listen(fd, backlog); err != nil { // again: only changes the backlog
		unix.Close(fd)
		return nil, os.NewSyscallError("listen", err)
	}
	return &Listener{fd: fd, addr: ln.Addr()}, nil
}

func (o SocketOptions) set(fd int) error {
	type option struct {
		level, name, value int
		what               string
	}
	opts := []option{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR"},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1, "TCP_NODELAY"},
	}
	if o.SndBuf > 0 {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_SNDBUF, o.SndBuf, "SO_SNDBUF"})
	}
	if o.RcvBuf > 0 {
		opts = append(opts, option{unix.SOL_SOCKET, unix.SO_RCVBUF, o.RcvBuf, "SO_RCVBUF"})
	}
	if o.UserTimeout > 0 {
		opts = append(opts, option{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(o.UserTimeout.Milliseconds()), "TCP_USER_TIMEOUT"})
	}
	if o.KeepAlive > 0 {
		idle := max(1, int(o.KeepAlive.Seconds()))
		opts = append(opts,
			option{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, "SO_KEEPALIVE"},
			option{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle, "TCP_KEEPIDLE"},
			option{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, max(1, idle/3), "TCP_KEEPINTVL"},
			option{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3, "TCP_KEEPCNT"})
	}
	for _, p := range opts {
		if err := unix.SetsockoptInt(fd, p.level, p.name, p.value); err != nil {
			return fmt.Errorf("setting %s to %d: %w", p.what, p.value, err)
		}
	}
	return nil
}

// Addr is the address listened on, with the port the kernel chose.
func (l *Listener) Addr() net.Addr { return l.addr }

// Close stops listening. Close its Acceptor first.
func (l *Listener) Close() error { return unix.Close(l.fd) }
