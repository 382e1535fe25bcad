package netpoll

import (
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is set on the listener is what an accepted socket has.
func TestOptionsAreInherited(t *testing.T) {
	fd, c := tcpPair(t, SocketOptions{SndBuf: 4096, RcvBuf: 8192, UserTimeout: 30 * time.Second, KeepAlive: 40 * time.Second})
	defer unix.Close(fd)
	for _, o := range []struct {
		what              string
		level, name, want int
	}{
		{"SO_SNDBUF", unix.SOL_SOCKET, unix.SO_SNDBUF, 8192},
		{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, 16384},
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 30_000},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 40},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 13},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP}, // not MPTCP
	} {
		if got, err := unix.GetsockoptInt(fd, o.level, o.name); err != nil || got != o.want {
			t.Errorf("%s is %d, %v, want %d", o.what, got, err, o.want)
		}
	}
	if fl, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); fl&unix.O_NONBLOCK == 0 {
		t.Error("the accepted socket blocks")
	}
	if fl, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fl&unix.FD_CLOEXEC == 0 {
		t.Error("the accepted socket would be inherited by a child")
	}
	c.Close()
	fd, _ = tcpPair(t, SocketOptions{})
	defer unix.Close(fd)
	if on, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on != 0 {
		t.Error("keepalive without being asked for")
	}
}

func TestListen(t *testing.T) {
	before := descriptors(t)
	ln, err := Listen("127.0.0.1:0", SocketOptions{Backlog: 7})
	if err != nil {
		t.Fatal(err)
	}
	if fl, _ := unix.FcntlInt(uintptr(ln.fd), unix.F_GETFL, 0); fl&unix.O_NONBLOCK == 0 {
		t.Error("the listener blocks")
	}
	if fl, _ := unix.FcntlInt(uintptr(ln.fd), unix.F_GETFD, 0); fl&unix.FD_CLOEXEC == 0 {
		t.Error("the listener would be inherited by a child")
	}
	if _, err := rawAccept(ln.fd); err != syscall.EAGAIN {
		t.Errorf("accept of nobody: %v", err)
	}
	if _, err := Listen(ln.Addr().String(), SocketOptions{}); err == nil {
		t.Error("listened twice on one port")
	}
	addr := ln.Addr().String()
	ln.Close()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("connected to a closed listener")
	}
	if _, err := Listen("127.0.0.1:none", SocketOptions{}); err == nil {
		t.Error("listened on no port")
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}
