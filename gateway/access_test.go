package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/odin-ws/odin/gateway/auth"
)

// tokenSecret signs the tests' tokens; forger signs those of somebody else.
var tokenSecret, forger = []byte("0123456789abcdef0123456789abcdef"), []byte("fedcba9876543210fedcba9876543210")

// claims are good ones for a while, changed.
func claims(change ...any) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "ann", "jti": "j1", "aud": "odin", "exp": time.Now().Add(time.Hour).Unix(), "channels": []string{"trade.*"}}
	for i := 0; i < len(change); i += 2 {
		c[change[i].(string)] = change[i+1]
	}
	return c
}

func mint(t testing.TB, secret []byte, c jwt.MapClaims) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(secret)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tokensFor are Tokens of tokenSecret and the audience odin, changed.
func tokensFor(t testing.TB, change func(*auth.Config)) *auth.Tokens {
	t.Helper()
	keys, err := auth.ParseKeys("", tokenSecret)
	if err != nil {
		t.Fatal(err)
	}
	cfg := auth.Config{Keys: keys, Audiences: []string{"odin"}}
	if change != nil {
		change(&cfg)
	}
	tokens, err := auth.NewTokens(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokens.Close)
	return tokens
}

// newKeyedGateway is newTestGateway where tokens are needed.
func newKeyedGateway(t *testing.T, change func(*auth.Config)) *testGateway {
	t.Helper()
	tokens := tokensFor(t, change)
	return newTestGateway(t, func(c *Config) { c.Tokens = tokens })
}

// dialAs connects with a token; "" is none.
func (g *testGateway) dialAs(token string) *client {
	g.t.Helper()
	c, status := g.tryAs(token)
	if c == nil {
		g.t.Fatalf("refused with %d", status)
	}
	return c
}

func (g *testGateway) tryAs(token string) (*client, int) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 10*time.Second)
	defer cancel()
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if token != "" {
		opts.HTTPHeader.Set("Authorization", "Bearer "+token)
	}
	c, resp, err := websocket.Dial(ctx, "ws://"+g.Addr()+"/ws", opts)
	if err != nil {
		if resp == nil {
			g.t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	g.t.Cleanup(func() { c.CloseNow() })
	cl := &client{t: g.t, Conn: c}
	cl.hello = cl.want("hello")
	return cl, http.StatusSwitchingProtocols
}

// lines is a log that tests search.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// wantNone fails for every secret of which the log has a telling part.
func (l *lines) wantNone(t *testing.T, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		for _, part := range append(strings.Split(secret, "."), secret) {
			if len(part) >= 16 && strings.Contains(l.String(), part) {
				t.Errorf("a secret is in the log: %s", l)
				return
			}
		}
	}
}

func writeFile(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path+".next", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// answerTo is what becomes of one command on a new connection: the status of a
// refused handshake, the close code, "ack", or the code it was refused with.
func (g *testGateway) answerTo(token, command string) string {
	g.t.Helper()
	c, status := g.tryAs(token)
	if c == nil {
		return strconv.Itoa(status)
	}
	defer c.CloseNow()
	c.say("%s", command)
	for code := ""; ; {
		f, err := c.next()
		var end websocket.CloseError
		switch {
		case errors.As(err, &end):
			return strconv.Itoa(int(end.Code))
		case err != nil:
			g.t.Fatal(err)
		case f.T == "err":
			json.Unmarshal(f.Code, &code)
			if code != "unauthorized" { // after that one the close must follow
				return code
			}
		case f.T == "ack":
			for _, why := range f.Rej {
				return why
			}
			return "ack"
		}
	}
}
