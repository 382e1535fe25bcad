package suite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// quick are the cases that take no second, and a hundred rounds instead of a
// thousand of a few that take them.
func quick(more ...string) []*Case {
	cases := slices.DeleteFunc(Cases(), func(c *Case) bool { return c.Heavy || c.rounds != nil })
	for _, c := range Select(Cases(), append(more, "9.7.1", "9.8.4", "12.1.1")...) {
		c.rounds.count = 100
		cases = append(cases, c)
	}
	return cases
}

// A server that is known to be good passes, with compression too: the runner
// asks for nothing that is not the RFC's.
func TestGoodServerPasses(t *testing.T) {
	t.Parallel()
	up := gorilla.Upgrader{EnableCompression: true, ReadBufferSize: 4096, WriteBufferSize: 4096}
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := readStrictly(c)
			if err != nil || c.WriteMessage(kind, b) != nil {
				return
			}
		}
	}))
	defer good.Close()
	cases := quick("12.1.11", "12.2.3", "12.5.5", "13.1.2", "13.2.2", "13.3.2", "13.4.2", "13.5.2", "13.6.2", "13.7.2")
	for _, r := range Run(good.Listener.Addr().String(), "/", cases, 16) {
		if part := r.Case.Part(); part == "13.3" || part == "13.5" {
			if r.Pass() || !strings.Contains(r.Detail, "answers none of the offers") {
				t.Errorf("%s: gorilla overlooks server_max_window_bits, and that was not seen: %s", r.Case.ID, r.Detail)
			}
		} else if !r.Pass() || r.Behavior == Unimplemented {
			t.Errorf("%s (%s): %s, %s: %s", r.Case.ID, r.Case.Sends, r.Behavior, r.Close, r.Detail)
		}
	}
}

// readStrictly reads a message and looks at its UTF-8, which gorilla leaves to
// its user, as soon as a part of it is there.
func readStrictly(c *gorilla.Conn) (kind int, msg []byte, err error) {
	kind, r, err := c.NextReader()
	if err != nil {
		return 0, nil, err
	}
	for part := make([]byte, 4096); ; {
		n, err := r.Read(part)
		msg = append(msg, part[:n]...)
		whole := msg
		for i := 1; err == nil && i < utf8.UTFMax && i <= len(msg); i++ { // the last character may be cut
			if last := msg[len(msg)-i:]; utf8.RuneStart(last[0]) {
				if !utf8.FullRune(last) {
					whole = msg[:len(msg)-i]
				}
				break
			}
		}
		if kind == gorilla.TextMessage && !utf8.Valid(whole) {
			c.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1007, ""), time.Now().Add(time.Second))
			return 0, nil, errors.New("not UTF-8")
		}
		if err == io.EOF {
			return kind, msg, nil
		} else if err != nil {
			return 0, nil, err
		}
	}
}

// A server that checks nothing fails wherever there is something to check, and
// nowhere else.
func TestCarelessServerFails(t *testing.T) {
	t.Parallel()
	addr := serveCarelessly(t)
	// A close with reserved bits is answered like any other, and that is an end.
	bad := func(c *Case) bool { return c.ID != "3.7" && c.end.codes[0] != 1000 || c.Part() == "7.13" }
	cases := quick()
	for _, c := range cases {
		if bad(c) {
			c.limit = failing
		}
	}
	for _, r := range Run(addr, "/", cases, 64) {
		if r.Case.deflate != nil && r.Behavior == Unimplemented {
			continue
		}
		if r.Pass() == bad(r.Case) {
			t.Errorf("%s (%s): %s, %s: %s", r.Case.ID, r.Case.Sends, r.Behavior, r.Close, r.Detail)
		}
	}
}

// serveCarelessly echoes without a look at anything.
func serveCarelessly(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				echoCarelessly(conn)
			}()
		}
	}()
	return l.Addr().String()
}

func echoCarelessly(conn net.Conn) {
	in := bufio.NewReader(conn)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+accept(req.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
	send := func(op byte, b []byte) {
		head := []byte{0x80 | op}
		switch n := len(b); {
		case n < 126:
			head = append(head, byte(n))
		case n < 1<<16:
			head = binary.BigEndian.AppendUint16(append(head, 126), uint16(n))
		default:
			head = binary.BigEndian.AppendUint64(append(head, 127), uint64(n))
		}
		conn.Write(append(head, b...))
	}
	kind, msg := byte(0), ""
	for {
		var h [8]byte
		if _, err := io.ReadFull(in, h[:2]); err != nil {
			return
		}
		op, fin, n := h[0]&0x0f, h[0]&0x80 != 0, uint64(h[1]&0x7f)
		switch n {
		case 126:
			io.ReadFull(in, h[:2])
			n = uint64(binary.BigEndian.Uint16(h[:]))
		case 127:
			io.ReadFull(in, h[:8])
			n = binary.BigEndian.Uint64(h[:])
		}
		b := make([]byte, 4+n)
		if _, err := io.ReadFull(in, b); err != nil {
			return
		}
		mask(b[4:], [4]byte(b), 0)
		b = b[4:]
		switch op {
		case opPing:
			send(opPong, b)
		case opPong:
		case opClose:
			send(opClose, b)
			return
		default:
			if op != opCont {
				kind = op
			}
			if msg += string(b); fin {
				send(kind, []byte(msg))
				msg = ""
			}
		}
	}
}

// A server that says one thing wrong in a thousand is found out by what the
// runner looks at and the public suite does not: the contents.
func TestChangedContentsAreSeen(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		id     string
		change func(b []byte) []byte
		detail string
	}{
		"a byte":       {"9.1.2", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "want text of 262144 bytes"},
		"one too few":  {"1.2.7", func(b []byte) []byte { return b[1:] }, "want binary of 65536 bytes"},
		"in the tenth": {"9.7.3", nth(10, func(b []byte) []byte { b[0] ^= 1; return b }), "message 10 of 64 bytes came back changed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, err := websocket.Accept(w, r, nil)
				if err != nil {
					return
				}
				c.SetReadLimit(1 << 20)
				for {
					kind, b, err := c.Read(r.Context())
					if err != nil || c.Write(r.Context(), kind, row.change(b)) != nil {
						return
					}
				}
			}))
			defer bad.Close()
			cases := Select(Cases(), row.id)
			cases[0].limit = failing
			r := Run(bad.Listener.Addr().String(), "/", cases, 1)[0]
			if r.Pass() || !strings.Contains(r.Detail, row.detail) {
				t.Errorf("%s: %s, %s: %s", r.Case.ID, r.Behavior, r.Close, r.Detail)
			}
		})
	}
}

// nth changes only the nth message from 0.
func nth(n int, change func([]byte) []byte) func([]byte) []byte {
	i := -1
	return func(b []byte) []byte {
		if i++; i == n {
			return change(b)
		}
		return b
	}
}

// failing is the limit of cases that are to fail, of which some do so by never
// ending; three wait for two seconds before.
const failing = 4 * time.Second
