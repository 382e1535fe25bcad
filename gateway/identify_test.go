package gateway

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/odin-ws/odin/gateway/auth"
)

// A token may come in four ways, of which one at a time, and none is echoed.
func TestWhereATokenMayBe(t *testing.T) {
	log := new(lines)
	tokens := tokensFor(t, nil)
	g := newTestGateway(t, func(c *Config) { c.Tokens, c.Log = tokens, log.logger() })
	token := mint(t, tokenSecret, claims())
	for name, c := range map[string]struct {
		changes []string
		status  int
	}{
		"header":             {[]string{"+Authorization: Bearer " + token}, 101},
		"lower case":         {[]string{"+authorization: bearer  " + token}, 101},
		"access_token":       {[]string{"=GET /ws?access_token=" + token + " HTTP/1.1"}, 101},
		"token":              {[]string{"=GET /ws?x=1&token=" + token + "&y HTTP/1.1"}, 101},
		"escaped":            {[]string{"=GET /ws?token=" + strings.ReplaceAll(token, ".", "%2E") + " HTTP/1.1"}, 101},
		"subprotocol":        {[]string{"+Sec-WebSocket-Protocol: odin.v1.json, odin.token." + token}, 101},
		"subprotocol, first": {[]string{"+Sec-WebSocket-Protocol: odin.token." + token, "+Sec-WebSocket-Protocol: odin.v1.json"}, 101},
		"nowhere":            {nil, 401},
		"empty":              {[]string{"+Authorization: Bearer"}, 401},
		"another scheme":     {[]string{"+Authorization: Basic " + token}, 401},
		"another parameter":  {[]string{"=GET /ws?jwt=" + token + " HTTP/1.1"}, 401},
		"a cookie":           {[]string{"+Cookie: token=" + token}, 401},
		"twice":              {[]string{"+Authorization: Bearer " + token, "=GET /ws?token=" + token + " HTTP/1.1"}, 400},
		"twice in the query": {[]string{"=GET /ws?token=" + token + "&access_token=" + token + " HTTP/1.1"}, 400},
		"too long":           {[]string{"+Authorization: Bearer " + strings.Repeat("a", 8000)}, 401},
	} {
		r := g.raw(t)
		r.send(g.head(c.changes...), 0)
		resp := r.wantStatus(c.status)
		for _, values := range resp.Header {
			if strings.Contains(strings.Join(values, " "), token[:20]) {
				t.Errorf("%s: the token is echoed: %v", name, values)
			}
		}
		if p := resp.Header.Get("Sec-WebSocket-Protocol"); strings.HasPrefix(name, "subprotocol") && p != "odin.v1.json" {
			t.Errorf("%s: subprotocol %q", name, p)
		}
		if c.status == 401 && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: WWW-Authenticate %q", name, resp.Header.Get("WWW-Authenticate"))
		}
		r.conn.Close()
	}
	g.wantNothingHeld(t, 0, 0)
	log.wantNone(t, token, string(tokenSecret))
}

// Bytes that come with or behind the head wait for the verdict, in order.
func TestCommandsBehindTheHead(t *testing.T) {
	g := newKeyedGateway(t, nil)
	r := g.raw(t)
	var all strings.Builder
	all.WriteString(g.head("+Authorization: Bearer " + mint(t, tokenSecret, claims())))
	for i := range 20 {
		all.WriteString(sayf(`{"op":"ping","id":%d}`, i))
	}
	all.WriteString(say(`{"op":"sub","id":99,"ch":["trade.a","book.a"]}`))
	r.send(all.String(), 100)
	r.wantStatus(http.StatusSwitchingProtocols)
	if f := r.text(); !strings.HasPrefix(f, `{"t":"hello"`) {
		t.Fatal(f)
	}
	for i := range 20 {
		if f := r.text(); f != fmt.Sprintf(`{"t":"pong","id":%d}`, i) {
			t.Fatal(f)
		}
	}
	if f := r.text(); !strings.Contains(f, `"rej":{"book.a":"forbidden"}`) {
		t.Fatal(f)
	}
}

// A storm of handshakes with tokens, good and bad, is let in or refused for what
// its tokens are, however few workers there are.
func TestTokenStorm(t *testing.T) {
	g := newKeyedGateway(t, nil)
	good, bad := mint(t, tokenSecret, claims()), mint(t, forger, claims())
	k := g.canaryAs(t, mint(t, tokenSecret, claims("channels", "canary")))
	const n = 400
	results := make(chan int, 2*n)
	var all sync.WaitGroup
	for i := range 2 * n {
		token, want := good, 101
		if i%2 == 1 {
			token, want = bad, 401
		}
		all.Go(func() {
			r, err := dialRaw(g.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			defer r.conn.Close()
			r.send(g.head("+Authorization: Bearer "+token), 0)
			resp, err := http.ReadResponse(r.in, &http.Request{Method: "GET"})
			if err != nil {
				t.Error(err)
				return
			}
			if resp.StatusCode != want {
				t.Errorf("%d, want %d", resp.StatusCode, want)
			}
			results <- resp.StatusCode
		})
	}
	all.Wait()
	k.stop()
	g.wantNothingHeld(t, 0, 0)
	if s := g.Stats(); s.AuthFailed["signature"] != n || s.Admitted != n+1 || s.Tokens.Sessions != 0 || s.Tokens.SessionBytes != 0 {
		t.Errorf("%v, %d admitted, %+v", s.AuthFailed, s.Admitted, s.Tokens)
	}
}

// fillPool occupies every worker until the function it returns is called.
func (g *testGateway) fillPool() (free func()) {
	hold := make(chan struct{})
	for g.submit(func() { <-hold }) == nil {
	}
	return sync.OnceFunc(func() { close(hold) })
}

// In a storm a handshake whose token is being verified is not the one that is
// dropped: it has done its part. As many as handshakes may be unfinished are
// verified, the rest is told to come again, and none has its token looked at in
// vain; and who is not done with its head keeps its place beside them.
func TestStormBeyondTheHandshakes(t *testing.T) {
	const most, all = 16, 200
	tokens := tokensFor(t, nil)
	g := newTestGateway(t, func(c *Config) { c.Tokens, c.MaxHandshakes, c.Shards = tokens, most, 1 })
	free := g.fillPool()
	defer free()
	head := g.head("+Authorization: Bearer " + mint(t, tokenSecret, claims()))
	results := make(chan int, all)
	for range all {
		go func() {
			r, err := dialRaw(g.Addr())
			if err != nil {
				results <- 0
				return
			}
			defer r.conn.Close()
			r.send(head, 0)
			resp, err := http.ReadResponse(r.in, &http.Request{Method: "GET"})
			if err != nil {
				results <- 0
				return
			}
			results <- resp.StatusCode
		}()
	}
	for range all - most { // refused with 503, or 408 or a reset where it was not read in time
		if status := <-results; status == 101 {
			t.Fatal("let in before the verdict")
		}
	}
	g.onShard(0, func(s *shard) {
		if s.verifying != most || s.heads != most {
			t.Errorf("%d being verified of %d handshakes", s.verifying, s.heads)
		}
	})
	slow := g.raw(t)
	slow.send(head[:40], 0)
	for range most {
		next := g.raw(t)
		next.send(head, 0)
		next.wantStatus(http.StatusServiceUnavailable)
		next.conn.Close()
	}
	free()
	for range most {
		if status := <-results; status != 101 {
			t.Errorf("%d for one whose token was verified", status)
		}
	}
	slow.send(head[40:], 0)
	slow.wantStatus(http.StatusSwitchingProtocols)
	slow.conn.Close()
	g.wantNothingHeld(t, 0, 0)
	if n := g.count.Admitted.Load(); n != most+1 {
		t.Errorf("%d admitted", n)
	}
	g.onShard(0, func(s *shard) {
		if s.verifying != 0 || s.heads != 0 {
			t.Errorf("%d, %d left", s.verifying, s.heads)
		}
	})
}

// However many may wait for a verdict, their tokens are bounded together; and those
// of who has gone make room.
func TestQueuedTokensAreBounded(t *testing.T) {
	tokens := tokensFor(t, nil)
	g := newTestGateway(t, func(c *Config) { c.Tokens, c.MaxHandshakes, c.Shards = tokens, 2000, 1 })
	free := g.fillPool()
	defer free()
	const fit = checkBytes / 7000
	head := g.head("+Authorization: Bearer " + strings.Repeat("a", 7000))
	queued := func() (n, bytes int) {
		g.onShard(0, func(s *shard) { n, bytes = len(s.checks.queue), s.checks.bytes })
		return n, bytes
	}
	var all []*raw
	for range fit {
		r := g.raw(t)
		r.send(head, 0)
		all = append(all, r)
	}
	g.eventually("all to wait", func() bool { n, bytes := queued(); return n == fit && bytes == fit*7000 })
	next := g.raw(t)
	next.send(head, 0)
	next.wantStatus(http.StatusServiceUnavailable)
	all[0].reset()
	all = all[1:]
	for range 2 { // one place, and none
		time.Sleep(2 * tick)
		r := g.raw(t)
		r.send(head, 0)
		all = append(all, r)
	}
	g.onShard(0, func(*shard) {})
	free()
	got := map[int]int{}
	for _, r := range all {
		resp, err := http.ReadResponse(r.in, &http.Request{Method: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		got[resp.StatusCode]++
	}
	if got[401] < fit-1 || got[401]+got[503] != fit+1 {
		t.Errorf("%v", got)
	}
	if n, bytes := queued(); n != 0 || bytes != 0 {
		t.Errorf("%d bytes of %d tokens are left", bytes, n)
	}
}

// Those who leave, or send on, while their tokens are looked at leave nothing.
func TestGoneWhileVerified(t *testing.T) {
	g := newKeyedGateway(t, nil)
	head := g.head("+Authorization: Bearer " + mint(t, tokenSecret, claims()))
	var all sync.WaitGroup
	for i := range 300 {
		all.Go(func() {
			r, err := dialRaw(g.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			r.send(head, 0)
			switch i % 3 {
			case 0:
				r.reset()
			case 1:
				r.conn.Close()
			default:
				r.send(strings.Repeat("\x00", 1<<16), 0)
				r.conn.Close()
			}
		})
	}
	all.Wait()
	g.wantNothingHeld(t, 0, 0)
}

// One who leaves while its token is verified is not kept in the waiting room.
func TestGoneBeforeItWaits(t *testing.T) {
	tokens := tokensFor(t, nil)
	g := newTestGateway(t, func(c *Config) { c.Tokens, c.MaxConnections, c.AdmissionWait, c.Shards = tokens, 1, time.Minute, 1 })
	token := mint(t, tokenSecret, claims())
	g.dialAs(token)
	free := g.fillPool()
	defer free()
	r := g.raw(t)
	r.send(g.head("+Authorization: Bearer "+token), 0)
	gone := func() (verifying int, hangup bool) {
		g.onShard(0, func(s *shard) {
			verifying = s.verifying
			for i := range s.slots.size() {
				c := s.slots.at(i)
				hangup = hangup || c.state == stateHead && c.flags&(flagReadable|flagHangup) != 0
			}
		})
		return verifying, hangup
	}
	g.eventually("it to be verified", func() bool { n, _ := gone(); return n == 1 })
	r.reset()
	g.eventually("its going to be seen", func() bool { _, hangup := gone(); return hangup })
	free()
	g.eventually("it to be forgotten", func() bool { return g.held() == 1 })
	if n := g.room.Counts().Waiting; n != 0 || g.count.Waited.Load() != 1 {
		t.Errorf("%d wait", n)
	}
}

// A full house says so without looking at tokens, and a token makes no place.
func TestFullWithTokens(t *testing.T) {
	tokens := tokensFor(t, nil)
	for _, wait := range []time.Duration{0, 300 * time.Millisecond} {
		g := newTestGateway(t, func(c *Config) { c.Tokens, c.MaxConnections, c.AdmissionWait = tokens, 2, wait })
		token := mint(t, tokenSecret, claims())
		first := g.dialAs(token)
		g.dialAs(token)
		for range 5 {
			if _, status := g.tryAs(token); status != 503 {
				t.Errorf("%d", status)
			}
		}
		first.CloseNow()
		g.eventually("the place to be free", func() bool { return g.gate.InUse() == 1 })
		if _, status := g.tryAs(token); status != 101 {
			t.Errorf("%d after one left", status)
		}
		if g.gate.InUse() != 2 {
			t.Errorf("%d at the gate", g.gate.InUse())
		}
	}
}

// Who waits for a place is let in by what its token is when the place comes.
func TestTokenEndsInTheWaitingRoom(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "revoked"), "")
	tokens := tokensFor(t, func(c *auth.Config) { c.Revoked = file })
	for name, token := range map[string]func() string{
		"expired": func() string { return mint(t, tokenSecret, claims("exp", time.Now().Unix()+2)) },
		"revoked": func() string { return mint(t, tokenSecret, claims("jti", "bad")) },
		"":        func() string { return mint(t, tokenSecret, claims("jti", "good")) },
	} {
		g := newTestGateway(t, func(c *Config) { c.Tokens, c.MaxConnections, c.AdmissionWait = tokens, 1, 20*time.Second })
		first := g.dialAs(mint(t, tokenSecret, claims()))
		r := g.raw(t)
		r.send(g.head("+Authorization: Bearer "+token()), 0)
		g.eventually("it to wait", func() bool { return g.room.Counts().Waiting == 1 })
		switch name {
		case "expired":
			time.Sleep(2100 * time.Millisecond)
		case "revoked":
			writeFile(t, file, "jti bad\n")
			g.eventually("the file to be read", func() bool { return tokens.Stats().Revoked == 1 })
		}
		first.CloseNow()
		if name == "" {
			r.wantStatus(http.StatusSwitchingProtocols)
			continue
		}
		r.wantStatus(http.StatusUnauthorized)
		if n := g.Stats().AuthFailed[name]; n != 1 {
			t.Errorf("%s: %d counted", name, n)
		}
		g.wantNothingHeld(t, 0, 0)
	}
}

// A panic while a token is verified, or acted upon, is one connection's.
func TestPanicOverAToken(t *testing.T) {
	var calls, bad atomic.Int64
	tokens := tokensFor(t, func(c *auth.Config) {
		c.Now = func() time.Time {
			if n := bad.Load(); n > 0 && calls.Add(1) == n {
				panic("a mistake of ours")
			}
			return time.Now()
		}
	})
	g := newTestGateway(t, func(c *Config) { c.Tokens, c.Shards = tokens, 1 })
	head := g.head("+Authorization: Bearer " + mint(t, tokenSecret, claims()))
	free := g.fillPool()
	defer free()
	var all []*raw
	for range 10 {
		r := g.raw(t)
		r.send(head, 0)
		all = append(all, r)
	}
	g.eventually("all to wait", func() bool {
		n := 0
		g.onShard(0, func(s *shard) { n = len(s.checks.queue) })
		return n == 10
	})
	bad.Store(1) // the first of the batch
	free()
	got := map[int]int{}
	for _, r := range all {
		resp, err := http.ReadResponse(r.in, &http.Request{Method: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		got[resp.StatusCode]++
		r.conn.Close()
	}
	if got[500] != 1 || got[101] != 9 {
		t.Errorf("%v", got)
	}
	if n := g.count.PoolPanics.Swap(0); n != 1 {
		t.Errorf("%d panics counted", n)
	}
	g.wantNothingHeld(t, 0, 0)

	g.onShard(0, func(s *shard) { s.sessions = nil })
	r := g.raw(t)
	r.send(head, 0)
	r.wantStatus(http.StatusInternalServerError)
	g.onShard(0, func(s *shard) { s.sessions = make(map[uint32]auth.Session) })
	if n := g.count.LoopPanics.Swap(0); n != 1 {
		t.Errorf("%d panics counted", n)
	}
	g.dialAs(mint(t, tokenSecret, claims()))
}

// With --reject ws a page can see that it is its token that is not good.
func TestTokenRejectedInside(t *testing.T) {
	tokens := tokensFor(t, nil)
	g := newTestGateway(t, func(c *Config) { c.Tokens, c.RejectWS = tokens, true })
	for name, header := range map[string][]string{
		"none": nil, "forged": {"+Authorization: Bearer " + mint(t, forger, claims())}, "too long": {"+Authorization: Bearer " + strings.Repeat("a", 8100)},
	} {
		r := g.raw(t)
		r.send(g.head(header...), 0)
		r.wantStatus(http.StatusSwitchingProtocols)
		if code, before := r.closed(); code != 4001 || len(before) != 0 {
			t.Errorf("%s: closed with %d after %q", name, code, before)
		}
	}
	g.wantNothingHeld(t, 0, 0)
	if n := g.Stats().Rejected["401"]; n != 3 {
		t.Errorf("%d counted", n)
	}
}

// jwksOf is a set with one secret, as a file may have it.
func jwksOf(kid string, secret []byte) string {
	return fmt.Sprintf(`{"keys":[{"kty":"oct","kid":%q,"alg":"HS256","k":%q}]}`, kid, base64.RawURLEncoding.EncodeToString(secret))
}

// ed is an Ed25519 key with a name, as an issuer rotates them.
type ed struct {
	kid     string
	private ed25519.PrivateKey
}

func newEd(t testing.TB, kid string) ed {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ed{kid, k}
}

func (k ed) jwk() string {
	return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, k.kid, base64.RawURLEncoding.EncodeToString(k.private.Public().(ed25519.PublicKey)))
}

func (k ed) mint(t testing.TB, c jwt.MapClaims) string {
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	token.Header["kid"] = k.kid
	text, err := token.SignedString(k.private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// When an issuer signs with a key that is new, the first handshake with it waits
// for the key and is let in; while the issuer does not answer, nobody else waits.
func TestKeyRotation(t *testing.T) {
	old, fresh := newEd(t, "old"), newEd(t, "new")
	var set atomic.Pointer[string]
	publish := func(keys ...ed) {
		var list []string
		for _, k := range keys {
			list = append(list, k.jwk())
		}
		text := `{"keys":[` + strings.Join(list, ",") + `]}`
		set.Store(&text)
	}
	publish(old)
	hold, asked := make(chan struct{}), make(chan struct{}, 100)
	var slow atomic.Bool
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		if slow.Load() {
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
		io.WriteString(w, *set.Load())
	}))
	defer issuer.Close()
	g := newKeyedGateway(t, func(c *auth.Config) {
		c.Keys, c.KeySets, c.FetchSpacing = nil, []string{issuer.URL}, time.Millisecond
	})
	<-asked
	in := g.dialAs(old.mint(t, claims()))

	slow.Store(true)
	publish(old, fresh)
	first := g.raw(t)
	first.send(g.head("+Authorization: Bearer "+fresh.mint(t, claims())), 0)
	<-asked
	for i := range 5 { // what it sends meanwhile waits with it
		first.send(sayf(`{"op":"ping","id":%d}`, i), 0)
		time.Sleep(tick / 2)
	}
	k := g.canaryAs(t, old.mint(t, claims("channels", "canary")))
	begin := time.Now()
	for range 20 {
		g.dialAs(old.mint(t, claims())).CloseNow()
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("20 others needed %v while a key was fetched", d)
	}
	g.eventually("the others to be gone", func() bool { return g.Stats().Tokens.Sessions == 2 })
	if n := first.in.Buffered(); n > 0 {
		t.Errorf("%d bytes before its key came", n)
	}
	// It is not asked about again before a set was fetched: for that it would need
	// a worker.
	free := g.fillPool()
	overloads := g.count.PoolOverloads.Load()
	time.Sleep(5 * tick)
	if n := g.count.PoolOverloads.Load() - overloads; n > 0 {
		t.Errorf("asked about %d times while its key was fetched", n)
	}
	free()
	close(hold)
	first.wantStatus(http.StatusSwitchingProtocols)
	if f := first.text(); !strings.HasPrefix(f, `{"t":"hello"`) {
		t.Errorf("after its key came: %s", f)
	}
	for i := range 5 {
		if f := first.text(); f != fmt.Sprintf(`{"t":"pong","id":%d}`, i) {
			t.Errorf("pong %d: %s", i, f)
		}
	}
	k.stop()

	// The same by the op auth; and one whose key never comes is not kept waiting.
	in.say(`{"op":"auth","id":1,"token":%q}`, fresh.mint(t, claims()))
	in.want("ack")
	begin = time.Now()
	if _, s := g.tryAs(newEd(t, "never").mint(t, claims())); s != 401 || time.Since(begin) > fetchPatience*tick+time.Second+slack {
		t.Errorf("%d after %v", s, time.Since(begin))
	}
}

// While no set of keys could be fetched, a token is not called bad: who has one is
// to come again.
func TestNoKeysYet(t *testing.T) {
	issuer := httptest.NewServer(http.NotFoundHandler())
	defer issuer.Close()
	g := newKeyedGateway(t, func(c *auth.Config) {
		c.Keys, c.KeySets, c.AnonymousRead = nil, []string{issuer.URL}, []string{"public.*"}
	})
	token := newEd(t, "a").mint(t, claims())
	r := g.raw(t)
	r.send(g.head("+Authorization: Bearer "+token), 0)
	if resp := r.wantStatus(503); resp.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	c := g.dialAs("")
	c.say(`{"op":"auth","id":1,"token":%q}`, token)
	if f := c.want("err"); string(f.Code) != `"limit"` || f.RetryMs == 0 {
		t.Error(f.raw)
	}
}

// A secret in a set that changes: the file is looked at, and sessions stay.
func TestSetInAFileChanges(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "jwks"), jwksOf("a", tokenSecret))
	g := newKeyedGateway(t, func(c *auth.Config) { c.Keys, c.KeySets = nil, []string{file} })
	token := mint(t, tokenSecret, claims())
	c := g.dialAs(token)
	writeFile(t, file, jwksOf("b", forger))
	g.eventually("the new set", func() bool { _, status := g.tryAs(token); return status == 401 })
	g.dialAs(mint(t, forger, claims()))
	c.say(`{"op":"ping","id":1}`)
	c.want("pong")
}
