package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
)

// delivery is the state of the delivery goroutine, which owns all of it.
//
// Invariants: sequences handed to the Sink grow by one, or Lost names the step;
// nothing newer goes out before a hole is filled; nothing of an old life of the
// stream goes out after Open with a new one.
type delivery struct {
	b        *Broker
	live     chan *nats.Msg // odin.out.> and the advisories; more waits in the client library, which drops what is too much
	overflow chan struct{}  // the live queue was too short: messages are missing

	epoch    string // of the last Open, "" before the first
	created  int64  // when that life of the stream began, Unix ns
	last     uint64 // sequence handed to the Sink last
	lastTime int64  // its time at the stream, Unix ns
	heads    heads  // last sequence of each channel

	told     bool   // the Sink knows that the broker is down
	owesLive bool   // the Sink has had Open and not Live
	liveAt   uint64 // the stream's last at that Open
	failures int    // first connections that failed

	// The audit's memory.
	behind    uint64    // stream's last at the audit before, if we were behind it
	rollback  time.Time // since when the stream's last is less than ours
	suspect   bool      // a live message is missing, or had no readable stamp
	silent    int       // audits in a row that got no answer
	quietFrom uint64    // last at the tick before

	// When the replicas are next compared with the cluster's size.
	growAt    time.Time
	growPause time.Duration
	growErr   string // what was logged of the last attempt
}

// liveHandoff is how many messages are handed over at once. The queue is the
// client library's, which counts its bytes too.
const liveHandoff = 64

func newDelivery(b *Broker) *delivery {
	return &delivery{
		b:        b,
		live:     make(chan *nats.Msg, min(liveHandoff, b.cfg.Queue)),
		overflow: make(chan struct{}, 1),
	}
}

// errNewLife ends a piece of work because the stream was made anew meanwhile;
// the Sink has had Open for the new life already.
var errNewLife = errors.New("stream made anew")

// open tells the Sink where deliveries begin or go on.
func (d *delivery) open(in info) {
	b := d.b
	if d.told && d.epoch != "" {
		b.counters.reconnects.Add(1)
	}
	switch d.epoch {
	case in.epoch:
		// Go on: what was missed comes next.
	case "":
		d.begin(in, in.last)
	default:
		// All of the new life is delivered: what was published to it before we
		// noticed was acked too.
		b.cfg.Log.Warn("the stream was made anew", "old", d.epoch, "new", in.epoch)
		d.begin(in, in.first-min(in.first, 1))
	}
	d.told, d.silent = false, 0
	d.owesLive, d.liveAt = true, in.last
	b.setState(broker.State{Connected: true, Epoch: d.epoch})
	b.sink.Open(d.epoch, d.last)
	d.behind = in.last
	d.growPause = b.cfg.growAfter
	d.growAt = time.Now().Add(d.growPause)
}

// begin starts a life of the stream after sequence head.
func (d *delivery) begin(in info, head uint64) {
	d.epoch, d.created, d.last, d.lastTime = in.epoch, in.created, head, 0
	d.rollback = time.Time{}
	d.heads.clear()
	d.b.life.Store(&life{in.epoch})
	d.b.head.Store(in.last)
	d.b.position.Store(head)
}

// serve delivers until ctx ends or the stream can't be read any more.
func (d *delivery) serve(ctx context.Context) error {
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	d.sayLive()
	tick := time.NewTicker(d.b.cfg.Audit)
	defer tick.Stop()
	for {
		var err error
		select {
		case m := <-d.live:
			if err = d.take(ctx, m); err == nil {
				err = d.ask(ctx)
			}
		case <-d.overflow:
			d.suspect = true
			err = d.ask(ctx)
		case <-tick.C:
			err = d.tick(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, errNewLife) {
			return err
		}
		d.sayLive()
	}
}

// sayLive tells the Sink once that it has all the stream held when it was opened.
func (d *delivery) sayLive() {
	if d.owesLive && d.last >= d.liveAt {
		d.owesLive = false
		d.b.sink.Live()
	}
}

// catchUp fetches what the stream had when the session began.
func (d *delivery) catchUp(ctx context.Context) error {
	err := d.fill(ctx, d.behind+1)
	if errors.Is(err, errNewLife) {
		return nil
	}
	return err
}

// take handles one message of the live channel.
func (d *delivery) take(ctx context.Context, m *nats.Msg) error {
	st, ok := readStamp(m)
	channel, out := strings.CutPrefix(m.Subject, outPrefix)
	if !out {
		return d.audit(ctx, true) // an advisory
	}
	if !ok || st.subject[min(len(inPrefix), len(st.subject)):] != channel {
		// Its number will be missing; the next message or the audit shows it.
		d.suspect = true
		return nil
	}
	if st.time < d.created {
		d.b.counters.duplicates.Add(1) // of an earlier life, still in the channel
		return nil
	}
	if st.seq <= d.last && st.time > d.lastTime || st.seq > d.last+1 {
		// Either another life of the stream or a hole: ask before judging.
		in, err := d.look(ctx)
		if errors.Is(err, errNewLife) {
			return d.take(ctx, m)
		}
		if err != nil {
			return err
		}
		if st.seq > in.last {
			// The stream doesn't have it: someone else wrote to odin.out, or a new
			// leader has yet to catch up with itself. If it is real the audits find it.
			d.b.cfg.Log.Debug("a message the stream doesn't have", "seq", st.seq, "last", in.last)
			d.suspect = true
			return nil
		}
	}
	switch {
	case st.seq <= d.last:
		d.b.counters.duplicates.Add(1)
		return nil
	case st.seq > d.last+1:
		if err := d.fill(ctx, st.seq); err != nil {
			return err
		}
		if st.seq <= d.last {
			return nil // the fetch brought it along
		}
	}
	d.deliver(&broker.Message{Channel: channel, Seq: st.seq, Prev: st.prev, Time: st.time / 1e6, Nanos: st.time % 1e6, Data: m.Data}, st.time, headerSize(m))
	return nil
}

// ask audits at once when a message is missing, or may be, and all that has come is
// taken: with the last of a burst no other follows that would show the hole.
func (d *delivery) ask(ctx context.Context) error {
	if !d.suspect || len(d.live) > 0 {
		return nil
	}
	return d.audit(ctx, true)
}

// deliver hands the message with sequence last+1 to the Sink. It came with so many bytes
// of headers.
func (d *delivery) deliver(m *broker.Message, nanos int64, headers int) {
	d.last, d.lastTime = m.Seq, nanos
	d.heads.set(m.Channel, m.Seq)
	d.b.raiseHead(m.Seq)
	d.b.throttle.took(m.Channel, m.Data, headers)
	d.b.sink.Message(m)
	d.b.position.Store(m.Seq)
	d.b.counters.delivered.Add(1)
}

// lose tells the Sink that what lies between last and before is gone.
func (d *delivery) lose(before uint64) {
	if before <= d.last+1 {
		return
	}
	d.b.counters.lost.Add(before - d.last - 1)
	d.b.cfg.Log.Warn("messages lost from the stream", "after", d.last, "before", before)
	after := d.last
	d.last = before - 1
	d.heads.clear() // any channel may have had one among them
	d.b.sink.Lost(after, before)
	d.b.position.Store(d.last)
}

// sameLife asks the stream whether it is still the one we know. If it isn't it
// opens the new one and returns errNewLife.
func (d *delivery) sameLife(ctx context.Context) error {
	_, err := d.look(ctx)
	return err
}

// look reads the stream's state, makes the stream if it is gone, and opens a
// new life of it, which is errNewLife.
func (d *delivery) look(ctx context.Context) (info, error) {
	in, _, err := d.b.streamInfo(ctx)
	if isCode(err, codeStreamMissing) {
		in, err = d.b.ensureStream(ctx)
	}
	if err == nil && in.epoch == d.epoch {
		in, err = d.checkRollback(ctx, in)
	}
	if err != nil {
		return in, err
	}
	if in.epoch != d.epoch {
		d.open(in)
		return in, errNewLife
	}
	return in, nil
}

// tick is the audit of a silence, and looks after the embedded store.
func (d *delivery) tick(ctx context.Context) error {
	if err := d.checkStore(); err != nil {
		return err
	}
	if d.suspect || d.quietFrom == d.last && len(d.live) == 0 {
		if err := d.audit(ctx, d.suspect); err != nil {
			return err
		}
	}
	d.quietFrom = d.last
	d.grow(ctx)
	return nil
}

// growEvery is how often the replicas are compared with the cluster's size in
// the long run: servers join later.
const growEvery = time.Minute

// grow gives the stream more replicas if the cluster has become large enough.
// That it can't be done is no reason to stop: the operator hears of it once.
func (d *delivery) grow(ctx context.Context) {
	if time.Now().Before(d.growAt) {
		return
	}
	d.growPause = min(2*d.growPause, growEvery)
	d.growAt = time.Now().Add(d.growPause)
	err := d.b.growStream(ctx)
	if err == nil {
		d.growErr = ""
	} else if ctx.Err() == nil && err.Error() != d.growErr {
		d.growErr = err.Error()
		d.b.cfg.Log.Warn("the stream keeps its replicas: there may be no room for more", "err", err)
	}
}

// audit compares the stream with what was delivered. Behind now and at the
// audit before by the same messages, or told to do it at once, it fetches.
func (d *delivery) audit(ctx context.Context, now bool) error {
	in, err := d.look(ctx)
	if errors.Is(err, errNewLife) {
		return d.catchUp(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && d.silent < d.patience() {
		d.silent++
		return nil
	}
	if err != nil {
		return err
	}
	d.silent = 0
	target := d.behind
	d.behind = in.last
	if now {
		target, d.suspect = in.last, false
	}
	return d.fill(ctx, target+1)
}

// patience is how many audits in a row may stay without an answer. A disk can
// stall for seconds, and whether the server lives is the pings' affair; but the
// pings of one server say nothing of a stream whose leader is another.
func (d *delivery) patience() int {
	if d.b.servers() > 1 {
		return 1
	}
	return 2
}

// checkRollback notices a stream that lost its end: restored from a backup, or
// after a power cut. Its creation time is the same, but its numbers are given
// out again, so it gets a new epoch.
func (d *delivery) checkRollback(ctx context.Context, in info) (info, error) {
	switch {
	case in.last >= d.last:
		d.rollback = time.Time{}
	case d.rollback.IsZero():
		d.rollback = time.Now()
	case time.Since(d.rollback) > d.b.cfg.rollbackGrace:
		d.b.cfg.Log.Error("the stream lost its end", "delivered", d.last, "last", in.last)
		return d.b.newLife(ctx, d.epoch)
	}
	return in, nil
}

// checkStore looks whether the embedded store takes writes, refuses publishes
// while it doesn't and tries to repair it. A repair breaks the connections, so
// the session ends and a new one follows.
func (d *delivery) checkStore() error {
	b := d.b
	if b.emb == nil {
		return nil
	}
	trouble := b.emb.trouble()
	if trouble == nil {
		if errors.Is(b.State().Err, broker.ErrFull) {
			b.setState(broker.State{Connected: true, Epoch: d.epoch})
		}
		return nil
	}
	err := fmt.Errorf("%w: %w", broker.ErrFull, trouble)
	if s := b.State(); s.Err == nil || s.Err.Error() != err.Error() {
		b.cfg.Log.Error("the embedded store takes no writes", "err", trouble)
		b.setState(broker.State{Epoch: d.epoch, Err: err})
	}
	return b.emb.repair()
}
