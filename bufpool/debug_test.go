//go:build bufpooldebug

package bufpool

import (
	"strings"
	"testing"
)

func TestDebugNamesTheGet(t *testing.T) {
	get := func(p *Pool, n int) []byte { // the Get site, one line
		return mustGet(t, p, n)
	}
	for name, tc := range map[string]struct {
		want   string
		misuse func(p *Pool)
	}{
		"double put":        {"double Put", func(p *Pool) { b := get(p, 300); p.Put(b); p.Put(b) }},
		"write after put":   {"write after Put: byte 7 ", func(p *Pool) { b := get(p, 300); p.Put(b); b[7] = 1; get(p, 300) }},
		"write, then trim":  {"write after Put: byte 0 ", func(p *Pool) { b := get(p, 300); p.Put(b); b[0] = 1; p.Trim() }},
		"write past len":    {"write after Put: byte 383 ", func(p *Pool) { b := get(p, 300); p.Put(b); b[:384][383] = 1; get(p, 300) }},
		"cut capacity":      {"cut to capacity 256", func(p *Pool) { b := get(p, 300); p.Put(b[:0:256]) }},
		"cut start":         {"a slice 128 bytes into", func(p *Pool) { b := get(p, 300); p.Put(b[128:]) }},
		"large, cut start":  {"a slice 1 bytes into", func(p *Pool) { b := get(p, 2<<20); p.Put(b[1:]) }},
		"foreign":           {"foreign", func(p *Pool) { get(p, 300); p.Put(make([]byte, 256)) }},
		"another pool's":    {"foreign", func(p *Pool) { get(p, 256); p.Put(get(New(1<<20), 256)) }},
		"double put, large": {"foreign", func(p *Pool) { b := get(p, 2<<20); p.Put(b); p.Put(b) }},
		"double put, grown": {"double Put", func(p *Pool) { b := get(p, 300); _, _ = p.Grow(b, 3000); p.Put(b) }},
	} {
		t.Run(name, func(t *testing.T) {
			mustPanic(t, tc.want, func() { tc.misuse(New(4 << 20)) })
			if tc.want != "foreign" {
				mustPanic(t, "pool_test.go:", func() { tc.misuse(New(4 << 20)) })
			}
		})
	}
}

func TestDebugOutstanding(t *testing.T) {
	p := New(1 << 20)
	a, b := mustGet(t, p, 10), mustGet(t, p, 10)
	p.Put(a)
	if got := p.Outstanding(); len(got) != 1 || !strings.Contains(got[0], "pool_test.go:") {
		t.Errorf("outstanding %q, want one place", got)
	}
	p.Put(b)
	if got := p.Outstanding(); got != nil {
		t.Errorf("outstanding %q after every Put", got)
	}
}

func TestDebugPoisonsReaders(t *testing.T) {
	p := New(1 << 20)
	b := mustGet(t, p, 10)
	fill(b, 'x')
	p.Put(b)
	if !filled(b[:cap(b)], poisonByte) {
		t.Error("a reader after Put still finds the old contents")
	}
}
