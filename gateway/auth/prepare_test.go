package auth

import (
	"strings"
	"testing"
)

// Another Config is taken whole or not at all; sets it has in common with the one
// before are not fetched again, and sessions there are stay what they are.
func TestPrepare(t *testing.T) {
	set := newIssuer(t, jwks(t, jwk(t, edKey().Public())))
	none, ann := inDir(t, "none"), inDir(t, "ann")
	write(t, none, "")
	write(t, ann, "sub ann\n")
	tokens := newTokens(t, Config{KeySets: []string{set.URL}, Revoked: none})
	token := mint(t, "EdDSA", edKey(), good("sub", "ann"))
	session, why := settled(t, tokens, token)
	if why != OK {
		t.Fatal(why)
	}
	calls, fetches := set.calls.Load(), tokens.Fetches()

	for name, bad := range map[string]Config{
		"no keys":     {},
		"no file":     {KeySets: []string{set.URL}, Revoked: "/none"},
		"bad set":     {KeySets: []string{set.URL, ann}},
		"bad pattern": {KeySets: []string{set.URL}, AnonymousRead: []string{"a..b"}},
	} {
		if take, err := tokens.Prepare(bad); err == nil || take != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, why := tokens.Verify(token); why != OK || tokens.Anonymous() != nil || tokens.Fetches() != fetches {
		t.Errorf("what was refused has changed something: %v", why)
	}

	take, err := tokens.Prepare(Config{KeySets: []string{set.URL}, Revoked: none, AnonymousRead: []string{"public.*"}})
	if err != nil {
		t.Fatal(err)
	}
	if tokens.Anonymous() != nil {
		t.Error("in force before it was taken")
	}
	take()
	if s, why := tokens.Verify(token); why != OK || s.Grant != session.Grant || !tokens.Anonymous().Covers("public.a") {
		t.Errorf("the set that stays has to be there at once: %v", why)
	}
	if tokens.Fetches() == fetches {
		t.Error("tokens that wait for a key are not looked at again")
	}
	if set.calls.Load() != calls {
		t.Error("the set was fetched again")
	}

	take, err = tokens.Prepare(Config{KeySets: []string{set.URL}, Revoked: ann})
	if err != nil {
		t.Fatal(err)
	}
	take()
	if _, why := tokens.Verify(token); why != Revoked || !tokens.Revoked(&session) {
		t.Errorf("by the new list: %v", why)
	}

	// Without it the set is not fetched any more, and counts stay what they were.
	key, err := ParseKeys("", secret)
	if err != nil {
		t.Fatal(err)
	}
	take, err = tokens.Prepare(Config{Keys: key})
	if err != nil {
		t.Fatal(err)
	}
	old := tokens.rules.Load().fetched[0]
	take()
	if _, why := tokens.Verify(token); why == OK {
		t.Error("a key that was taken out counts")
	}
	old.refresh(true)
	if _, why := tokens.Verify(mint(t, "HS256", secret, good())); why != OK {
		t.Error(why)
	}
}

// API keys of another file, or of the same with others in it.
func TestPrepareAPIKeys(t *testing.T) {
	file := inDir(t, "keys")
	first, line1, _ := NewAPIKey("a", RoleAdmin, nil)
	second, line2, _ := NewAPIKey("b", RoleAdmin, nil)
	write(t, file, line1)
	keys, err := NewAPIKeys(file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	if _, err := keys.Prepare("/none", nil, nil); err == nil {
		t.Error("no file")
	}
	if _, err := keys.Prepare("", []byte("# none\n"), nil); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Error(err)
	}
	take, err := keys.Prepare("", []byte(line2), nil)
	if err != nil {
		t.Fatal(err)
	}
	if keys.Find(first) == nil || keys.Find(second) != nil {
		t.Error("in force before it was taken")
	}
	take()
	if keys.Find(first) != nil || keys.Find(second) == nil || keys.Len() != 1 {
		t.Error("not in force")
	}
}
