package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

const patience = 10 * time.Second

// client is what a WebSocket package must offer to play the scenarios below.
type client interface {
	Subprotocol() string
	Send(binary bool, payload []byte) error
	// Recv returns the next text message; a close frame is a closeError.
	Recv() ([]byte, error)
	// Ping sends a WebSocket ping and waits for its pong. Messages that come
	// meanwhile are kept for Recv.
	Ping() error
	// Close says goodbye with 1000 and returns the code of the server's answer.
	Close() uint16
	// Drop ends it without a word.
	Drop()
}

type dialer func(url string, subprotocols ...string) (client, error)

func TestClientCoder(t *testing.T)   { playScenarios(t, dialCoder) }
func TestClientGorilla(t *testing.T) { playScenarios(t, dialGorilla) }

// The same with permessage-deflate: both of coder's offers, and gorilla's.
func TestClientCoderCompressed(t *testing.T) {
	for name, mode := range map[string]coder.CompressionMode{
		"no context takeover": coder.CompressionNoContextTakeover, "context takeover": coder.CompressionContextTakeover,
	} {
		t.Run(name, func(t *testing.T) {
			wantCompressed(t, playScenarios(t, func(url string, subprotocols ...string) (client, error) {
				return dialCoderBy(&coder.DialOptions{Subprotocols: subprotocols, CompressionMode: mode, CompressionThreshold: 1}, url)
			}, "--compression"), "messages", "inflated")
		})
	}
}

func TestClientGorillaCompressed(t *testing.T) {
	wantCompressed(t, playScenarios(t, func(url string, subprotocols ...string) (client, error) {
		return dialGorillaBy(gorilla.Dialer{Subprotocols: subprotocols, HandshakeTimeout: patience, EnableCompression: true}, url)
	}, "--compression"), "messages", "inflated")
}

// wantCompressed checks that compression was used: "messages" to clients, "inflated"
// from them.
func wantCompressed(t *testing.T, srv *Server, ways ...string) {
	t.Helper()
	z, _ := srv.Stats(t)["compression"].(map[string]any)
	for _, key := range ways {
		if n, _ := z[key].(float64); n == 0 {
			t.Errorf("compression.%s is 0: %v", key, z)
		}
	}
}

// playScenarios is what any client may rely on, played by one of them.
func playScenarios(t *testing.T, dial dialer, args ...string) *Server {
	srv := startServer(t, args...)
	scenarios := []struct {
		name string
		play func(t *testing.T, srv *Server, dial dialer)
	}{
		{"subprotocol is echoed only if offered", playSubprotocol},
		{"hello comes first and says the limits", playHello},
		{"ack comes before messages, numbers chain, bytes are kept", playSubscribe},
		{"a wildcard matches what comes later", playWildcard},
		{"a position resumes with the live numbers", playResume},
		{"snap sends the last message first", playSnap},
		{"unsub ends it, and sub again goes on", playUnsubscribe},
		{"ping and pong, of the protocol and of WebSocket", playPing},
		{"a bad command gets err, the third closes 1008", playBadCommands},
		{"bad channels are rejected one by one", playBadChannels},
		{"close codes say what was wrong", playCloseCodes},
		{"a goodbye is answered", playGoodbye},
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.play(t, srv, dial) })
	}
	return srv
}

func playSubprotocol(t *testing.T, srv *Server, dial dialer) {
	for _, row := range []struct {
		offered []string
		want    string
	}{
		{nil, ""},
		{[]string{"odin.v1.json"}, "odin.v1.json"},
		{[]string{"odin.v9.cbor", "odin.v1.json"}, "odin.v1.json"},
	} {
		c, err := dial(srv.URL(), row.offered...)
		if err != nil {
			t.Errorf("offering %q: %v", row.offered, err)
			continue
		}
		if got := c.Subprotocol(); got != row.want {
			t.Errorf("offering %q: got %q, want %q", row.offered, got, row.want)
		}
		c.Drop()
	}
}

func playHello(t *testing.T, srv *Server, dial dialer) {
	c, err := dial(srv.URL(), "odin.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Drop()
	f := recv(t, c)
	if f.T != "hello" || f.V != 1 || f.Conn == "" || f.Node == "" || f.PingMS != 20_000 || f.Replay != 100 ||
		f.MaxCh != 1024 || f.Rate.Burst != 100 || f.Rate.PerSec != 10 {
		t.Errorf("hello with default flags is %+v", f)
	}
}

func playSubscribe(t *testing.T, srv *Server, dial dialer) {
	c, ch := greet(t, srv, dial), channelOf(t)
	before := srv.Publish(t, ch, `{"n":0}`)
	srv.Know(t, before.Seq)
	if at := subscribe(t, c, 1, ch); at.Epoch != before.Epoch || at.Seq != before.Seq {
		t.Errorf("ack gives %s:%d, the last message was %s:%d", at.Epoch, at.Seq, before.Epoch, before.Seq)
	}
	payloads := []string{
		`{"n":1}`,
		`{ "spaced" : [ 1 , 2 ] }`,
		`{"number":1.50,"big":12345678901234567890,"e":1e2}`,
		`{"text":"żółć \u00e9 \" \\ 价"}`,
		`[]`, `"text"`, `null`, `17`,
		`{"pad":"` + strings.Repeat("x", 300) + `"}`,
		`{"pad":"` + strings.Repeat("y", 60_000) + `"}`,
	}
	prev := before.Seq
	for _, p := range payloads {
		a := srv.Publish(t, ch, p)
		want(t, c, ch, a.Seq, prev, p)
		prev = a.Seq
	}
	// The same in a batch, which arrives coalesced.
	for i, a := range srv.PublishBatch(t, ch, payloads) {
		want(t, c, ch, a.Seq, prev, payloads[i])
		prev = a.Seq
	}
}

func playWildcard(t *testing.T, srv *Server, dial dialer) {
	c, root := greet(t, srv, dial), channelOf(t)
	subscribe(t, c, 1, root+".*")
	one := srv.Publish(t, root+".a", `1`)
	srv.Publish(t, root, `"the prefix itself does not match"`)
	srv.Publish(t, root+"x.a", `"nor does a longer token"`)
	two := srv.Publish(t, root+".b.c", `2`)
	three := srv.Publish(t, root+".a", `3`)
	// Order holds per channel, not across channels.
	got := map[string][]frame{}
	for range 3 {
		f := recv(t, c)
		got[f.channel()] = append(got[f.channel()], f)
	}
	a, bc := got[root+".a"], got[root+".b.c"]
	if len(a) != 2 || a[0].Seq != one.Seq || a[1].Seq != three.Seq || a[1].Prev != one.Seq {
		t.Errorf("of .a: got %v, want %d and then %d", a, one.Seq, three.Seq)
	}
	if len(bc) != 1 || bc[0].Seq != two.Seq {
		t.Errorf("of .b.c: got %v, want %d", bc, two.Seq)
	}
}

func playResume(t *testing.T, srv *Server, dial dialer) {
	c, ch := greet(t, srv, dial), channelOf(t)
	acks := srv.PublishBatch(t, ch, []string{`0`, `1`, `2`, `3`, `4`})
	srv.Know(t, acks[4].Seq)
	f := ask(t, c, 1, fmt.Sprintf(`{"op":"sub","id":1,"ch":[%q],"since":{%q:{"epoch":%q,"seq":%d}}}`, ch, ch, acks[1].Epoch, acks[1].Seq))
	if at := f.positions()[ch]; !at.Recovered || at.Seq != acks[4].Seq {
		t.Errorf("ack is %v, want recovered at %d", f, acks[4].Seq)
	}
	live := srv.Publish(t, ch, `5`)
	for i, a := range append(acks[2:], live) {
		want(t, c, ch, a.Seq, append(acks, live)[i+1].Seq, strconv.Itoa(i+2))
	}
}

func playSnap(t *testing.T, srv *Server, dial dialer) {
	c, ch := greet(t, srv, dial), channelOf(t)
	acks := srv.PublishBatch(t, ch, []string{`"old"`, `"last"`})
	srv.Know(t, acks[1].Seq)
	ask(t, c, 1, fmt.Sprintf(`{"op":"sub","id":1,"ch":[%q],"snap":true}`, ch))
	if f := recv(t, c); f.T != "msg" || f.Seq != acks[1].Seq || string(f.D) != `"last"` {
		t.Errorf("first is %v, want the last message, seq %d", f, acks[1].Seq)
	}
	live := srv.Publish(t, ch, `"live"`)
	want(t, c, ch, live.Seq, acks[1].Seq, `"live"`)
}

func playUnsubscribe(t *testing.T, srv *Server, dial dialer) {
	c, ch := greet(t, srv, dial), channelOf(t)
	subscribe(t, c, 1, ch)
	first := srv.Publish(t, ch, `1`)
	want(t, c, ch, first.Seq, 0, `1`)
	ask(t, c, 2, fmt.Sprintf(`{"op":"unsub","id":2,"ch":[%q]}`, ch))
	unseen := srv.Publish(t, ch, `2`)
	srv.Know(t, unseen.Seq)
	if at := subscribe(t, c, 3, ch); at.Seq != unseen.Seq {
		t.Errorf("ack gives %d, want %d", at.Seq, unseen.Seq)
	}
	seen := srv.Publish(t, ch, `3`)
	want(t, c, ch, seen.Seq, unseen.Seq, `3`)
}

func playPing(t *testing.T, srv *Server, dial dialer) {
	c := greet(t, srv, dial)
	if f := ask(t, c, 5, `{"op":"ping","id":5}`); f.T != "pong" {
		t.Errorf("got %v, want pong", f)
	}
	if err := c.Ping(); err != nil {
		t.Errorf("WebSocket ping: %v", err)
	}
	if f := ask(t, c, 6, `{"op":"list","id":6}`); f.T == "err" {
		t.Errorf("list: got %v", f)
	}
}

func playBadCommands(t *testing.T, srv *Server, dial dialer) {
	c := greet(t, srv, dial)
	for i, bad := range []string{`{"op":"dance","id":1}`, `not json`, `{"op":"sub","id":3,"ch":7}`} {
		send(t, c, bad)
		f := recv(t, c)
		if f.T != "err" || string(f.Code) != `"bad_request"` {
			t.Errorf("%s: got %v, want bad_request", bad, f)
		}
		if i == 0 && string(f.ID) != "1" {
			t.Errorf("%s: the answer has id %s", bad, f.ID)
		}
	}
	wantClosed(t, c, 1008)
}

func playBadChannels(t *testing.T, srv *Server, dial dialer) {
	c, ch := greet(t, srv, dial), channelOf(t)
	bad := []string{"", "a b", "a..b", ".a", "a.", "*", ">", "_sys.x", "$JS.API.x", strings.Repeat("x", 129)}
	names, _ := json.Marshal(append([]string{ch}, bad...))
	f := ask(t, c, 1, fmt.Sprintf(`{"op":"sub","id":1,"ch":%s}`, names))
	if _, ok := f.positions()[ch]; f.T != "ack" || !ok {
		t.Errorf("got %v, want an ack of %s", f, ch)
	}
	for _, name := range bad {
		if f.Rej[name] != "bad_channel" {
			t.Errorf("%q: rejected with %q, want bad_channel", name, f.Rej[name])
		}
	}
	a := srv.Publish(t, ch, `1`)
	want(t, c, ch, a.Seq, 0, `1`)
}

func playCloseCodes(t *testing.T, srv *Server, dial dialer) {
	for _, row := range []struct {
		name    string
		binary  bool
		payload []byte
		code    uint16
	}{
		{"binary", true, []byte(`{"op":"ping","id":1}`), 1003},
		{"bad UTF-8", false, []byte("{\"op\":\"\xff\"}"), 1007},
		{"too big", false, []byte(strings.Repeat(" ", 64<<10+1)), 1009},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := greet(t, srv, dial)
			if err := c.Send(row.binary, row.payload); err != nil {
				t.Fatal(err)
			}
			wantClosed(t, c, row.code)
		})
	}
}

func playGoodbye(t *testing.T, srv *Server, dial dialer) {
	c := greet(t, srv, dial)
	if code := c.Close(); code != 1000 {
		t.Errorf("1000 was answered with %d", code)
	}
}

// greet connects and reads the hello.
func greet(t *testing.T, srv *Server, dial dialer) client {
	t.Helper()
	c, err := dial(srv.URL(), "odin.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Drop)
	if f := recv(t, c); f.T != "hello" {
		t.Fatalf("first message is %v, want hello", f)
	}
	return c
}

// channelOf is a channel of the test's own.
func channelOf(t *testing.T) string {
	var name strings.Builder
	for _, r := range t.Name() {
		switch {
		case r == '/':
			name.WriteByte('.')
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_':
			name.WriteRune(r)
		}
	}
	return name.String()
}

func send(t *testing.T, c client, text string) {
	t.Helper()
	if err := c.Send(false, []byte(text)); err != nil {
		t.Fatalf("send %s: %v", text, err)
	}
}

func recv(t *testing.T, c client) frame {
	t.Helper()
	b, err := c.Recv()
	if err != nil {
		t.Fatalf("recv: %v", err)
	}
	f, err := parseFrame(b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ask sends a command and returns its answer, which must be the next message.
func ask(t *testing.T, c client, id int, command string) frame {
	t.Helper()
	send(t, c, command)
	f := recv(t, c)
	if string(f.ID) != strconv.Itoa(id) {
		t.Fatalf("%s: got %v, want the answer", command, f)
	}
	return f
}

func subscribe(t *testing.T, c client, id int, ch string) position {
	t.Helper()
	f := ask(t, c, id, fmt.Sprintf(`{"op":"sub","id":%d,"ch":[%q]}`, id, ch))
	at, ok := f.positions()[ch]
	if f.T != "ack" || !ok {
		t.Fatalf("sub %s: got %v", ch, f)
	}
	return at
}

// want receives one msg and compares every part of it. prev 0 is not compared:
// the first message of a chain starts it.
func want(t *testing.T, c client, ch string, seq, prev uint64, d string) {
	t.Helper()
	f := recv(t, c)
	if f.T != "msg" || f.channel() != ch || f.Seq != seq || prev != 0 && f.Prev != prev {
		t.Fatalf("got %v, want msg %s seq %d prev %d", f, ch, seq, prev)
	}
	if string(f.D) != d {
		t.Fatalf("%s %d: d is %.100s, want %.100s", ch, seq, f.D, d)
	}
	if age := time.Since(time.UnixMilli(f.TS)); age < -time.Minute || age > time.Minute {
		t.Errorf("%s %d: ts %d is not now", ch, seq, f.TS)
	}
}

func wantClosed(t *testing.T, c client, code uint16) {
	t.Helper()
	for {
		_, err := c.Recv()
		var closed closeError
		switch {
		case err == nil:
		case !errors.As(err, &closed):
			t.Fatalf("want close %d, got %v", code, err)
		case closed.code != code:
			t.Fatalf("closed with %d %q, want %d", closed.code, closed.reason, code)
		default:
			return
		}
	}
}

// coderClient plays with github.com/coder/websocket.
type coderClient struct {
	c    *coder.Conn
	msgs chan []byte // closed once reading has ended
	err  error       // why, after msgs is closed
}

func dialCoder(url string, subprotocols ...string) (client, error) {
	return dialCoderBy(&coder.DialOptions{Subprotocols: subprotocols}, url)
}

func dialCoderBy(options *coder.DialOptions, url string) (client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, resp, err := coder.Dial(ctx, url, options)
	if err != nil {
		if resp != nil {
			err = fmt.Errorf("%s: %w", resp.Status, err)
		}
		return nil, err
	}
	conn.SetReadLimit(1 << 20)
	c := &coderClient{c: conn, msgs: make(chan []byte, 1024)}
	go func() {
		defer close(c.msgs)
		for {
			_, b, err := conn.Read(context.Background())
			if err != nil {
				var closed coder.CloseError
				if errors.As(err, &closed) {
					err = closeError{uint16(closed.Code), closed.Reason}
				}
				c.err = err
				return
			}
			c.msgs <- b
		}
	}()
	return c, nil
}

func (c *coderClient) Subprotocol() string { return c.c.Subprotocol() }

func (c *coderClient) Send(binary bool, payload []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind := coder.MessageText
	if binary {
		kind = coder.MessageBinary
	}
	return c.c.Write(ctx, kind, payload)
}

func (c *coderClient) Recv() ([]byte, error) { return await(c.msgs, &c.err) }

func (c *coderClient) Ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.c.Ping(ctx)
}

func (c *coderClient) Close() uint16 {
	// The reading goroutine sees the server's answer.
	_ = c.c.Close(coder.StatusNormalClosure, "bye")
	return closeCode(c)
}

func (c *coderClient) Drop() { _ = c.c.CloseNow() }

// gorillaClient plays with github.com/gorilla/websocket.
type gorillaClient struct {
	c     *gorilla.Conn
	msgs  chan []byte
	pongs chan string
	err   error // why reading ended, after msgs is closed
}

func dialGorilla(url string, subprotocols ...string) (client, error) {
	return dialGorillaBy(gorilla.Dialer{Subprotocols: subprotocols, HandshakeTimeout: patience}, url)
}

func dialGorillaBy(d gorilla.Dialer, url string) (client, error) {
	conn, resp, err := d.Dial(url, nil)
	if err != nil {
		if resp != nil {
			err = fmt.Errorf("%s: %w", resp.Status, err)
		}
		return nil, err
	}
	c := &gorillaClient{c: conn, msgs: make(chan []byte, 1024), pongs: make(chan string, 1)}
	conn.SetPongHandler(func(data string) error {
		c.pongs <- data
		return nil
	})
	go func() {
		defer close(c.msgs)
		for {
			_, b, err := conn.ReadMessage()
			if err != nil {
				var closed *gorilla.CloseError
				if errors.As(err, &closed) {
					err = closeError{uint16(closed.Code), closed.Text}
				}
				c.err = err
				return
			}
			c.msgs <- b
		}
	}()
	return c, nil
}

func (c *gorillaClient) Subprotocol() string { return c.c.Subprotocol() }

func (c *gorillaClient) Send(binary bool, payload []byte) error {
	kind := gorilla.TextMessage
	if binary {
		kind = gorilla.BinaryMessage
	}
	_ = c.c.SetWriteDeadline(time.Now().Add(patience))
	return c.c.WriteMessage(kind, payload)
}

func (c *gorillaClient) Recv() ([]byte, error) { return await(c.msgs, &c.err) }

func (c *gorillaClient) Ping() error {
	if err := c.c.WriteControl(gorilla.PingMessage, []byte("are you there"), time.Now().Add(patience)); err != nil {
		return err
	}
	select {
	case data := <-c.pongs:
		if data != "are you there" {
			return fmt.Errorf("pong says %q", data)
		}
		return nil
	case <-time.After(patience):
		return errors.New("no pong")
	}
}

func (c *gorillaClient) Close() uint16 {
	_ = c.c.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "bye"), time.Now().Add(patience))
	return closeCode(c)
}

func (c *gorillaClient) Drop() { _ = c.c.Close() }

func await(msgs <-chan []byte, end *error) ([]byte, error) {
	select {
	case b, ok := <-msgs:
		if !ok {
			return nil, *end
		}
		return b, nil
	case <-time.After(patience):
		return nil, errors.New("no message")
	}
}

// closeCode reads on to the close frame; 1006 if there is none.
func closeCode(c client) uint16 {
	for {
		_, err := c.Recv()
		var closed closeError
		if errors.As(err, &closed) {
			return closed.code
		}
		if err != nil {
			return 1006
		}
	}
}
