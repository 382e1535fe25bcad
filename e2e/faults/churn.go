//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// churnFloor is how much memory may move by itself, bytes: the collector's pace and
// the pages the runtime gives back. In a short run that is more than 1 % an hour.
const churnFloor = 1 << 20

// churn: whoever comes and goes, however it goes, leaves nothing behind.
func churn(r *run) {
	// The store in another process: it keeps the newest messages in memory, more of
	// them for as long as its file grows.
	nats := r.broker("nats", "", "")
	n := r.node("a", "--nats-url", nats.url())
	n.waitReady()
	b := r.bystanders(n, false)
	lasts := r.churn
	if r.rig.fast {
		lasts = 10 * time.Second
	}
	var visits atomic.Int64
	var all sync.WaitGroup
	quit := make(chan struct{})
	for w := range 8 {
		all.Go(func() {
			for i := w; ; i++ {
				select {
				case <-quit:
					return
				case <-time.After(2 * time.Millisecond): // a pace the bystanders can live beside
				}
				if err := comeAndGo(n, i); err != nil {
					r.fault("visit %d: %v", i, err)
					return
				}
				visits.Add(1)
			}
		})
	}
	end := sync.OnceFunc(func() {
		close(quit)
		all.Wait()
	})
	r.atEnd(end)
	time.Sleep(min(time.Minute, lasts/5)) // slabs, pools and the heap find their size
	from := visits.Load()
	b.begin(n)
	began := time.Now()
	var samples []int64
	for time.Since(began) < lasts {
		samples = append(samples, n.rss())
		time.Sleep(lasts / 300)
	}
	took := time.Since(began)
	count := visits.Load() - from
	b.end(50*time.Millisecond, 200*time.Millisecond)
	end()
	third := len(samples) / 3
	first, last := median(samples[:third]), median(samples[len(samples)-third:])
	grown := last - first
	// From the middle of the first third to that of the last.
	hourly := float64(grown) / float64(first) * 100 * float64(time.Hour) / (float64(took) * 2 / 3)
	r.note("%d connections in %.0f s; RSS %.1f → %.1f MB (medians of thirds): %+.2f %%/h, %+.2f B a connection",
		count, took.Seconds(), float64(first)/(1<<20), float64(last)/(1<<20), hourly, float64(grown)/float64(count))
	if hourly > 1 && grown > churnFloor {
		r.fault("memory grew by %d bytes, %.2f %% an hour", grown, hourly)
	}
	if count < 1000 {
		r.fault("only %d connections", count)
	}
	b.f.finish(b.p)
}

func median(of []int64) int64 {
	s := slices.Clone(of)
	slices.Sort(s)
	return s[len(s)/2]
}

// comeAndGo is one visit, which ends in one of seven ways.
func comeAndGo(n *node, i int) error {
	if i%7 == 0 {
		return call(n, fmt.Sprintf("churn.c%d", i%100))
	}
	c, err := net.DialTimeout("tcp", n.addr, visitTimeout)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(visitTimeout))
	head, frame := n.head(), clientFrame(1, `{"op":"sub","id":1,"ch":["fault.c0","fault.c1"]}`)
	reset := func() error { return c.(*net.TCPConn).SetLinger(0) }
	switch i % 7 {
	case 1: // half-way through its head
		_, err = io.WriteString(c, head[:len(head)/2])
		return err
	case 2:
		if _, err = io.WriteString(c, head[:len(head)-1]); err == nil {
			err = reset()
		}
		return err
	}
	if _, err = io.WriteString(c, head); err != nil {
		return err
	}
	if _, err = readHead(c); err != nil {
		return err
	}
	switch i % 7 {
	case 3: // half-way through a frame
		_, err = c.Write(frame[:len(frame)/2])
	case 4:
		if _, err = c.Write(frame[:3]); err == nil {
			err = reset()
		}
	case 5: // with its answer unread
		if _, err = c.Write(frame); err == nil {
			err = reset()
		}
	case 6: // with messages on their way
		if _, err = c.Write(frame); err == nil {
			_, err = io.CopyN(io.Discard, c, 500)
		}
	}
	return err
}
