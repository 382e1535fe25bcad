package auth

import "crypto/sha256"

// fingerprint stands for a jti or a sub: what a connection keeps of it, and the
// list of revocations. 128 bits of SHA-256; the zero value is of nothing.
type fingerprint [16]byte

func fingerprintOf(kind, text string) (f fingerprint) {
	if text == "" {
		return f
	}
	h := sha256.New()
	h.Write([]byte(kind))
	h.Write([]byte{0})
	h.Write([]byte(text))
	copy(f[:], h.Sum(nil))
	return f
}
