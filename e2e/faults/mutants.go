//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/odin-ws/odin/internal/ledger"
)

// mutant is a relay between a real gateway and a client that does one thing
// wrong, once. what is the kind of fault the book must find then.
type mutant struct {
	name, what string
	mode       string // of the connection whose frames it is given
	relay      func() func(frame []byte) [][]byte
}

// once does something to a frame that begins with lead and contains like, the
// first time that it may.
func once(lead, like string, do func(frame []byte) [][]byte) func() func([]byte) [][]byte {
	return func() func([]byte) [][]byte {
		after, seen, done := 100+rand.IntN(400), 0, false
		return func(frame []byte) [][]byte {
			if !done && bytes.HasPrefix(frame, []byte(lead)) && bytes.Contains(frame, []byte(like)) {
				if seen++; seen > after || lead != `{"t":"msg"` || like != "" {
					done = true
					return do(frame)
				}
			}
			return [][]byte{frame}
		}
	}
}

var mutants = []mutant{
	{"drops one message", ledger.Missing, "all", once(`{"t":"msg"`, "", func([]byte) [][]byte { return nil })},
	{"flips a byte of a payload", ledger.Payload, "all", once(`{"t":"msg"`, "", func(b []byte) [][]byte {
		b = bytes.Clone(b)
		b[len(b)-4] ^= 1
		return [][]byte{b}
	})},
	{"sends one twice", ledger.Duplicate, "all", once(`{"t":"msg"`, "", func(b []byte) [][]byte { return [][]byte{b, b} })},
	{"swaps two messages", ledger.Order, "all", func() func([]byte) [][]byte {
		var held []byte
		after, seen := 100+rand.IntN(400), 0
		return func(b []byte) [][]byte {
			if !bytes.HasPrefix(b, []byte(`{"t":"msg"`)) {
				return [][]byte{b}
			}
			seen++
			switch seen {
			case after:
				held = bytes.Clone(b)
				return nil
			case after + 1:
				return [][]byte{b, held}
			}
			return [][]byte{b}
		}
	}},
	{"forges a skip", ledger.Skip, "latest", once(`{"t":"msg"`, `,"skip":`, func(b []byte) [][]byte {
		return [][]byte{bytes.Replace(b, []byte(`,"skip":`), []byte(`,"skip":1`), 1)}
	})},
	{"drops a gap", ledger.Missing, "all", once(`{"t":"gap"`, "", func([]byte) [][]byte { return nil })},
}

// reader is a connection that does not resume; all frames go to take. It ends
// when enough says so, or ctx does.
func reader(ctx context.Context, url, sub string, take func(b []byte) (enough bool)) error {
	c, _, err := websocket.Dial(ctx, url, nil) //nolint:bodyclose // it is nil, or read to its end, by Dial's contract
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(1 << 20)
	if err := c.Write(ctx, websocket.MessageText, []byte(sub)); err != nil {
		return err
	}
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			return err
		}
		if take(b) {
			return nil
		}
	}
}

// showMutants runs one true run of a million deliveries, and beside it, from the
// same frames, a book for each mutant: the true one must balance, the others not.
func showMutants(r *run) {
	const channel = "fault.c0"
	clients, messages := 20, r.long(50_000, 20_000)
	bus := r.free()
	n := r.node("a", "--nats-listen", bus, "--send-queue", "1000000", "--replay", "100000", "--slow-timeout", "60s", "--retention", "1GiB")
	n.waitReady()
	from := r.seed(n, []string{channel})[channel]
	books := make([]*ledger.Ledger, len(mutants))
	pages := make([]*ledger.Client, len(mutants))
	relays := make([]func([]byte) [][]byte, len(mutants))
	for i, m := range mutants {
		books[i] = ledger.New()
		pages[i] = books[i].Client(m.name)
		relays[i] = m.relay()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	end := `,"d":"end"}`
	play := func(name, sub, mode string, mutate bool) {
		wg.Add(1)
		page := r.book.Client(name)
		r.row.clients++
		go func() {
			defer wg.Done()
			err := reader(ctx, n.url(), sub, func(b []byte) bool {
				if err := page.Frame(b); err != nil {
					r.fault("%v", err)
				}
				for i := range mutants {
					if mutate && mutants[i].mode == mode {
						for _, x := range relays[i](b) {
							_ = pages[i].Frame(x)
						}
					}
				}
				return bytes.HasSuffix(b, []byte(end))
			})
			if err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
				mu.Unlock()
			}
		}()
	}
	for i := range clients {
		play(fmt.Sprintf("client %d", i), fmt.Sprintf(`{"op":"sub","id":1,"ch":[%q]}`, channel), "all", i == 0)
	}
	play("latest", fmt.Sprintf(`{"op":"sub","id":1,"ch":[%q],"mode":"latest","ms":20}`, channel), "latest", true)
	r.within(time.Now(), 30*time.Second, "all subscribed", func() bool {
		mu.Lock()
		r.want(len(errs) == 0, "%v", errs)
		mu.Unlock()
		s, err := n.stats()
		return err == nil && s.Current == clients+1 && s.Subscriptions == int64(clients+1)
	})
	nc, err := nats.Connect("nats://" + bus)
	r.must(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	r.must(err)
	acked := func(at position, d []byte) {
		for _, b := range append(books, r.book) {
			b.Acked(at.Epoch, channel, at.Seq, ledger.Sum(d))
		}
	}
	began := time.Now()
	for sent := 0; sent < messages; {
		// What can't be delivered, so that there is a gap: published past the gateway.
		ack, err := js.Publish(ctx, "odin.in."+channel, []byte("not JSON"))
		r.must(err)
		acked(position{from.Epoch, ack.Sequence}, []byte("not JSON"))
		var body bytes.Buffer
		batch := make([][]byte, 0, 1000)
		for range min(1000, messages-sent) {
			d := fmt.Appendf(nil, `{"n":%d,"price":%d,"text":"abc"}`, sent, sent*7919%100_000)
			if sent == messages-1 {
				d = []byte(`"end"`)
			}
			batch = append(batch, d)
			fmt.Fprintf(&body, `{"ch":%q,"data":%s}`+"\n", channel, d)
			sent++
		}
		status, answer, err := n.post("/v1/publish/batch", "application/x-ndjson", body.Bytes())
		r.must(err)
		r.want(status == 200, "publish: %d %.200s", status, answer)
		dec := json.NewDecoder(bytes.NewReader(answer))
		for _, d := range batch {
			var at position
			r.must(dec.Decode(&at))
			r.want(at.Seq > 0, "not acknowledged")
			acked(at, d)
		}
	}
	for _, b := range books {
		b.Acked(from.Epoch, channel, from.Seq, ledger.Sum(nil)) // the seed, before all positions
	}
	wg.Wait()
	for _, err := range errs {
		r.must(err)
	}
	rep := r.book.Check()
	r.say("%d delivered in %.1f s; the true book: %s", rep.Received, time.Since(began).Seconds(), rep.String())
	r.row.acked, r.row.delivered, r.row.gaps, r.row.told = rep.Acked, rep.Received, rep.Gaps, rep.Told
	if !rep.OK() {
		r.fault("the true book: %s; %v", rep.String(), rep.Faults[:min(3, len(rep.Faults))])
	}
	if want := uint64(clients * messages); rep.Received < want {
		r.fault("%d received, want %d", rep.Received, want)
	}
	var found []string
	for i, m := range mutants {
		rep := books[i].Check()
		r.say("a relay that %s: %s", m.name, rep.String())
		if rep.Counts[m.what] == 0 {
			r.fault("a relay that %s passed: %s %v", m.name, rep.String(), rep.Faults)
		}
		found = append(found, m.name)
	}
	r.note("each fails the check, a relay that %s", strings.Join(found, ", "))
}
