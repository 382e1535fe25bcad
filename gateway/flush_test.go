package gateway

import (
	"testing"

	"github.com/odin-ws/odin/netpoll"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

// sink is a loop whose sockets, once it is open, take everything and keep nothing:
// what remains is the gateway's own work.
type sink struct {
	*netpolltest.Loop
	open   bool
	writes int
}

func (l *sink) Write(fd int, p []byte) (int, error) {
	if !l.open {
		return l.Loop.Write(fd, p)
	}
	l.writes++
	return len(p), nil
}

func (l *sink) Writev(fd int, bufs [][]byte) (n int, err error) {
	if !l.open {
		return l.Loop.Writev(fd, bufs)
	}
	l.writes++
	for _, b := range bufs {
		n += len(b)
	}
	return n, nil
}

// newSink is a shard with n clients of one channel, over such a loop.
func newSink(t testing.TB, n int) (*stalledShard, *sink) {
	var to *sink
	s := newScriptedShard(t, n, 64<<20, func(l *netpolltest.Loop) netpoll.Loop {
		to = &sink{Loop: l}
		return to
	})
	to.open = true
	return s, to
}

// spread publishes and runs the shard until all have the message.
func (s *stalledShard) spread(data string) {
	s.publish(data)
	for s.turns.Woken() {
		s.turns.RunMail()
	}
}

const flushed = `"0123456789012345678901234567890123456789012345678901234567890123456789"`

// What a message allocates on its way to the sockets has nothing to do with how
// many they are.
func TestFlushDoesNotAllocate(t *testing.T) {
	const clients = 1000
	s, to := newSink(t, clients)
	for range 1000 { // to the steady state
		s.spread(flushed)
	}
	to.writes = 0
	const runs = 200
	allocs := testing.AllocsPerRun(runs, func() { s.spread(flushed) })
	if to.writes != (runs+1)*clients {
		t.Fatalf("%d writes for %d messages to %d clients", to.writes, runs+1, clients)
	}
	if allocs >= 2 { // one is this test's, the message
		t.Errorf("%.1f allocations a message to %d clients", allocs, clients)
	}
}

// BenchmarkFlush is a message's way from the broker to the sockets, write(2)
// itself left out; an operation is one frame.
func BenchmarkFlush(b *testing.B) {
	const clients = 1000
	s, _ := newSink(b, clients)
	s.spread(flushed)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += clients {
		s.spread(flushed)
	}
}
