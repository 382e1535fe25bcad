package netpoll

import (
	"net"
	"testing"
	"time"
)

// What a real socket's peer has acknowledged is counted, read or not, and what
// it has not is queued; what it has sent is unread.
func TestAckedAndQueued(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	look := func() (acked uint64, queued int) {
		_ = raw.Control(func(fd uintptr) {
			l := &epollLoop{}
			var errs [2]error
			acked, errs[0] = l.Acked(int(fd))
			queued, errs[1] = l.Queued(int(fd))
			if errs[0] != nil || errs[1] != nil {
				t.Fatal(errs)
			}
		})
		return acked, queued
	}
	before, _ := look()
	if _, err := conn.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		acked, queued := look()
		if acked-before == 1000 && queued == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d acknowledged, %d queued after 1000 were written", acked-before, queued)
		}
	}
	if _, err := peer.Write(make([]byte, 700)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		unread := 0
		_ = raw.Control(func(fd uintptr) { unread, err = (&epollLoop{}).Unread(int(fd)) })
		if unread == 700 && err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d unread of 700, %v", unread, err)
		}
	}
	// More than the peer has room for: some stays here.
	_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, _ := conn.Write(make([]byte, 64<<20))
	if acked, queued := look(); acked-before >= uint64(n)+1000 || queued == 0 {
		t.Errorf("%d acknowledged of %d, %d queued", acked-before, n+1000, queued)
	}
}
