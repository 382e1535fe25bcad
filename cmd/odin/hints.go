package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// unreachable is the error of a request that got no answer, without what libraries wrap
// around it, and with what to do next. flag says where the gateway is.
func unreachable(at string, err error, flag string) error {
	var wrapped *url.Error
	for errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var name *net.DNSError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return hinted{fmt.Errorf("no gateway answers at %s: connection refused", at), "Is 'odin serve' running there? " + flag + " says where it is."}
	case errors.As(err, &name):
		return hinted{fmt.Errorf("no gateway answers at %s: there is no host called %s", at, name.Name), flag + " says where it is."}
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return hinted{fmt.Errorf("no answer from %s in time", at), "Is the address right, and does a firewall let it through? " + flag + " says where it is."}
	case errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid):
		return hinted{fmt.Errorf("the certificate of %s is not believed: %w", at, err), "--tls-ca FILE names who signed it; the certificate must be for that host."}
	case strings.Contains(err.Error(), "first record does not look like a TLS handshake"), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return hinted{fmt.Errorf("%s speaks no TLS", at), "Write ws:// or http:// instead, or give the gateway --tls-cert."}
	}
	return hinted{fmt.Errorf("no answer from %s: %w", at, err), "Is 'odin serve' running there? " + flag + " says where it is."}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// flagError is a flag that can't be used, with the nearest that is known.
func flagError(cmd *cobra.Command, err error) error {
	hint := fmt.Sprintf("See '%s --help'.", cmd.CommandPath())
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		name, _, _ := strings.Cut(unknown.GetSpecifiedName(), "=")
		if near := nearest(name, known); near != "" {
			hint = "Did you mean --" + near + "? " + hint
		}
	}
	return usageError{hinted{err, hint}}
}
