package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/MicahParks/jwkset"
)

// maxKeySet bounds a set of keys, bytes, and maxKeys the keys in it: a token that
// names none is held against each of its algorithm.
const (
	maxKeySet = 1 << 20
	maxKeys   = 100
)

// keySet is a set of keys as it was read last, RFC 7517. Any goroutine may look
// keys up.
type keySet struct {
	secrets bool // HMAC secrets may be in it: it is a file
	byID    atomic.Pointer[map[string][]Key]
}

// take reads a set. Keys that are not for signatures, or of a kind unknown here,
// are passed over, section 5 of the RFC; a set without any other is an error.
func (s *keySet) take(text []byte) error {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(text, &set); err != nil {
		return errors.New("it is no JSON set of keys") // not err, which may quote
	}
	if len(set.Keys) > maxKeys {
		return fmt.Errorf("it has %d keys; at most %d are taken", len(set.Keys), maxKeys)
	}
	byID := make(map[string][]Key)
	var last error
	for i := range set.Keys {
		k, err := s.key(&set.Keys[i])
		if err != nil {
			last = fmt.Errorf("key %d of it: %w", i+1, err)
			continue
		}
		id := set.Keys[i].KID
		byID[id] = append(byID[id], k)
	}
	if len(byID) == 0 {
		if last == nil {
			last = errors.New("it has no keys")
		}
		return fmt.Errorf("no key in it can verify a token: %w", last)
	}
	s.byID.Store(&byID)
	return nil
}

// key reads one key. Its own alg is the only one it is for.
func (s *keySet) key(m *jwkset.JWKMarshal) (Key, error) {
	switch {
	case m.USE != "" && m.USE != jwkset.UseSig,
		len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return Key{}, errors.New("it is not for verifying signatures")
	case m.KTY == jwkset.KtyOct && !s.secrets:
		return Key{}, errors.New("a secret that can be fetched is none; give it in a file")
	}
	// Only what makes the key: what else a set says of it, such as certificates, is
	// not looked at, and private parts are left.
	plain := jwkset.JWKMarshal{KTY: m.KTY, CRV: m.CRV, X: m.X, Y: m.Y, N: m.N, E: m.E, K: m.K}
	jwk, err := jwkset.NewJWKFromMarshal(plain, jwkset.JWKMarshalOptions{Private: m.KTY == jwkset.KtyOct}, jwkset.JWKValidateOptions{})
	if err != nil {
		return Key{}, errors.New("it can't be read") // not err, which may quote
	}
	return newKey(string(m.ALG), jwk.Key())
}

// nameless returns the keys without an id.
func (s *keySet) nameless() []Key {
	if byID := s.byID.Load(); byID != nil {
		return (*byID)[""]
	}
	return nil
}

// named returns the keys with an id; all that have one with "". read says whether the set was
// ever read.
func (s *keySet) named(id string) (keys []Key, read bool) {
	byID := s.byID.Load()
	if byID == nil {
		return nil, false
	}
	if id != "" {
		return (*byID)[id], true
	}
	for id, some := range *byID {
		if id != "" {
			keys = append(keys, some...)
		}
	}
	return keys, true
}

// size is how many keys there are.
func (s *keySet) size() int {
	keys, _ := s.named("")
	return len(keys) + len(s.nameless())
}
