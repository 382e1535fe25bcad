package secure

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Certificates is a certificate and its key, in two PEM files that may change.
type Certificates struct {
	now atomic.Pointer[tls.Certificate] // any goroutine

	// Guarded by mu.
	mu                sync.Mutex
	certFile, keyFile string
	seen              [sha256.Size]byte // of what was last read, good or not
}

// LoadCertificates reads the pair. Its errors name the file, and what to do.
func LoadCertificates(certFile, keyFile string) (*Certificates, error) {
	c := &Certificates{certFile: certFile, keyFile: keyFile}
	_, err := c.Reload()
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again, and takes the pair if it is another and good: new
// is then the certificate, else nil. An error is told once for the same contents;
// the pair there was stays. Any goroutine may call it.
func (c *Certificates) Reload() (fresh *x509.Certificate, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return nil, c.once([]byte(err.Error()), fmt.Errorf("certificate: %w", err))
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return nil, c.once([]byte(err.Error()), fmt.Errorf("key: %w", err))
	}
	defer clear(key)
	both := bytes.Join([][]byte{cert, key}, []byte{0})
	defer clear(both)
	if sha256.Sum256(both) == c.seen {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, c.once(both, fmt.Errorf("%s and %s: %w; they must be a certificate, its chain below it, and its unencrypted key, in PEM", c.certFile, c.keyFile, err))
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		err = fmt.Errorf("%s: the certificate ended on %s", c.certFile, pair.Leaf.NotAfter.UTC().Format(time.DateTime))
		return nil, c.once(both, err)
	}
	c.seen = sha256.Sum256(both)
	c.now.Store(&pair)
	return pair.Leaf, nil
}

// Prepare reads a pair from other files, or from the same, and returns what puts it in
// force, with its files to be looked at from then on; fresh is then the certificate if it
// is another than before, else nil. Its errors are LoadCertificates'.
func (c *Certificates) Prepare(certFile, keyFile string) (take func() (fresh *x509.Certificate), err error) {
	next, err := LoadCertificates(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return func() *x509.Certificate {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.certFile, c.keyFile, c.seen = certFile, keyFile, next.seen
		pair := next.now.Load()
		if old := c.now.Swap(pair); old.Leaf.Equal(pair.Leaf) {
			return nil
		}
		return pair.Leaf
	}, nil
}

// once returns err unless it was the last word on the same contents.
func (c *Certificates) once(contents []byte, err error) error {
	sum := sha256.Sum256(contents)
	if sum == c.seen {
		return nil
	}
	c.seen = sum
	return err
}

// NotAfter is until when the pair in use is valid. Any goroutine.
func (c *Certificates) NotAfter() time.Time { return c.now.Load().Leaf.NotAfter }

// Get is a tls.Config.GetCertificate.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p := c.now.Load(); p != nil {
		return p, nil
	}
	return nil, errors.New("no certificate")
}
