package netpoll

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	easygo "github.com/mailru/easygo/netpoll"
	"golang.org/x/sys/unix"
)

// Config configures a Loop.
type Config struct {
	// Tick is the interval of Handler.Tick; 0 means no ticks.
	Tick time.Duration
	// OnFatal is called, on the loop's goroutine, when epoll_wait fails: no
	// event will come any more, so the process should end. nil panics.
	OnFatal func(error)
}

const (
	// registered is what Add asks of epoll, once and for all.
	registered = easygo.EPOLLIN | easygo.EPOLLOUT | easygo.EPOLLRDHUP | easygo.EPOLLET
	// epollClosed is the event easygo passes to every callback left when an
	// Epoll closes. The package doesn't export it.
	epollClosed = 0x20
)

// epollLoop is the Loop over a real epoll instance.
type epollLoop struct {
	// Static after Start.
	ep      *easygo.Epoll
	handler Handler
	cfg     Config
	wakeFD  int // eventfd(2)
	timerFD int // timerfd_create(2), -1 without ticks

	// Owned by the loop's goroutine.
	iov  [MaxIovecs]unix.Iovec
	msg  unix.Msghdr   // over iov
	due  time.Duration // when the next tick is, on the timer's clock
	late time.Duration // of the last one

	// Any goroutine.
	woken   atomic.Bool // a wake is on its way; Mail not called yet
	unwoken atomic.Bool // it isn't: the eventfd refused it
	stopped atomic.Bool
}

// New makes a Loop. Its descriptors (three, or four with ticks) are released by
// Stop.
func New(cfg Config) (Loop, error) {
	if cfg.OnFatal == nil {
		cfg.OnFatal = func(err error) { panic(fmt.Sprintf("netpoll: epoll_wait: %v", err)) }
	}
	l := &epollLoop{cfg: cfg, wakeFD: -1, timerFD: -1}
	var err error
	if l.wakeFD, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("netpoll: eventfd: %w", err)
	}
	if cfg.Tick > 0 {
		if l.timerFD, l.due, err = newTimer(cfg.Tick); err != nil {
			l.closeOwn()
			return nil, err
		}
	}
	return l, nil
}

// newTimer starts a timer and says when its first tick is due.
func newTimer(every time.Duration) (fd int, due time.Duration, err error) {
	fd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return -1, 0, fmt.Errorf("netpoll: timerfd_create: %w", err)
	}
	due = monotonic() + every
	spec := unix.ItimerSpec{Interval: unix.NsecToTimespec(int64(every)), Value: unix.NsecToTimespec(int64(due))}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("netpoll: timerfd_settime: %w", err)
	}
	return fd, due, nil
}

// monotonic is the timer's clock.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it exists
	return time.Duration(ts.Nano())
}

func (l *epollLoop) Start(h Handler) error {
	l.handler = h
	ep, err := easygo.EpollCreate(&easygo.EpollConfig{OnWaitError: l.cfg.OnFatal})
	if err != nil {
		l.closeOwn()
		return fmt.Errorf("netpoll: epoll_create: %w", err)
	}
	l.ep = ep
	// Level-triggered: a byte left unread brings the callback back.
	if err := ep.Add(l.wakeFD, easygo.EPOLLIN, l.onWake); err != nil {
		l.Stop()
		return fmt.Errorf("netpoll: registering the eventfd: %w", err)
	}
	if l.timerFD >= 0 {
		if err := ep.Add(l.timerFD, easygo.EPOLLIN, l.onTimer); err != nil {
			l.Stop()
			return fmt.Errorf("netpoll: registering the timerfd: %w", err)
		}
	}
	return nil
}

func (l *epollLoop) Stop() error {
	if l.stopped.Swap(true) {
		return ErrStopped
	}
	var err error
	if l.ep != nil {
		err = l.ep.Close()
	}
	l.closeOwn()
	return err
}

func (l *epollLoop) closeOwn() {
	for _, fd := range []int{l.wakeFD, l.timerFD} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

var one = [8]byte{1}

func (l *epollLoop) Wake() {
	if l.woken.Swap(true) || l.stopped.Load() {
		return
	}
	// It can't fail short of a counter at 2^64-2, unless something stands between
	// this process and its kernel. Then the next tick makes up for it.
	for {
		_, err := unix.Write(l.wakeFD, one[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil && err != unix.EAGAIN {
			l.unwoken.Store(true)
		}
		return
	}
}

func (l *epollLoop) onWake(ev easygo.EpollEvent) {
	if ev&epollClosed != 0 {
		return
	}
	var buf [8]byte
	rawRead(l.wakeFD, buf[:])
	// Cleared before Mail: a wake from now on comes after what Mail will see.
	l.woken.Store(false)
	l.handler.Mail()
}

func (l *epollLoop) onTimer(ev easygo.EpollEvent) {
	if ev&epollClosed != 0 {
		return
	}
	var buf [8]byte
	if n, err := rawRead(l.timerFD, buf[:]); err != nil || n != len(buf) {
		return
	}
	ticks := binary.NativeEndian.Uint64(buf[:])
	l.late = monotonic() - l.due
	l.due += time.Duration(ticks) * l.cfg.Tick
	l.handler.Tick(int(ticks))
	if l.unwoken.Swap(false) {
		l.woken.Store(false)
		l.handler.Mail()
	}
}

func (l *epollLoop) Late() time.Duration { return l.late }

func (l *epollLoop) Add(fd int, token uint64) error {
	// 24 bytes a descriptor, and nothing of the connection for the collector
	// to follow.
	err := l.ep.Add(fd, registered, func(ev easygo.EpollEvent) {
		if ev&epollClosed == 0 {
			l.handler.Ready(token, Event(ev))
		}
	})
	if err != nil && err != easygo.ErrRegistered && err != easygo.ErrClosed {
		l.ep.Del(fd) // a failed Add leaves its callback behind
	}
	return err
}

func (l *epollLoop) Del(fd int) error { return l.ep.Del(fd) }

func (l *epollLoop) Read(fd int, p []byte) (int, error)  { return rawRecv(fd, p) }
func (l *epollLoop) Write(fd int, p []byte) (int, error) { return rawSend(fd, p) }

func (l *epollLoop) Writev(fd int, bufs [][]byte) (int, error) {
	n := 0
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		if n == MaxIovecs {
			break
		}
		l.iov[n].Base = &b[0]
		l.iov[n].SetLen(len(b))
		n++
	}
	if n == 0 {
		return 0, nil
	}
	l.msg.Iov = &l.iov[0]
	l.msg.SetIovlen(n)
	written, err := rawSendv(fd, &l.msg)
	for i := range l.iov[:n] {
		l.iov[i].Base = nil // don't keep chunks alive
	}
	runtime.KeepAlive(bufs)
	return written, err
}

func (l *epollLoop) CloseWrite(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) }
func (l *epollLoop) Close(fd int) error      { return unix.Close(fd) }

func (l *epollLoop) Abort(fd int) error {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
	return unix.Close(fd)
}
