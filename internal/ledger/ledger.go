package ledger

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Kinds of faults, see the package comment.
const (
	Missing   = "missing"
	Hole      = "hole"
	Duplicate = "duplicate"
	Order     = "order"
	Payload   = "payload"
	Prev      = "prev"
	Skip      = "skip"
	BadGap    = "gap"
	Phantom   = "phantom"
	Epoch     = "epoch"
	Unasked   = "unasked"
)

// maxFaults bounds the faults that are described; all are counted.
const maxFaults = 1000

var seed = maphash.MakeSeed()

// Sum is a payload's hash, comparable within this process, never 0.
func Sum(data []byte) uint64 { return maphash.Bytes(seed, data) | 1 }

// Ledger is one run's book. Its methods may be called from any goroutine.
type Ledger struct {
	mu       sync.Mutex
	epochs   []*epoch          // in the order they were first named; guarded by mu
	numbers  map[string]uint32 // of channels; guarded by mu
	names    []string          // of channels, by number; guarded by mu
	clients  []*Client         // guarded by mu
	maybes   map[uint64]uint32 // hash of what is perhaps stored → channel; guarded by mu
	acked    uint64            // guarded by mu
	faults   []Fault           // guarded by mu
	counts   map[string]int    // of faults, by kind; guarded by mu
	lastSeqs map[uint32]uint64 // last acked of each channel in the newest epoch; guarded by mu
}

// epoch is one life of the stream.
type epoch struct {
	name  string
	pages map[uint64]*page // by seq / pageSize
}

const pageSize = 1024

type page [pageSize]fact

// fact is what is known of one number. Guarded by Ledger.mu.
type fact struct {
	acked, seen uint64 // hashes; 0: it wasn't
	prev        uint64 // as a client was told whose chain held; 0: none yet
	ch          uint32
	first       uint32 // the client that saw it first
}

// Fault is one thing that may not be.
type Fault struct {
	Client, Channel, Epoch string
	Seq                    uint64
	Kind, Text             string
}

func (f Fault) String() string {
	return fmt.Sprintf("%s: %s %s seq %d (epoch %s): %s", f.Kind, f.Client, f.Channel, f.Seq, f.Epoch, f.Text)
}

// Report is the result of Check.
type Report struct {
	Clients   int
	Acked     uint64         // messages
	Received  uint64         // by all clients
	Told      uint64         // acknowledged, not received, announced by a gap; by all clients
	Gaps      uint64         // announced
	Conflated uint64         // passed over, as skips said
	Counts    map[string]int // faults, by kind
	Faults    []Fault        // the first 1000
}

// OK reports whether nothing is wrong.
func (r *Report) OK() bool { return len(r.Counts) == 0 }

// String names the counts of faults, or says that there are none.
func (r *Report) String() string {
	if r.OK() {
		return "nothing missing"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(r.Counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, r.Counts[k]))
	}
	return strings.Join(parts, ", ")
}

// New returns an empty ledger.
func New() *Ledger {
	return &Ledger{
		numbers: map[string]uint32{}, maybes: map[uint64]uint32{}, counts: map[string]int{},
		lastSeqs: map[uint32]uint64{},
	}
}

// Acked notes a message that is acknowledged.
func (l *Ledger) Acked(epoch, channel string, seq, sum uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ch := l.epoch(epoch), l.number(channel)
	f := l.epochs[e].fact(seq)
	switch {
	case f.acked != 0 && (f.acked != sum || f.ch != ch):
		l.fault(nil, ch, e, seq, Payload, "two different messages were acknowledged with this number")
		return
	case f.acked != 0:
		return // a repeat with the same key
	case f.seen != 0 && (f.seen != sum || f.ch != ch):
		l.fault(l.clients[f.first], f.ch, e, seq, Payload, "received is not what was acknowledged under it")
	}
	f.acked, f.ch = sum, ch
	l.acked++
	delete(l.maybes, sum)
	if e == len(l.epochs)-1 {
		l.lastSeqs[ch] = max(l.lastSeqs[ch], seq)
	}
}

// Maybe notes a message that no answer came for: it may be received, and may not.
// Payloads must differ.
func (l *Ledger) Maybe(channel string, sum uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.maybes[sum] = l.number(channel)
}

// Last is the last acknowledged number of a channel in the newest epoch.
func (l *Ledger) Last(channel string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastSeqs[l.number(channel)]
}

// Acknowledged is how many messages of a channel in the newest epoch with
// after < seq < before were acknowledged.
func (l *Ledger) Acknowledged(channel string, after, before uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.epochs) == 0 {
		return 0
	}
	ch, n := l.number(channel), uint64(0)
	for seq := after + 1; seq < before; seq++ {
		if f := l.epochs[len(l.epochs)-1].known(seq); f != nil && f.acked != 0 && f.ch == ch {
			n++
		}
	}
	return n
}

// epoch is the index of an epoch, new ones being added. Within mu.
func (l *Ledger) epoch(name string) int {
	for i, e := range l.epochs {
		if e.name == name {
			return i
		}
	}
	l.epochs = append(l.epochs, &epoch{name: name, pages: map[uint64]*page{}})
	clear(l.lastSeqs)
	return len(l.epochs) - 1
}

// number is a channel's. Within mu.
func (l *Ledger) number(channel string) uint32 {
	n, ok := l.numbers[channel]
	if !ok {
		n = uint32(len(l.names))
		l.numbers[channel] = n
		l.names = append(l.names, channel)
	}
	return n
}

// fact is the place of a number, made if need be.
func (e *epoch) fact(seq uint64) *fact {
	p := e.pages[seq/pageSize]
	if p == nil {
		p = new(page)
		e.pages[seq/pageSize] = p
	}
	return &p[seq%pageSize]
}

// known is a number's fact, nil when nothing is known of it.
func (e *epoch) known(seq uint64) *fact {
	if p := e.pages[seq/pageSize]; p != nil && (p[seq%pageSize].acked != 0 || p[seq%pageSize].seen != 0) {
		return &p[seq%pageSize]
	}
	return nil
}

// fault notes a fault; c is nil when it is nobody's in particular. Within mu.
func (l *Ledger) fault(c *Client, ch uint32, e int, seq uint64, kind, format string, a ...any) {
	l.counts[kind]++
	if len(l.faults) < maxFaults {
		l.faults = append(l.faults, l.describe(c, ch, e, seq, kind, fmt.Sprintf(format, a...)))
	}
}

func (l *Ledger) describe(c *Client, ch uint32, e int, seq uint64, kind, text string) Fault {
	f := Fault{Channel: l.names[ch], Seq: seq, Kind: kind, Text: text, Client: "all", Epoch: "?"}
	if c != nil {
		f.Client = c.name
	}
	if e >= 0 {
		f.Epoch = l.epochs[e].name
	}
	return f
}
