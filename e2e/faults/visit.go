//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// visitors are legitimate clients that come at a steady pace, subscribe to a
// channel of their own, are answered, and go.
type visitors struct {
	n    *node
	quit chan struct{}
	all  sync.WaitGroup
	done atomic.Int64 // visits that went well

	mu     sync.Mutex
	took   []time.Duration // guarded by mu
	failed int             // guarded by mu
	why    map[string]int  // guarded by mu
}

// visitTimeout is when a visit has failed.
const visitTimeout = 10 * time.Second

// visit begins visits, so many a second.
func (r *run) visit(n *node, perSecond int) *visitors {
	v := &visitors{n: n, quit: make(chan struct{}), why: map[string]int{}}
	v.all.Go(func() {
		t := time.NewTicker(time.Second / time.Duration(perSecond))
		defer t.Stop()
		for i := 0; ; i++ {
			select {
			case <-v.quit:
				return
			case <-t.C:
			}
			v.all.Go(func() { v.once(i) })
		}
	})
	r.atEnd(func() { v.end() })
	return v
}

func (v *visitors) once(i int) {
	began := time.Now()
	err := call(v.n, fmt.Sprintf("visit.c%d", i%500))
	d := time.Since(began)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.failed++
		if len(v.why) < 10 {
			v.why[err.Error()]++
		}
		return
	}
	v.took = append(v.took, d)
	v.done.Add(1)
}

// forgive forgets the visits that failed so far.
func (v *visitors) forgive() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failed, v.why, v.took = 0, map[string]int{}, nil
}

func (v *visitors) end() {
	select {
	case <-v.quit:
	default:
		close(v.quit)
	}
	v.all.Wait()
}

// stop ends the visits and returns within how long 99 in 100 were over.
func (v *visitors) stop() (p99 time.Duration, n, failed int) {
	v.end()
	slices.Sort(v.took)
	if n = len(v.took); n > 0 {
		p99 = v.took[n*99/100]
	}
	return p99, n + v.failed, v.failed
}

// call is one visit: upgrade, subscribe, ping, goodbye.
func call(n *node, channel string) error { return callWithin(n, channel, visitTimeout) }

func callWithin(n *node, channel string, limit time.Duration) error {
	c, err := net.DialTimeout("tcp", n.addr, limit)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	all := n.head() + string(clientFrame(1, fmt.Sprintf(`{"op":"sub","id":1,"ch":[%q]}`, channel))) +
		string(clientFrame(1, `{"op":"ping","id":2}`)) + string(clientFrame(8, "\x03\xe8"))
	if _, err := io.WriteString(c, all); err != nil {
		return errors.New("broken while writing")
	}
	b, err := io.ReadAll(io.LimitReader(c, 64<<10))
	status, _, _ := strings.Cut(string(b), "\r\n")
	if !strings.Contains(status, " 101 ") {
		return fmt.Errorf("upgrade: %q, %s", status, broke(err))
	}
	for _, want := range []string{`{"t":"hello"`, `{"t":"ack","id":1`, `{"t":"pong","id":2}`, "\x88\x02\x03\xe8"} {
		if !strings.Contains(string(b), want) {
			return fmt.Errorf("no %q: %s", want, broke(err))
		}
	}
	return nil
}
