package capacity

import "fmt"

// TLSRecords says who seals and opens the records of the public port's
// connections, which is where the memory for it lies.
type TLSRecords string

// Who does. A port is reckoned with one of them, although with the kernel's some
// connections may be done here: those of ChaCha20.
const (
	TLSNone   TLSRecords = ""
	TLSOwn    TLSRecords = "own"
	TLSKernel TLSRecords = "kernel"
)

const (
	// TLSOwnPerConnection is what TLS adds to a connection whose records are done in
	// this process, bytes: measured 1744 B a session with AES-GCM, and what leads to it.
	TLSOwnPerConnection = 2 * KiB
	// TLSKernelPerConnection is the same where the kernel does them, bytes: measured
	// 3.4 to 3.8 KB of slab on Linux 6.1, and what leads to it.
	TLSKernelPerConnection = 5 * KiB
	// TLSHandshake is what one under way may hold, bytes: measured 23 KB while it
	// waits for its client, up to 8 KB that the client has sent, and the kernel's
	// sockets, its own and that of one that waits to begin: as many may.
	TLSHandshake = 32*KiB + tlsHandshakeKernel
	// tlsHandshakeKernel is the part of it outside of this process, bytes.
	tlsHandshakeKernel = 2 * KernelPerConnection
	// tlsHandshakesShare is the part of the limit that handshakes may hold together,
	// one in so many; tlsHandshakesMost is how many are enough anywhere.
	tlsHandshakesShare = 32
	tlsHandshakesMost  = 1024
)

// ParseTLSRecords returns those of that name, or an error that lists them.
func ParseTLSRecords(s string) (TLSRecords, error) {
	switch t := TLSRecords(s); t {
	case TLSNone, TLSOwn, TLSKernel:
		return t, nil
	}
	return "", fmt.Errorf("capacity: unknown TLS records %q: want %q or %q", s, TLSOwn, TLSKernel)
}

// perConnection is what TLS adds to one, bytes.
func (t TLSRecords) perConnection() int64 {
	switch t {
	case TLSOwn:
		return TLSOwnPerConnection
	case TLSKernel:
		return TLSKernelPerConnection
	}
	return 0
}

// handshakes is what those under way may hold under a limit, bytes.
func (t TLSRecords) handshakes(limit int64) int64 {
	if t == TLSNone {
		return 0
	}
	return min(max(limit, 0)/tlsHandshakesShare, tlsHandshakesMost*TLSHandshake)
}

// TLSHandshakes is how many TLS handshakes may be under way at once.
func (r Result) TLSHandshakes() int { return int(r.TLSHandshakeBytes / TLSHandshake) }

// connectionTerms are TLS's own.
func (t TLSRecords) connectionTerms() []Term {
	switch t {
	case TLSOwn:
		return []Term{{"tls: session", "two ciphers with their tables (1744 with AES-GCM), what leads to them (200)", TLSOwnPerConnection, PerConnection, "tlsrec, gateway/secure, held by a test"}}
	case TLSKernel:
		return []Term{{"tls: kernel", "the kernel's context of both directions, its ciphers and their tables", TLSKernelPerConnection, PerConnection, "measured 3.4 to 3.8 KB on Linux 6.1: make e2e-ktls"}}
	}
	return nil
}
