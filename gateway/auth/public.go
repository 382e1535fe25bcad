package auth

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"strings"
	"unicode"
)

// isPublic reports whether what is to be a secret is a public key or a certificate
// in another form than PEM: DER, its base64, PEM in base64, or a key of SSH. Taken
// for a secret it would let in whoever signs with what everybody may know.
func isPublic(text []byte) bool {
	if publicBytes(text) {
		return true
	}
	plain := strings.TrimRight(strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return -1
		case c == '-': // base64url
			return '+'
		case c == '_':
			return '/'
		}
		return c
	}, string(text)), "=")
	decoded, err := base64.RawStdEncoding.DecodeString(plain)
	return err == nil && publicBytes(decoded)
}

// sshMarks begin keys of SSH: as in authorized_keys, in RFC 4716, and, after the
// length of the name, RFC 4253 section 6.6.
var sshMarks = []string{"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "---- BEGIN SSH2"}

func publicBytes(b []byte) bool {
	lean := bytes.TrimSpace(b)
	for _, mark := range sshMarks {
		if bytes.HasPrefix(lean, []byte(mark)) || len(b) > 4 && b[0] == 0 && b[1] == 0 && bytes.HasPrefix(b[4:], []byte(mark)) {
			return true
		}
	}
	if bytes.Contains(b, []byte("-----BEGIN")) {
		return true
	}
	// Their forms are looked at, not whether the key in them is good: also one of a
	// curve that is not known here is no secret.
	var info struct { // SubjectPublicKeyInfo, RFC 5280 section 4.1
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	var rsa struct { // RSAPublicKey, RFC 8017 appendix A.1.1
		N *big.Int
		E *big.Int
	}
	var cert struct { // Certificate, RFC 5280 section 4.1
		Signed    asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	for _, form := range []any{&info, &rsa, &cert} {
		if _, err := asn1.Unmarshal(b, form); err == nil {
			return true
		}
	}
	return false
}
