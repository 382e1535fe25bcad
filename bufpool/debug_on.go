//go:build bufpooldebug

package bufpool

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// debugging tells the builds apart; see debug_off.go for the other.
const debugging = true

// poisonByte fills idle buffers. Not 0, not ASCII, not valid UTF-8: a reader
// after Put notices too.
const poisonByte = 0xDB

// debugState knows every buffer of the pool by where it begins. A buffer
// dropped from the pool is forgotten: its address may be anyone's next.
type debugState struct {
	mu      sync.Mutex
	records map[*byte]*record // guarded by mu, as are the records
}

// record is what is known of one buffer.
type record struct {
	size int
	idle bool
	got  string // file:line of the last Get
	put  string // file:line of the last Put, "" before it
}

// made records a fresh buffer, b at its full capacity, as handed out.
func (d *debugState) made(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.records == nil {
		d.records = make(map[*byte]*record)
	}
	d.records[unsafe.SliceData(b)] = &record{size: len(b), got: site()}
}

// reused records an idle buffer as handed out again, and checks its poison.
func (d *debugState) reused(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[unsafe.SliceData(b)]
	r.verify(b)
	r.idle, r.got = false, site()
}

// check panics unless b is a whole buffer that is out.
func (d *debugState) check(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[unsafe.SliceData(b)]
	switch {
	case r == nil:
		panic("bufpool: Put at " + site() + " of " + d.stranger(b))
	case r.idle:
		panic(fmt.Sprintf("bufpool: double Put at %s of a %d byte buffer, got at %s, put at %s", site(), r.size, r.got, r.put))
	case r.size != len(b):
		panic(fmt.Sprintf("bufpool: Put at %s of a buffer cut to capacity %d, got at %s with %d", site(), len(b), r.got, r.size))
	}
}

// stranger says what an unknown buffer is: the inside of one of ours, or foreign.
func (d *debugState) stranger(b []byte) string {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	for start, r := range d.records {
		if off := at - uintptr(unsafe.Pointer(start)); off > 0 && off < uintptr(r.size) {
			return fmt.Sprintf("a slice %d bytes into a buffer got at %s", off, r.got)
		}
	}
	return fmt.Sprintf("a foreign buffer of capacity %d (or one put before and dropped since)", len(b))
}

// poison marks b, which check passed, as idle and fills it.
func (d *debugState) poison(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[unsafe.SliceData(b)]
	r.idle, r.put = true, site()
	for n := 0; n < len(b); n += maxClass {
		copy(b[n:], clean)
	}
}

// dropped forgets b, which Put did not keep.
func (d *debugState) dropped(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.records, unsafe.SliceData(b))
}

// discarded forgets an idle b, and checks its poison a last time.
func (d *debugState) discarded(b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.records[unsafe.SliceData(b)].verify(b)
	delete(d.records, unsafe.SliceData(b))
}

// outstanding returns where each buffer that is out was got, sorted.
func (d *debugState) outstanding() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var sites []string
	for _, r := range d.records {
		if !r.idle {
			sites = append(sites, r.got)
		}
	}
	slices.Sort(sites)
	return sites
}

// clean is a poisoned buffer of the largest class, to compare with.
var clean = bytes.Repeat([]byte{poisonByte}, maxClass)

// verify panics if the idle b was written to.
func (r *record) verify(b []byte) {
	if bytes.Equal(b, clean[:len(b)]) {
		return
	}
	i := slices.IndexFunc(b, func(c byte) bool { return c != poisonByte })
	panic(fmt.Sprintf("bufpool: write after Put: byte %d of a %d byte buffer, got at %s, put at %s", i, r.size, r.got, r.put))
}

// site returns file:line of the caller of this package's exported methods.
func site() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.Contains(f.Function, "/bufpool.(*Pool).") && !strings.Contains(f.Function, "/bufpool.(*debugState).") {
			return fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}
