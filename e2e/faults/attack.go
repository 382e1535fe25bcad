//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// attack is hostile clients against one node, each a connection and a goroutine of
// this process.
type attack struct {
	r   *run
	n   *node
	all sync.WaitGroup

	mu   sync.Mutex
	list []*attacker // guarded by mu
}

// attacker is one of them: what it does, and how it ended. What it does is static
// after add; the rest is its goroutine's until attack.all is done.
type attacker struct {
	kind  string
	open  bool          // upgrades first
	first []byte        // sent at once then
	drip  []byte        // then, a byte a second
	flood []byte        // or again and again
	every time.Duration // with a pause
	deaf  bool          // reads nothing

	conn  net.Conn
	took  time.Duration // from the first unfinished byte to the end
	ended string        // an HTTP status, a close code, or how the connection broke
}

// attackLasts is when an attacker that nobody cut gives up.
const attackLasts = 60 * time.Second

func (r *run) attack(n *node) *attack {
	a := &attack{r: r, n: n}
	r.atEnd(func() { a.hangUp("") })
	return a
}

// add starts one.
func (a *attack) add(k attacker) {
	c, err := a.connect(&k)
	if err != nil {
		a.r.fault("%s: %v", k.kind, err)
		return
	}
	k.conn = c
	_ = c.SetDeadline(time.Now().Add(attackLasts))
	a.mu.Lock()
	a.list = append(a.list, &k)
	a.mu.Unlock()
	a.all.Go(k.run)
}

// connect dials, and upgrades who is to be a WebSocket first.
func (a *attack) connect(k *attacker) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if k.deaf {
		// Before the handshake, which is when the window is agreed on.
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) })
		}
	}
	c, err := d.Dial("tcp", a.n.addr)
	if err != nil || !k.open {
		return c, err
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, a.n.head()); err != nil {
		return nil, err
	}
	// Byte by byte: what follows the hello is the attacker's not to read.
	status, err := readHead(c)
	if err == nil && !strings.Contains(status, " 101 ") {
		err = fmt.Errorf("upgrade: %s", status)
	}
	return c, err
}

// readHead reads an HTTP head, byte by byte, and returns its first line.
func readHead(c io.Reader) (string, error) {
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); {
		if _, err := c.Read(b); err != nil {
			return "", err
		}
		if head = append(head, b[0]); len(head) > 16<<10 {
			return "", fmt.Errorf("a head without an end")
		}
	}
	line, _, _ := strings.Cut(string(head), "\r\n")
	return line, nil
}

// run misbehaves until the connection ends.
func (k *attacker) run() {
	defer k.conn.Close()
	began := time.Now()
	write := make(chan error, 1)
	quit := make(chan struct{})
	defer close(quit)
	go func() { write <- k.write(quit) }()
	if k.deaf {
		k.ended = broke(<-write)
	} else {
		k.ended = k.read()
	}
	k.took = time.Since(began)
}

// write sends what there is to send, until it is all sent or can't be.
func (k *attacker) write(quit <-chan struct{}) error {
	if _, err := k.conn.Write(k.first); err != nil {
		return err
	}
	for i := range k.drip {
		if _, err := k.conn.Write(k.drip[i : i+1]); err != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-quit:
			return nil
		}
	}
	for len(k.flood) > 0 {
		if _, err := k.conn.Write(k.flood); err != nil {
			return err
		}
		if k.every > 0 {
			time.Sleep(k.every)
		}
	}
	return nil
}

// read reads to the end and says how the server explained it.
func (k *attacker) read() string {
	in := bufio.NewReader(k.conn)
	if !k.open {
		line, err := in.ReadString('\n')
		if f := strings.Fields(line); err == nil && len(f) > 1 {
			_, _ = io.Copy(io.Discard, in) // the server waits for our end
			return f[1]
		}
		return broke(err)
	}
	for {
		var h [4]byte
		if _, err := io.ReadFull(in, h[:2]); err != nil {
			return broke(err)
		}
		n := int(h[1])
		if n == 126 {
			if _, err := io.ReadFull(in, h[2:4]); err != nil {
				return broke(err)
			}
			n = int(binary.BigEndian.Uint16(h[2:4]))
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(in, body); err != nil {
			return broke(err)
		}
		if h[0]&0x0f == 8 && n >= 2 {
			return fmt.Sprint(binary.BigEndian.Uint16(body))
		}
	}
}

// broke names a connection's end without a word.
func broke(err error) string {
	var e net.Error
	switch {
	case err == nil:
		return "nothing"
	case errors.As(err, &e) && e.Timeout():
		return "never"
	case errors.Is(err, io.EOF):
		return "eof"
	}
	return "reset"
}

// wait waits for the end of all.
func (a *attack) wait() {
	a.all.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[string]int{}
	for _, k := range a.list {
		seen[k.kind+": "+k.ended]++
	}
	a.r.say("how they ended: %v", seen)
}

// cutAt checks that all of a kind ended with a word (or, "", by the server
// somehow), at least so long and at most so long after they began.
func (a *attack) cutAt(kind, word string, least, most time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	early, late, other, n := 0, 0, map[string]int{}, 0
	for _, k := range a.list {
		if k.kind != kind {
			continue
		}
		n++
		if k.took < least {
			early++
		}
		if k.took > most {
			late++
		}
		if word != "" && k.ended != word || word == "" && (k.ended == "never" || k.ended == "nothing") {
			other[k.ended]++
		}
		a.r.row.recovered, a.r.row.timed = max(a.r.row.recovered, k.took), true
	}
	if n == 0 || early+late > 0 || len(other) > 0 {
		a.r.fault("%s: of %d, %d cut before %v and %d after %v; ended otherwise: %v", kind, n, early, least, late, most, other)
	}
}

// endedBy is how many ended with a word.
func (a *attack) endedBy(word string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.list {
		if k.ended == word {
			n++
		}
	}
	return n
}

// latest is when the last of a kind ended.
func (a *attack) latest(kind string) (d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.list {
		if k.kind == kind {
			d = max(d, k.took)
		}
	}
	return d
}

// hangUp ends all of a kind from our side ("": all).
func (a *attack) hangUp(kind string) {
	a.mu.Lock()
	for _, k := range a.list {
		if kind == "" || k.kind == kind {
			_ = k.conn.Close()
		}
	}
	a.mu.Unlock()
	if kind == "" {
		a.all.Wait()
	}
}

// head is a whole request head for /ws.
func (n *node) head() string {
	return "GET /ws HTTP/1.1\r\nHost: " + n.addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
}

// clientFrame is a whole frame, masked with zeros, which masks nothing.
func clientFrame(op byte, payload string) []byte {
	b := []byte{0x80 | op}
	if n := len(payload); n < 126 {
		b = append(b, 0x80|byte(n))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// longFrame takes more than a minute at a byte a second.
func longFrame() []byte {
	return clientFrame(1, `{"op":"ping","id":1`+strings.Repeat(" ", 1000)+`}`)
}

// pings are n of the longest.
func pings(n int) []byte {
	return slices.Repeat(clientFrame(9, strings.Repeat("p", 125)), n)
}
