package wire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// FuzzOthers lets other people's readers have the same bytes. What Parser
// accepts they must read as the same messages and control frames. Where it
// refuses, they must have read the same up to there, and may go on only where
// it is known to be the stricter.
func FuzzOthers(f *testing.F) {
	for _, in := range []string{
		frame(0x81, "hé") + frame(0x89, "p") + closeFrame(1000, "bye"),
		frame(0x01, "a\xf0\x9f") + frame(0x8a, "q") + frame(0x00, "\x98\x80") + frame(0x80, ""),
		frame(0x02, "\xff") + frame(0x89, strings.Repeat("p", 125)) + frame(0x80, "\xfe") + frame(0x88, ""),
		frame(0x82, strings.Repeat("x", 126)) + frame(0x81, strings.Repeat("y", 1<<16)),
		"\x81\xfe\x00\x05\x00\x00\x00\x00hello" + frame(0x81, "behind a length that is too long"),
		"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00hello",
		frame(0x81, "\xff") + frame(0x81, "a"), frame(0x88, "a"), closeFrame(1005, ""), closeFrame(1014, ""), closeFrame(1000, "\xff"),
		frame(0x09, "") + frame(0x80, ""), frame(0xc1, ""), "\x81\x01a", frame(0x80, "a"), frame(0x01, "a") + frame(0x81, "b"),
		"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, refused := byParser(t, in)
		for name, other := range others {
			theirs := other.read(bytes.Clone(in))
			if refused == nil {
				if !slices.Equal(ours, theirs) {
					t.Fatalf("%s reads %.300q, we read %.300q", name, theirs, ours)
				}
				continue
			}
			if len(theirs) < len(ours) || !slices.Equal(ours, theirs[:len(ours)]) {
				t.Fatalf("before %v, %s reads %.300q, we read %.300q", refused, name, theirs, ours)
			}
			if len(theirs) > len(ours) && !slices.Contains(other.laxer, refused.Error()) {
				t.Fatalf("we refuse with %v what %s goes on to read as %.300q", refused, name, theirs[len(ours):])
			}
		}
	})
}

// others read bytes of a client's up to the first close frame or error.
var others = map[string]struct {
	read  func(in []byte) []string
	laxer []string // what we refuse and it does not
}{
	"gobwas": {byGobwas, []string{
		longForm, longControl,
		"websocket: close 1002: close code not allowed in a frame", // it takes those from 5000 on
	}},
	"coder": {byCoder, []string{
		longForm, longControl,
		"websocket: close 1007: text is not UTF-8", // it leaves that to its user
	}},
}

// Neither minds a length in more bytes than it needs.
const (
	longForm    = "websocket: close 1002: malformed payload length"
	longControl = "websocket: close 1002: control frame payload limit exceeded"
)

// byParser is what Parser reads, and why it stops before the input's end; a
// close frame is an end.
func byParser(t *testing.T, in []byte) (out []string, refused *CloseError) {
	var p Parser
	a := newPool(t)
	defer p.Release(a)
	lim := &Limits{MaxMessage: 1 << 30, Binary: true}
	for in = bytes.Clone(in); ; {
		ev, n, cerr := p.Next(in, lim, a)
		in = in[n:]
		switch {
		case cerr != nil:
			return out, cerr
		case ev.Kind == None:
			return out, nil
		case ev.Kind == Close:
			return append(out, told(ev.Code, string(ev.Payload))), nil
		case ev.Kind == Message:
			out = append(out, said(ev.Op, ev.Payload))
		case ev.Kind == Ping:
			out = append(out, said(OpPing, ev.Payload))
		default:
			out = append(out, said(OpPong, ev.Payload))
		}
	}
}

func said(op byte, payload []byte) string    { return fmt.Sprintf("%d:%s", op, payload) }
func told(code uint16, reason string) string { return fmt.Sprintf("close:%d:%s", code, reason) }

func byGobwas(in []byte) (out []string) {
	end := errors.New("a close")
	// control is its own reading of a control frame; its checks of a close are
	// there to be called.
	control := func(h ws.Header, r io.Reader) error {
		b := make([]byte, h.Length)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if h.OpCode != ws.OpClose {
			out = append(out, said(byte(h.OpCode), b))
			return nil
		}
		code, reason := ws.ParseCloseFrameDataUnsafe(b)
		known := code
		if code >= 1012 && code <= 1014 { // IANA registered them after it was written
			known = ws.StatusInternalServerError
		}
		if len(b) == 0 {
			code = ws.StatusNoStatusRcvd
		} else if len(b) == 1 || ws.CheckCloseFrameData(known, reason) != nil {
			return errors.New("a bad close")
		}
		out = append(out, told(uint16(code), reason))
		return end
	}
	r := wsutil.Reader{Source: &sent{bytes.NewReader(in)}, State: ws.StateServerSide, CheckUTF8: true, OnIntermediate: control}
	for {
		h, err := r.NextFrame()
		if err != nil {
			return out
		}
		if h.OpCode.IsControl() {
			if control(h, &r) != nil {
				return out
			}
			continue
		}
		b, err := io.ReadAll(&r)
		if err != nil {
			return out
		}
		out = append(out, said(byte(h.OpCode), b))
	}
}

func byCoder(in []byte) (out []string) {
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key} {
		req.Header.Set(name, value)
	}
	c, err := websocket.Accept(hijacked{httptest.NewRecorder(), &sent{in: bytes.NewReader(in)}}, req, &websocket.AcceptOptions{
		OnPingReceived: func(_ context.Context, b []byte) bool {
			out = append(out, said(OpPing, b))
			return false
		},
		OnPongReceived: func(_ context.Context, b []byte) { out = append(out, said(OpPong, b)) },
	})
	if err != nil {
		panic(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, b, err := c.Read(context.Background())
		var end websocket.CloseError
		if errors.As(err, &end) {
			return append(out, told(uint16(end.Code), end.Reason))
		}
		if err != nil {
			return out
		}
		out = append(out, said(byte(kind), b))
	}
}

// hijacked is a ResponseWriter on a connection that holds what a client sent.
type hijacked struct {
	http.ResponseWriter
	conn *sent
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// sent is a connection to read from; what is written to it is gone. It ends in a
// reset: an io.EOF between two reads of a message, or between two fragments, is to
// coder/websocket the message's own end, as it is to io.ReadAll.
type sent struct{ in io.Reader }

func (s *sent) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	if errors.Is(err, io.EOF) {
		err = syscall.ECONNRESET
	}
	return n, err
}

func (s *sent) Write(b []byte) (int, error)      { return len(b), nil }
func (s *sent) Close() error                     { return nil }
func (s *sent) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *sent) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *sent) SetDeadline(time.Time) error      { return nil }
func (s *sent) SetReadDeadline(time.Time) error  { return nil }
func (s *sent) SetWriteDeadline(time.Time) error { return nil }

// Each reason that another reader is known not to have is there for something.
func TestOthersAreLaxer(t *testing.T) {
	long := binary.BigEndian.AppendUint16([]byte{0x81, 0xfe}, 5)
	for reason, in := range map[string]string{
		longControl: "\x89\xfe\x00\x00\x00\x00\x00\x00",
		longForm:    string(long) + "\x00\x00\x00\x00hello",
		"websocket: close 1007: text is not UTF-8":                 frame(0x81, "\xff"),
		"websocket: close 1002: close code not allowed in a frame": closeFrame(5000, ""),
	} {
		ours, refused := byParser(t, []byte(in))
		if len(ours) > 0 || refused == nil || refused.Error() != reason {
			t.Errorf("%q: %v, %v", in, ours, refused)
		}
		for name, other := range others {
			if laxer, reads := slices.Contains(other.laxer, reason), len(other.read([]byte(in))) > 0; laxer != reads {
				t.Errorf("%s: %q is read: %v", name, in, reads)
			}
		}
	}
}
