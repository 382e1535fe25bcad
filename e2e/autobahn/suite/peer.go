package suite

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// dropWait is how long the server may take to end the TCP connection once
	// both have said goodbye, RFC 6455 section 7.1.1.
	dropWait = 3 * time.Second
	// readSize is small beside what the large cases send, so that a server has to
	// write them in pieces.
	readSize = 64 << 10
)

// peer is one connection of a case's.
type peer struct {
	conn net.Conn
	pmd  *deflater     // nil unless permessage-deflate was agreed
	over chan struct{} // closed when the case is, whatever the server does

	// Owned by the case's script, or its rounds.
	sender *sender

	// Owned by receive.
	in      *bufio.Reader
	answers *sender  // for what is sent unasked: pongs and close frames
	msg     received // the message so far; op is 0 between messages
	events  chan event
	end     *goodbye // the server's close frame; nil without one. Readable once events is closed
	err     error    // how the connection ended; likewise

	writing sync.Mutex // a step's bytes are not parted by a pong or a close
	said    bool       // our close is out; guarded by writing
	first   atomic.Int32
}

// Who closed first.
const (
	nobody int32 = iota
	us
	them
)

// goodbye is what the server's close frame said.
type goodbye struct {
	code   uint16 // 0: nothing
	reason string
}

// dial connects and upgrades. Its seed is the case's number.
func dial(addr, path string, c *Case) (*peer, error) {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, c.ID)
	p := &peer{
		conn: conn, in: bufio.NewReaderSize(conn, readSize),
		sender:  &sender{rng: rand.New(rand.NewPCG(h.Sum64(), 0))},
		answers: &sender{rng: rand.New(rand.NewPCG(h.Sum64(), 1))},
		events:  make(chan event), over: make(chan struct{}),
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	extensions, err := upgrade(conn, p.in, addr, path, p.sender.key(), c.deflate)
	if err == nil && extensions != "" {
		p.pmd, err = newDeflater(extensions, c.deflate)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening handshake: %w", err)
	}
	_ = conn.SetDeadline(time.Now().Add(c.limit))
	return p, nil
}

// receive reads frames until the connection's end and turns them into events. A
// server may ping; that is answered and is no event.
func (p *peer) receive() {
	defer close(p.events)
	for {
		e, err := p.message()
		if err != nil {
			var bad errFrame
			if errors.As(err, &bad) {
				p.tell(event{kind: string(bad)})
			}
			p.err = err
			return
		}
		if !p.tell(e) {
			return
		}
	}
}

// tell hands an event over; it reports false when the case is over.
func (p *peer) tell(e event) bool {
	select {
	case p.events <- e:
		return true
	case <-p.over:
		return false
	}
}

// message reads frames up to the next event. A close frame is answered unless it
// is an answer, and then only the end of the connection may follow.
func (p *peer) message() (event, error) {
	for {
		f, err := readFrame(p.in)
		if err != nil {
			return event{}, err
		}
		if rsv := f.rsv; rsv != 0 && (rsv != 4 || p.pmd == nil || f.op == opCont || f.op >= opClose) {
			return event{}, errFrame(fmt.Sprintf("reserved bits %03b", rsv))
		}
		switch f.op {
		case opPing:
			_ = p.write(step{data: p.answers.frame(opPong, 1, 0, f.payload)})
			continue
		case opPong:
			return event{"pong", string(f.payload)}, nil
		case opClose:
			return event{}, p.closed(f.payload)
		case opCont:
			if p.msg.op == 0 {
				return event{}, errFrame("continuation of nothing")
			}
			p.msg.payload, p.msg.fin = append(p.msg.payload, f.payload...), f.fin
		default:
			if p.msg.op != 0 {
				return event{}, errFrame("new message inside another")
			}
			p.msg = f
		}
		if p.msg.fin {
			msg := p.msg
			p.msg = received{}
			return p.whole(msg)
		}
	}
}

// whole is the event of a complete message.
func (p *peer) whole(msg received) (event, error) {
	if msg.rsv != 0 {
		plain, err := p.pmd.inflate(msg.payload)
		if err != nil {
			return event{}, errFrame("message that can't be inflated: " + err.Error())
		}
		msg.payload = plain
	}
	if msg.op == opBinary {
		return event{"binary", string(msg.payload)}, nil
	}
	if !utf8.Valid(msg.payload) {
		return event{}, errFrame("text that is not UTF-8")
	}
	return event{"text", string(msg.payload)}, nil
}

// closed notes the server's close frame, answers it, and expects the end.
func (p *peer) closed(payload []byte) error {
	var g goodbye
	switch n := len(payload); {
	case n == 1:
		return errFrame("close frame of one byte")
	case n >= 2:
		g.code, g.reason = binary.BigEndian.Uint16(payload), string(payload[2:])
		if c := g.code; c < 1000 || c > 4999 || c >= 1004 && c <= 1006 || c >= 1015 && c < 3000 || !utf8.ValidString(g.reason) {
			return errFrame(fmt.Sprintf("close frame with %d %q", g.code, g.reason))
		}
	}
	p.first.CompareAndSwap(nobody, them)
	p.end = &g
	_ = p.close(p.answers.close(g.code, ""))
	_ = p.conn.SetReadDeadline(time.Now().Add(dropWait))
	if _, err := p.in.ReadByte(); err == nil {
		return errFrame("bytes behind the close frame")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return io.EOF
}

// close sends our close frame, once.
func (p *peer) close(frame []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.said {
		return nil
	}
	p.said = true
	p.first.CompareAndSwap(nobody, us)
	_, err := p.conn.Write(frame)
	return err
}

// write sends a step's bytes in its pieces, each a write and, since Go's sockets
// don't gather, a segment.
func (p *peer) write(s step) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if s.closing {
		p.said = true
		p.first.CompareAndSwap(nobody, us)
	}
	n := s.chop
	if n == 0 {
		n = max(1, len(s.data))
	}
	for b := s.data; len(b) > 0; b = b[min(n, len(b)):] {
		if _, err := p.conn.Write(b[:min(n, len(b))]); err != nil {
			return err
		}
	}
	return nil
}

// key is a Sec-WebSocket-Key.
func (s *sender) key() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], s.rng.Uint64())
	binary.BigEndian.PutUint64(b[8:], s.rng.Uint64())
	return base64.StdEncoding.EncodeToString(b[:])
}
