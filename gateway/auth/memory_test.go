package auth

import (
	"fmt"
	"runtime"
	"testing"
)

// What the grants of connections cost that share nothing: each has a subject and
// two patterns of its own. capacity.TokensPerConnection is reckoned from it.
func TestGrantMemory(t *testing.T) {
	const n, most = 20_000, 670
	var g grants
	list := make([]*Grant, n)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.OtherSys + m.GCSys // weak pointers and cleanups have their records beside the heap
	}
	before := heap()
	for i := range list {
		p, err := ParsePatterns([]string{"public.*", fmt.Sprintf("user.%032d.*", i)})
		if err != nil {
			t.Fatal(err)
		}
		list[i] = g.of(fmt.Sprint("subject-", i), p)
	}
	each := (heap() - before) / n
	t.Logf("%d bytes each", each)
	if each > most {
		t.Errorf("%d bytes each, at most %d are reckoned with", each, most)
	}
	runtime.KeepAlive(list)
}
