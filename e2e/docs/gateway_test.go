package docs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// patience is how long an answer may take on a loaded machine.
const patience = 30 * time.Second

// gateway is a running odin serve that documents' frames are held to.
type gateway struct {
	addr, admin string
	cmd         *exec.Cmd
}

// startGateway starts one on ports of its own; the test's end stops it.
func startGateway(t *testing.T, c *checker, args ...string) *gateway {
	t.Helper()
	g := &gateway{addr: freePort(t), admin: freePort(t)}
	g.cmd = exec.Command(c.odin, append([]string{
		"serve", "--addr", g.addr, "--admin-addr", g.admin, "--data-dir", t.TempDir(), "--drain", "1s", "--memory-limit", "512MiB",
	}, args...)...)
	var log syncBuffer
	g.cmd.Env = []string{}
	g.cmd.Stdout, g.cmd.Stderr = &log, &log
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if exec.Command(c.odin, "health", "--ready", "--url", "http://"+g.admin).Run() == nil {
			return g
		}
	}
	t.Fatalf("odin serve is not ready after %v:\n%s", patience, log.String())
	return nil
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// syncBuffer is a bytes.Buffer that a process may write to while a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// publish stores one message and returns its position.
func (g *gateway) publish(channel string, data []byte) (epoch string, seq float64, err error) {
	body, err := json.Marshal(map[string]any{"ch": channel, "data": json.RawMessage(data)})
	if err != nil {
		return "", 0, err
	}
	resp, err := http.Post("http://"+g.admin+"/v1/publish", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("publish to %s: %s %s", channel, resp.Status, said)
	}
	var at struct {
		Epoch string
		Seq   float64
	}
	err = json.Unmarshal(said, &at)
	return at.Epoch, at.Seq, err
}

// conn is a client of a gateway. One goroutine.
type conn struct {
	ws    *websocket.Conn
	hello map[string]any
}

func (g *gateway) dial() (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, "ws://"+g.addr+"/ws", &websocket.DialOptions{Subprotocols: []string{"odin.v1.json"}})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(1 << 20)
	c := &conn{ws: ws}
	c.hello, err = c.next()
	return c, err
}

func (c *conn) close() { _ = c.ws.CloseNow() }

func (c *conn) send(text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageText, []byte(text))
}

// next returns the next frame; its "d" stays as it came.
func (c *conn) next() (map[string]any, error) { return c.nextBy(time.Now().Add(patience)) }

// nextBy is next with its deadline: heartbeats would wind up patience for ever.
func (c *conn) nextBy(end time.Time) (map[string]any, error) {
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	_, b, err := c.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	return frame(string(b))
}

// until returns the next frame of type t, and every frame before it.
func (c *conn) until(t string) (got map[string]any, before []map[string]any, err error) {
	for end := time.Now().Add(patience); ; {
		f, err := c.nextBy(end)
		if err != nil {
			return nil, before, fmt.Errorf("waiting for %s: %w", t, err)
		}
		if f["t"] == t {
			return f, before, nil
		}
		before = append(before, f)
	}
}

// frame decodes one; the payload d becomes its text, so that it is compared byte for byte.
func frame(text string) (map[string]any, error) {
	var f map[string]any
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	if _, ok := f["d"]; ok {
		var raw struct {
			D json.RawMessage `json:"d"`
		}
		if err := json.Unmarshal([]byte(text), &raw); err != nil {
			return nil, err
		}
		f["d"] = strings.TrimSpace(string(raw.D))
	}
	return f, nil
}
