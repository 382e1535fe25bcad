//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// sockets is the memory of the sockets of a local TCP port, bytes.
type sockets struct {
	n      int
	memory int64 // received and not read, written and not acknowledged, reserved, options, backlog
}

// socketMemory asks the kernel's socket diagnosis for every TCP socket whose
// local port is port, orphans included: what `ss -tm sport = :PORT` shows.
func socketMemory(port uint16) (sockets, error) {
	const (
		netlinkSockDiag  = 4
		sockDiagByFamily = 20
		skMemInfo        = 7 // INET_DIAG_SKMEMINFO
		request          = 16 + 56
		message          = 72 // inet_diag_msg
		listen           = 10
	)
	var s sockets
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netlinkSockDiag)
	if err != nil {
		return s, err
	}
	defer syscall.Close(fd)
	buf := make([]byte, 256<<10)
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		req := make([]byte, request)
		binary.NativeEndian.PutUint32(req[0:], request)
		binary.NativeEndian.PutUint16(req[4:], sockDiagByFamily)
		binary.NativeEndian.PutUint16(req[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
		req[16], req[17], req[18] = family, syscall.IPPROTO_TCP, 1<<(skMemInfo-1)
		binary.NativeEndian.PutUint32(req[20:], ^uint32(1<<listen)) // every state but LISTEN
		binary.BigEndian.PutUint16(req[24:], port)
		if err := syscall.Sendto(fd, req, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
			return s, err
		}
		for done := false; !done; {
			n, _, err := syscall.Recvfrom(fd, buf, 0)
			if err != nil {
				return s, err
			}
			for b := buf[:n]; len(b) >= 16 && !done; {
				size := int(binary.NativeEndian.Uint32(b))
				if size < 16 || size > len(b) {
					return s, fmt.Errorf("socket diagnosis: a message of %d bytes in %d", size, len(b))
				}
				switch binary.NativeEndian.Uint16(b[4:]) {
				case syscall.NLMSG_DONE:
					done = true
				case syscall.NLMSG_ERROR:
					return s, fmt.Errorf("socket diagnosis: %w", syscall.Errno(-int32(binary.NativeEndian.Uint32(b[16:]))))
				case sockDiagByFamily:
					if binary.BigEndian.Uint16(b[16+4:]) == port {
						s.n++
						for a := b[min(16+message, size):size]; len(a) >= 4; {
							l := int(binary.NativeEndian.Uint16(a))
							if l < 4 || l > len(a) {
								break
							}
							if binary.NativeEndian.Uint16(a[2:]) == skMemInfo && l >= 4+8*4 {
								u := func(i int) int64 { return int64(binary.NativeEndian.Uint32(a[4+4*i:])) }
								// rmem_alloc, fwd_alloc, wmem_queued, optmem, backlog. wmem_alloc is
								// clones of what wmem_queued has: charged once.
								s.memory += u(0) + u(4) + u(5) + u(6) + u(7)
							}
							a = a[min((l+3)&^3, len(a)):]
						}
					}
				}
				b = b[min((size+3)&^3, len(b)):]
			}
		}
	}
	return s, nil
}

// socketStruct is what the kernel's own structure of a TCP socket takes.
func socketStruct() int64 {
	b, _ := os.ReadFile("/proc/slabinfo")
	for line := range strings.Lines(string(b)) {
		var active, all, size int64
		if n, _ := fmt.Sscanf(line, "TCP %d %d %d", &active, &all, &size); n == 3 {
			return size
		}
	}
	return 2520
}
