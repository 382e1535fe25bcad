package netpoll

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAcceptor(t *testing.T) {
	before := descriptors(t)
	ln, err := Listen("127.0.0.1:0", SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var fds []int
	largest := 0
	hold := make(chan struct{})
	a, err := NewAcceptor(ln, AcceptorConfig{Accepted: func(batch []int) {
		<-hold
		mu.Lock()
		defer mu.Unlock()
		fds = append(fds, batch...)
		largest = max(largest, len(batch))
	}})
	if err != nil {
		t.Fatal(err)
	}
	const n = 3*acceptTurn + 5
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	close(hold)
	for deadline := time.Now().Add(5 * time.Second); a.Counters().Accepted < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("accepted %d of %d", a.Counters().Accepted, n)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if len(fds) != n || largest != acceptTurn || a.Counters() != (AcceptCounters{Accepted: n}) {
		t.Errorf("%d handed on, at most %d at once: %+v", len(fds), largest, a.Counters())
	}
	for i, fd := range fds {
		unix.Close(fd)
		conns[i].Close()
	}
	// The listener stays, and can be accepted from again.
	again, err := NewAcceptor(ln, AcceptorConfig{Accepted: func(fds []int) { unix.Close(fds[0]) }})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	io.ReadAll(c)
	c.Close()
	again.Close()
	ln.Close()
	if n := descriptors(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

// exhaustedChild in the environment makes the test binary that child.
const exhaustedChild = "NETPOLL_EXHAUSTED_CHILD"

const childRefusal = "no room, come back later\n"

// Out of descriptors, the acceptor tells whom it can't take, doesn't spin, and
// goes on when there are some again. In a process of its own, for its limit.
func TestOutOfDescriptors(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second of a child process")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), exhaustedChild+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// exhausted is the child: it prints what is wrong and returns the exit code.
func exhausted() int {
	code := 0
	// Whatever becomes of the parent, this process ends.
	time.AfterFunc(15*time.Second, func() { fmt.Println("took too long"); os.Exit(2) })
	bad := func(format string, args ...any) {
		fmt.Printf(format+"\n", args...)
		code = 1
	}
	ln, err := Listen("127.0.0.1:0", SocketOptions{})
	if err != nil {
		bad("listen: %v", err)
		return code
	}
	accepted := make(chan int, 1000)
	a, err := NewAcceptor(ln, AcceptorConfig{
		Accepted: func(fds []int) {
			for _, fd := range fds {
				accepted <- fd
			}
		},
		Refusal: func(dst []byte) []byte { return append(dst, childRefusal...) },
	})
	if err != nil {
		bad("acceptor: %v", err)
		return code
	}
	// Clients first, while there are descriptors; the acceptor takes them all.
	dial := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			bad("dial: %v", err)
			return nil
		}
		return c
	}
	first := dial()
	held := <-accepted
	// The clients need descriptors too, of which the acceptor shall have none:
	// their sockets are made before the limit, and connected after it.
	addr := ln.Addr().(*net.TCPAddr)
	var late []int
	for range 20 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			bad("socket: %v", err)
			return code
		}
		tv := unix.Timeval{Sec: 3} // for those that are never told
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		late = append(late, fd)
	}
	// No number is free below the limit: fill the holes, then set it.
	top := 0
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			bad("open: %v", err)
			return code
		}
		if fd > top {
			if top = fd; fd > late[len(late)-1] {
				break
			}
		}
	}
	var was unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &was)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(top + 1), Max: was.Max}); err != nil {
		bad("setrlimit: %v", err)
		return code
	}
	cpu := func() time.Duration {
		var ru unix.Rusage
		unix.Getrusage(unix.RUSAGE_SELF, &ru)
		return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	}
	sa := &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
	for _, fd := range late[:15] {
		if err := unix.Connect(fd, sa); err != nil {
			bad("connect: %v", err)
		}
	}
	refused := 0
	buf := make([]byte, 100)
	for _, fd := range late[:15] {
		n, err := unix.Read(fd, buf) // blocks until told
		for err == unix.EINTR {      // never restarted once SO_RCVTIMEO is set, signal(7)
			n, err = unix.Read(fd, buf)
		}
		if err != nil || string(buf[:n]) != childRefusal {
			bad("told %q, %v", buf[:max(n, 0)], err)
			continue
		}
		refused++
	}
	for i := 0; i < 100 && a.Counters().Refused < 15; i++ {
		time.Sleep(time.Millisecond) // it counts after it told
	}
	if c := a.Counters(); c.Refused != 15 || c.Exhausted < 15 || c.Accepted != 1 {
		bad("counters %+v after %d refusals", c, refused)
	}
	// With the reserve itself taken away there is nothing to refuse with: the
	// one in the backlog waits, and the acceptor must not spin over it.
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max})
	before, turns := cpu(), a.Counters().Exhausted
	if err := unix.Connect(late[15], sa); err != nil {
		bad("connect: %v", err)
	}
	time.Sleep(500 * time.Millisecond)
	took, n := cpu()-before, a.Counters().Exhausted-turns
	if took > 100*time.Millisecond || n > 60 || n < 5 {
		bad("500 ms without a descriptor took %v of processor time and %d turns", took, n)
	}
	// And when there are some again, it is taken.
	unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	select {
	case fd := <-accepted:
		held = fd
	case <-time.After(5 * time.Second):
		bad("never taken")
	}
	// The reserve is back: short of descriptors again, one is told again.
	c := dial()
	unix.Close(<-accepted)
	c.Close()
	for past := top + 8; top <= past; { // above whatever number the reserve has now
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			bad("open: %v", err)
			return code
		}
		top = max(top, fd)
	}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(top + 1), Max: was.Max})
	if err := unix.Connect(late[16], sa); err != nil {
		bad("connect: %v", err)
	}
	if n, err := unix.Read(late[16], buf); err != nil || string(buf[:n]) != childRefusal {
		bad("told %q, %v the second time", buf[:max(n, 0)], err)
	}
	// Its request is waited for, a few milliseconds: who is told before it has asked
	// may not listen. Once is enough; this process may not be run for longer.
	waited := false
	for _, fd := range late[17:] {
		began := time.Now()
		if err := unix.Connect(fd, sa); err != nil {
			bad("connect: %v", err)
		}
		time.Sleep(3 * time.Millisecond)
		n, _, _ := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT|unix.MSG_PEEK)
		waited = waited || n <= 0 && time.Since(began) < acceptBackoff
		unix.Write(fd, []byte("GET / HTTP/1.1\r\n\r\n"))
		if n, err := unix.Read(fd, buf); err != nil || string(buf[:n]) != childRefusal {
			bad("told %q, %v after a late request", buf[:max(n, 0)], err)
		}
		time.Sleep(2 * acceptBackoff)
	}
	if !waited {
		bad("no request was waited for")
	}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	fmt.Printf("refused %d; 500 ms without even the reserve: %v of processor time, %d turns\n", refused, took, n)
	unix.Close(held)
	first.Close()
	a.Close()
	ln.Close()
	return code
}
