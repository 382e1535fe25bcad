package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// message is a frame and what a client that lost it must be told. Static once it
// is made: all clients share it.
type message struct {
	frame     []byte
	ch        *channel // nil for what is no publication
	seq, prev uint64
	code      uint16 // a close code: the last one
}

// hub is the channels and who follows them.
//
// Publishing holds mu for reading and the channel's own lock; all that changes
// who follows what holds mu for writing. So an ack lies in a client's queue
// before any message that comes after it.
type hub struct {
	seq atomic.Uint64 // of the last message

	mu       sync.RWMutex
	channels map[string]*channel             // guarded by mu
	wild     map[string]map[*client]struct{} // guarded by mu: followers by prefix, "trade." for trade.*
}

// channel is one channel's recent past and its followers.
type channel struct {
	name string

	mu        sync.Mutex
	last      uint64               // guarded by mu
	past      ring                 // guarded by mu
	followers map[*client]struct{} // guarded by hub.mu
	order     []*client            // followers as a list, made by the next publish after a change; guarded by both
}

// follow and leave change followers; hub.mu is held for writing.
func (ch *channel) follow(c *client) { ch.followers[c], ch.order = struct{}{}, nil }
func (ch *channel) leave(c *client)  { delete(ch.followers, c); ch.order = nil }

// ring is the last messages, at most replayKeep, grown as they come.
type ring struct {
	all  []*message
	next int
}

func (r *ring) add(m *message) {
	if len(r.all) < replayKeep {
		r.all = append(r.all, m)
		return
	}
	r.all[r.next] = m
	r.next = (r.next + 1) % replayKeep
}

// oldestFirst calls f for each message kept.
func (r *ring) oldestFirst(f func(*message)) {
	for i := range r.all {
		f(r.all[(r.next+i)%len(r.all)])
	}
}

// publish numbers a message and hands it to every follower.
func (h *hub) publish(name string, data []byte) uint64 {
	h.mu.RLock()
	ch := h.channels[name]
	if ch == nil {
		h.mu.RUnlock()
		h.mu.Lock()
		h.channel(name)
		h.mu.Unlock()
		return h.publish(name, data)
	}
	defer h.mu.RUnlock()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	m := &message{ch: ch, seq: h.seq.Add(1), prev: ch.last}
	text := make([]byte, 0, 96+len(name)+len(data))
	text = append(append(append(text, `{"t":"msg","ch":"`...), name...), `","seq":`...)
	text = strconv.AppendUint(text, m.seq, 10)
	text = strconv.AppendUint(append(text, `,"prev":`...), m.prev, 10)
	text = strconv.AppendInt(append(text, `,"ts":`...), time.Now().UnixMilli(), 10)
	text = append(append(append(text, `,"d":`...), data...), '}')
	m.frame = appendFrame(make([]byte, 0, len(text)+4), websocket.TextMessage, text)
	ch.last = m.seq
	ch.past.add(m)
	if ch.order == nil {
		ch.order = slices.AppendSeq(make([]*client, 0, len(ch.followers)), maps.Keys(ch.followers))
	}
	for _, c := range ch.order {
		c.give(m)
	}
	return m.seq
}

// channel finds or makes a channel; mu is held for writing.
func (h *hub) channel(name string) *channel {
	ch := h.channels[name]
	if ch == nil {
		ch = &channel{name: name, followers: map[*client]struct{}{}}
		h.channels[name] = ch
		for prefix, cs := range h.wild {
			if strings.HasPrefix(name, prefix) {
				for c := range cs {
					ch.follow(c)
				}
			}
		}
	}
	return ch
}

// matching calls f with every channel that a pattern stands for; mu is held.
func (h *hub) matching(prefix string, f func(*channel)) {
	for name, ch := range h.channels {
		if strings.HasPrefix(name, prefix) {
			f(ch)
		}
	}
}

// subscribe makes c follow what a command names, and queues the ack and what was
// missed since the positions given, as one message.
func (h *hub) subscribe(c *client, cmd *command) {
	h.mu.Lock()
	defer h.mu.Unlock()
	acks, rejected := []byte(nil), []byte(nil)
	var past []byte
	for _, name := range cmd.names {
		prefix, wild := strings.CutSuffix(name, "*")
		switch {
		case wild && (!strings.HasSuffix(prefix, ".") || !validChannel(prefix[:len(prefix)-1])), !wild && !validChannel(name):
			rejected = fmt.Appendf(comma(rejected), `%q:"bad_channel"`, name)
			continue
		case !c.names[name] && len(c.names) >= maxChannels:
			rejected = fmt.Appendf(comma(rejected), `%q:"limit"`, name)
			continue
		}
		c.names[name] = true
		at := h.seq.Load()
		since, given := cmd.Since[name]
		recovered := given && since.Epoch == c.s.epoch
		join := func(ch *channel) {
			ch.follow(c)
			from := since
			if own, ok := cmd.Since[ch.name]; ok {
				from = own
			} else if !given {
				if cmd.Snap && len(ch.past.all) > 0 {
					newest := ch.past.all[(ch.past.next+len(ch.past.all)-1)%len(ch.past.all)]
					past = append(past, newest.frame...)
				}
				return
			}
			frames, whole := ch.since(from, c.s.epoch)
			past, recovered = append(past, frames...), recovered && whole
		}
		if wild {
			if h.wild[prefix] == nil {
				h.wild[prefix] = map[*client]struct{}{}
			}
			h.wild[prefix][c] = struct{}{}
			h.matching(prefix, join)
		} else {
			ch := h.channel(name)
			at = ch.last
			join(ch)
		}
		acks = fmt.Appendf(comma(acks), `%q:{"epoch":%q,"seq":%d`, name, c.s.epoch, at)
		if given {
			acks = fmt.Appendf(acks, `,"recovered":%t`, recovered)
		}
		acks = append(acks, '}')
	}
	text := fmt.Appendf(nil, `{"t":"ack",%s"ch":{%s}`, cmd.idText(), acks)
	if rejected != nil {
		text = fmt.Appendf(text, `,"rej":{%s}`, rejected)
	}
	c.offer(&message{frame: append(appendFrame(nil, websocket.TextMessage, append(text, '}')), past...)})
}

func comma(b []byte) []byte {
	if len(b) > 0 {
		b = append(b, ',')
	}
	return b
}

// since is the frames after a position, a gap before them when not all are kept.
func (ch *channel) since(p position, epoch string) (frames []byte, whole bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	why := "evicted"
	if p.Epoch != epoch {
		p.Seq, why = 0, "epoch"
	}
	whole = p.Epoch == epoch
	before := p.Seq
	ch.past.oldestFirst(func(m *message) {
		if m.seq <= p.Seq {
			return
		}
		if m.prev > before || !whole && len(frames) == 0 {
			frames, whole = append(frames, gap(ch.name, before, m.seq, why)...), false
		}
		frames, before = append(frames, m.frame...), m.seq
	})
	return frames, whole
}

func gap(ch string, after, before uint64, why string) []byte {
	return appendFrame(nil, websocket.TextMessage, fmt.Appendf(nil, `{"t":"gap","ch":"%s","after":%d,"before":%d,"why":"%s"}`, ch, after, before, why))
}

// unsubscribe ends what a command names.
func (h *hub) unsubscribe(c *client, cmd *command) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range cmd.names {
		if !c.names[name] {
			continue
		}
		delete(c.names, name)
		if prefix, wild := strings.CutSuffix(name, "*"); wild {
			h.dropWild(c, prefix)
			h.matching(prefix, func(ch *channel) { h.reconsider(c, ch) })
		} else if ch := h.channels[name]; ch != nil {
			h.reconsider(c, ch)
		}
	}
	c.reply(`{"t":"ack",%s"ch":{}}`, cmd.idText())
}

// reconsider takes c off a channel unless something it still names matches.
func (h *hub) reconsider(c *client, ch *channel) {
	if c.names[ch.name] {
		return
	}
	for name := range c.names {
		if prefix, wild := strings.CutSuffix(name, "*"); wild && strings.HasPrefix(ch.name, prefix) {
			return
		}
	}
	ch.leave(c)
}

func (h *hub) dropWild(c *client, prefix string) {
	delete(h.wild[prefix], c)
	if len(h.wild[prefix]) == 0 {
		delete(h.wild, prefix)
	}
}

// list queues the ack of everything c follows.
func (h *hub) list(c *client, cmd *command) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var acks []byte
	for name := range c.names {
		at := h.seq.Load()
		if ch := h.channels[name]; ch != nil {
			ch.mu.Lock()
			at = ch.last
			ch.mu.Unlock()
		}
		acks = fmt.Appendf(comma(acks), `%q:{"epoch":%q,"seq":%d}`, name, c.s.epoch, at)
	}
	c.reply(`{"t":"ack",%s"ch":{%s}}`, cmd.idText(), acks)
}

// drop takes a client off everything.
func (h *hub) drop(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range c.names {
		if prefix, wild := strings.CutSuffix(name, "*"); wild {
			h.dropWild(c, prefix)
			h.matching(prefix, func(ch *channel) { ch.leave(c) })
		} else if ch := h.channels[name]; ch != nil {
			ch.leave(c)
		}
	}
}
