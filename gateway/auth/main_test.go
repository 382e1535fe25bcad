package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the time of every test that does not wait.
var now = time.Unix(1_800_000_000, 0)

// secret is an HMAC key that is long enough for every HS algorithm.
var secret = []byte(strings.Repeat("0123456789abcdef", 4))

// Private keys are made once: RSA takes a while.
var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return k
	})
	ecKey = sync.OnceValue(func() *ecdsa.PrivateKey { return newEC(elliptic.P256()) })
	edKey = sync.OnceValue(newEd)
)

func newEd() ed25519.PrivateKey {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func newEC(curve elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// publicPEM is the public half of a key as an operator has it.
func publicPEM(private crypto.Signer) []byte {
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// parsed is ParseKeys of what must be good.
func parsed(t testing.TB, alg string, text []byte) []Key {
	t.Helper()
	keys, err := ParseKeys(alg, text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// good are claims that nothing is wrong with, changed.
func good(change ...any) jwt.MapClaims {
	c := jwt.MapClaims{
		"iss": "https://id.example", "aud": "odin", "sub": "ann", "jti": "j1",
		"exp": now.Add(time.Minute).Unix(), "channels": []string{"trade.*"},
	}
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == nil {
			delete(c, change[i].(string))
		} else {
			c[change[i].(string)] = change[i+1]
		}
	}
	return c
}

// mint signs claims; header is "name", value, … to be added.
func mint(t testing.TB, alg string, key any, claims jwt.MapClaims, header ...any) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.GetSigningMethod(alg), claims)
	for i := 0; i < len(header); i += 2 {
		token.Header[header[i].(string)] = header[i+1]
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// newTokens makes Tokens that end with the test.
func newTokens(t testing.TB, cfg Config) *Tokens {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return now }
	}
	tokens, err := NewTokens(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokens.Close)
	return tokens
}

// logged is a logger whose lines can be searched.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// write makes a file, or replaces its text under the same name at once.
func write(t testing.TB, path, text string) string {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func inDir(t testing.TB, name string) string { return filepath.Join(t.TempDir(), name) }

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("timed out waiting for " + what)
		}
	}
}

func TestReasonsAreNamed(t *testing.T) {
	seen := map[string]bool{}
	for r := range Reasons {
		if r.String() == "" || seen[r.String()] || r != OK && r.Error() == "" {
			t.Errorf("reason %d is %q: %q", r, r.String(), r.Error())
		}
		seen[fmt.Sprint(r)] = true
	}
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
