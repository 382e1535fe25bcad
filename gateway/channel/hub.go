package channel

import (
	"cmp"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/odin-ws/odin/gateway/wire"
)

// MaxShards bounds the shards of a hub: a channel's shards are one word.
const MaxShards = 64

// Config configures a Hub. Static after New.
type Config struct {
	Shards      int
	Keep        int           // messages a channel's log keeps, budget permitting: max(replay, send queue)
	Grace       time.Duration // what is younger is kept also beyond Keep, budget permitting; the three strikes of a slow client fit in
	Budget      int64         // bytes all logs may hold
	MaxChannels int           // channels known at once
	MaxPayload  int           // bytes; a stored message with more is announced as invalid
	// Wake is called when a shard's inbox was empty and no longer is; from any
	// goroutine.
	Wake func(shard int)
	// Silence is after how long without a message a channel's followers are told
	// stale, ms; 0: never. It is asked once a channel. nil is never.
	Silence func(name string) int64
	// Deflate is called when there is something to compress and was not: from then on
	// a Hub.Deflate is due, on a goroutine of the caller's. nil: nobody asks for it.
	Deflate func()
	// DeflateLate is for how long a channel may have waited to be compressed; what has
	// waited longer is passed over. 0 is 25 ms.
	DeflateLate time.Duration
	// Now is the clock, Unix ms; nil is the real one.
	Now func() int64
}

// Counters of a Hub. Monotonic, any goroutine.
type Counters struct {
	Messages      atomic.Uint64 // appended to a log
	Bytes         atomic.Uint64 // of frames appended
	Invalid       atomic.Uint64 // stored messages no node may deliver: not JSON, not UTF-8, too big
	BadChannel    atomic.Uint64 // stored messages on a subject that is no channel
	Late          atomic.Uint64 // at or below their channel's head
	Gaps          atomic.Uint64 // holes announced with why:broker
	Silences      atomic.Uint64 // channels that were silent for too long
	Epochs        atomic.Uint64 // changes of epoch after the first
	NoChannel     atomic.Uint64 // passed over: a new channel beyond MaxChannels; wildcards that match are told
	Trimmed       atomic.Uint64 // chunks dropped because the log had enough without them
	Evicted       atomic.Uint64 // chunks dropped for the budget's sake, younger than promised
	ChannelsAdded atomic.Uint64
	ChannelsGone  atomic.Uint64

	Deflated      atomic.Uint64 // messages compressed, each once, whoever is given it
	DeflatedFrom  atomic.Uint64 // bytes of their frames
	DeflatedTo    atomic.Uint64 // bytes of these compressed
	DeflatePassed atomic.Uint64 // entries left as they are, or trimmed, because compression lagged behind
}

// Hub holds a node's channels. It is the broker's Sink; shards attach to
// channels and take the marks it leaves them.
type Hub struct {
	cfg    Config
	budget Budget

	Counters Counters

	mu       sync.RWMutex // the map, Channel.shards growing and shrinking
	channels map[string]*Channel
	sorted   []*Channel // the same, by name
	epoch    string

	// The broker's word, any goroutine may read.
	head  atomic.Uint64 // the last stream sequence appended, or passed over
	base  atomic.Uint64 // head when this node began to listen to this epoch
	stale atomic.Bool   // the broker is away

	// Guarded by write: one writer at a time, the broker's delivery goroutine
	// or Tick.
	write   sync.Mutex
	now     int64  // Unix ms, of the message being handled
	hole    uint64 // sequences below were possibly lost without a channel's name
	fifo    []*logChunk
	bare    int  // channels without a message yet
	full    bool // no channel could be forgotten since the last Tick
	scratch []byte

	deflater deflater

	inboxes []inbox
}

// logChunk says whose chunk is next in age, to find the oldest of all logs.
type logChunk struct {
	ch *Channel
	c  *chunk
}

// Channel is one channel of a node.
type Channel struct {
	Log

	// Static.
	Name string

	// Static once the channel is announced.
	debut struct{ ord, seq uint64 } // see Debut

	// Any goroutine; the writer stores.
	origin atomic.Uint64 // see Origin
	guess  atomic.Bool   // see Guess

	// Any goroutine.
	shards atomic.Uint64 // which have members that are given it as it is; changed under Hub.mu
	zipped atomic.Uint64 // which have members that are given it compressed; changed under Hub.mu
	unseen atomic.Uint64 // which were left it and have yet to look for wildcards that match, see Matched
	dirty  atomic.Uint64 // which have been marked and not yet looked
	zdirty atomic.Uint64 // the same, of those in zipped
	toDo   atomic.Bool   // in Hub.deflater.queue
	fresh  atomic.Uint32 // a Freshness: what the log said last

	// Guarded by Hub.write.
	upTo  uint64 // while it is the head: in [from, upTo] prev may be anything, a hole was announced or the epoch began there
	from  uint64
	added int64 // Unix ms
	told  bool  // stale was said, or would have been, because the broker is away
	still int64 // ms without a message that are too many; 0: none are
	heard int64 // Unix ms of the newest message, or of the channel's beginning here
	quiet bool  // it has been still for too long
	bare  bool  // somebody asked for it, and no message is known
}

// Freshness is what a channel's followers were told last of how fresh it is.
type Freshness uint32

// The values of Freshness.
const (
	NotSaid Freshness = iota // nothing: it is live
	Stale                    // it may lag behind its publishers
	Live                     // it no longer does
)

// Freshness is what the channel's log said last, for one who joins it at a
// sequence and may have missed that. Any goroutine.
func (ch *Channel) Freshness() Freshness { return Freshness(ch.fresh.Load()) }

// Missed is what those who follow wildcards are to be told, because no log of a
// channel can: of messages with numbers after After and before Before.
type Missed struct {
	Channel       string // whose message there was no place for, beyond MaxChannels; "": of any this node doesn't know
	After, Before uint64
	Epoch         string // "": some may be lost; else the epoch that has begun, whose number Before is
}

// maxMissed bounds what is left for a shard that is busy; the base tells of refused
// messages beyond.
const maxMissed = 1024

// inbox is what a shard has been left by the hub.
type inbox struct {
	mu    sync.Mutex
	dirty []*Channel
	zips  []*Channel
	added []*Channel
	lost  []Missed
	_     [64]byte // one shard's lock is not another's cache line
}

// New makes a Hub without channels.
func New(cfg Config) *Hub {
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	if cfg.Wake == nil {
		cfg.Wake = func(int) {}
	}
	if cfg.Deflate == nil {
		cfg.Deflate = func() {}
	}
	if cfg.DeflateLate == 0 {
		cfg.DeflateLate = deflateLate
	}
	if cfg.Silence == nil {
		cfg.Silence = func(string) int64 { return 0 }
	}
	h := &Hub{cfg: cfg, channels: make(map[string]*Channel), inboxes: make([]inbox, cfg.Shards)}
	h.budget.limit.Store(cfg.Budget)
	h.stale.Store(true)
	return h
}

// Budget is the logs' share of memory.
func (h *Hub) Budget() *Budget { return &h.budget }

// Reconfigure changes Config.Keep, Config.Budget and Config.Silence. What a log has too
// much it loses when it is looked at next, within a second. A channel that may now be
// silent for longer stays stale, where its followers were told so, until its next
// message. It looks at every channel once. Any goroutine may call it.
func (h *Hub) Reconfigure(keep int, budget int64, silence func(name string) int64) {
	h.write.Lock()
	defer h.write.Unlock()
	h.cfg.Keep, h.cfg.Silence = keep, silence
	h.budget.limit.Store(budget)
	for _, ch := range h.all() {
		ch.still = silence(ch.Name)
	}
}

// Head is the stream sequence up to which this node has seen everything.
func (h *Hub) Head() uint64 { return h.head.Load() }

// Base is the stream sequence at which this node began to listen to the epoch:
// of what came before it knows only what it was asked for.
func (h *Hub) Base() uint64 { return h.base.Load() }

// Epoch names the stream's life; "" until the broker was reached.
func (h *Hub) Epoch() string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.epoch
}

// Stale reports whether the broker is away.
func (h *Hub) Stale() bool { return h.stale.Load() }

// Len is the number of channels.
func (h *Hub) Len() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.channels)
}

// Lookup returns a channel this node knows, or nil.
func (h *Hub) Lookup(name string) *Channel {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.channels[name]
}

// Each calls f for every channel; f must not call the hub.
func (h *Hub) Each(f func(*Channel)) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, ch := range h.channels {
		f(ch)
	}
}

// Unknown is the last sequence of a channel nobody could be asked about.
const Unknown = ^uint64(0)

// Ensure makes a channel known whose newest stored message has sequence last
// (0: none yet; Unknown: any up to Head). It returns nil when there is no place
// for it: MaxChannels are known and none can be forgotten, or half of them are
// mere names that have no message, which anyone can ask for.
//
// last must not be ahead of Head: the message would arrive later and be taken
// for a late copy. The caller waits, and then finds the channel.
func (h *Hub) Ensure(name string, last uint64) *Channel {
	h.write.Lock()
	defer h.write.Unlock()
	if ch := h.Lookup(name); ch != nil {
		return ch
	}
	h.now = h.cfg.Now()
	bare := last == 0 || last == Unknown
	if bare && h.bare >= max(1, h.cfg.MaxChannels/2) {
		return nil
	}
	seq := last
	if last == Unknown {
		seq = h.head.Load()
	}
	ch := h.add(name, seq, bare, last == Unknown)
	if ch == nil {
		return nil
	}
	if bare {
		h.bare++
	}
	return ch
}

// Origin is the head when the node came to know the channel, or when the epoch
// began for it: what its log begins with.
func (ch *Channel) Origin() uint64 { return ch.origin.Load() }

// Guess reports whether Origin is no more than how far this node knew the stream
// then: whether the channel has anything stored before it, only the stream can say.
func (ch *Channel) Guess() bool { return ch.guess.Load() }

// Named reports whether a channel is no more than a name somebody asked for: it
// has no message as far as is known, and no wildcard matches it yet, else anyone
// could use up what others may follow. Within Steady.
func (ch *Channel) Named() bool { return ch.bare }

// Debut is where the followers of wildcards stand who match a channel when it
// comes to be known: before its first message here. Any goroutine, after the
// channel was left for the shards by Take.
func (ch *Channel) Debut() (ord, seq uint64) { return ch.debut.ord, ch.debut.seq }

// announce leaves a channel for the shards: they may have wildcards that match.
// Writer only, once a channel.
func (h *Hub) announce(ch *Channel) {
	ch.unseen.Store(1<<len(h.inboxes) - 1)
	for s := range h.inboxes {
		h.leave(s, nil, ch, nil)
	}
}

// Matched says that a shard has attached to a channel that Take left it in added, or
// has no need to: from now on the channel may be forgotten. Any goroutine.
func (h *Hub) Matched(shard int, ch *Channel) { ch.unseen.And(^(uint64(1) << shard)) }

// Steady calls f while no message is appended and no epoch begins, so that heads
// and epoch belong together. f may call Epoch, Head, Lookup, Match, Attach,
// Detach and the Log's methods, and must be short.
func (h *Hub) Steady(f func()) {
	h.write.Lock()
	defer h.write.Unlock()
	f()
}

// Attach makes the hub mark ch for shard from now on; the shard calls it before
// it reads the log's head for its first member, of those who are given the log as it
// is and of those who are given it compressed. It reports false when the hub
// has forgotten the channel meanwhile.
func (h *Hub) Attach(shard int, ch *Channel, deflated bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.channels[ch.Name] != ch {
		return false
	}
	if deflated {
		if ch.zipped.Or(1<<shard) == 0 {
			ch.beginDeflated()
		}
		return true
	}
	ch.shards.Or(1 << shard)
	return true
}

// Detach undoes Attach, after the shard's last member of that kind left.
func (h *Hub) Detach(shard int, ch *Channel, deflated bool) {
	of := &ch.shards
	if deflated {
		of = &ch.zipped
	}
	h.mu.Lock()
	of.And(^(uint64(1) << shard))
	h.mu.Unlock()
}

// followed reports whether the channel has members.
func (ch *Channel) followed() bool { return ch.shards.Load()|ch.zipped.Load() != 0 }

// Match calls f with every channel whose name begins with prefix, in order,
// until f returns false; f must not call the hub. It costs what it finds, not
// what the node knows.
func (h *Hub) Match(prefix string, f func(*Channel) bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, ch := range h.sorted[h.place(prefix):] {
		if !strings.HasPrefix(ch.Name, prefix) || !f(ch) {
			return
		}
	}
}

// place is where name is in sorted, or would be; with mu held.
func (h *Hub) place(name string) int {
	return sort.Search(len(h.sorted), func(i int) bool { return h.sorted[i].Name >= name })
}

// TakeMissed returns what the followers of a shard's wildcards are to be told since
// the last call; nil when there is nothing, as nearly always.
func (h *Hub) TakeMissed(shard int) []Missed {
	in := &h.inboxes[shard]
	in.mu.Lock()
	defer in.mu.Unlock()
	lost := in.lost
	in.lost = nil
	return lost
}

// Missing reports whether TakeMissed would return something. Within Steady.
func (h *Hub) Missing(shard int) bool {
	in := &h.inboxes[shard]
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.lost) > 0
}

// Take appends what was left for a shard to dirty and added and empties the inbox
// but for what TakeMissed returns. Every channel in dirty has entries the shard has
// not seen, or had; the mark is taken back, so an entry after this call marks it
// again. Those in added are to be given to Matched.
func (h *Hub) Take(shard int, dirty, added []*Channel) (d, a []*Channel) {
	in := &h.inboxes[shard]
	in.mu.Lock()
	d = append(dirty, in.dirty...)
	a = append(added, in.added...)
	clear(in.dirty)
	clear(in.added)
	in.dirty, in.added = in.dirty[:0], in.added[:0]
	in.mu.Unlock()
	// The marks go before the logs are read: what is appended from here on
	// marks again.
	for _, ch := range d[len(dirty):] {
		ch.dirty.And(^(uint64(1) << shard))
	}
	return d, a
}

// Follow is told that a subscriber joined ch and reports whether it must be
// told that the channel is stale: the broker is away, or it has been silent for
// too long. It will then also be told when that is over. Call it within Steady.
func (h *Hub) Follow(ch *Channel) (stale bool) {
	if h.stale.Load() {
		ch.told = true
		return true
	}
	return ch.quiet
}

// mark tells the shards that have members of ch. Writer only.
func (h *Hub) mark(ch *Channel) {
	if ch.zipped.Load() != 0 {
		h.toDeflate(ch, h.now)
	}
	shards := ch.shards.Load()
	if shards == 0 {
		return
	}
	fresh := shards &^ ch.dirty.Or(shards)
	for s := 0; fresh != 0; s, fresh = s+1, fresh>>1 {
		if fresh&1 != 0 {
			h.leave(s, ch, nil, nil)
		}
	}
}

func (h *Hub) leave(shard int, dirty, added *Channel, lost *Missed) {
	in := &h.inboxes[shard]
	in.mu.Lock()
	// Taken by two calls, so each wakes for itself.
	wake := len(in.dirty)+len(in.added) == 0
	if lost != nil {
		wake = len(in.lost) == 0
	}
	if dirty != nil {
		in.dirty = append(in.dirty, dirty)
	}
	if added != nil {
		in.added = append(in.added, added)
	}
	if lost != nil {
		in.miss(lost)
	}
	in.mu.Unlock()
	if wake {
		h.cfg.Wake(shard)
	}
}

// miss adds what wildcards are to be told. For a shard that is busy for long, what
// is of one channel is dropped, and what is of all is joined.
func (in *inbox) miss(m *Missed) {
	switch n := len(in.lost); {
	case n < maxMissed:
		in.lost = append(in.lost, *m)
	case m.Channel == "":
		in.lost[n-1] = Missed{After: min(m.After, in.lost[n-1].After), Before: m.Before, Epoch: cmp.Or(m.Epoch, in.lost[n-1].Epoch)}
	}
}

// add makes a new channel whose head is seq, or nil at MaxChannels when none can
// go. Writer only.
func (h *Hub) add(name string, seq uint64, bare, guess bool) *Channel {
	// Its newest may be one of those lost: wildcards that were there then are
	// told.
	lost := seq > 0 && seq < h.hole && !guess
	ch := &Channel{Name: name, bare: bare, added: h.now, from: seq, upTo: seq, still: h.cfg.Silence(name), heard: h.now}
	ch.seq, ch.budget = seq, &h.budget
	ch.debut.seq = seq
	ch.guess.Store(guess)
	if guess {
		ch.from = 0 // its first message's own prev counts
	}
	if lost {
		ch.debut.seq = 0 // told so also when the entry below is trimmed by then
	} else {
		ch.origin.Store(seq)
		if !guess {
			ch.newest = seq
		}
	}
	h.mu.Lock()
	if len(h.channels) >= h.cfg.MaxChannels && !h.forgetOne() {
		h.mu.Unlock()
		return nil
	}
	h.channels[name] = ch
	h.sorted = slices.Insert(h.sorted, h.place(name), ch)
	h.mu.Unlock()
	h.Counters.ChannelsAdded.Add(1)
	if !bare {
		h.announce(ch)
	}
	if lost {
		h.Counters.Gaps.Add(1)
		h.appendEntry(ch, wire.AppendGap(h.scratch[:0], name, 0, seq+1, WhyBroker), seq)
	}
	return ch
}
