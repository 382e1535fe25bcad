package tlsrec

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// Keys is what protects the two directions of one connection after its
// handshake. Use it once, by Session or Offload, then Wipe it.
type Keys struct {
	Version, Suite uint16 // as crypto/tls numbers them
	in, out        direction
	server         bool
}

// direction is one of them.
type direction struct {
	secret []byte // TLS 1.3: the traffic secret, from which the next key comes
	key    []byte
	iv     []byte // 12 bytes; TLS 1.2 with AES-GCM: 4, the explicit nonce follows
	seq    uint64 // of the next record
}

// suite is what a cipher suite needs here.
type suite struct {
	hash   func() hash.Hash
	key    int // bytes
	chacha bool
}

var suites = map[uint16]suite{
	tls.TLS_AES_128_GCM_SHA256:       {sha256.New, 16, false},
	tls.TLS_AES_256_GCM_SHA384:       {sha512.New384, 32, false},
	tls.TLS_CHACHA20_POLY1305_SHA256: {sha256.New, 32, true},

	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       {sha256.New, 16, false},
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         {sha256.New, 16, false},
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       {sha512.New384, 32, false},
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         {sha512.New384, 32, false},
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: {sha256.New, 32, true},
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   {sha256.New, 32, true},
}

// suites12 is what TLS 1.2 may choose from; those of TLS 1.3 are fixed by Go.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// keyLog takes one handshake's secrets: a tls.Config.KeyLogWriter.
type keyLog struct {
	client, server, master []byte
	clientRandom           []byte
}

// Write takes one line, LABEL RANDOM SECRET in hexadecimal.
func (l *keyLog) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) != 3 {
		return 0, errors.New("tlsrec: a key log line of another form")
	}
	var into *[]byte
	switch string(f[0]) {
	case "CLIENT_TRAFFIC_SECRET_0":
		into = &l.client
	case "SERVER_TRAFFIC_SECRET_0":
		into = &l.server
	case "CLIENT_RANDOM":
		into = &l.master
	default:
		return len(line), nil
	}
	random, err := hex.AppendDecode(nil, f[1])
	if err != nil {
		return 0, err
	}
	l.clientRandom = random
	*into, err = hex.AppendDecode(nil, f[2])
	return len(line), err
}

// keys derives what the handshake agreed on.
func (l *keyLog) keys(state *tls.ConnectionState, serverRandom []byte, server bool) (*Keys, error) {
	s, ok := suites[state.CipherSuite]
	if !ok {
		return nil, fmt.Errorf("tlsrec: no records for %s", tls.CipherSuiteName(state.CipherSuite))
	}
	k := &Keys{Version: state.Version, Suite: state.CipherSuite}
	fromClient, fromServer := &k.in, &k.out
	if !server {
		fromClient, fromServer = fromServer, fromClient
	}
	switch {
	case state.Version == tls.VersionTLS13 && len(l.client) > 0 && len(l.server) > 0:
		fromClient.secret, fromServer.secret = l.client, l.server
		if err := errors.Join(fromClient.expand(s), fromServer.expand(s)); err != nil {
			return nil, err
		}
	case state.Version == tls.VersionTLS12 && len(l.master) > 0 && len(serverRandom) == 32:
		// RFC 5246 section 6.3; an AEAD needs no MAC keys. Each side has sent one
		// record under these keys: its Finished.
		fixed := 4 // RFC 5288 section 3
		if s.chacha {
			fixed = 12 // RFC 7905 section 2
		}
		b := prf12(s.hash, l.master, "key expansion", append(bytes.Clone(serverRandom), l.clientRandom...), 2*(s.key+fixed))
		clear(l.master)
		*fromClient = direction{key: b[:s.key], iv: b[2*s.key:][:fixed], seq: 1}
		*fromServer = direction{key: b[s.key:][:s.key], iv: b[2*s.key+fixed:], seq: 1}
	default:
		return nil, errors.New("tlsrec: the handshake told no secrets")
	}
	return k, nil
}

// expand derives key and iv from a traffic secret, RFC 8446 section 7.3.
func (d *direction) expand(s suite) (err error) {
	if d.key, err = expandLabel(s.hash, d.secret, "key", s.key); err != nil {
		return err
	}
	d.iv, err = expandLabel(s.hash, d.secret, "iv", 12)
	return err
}

// expandLabel is HKDF-Expand-Label with an empty context, RFC 8446 section 7.1.
func expandLabel(h func() hash.Hash, secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(len(label))), label...)
	return hkdf.Expand(h, secret, string(append(info, 0)), n)
}

// prf12 is TLS 1.2's PRF, RFC 5246 section 5.
func prf12(h func() hash.Hash, secret []byte, label string, seed []byte, n int) []byte {
	seed = append([]byte(label), seed...)
	mac := hmac.New(h, secret)
	sum := func(parts ...[]byte) []byte {
		mac.Reset()
		for _, p := range parts {
			mac.Write(p) // hash.Hash: never fails
		}
		return mac.Sum(nil)
	}
	var out []byte
	for a := sum(seed); len(out) < n; a = sum(a) {
		out = append(out, sum(a, seed)...)
	}
	return out[:n]
}

// aead makes a direction's cipher.
func (s suite) aead(key []byte) (cipher.AEAD, error) {
	if s.chacha {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Wipe forgets the keys; a Session made of them has its own.
func (k *Keys) Wipe() {
	for _, d := range []*direction{&k.in, &k.out} {
		clear(d.secret)
		clear(d.key)
		clear(d.iv)
	}
}

// V12 says whether they are TLS 1.2's.
func (k *Keys) V12() bool { return k.Version == tls.VersionTLS12 }
