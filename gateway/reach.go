package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// questions are what a sub command needs to know of the broker before it can be
// answered, because this node does not remember it.
type questions struct {
	unknown   []string // channels never heard of
	positions bool     // a position is older than the log, ahead of this node, or of another epoch
	heads     []string // whose last message is to come first, and is not in the log
	prefixes  []string // of wildcards whose channels this node may not all know
}

func (q *questions) none() bool {
	return len(q.unknown) == 0 && !q.positions && len(q.heads) == 0 && len(q.prefixes) == 0
}

// reach is the broker's answer. The zero value is that of nobody asked.
type reach struct {
	asked       bool   // the stream was asked for the following
	err         error  // it did not answer
	streamEpoch string // what the stream's leader says of itself
	first, last uint64
	epoch       string            // the node's when heads were asked for
	heads       map[string]uint64 // newest stored sequence, of those asked for
	vouched     map[string]uint64 // by prefix: the node knows all channels with anything from its base so high on
}

// holds reports whether the stream has everything after seq; a node that did not,
// or could not, ask does not promise it.
func (k *reach) holds(seq uint64) bool {
	return k.asked && k.err == nil && k.first <= seq+1
}

// questions lists what a sub command needs to have asked.
func (s *shard) questions(r connRef, c *slot, cmd *wire.Command) (q questions) {
	hub := s.g.hub
	epoch, head := hub.Epoch(), hub.Head()
	room := s.live.MaxSubscriptions - s.subCount(c)
	for _, p := range cmd.Since { // also of what a wildcard matches
		q.positions = q.positions || p.Epoch != epoch || p.Seq > head
	}
	eachName(cmd.Ch, func(name, prefix string, wildcard, ok bool) {
		if !ok || !s.mayRead(r, name) {
			return
		}
		p, since := cmd.Since[name]
		if wildcard {
			// Also where the broker has only just been reached, or will be before this is
			// answered.
			if since && (epoch == "" || p.Epoch == epoch && p.Seq < hub.Base()) || cmd.Snap {
				q.prefixes = append(q.prefixes, prefix)
				q.positions = q.positions || since
			} else if since && !q.positions {
				q.positions = s.matchOlder(prefix, p.Seq)
			}
			return
		}
		ch := hub.Lookup(name)
		if ch == nil {
			if len(q.unknown) < room {
				q.unknown = append(q.unknown, name)
				q.positions = q.positions || since
				if cmd.Snap && !since {
					q.heads = append(q.heads, name)
				}
			}
			return
		}
		if since && p.Epoch == epoch {
			_, _, complete := ch.After(p.Seq)
			q.positions = q.positions || !complete
		} else if _, head := ch.Head(); cmd.Snap && !since && head > 0 {
			if _, has := newest(ch); !has {
				q.heads = append(q.heads, name)
			}
		}
	})
	return q
}

// newest is where a channel's newest message is in its log, if it has it.
func newest(ch *channel.Channel) (at place, has bool) {
	last := ch.Newest()
	if last == 0 {
		return place{}, false
	}
	ord, _, complete := ch.After(last - 1)
	return place{ord: ord, seq: last - 1}, complete
}

// matchOlder reports whether a channel of a prefix has a log that begins after
// seq.
func (s *shard) matchOlder(prefix string, seq uint64) (older bool) {
	s.g.hub.Match(prefix, func(ch *channel.Channel) bool {
		_, _, complete := ch.After(seq)
		older = !complete
		return !older
	})
	return older
}

// lookupTimeout is how long a subscribe waits for the broker's answers.
const lookupTimeout = 3 * time.Second

// ask has the questions of a sub command answered; it runs in the pool.
func (g *Gateway) ask(q questions, cmd *wire.Command) (k reach) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	k.epoch = g.hub.Epoch()
	if q.positions {
		g.askLeader(ctx, cmd, &k)
	}
	g.learn(ctx, q.unknown)
	for _, prefix := range q.prefixes {
		g.learnPrefix(ctx, prefix, &k)
	}
	for _, name := range q.heads {
		if m, err := g.broker.Last(ctx, name); err == nil {
			k.noteHead(name, m.Seq)
			g.waitFor(ctx, m.Seq)
		}
	}
	return k
}

// askLeader asks how far the stream goes, and waits until this node has come to
// the command's positions.
func (g *Gateway) askLeader(ctx context.Context, cmd *wire.Command, k *reach) {
	st, err := g.leader.ask(ctx)
	k.asked, k.err = true, err
	k.streamEpoch, k.first, k.last = st.Epoch, st.First, st.Last
	if err != nil {
		g.count.LookupsFailed.Add(1)
		return
	}
	// A client that comes from another node may be ahead of this one.
	for _, p := range cmd.Since {
		if p.Epoch == st.Epoch && p.Seq <= st.Last {
			g.waitForEpoch(ctx, st.Epoch)
			g.waitFor(ctx, p.Seq)
		}
	}
}

func (k *reach) noteHead(name string, seq uint64) {
	if k.heads == nil {
		k.heads = make(map[string]uint64)
	}
	k.heads[name] = seq
}

// waitFor waits until this node has been given the stream up to seq.
func (g *Gateway) waitFor(ctx context.Context, seq uint64) {
	for wait := 50 * time.Microsecond; g.hub.Head() < seq && ctx.Err() == nil; wait = min(2*wait, 10*time.Millisecond) {
		time.Sleep(wait)
	}
}

// waitForEpoch waits until this node has heard of a new life of the stream.
func (g *Gateway) waitForEpoch(ctx context.Context, epoch string) {
	for g.hub.Epoch() != epoch && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
}

// learn makes channels known to the hub, at the positions the broker has for
// them. Without a broker they are taken to be at the head this node last saw:
// positions are the stream's, so none is ever ahead of that.
func (g *Gateway) learn(ctx context.Context, names []string) {
	for _, name := range names {
		if g.hub.Lookup(name) != nil {
			continue
		}
		last := channel.Unknown
		if g.broker.State().Connected {
			m, err := g.broker.Last(ctx, name)
			switch {
			case err == nil:
				last = m.Seq
			case errors.Is(err, broker.ErrNotFound):
				// It never had a message, or all of them have aged out: who comes with a
				// position finds out from the stream.
			default:
				g.count.LookupsFailed.Add(1)
			}
		}
		g.know(ctx, name, last)
	}
}

// know makes a channel known whose newest stored message is last. A message this
// node has not been given yet makes the channel known when it comes; learning
// of it early would make it look late then.
func (g *Gateway) know(ctx context.Context, name string, last uint64) {
	for last != channel.Unknown && last > g.hub.Head() && g.hub.Lookup(name) == nil {
		select {
		case <-ctx.Done():
			last = channel.Unknown
		case <-time.After(time.Millisecond):
		}
	}
	g.hub.Ensure(name, last)
}

// learnPrefix makes every channel of a prefix known of which the stream holds
// something, if they are not more than one connection may have. Those who ask for
// the same prefix at once share the answer: what is stored later comes live.
func (g *Gateway) learnPrefix(ctx context.Context, prefix string, k *reach) {
	shared, err, _ := g.listing.Do(prefix, func() (any, error) {
		base := g.hub.Base()
		heads, err := g.broker.Channels(ctx, prefix, g.live.Load().MaxSubscriptions)
		return listing{base, heads}, err
	})
	if err != nil {
		if !errors.Is(err, broker.ErrTooMany) { // the connection's limit will say so
			g.count.LookupsFailed.Add(1)
		}
		return
	}
	l := shared.(listing)
	for _, h := range l.heads {
		if !wire.ValidChannel(h.Channel) {
			continue // a native publisher's, and no channel
		}
		k.noteHead(h.Channel, h.Last)
		if g.hub.Lookup(h.Channel) == nil {
			g.know(ctx, h.Channel, h.Last)
			if g.hub.Lookup(h.Channel) == nil {
				return // the node is full: it can't vouch for this one
			}
		}
	}
	if k.vouched == nil {
		k.vouched = make(map[string]uint64)
	}
	k.vouched[prefix] = l.base
}

// listing is what the stream holds of a prefix, and the hub's base before it was
// asked.
type listing struct {
	base  uint64
	heads []broker.ChannelHead
}

// leader asks the stream's leader how far the stream goes. An answer must be
// younger than its question, so who asks while a request is under way waits for
// the next one; that one is shared by all who came meanwhile.
type leader struct {
	broker broker.Broker

	mu      sync.Mutex
	running bool
	next    *leaderCall // of those who wait for the request under way to end
}

type leaderCall struct {
	done  chan struct{}
	state broker.StreamState
	err   error
}

func (l *leader) ask(ctx context.Context) (broker.StreamState, error) {
	l.mu.Lock()
	if l.next == nil {
		l.next = &leaderCall{done: make(chan struct{})}
	}
	call := l.next
	if !l.running {
		l.running = true
		go l.run()
	}
	l.mu.Unlock()
	select {
	case <-call.done:
		return call.state, call.err
	case <-ctx.Done():
		return broker.StreamState{}, ctx.Err()
	}
}

// run makes requests while somebody waits for one.
func (l *leader) run() {
	for {
		l.mu.Lock()
		call := l.next
		l.next = nil
		if call == nil {
			l.running = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		call.state, call.err = l.broker.Stream(ctx)
		cancel()
		close(call.done)
	}
}
