package gateway

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/odin-ws/odin/gateway/wire"
	"github.com/odin-ws/odin/netpoll/netpolltest"
)

// modelClient is one client: what it sent, and what it must be sent.
type modelClient struct {
	w    *world
	sock *netpolltest.Socket

	toSend  []byte // not yet arrived
	buf     []byte // taken by its socket, not yet understood
	open    bool   // had its 101
	greeted bool

	deflates  bool   // it offers permessage-deflate, and is answered so
	steady    bool   // its socket always has room: it may never be cut
	mayFail   bool   // its descriptor is refused by epoll
	left      bool   // it has closed or reset
	closeSent bool   // with a close frame
	closed    uint16 // the server's close code
	errs      int

	id     uint64
	expect []answer // control answers still to come, in order
	subs   map[string]*modelSub
	wild   map[string]wildPos
	pings  int
}

// answer is a control answer a client waits for.
type answer struct {
	t       string // ack, pong, err, "ws pong"
	id      uint64
	payload string
	cmd     *modelCmd
}

type modelCmd struct {
	op     string
	names  []string
	since  map[string]wire.Position
	snap   bool
	skips  bool   // mode latest, or slow latest
	ch     string // replay: the channel, the range, and how far it has come
	from   uint64
	to     uint64
	epoch  string
	gone   uint64            // channels forgotten when it was sent
	headAt map[string]uint64 // the stream's head when it was sent, by epoch
	epochs map[string]bool   // epochs there were by then
	down   bool              // the broker was away when it was sent
	downs  int               // how often it had been by then
}

type wildPos struct {
	epoch string
	seq   uint64
	skips bool
	told  uint64 // up to where a gap of the wildcard said that something may be missing, of the epoch it is in
}

// modelSub is a client's view of one channel: the places in its log at which it
// may stand. There is more than one only until the first message.
type modelSub struct {
	at        []int           // indexes of the entry to come
	skips     bool            // it may be conflated
	snap      bool            // it begins with the last message, if that can be had
	fell      bool            // the log has begun behind its place
	prevs     uint64          // what the next message may give as its prev, after a gap
	epoch     string          // of what it has had
	last      uint64          // seq of the last message
	explained uint64          // up to which it has, or was told that it misses, everything
	afters    map[uint64]bool // what a gap may begin at, before any message
	explicit  bool
	mayStale  int // how often it may be told stale besides the log
	recovered bool
	noStream  bool // subscribed before the first epoch, and had no message
	byWild    bool // placed by a wildcard
	got       int
	had       []string // for failures
}

func newModelClient(w *world, s *netpolltest.Socket) *modelClient {
	c := &modelClient{w: w, sock: s, subs: make(map[string]*modelSub), wild: make(map[string]wildPos)}
	c.steady = w.chance(30)
	c.toSend = []byte("GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	if w.chance(50) {
		c.toSend = append(c.toSend, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"...)
		c.deflates = w.g.cfg.Compression
	}
	c.toSend = append(c.toSend, "\r\n"...)
	return c
}

// maskFrame is a client's frame.
func maskFrame(rng *rand.Rand, fin bool, op byte, payload []byte) []byte {
	h := wire.AppendHeader(nil, op, len(payload))
	if !fin {
		h[0] &^= 0x80
	}
	h[1] |= 0x80
	key := [4]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}
	h = append(h, key[:]...)
	for i, b := range payload {
		h = append(h, b^key[i&3])
	}
	return h
}

// parseFrame reads one server frame off b; n is 0 when it is not whole.
func parseFrame(b []byte) (op byte, payload []byte, n int) {
	if len(b) < 2 {
		return 0, nil, 0
	}
	if b[0]&0xb0 != 0x80 || b[1]&0x80 != 0 {
		panic(modelFailure(fmt.Sprintf("not the begin of a final, unmasked frame: %.80q", b)))
	}
	size, at := uint64(b[1]), 2
	switch size {
	case 126:
		if len(b) < 4 {
			return 0, nil, 0
		}
		size, at = uint64(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return 0, nil, 0
		}
		size, at = binary.BigEndian.Uint64(b[2:]), 10
	}
	if uint64(len(b)-at) < size {
		return 0, nil, 0
	}
	return b[0] & 0x4f, b[at : at+int(size)], at + int(size)
}

// inflated is what a compressed payload says, by another implementation than the
// server's.
func (c *modelClient) inflated(payload []byte) []byte {
	z := flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
	b, err := io.ReadAll(z)
	if err != nil {
		c.failf("a compressed payload: %v: %q", err, payload)
	}
	return b
}

// deflated is a message as a client compresses it.
func deflated(text []byte) []byte {
	var b bytes.Buffer
	z, _ := flate.NewWriter(&b, flate.DefaultCompression)
	z.Write(text)
	z.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff"))
}

// sendText queues a message, perhaps in fragments with pings in between.
func (c *modelClient) sendText(text string) {
	rng := c.w.rng
	p := []byte(text)
	op := wire.OpText
	if c.deflates && c.w.chance(50) {
		p, op = deflated(p), op|0x40
		c.w.seen["deflated command"]++
	}
	for c.w.chance(15) && len(p) > 1 {
		n := 1 + rng.IntN(len(p)-1)
		c.toSend = append(c.toSend, maskFrame(rng, false, op, p[:n])...)
		p, op = p[n:], 0
		if c.w.chance(20) {
			c.ping()
		}
	}
	c.toSend = append(c.toSend, maskFrame(rng, true, op, p)...)
}

func (c *modelClient) ping() {
	if c.pings++; c.pings > 100 {
		return
	}
	payload := fmt.Sprint("p", c.pings)
	c.toSend = append(c.toSend, maskFrame(c.w.rng, true, wire.OpPing, []byte(payload))...)
	c.expect = append(c.expect, answer{t: "ws pong", payload: payload})
}

// command makes a client send something.
func (w *world) command(c *modelClient) {
	if len(c.toSend) > 20_000 {
		return
	}
	c.id++
	switch n := w.rng.IntN(20); {
	case n < 8:
		c.subscribe()
	case n < 13:
		c.unsubscribe()
	case n < 15:
		c.sendText(fmt.Sprintf(`{"op":"ping","id":%d}`, c.id))
		// A fragment's pings are answered first: they come before its end.
		c.expect = append(c.expect, answer{t: "pong", id: c.id})
	case n < 15+w.rng.IntN(2) && c.replay():
	case n < 16:
		c.sendText(fmt.Sprintf(`{"op":"list","id":%d}`, c.id))
		c.expect = append(c.expect, answer{t: "ack", id: c.id, cmd: &modelCmd{op: "list"}})
	case n < 17 && c.errs < maxErrors-1:
		c.errs++
		c.sendText(fmt.Sprintf(`{"op":"dance","id":%d}`, c.id))
		c.expect = append(c.expect, answer{t: "err", id: c.id})
	default:
		c.ping()
	}
	w.say("fd %d: command %d", c.sock.FD(), c.id)
}

// some names, known and not.
func (c *modelClient) pickNames() []string {
	w := c.w
	pool := append([]string{"t.*", "u.*", "t.c.*", "never", "t.never", "bad name"}, w.names...)
	n := 1
	if w.chance(20) {
		n = 1 + w.rng.IntN(len(pool))
	}
	names := make([]string, n)
	for i := range names {
		if names[i] = pick(w.rng, w.names); w.chance(25) {
			names[i] = pick(w.rng, pool)
		}
	}
	return names
}

func (c *modelClient) newCmd(op string) *modelCmd {
	w := c.w
	cmd := &modelCmd{op: op, names: c.pickNames(), gone: w.g.hub.Counters.ChannelsGone.Load(), headAt: make(map[string]uint64), epochs: make(map[string]bool), down: w.down, downs: w.downs}
	cmd.headAt[w.epoch] = w.g.hub.Head()
	for i := 1; i <= w.epochs; i++ {
		cmd.epochs[fmt.Sprintf("e%d", i)] = true
	}
	return cmd
}

func (c *modelClient) subscribe() {
	w := c.w
	cmd := c.newCmd("sub")
	body := map[string]any{"op": "sub", "id": c.id, "ch": cmd.names}
	if w.chance(40) {
		cmd.since = make(map[string]wire.Position)
		since := make(map[string]any)
		for _, name := range cmd.names {
			if !w.chance(80) {
				continue
			}
			p := wire.Position{Epoch: w.epoch, Seq: w.rng.Uint64N(w.head + 1)}
			switch {
			case w.chance(10):
				p.Epoch = "e0"
			case w.chance(10):
				p.Seq = w.head + 1 + w.rng.Uint64N(100)
			case w.chance(70):
				// Some way back from where the channel stands.
				p.Seq = w.last[name] - min(w.last[name], w.rng.Uint64N(30))
			}
			cmd.since[name] = p
			since[name] = map[string]any{"epoch": p.Epoch, "seq": p.Seq}
		}
		body["since"] = since
	}
	if w.chance(20) {
		cmd.snap = true
		body["snap"] = true
	}
	switch {
	case w.chance(15):
		cmd.skips = true
		body["mode"] = "latest"
		body["ms"] = pick(w.rng, []int{0, 0, 50, 250, 1000})
	case w.chance(15):
		cmd.skips = true
		body["slow"] = "latest"
	}
	if w.chance(10) { // a large command is parsed in the pool
		body["pad"] = strings.Repeat("x", largeCommand)
	}
	text, _ := json.Marshal(body)
	w.say("fd %d: > %.200s", c.sock.FD(), text)
	c.sendText(string(text))
	c.expect = append(c.expect, answer{t: "ack", id: c.id, cmd: cmd})
}

// replay asks once more for some of what it has had; false when it has had none. Not
// while it may be about to get the same by a subscription: nothing tells which of
// the two a frame is of.
func (c *modelClient) replay() bool {
	w := c.w
	if slices.ContainsFunc(c.expect, func(a answer) bool { return a.cmd != nil && a.cmd.op != "replay" }) {
		return false
	}
	for _, name := range w.names {
		s := c.subs[name]
		if s == nil || s.last == 0 || s.epoch != w.epoch || !w.chance(70) {
			continue
		}
		cmd := c.newCmd("replay")
		cmd.ch, cmd.epoch = name, w.epoch
		cmd.to = 1 + w.rng.Uint64N(s.last)
		cmd.from = cmd.to - w.rng.Uint64N(cmd.to)
		text := fmt.Sprintf(`{"op":"replay","id":%d,"ch":%q,"epoch":%q,"from":%d,"to":%d}`, c.id, name, cmd.epoch, cmd.from, cmd.to)
		w.say("fd %d: > %s", c.sock.FD(), text)
		c.sendText(text)
		c.expect = append(c.expect, answer{t: "ack", id: c.id, cmd: cmd})
		return true
	}
	return false
}

// replayed takes a frame as a part of the replay under way, and reports whether
// it is one.
func (c *modelClient) replayed(f frame, raw []byte) bool {
	if len(c.expect) == 0 || c.expect[0].cmd == nil || c.expect[0].cmd.op != "replay" {
		return false
	}
	cmd := c.expect[0].cmd
	mc := c.w.chans[cmd.ch]
	if f.channel() != cmd.ch || mc == nil || f.Why == "slow" || f.T == "gap" && f.Why != "epoch" && c.w.epoch != cmd.epoch {
		return false
	}
	switch {
	case f.T == "msg" && f.Seq >= cmd.from && f.Seq <= cmd.to:
		for k := range mc.entries {
			e := &mc.entries[k]
			if e.epoch != cmd.epoch || e.t != "msg" || e.after != f.Seq {
				continue
			}
			if !bytes.Equal(e.bytes, raw) && !(c.w.evicted && e.sameBut(f)) {
				if c.w.epoch != cmd.epoch {
					return false // news of the next epoch
				}
				c.failf("replayed %q, but the log had %q", raw, e.bytes)
			}
			c.w.seen["replayed"]++
			c.missed(cmd, mc, f.Seq)
			cmd.from = f.Seq + 1
			return true
		}
		return false
	case f.T == "gap" && f.Why == "invalid" && f.Before-1 >= cmd.from && f.Before-1 <= cmd.to:
		c.missed(cmd, mc, f.Before-1)
		cmd.from = f.Before
		return true
	case f.T == "gap" && f.Why == "epoch" && f.Before != cmd.to+1:
		return false
	case f.T == "gap" && f.After < cmd.to && f.Before > cmd.from && f.Before <= cmd.to+1:
		c.missed(cmd, mc, f.After+1)
		cmd.from = max(cmd.from, f.Before)
		c.w.seen["replay with a gap"]++
		return true
	}
	return false
}

// missed checks that a replay has passed over no message before seq.
func (c *modelClient) missed(cmd *modelCmd, mc *modelChan, seq uint64) {
	for _, e := range mc.entries {
		if e.epoch == cmd.epoch && e.t == "msg" && e.after >= cmd.from && e.after < seq && c.w.epoch == cmd.epoch {
			c.failf("a replay of %s from %d to %d goes on at %d, and has passed over %d", cmd.ch, cmd.from, cmd.to, seq, e.after)
		}
	}
}

func (c *modelClient) unsubscribe() {
	cmd := c.newCmd("unsub")
	if len(c.subs) > 0 && c.w.chance(70) {
		names := make([]string, 0, len(c.subs))
		for name := range c.subs {
			names = append(names, name)
		}
		slices.Sort(names)
		cmd.names = []string{pick(c.w.rng, names)}
	}
	c.w.say("fd %d: > unsub %v", c.sock.FD(), cmd.names)
	text, _ := json.Marshal(map[string]any{"op": "unsub", "id": c.id, "ch": cmd.names})
	c.sendText(string(text))
	c.expect = append(c.expect, answer{t: "ack", id: c.id, cmd: cmd})
}

func (c *modelClient) failf(format string, args ...any) {
	c.w.failf("fd %d: %s", c.sock.FD(), fmt.Sprintf(format, args...))
}

// take reads what the socket took and checks it, frame by frame.
func (c *modelClient) take() {
	b := c.sock.Taken()
	if len(b) == 0 {
		return
	}
	c.buf = append(c.buf, b...)
	if c.closed != 0 {
		c.failf("%d B after the close frame: %.80q", len(b), b)
	}
	if !c.open {
		end := bytes.Index(c.buf, []byte("\r\n\r\n"))
		if end < 0 {
			return
		}
		if !bytes.HasPrefix(c.buf, []byte("HTTP/1.1 101 ")) || !bytes.Contains(c.buf[:end], []byte("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")) {
			c.failf("the handshake was answered %q", c.buf)
		}
		c.open, c.buf = true, c.buf[end+4:]
	}
	for {
		op, payload, n := parseFrame(c.buf)
		if n == 0 {
			return
		}
		raw := c.buf[:n]
		if op&0x40 != 0 {
			if op &^= 0x40; !c.deflates || op != wire.OpText {
				c.failf("a compressed frame of opcode %d: %q", op, raw)
			}
			payload = c.inflated(payload)
			raw = wire.AppendFrame(nil, op, payload)
			c.w.seen["deflated"]++
			if bytes.Contains(payload, []byte(`,"skip":`)) {
				c.w.seen["deflated skip"]++
			}
		} else if c.deflates && len(payload) >= wire.MinDeflated && bytes.HasPrefix(payload, []byte(`{"t":"msg"`)) {
			c.w.seen["as it is where it could be deflated"]++
		}
		c.w.say("fd %d: < %.100q", c.sock.FD(), payload)
		c.frame(op, payload, raw)
		c.buf = c.buf[n:]
	}
}

func (c *modelClient) frame(op byte, payload, raw []byte) {
	if c.closed != 0 {
		c.failf("a frame after the close frame: %q", raw)
	}
	switch op {
	case wire.OpClose:
		if len(payload) >= 2 {
			c.closed = binary.BigEndian.Uint16(payload)
		} else {
			c.closed = 1005
		}
		switch {
		case c.closed == closeNormal && c.closeSent:
		case c.closed == closeSlow && !c.steady:
			c.w.seen["cut"]++
		default:
			c.failf("closed with %d %q", c.closed, payload[min(2, len(payload)):])
		}
		c.sock.Finish()
		return
	case wire.OpPong:
		c.answered("ws pong", 0, string(payload))
		return
	case wire.OpText:
	default:
		c.failf("a frame of opcode %d", op)
	}
	var f frame
	if err := json.Unmarshal(payload, &f); err != nil {
		c.failf("%q: %v", payload, err)
	}
	if !c.greeted && f.T != "hello" {
		c.failf("%s before hello", payload)
	}
	switch f.T {
	case "hello":
		if c.greeted {
			c.failf("hello twice")
		}
		c.greeted = true
	case "hb":
	case "ack":
		f.raw = string(payload)
		a := c.answered("ack", f.ID, "")
		switch a.cmd.op {
		case "sub":
			c.ackSub(a.cmd, f)
		case "unsub":
			c.ackUnsub(a.cmd, f)
		case "list":
			c.ackList(f)
		case "replay":
			if mc := c.w.chans[a.cmd.ch]; mc != nil {
				c.missed(a.cmd, mc, a.cmd.to+1)
			}
		}
	case "pong", "err":
		c.answered(f.T, f.ID, "")
	case "msg", "gap", "stale", "live":
		if !c.replayed(f, raw) {
			c.entry(f, raw)
		}
	default:
		c.failf("unknown frame %s", payload)
	}
}

// answered takes the next answer that is due off the list, which must be this.
func (c *modelClient) answered(t string, id uint64, payload string) answer {
	if len(c.expect) == 0 {
		c.failf("%s %d %s that nobody asked for", t, id, payload)
	}
	a := c.expect[0]
	if a.t != t || a.id != id || a.payload != payload {
		c.failf("answered %s %d %q, want %s %d %q first", t, id, payload, a.t, a.id, a.payload)
	}
	c.expect = c.expect[1:]
	return a
}

// checkNames checks that an ack speaks of each name asked for, once.
func (c *modelClient) checkNames(cmd *modelCmd, f frame) {
	names := make(map[string]bool)
	acks := f.acks()
	for _, name := range cmd.names {
		names[name] = true
		_, yes := acks[name]
		code, no := f.Rej[name]
		if yes == no {
			c.failf("ack %s says nothing, or two things, of %q", f.raw, name)
		}
		if bad := name == "bad name"; bad != (code == "bad_channel") {
			c.failf("ack %s rejects %q", f.raw, name)
		}
	}
	if len(names) != len(acks)+len(f.Rej) {
		c.failf("ack %s, asked for %q", f.raw, cmd.names)
	}
}

func (c *modelClient) ackSub(cmd *modelCmd, f frame) {
	c.checkNames(cmd, f)
	for name, code := range f.Rej {
		switch {
		case code == "bad_channel":
		case code == "limit" && c.w.g.hub.Counters.ChannelsGone.Load() > cmd.gone:
			// Known, or learned, and forgotten again before the shard got to it.
		case c.mayReject(cmd, name, code):
			c.w.seen[code]++
		default:
			c.failf("ack %s rejects %s with %s", f.raw, name, code)
		}
	}
	acks := f.acks()
	// A name and a wildcard that matches it in one command: names first, both
	// may have set the position.
	for _, name := range cmd.names {
		e, ok := acks[name]
		if !ok {
			continue
		}
		p, since := cmd.since[name]
		prefix, wildcard := strings.CutSuffix(name, "*")
		if wildcard && e.Recovered != nil { // or one that it matches had a position
			for other := range cmd.since {
				since = since || strings.HasPrefix(other, prefix)
			}
		}
		if _, had := c.wild[prefix]; wildcard && had {
			since = e.Recovered != nil // nothing is said of a wildcard subscribed before
		}
		if _, matched := c.matched(name); e.Recovered == nil && (c.subs[name] != nil || matched) {
			since = false // nothing is said of a channel followed before
		}
		if since != (e.Recovered != nil) {
			c.failf("ack %s: recovered of %s, since %v", f.raw, name, since)
		}
		if e.Recovered != nil {
			if *e.Recovered {
				c.w.seen["recovered"]++
			} else {
				c.w.seen["not recovered"]++
			}
		}
		if wildcard {
			if old, had := c.wild[prefix]; had {
				old.skips = old.skips || cmd.skips
				c.wild[prefix] = old
			} else {
				wp := wildPos{epoch: e.Epoch, seq: e.Seq, skips: cmd.skips}
				c.ackWild(prefix, wp, cmd, e)
				c.wild[prefix] = wp
			}
			continue
		}
		s := c.place(name, e.Epoch, e.Seq, since, p, cmd)
		s.explicit, s.skips = true, cmd.skips
		if old := c.subs[name]; old != nil {
			old.explicit = true
			old.skips = old.skips || cmd.skips
			if old.byWild && old.got == 0 { // matched, but perhaps not known then
				old.merge(s)
			}
			continue
		}
		if e.Recovered != nil {
			s.recovered = *e.Recovered
		}
		if w, ok := c.matched(name); ok { // or the wildcard came first
			s.merge(c.placeWild(name, w))
		}
		c.subs[name] = s
	}
}

// mayReject reports whether the position of a name, or, of a wildcard, that of a
// channel it matches, may be refused so.
func (c *modelClient) mayReject(cmd *modelCmd, name, code string) bool {
	prefix, wildcard := strings.CutSuffix(name, "*")
	for of, p := range cmd.since {
		if of != name && !(wildcard && strings.HasPrefix(of, prefix)) {
			continue
		}
		ahead := p.Seq > cmd.headAt[p.Epoch]
		switch {
		case code == "bad_position" && ahead:
			return true
		case code != "unrecoverable":
		case !cmd.epochs[p.Epoch] && p.Epoch != "e0", p.Epoch == "", len(cmd.epochs) == 0:
			return true // of an epoch that began since, or before there was any
		case (ahead || p.Epoch != c.w.epoch) && (cmd.down || c.w.down || c.w.downs > cmd.downs || len(cmd.epochs) != c.w.epochs):
			return true // the stream could not be asked, or has changed since it was
		}
	}
	return false
}

// ackWild places the channels a new wildcard matched at once.
func (c *modelClient) ackWild(prefix string, wp wildPos, cmd *modelCmd, e ackEntry) {
	own, has := cmd.since[prefix+"*"]
	for name := range c.w.chans {
		old := c.subs[name]
		if !strings.HasPrefix(name, prefix) || old != nil && (!old.byWild || old.got > 0) {
			continue
		}
		s := c.placeWild(name, wp)
		p, since := cmd.since[name]
		if !since && has {
			p, since = own, true
		}
		if since {
			s.afters[p.Seq] = true
		}
		if since && p.Epoch == wp.epoch && p.Seq > wp.seq {
			since = false // ahead of the stream: as if it had none
		}
		if since || cmd.snap {
			// The channel's own head isn't in the ack: any will do.
			for head := range c.w.chans[name].heads {
				if head <= wp.seq {
					s.merge(c.place(name, e.Epoch, head, since, p, cmd))
				}
			}
		}
		if old != nil { // matched before, but perhaps not known then
			s.merge(old)
			s.explicit = old.explicit
		}
		c.subs[name] = s
	}
}

// wildSkips reports whether a wildcard that may be conflated matches a channel.
func (c *modelClient) wildSkips(name string) bool {
	for prefix, w := range c.wild {
		if w.skips && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (c *modelClient) matched(name string) (wildPos, bool) {
	for prefix, w := range c.wild {
		if strings.HasPrefix(name, prefix) {
			return w, true
		}
	}
	return wildPos{}, false
}

// begins lets a subscription begin with an entry.
func (s *modelSub) begins(k int, e *entry) {
	s.at = append(s.at, k)
	s.afters[e.after-min(1, e.after)] = true
}

// merge makes a subscription stand where either does.
func (s *modelSub) merge(o *modelSub) {
	for _, k := range o.at {
		if !slices.Contains(s.at, k) {
			s.at = append(s.at, k)
		}
	}
	for a := range o.afters {
		s.afters[a] = true
	}
	s.explained = max(s.explained, o.explained)
	s.skips = s.skips || o.skips
	s.snap = s.snap || o.snap
	s.mayStale = max(s.mayStale, o.mayStale)
}

// headAt returns the channel's head before its entry k.
func (mc *modelChan) headAt(k int) []uint64 {
	var heads []uint64
	if k > 0 {
		heads = append(heads, mc.entries[k-1].after)
	}
	if k < len(mc.entries) {
		heads = append(heads, mc.entries[k].before)
		if mc.entries[k].why == "epoch" || k == mc.base && mc.entries[k].t == "gap" { // belongs to both
			heads = append(heads, mc.entries[k].after)
		}
	}
	if k == mc.base {
		heads = append(heads, mc.first, mc.opened)
	}
	return heads
}

// place says where a new subscriber stands whose ack names epoch and seq.
func (c *modelClient) place(name, epoch string, seq uint64, since bool, p wire.Position, cmd *modelCmd) *modelSub {
	s := &modelSub{epoch: epoch, explained: seq, afters: map[uint64]bool{seq: true}, mayStale: 1}
	mc := c.w.hubCh(name)
	if mc == nil {
		if mc = c.w.chans[name]; mc == nil {
			mc = &modelChan{}
		}
	}
	if epoch == "" {
		s.noStream = true
		s.explained = 1 << 62 // no stream yet: the first message begins the chain
	}
	from := seq
	if since && p.Epoch == epoch {
		from = p.Seq
		s.explained = p.Seq
		s.afters = map[uint64]bool{p.Seq: true}
		if c.w.past {
			s.afters[mc.first] = true // where a log begins at a guess, nothing may have been before
		}
	} else if since {
		s.afters[p.Seq] = true
	} else if cmd.snap && seq > 0 {
		// The last message comes first, if it can be had, and what was lost behind
		// it: the last as it was when the stream was asked, or newer.
		asked, msg := -1, -1 // as the stream has it, and as the log has it: no message is there for one that is invalid
		for k, e := range mc.entries {
			if e.epoch == epoch && e.after <= seq && e.t == "msg" {
				msg = k
			}
			switch {
			case e.epoch != epoch || e.after > seq:
			case e.after == seq && e.before < seq, e.t == "trimmed", e.why == "broker": // a hole, in which the stream has its last
				s.begins(k, &e)
			case e.stored() == 0:
			case e.after > cmd.headAt[epoch]:
				s.begins(k, &e)
			default:
				asked = k
			}
		}
		for _, k := range []int{asked, msg} {
			if k >= 0 {
				s.begins(k, &mc.entries[k])
			}
		}
		if len(s.at) > 0 {
			s.explained = seq
		}
		s.afters[seq-1], s.snap = true, true
	}
	// The epoch's own entries, without the gap that begins it.
	lo := 0
	for lo < len(mc.entries) && c.w.epochOlder(mc.entries[lo].epoch, epoch) {
		lo++
	}
	hi := lo
	for hi < len(mc.entries) && mc.entries[hi].epoch == epoch {
		hi++
	}
	if lo < hi && mc.entries[lo].why == "epoch" {
		lo++
	}
	for k := 0; k <= len(mc.entries); k++ {
		if from < seq {
			// After everything up to from.
			if k < len(mc.entries) && mc.entries[k].epoch == epoch && mc.entries[k].after > from && (k == 0 || mc.entries[k-1].epoch != epoch || mc.entries[k-1].after <= from) {
				s.at = append(s.at, k)
			}
			if k == len(mc.entries) && len(s.at) == 0 {
				s.at = append(s.at, hi)
			}
			continue
		}
		if lo <= k && k <= hi && slices.Contains(mc.headAt(k), seq) {
			s.at = append(s.at, k)
		}
	}
	if len(s.at) == 0 {
		s.at = append(s.at, len(mc.entries), mc.base)
	}
	if slices.Min(s.at) < mc.base && !slices.Contains(s.at, mc.base) {
		s.at = append(s.at, mc.base) // forgotten, and known again by then
	}
	return s
}

// placeWild says where a subscriber by wildcard stands.
func (c *modelClient) placeWild(name string, wp wildPos) *modelSub {
	s := &modelSub{epoch: wp.epoch, explained: max(wp.seq, wp.told), afters: map[uint64]bool{wp.seq: true}, mayStale: 1, byWild: true, skips: wp.skips}
	mc := c.w.chans[name]
	if mc == nil {
		s.at = []int{0}
		return s
	}
	// What a new channel's log has had in this epoch, all of it; of a later one,
	// anything.
	s.afters[mc.first], s.afters[0] = true, true
	for k := 0; k <= len(mc.entries); k++ {
		switch {
		case k > 0 && mc.entries[k-1].epoch == wp.epoch && mc.entries[k-1].after <= wp.seq,
			k < len(mc.entries) && mc.entries[k].epoch == wp.epoch && (k == 0 || mc.entries[k-1].epoch != wp.epoch):
			// all before it is at or below the ack's head
			if k == len(mc.entries) || mc.entries[k].epoch != wp.epoch || mc.entries[k].after > wp.seq || mc.entries[k].before == mc.entries[k].after {
				s.at = append(s.at, k)
			}
		}
	}
	// A mere name, its first message may be what it begins with.
	debut := mc.base
	for debut < len(mc.entries) && mc.entries[debut].stored() == 0 {
		debut++
	}
	for k := max(mc.base, debut-3); k <= debut; k++ {
		if !slices.Contains(s.at, k) {
			s.at = append(s.at, k)
		}
		for _, head := range mc.headAt(k) {
			s.afters[head] = true
		}
	}
	if debut < len(mc.entries) && mc.entries[debut].epoch != wp.epoch && c.w.epochOlder(wp.epoch, mc.entries[debut].epoch) {
		s.explained = max(s.explained, c.w.base[mc.entries[debut].epoch])
	}
	if !slices.Contains(s.at, mc.base) && (mc.base == len(mc.entries) || mc.entries[mc.base].epoch != wp.epoch || mc.entries[mc.base].after > wp.seq || mc.entries[mc.base].why == "broker") {
		s.at = append(s.at, mc.base) // new to the node again
	}
	if len(s.at) == 0 || !slices.ContainsFunc(mc.entries, func(e entry) bool { return e.epoch == wp.epoch }) {
		// New since then, perhaps in a later epoch.
		k := 0
		for k < len(mc.entries) && c.w.epochOlder(mc.entries[k].epoch, wp.epoch) {
			k++
		}
		s.at = append(s.at, k)
		if k < len(mc.entries) && mc.entries[k].epoch != wp.epoch {
			s.epoch = mc.entries[k].epoch
			s.explained = c.w.base[s.epoch]
			s.afters[mc.first] = true
		}
	}
	return s
}

func (w *world) epochOlder(a, b string) bool {
	var x, y int
	fmt.Sscanf(a, "e%d", &x)
	fmt.Sscanf(b, "e%d", &y)
	return x < y
}

func (c *modelClient) ackUnsub(cmd *modelCmd, f frame) {
	c.checkNames(cmd, f)
	for name := range f.acks() {
		if prefix, wildcard := strings.CutSuffix(name, "*"); wildcard {
			delete(c.wild, prefix)
			for sub, s := range c.subs {
				if _, still := c.matched(sub); !still && !s.explicit {
					delete(c.subs, sub)
				}
			}
			continue
		}
		s := c.subs[name]
		if s == nil {
			continue
		}
		s.explicit = false
		if _, still := c.matched(name); !still {
			delete(c.subs, name)
			c.w.seen["unsubscribed"]++
		}
	}
}

func (c *modelClient) ackList(f frame) {
	for name := range f.acks() {
		if prefix, wildcard := strings.CutSuffix(name, "*"); wildcard {
			if _, ok := c.wild[prefix]; !ok {
				c.failf("list names %s, which is not subscribed: %s", name, f.raw)
			}
			continue
		}
		if _, ok := c.matched(name); !ok && c.subs[name] == nil {
			c.failf("list names %s, which is not subscribed: %s", name, f.raw)
		}
	}
	for name, s := range c.subs {
		if _, ok := f.acks()[name]; !ok && s.explicit && !c.owedEpoch(name, s) {
			c.failf("list leaves out %s: %s", name, f.raw)
		}
	}
	for prefix := range c.wild {
		if _, ok := f.acks()[prefix+"*"]; !ok {
			c.failf("list leaves out %s*: %s", prefix, f.raw)
		}
	}
}

// owedEpoch reports whether a subscription may not have been told of an epoch's end
// yet.
func (c *modelClient) owedEpoch(name string, s *modelSub) bool {
	mc := c.w.chans[name]
	if mc == nil || s.epoch != "" && s.epoch != c.w.epoch {
		return true
	}
	for _, k := range s.at {
		for _, e := range mc.entries[min(k, len(mc.entries)):] {
			if e.why == "epoch" || e.t == "trimmed" {
				return true
			}
		}
	}
	return false
}

// entry checks a frame of a channel: the log's next, or a gap of the client's
// own.
func (c *modelClient) entry(f frame, raw []byte) {
	name := f.channel()
	if prefix, wildcard := strings.CutSuffix(name, "*"); wildcard {
		// Of the channels it matches that the node can't vouch for.
		if _, ok := c.wild[prefix]; !ok || f.T != "gap" || f.Why != "evicted" && f.Why != "epoch" && f.Why != "broker" {
			c.failf("%s", raw)
		}
		if f.Why != "epoch" && f.Before <= f.After+1 {
			c.failf("a gap of nothing: %s", raw)
		}
		c.w.seen["gap of a wildcard"]++
		w := c.wild[prefix]
		w.told = f.Before - min(1, f.Before)
		c.wild[prefix] = w
		for name, s := range c.subs {
			if strings.HasPrefix(name, prefix) && f.Why == "broker" {
				s.explained = max(s.explained, w.told)
			}
		}
		return
	}
	mc := c.w.chans[name]
	s := c.subs[name]
	if s == nil {
		w, ok := c.matched(name)
		if !ok {
			c.failf("%s, which is not subscribed", raw)
		}
		s = c.placeWild(name, w)
		c.subs[name] = s
		c.w.seen["wildcard message"]++
	}
	if w, ok := c.matched(name); ok && s.byWild && s.got == 0 {
		// The channel may be new to the node, for the first time or again.
		stale := s.mayStale
		s.merge(c.placeWild(name, w))
		s.mayStale = stale
	}
	if mc == nil { // stale is all there can be
		if f.T != "stale" || s.mayStale == 0 {
			c.failf("%s, but nothing was ever published there", raw)
		}
		s.mayStale--
		return
	}
	s.had = append(s.had, fmt.Sprintf("%v %.110s", s.at, raw[2:]))
	if len(s.had) > 6 {
		s.had = s.had[1:]
	}
	s.skips = s.skips || c.wildSkips(name)
	// The log's next, from any of the places.
	s.slide(mc, c.w.past)
	var next []int
	var e *entry
	for _, k := range s.at {
		if k < len(mc.entries) && (bytes.Equal(mc.entries[k].bytes, raw) || f.T == "msg" && (f.Prev == s.prevs || s.mayFollow(f.Prev) && (mc.entries[k].prev < c.w.first || mc.entries[k].epoch != c.w.epoch)) && mc.entries[k].sameBut(f) || f.Why == "invalid" && c.w.past && mc.entries[k].sameBut(f)) {
			next = append(next, k+1)
			e = &mc.entries[k]
		}
	}
	if f.Skip > 0 {
		// The one that many further on, if nothing between may not be passed over.
		for _, k := range s.at {
			if t := k + int(f.Skip); s.skips && t < len(mc.entries) && mc.entries[t].t == "msg" && mc.skippable(k, t) && bytes.Equal(withSkip(mc.entries[t].bytes, f.Skip), raw) {
				next = append(next, t+1)
				e = &mc.entries[t]
				s.explained = max(s.explained, f.Prev)
				c.w.seen["skipped"]++
			}
		}
	}
	if f.T == "stale" && s.mayStale > 0 {
		// Its own or the log's.
		s.mayStale--
		c.w.seen["told stale"]++
		for _, k := range next {
			s.afters[mc.entries[k-1].after] = true
			if !slices.Contains(s.at, k) {
				s.at = append(s.at, k)
			}
		}
		return
	}
	if (f.T == "stale" || f.T == "live") && mc.ever(f.T) && (s.fell || s.snap || c.w.past) {
		// Perhaps word of how the channel is, to one who has just joined its log.
		for _, k := range next {
			s.afters[mc.entries[k-1].after] = true
			if !slices.Contains(s.at, k) {
				s.at = append(s.at, k)
			}
		}
		c.w.seen["told how it is"]++
		return
	}
	if e != nil {
		if f.Why == "epoch" && s.afters[f.After] {
			// Perhaps not the log's, but its own, word for word.
			for _, k := range s.gapEnds(mc, f) {
				if !slices.Contains(next, k) {
					next = append(next, k)
				}
			}
		}
		s.at = next
		s.got++
		switch f.T {
		case "msg":
			if f.Prev > s.explained {
				c.failf("a hole before %.80s: it had, or knew of, %s only up to %d; the last it had, each with its place in the log before it:\n%s", raw, name, s.explained, strings.Join(s.had, "\n"))
			}
			if f.Seq <= s.last && s.epoch == e.epoch {
				c.failf("%.150s after seq %d", raw, s.last)
			}
			s.prevs = 0
			s.last, s.explained, s.epoch, s.noStream = f.Seq, f.Seq, e.epoch, false
			s.afters = map[uint64]bool{f.Seq: true}
		case "gap":
			if f.Why == "epoch" {
				s.last, s.explained = 0, f.Before-1
			} else {
				s.explained = max(s.explained, f.Before-1)
			}
			if s.epoch = e.epoch; len(next) > 1 {
				s.epoch = "" // the next entry says which
			}
			s.afters = map[uint64]bool{e.after: true}
		default:
			// Who resumed ahead of the channel's head stands at the head now.
			s.afters[e.after] = true
		}
		return
	}
	if f.T == "gap" {
		c.ownGap(name, s, mc, f, raw)
	} else {
		c.failf("got %.80s\nwhich is not the next of %s", raw, s.describe(mc))
	}
}

// mayFollow reports whether a message whose predecessor has aged out may give this
// as its prev: what the stream was read from, which is no later than the place.
func (s *modelSub) mayFollow(prev uint64) bool {
	for at := range s.afters {
		if prev <= at {
			return true
		}
	}
	return false
}

// skippable reports whether the entries from k to t are all messages.
func (mc *modelChan) skippable(k, t int) bool {
	return !slices.ContainsFunc(mc.entries[k:t+1], func(e entry) bool {
		return e.t != "msg" && (e.t != "trimmed" || e.before == e.after) || e.epoch != mc.entries[t].epoch
	})
}

// withSkip is a message's frame with "skip", in one piece.
func withSkip(msg []byte, skip uint64) []byte {
	begun, tail := wire.AppendMsgSkip(nil, msg, skip)
	return append(begun, tail...)
}

// stored is the seq of a message the stream holds, 0 for any other entry.
func (e *entry) stored() uint64 {
	if e.t != "msg" && e.why != "invalid" {
		return 0
	}
	return e.after
}

// sameBut reports whether a frame is an entry's message but for its prev.
func (e *entry) sameBut(f frame) bool {
	_, payload, _ := parseFrame(e.bytes)
	var own frame
	if e.why == "invalid" { // the one before it may have been a guess
		return json.Unmarshal(payload, &own) == nil && own.Before == f.Before && own.Why == f.Why
	}
	return e.t == "msg" && json.Unmarshal(payload, &own) == nil &&
		own.Seq == f.Seq && own.TS == f.TS && bytes.Equal(own.D, f.D)
}

// slide lets a subscription pass over what says only how fresh the channel was,
// where it has fallen off the log: it comes back to it behind a message.
func (s *modelSub) slide(mc *modelChan, past bool) {
	s.fell = s.fell || past || s.byWild && s.got == 0 // a mere name's notes are not for wildcards
	for i := 0; i < len(s.at); i++ {
		k := s.at[i]
		for start := range mc.starts {
			s.fell = s.fell || start > k
		}
		if !s.fell || k >= len(mc.entries) || slices.Contains(s.at, k+1) {
			continue
		}
		if e := mc.entries[k]; e.t == "stale" || e.t == "live" || e.t == "trimmed" && e.before == e.after {
			s.at = append(s.at, k+1)
		}
	}
}

// ever reports whether a log has ever said stale, or live.
func (mc *modelChan) ever(t string) bool {
	return slices.ContainsFunc(mc.entries, func(e entry) bool { return e.t == t || e.t == "trimmed" })
}

// gapEnds says where a gap of its own may take a subscription.
func (s *modelSub) gapEnds(mc *modelChan, f frame) (ends []int) {
	if f.Why == "epoch" && s.got == 0 && !s.recovered {
		// Perhaps its position was of another epoch, and it goes on from the ack.
		for _, k := range s.at {
			if slices.Contains(mc.headAt(k), f.Before-1) {
				ends = append(ends, k)
			}
		}
	}
	lo := slices.Min(s.at)
	if lo > 0 && mc.entries[lo-1].why == "epoch" {
		lo-- // where the log may begin, see below
	}
	for k := lo; k <= len(mc.entries); k++ {
		if !slices.Contains(ends, k) && mc.starts[k] && slices.Contains(mc.headAt(k), f.Before-1) {
			ends = append(ends, k)
		}
	}
	for _, k := range ends {
		// Whose position is of the epoch passes over the entry that says that it is
		// another.
		if f.Why != "epoch" && k < len(mc.entries) && mc.entries[k].why == "epoch" && !slices.Contains(ends, k+1) {
			ends = append(ends, k+1)
		}
	}
	return ends
}

// describe shows a log around a subscription's place, for failures.
func (s *modelSub) describe(mc *modelChan) string {
	b := new(strings.Builder)
	fmt.Fprintf(b, "%s (%s, at %v of %d, begun at %d with head %d, afters %v):", mc.name, s.epoch, s.at, len(mc.entries), mc.base, mc.first, s.afters)
	lo := slices.Min(s.at)
	for k := max(0, lo-3); k < min(len(mc.entries), lo+8); k++ {
		e := mc.entries[k]
		fmt.Fprintf(b, "\n  %d %s %s %s %d→%d prev %d start %v", k, e.epoch, e.t, e.why, e.before, e.after, e.prev, mc.starts[k])
	}
	fmt.Fprintf(b, "\nit had:\n  %s", strings.Join(s.had, "\n  "))
	return b.String()
}

// ownGap checks a gap told to this client alone: it begins at the last it has
// and ends where a log has begun.
func (c *modelClient) ownGap(name string, s *modelSub, mc *modelChan, f frame, raw []byte) {
	if f.Why == "broker" || f.Why == "invalid" {
		c.failf("%s is not the next of %s", raw, s.describe(mc))
	}
	// Who asks for the last message begins before it, which the stream may have
	// dropped by the time it is read.
	if !s.afters[f.After] && !(s.snap && s.got == 0 && (f.Why == "evicted" || f.Why == "epoch")) {
		c.failf("%s: after is not its position in %s", raw, s.describe(mc))
	}
	c.w.seen["gap "+f.Why]++
	if s.recovered && s.got == 0 && f.Why == "evicted" && c.w.past && !c.w.evicted && !c.owedEpoch(name, s) { // else the stream may lose it after the ack
		c.failf("%s, but the ack said recovered", raw)
	}
	next := s.gapEnds(mc, f)
	if f.Why != "epoch" && c.w.evicted {
		s.prevs = f.After
		// The stream's first message of the channel comes next; what was before it
		// is gone, or there was nothing.
		for k := slices.Min(s.at); k < len(mc.entries); k++ {
			if mc.entries[k].stored() == f.Before && !slices.Contains(next, k) {
				next = append(next, k)
			}
		}
	}
	if len(next) == 0 {
		c.failf("%s: the log never began behind %d after entry %d of %s", raw, f.Before-1, slices.Min(s.at), s.describe(mc))
	}
	if f.Why != "epoch" && s.epoch != "" && (!s.byWild || s.got > 0) {
		// What it falls over is of its own epoch.
		same := func(k int) bool {
			return slices.ContainsFunc(s.at, func(a int) bool {
				if k < len(mc.entries) && (mc.entries[k].why == "epoch" || k > 0 && mc.entries[k].epoch != mc.entries[k-1].epoch) {
					return true // the epoch's own gap comes next
				}
				return a <= k && !slices.ContainsFunc(mc.entries[a:k], func(e entry) bool { return e.epoch != s.epoch })
			})
		}
		if !slices.ContainsFunc(next, same) {
			c.failf("%s, but the epoch ended in between: %s", raw, s.describe(mc))
		}
	}
	if f.Why == "epoch" || s.byWild {
		s.epoch = "" // the next entry says which
	}
	s.at = next
	s.last = 0
	s.explained = f.Before - 1
	if c.w.epoch == "" || s.noStream {
		s.explained = 1 << 62 // still no stream
	}
	s.afters = map[uint64]bool{f.Before - 1: true}
	s.got++
}

// checkComplete checks, at rest, that the client has everything.
func (c *modelClient) checkComplete() {
	if len(c.buf) > 0 {
		c.failf("half a frame at rest: %.80q", c.buf)
	}
	if len(c.expect) > 0 {
		c.failf("%d answers never came; the first is %s %d", len(c.expect), c.expect[0].t, c.expect[0].id)
	}
	if !c.greeted {
		c.failf("never greeted")
	}
	for name, s := range c.subs {
		if mc := c.w.chans[name]; mc != nil {
			s.slide(mc, c.w.past)
		}
		if mc := c.w.chans[name]; mc != nil && mc.ch.Named() && s.byWild && !s.explicit && s.got == 0 {
			continue // nothing of it is for wildcards yet
		}
		if mc := c.w.chans[name]; mc != nil && !slices.Contains(s.at, len(mc.entries)) {
			at := slices.Max(s.at)
			c.failf("%s: only %d of %d entries came; %s; it stands at %s", name, at, len(mc.entries), c.w.slots(c.sock.FD()), s.describe(mc))
		}
	}
	for name, mc := range c.w.chans {
		if w, ok := c.matched(name); ok && c.subs[name] == nil && !mc.ch.Named() {
			s := c.placeWild(name, w)
			if s.slide(mc, true); !slices.Contains(s.at, len(mc.entries)) {
				c.failf("%s, by wildcard: nothing of %d entries came (from %v)", name, len(mc.entries), s.at)
			}
		}
	}
}

// checkEnd checks that a connection closed by the server had a reason.
func (c *modelClient) checkEnd() {
	// What it had of a message it has as far as it goes, and nothing behind.
	if at := bytes.Index(c.buf[:min(len(c.buf), 20)], []byte(`{"t":"msg"`)); at >= 0 {
		known := false
		for _, mc := range c.w.chans {
			known = known || slices.ContainsFunc(mc.entries, func(e entry) bool {
				if bytes.HasPrefix(e.bytes, c.buf) {
					return true
				}
				// Its prev, and with "skip" its length, may be others.
				begun, _, _ := bytes.Cut(c.buf, []byte(`,"prev"`))
				return bytes.Contains(e.bytes, begun[bytes.IndexByte(begun, '{'):])
			})
		}
		if !known {
			c.failf("reset in the middle of a frame that is none: %.150q", c.buf)
		}
	}
	if c.left || c.closed != 0 || c.mayFail {
		return
	}
	if c.steady || !c.sock.Aborted() {
		c.failf("closed without a reason (reset: %v)", c.sock.Aborted())
	}
	c.w.seen["cut"]++
}
