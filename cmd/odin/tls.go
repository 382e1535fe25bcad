package main

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"

	"github.com/spf13/pflag"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/gateway/secure"
	"github.com/odin-ws/odin/internal/tlsrec"
)

// openTLS reads the certificate and finds out who is to do the records; nil without
// --tls-cert.
func (l *loaded) openTLS(log *slog.Logger) (*gateway.TLS, error) {
	if l.TLSCert == "" {
		return nil, nil
	}
	certs, err := secure.LoadCertificates(string(l.TLSCert), string(l.TLSKey))
	if err != nil {
		return nil, usagef("--tls-cert, --tls-key: %w", err)
	}
	t := &gateway.TLS{Certificates: certs, Handshakes: int(l.MaxHandshakes)}
	if l.TLSKernel.word == "off" {
		log.Info("TLS records are done by this process", "why", "--tls-kernel off")
		return t, nil
	}
	if err := tlsrec.KernelReady(gateway.DefaultConfig().RcvBuf); err != nil {
		log.Warn("TLS records are done by this process: this kernel can't (is the module tls there? modprobe tls)", "err", err)
		return t, nil
	}
	log.Info("TLS records are done by the kernel, but for ChaCha20")
	t.Kernel = true
	return t, nil
}

// recordsHere says who would do the records on this machine.
func recordsHere(kernel string) capacity.TLSRecords {
	if kernel == "off" || tlsrec.KernelReady(gateway.DefaultConfig().RcvBuf) != nil {
		return capacity.TLSOwn
	}
	return capacity.TLSKernel
}

// recordsOf is the same for the formula.
func recordsOf(t *gateway.TLS) capacity.TLSRecords {
	switch {
	case t == nil:
		return capacity.TLSNone
	case t.Kernel:
		return capacity.TLSKernel
	}
	return capacity.TLSOwn
}

// clientTLS are the flags of a command that connects to a gateway by wss.
type clientTLS struct {
	ca       string
	insecure bool
}

func (f *clientTLS) add(fs *pflag.FlagSet) {
	fs.StringVar(&f.ca, "tls-ca", "", "wss: believe only certificates that these sign, a PEM file; empty: the system's")
	fs.BoolVar(&f.insecure, "insecure", false, "wss: believe any certificate")
}

// config is a tls.Config for it.
func (f *clientTLS) config() (*tls.Config, error) {
	c := tlsrec.Config()
	c.InsecureSkipVerify = f.insecure
	if f.ca == "" {
		return c, nil
	}
	pem, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, usagef("--tls-ca: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, usagef("--tls-ca: %s holds no certificate in PEM", f.ca)
	}
	return c, nil
}
