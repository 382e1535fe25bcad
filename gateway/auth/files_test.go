package auth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
)

// jwk is the public half of a key as an issuer publishes it, with members changed.
func jwk(t testing.TB, key any, change ...any) map[string]any {
	t.Helper()
	j, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Marshal: jwkset.JWKMarshalOptions{Private: true}})
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]any{}
	b, _ := json.Marshal(j.Marshal())
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(change); i += 2 {
		m[change[i].(string)] = change[i+1]
	}
	return m
}

func jwks(t testing.TB, keys ...map[string]any) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// issuer is a server of a set of keys that a test changes.
type issuer struct {
	*httptest.Server
	text  atomic.Pointer[string]
	calls atomic.Int64
	hold  chan struct{} // not nil: requests wait for it
}

func newIssuer(t testing.TB, text string) *issuer {
	is := new(issuer)
	is.text.Store(&text)
	is.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		is.calls.Add(1)
		if is.hold != nil {
			select {
			case <-is.hold:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, *is.text.Load())
	}))
	t.Cleanup(is.Close)
	return is
}

func (is *issuer) set(text string) { is.text.Store(&text) }

// settled verifies until the answer is no longer that keys are on their way.
func settled(t testing.TB, tokens *Tokens, token string) (s Session, why Reason) {
	t.Helper()
	eventually(t, "a verdict", func() bool {
		s, why = tokens.Verify(token)
		return why != Fetching && why != Unavailable
	})
	return s, why
}

func TestRotation(t *testing.T) {
	old, fresh := jwk(t, rsaKey().Public(), "kid", "2026", "alg", "RS256", "use", "sig"), jwk(t, ecKey().Public(), "kid", "/2027+a=")
	is := newIssuer(t, jwks(t, old))
	tokens := newTokens(t, Config{KeySets: []string{is.URL + "/jwks"}, FetchSpacing: 300 * time.Millisecond})
	first, next := mint(t, "RS256", rsaKey(), good(), "kid", "2026"), mint(t, "ES256", ecKey(), good(), "kid", "/2027+a=")
	if _, why := settled(t, tokens, first); why != OK {
		t.Fatal(why)
	}
	if _, why := settled(t, tokens, mint(t, "RS256", rsaKey(), good())); why != OK {
		t.Errorf("without a kid: %v", why)
	}
	if _, why := tokens.Verify(mint(t, "PS256", rsaKey(), good(), "kid", "2026")); why != Algorithm {
		t.Errorf("another algorithm than the key's: %v", why)
	}

	// The issuer signs with a key nobody has heard of: it is fetched, once.
	is.set(jwks(t, old, fresh))
	if _, why := settled(t, tokens, next); why != OK {
		t.Fatalf("after the rotation: %v", why)
	}
	if _, why := tokens.Verify(first); why != OK {
		t.Errorf("the old key during the rotation: %v", why)
	}
	calls := is.calls.Load()
	if calls != 2 {
		t.Errorf("%d requests", calls)
	}

	// A flood of keys that don't exist makes no flood of requests.
	begin := time.Now()
	for i := range 20_000 {
		_, why := tokens.Verify(mint(t, "HS256", secret, good(), "kid", fmt.Sprint("no-", i)))
		if why != Unavailable && why != Fetching {
			t.Fatal(why)
		}
	}
	if n, most := is.calls.Load()-calls, int64(time.Since(begin)/(300*time.Millisecond))+2; n > most {
		t.Errorf("%d requests in %v", n, time.Since(begin))
	}

	// A key that is taken out is one no more after the next fetch.
	is.set(jwks(t, fresh))
	eventually(t, "the old key to be forgotten", func() bool {
		tokens.Verify(mint(t, "HS256", secret, good(), "kid", "again"))
		_, why := tokens.Verify(first)
		return why != OK
	})
}

// A key that comes while the allowance of requests is spent is fetched as soon as
// there is one again, without anybody's asking; until then its tokens are not called
// bad, and a kid that no issuer gives has nothing fetched.
func TestRotationTwiceAtOnce(t *testing.T) {
	first, second := jwk(t, edKey().Public(), "kid", "first"), jwk(t, ecKey().Public(), "kid", "second")
	is := newIssuer(t, jwks(t, first))
	tokens := newTokens(t, Config{KeySets: []string{is.URL}, FetchSpacing: 700 * time.Millisecond})
	if _, why := settled(t, tokens, mint(t, "EdDSA", edKey(), good(), "kid", "first")); why != OK {
		t.Fatal(why)
	}
	was := tokens.Fetches()
	unknown := mint(t, "EdDSA", edKey(), good(), "kid", "none")
	if _, why := tokens.Verify(unknown); why != Fetching { // spends the allowance
		t.Fatal(why)
	}
	eventually(t, "the set", func() bool { return tokens.Fetches() > was })
	if _, why := tokens.VerifyAgain(unknown); why != UnknownKey {
		t.Errorf("after its set was fetched: %v", why)
	}
	is.set(jwks(t, first, second))
	for _, kid := range []string{"../x", "a/b"} {
		if _, why := tokens.Verify(mint(t, "ES256", ecKey(), good(), "kid", kid)); why != UnknownKey {
			t.Errorf("%s: %v", kid, why)
		}
	}
	if len(tokens.rules.Load().fetched[0].ask) > 0 {
		t.Error("a locator has the set fetched")
	}
	next := mint(t, "ES256", ecKey(), good(), "kid", "second")
	if _, why := tokens.Verify(next); why != Unavailable {
		t.Errorf("while nothing may be fetched: %v", why)
	}
	eventually(t, "the set again", func() bool { return tokens.Fetches() > was+1 })
	if _, why := tokens.VerifyAgain(next); why != OK {
		t.Error(why)
	}

	// Nor is it called bad when the issuer fails.
	is.set("<html>")
	eventually(t, "a failure", func() bool { tokens.Verify(unknown); return tokens.Stats().FetchFails > 0 })
	eventually(t, "its end", func() bool { _, why := tokens.VerifyAgain(unknown); return why != Fetching })
	if _, why := tokens.VerifyAgain(unknown); why != Unavailable {
		t.Errorf("while the issuer fails: %v", why)
	}
}

// While the issuer does not answer nobody waits, and known keys count.
func TestSlowIssuer(t *testing.T) {
	is := newIssuer(t, jwks(t, jwk(t, edKey().Public(), "kid", "a")))
	is.hold = make(chan struct{}, 10)
	is.hold <- struct{}{}
	tokens := newTokens(t, Config{KeySets: []string{is.URL}, FetchSpacing: time.Millisecond})
	token := mint(t, "EdDSA", edKey(), good(), "kid", "a")
	if _, why := settled(t, tokens, token); why != OK {
		t.Fatal(why)
	}
	unknown := mint(t, "EdDSA", edKey(), good(), "kid", "b")
	eventually(t, "a request", func() bool { tokens.Verify(unknown); return is.calls.Load() == 2 })
	begin := time.Now()
	for range 100 {
		if _, why := tokens.Verify(unknown); why != Fetching {
			t.Fatal(why)
		}
		if _, why := tokens.Verify(token); why != OK {
			t.Fatal(why)
		}
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("200 tokens took %v", d)
	}
	is.hold <- struct{}{}
	is.hold <- struct{}{} // each verdict of "unknown" may have asked once more
	is.hold <- struct{}{}
	time.Sleep(5 * time.Millisecond)
}

// An issuer that is not there yet is no reason not to start, nor to call tokens bad.
func TestIssuerComesLater(t *testing.T) {
	is, log := newIssuer(t, "<html>"), new(logged)
	tokens := newTokens(t, Config{Keys: parsed(t, "EdDSA", publicPEM(newEd())), KeySets: []string{strings.Replace(is.URL, "//", "//t0ken@", 1) + "/jwks?key=hunter2"}, Log: log.logger()})
	token := mint(t, "EdDSA", edKey(), good(), "kid", "a")
	eventually(t, "the first failure", func() bool { return tokens.Stats().FetchFails > 0 })
	if _, why := tokens.Verify(token); why != Unavailable {
		t.Errorf("before any key was fetched: %v", why)
	}
	if text := log.String(); !strings.Contains(text, "/jwks") || strings.Contains(text, "hunter2") || strings.Contains(text, "t0ken") {
		t.Errorf("the log: %s", text)
	}
	if n := tokens.Stats().OldestMs; n != -1 {
		t.Errorf("fetched %d ms ago", n)
	}
	is.set(jwks(t, jwk(t, edKey().Public(), "kid", "a")))
	if _, why := settled(t, tokens, token); why != OK {
		t.Error(why)
	}
}

func TestSetsThatAreRefused(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, strings.Repeat(" ", 1<<16)); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	var target string
	down := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, http.StatusFound) }))
	defer down.Close()
	target = newIssuer(t, jwks(t, jwk(t, edKey().Public(), "kid", "a"))).URL
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, jwks(t, jwk(t, edKey().Public(), "kid", "a")))
	}))
	defer broken.Close()
	for name, c := range map[string]struct {
		url, says string
	}{
		"endless":             {endless.URL, "more than"},
		"an error page":       {broken.URL, "500"},
		"https to http":       {down.URL, "https"},
		"a secret":            {newIssuer(t, jwks(t, jwk(t, secret, "kid", "a"))).URL, "fetched"},
		"for encryption":      {newIssuer(t, jwks(t, jwk(t, edKey().Public(), "kid", "a", "use", "enc"))).URL, "not for verifying"},
		"alg of another kind": {newIssuer(t, jwks(t, jwk(t, rsaKey().Public(), "kid", "a", "alg", "HS256"))).URL, "no algorithm"},
		"empty":               {newIssuer(t, `{"keys":[]}`).URL, "no keys"},
		"no set":              {newIssuer(t, `[]`).URL, "no JSON set"},
	} {
		at, err := ParseKeySet(c.url)
		if err != nil {
			t.Fatal(err)
		}
		f := newFetched(at, &Config{FetchSpacing: time.Hour, Log: new(logged).logger()}, new(counts))
		f.client.Transport.(*http.Transport).TLSClientConfig = down.Client().Transport.(*http.Transport).TLSClientConfig
		if err := f.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if f.size() != 0 {
			t.Errorf("%s gives keys", name)
		}
	}
}

// A set in a file may have secrets, and is read again when it changes. One bad key
// does not spoil the others.
func TestSetInAFile(t *testing.T) {
	file, log := inDir(t, "jwks.json"), new(logged)
	write(t, file, jwks(t, jwk(t, secret, "kid", "s", "alg", "HS512"), map[string]any{"kty": "future"}, jwk(t, edKey().Public())))
	tokens := newTokens(t, Config{KeySets: []string{file}, Log: log.logger()})
	hmac, ed := mint(t, "HS512", secret, good(), "kid", "s"), mint(t, "EdDSA", edKey(), good(), "kid", "whatever")
	for _, token := range []string{hmac, ed} {
		if _, why := tokens.Verify(token); why != OK {
			t.Error(why)
		}
	}
	if _, why := tokens.Verify(mint(t, "HS256", secret, good(), "kid", "s")); why != Algorithm {
		t.Error(why)
	}
	write(t, file, jwks(t, jwk(t, edKey().Public())))
	eventually(t, "the secret to be gone", func() bool { _, why := tokens.Verify(hmac); return why == Algorithm })
	write(t, file, "{")
	eventually(t, "the bad file to be seen", func() bool { return strings.Contains(log.String(), "stays in force") })
	if _, why := tokens.Verify(ed); why != OK {
		t.Error(why)
	}
	if strings.Contains(log.String(), "MDEyMzQ1") {
		t.Errorf("a secret is in the log: %s", log)
	}
}

func TestRevocation(t *testing.T) {
	file, log := inDir(t, "revoked"), new(logged)
	write(t, file, "")
	tokens := newTokens(t, Config{Keys: parsed(t, "", secret), Revoked: file, Log: log.logger()})
	spaced := Session{Grant: &Grant{subject: fingerprintOf("sub", "ann\tsmith")}}
	var sessions []Session
	for _, c := range [][2]string{{"j1", "ann"}, {"j2", "ann"}, {"j3", "bob"}, {"", ""}} {
		s, why := tokens.Verify(mint(t, "HS256", secret, good("jti", c[0], "sub", c[1])))
		if why != OK || tokens.Revoked(&s) {
			t.Fatal(why)
		}
		sessions = append(sessions, s)
	}
	revoked := func() (list string) {
		for i := range sessions {
			list += fmt.Sprint(tokens.Revoked(&sessions[i]), " ")
		}
		return list
	}
	write(t, file, "jti\tj2\nsub ann\tsmith\n")
	eventually(t, "one token", func() bool { return revoked() == "false true false false " })
	if !tokens.Revoked(&spaced) {
		t.Error("the rest of the line is not the name")
	}
	write(t, file, "jti j2\nsub bob\n# sub ann\n")
	eventually(t, "one subject", func() bool { return revoked() == "false true true false " })
	write(t, file, "ann\n")
	eventually(t, "the bad file to be seen", func() bool { return strings.Contains(log.String(), "line 1: want") })
	os.Remove(file)
	eventually(t, "its going to be seen", func() bool { return strings.Contains(log.String(), "no such file") })
	if n := tokens.Stats().FileFails; n != 2 {
		t.Errorf("%d failures counted", n)
	}
	if revoked() != "false true true false " {
		t.Errorf("a file that can't be read lets them in again: %s", revoked())
	}
	write(t, file, "")
	eventually(t, "all to be let in again", func() bool { return revoked() == "false false false false " })
}

func TestConfigsThatAreRefused(t *testing.T) {
	keys := parsed(t, "", secret)
	for name, cfg := range map[string]Config{
		"no key":           {},
		"no such file":     {KeySets: []string{inDir(t, "none")}},
		"no such URL":      {KeySets: []string{"ftp://x/y"}},
		"no revocations":   {Keys: keys, Revoked: inDir(t, "none")},
		"a bad pattern":    {Keys: keys, AnonymousRead: []string{"a>"}},
		"another":          {Keys: keys, DefaultRead: []string{"*.a"}},
		"too large a file": {Keys: keys, Revoked: write(t, inDir(t, "large"), strings.Repeat("#\n", maxRevoked/2+1))},
	} {
		if tokens, err := NewTokens(cfg); err == nil {
			tokens.Close()
			t.Errorf("%s is taken", name)
		}
	}
}

func TestExposed(t *testing.T) {
	for name, want := range map[string]bool{
		"http://id.example/x": true, "http://10.0.0.1/x": true, "https://id.example/x": false,
		"http://127.0.0.1:9/x": false, "http://localhost/x": false, "http://[::1]/x": false,
	} {
		if at, err := ParseKeySet(name); err != nil || Exposed(at) != want {
			t.Errorf("%s: %v, %v", name, err, !want)
		}
	}
}
