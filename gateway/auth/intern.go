package auth

import (
	"runtime"
	"sync"
	"weak"
)

// Grant is what tokens of one subject with the same patterns allow. All
// connections with such tokens share it, so two are the same if their pointers
// are. Immutable.
type Grant struct {
	Reads *Patterns

	subject fingerprint // of the claim sub: zero without
}

// SameSubject reports whether two are of tokens of one subject, or both of none.
func (g *Grant) SameSubject(other *Grant) bool { return g.subject == other.subject }

// grants has every Grant in use.
type grants struct {
	bySubject interner[Grant]
	patterns  interner[Patterns]
}

// of returns the Grant of a subject that may read what patterns say.
func (g *grants) of(subject string, patterns *Patterns) *Grant {
	list := patterns.String()
	reads := g.patterns.get(fingerprintOf("channels", list), func() *Patterns { return patterns })
	return g.bySubject.get(fingerprintOf("grant", subject+"\x00"+list), func() *Grant {
		return &Grant{Reads: reads, subject: fingerprintOf("sub", subject)}
	})
}

// interner gives equal keys the same value while anybody has it. What nobody has
// any more is forgotten with the garbage. Its keys are fingerprints: the texts they
// are of may be kilobytes.
type interner[T any] struct {
	mu sync.Mutex
	by map[fingerprint]weak.Pointer[T] // guarded by mu
}

// get returns the value of key, making it if there is none.
func (in *interner[T]) get(key fingerprint, build func() *T) *T {
	in.mu.Lock()
	defer in.mu.Unlock()
	if v := in.by[key].Value(); v != nil {
		return v
	}
	v := build()
	if in.by == nil {
		in.by = make(map[fingerprint]weak.Pointer[T])
	}
	in.by[key] = weak.Make(v)
	runtime.AddCleanup(v, in.forget, key)
	return v
}

// forget drops a key whose value has gone, if no other has come since.
func (in *interner[T]) forget(key fingerprint) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if p, has := in.by[key]; has && p.Value() == nil {
		delete(in.by, key)
	}
}

// size is how many values there are.
func (in *interner[T]) size() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.by)
}
