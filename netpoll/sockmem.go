package netpoll

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The words of SO_MEMINFO, linux/sock_diag.h.
const (
	memFwdAlloc   = 4
	memWmemQueued = 5
	memInfoWords  = 9
)

// rawQueued reads what a socket's send side holds in kernel memory: what is
// queued and not acknowledged, with the kernel's bookkeeping, and what it has
// reserved ahead. 0.2 µs.
func rawQueued(fd int) (int, error) {
	var info [memInfoWords]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0, e
	}
	if info[memWmemQueued] == 0 {
		return 0, nil // what is reserved ahead of an empty queue is given back
	}
	return int(info[memWmemQueued]) + int(int32(info[memFwdAlloc])), nil
}

func (l *epollLoop) Queued(fd int) (int, error) { return rawQueued(fd) }

func (l *epollLoop) Unread(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCINQ) }

// The part of struct tcp_info (linux/tcp.h) up to tcpi_bytes_received, and where
// tcpi_bytes_acked is in it.
const (
	tcpInfoSize  = 136
	tcpInfoAcked = 120
)

func (l *epollLoop) Acked(fd int) (uint64, error) {
	var info [tcpInfoSize / 8]uint64
	size := uint32(unsafe.Sizeof(info))
	_, _, e := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	switch {
	case e != 0:
		return 0, e
	case size < tcpInfoAcked+8: // a kernel before 4.1
		return 0, unix.ENOPROTOOPT
	}
	return info[tcpInfoAcked/8], nil
}

func (l *epollLoop) SetSendBuffer(fd, bytes int) error {
	v := int32(bytes)
	_, _, e := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_SNDBUF,
		uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	if e != 0 {
		return e
	}
	return nil
}
