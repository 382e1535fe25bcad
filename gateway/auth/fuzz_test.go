package auth

import (
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzVerify feeds any text as a token, and signed with a good key any text as its
// header and claims. Nothing may panic, and what is let in must be signed and have
// every claim that is asked for.
func FuzzVerify(f *testing.F) {
	clock := func() time.Time { return now }
	tokens, err := NewTokens(Config{
		Keys: parsed(f, "", secret), Issuers: []string{"i"}, Audiences: []string{"a"}, Now: clock,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(tokens.Close)
	strict := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithTimeFunc(clock), jwt.WithExpirationRequired(), jwt.WithAudience("a"), jwt.WithIssuer("i"), jwt.WithLeeway(leeway))
	f.Fuzz(func(t *testing.T, token string, sign bool) {
		if head, _, ok := cutSignature(token); ok && sign {
			signature, err := jwt.SigningMethodHS256.Sign(head, secret)
			if err != nil {
				t.Fatal(err)
			}
			token = head + "." + encode(signature)
		}
		s, why := tokens.Verify(token)
		if why != OK {
			if s.Grant != nil || why == None {
				t.Fatalf("%v, with a session", why)
			}
			return
		}
		var c jwt.MapClaims
		if _, err := strict.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return secret, nil }); err != nil {
			t.Fatalf("let in, though %v", err)
		}
		if s.Until <= now.UnixMilli() || s.Grant.Reads == nil {
			t.Fatalf("%+v", s)
		}
		for _, pattern := range strings.Fields(s.Grant.Reads.String()) {
			if pattern != "*" && !s.Grant.Reads.Covers(pattern) {
				t.Fatalf("%q does not cover itself", pattern)
			}
		}
	})
}

// cutSignature splits a token behind its second part.
func cutSignature(token string) (head, signature string, ok bool) {
	i := strings.LastIndexByte(token, '.')
	if i < 0 || strings.Count(token, ".") != 2 {
		return "", "", false
	}
	return token[:i], token[i+1:], true
}
