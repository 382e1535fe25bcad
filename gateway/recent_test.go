package gateway

import (
	"context"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// All alike within a second are one line, whose address was asked once; a second
// later there is a new one, and the oldest go.
func TestRecentRefusalsAreFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		var l recent
		asked := 0
		from := func() netip.Addr { asked++; return netip.MustParseAddr("192.0.2.7") }
		for range 1000 {
			l.note(503, "at_capacity", from)
			l.note(4101, "takes nothing", from)
		}
		list := l.list()
		if len(list) != 2 || asked != 2 || list[0].What != "4101" || list[1].N != 1000 || list[1].From != "192.0.2.7" {
			t.Fatalf("%d questions, %+v", asked, list)
		}
		for i := range 2 * recentKept {
			time.Sleep(time.Second)
			l.note(503, strconv.Itoa(i), nil)
		}
		list = l.list()
		if len(list) != recentKept || list[0].Why != strconv.Itoa(2*recentKept-1) || list[recentKept-1].Why != strconv.Itoa(recentKept) {
			t.Errorf("%d lines, %+v", len(list), list[0])
		}
	})
}

// Refusals from all shards at once are all counted.
func TestRecentRefusalsOfAllShards(t *testing.T) {
	var l recent
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				l.note(503, "at_capacity", nil)
			}
		})
	}
	wg.Wait()
	n := uint64(0)
	for _, r := range l.list() {
		n += r.N
	}
	if n != 4000 {
		t.Errorf("%d of 4000", n)
	}
}

// Folding a refusal costs no allocation.
func TestRecentRefusalsDoNotAllocate(t *testing.T) {
	var l recent
	if n := testing.AllocsPerRun(1000, func() { l.note(503, "at_capacity", nil) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// A drain's goodbyes are no refusals, and leave those that are listed where they are.
func TestGoodbyesAreNoRefusals(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	c := g.dial()
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended <- g.Shutdown(ctx)
	}()
	c.wantClose(1012)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if r := g.recent.list(); len(r) != 0 {
		t.Errorf("%+v", r)
	}
}
