package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// rawClient is a WebSocket client small enough to be believed: RFC 6455's frame
// format read straight off a TCP connection, with no code shared with the
// server or with another client. Not for concurrent use.
type rawClient struct {
	conn net.Conn
	in   *bufio.Reader
	buf  []byte // the last message
}

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// closeError is the server's close frame.
type closeError struct {
	code   uint16
	reason string
}

func (e closeError) Error() string { return fmt.Sprintf("closed with %d %q", e.code, e.reason) }

// dialRaw connects and upgrades.
func dialRaw(addr string) (*rawClient, error) {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := newRawClient(conn)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := c.upgrade(addr); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func newRawClient(conn net.Conn) *rawClient {
	return &rawClient{conn: conn, in: bufio.NewReaderSize(conn, 16<<10)}
}

func (c *rawClient) upgrade(addr string) error {
	if _, err := io.WriteString(c.conn, upgradeHead(addr)); err != nil {
		return err
	}
	status := ""
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		if status == "" {
			status = strings.TrimSpace(line)
		}
		if line == "\r\n" {
			break
		}
	}
	if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
		return fmt.Errorf("upgrade: %s", status)
	}
	return nil
}

// upgradeHead is a whole request head for /ws.
func upgradeHead(addr string) string {
	return "GET /ws HTTP/1.1\r\nHost: " + addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
}

// Send sends one text message.
func (c *rawClient) Send(text string) error { return c.write(opText, []byte(text)) }

func (c *rawClient) write(op byte, payload []byte) error {
	_, err := c.conn.Write(maskedFrame(op, payload))
	return err
}

// maskedFrame is a whole client frame.
func maskedFrame(op byte, payload []byte) []byte {
	frame := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	var mask [4]byte
	_, _ = rand.Read(mask[:])
	frame = append(frame, mask[:]...)
	for i, b := range payload {
		frame = append(frame, b^mask[i&3])
	}
	return frame
}

// Recv returns the next text message, valid until the next call, answering
// pings on the way. A close frame is a closeError. Anything a server may not
// send is an error.
func (c *rawClient) Recv() ([]byte, error) {
	for {
		op, payload, err := c.readFrame()
		if err != nil {
			return nil, err
		}
		switch op {
		case opText:
			return payload, nil
		case opPing:
			if err := c.write(opPong, payload); err != nil {
				return nil, err
			}
		case opPong:
		case opClose:
			e := closeError{code: 1005}
			if len(payload) >= 2 {
				e.code, e.reason = binary.BigEndian.Uint16(payload), string(payload[2:])
			}
			return nil, e
		default:
			return nil, fmt.Errorf("frame with opcode %d", op)
		}
	}
}

func (c *rawClient) readFrame() (op byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(c.in, head[:2]); err != nil {
		return 0, nil, err
	}
	op = head[0] & 0x0f
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("frame begins % x: want FIN, no reserved bit, no mask", head[:2])
	}
	n := uint64(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(c.in, head[:2])
		if n = uint64(binary.BigEndian.Uint16(head[:2])); err == nil && n < 126 {
			err = errors.New("length not in its shortest form")
		}
	case 127:
		_, err = io.ReadFull(c.in, head[:8])
		if n = binary.BigEndian.Uint64(head[:8]); err == nil && (n < 1<<16 || n > 1<<24) {
			err = fmt.Errorf("frame of %d bytes", n)
		}
	}
	if err != nil {
		return 0, nil, err
	}
	if uint64(cap(c.buf)) < n {
		c.buf = make([]byte, n+n/2)
	}
	payload = c.buf[:n]
	_, err = io.ReadFull(c.in, payload)
	return op, payload, err
}

// Close drops the connection without a word.
func (c *rawClient) Close() { _ = c.conn.Close() }

// frame is any message of the server's; which fields are there depends on T.
type frame struct {
	T      string          `json:"t"`
	ID     json.RawMessage `json:"id"`
	Ch     json.RawMessage `json:"ch"` // a name in msg, gap, stale, live; an object in ack
	Seq    uint64          `json:"seq"`
	Prev   uint64          `json:"prev"`
	TS     int64           `json:"ts"`
	D      json.RawMessage `json:"d"`
	Code   json.RawMessage `json:"code"` // a word in err, a number in bye
	Why    string          `json:"why"`
	After  uint64          `json:"after"`
	Before uint64          `json:"before"`

	Rej    map[string]string `json:"rej"`
	Conn   string            `json:"conn"`
	Node   string            `json:"node"`
	V      int               `json:"v"`
	PingMS int               `json:"ping_ms"`
	Replay int               `json:"replay"`
	MaxCh  int               `json:"max_ch"`
	Rate   struct {
		Burst  int `json:"burst"`
		PerSec int `json:"per_sec"`
	} `json:"rate"`
	RetryMS int `json:"retry_ms"`
}

// channel is a frame's channel when it names one.
func (f frame) channel() string {
	s, _ := strconv.Unquote(string(f.Ch))
	return s
}

// position is an ack's word on one channel.
type position struct {
	Epoch     string `json:"epoch"`
	Seq       uint64 `json:"seq"`
	Recovered bool   `json:"recovered"`
}

// positions are an ack's channels.
func (f frame) positions() map[string]position {
	var m map[string]position
	_ = json.Unmarshal(f.Ch, &m)
	return m
}

func (f frame) String() string {
	return fmt.Sprintf("%s id=%s ch=%s seq=%d prev=%d after=%d before=%d code=%s why=%s rej=%v", f.T, f.ID, f.Ch, f.Seq, f.Prev, f.After, f.Before, f.Code, f.Why, f.Rej)
}

func parseFrame(b []byte) (frame, error) {
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("message %.200q: %w", b, err)
	}
	return f, nil
}

// message is a msg frame read without a JSON decoder; its slices point into the
// frame.
type message struct {
	ch        []byte
	seq, prev uint64
	d         []byte
}

// parseMessage reads a msg frame whose members come in the documented order,
// which is what the server sends; ok is false for any other frame, for which
// parseFrame is the slower way.
func parseMessage(b []byte) (m message, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte(`{"t":"msg","ch":"`)); !ok {
		return m, false
	}
	if m.ch, b, ok = bytes.Cut(b, []byte(`","seq":`)); !ok {
		return m, false
	}
	if m.seq, b, ok = cutNumber(b, `,"prev":`); !ok {
		return m, false
	}
	if m.prev, b, ok = cutNumber(b, `,"ts":`); !ok {
		return m, false
	}
	if _, b, ok = cutNumber(b, `,"d":`); !ok {
		return m, false
	}
	m.d, ok = bytes.CutSuffix(b, []byte("}"))
	return m, ok
}

// cutNumber reads the decimal number that b begins with and what must follow it.
func cutNumber(b []byte, then string) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && i < 19 && b[i] >= '0' && b[i] <= '9' {
		n = n*10 + uint64(b[i]-'0')
		i++
	}
	if i == 0 || !bytes.HasPrefix(b[i:], []byte(then)) {
		return 0, nil, false
	}
	return n, b[i+len(then):], true
}
