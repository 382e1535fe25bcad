package tlsrec

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// heap is what is allocated after a collection, bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What a session holds is a term of the capacity formula
// (capacity.TLSOwnPerConnection): it may not grow unseen.
func TestSessionSize(t *testing.T) {
	const n, most = 1000, 1792
	for suite, version := range map[uint16]uint16{
		tls.TLS_AES_128_GCM_SHA256: tls.VersionTLS13, tls.TLS_AES_256_GCM_SHA384: tls.VersionTLS13,
		tls.TLS_CHACHA20_POLY1305_SHA256: tls.VersionTLS13, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: tls.VersionTLS12,
	} {
		k := Keys{Version: version, Suite: suite}
		k.in = direction{key: make([]byte, suites[suite].key), iv: make([]byte, 12)}
		k.out = k.in
		all := make([]*Session, n)
		before := heap()
		for i := range all {
			s, err := k.Session()
			if err != nil {
				t.Fatal(err)
			}
			all[i] = s
		}
		each := (heap() - before) / n
		runtime.KeepAlive(all)
		t.Logf("%s: %d B a session", tls.CipherSuiteName(suite), each)
		if each > most {
			t.Errorf("%s: %d B a session, more than the %d that the formula has", tls.CipherSuiteName(suite), each, most)
		}
	}
}

// What a handshake holds while it waits for the client bounds how many there may
// be (capacity.TLSHandshake).
func TestHandshakeSize(t *testing.T) {
	const n, most = 200, 32 << 10
	cfg := serverConfig(false)
	before, stacks := heap(), stackBytes()
	for range n {
		c, s := tcpPair(t)
		go Server(s, cfg)
		go tls.Client(&deaf{Conn: c}, &tls.Config{InsecureSkipVerify: true}).Handshake()
	}
	runtime.Gosched()
	waitDeaf(n)
	each, stack := (heap()-before)/n, (stackBytes()-stacks)/n
	t.Logf("%d B of heap, %d B of stacks; a client's half in it", each, stack)
	if each+stack > most {
		t.Errorf("%d B a handshake, more than %d", each+stack, most)
	}
}

func stackBytes() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.StackInuse)
}

var deafNow atomic.Int64

// deaf is a client's connection that never reads what the server answers.
type deaf struct{ net.Conn }

func (d *deaf) Read([]byte) (int, error) {
	deafNow.Add(1)
	return 0, io.EOF
}

// waitDeaf waits until so many clients have given up, so that the servers' answers
// are under way, and a little for these.
func waitDeaf(n int64) {
	for deafNow.Load() < n {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
}
