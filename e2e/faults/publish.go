//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/odin-ws/odin/internal/ledger"
)

// publisher publishes through the HTTP API as the protocol tells publishers to:
// every message has a key, and what was refused or got no answer is repeated,
// through the next node, until it is acknowledged. One goroutine.
type publisher struct {
	// Static.
	r        *run
	nodes    []*node
	channels []string
	size     int
	done     chan struct{}

	rate    atomic.Int64  // messages a second; 0: as many as are taken
	acked   atomic.Uint64 // messages
	refused atomic.Uint64 // answers that said no, or none at all
	unsure  atomic.Uint64 // given up without knowing
	stopped atomic.Bool
	until   atomic.Int64 // when stopped: how long to repeat, Unix ns

	mu    sync.Mutex
	codes map[string]uint64 // answers that were no, by code; guarded by mu
	marks []mark            // guarded by mu

	// Owned by the goroutine.
	n     uint64
	at    int     // of nodes
	again []*item // to be repeated, at most maxAgain
}

// maxAgain is how many messages wait for an ack before no more are made.
const maxAgain = 512

// dedup is how long a key is repeated: the server remembers it for two minutes.
const dedup = 100 * time.Second

// item is one message on its way.
type item struct {
	ch     string
	data   []byte
	key    string
	made   time.Time
	unsure bool // it may have been stored
}

// mark is somebody waiting for the first ack of what was made after a moment.
type mark struct {
	after time.Time
	seq   chan<- uint64
}

var publishers atomic.Uint64

// publish begins to publish to channels in turn, rate messages of size bytes a
// second, through the first node that takes them.
func (r *run) publish(nodes []*node, channels []string, rate, size int) *publisher {
	p := &publisher{r: r, nodes: nodes, channels: channels, size: size, done: make(chan struct{}), codes: map[string]uint64{}}
	p.rate.Store(int64(rate))
	id := publishers.Add(1)
	go p.loop(id)
	r.atEnd(func() { p.stop(0) })
	return p
}

func (p *publisher) loop(id uint64) {
	defer close(p.done)
	const tick = 20 * time.Millisecond
	began, made := time.Now(), 0.0
	var old int64 = -1
	for {
		rate := p.rate.Load()
		if rate != old {
			began, made, old = time.Now(), 0, rate
		}
		batch := p.again
		p.again = nil
		most := min(500, max(1, 4<<20/p.size)) // a batch has at most 8 MiB
		if !p.stopped.Load() && len(batch) < maxAgain {
			n := most
			if rate > 0 {
				n = min(most, int(time.Since(began).Seconds()*float64(rate)-made))
			}
			for range n {
				batch = append(batch, p.make(id))
			}
			made += float64(n)
		} else if rate > 0 {
			// What wasn't made meanwhile isn't made up for.
			began, made = time.Now(), 0
		}
		if p.stopped.Load() && (len(batch) == 0 || time.Now().UnixNano() > p.until.Load()) {
			for _, it := range batch {
				p.giveUp(it)
			}
			return
		}
		for part := range slices.Chunk(batch, most) {
			p.send(part)
		}
		if len(p.again) > 0 {
			time.Sleep(5 * tick)
		} else if rate > 0 {
			time.Sleep(tick / 2)
		}
	}
}

func (p *publisher) make(id uint64) *item {
	p.n++
	d := fmt.Appendf(nil, `{"at":%d,"by":%d,"n":%d`, time.Now().UnixNano(), id, p.n)
	if left := p.size - len(d) - len(`,"pad":""}`); left > 0 {
		d = append(d, `,"pad":"`...)
		d = append(d, bytes.Repeat([]byte("x"), left)...)
		d = append(d, '"')
	}
	d = append(d, '}')
	return &item{ch: p.channels[p.n%uint64(len(p.channels))], data: d, key: fmt.Sprintf("%d-%d", id, p.n), made: time.Now()}
}

// giveUp notes a message that there is no telling of.
func (p *publisher) giveUp(it *item) {
	if it.unsure {
		p.unsure.Add(1)
	}
}

// send publishes a batch and notes the answers.
func (p *publisher) send(batch []*item) {
	var body bytes.Buffer
	for _, it := range batch {
		fmt.Fprintf(&body, `{"ch":%q,"data":%s,"key":%q}`+"\n", it.ch, it.data, it.key)
	}
	n := p.nodes[p.at%len(p.nodes)]
	status, answer, err := n.post("/v1/publish/batch", "application/x-ndjson", body.Bytes())
	results := make([]struct {
		Epoch, Code string
		Seq         uint64
	}, len(batch))
	code := "none"
	switch {
	case err == nil && status == http.StatusOK:
		dec := json.NewDecoder(bytes.NewReader(answer))
		for i := range results {
			if dec.Decode(&results[i]) != nil {
				break
			}
		}
		code = ""
	case err == nil && status == http.StatusRequestEntityTooLarge:
		p.r.fault("a batch of %d items and %d bytes is too large", len(batch), body.Len())
		code = "broker_down"
	case err == nil: // refused as a whole
		code = "broker_down"
	case strings.Contains(err.Error(), "connection refused"):
		code = "broker_down" // nothing was sent
	}
	if code != "" {
		p.at++
		for i := range results {
			results[i].Code = code
		}
	}
	no := false
	for i, it := range batch {
		res := &results[i]
		if res.Seq > 0 {
			p.r.book.Acked(res.Epoch, it.ch, res.Seq, ledger.Sum(it.data))
			p.acked.Add(1)
			p.reached(it.made, res.Seq)
			continue
		}
		if res.Code == "" {
			res.Code = "none"
		}
		no = true
		p.refused.Add(1)
		p.mu.Lock()
		p.codes[res.Code]++
		p.mu.Unlock()
		if res.Code == "uncertain" || res.Code == "none" || res.Code == "broker_error" {
			if !it.unsure {
				p.r.book.Maybe(it.ch, ledger.Sum(it.data))
			}
			it.unsure = true
		}
		if it.unsure && time.Since(it.made) > dedup {
			p.giveUp(it)
			continue
		}
		p.again = append(p.again, it)
	}
	if no && code == "" {
		p.at++
	}
}

// reached tells who waits for an ack.
func (p *publisher) reached(made time.Time, seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.marks[:0]
	for _, m := range p.marks {
		if made.After(m.after) {
			m.seq <- seq
		} else {
			left = append(left, m)
		}
	}
	p.marks = left
}

// next is given the number of the first message made after t that is
// acknowledged.
func (p *publisher) next(t time.Time) <-chan uint64 {
	c := make(chan uint64, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.marks = append(p.marks, mark{t, c})
	return c
}

// stop makes no more, repeats what has no ack for as long as patience, and waits.
func (p *publisher) stop(patience time.Duration) {
	if p.stopped.CompareAndSwap(false, true) {
		p.until.Store(time.Now().Add(patience).UnixNano())
	}
	<-p.done
}

// said is the answers that were no.
func (p *publisher) said() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]uint64{}
	for k, n := range p.codes {
		out[k] = n
	}
	return out
}

// seed publishes one message to each channel and returns their positions: where
// clients begin.
func (r *run) seed(n *node, channels []string) map[string]position {
	out := map[string]position{}
	for _, ch := range channels {
		data := fmt.Sprintf(`{"seed":%q,"at":%d}`, ch, time.Now().UnixNano())
		var at position
		r.within(time.Now(), 20*time.Second, "seeded", func() bool {
			status, b, err := n.post("/v1/publish", "application/json", fmt.Appendf(nil, `{"ch":%q,"data":%s,"key":"seed"}`, ch, data))
			return err == nil && status == http.StatusOK && json.Unmarshal(b, &at) == nil && at.Seq > 0
		})
		r.book.Acked(at.Epoch, ch, at.Seq, ledger.Sum([]byte(data)))
		out[ch] = at
		out["fault.*"] = at // the last of all
	}
	return out
}

// position is a place in the stream.
type position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}
