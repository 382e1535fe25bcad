package auth

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// every has one key of each kind, and trusts one issuer and one audience.
func every(t testing.TB) *Tokens {
	var keys []Key
	keys = append(keys, parsed(t, "", secret)...)
	keys = append(keys, parsed(t, "", publicPEM(rsaKey()))...)
	keys = append(keys, parsed(t, "", publicPEM(ecKey()))...)
	keys = append(keys, parsed(t, "", publicPEM(edKey()))...)
	return newTokens(t, Config{
		Keys: keys, Issuers: []string{"https://old.example", "https://id.example"}, Audiences: []string{"odin", "odin-eu"},
		Revoked: write(t, inDir(t, "revoked"), "# yesterday\njti gone\nsub  mallory m.\n"),
	})
}

func TestGoodTokens(t *testing.T) {
	tokens := every(t)
	for name, token := range map[string]string{
		"HS256":       mint(t, "HS256", secret, good()),
		"RS256":       mint(t, "RS256", rsaKey(), good()),
		"ES256":       mint(t, "ES256", ecKey(), good()),
		"EdDSA":       mint(t, "EdDSA", edKey(), good()),
		"another iss": mint(t, "HS256", secret, good("iss", "https://old.example")),
		"many aud":    mint(t, "HS256", secret, good("aud", []string{"x", "odin-eu"})),
		"kid unknown": mint(t, "HS256", secret, good(), "kid", "2027-01"),
		"typ":         mint(t, "HS256", secret, good(), "typ", "at+jwt"),
		"one text":    mint(t, "HS256", secret, good("channels", "trade.* quote.X")),
		"nbf nearly":  mint(t, "HS256", secret, good("nbf", now.Add(4*time.Second).Unix())),
	} {
		s, why := tokens.Verify(token)
		if why != OK {
			t.Errorf("%s: %v", name, why)
			continue
		}
		if s.Grant.subject != fingerprintOf("sub", "ann") || !s.Grant.Reads.Covers("trade.BTC") || s.Grant.Reads.Covers("book.BTC") || s.Until != now.Add(time.Minute).UnixMilli() {
			t.Errorf("%s: %+v %v", name, s, s.Grant)
		}
	}
}

// unsigned is header and claims with any signature.
func unsigned(t testing.TB, header map[string]any, claims jwt.MapClaims, signature string) string {
	t.Helper()
	h, _ := json.Marshal(header)
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return encode(h) + "." + encode(c) + "." + signature
}

func TestAttacks(t *testing.T) {
	tokens := every(t)
	honest := mint(t, "RS256", rsaKey(), good())
	parts := strings.Split(honest, ".")
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	empty := []byte{}
	for _, a := range []struct {
		name  string
		token string
		want  Reason
	}{
		{"nothing", "", Malformed},
		{"dots", "..", Malformed},
		{"one part", "abc", Malformed},
		{"five parts, as JWE", "a.b.c.d.e", Malformed},
		{"not base64", "!!.!!.!!", Malformed},
		{"not JSON", "bm9w.bm9w.bm9w", Malformed},
		{"too long", mint(t, "HS256", secret, good("x", strings.Repeat("x", MaxToken))), Malformed},
		{"padding", honest + "=", Malformed},
		{"white space", " " + honest, Malformed},

		{"alg none", unsigned(t, map[string]any{"alg": "none"}, good(), ""), Algorithm},
		{"alg None", unsigned(t, map[string]any{"alg": "None"}, good(), ""), Algorithm},
		{"alg nOnE, with a signature", unsigned(t, map[string]any{"alg": "nOnE"}, good(), parts[2]), Algorithm},
		{"alg empty", unsigned(t, map[string]any{"alg": ""}, good(), ""), Algorithm},
		{"no alg", unsigned(t, map[string]any{"typ": "JWT"}, good(), ""), Algorithm},
		{"alg a number", unsigned(t, map[string]any{"alg": 1}, good(), ""), Algorithm},
		{"HS256 keyed by the RSA key's PEM", mint(t, "HS256", publicPEM(rsaKey()), good()), Signature},
		{"HS256 keyed by the PEM, trimmed", mint(t, "HS256", []byte(strings.TrimSpace(string(publicPEM(rsaKey())))), good()), Signature},
		{"HS256 keyed by nothing", mint(t, "HS256", empty, good()), Signature},
		{"HS512 of the HS256 secret", mint(t, "HS512", secret, good()), Algorithm},
		{"PS256 of the RS256 key", mint(t, "PS256", rsaKey(), good()), Algorithm},
		{"RS512 of the RS256 key", mint(t, "RS512", rsaKey(), good()), Algorithm},
		{"ES384 of no key", mint(t, "ES384", newEC(elliptic.P384()), good()), Algorithm},

		{"another RSA key", mint(t, "RS256", other, good()), Signature},
		{"no signature", parts[0] + "." + parts[1] + ".", Signature},
		{"claims exchanged", parts[0] + "." + strings.Split(mint(t, "HS256", secret, good("sub", "root")), ".")[1] + "." + parts[2], Signature},
		{"zero ECDSA signature", unsigned(t, map[string]any{"alg": "ES256"}, good(), encode(make([]byte, 64))), Signature},

		// Correctly signed, so that only the kid is wrong.
		{"kid a path", mint(t, "HS256", secret, good(), "kid", "../../../dev/null"), UnknownKey},
		{"kid an absolute path", mint(t, "HS256", secret, good(), "kid", "/etc/odin/key"), UnknownKey},
		{"kid a URL", mint(t, "HS256", secret, good(), "kid", "https://evil.example/jwks.json"), UnknownKey},
		{"kid a file URL", mint(t, "HS256", secret, good(), "kid", "file:///dev/null"), UnknownKey},
		{"kid SQL", mint(t, "HS256", secret, good(), "kid", "x' UNION SELECT 'k"), UnknownKey},
		{"kid a command", mint(t, "HS256", secret, good(), "kid", "|id"), UnknownKey},
		{"kid with NUL", mint(t, "HS256", secret, good(), "kid", "a\x00b"), UnknownKey},
		{"kid long", mint(t, "HS256", secret, good(), "kid", strings.Repeat("k", maxKeyID+1)), UnknownKey},
		{"kid an object", mint(t, "HS256", secret, good(), "kid", map[string]any{}), UnknownKey},
		{"crit", mint(t, "HS256", secret, good(), "crit", []string{"b64"}, "b64", false), Malformed},
		{"jwk of the attacker", mint(t, "RS256", other, good(), "jwk", map[string]any{"kty": "RSA", "e": "AQAB", "n": "x"}), Signature},
		{"jku of the attacker", mint(t, "RS256", other, good(), "jku", "https://evil.example/jwks.json"), Signature},

		{"expired", mint(t, "HS256", secret, good("exp", now.Add(-time.Hour).Unix())), Expired},
		{"expired a moment ago", mint(t, "HS256", secret, good("exp", now.Unix())), Expired},
		{"no exp", mint(t, "HS256", secret, good("exp", nil)), Claims},
		{"exp null", unsignedBut(t, `{"exp":null,"iss":"https://id.example","aud":"odin"}`), Claims},
		{"exp a text", mint(t, "HS256", secret, good("exp", "tomorrow")), Claims},
		{"exp huge", mint(t, "HS256", secret, good("exp", json.Number("-1e400"))), Malformed},
		{"nbf to come", mint(t, "HS256", secret, good("nbf", now.Add(time.Minute).Unix())), NotYet},
		{"another iss", mint(t, "HS256", secret, good("iss", "https://id.example.evil")), Issuer},
		{"no iss", mint(t, "HS256", secret, good("iss", nil)), Issuer},
		{"another aud", mint(t, "HS256", secret, good("aud", "billing")), Audience},
		{"no aud", mint(t, "HS256", secret, good("aud", nil)), Claims},
		{"channels of no such form", mint(t, "HS256", secret, good("channels", []string{"trade.>"})), Claims},
		{"channels reserved", mint(t, "HS256", secret, good("channels", []string{"_sys.*"})), Claims},
		{"channels too many", mint(t, "HS256", secret, good("channels", strings.Repeat("a ", MaxPatterns+1))), Claims},
		{"channels an object", mint(t, "HS256", secret, good("channels", map[string]any{"a": 1})), Claims},
		{"channels null", unsignedBut(t, `{"exp":1800000060,"iss":"https://id.example","aud":"odin","channels":null}`), Claims},
		{"channels of numbers", mint(t, "HS256", secret, good("channels", []int{1})), Claims},
		{"claims of another spelling", unsignedBut(t, `{"EXP":1800000060,"iss":"https://id.example","aud":"odin"}`), Claims},
		{"exp twice", unsignedBut(t, `{"exp":1800000060,"iss":"https://id.example","aud":"odin","exp":1}`), Expired},
		{"jti a number", mint(t, "HS256", secret, good("jti", 7)), Claims},
		{"sub a number", mint(t, "HS256", secret, good("sub", 7)), Claims},
		{"jti revoked", mint(t, "HS256", secret, good("jti", "gone")), Revoked},
		{"sub revoked", mint(t, "HS256", secret, good("sub", "mallory m.")), Revoked},
	} {
		if s, why := tokens.Verify(a.token); why != a.want || s.Grant != nil {
			t.Errorf("%s: %v, want %v", a.name, why, a.want)
		}
	}
	if _, why := tokens.Verify(honest); why != OK {
		t.Errorf("afterwards an honest token is refused: %v", why)
	}
}

// unsignedBut is claims as text, well signed.
func unsignedBut(t testing.TB, claims string) string {
	t.Helper()
	text := encode([]byte(`{"alg":"HS256"}`)) + "." + encode([]byte(claims))
	sig, err := jwt.SigningMethodHS256.Sign(text, secret)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(sig)
}

// An algorithm may be chosen for a key, and is then the only one.
func TestPinnedAlgorithms(t *testing.T) {
	p384, p521 := newEC(elliptic.P384()), newEC(elliptic.P521())
	for _, k := range []struct {
		alg     string
		text    []byte
		private any
	}{
		{"HS384", secret, secret}, {"HS512", secret, secret},
		{"RS384", publicPEM(rsaKey()), rsaKey()}, {"RS512", publicPEM(rsaKey()), rsaKey()},
		{"PS256", publicPEM(rsaKey()), rsaKey()}, {"PS384", publicPEM(rsaKey()), rsaKey()}, {"PS512", publicPEM(rsaKey()), rsaKey()},
		{"ES384", publicPEM(p384), p384}, {"ES512", publicPEM(p521), p521},
	} {
		tokens := newTokens(t, Config{Keys: parsed(t, k.alg, k.text)})
		if _, why := tokens.Verify(mint(t, k.alg, k.private, good())); why != OK {
			t.Errorf("%s: %v", k.alg, why)
		}
		for alg, private := range map[string]any{"HS256": secret, "RS256": rsaKey(), "ES256": ecKey(), "EdDSA": edKey()} {
			if _, why := tokens.Verify(mint(t, alg, private, good())); why != Algorithm {
				t.Errorf("a key for %s takes %s: %v", k.alg, alg, why)
			}
		}
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this Go makes no small keys:", err) // then none is read either
	}
	for name, k := range map[string]struct {
		alg  string
		text []byte
	}{
		"empty":             {"", nil},
		"short secret":      {"", secret[:31]},
		"short for HS512":   {"HS512", secret[:63]},
		"RSA for HS256":     {"HS256", publicPEM(rsaKey())},
		"secret for RS256":  {"RS256", secret},
		"P-256 for ES384":   {"ES384", publicPEM(ecKey())},
		"RSA for EdDSA":     {"EdDSA", publicPEM(rsaKey())},
		"1024 bits":         {"", publicPEM(small)},
		"private":           {"", []byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n")},
		"broken PEM":        {"", []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n")},
		"set of keys":       {"", []byte(`{"keys":[]}`)},
		"P-224":             {"", publicPEM(newEC(elliptic.P224()))},
		"no such algorithm": {"HS1", secret},
	} {
		if keys, err := ParseKeys(k.alg, k.text); err == nil {
			t.Errorf("%s: %v", name, keys)
		} else if len(k.text) > 8 && strings.Contains(err.Error(), string(k.text[:8])) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}

func TestCutAlgorithm(t *testing.T) {
	for text, want := range map[string][2]string{
		"PS256:/etc/key.pem": {"PS256", "/etc/key.pem"}, "/etc/key.pem": {"", "/etc/key.pem"},
		"c:key": {"", "c:key"}, "ES256": {"", "ES256"}, "none:x": {"", "none:x"},
	} {
		if alg, rest := CutAlgorithm(text); alg != want[0] || rest != want[1] {
			t.Errorf("%s: %q, %q", text, alg, rest)
		}
	}
}

// What a token without the claim may read is the operator's choice, and nothing
// unless chosen; an empty claim is a claim.
func TestDefaultRead(t *testing.T) {
	keys := parsed(t, "", secret)
	without, empty := mint(t, "HS256", secret, good("channels", nil)), mint(t, "HS256", secret, good("channels", []string{}))
	for _, c := range []struct {
		fallback []string
		token    string
		reads    string
	}{{nil, without, ""}, {[]string{"a", "b.*"}, without, "a b.*"}, {[]string{"*"}, empty, ""}} {
		s, why := newTokens(t, Config{Keys: keys, DefaultRead: c.fallback}).Verify(c.token)
		if why != OK || s.Grant.Reads.String() != c.reads {
			t.Errorf("%v: %v, reads %v", c.fallback, why, s.Grant)
		}
	}
}

// Tokens without limit of time in practice are held to it all the same.
func TestFarExpiry(t *testing.T) {
	tokens := every(t)
	for _, exp := range []any{json.Number("99999999999999999"), json.Number("253402300799.5")} {
		s, why := tokens.Verify(mint(t, "HS256", secret, good("exp", exp)))
		if why == OK && s.Until <= now.UnixMilli() {
			t.Errorf("exp %v is let in, and over at once: %d", exp, s.Until)
		}
	}
}

// Connections with equal claims share one grant, and it goes with the last.
func TestGrantsAreShared(t *testing.T) {
	tokens := every(t)
	a, _ := tokens.Verify(mint(t, "HS256", secret, good("jti", "1", "channels", []string{"b.*", "a"})))
	b, _ := tokens.Verify(mint(t, "EdDSA", edKey(), good("jti", "2", "channels", "a b.* a")))
	c, _ := tokens.Verify(mint(t, "HS256", secret, good("sub", "bob", "channels", []string{"b.*", "a"})))
	if a.Grant != b.Grant || a.Grant == c.Grant || a.Grant.Reads != c.Grant.Reads {
		t.Errorf("%p %p %p, patterns %p %p", a.Grant, b.Grant, c.Grant, a.Grant.Reads, c.Grant.Reads)
	}
	d, _ := tokens.Verify(mint(t, "HS256", secret, good("channels", strings.Repeat("a ", MaxPatterns-1)+"b.*")))
	if d.Grant == nil || d.Grant != a.Grant {
		t.Errorf("with as many patterns as may be: %p, %p", d.Grant, a.Grant)
	}
	if !a.Grant.SameSubject(b.Grant) || a.Grant.SameSubject(c.Grant) {
		t.Error("subjects are confused")
	}
	for _, sub := range []string{"ann", "bob"} { // nor where nothing is read
		e, _ := tokens.Verify(mint(t, "HS256", secret, good("sub", sub, "channels", "")))
		if e.Grant.SameSubject(a.Grant) != (sub == "ann") || !e.Grant.Reads.Empty() {
			t.Errorf("%s: %+v", sub, e.Grant)
		}
		runtime.KeepAlive(d)
		d = e
	}
	if n := tokens.Stats().Grants; n < 3 {
		t.Errorf("%d grants", n)
	}
	a, b, c = Session{}, Session{}, Session{}
	eventually(t, "grants nobody has to be forgotten", func() bool {
		runtime.GC()
		return tokens.Stats().Grants == 0 && tokens.grants.patterns.size() == 0
	})
}

func TestPatterns(t *testing.T) {
	p, err := ParsePatterns([]string{"trade.eu.*", "trade.BTC-USD", "quote.*", "quote.*", "a"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"trade.BTC-USD": true, "trade.eu.x": true, "trade.eu.x.y": true, "trade.eu.*": true, "trade.eu.x.*": true,
		"quote.a": true, "quote.*": true, "a": true,
		"trade.*": false, "trade.eu": false, "trade.euro": false, "trade.BTC-USD.x": false, "trade.BTC-USD.*": false,
		"quote": false, "quotes.a": false, "a.*": false, "a.b": false, "b": false, "": false, "*": false,
	} {
		if p.Covers(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	if got := p.String(); got != "a trade.BTC-USD quote.* trade.eu.*" {
		t.Error(got)
	}
	all, _ := ParsePatterns([]string{"*"})
	if !all.Covers("x") || !all.Covers("x.*") || all.Empty() || (*Patterns)(nil).Covers("x") || !(*Patterns)(nil).Empty() || !new(Patterns).Empty() {
		t.Error("all, or none")
	}
	for _, bad := range []string{"", ".*", "*.x", "a.*.b", "a..b", "a*", "_sys", "_sys.x", "a b", "a>", ">", "é", strings.Repeat("a", 129), strings.Repeat("a", 127) + ".*"} {
		if _, err := ParsePatterns([]string{bad}); err == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
}

func TestAPIKeys(t *testing.T) {
	feed, line, err := NewAPIKey("feed-1", RolePublish, []string{"trade.*", "bbo.X"})
	if err != nil {
		t.Fatal(err)
	}
	ops, admin, err := NewAPIKey("ops", RoleAdmin, nil)
	if err != nil || feed == ops || !strings.HasPrefix(feed, keyPrefix) || strings.Contains(line, feed) {
		t.Fatalf("%v: %s, %s", err, feed, line)
	}
	file, log := inDir(t, "keys"), new(logged)
	keys, err := NewAPIKeys(write(t, file, "# keys\n\n"+line+"\n"+admin+"\n"), nil, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	f, a := keys.Find(feed), keys.Find(ops)
	if f == nil || f.Name != "feed-1" || f.Role != RolePublish || !f.Publishes.Covers("trade.a") || f.Publishes.Covers("bbo.Y") {
		t.Errorf("%+v", f)
	}
	if a == nil || a.Role != RoleAdmin || !a.Publishes.Empty() {
		t.Errorf("%+v", a)
	}
	sum := sha256.Sum256([]byte(feed))
	for _, wrong := range []string{"", feed + "x", feed[:len(feed)-1], strings.ToUpper(feed), hex.EncodeToString(sum[:]), line, strings.Repeat("x", maxAPIKey+1)} {
		if keys.Find(wrong) != nil {
			t.Errorf("%q is a key", wrong)
		}
	}

	// A key that is taken out is one no more; a file that can't be read changes nothing.
	write(t, file, admin)
	eventually(t, "the file to be read again", func() bool { return keys.Find(feed) == nil && keys.Len() == 1 })
	write(t, file, "feed-1 "+feed)
	eventually(t, "the bad file to be seen", func() bool { return strings.Contains(log.String(), "stays in force") })
	if keys.Find(ops) == nil || keys.ReloadFails() != 1 {
		t.Error("a bad file took the keys away")
	}
	if strings.Contains(log.String(), feed) {
		t.Errorf("a key is in the log: %s", log)
	}

	// Nor is the last one, and nobody passes then; the next one does.
	write(t, file, "# none\n")
	eventually(t, "the last key to end", func() bool { return keys.Find(ops) == nil && keys.Find(feed) == nil && keys.Len() == 0 })
	if !strings.Contains(log.String(), "The last API key was taken out") {
		t.Errorf("not said: %s", log)
	}
	write(t, file, line)
	eventually(t, "the next key", func() bool { return keys.Find(feed) != nil && keys.Find(ops) == nil })

	for name, text := range map[string]string{
		"empty": "# none\n", "a secret": feed, "three fields": "a publish sha256:00", "role": "a reader * " + strings.Fields(line)[3],
		"pattern": "a publish tr>de " + strings.Fields(line)[3], "short hash": "a publish * sha256:00", "no hex": "a publish * sha256:" + strings.Repeat("z", 64),
		"metrics that publish": "a metrics * " + strings.Fields(line)[3],
		"twice":                line + "\n" + line,
	} {
		if _, err := NewAPIKeys("", []byte(text), nil); err == nil || strings.Contains(err.Error(), feed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range [][]string{{"", "publish"}, {"two words", "publish"}, {"#x", "publish"}, {"x", "root"}} {
		if _, _, err := NewAPIKey(bad[0], Role(bad[1]), nil); err == nil {
			t.Errorf("%q makes a key", bad)
		}
	}
}
