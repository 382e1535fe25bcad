package auth

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Key is a key that tokens are verified with, and the one algorithm it is for.
type Key struct {
	alg string
	key any // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey, as alg wants
}

// algorithms are those that are accepted. Each belongs to one kind of key.
var algorithms = []string{
	"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
	"ES256", "ES384", "ES512", "EdDSA",
}

// Bounds of keys. An HMAC secret must be as long as the hash, RFC 7518 section
// 3.2; RSA keys at least 2048 bits, section 3.3, and small enough that a
// verification is.
const (
	minRSA = 2048
	maxRSA = 8192
)

var minSecret = map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}

// newKey pins a key to an algorithm. With alg "" it is the usual one of its kind:
// HS256, RS256, EdDSA, or what the curve says.
func newKey(alg string, key any) (Key, error) {
	var usual string
	fits := func(prefixes ...string) bool {
		return alg == "" || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(alg, p) })
	}
	ok := false
	switch k := key.(type) {
	case []byte:
		usual, ok = "HS256", fits("HS")
		if isPublic(k) {
			return Key{}, errors.New("that is a public key or a certificate, which no secret can be: give it as PEM (-----BEGIN …), such as openssl pkey -pubin -inform DER or ssh-keygen -e -m PKCS8 write it")
		}
		if least := minSecret[cmp.Or(alg, usual)]; ok && len(k) < least {
			return Key{}, fmt.Errorf("the secret has %d bytes, and %s wants at least %d: try openssl rand -base64 %d", len(k), cmp.Or(alg, usual), least, least)
		}
	case *rsa.PublicKey:
		usual, ok = "RS256", fits("RS", "PS")
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return Key{}, fmt.Errorf("the RSA key has %d bits; from %d to %d are taken", bits, minRSA, maxRSA)
		}
	case *ecdsa.PublicKey:
		usual = map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[k.Curve.Params().Name]
		ok = usual != "" && fits(usual)
	case ed25519.PublicKey:
		usual, ok = "EdDSA", fits("EdDSA")
	default:
		return Key{}, errors.New("a key of a kind that no algorithm here is for")
	}
	alg = cmp.Or(alg, usual)
	if !ok || !slices.Contains(algorithms, alg) {
		return Key{}, fmt.Errorf("%s is no algorithm for a key of this kind", alg)
	}
	return Key{alg, key}, nil
}

// verifiers are the keys as the jwt library takes them.
func verifiers(keys []Key) jwt.VerificationKeySet {
	var set jwt.VerificationKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, k.key)
	}
	return set
}

// CutAlgorithm splits "[ALG:]REST" as a key is named on the command line. What
// stands before the colon is an algorithm only if it is the name of one.
func CutAlgorithm(text string) (alg, rest string) {
	if before, after, ok := strings.Cut(text, ":"); ok && slices.Contains(algorithms, before) {
		return before, after
	}
	return "", text
}

// ParseKeys reads what a key file has: public keys or certificates in PEM, or a
// secret for HMAC, which is everything but white space around it. All are for
// alg, or for the usual algorithm of their kind if alg is "".
func ParseKeys(alg string, text []byte) ([]Key, error) {
	whole := text
	text = bytes.TrimSpace(text)
	switch {
	case len(text) == 0:
		return nil, errors.New("there is no key in it")
	case text[0] == '{':
		return nil, errors.New("that is a set of keys in JSON: give it as --jwks")
	case !bytes.Contains(text, []byte("-----BEGIN")):
		if isPublic(whole) { // in DER the last byte may look like white space
			text = whole
		}
		k, err := newKey(alg, bytes.Clone(text))
		if err != nil {
			return nil, err
		}
		return []Key{k}, nil
	}
	var keys []Key
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		public, err := parsePublic(block)
		if err != nil {
			return nil, err
		}
		k, err := newKey(alg, public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("the PEM in it can't be read")
	}
	return keys, nil
}

func parsePublic(block *pem.Block) (any, error) {
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = cert.PublicKey
		}
	default:
		if strings.Contains(block.Type, "PRIVATE") {
			return nil, errors.New("that is a private key, and only the public one is needed here: try openssl pkey -pubout")
		}
		return nil, fmt.Errorf("a PEM block %q is no public key", block.Type)
	}
	return key, err
}
