// Command rawloop is the floor that the gateway is measured against: WebSocket
// upgrades, descriptors in a list, and one sendto(2) for each frame and client.
// Short texts a client sends come back. Nothing else: no channels, no numbers, no
// replay, no limits, no care for slow readers, no patience with half a frame. It
// exists to be compared with, not to be used. It speaks the wire of bench/peers.
//
//	POST /broadcast?rate=10&count=100   on the control address: sends count
//	                                    frames to every client, rate a second,
//	                                    or as many as it can in that time
//	GET  /readyz
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/gobwas/ws"
	"github.com/mailru/easygo/netpoll"
	"golang.org/x/sys/unix"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("rawloop: ")
	addr := flag.String("addr", "127.0.0.1:9080", "where clients connect")
	control := flag.String("control", "127.0.0.1:9081", "where broadcasts are ordered")
	loops := flag.Int("loops", runtime.GOMAXPROCS(0), "event loops")
	size := flag.Int("size", 150, "bytes of each message")
	flag.Parse()

	s := server{frame: ws.MustCompileFrame(ws.NewTextFrame([]byte(strings.Repeat("x", *size))))}
	for range *loops {
		l, err := newLoop()
		if err != nil {
			log.Fatal(err)
		}
		s.loops = append(s.loops, l)
	}
	ln, err := listen(*addr)
	if err != nil {
		log.Fatalf("listen on %s: %v", *addr, err)
	}
	go s.accept(ln)

	http.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("POST /broadcast", s.handleBroadcast)
	log.Fatal(http.ListenAndServe(*control, nil))
}

type server struct {
	loops []*loop
	frame []byte
}

// loop is one epoll instance and the clients it reads from and writes to.
type loop struct {
	poll *netpoll.Epoll

	mu  sync.Mutex
	fds []int
	at  map[int]int // a descriptor's place in fds
}

func newLoop() (*loop, error) {
	poll, err := netpoll.EpollCreate(&netpoll.EpollConfig{
		OnWaitError: func(err error) { log.Fatalf("epoll: %v", err) },
	})
	return &loop{poll: poll, at: make(map[int]int)}, err
}

func (l *loop) add(fd int) error {
	l.mu.Lock()
	l.at[fd] = len(l.fds)
	l.fds = append(l.fds, fd)
	l.mu.Unlock()
	return l.poll.Add(fd, netpoll.EPOLLIN|netpoll.EPOLLRDHUP, func(netpoll.EpollEvent) { l.read(fd) })
}

// read sends back what a client says, and forgets the client when it is gone.
func (l *loop) read(fd int) {
	var buf [4096]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf)), uintptr(len(buf)), 0, 0, 0)
	if errno == unix.EAGAIN || errno == 0 && n > 0 && echo(fd, buf[:n]) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i, known := l.at[fd]
	if !known {
		return
	}
	last := l.fds[len(l.fds)-1]
	l.fds[i], l.at[last] = last, i
	l.fds = l.fds[:len(l.fds)-1]
	delete(l.at, fd)
	_ = l.poll.Del(fd)
	_ = unix.Close(fd)
}

// echo answers whole masked texts of at most 125 bytes, or 64 KiB with the longer
// header; the answer is built where they lie. Pongs are passed over. Anything else
// is not understood: false.
func echo(fd int, b []byte) bool {
	for len(b) >= 6 {
		start, size := 2, int(b[1]&0x7f)
		if size == 126 && len(b) >= 8 {
			start, size = 4, int(b[2])<<8|int(b[3])
		}
		if size > 1<<16 || b[1]&0x80 == 0 || len(b) < start+4+size {
			return false
		}
		mask := [4]byte(b[start:])
		payload := b[start+4 : start+4+size]
		switch ws.OpCode(b[0] & 0x0f) {
		case ws.OpText:
			ws.Cipher(payload, mask, 0)
			out := b[4 : start+4+size] // the header moves up to the payload
			out[0], out[1] = b[0], b[1]&0x7f
			if start == 4 {
				out[2], out[3] = byte(size>>8), byte(size)
			}
			n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), unix.MSG_NOSIGNAL, 0, 0)
			if errno != 0 || int(n) != len(out) {
				return false
			}
		case ws.OpPong:
		default:
			return false
		}
		b = b[start+4+size:]
	}
	return len(b) == 0
}

// broadcast writes frame to every client of the loop.
func (l *loop) broadcast(frame []byte) (sent, failed int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, fd := range l.fds {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&frame[0])), uintptr(len(frame)), unix.MSG_NOSIGNAL, 0, 0)
		if errno != 0 || int(n) != len(frame) {
			failed++
		} else {
			sent++
		}
	}
	return sent, failed
}

func (s *server) handleBroadcast(w http.ResponseWriter, r *http.Request) {
	rate, err1 := strconv.ParseFloat(r.FormValue("rate"), 64)
	count, err2 := strconv.Atoi(r.FormValue("count"))
	if err1 != nil || err2 != nil || rate <= 0 {
		http.Error(w, "want rate and count", http.StatusBadRequest)
		return
	}
	var done struct {
		Messages int   `json:"messages"`
		Sent     int64 `json:"sent"`
		Failed   int64 `json:"failed"`
	}
	start := time.Now()
	at := func(i int) time.Time { return start.Add(time.Duration(float64(i) / rate * float64(time.Second))) }
	for i := 0; i < count && time.Now().Before(at(count)); i++ {
		time.Sleep(time.Until(at(i)))
		sent, failed := s.broadcast()
		done.Messages++
		done.Sent += sent
		done.Failed += failed
	}
	_ = json.NewEncoder(w).Encode(done)
}

// broadcast writes one frame to every client, all loops at once.
func (s *server) broadcast() (sent, failed int64) {
	var all, bad atomic.Int64
	var wg sync.WaitGroup
	for _, l := range s.loops {
		wg.Go(func() {
			n, failed := l.broadcast(s.frame)
			all.Add(n)
			bad.Add(failed)
		})
	}
	wg.Wait()
	return all.Load(), bad.Load()
}

// accept upgrades one connection after the other and deals them to the loops.
func (s *server) accept(ln int) {
	for i := 0; ; i++ {
		fd, _, err := unix.Accept4(ln, unix.SOCK_CLOEXEC)
		if err != nil {
			log.Printf("accept: %v", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err := upgrade(fd); err == nil {
			err = s.loops[i%len(s.loops)].add(fd)
			if err != nil {
				log.Printf("add: %v", err)
			}
		} else {
			_ = unix.Close(fd)
		}
	}
}

// upgrade answers the handshake while the descriptor still blocks, for two
// seconds at most.
func upgrade(fd int) error {
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	if _, err := ws.Upgrade(blocking(fd)); err != nil {
		return err
	}
	return unix.SetNonblock(fd, true)
}

// blocking is a descriptor as an io.ReadWriter.
type blocking int

func (fd blocking) Read(p []byte) (int, error) {
	n, err := unix.Read(int(fd), p)
	for err == unix.EINTR { // with SO_RCVTIMEO the kernel doesn't go on after a signal
		n, err = unix.Read(int(fd), p)
	}
	if n <= 0 && err == nil {
		err = net.ErrClosed
	}
	return max(n, 0), err
}

func (fd blocking) Write(p []byte) (int, error) { return unix.Write(int(fd), p) }

func listen(addr string) (int, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return -1, err
	}
	if !ap.Addr().Is4() {
		return -1, errors.New("want an IPv4 address")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for _, o := range []struct{ level, name int }{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.IPPROTO_TCP, unix.TCP_NODELAY},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, 1); err != nil {
			return -1, err
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 4096)
}
