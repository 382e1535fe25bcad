package capacity

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pairs opens loopback connections as the gateway has them: options from the
// listener, nonblocking, registered once and edge-triggered. For Measure.
type pairs struct {
	listener, epoll int
	addr            unix.SockaddrInet4
}

// The gateway's socket options, bytes as passed to setsockopt(2).
const socketBuffer = 4096

func newPairs() (*pairs, error) {
	p := &pairs{listener: -1, epoll: -1}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if p.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		p.close()
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := p.listen(); err != nil {
		p.close()
		return nil, fmt.Errorf("listening on 127.0.0.1: %w", err)
	}
	return p, nil
}

func (p *pairs) listen() error {
	if err := options(p.listener); err != nil {
		return err
	}
	if err := unix.Bind(p.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(p.listener, 128); err != nil {
		return err
	}
	name, err := unix.Getsockname(p.listener)
	if err != nil {
		return err
	}
	p.addr = *name.(*unix.SockaddrInet4)
	return nil
}

func options(fd int) error {
	for _, o := range [][3]int{
		{unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return err
		}
	}
	return nil
}

func (p *pairs) close() {
	for _, fd := range []int{p.listener, p.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// open opens n connections.
func (p *pairs) open(n int) (batch, error) {
	b := make(openPairs, 0, 2*n)
	for i := range n {
		if err := p.one(&b); err != nil {
			b.close()
			return nil, fmt.Errorf("opening loopback connection %d of %d: %w (two descriptors each: see ulimit -n)", i+1, n, err)
		}
	}
	return b, nil
}

// openPairs are the descriptors of both ends.
type openPairs []int

func (b openPairs) close() {
	for _, fd := range b {
		// A reset: no end lingers in TIME_WAIT and holds memory or a port.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		_ = unix.Close(fd)
	}
}

// held asks each socket (SO_MEMINFO, socket(7); include/uapi/linux/sock_diag.h):
// what is received, what waits to be sent, and what is charged ahead. All of it
// was charged in pages.
func (b openPairs) held() (n int64) {
	var info [unix.SK_MEMINFO_VARS]uint32
	for _, fd := range b {
		size := uint32(unsafe.Sizeof(info))
		if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno == 0 {
			n += int64(info[unix.SK_MEMINFO_RMEM_ALLOC]) + int64(info[unix.SK_MEMINFO_WMEM_QUEUED]) + int64(info[unix.SK_MEMINFO_FWD_ALLOC])
		}
	}
	return n
}

// one opens a connection and appends both ends to fds, also those of a failure.
func (p *pairs) one(fds *openPairs) error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	*fds = append(*fds, client)
	if err := options(client); err != nil {
		return err
	}
	if err := unix.Connect(client, &p.addr); err != nil {
		return err
	}
	server, _, err := unix.Accept4(p.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	*fds = append(*fds, server)
	// An upgrade's request and answer, so that the socket has been in use.
	var request [300]byte
	for _, way := range [][2]int{{client, server}, {server, client}} {
		if _, err := unix.Write(way[0], request[:]); err != nil {
			return err
		}
		for got := 0; got < len(request); {
			n, err := unix.Read(way[1], request[:])
			if err != nil {
				return err
			}
			if n == 0 {
				return unix.ECONNRESET
			}
			got += n
		}
	}
	for _, fd := range []int{client, server} {
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
		ev := unix.EpollEvent{Fd: int32(fd), Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET}
		if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return err
		}
	}
	return nil
}
