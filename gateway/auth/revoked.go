package auth

import (
	"bytes"
	"fmt"
	"sync/atomic"
)

// maxRevoked bounds a file of revocations, bytes; each entry costs some 30 B.
const maxRevoked = 16 << 20

// revocations are the tokens and subjects that are no longer let in. Any
// goroutine.
type revocations struct {
	set atomic.Pointer[map[fingerprint]struct{}]
}

// take reads a file of revocations: on each line "jti ID" or "sub NAME", where
// the rest of the line after one space or tab counts, spaces around it don't, and
// lines that begin with # are for people.
func (r *revocations) take(text []byte) error {
	set := make(map[fingerprint]struct{})
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		at := max(0, bytes.IndexAny(line, " \t"))
		kind, rest := string(line[:at]), string(bytes.TrimSpace(line[at:]))
		if kind != "jti" && kind != "sub" {
			return fmt.Errorf("line %d: want jti ID or sub NAME", n)
		}
		set[fingerprintOf(kind, rest)] = struct{}{}
	}
	r.set.Store(&set)
	return nil
}

// has reports whether a session is revoked.
func (r *revocations) has(s *Session) bool {
	set := r.set.Load()
	if set == nil || len(*set) == 0 {
		return false
	}
	_, id := (*set)[s.id]
	_, subject := (*set)[s.Grant.subject]
	return id || subject
}

// size is how many entries there are.
func (r *revocations) size() int {
	if set := r.set.Load(); set != nil {
		return len(*set)
	}
	return 0
}
