package netpoll

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

func (l *epollLoop) Peer(fd int) (netip.Addr, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.Addr{}, os.NewSyscallError("getpeername", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap(), nil
	}
	return netip.Addr{}, nil
}
