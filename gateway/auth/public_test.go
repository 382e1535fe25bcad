package auth

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// In no form is a public key, which anybody may know, taken for a secret.
func TestPublicKeysAreNoSecrets(t *testing.T) {
	forms := map[string][]byte{}
	add := func(name string, der []byte) {
		std := base64.StdEncoding.EncodeToString(der)
		forms[name+", DER"] = der
		forms[name+", DER and a line's end"] = append(der[:len(der):len(der)], '\n')
		forms[name+", base64"] = []byte(std)
		forms[name+", base64 without padding"] = []byte(strings.TrimRight(std, "="))
		forms[name+", base64url"] = []byte(base64.RawURLEncoding.EncodeToString(der))
		forms[name+", base64 in lines"] = []byte(std[:40] + "\r\n" + std[40:] + "\n")
		forms[name+", PEM in base64"] = []byte(base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	}
	for name, private := range map[string]crypto.Signer{"RSA": rsaKey(), "ECDSA": ecKey(), "Ed25519": edKey()} {
		der, err := x509.MarshalPKIXPublicKey(private.Public())
		if err != nil {
			t.Fatal(err)
		}
		add(name, der)
		cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now()}, &x509.Certificate{}, private.Public(), private)
		if err != nil {
			t.Fatal(err)
		}
		add(name+" certificate", cert)
	}
	add("PKCS #1", x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey))
	kind := "ssh-rsa"
	blob := append(binary.BigEndian.AppendUint32(nil, uint32(len(kind))), kind+strings.Repeat("x", 300)...)
	text := base64.StdEncoding.EncodeToString(blob)
	forms["SSH"] = []byte(kind + " " + text + " ann@host\n")
	forms["SSH without its kind"] = []byte(text)
	forms["SSH ECDSA"] = []byte("ecdsa-sha2-nistp256 " + text)
	forms["SSH2"] = []byte("---- BEGIN SSH2 PUBLIC KEY ----\n" + text)

	for name, form := range forms {
		for _, alg := range []string{"", "HS256", "HS512"} {
			if _, err := ParseKeys(alg, form); err == nil || !strings.Contains(err.Error(), "PEM") {
				t.Errorf("%s, for %q: %v", name, alg, err)
			}
		}
		set := &keySet{secrets: true}
		if err := set.take([]byte(jwks(t, map[string]any{"kty": "oct", "k": base64.RawURLEncoding.EncodeToString(form)}))); err == nil {
			t.Errorf("%s, in a set of a file", name)
		}
	}

	// Secrets as people make them are.
	for range 1000 {
		b := make([]byte, 64)
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{string(b), base64.StdEncoding.EncodeToString(b), strings.ToUpper(encode(b)), "0" + encode(b), "0\x3e" + string(b)} {
			if isPublic([]byte(text)) {
				t.Fatalf("%q is taken for a public key", text)
			}
		}
	}
}
