package gateway

import (
	"github.com/odin-ws/odin/gateway/channel"
	"github.com/odin-ws/odin/gateway/wire"
)

// What is compressed, and by whom (docs/adr/0013). The messages of the logs are,
// each once, by one goroutine of the hub's; connections that negotiated it are the
// members of variants of their own. What a connection is told for itself goes as it
// is, and so does the stream's past.

const (
	// inflateHere is up to how many compressed bytes a command is inflated on the
	// shard, as far as it is no large command then: some 10 µs, and less than 100
	// where it is one table of codes after another with nothing written in them.
	inflateHere = 256
	// inflateToken is for how many compressed bytes a command takes a token.
	inflateToken = 1 << 10
	// packTurn is how many bytes of conflated messages a shard compresses in a turn,
	// a millisecond's worth; what is beyond goes as it is.
	packTurn = 32 << 10
	// packTries is how often one message is compressed for members of one variant
	// that passed over different numbers of messages.
	packTries = 4
	// packKept is how many bytes of compressed conflated messages a shard keeps for
	// the next of their readers, until the next tick at most.
	packKept = 128 << 10
)

// CompressionMemory is what compressors and decompressors may hold in a gateway of so
// many shards, bytes: a compressor for the logs, one for each shard and one for /echo,
// a decompressor for each shard and as many for the pool, and what shards keep of
// conflated messages.
func CompressionMemory(shards int) int64 {
	return int64(shards+2)*wire.DeflaterSize + 2*int64(shards)*wire.InflaterSize + int64(shards)*packKept
}

// packed is a conflated message compressed, with the number of messages that its
// reader passed over.
type packed struct {
	ord, skip uint64
	frame     []byte // never changes; nil: it does not get shorter
	tries     int    // how many different skips ord was compressed with
}

// head is the ordinal up to which its members may be written.
func (sc *shardChan) head() uint64 {
	if sc.deflated {
		return sc.ch.Deflated()
	}
	next, _ := sc.ch.Head()
	return next
}

// read is what its members are written from ordinal ord on.
func (sc *shardChan) read(ord uint64) (channel.Span, bool) {
	if sc.deflated {
		return sc.ch.ReadDeflated(ord)
	}
	return sc.ch.Read(ord)
}

// readLatest is read for conflated members.
func (sc *shardChan) readLatest(ord uint64) (s channel.Span, skip uint64, ok bool) {
	if sc.deflated {
		return sc.ch.ReadLatestDeflated(ord)
	}
	return sc.ch.ReadLatest(ord)
}

// deflateSkip returns a conflated message with its skip as one compressed frame. Those
// who follow a channel at the same pace have passed over the same: it is mostly
// compressed once for all of them. It returns nil when it is to go as it is.
func (s *shard) deflateSkip(sc *shardChan, span channel.Span, skip uint64) []byte {
	if sc.packed == nil {
		sc.packed = new(packed)
		s.packers = append(s.packers, sc)
	}
	p := sc.packed
	if p.ord != span.First || p.tries == 0 {
		s.packedBytes -= cap(p.frame)
		*p = packed{ord: span.First}
	} else if p.skip == skip {
		return p.frame
	}
	if p.tries >= packTries || len(span.Bytes) > s.packs {
		return nil
	}
	s.packs -= len(span.Bytes)
	begun, tail := wire.AppendMsgSkip(s.wbuf[:0], span.Bytes, skip)
	s.wbuf = append(begun, tail...)
	p.tries++
	s.packedBytes -= cap(p.frame)
	p.skip, p.frame = skip, nil
	frame, deflated := s.deflater.Append(nil, s.wbuf)
	if !deflated {
		return nil
	}
	s.g.count.Repacked.Add(1)
	if s.packedBytes+cap(frame) > packKept {
		s.forgetPacked()
		sc.packed, s.packers = p, append(s.packers, sc)
	}
	p.frame = frame
	s.packedBytes += cap(frame)
	return frame
}

// forgetPacked gives up what was kept of conflated messages, once a tick: whoever
// keeps pace has had them.
func (s *shard) forgetPacked() {
	for _, sc := range s.packers {
		sc.packed = nil
	}
	clear(s.packers)
	s.packers, s.packedBytes = s.packers[:0], 0
}

// wakeDeflater has the hub's compression go on; any goroutine.
func (g *Gateway) wakeDeflater() {
	select {
	case g.undeflated <- struct{}{}:
	default:
	}
}

// deflate compresses what is appended to the logs of those who negotiated it.
func (g *Gateway) deflate() {
	defer g.tickers.Done()
	for {
		select {
		case <-g.undeflated:
			g.hub.Deflate()
		case <-g.down:
			return
		}
	}
}

// inflateCommand inflates a command where it is short, else has the pool do it. Its
// token has been taken: so fast and no faster may a client have anything inflated.
func (s *shard) inflateCommand(r connRef, c *slot, payload []byte) {
	here := min(largeCommand, s.live.MaxMessage)
	if len(payload) > inflateHere {
		s.parseInPool(r, c, payload, true)
		return
	}
	text, cerr := s.inflater.Inflate(payload, here, true, s.g.pool)
	switch {
	case cerr == nil:
		s.g.count.Inflated.Add(1)
		s.parse(r, c, text)
		s.g.pool.Put(text)
	case cerr.Code == 1009 && here < s.live.MaxMessage:
		s.parseInPool(r, c, payload, true)
	default:
		s.badDeflated(r, c, cerr)
	}
}

// inflate inflates a client's message; it runs in the pool. There are as many
// decompressors as shards: more would not be faster.
func (g *Gateway) inflate(payload []byte, text bool) ([]byte, *wire.CloseError) {
	f := <-g.inflaters
	defer func() { g.inflaters <- f }()
	out, cerr := f.Inflate(payload, g.live.Load().MaxMessage, text, g.pool)
	if cerr == nil {
		g.count.Inflated.Add(1)
	}
	return out, cerr
}

// badDeflated closes a connection whose compressed message can't be taken.
func (s *shard) badDeflated(r connRef, c *slot, cerr *wire.CloseError) {
	s.g.count.InflateRefused.Add(1)
	s.fail(r, c, cerr.Code, cerr.Reason)
}

// echoed is a message on its way back by /echo.
type echoed struct {
	connRef
	op       byte
	deflated bool
	held     []byte // the pool's
	size     int    // of the message in it
}

// echoDeflated sends a message back that came compressed, or is worth it; the pool
// does the work. When it is full, what came as it is goes so, and what came compressed
// waits for a tick, its connection's bytes behind it.
func (s *shard) echoDeflated(r connRef, c *slot, ev wire.Event) {
	held, err := s.g.pool.Get(max(1, len(ev.Payload)))
	if err != nil {
		s.fail(r, c, closeBusy, "no buffer left")
		return
	}
	e := echoed{r, ev.Op, ev.Deflated, held, copy(held, ev.Payload)}
	switch {
	case s.echoInPool(c, e):
	case ev.Deflated:
		s.g.count.PoolOverloads.Add(1)
		c.flags |= flagBusy
		s.echoes = append(s.echoes, e)
	default:
		s.g.pool.Put(held)
		s.echoPlain(r, c, ev)
	}
}

// echoInPool reports false when the pool is full.
func (s *shard) echoInPool(c *slot, e echoed) bool {
	g, r := s.g, e.connRef
	held, message, buf := e.held, e.held[:e.size], []byte(nil)
	return s.work(r, c, func() func(*shard, *slot) {
		if e.deflated {
			inflated, cerr := g.inflate(message, e.op == wire.OpText)
			if cerr != nil {
				return func(s *shard, c *slot) { s.badDeflated(r, c, cerr) }
			}
			g.pool.Put(held)
			held, message = inflated, inflated
		}
		// With room for a header: what does not get shorter goes as it is.
		room, err := g.pool.Get(len(message) + 16)
		if err != nil {
			return func(s *shard, c *slot) { s.fail(r, c, closeBusy, "no buffer left") }
		}
		buf = room
		frame := g.echoFrame(buf[:0], e.op, message)
		return func(s *shard, c *slot) { s.send(r, c, frame) }
	}, func() {
		g.pool.Put(held)
		g.pool.Put(buf)
	})
}

// sweepEchoes tries again what found the pool full; at most one message of a
// connection waits.
func (s *shard) sweepEchoes() {
	kept := s.echoes[:0]
	for _, e := range s.echoes {
		switch c := s.slots.get(e.connRef); {
		case c == nil || c.state != stateOpen:
			s.g.pool.Put(e.held)
		case !s.echoInPool(c, e):
			c.flags |= flagBusy // as it was
			kept = append(kept, e)
		}
	}
	clear(s.echoes[len(kept):])
	s.echoes = kept
}

// echoFrame is a message of /echo as one frame: compressed where the one compressor
// is free, because a worker that waited for it would be missing to others.
func (g *Gateway) echoFrame(dst []byte, op byte, message []byte) []byte {
	if !g.echoing.TryLock() {
		return wire.AppendFrame(dst, op, message)
	}
	defer g.echoing.Unlock()
	return g.echoer.AppendMessage(dst, op, message)
}
