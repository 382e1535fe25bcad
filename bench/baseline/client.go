package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/time/rate"
)

const protocol = "odin.v1.json"

// client is one connection, two goroutines and what they share.
type client struct {
	s    *server
	id   uint64
	conn *websocket.Conn // read by readPump only
	out  net.Conn        // written by writePump only
	send chan *message

	names map[string]bool // what it follows, guarded by hub.mu

	mu   sync.Mutex
	sent ring // guarded by mu

	// Owned by who holds lockGive.
	lockGive sync.Mutex
	strikes  int
	lost     map[*channel]uint64 // the seq before the first message lost

	// Any goroutine.
	heard, pinged, told atomic.Int64 // Unix nanoseconds
	ended               atomic.Bool

	// Owned by readPump.
	bucket   *rate.Limiter
	warnings int // commands not understood
	warned   bool
}

func newClient(s *server, conn *websocket.Conn) *client {
	c := &client{
		s: s, id: s.ids.Add(1), conn: conn, out: conn.NetConn(),
		send: make(chan *message, sendSlots), names: map[string]bool{},
	}
	c.bucket = rate.NewLimiter(rate.Limit(s.cfg.perSec), s.cfg.burst)
	now := time.Now().UnixNano()
	c.heard.Store(now)
	c.pinged.Store(now)
	c.told.Store(now)
	conn.SetReadLimit(maxCommand)
	// gorilla would answer from the reading goroutine, in between the frames.
	conn.SetPingHandler(func(text string) error {
		c.heard.Store(time.Now().UnixNano())
		c.offer(&message{frame: appendFrame(nil, websocket.PongMessage, []byte(text))})
		return nil
	})
	conn.SetPongHandler(func(string) error {
		c.heard.Store(time.Now().UnixNano())
		return nil
	})
	conn.SetCloseHandler(func(code int, _ string) error {
		if code == websocket.CloseNoStatusReceived {
			code = websocket.CloseNormalClosure
		}
		c.cut(uint16(code))
		return nil
	})
	return c
}

// due says once each interval that it has passed since at.
func (c *client) due(at *atomic.Int64, each time.Duration, now time.Time) bool {
	if now.UnixNano()-at.Load() < int64(each) {
		return false
	}
	at.Store(now.UnixNano())
	return true
}

// give queues a publication, or counts a strike. What is lost is announced before
// the next of its channel that has room.
func (c *client) give(m *message) {
	c.lockGive.Lock()
	defer c.lockGive.Unlock()
	if after, ok := c.lost[m.ch]; ok {
		g := *m
		g.frame = append(gap(m.ch.name, after, m.seq, "slow"), m.frame...)
		if c.queue(&g) {
			delete(c.lost, m.ch)
		}
		return
	}
	if !c.queue(m) {
		if c.lost == nil {
			c.lost = map[*channel]uint64{}
		}
		c.lost[m.ch] = m.prev
	}
}

// offer queues anything else, which also strikes when there is no room.
func (c *client) offer(m *message) {
	c.lockGive.Lock()
	defer c.lockGive.Unlock()
	c.queue(m)
}

// queue is give and offer with lockGive held.
func (c *client) queue(m *message) bool {
	select {
	case c.send <- m:
		c.strikes = 0
		return true
	default:
	}
	if c.strikes++; c.strikes == strikesMost {
		c.s.slow.Add(1)
		go c.cut(4101) // it takes locks that this caller holds
	}
	return false
}

// cut ends a connection, with a close frame if there is room for one.
func (c *client) cut(code uint16) {
	if c.ended.Swap(true) {
		return
	}
	_ = c.out.SetWriteDeadline(time.Now().Add(2 * time.Second)) // a writer that is stuck
	select {
	case c.send <- &message{frame: appendFrame(nil, websocket.CloseMessage, binary.BigEndian.AppendUint16(nil, code)), code: code}:
	default:
		_ = c.out.Close() // the writer, stuck or on its way, finds out
	}
}

// writePump writes what is queued until the last word or an error.
func (c *client) writePump() {
	c.hello()
	for m := range c.send {
		last := m.code
		c.keep(m)
		var err error
		if len(c.send) > 0 && last == 0 {
			lent := gathered.Get().(*[]byte)
			*lent, last = c.gather((*lent)[:0], m)
			_, err = c.out.Write(*lent)
			gathered.Put(lent)
		} else {
			_, err = c.out.Write(m.frame)
		}
		if err != nil || last != 0 {
			break
		}
		c.told.Store(time.Now().UnixNano())
	}
	c.ended.Store(true)
	_ = c.out.Close() // ends readPump, which tidies up
}

// gatherBytes is about how much of what has piled up is written together.
const gatherBytes = 16 << 10

var gathered = sync.Pool{New: func() any { b := make([]byte, 0, 2*gatherBytes); return &b }}

// gather appends m and what is queued after it.
func (c *client) gather(all []byte, m *message) (_ []byte, last uint16) {
	all = append(all, m.frame...)
	for len(all) < gatherBytes {
		select {
		case m = <-c.send:
			c.keep(m)
			if all = append(all, m.frame...); m.code != 0 {
				return all, m.code
			}
		default:
			return all, 0
		}
	}
	return all, 0
}

// keep remembers a publication for the op replay.
func (c *client) keep(m *message) {
	if m.ch == nil {
		return
	}
	c.mu.Lock()
	c.sent.add(m)
	c.mu.Unlock()
}

func (c *client) hello() {
	text := fmt.Appendf(nil, `{"t":"hello","conn":"%d","node":"baseline","v":1,"ping_ms":%d,"replay":%d,"max_ch":%d,"rate":{"burst":%d,"per_sec":%g}}`,
		c.id, c.s.cfg.ping.Milliseconds(), replayKeep, maxChannels, c.s.cfg.burst, c.s.cfg.perSec)
	_, _ = c.out.Write(appendFrame(nil, websocket.TextMessage, text))
}

// position is a place in the stream.
type position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// command is what a client says.
type command struct {
	Op    string              `json:"op"`
	ID    *int64              `json:"id"`
	Ch    json.RawMessage     `json:"ch"` // a list, or of replay a name
	Since map[string]position `json:"since"`
	Snap  bool                `json:"snap"`
	Mode  string              `json:"mode"`
	Slow  string              `json:"slow"`
	Epoch string              `json:"epoch"`
	From  uint64              `json:"from"`
	To    uint64              `json:"to"`

	names []string
}

// idText is the id as it goes into an answer, "" or "id":5,.
func (cmd *command) idText() string {
	if cmd.ID == nil {
		return ""
	}
	return `"id":` + strconv.FormatInt(*cmd.ID, 10) + ","
}

// readPump reads commands until the connection ends, and then gives it back.
func (c *client) readPump() {
	defer c.s.forget(c)
	defer c.cut(websocket.CloseNormalClosure)
	var buf []byte
	for {
		kind, r, err := c.conn.NextReader()
		if err != nil {
			return
		}
		if kind != websocket.TextMessage {
			c.cut(websocket.CloseUnsupportedData)
			return
		}
		if buf, err = readAll(buf[:0], r); err != nil {
			return
		}
		now := time.Now()
		c.heard.Store(now.UnixNano())
		if !c.bucket.AllowN(now, 1) {
			c.s.limited.Add(1)
			if c.warned {
				c.cut(4102)
				return
			}
			c.warned = true
			c.reply(`{"t":"err","code":"rate_limited","retry_ms":%d}`, max(1, int(1000/c.s.cfg.perSec)))
			continue
		}
		c.warned = false
		if !c.obey(buf) {
			return
		}
		if cap(buf) > 512 { // a long command was the exception
			buf = nil
		}
	}
}

// readAll reads a message into buf, which an idle client does without: it is made
// by the first command and is as large as the commands are.
func readAll(buf []byte, r io.Reader) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, 128)...)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// obey carries out one command; false ends the connection.
func (c *client) obey(text []byte) bool {
	var cmd command
	err := json.Unmarshal(text, &cmd)
	switch {
	case err != nil:
	case cmd.Op == "ping":
		c.reply(`{"t":"pong",%s`, pongTail(&cmd))
		return true
	case cmd.Op == "list":
		c.s.hub.list(c, &cmd)
		return true
	case cmd.Op == "replay":
		var name string
		if err = json.Unmarshal(cmd.Ch, &name); err == nil {
			c.replay(&cmd, name)
			return true
		}
	case cmd.Mode != "" && cmd.Mode != "all" || cmd.Slow != "":
		// This design has no other way to send.
	case cmd.Op == "sub" || cmd.Op == "unsub":
		if err = json.Unmarshal(cmd.Ch, &cmd.names); err != nil {
			break
		}
		if cmd.Op == "sub" {
			c.s.hub.subscribe(c, &cmd)
		} else {
			c.s.hub.unsubscribe(c, &cmd)
		}
		return true
	}
	c.reply(`{"t":"err",%s"code":"bad_request"}`, cmd.idText())
	if c.warnings++; c.warnings == 3 {
		c.cut(websocket.ClosePolicyViolation)
		return false
	}
	return true
}

func pongTail(cmd *command) string {
	if cmd.ID == nil {
		return `"v":1}`
	}
	return `"id":` + strconv.FormatInt(*cmd.ID, 10) + "}"
}

// replay sends what of a channel this client was sent before, once more.
func (c *client) replay(cmd *command, name string) {
	c.s.replayAsked.Add(1)
	var frames []byte
	c.mu.Lock()
	before := max(cmd.From, 1) - 1
	c.sent.oldestFirst(func(m *message) {
		if m.ch.name != name || m.seq < cmd.From || m.seq > cmd.To {
			return
		}
		if m.prev > before {
			frames = append(frames, gap(name, before, m.seq, "evicted")...)
		}
		frames, before = append(frames, m.frame...), m.seq
	})
	c.mu.Unlock()
	if before < cmd.To && before < c.s.hub.seq.Load() {
		frames = append(frames, gap(name, before, cmd.To+1, "evicted")...)
	}
	ack := fmt.Appendf(nil, `{"t":"ack",%s"ch":{}}`, cmd.idText())
	c.offer(&message{frame: appendFrame(frames, websocket.TextMessage, ack)})
}

// reply queues a text.
func (c *client) reply(format string, args ...any) {
	c.offer(&message{frame: appendFrame(nil, websocket.TextMessage, fmt.Appendf(nil, format, args...))})
}

// appendFrame appends a whole frame as a server sends it.
func appendFrame(dst []byte, kind byte, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|kind, byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|kind, 126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|kind, 127), uint64(n))
	}
	return append(dst, payload...)
}
