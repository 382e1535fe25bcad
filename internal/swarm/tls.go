package swarm

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/odin-ws/odin/internal/tlsrec"
)

// secured is a connection's TLS: 1.8 KB with the ciphers of AES-GCM.
type secured struct {
	*tlsrec.Session
	in   []byte // the beginning of a record
	done bool   // the server has said goodbye
}

// tlsConfig is what handshakes go by; nil without wss.
func (c *Config) tlsConfig(t target) (*tls.Config, error) {
	if !t.tls {
		return nil, nil
	}
	cfg := tlsrec.Config()
	cfg.InsecureSkipVerify = c.Insecure
	cfg.ServerName, _, _ = net.SplitHostPort(t.host)
	if cfg.ServerName == "" {
		cfg.ServerName = t.host
	}
	if c.CA != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, errors.New("no certificate in PEM to believe")
		}
	}
	return cfg, nil
}

// shake begins a handshake on a connection that stands. It has a goroutine and a
// duplicate of the descriptor, for as long as it lasts.
func (w *worker) shake(i int32) {
	k := &w.conns[i]
	k.state = shaking
	dup, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		w.end(i, errName(err))
		return
	}
	f := os.NewFile(uintptr(dup), "server")
	_ = f.SetDeadline(time.Now().Add(w.cfg.Timeout))
	fd := k.fd
	go func() {
		keys, err := tlsrec.Client(fileConn{f}, w.tls)
		_ = f.Close()
		w.post(func() {
			if w.conns[i].fd == fd && w.conns[i].state == shaking {
				w.shaken(i, keys, err)
			}
		})
	}()
}

// shaken goes on after a handshake.
func (w *worker) shaken(i int32, keys *tlsrec.Keys, err error) {
	k := &w.conns[i]
	if err == nil {
		var s *tlsrec.Session
		if s, err = keys.Session(); err == nil {
			keys.Wipe()
			w.secure[i] = &secured{Session: s}
		}
	}
	if err != nil {
		w.end(i, shakeError(err))
		return
	}
	k.state = upgrading
	if k.flags&flagDripHead != 0 {
		w.timed = append(w.timed, i)
	} else if !w.write(i, w.heads.request(w.attempt(i))) {
		return
	}
	w.later(i) // what came meanwhile raised no event that was heeded
}

// shakeError is a failed handshake's name.
func shakeError(err error) string {
	var verify *tls.CertificateVerificationError
	var no unix.Errno
	switch {
	case errors.As(err, &verify):
		return "tls_certificate"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "eof"
	case errors.As(err, &no):
		return errName(no)
	}
	return "tls_handshake"
}

// seal makes records of b, good until the next call.
func (w *worker) seal(s *secured, b []byte) []byte {
	w.sealed = w.sealed[:0]
	for len(b) > 0 {
		n, at := min(len(b), tlsrec.MaxPlain), len(w.sealed)
		w.sealed = s.Seal(append(s.Begin(w.sealed), b[:n]...), at, tlsrec.Data)
		b = b[n:]
	}
	return w.sealed
}

// receive reads at most n bytes of a connection to buf[was:], which grows if it must,
// and says whether there may be more. Within TLS n counts what comes from the
// socket; EAGAIN and EINTR then say that no record is whole yet.
func (w *worker) receive(i int32, was, n int) (got int, more bool, errno unix.Errno) {
	k := &w.conns[i]
	s := w.secure[i]
	if s == nil {
		into := w.buf[was:min(was+n, len(w.buf))]
		got, errno = readRaw(k.fd, into)
		return got, got == len(into), errno
	}
	if s.done {
		return 0, false, 0
	}
	if w.raw == nil {
		w.raw = make([]byte, 64<<10)
	}
	room := w.raw[:min(n, len(w.raw))]
	read, errno := readRaw(k.fd, room)
	if errno != 0 || read == 0 {
		return 0, false, errno
	}
	more = read == len(room)
	s.in = append(s.in, room[:read]...)
	if got, errno = w.open(i, s, was); errno == 0 && got == 0 && !s.done {
		errno = unix.EAGAIN
		if more {
			errno = unix.EINTR
		}
	}
	return got, more || s.done, errno
}

// open opens the whole records of s.in to buf[was:].
func (w *worker) open(i int32, s *secured, was int) (got int, errno unix.Errno) {
	rest := s.in
	for {
		n, err := s.Length(rest)
		if err != nil {
			return got, unix.EPROTO
		}
		if n == 0 || n > len(rest) {
			break
		}
		kind, data, err := s.Open(rest[:n])
		if err != nil {
			return got, unix.EPROTO
		}
		rest = rest[n:]
		if kind == tlsrec.Data {
			for was+got+len(data) > len(w.buf) {
				w.buf = append(w.buf, make([]byte, len(w.buf))...)
			}
			got += copy(w.buf[was+got:], data)
			continue
		}
		err = s.Control(kind, data)
		if err == nil && s.Owes() {
			var answer []byte
			if answer, err = s.AppendKeyUpdate(nil, false); err == nil {
				w.writeSealed(i, answer)
			}
		}
		if errors.Is(err, io.EOF) {
			s.done = true
			break
		}
		if err != nil {
			return got, unix.EPROTO
		}
	}
	if s.in = append(s.in[:0], rest...); len(s.in) == 0 {
		s.in = nil
	}
	return got, 0
}

// fileConn is a file as crypto/tls wants it.
type fileConn struct{ *os.File }

func (fileConn) LocalAddr() net.Addr  { return nil }
func (fileConn) RemoteAddr() net.Addr { return nil }
