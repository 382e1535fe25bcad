package tlsrec

import (
	"crypto/tls"
	"errors"
	"io"
)

// The handshake messages that may come after the handshake.
const (
	helloRequest     = 0
	newSessionTicket = 4
	keyUpdate        = 24
)

// ErrPeerAlert is the end of a connection whose peer sent an alert that is none of
// saying goodbye.
var ErrPeerAlert = errors.New("tls: the peer sent an alert")

// Control handles a record that carried no data. It appends what must be answered
// to dst. io.EOF: the peer has said goodbye; an Alert is what to tell it before
// closing; any other error closes without a word.
func (s *Session) Control(dst []byte, kind Kind, data []byte) ([]byte, error) {
	switch kind {
	case Data:
		return dst, nil // an empty one
	case AlertKind:
		return dst, CheckAlert(data, s.v12)
	case Handshake:
		return s.handshake(dst, data)
	}
	return dst, unexpectedMessage
}

// CheckAlert says what an alert means for its connection: nothing, io.EOF, or an
// error.
func CheckAlert(data []byte, v12 bool) error {
	switch {
	case len(data) != 2:
		return decodeError
	case Alert(data[1]) == CloseNotify:
		return io.EOF
	case Alert(data[1]) == userCanceled, v12 && data[0] == 1:
		return nil // a close_notify follows, or it was a warning
	}
	return ErrPeerAlert
}

// handshake handles a message after the handshake. Each that matters must fill its
// record: RFC 8446 section 5.1 has it so for a change of keys.
func (s *Session) handshake(dst, data []byte) ([]byte, error) {
	switch {
	case len(data) == 0:
		return dst, unexpectedMessage
	case !s.server && (data[0] == newSessionTicket || s.v12 && data[0] == helloRequest):
		return dst, nil // tickets are not used; to renegotiate is not a must
	case s.v12:
		return dst, noRenegotiation
	case data[0] != keyUpdate:
		return dst, unexpectedMessage
	case len(data) != 5 || data[1] != 0 || data[2] != 0 || data[3] != 1 || data[4] > 1:
		return dst, decodeError
	}
	if err := s.in.update(suites[s.suite]); err != nil {
		return dst, internalError
	}
	if data[4] == 0 {
		return dst, nil
	}
	return s.AppendKeyUpdate(dst, false)
}

// AppendKeyUpdate appends a KeyUpdate, RFC 8446 section 4.6.3, and goes on with
// the next key. With ask the peer is to change its own.
func (s *Session) AppendKeyUpdate(dst []byte, ask bool) ([]byte, error) {
	request := byte(0)
	if ask {
		request = 1
	}
	at := len(dst)
	dst = s.Seal(append(s.Begin(dst), keyUpdate, 0, 0, 1, request), at, Handshake)
	if err := s.out.update(suites[s.suite]); err != nil {
		return dst, internalError
	}
	return dst, nil
}

// update goes on to the next traffic secret, RFC 8446 section 7.2.
func (h *half) update(s suite) error {
	n := s.hash().Size()
	next, err := expandLabel(s.hash, h.secret[:n], "traffic upd", n)
	if err != nil {
		return err
	}
	d := direction{secret: next}
	if err := d.expand(s); err != nil {
		return err
	}
	if h.aead, err = s.aead(d.key); err != nil {
		return err
	}
	copy(h.secret[:], next)
	copy(h.iv[:], d.iv)
	h.seq = 0
	(&Keys{in: d}).Wipe()
	return nil
}

// Version and Suite say what was agreed on, as crypto/tls numbers it.
func (s *Session) Version() uint16 {
	if s.v12 {
		return tls.VersionTLS12
	}
	return tls.VersionTLS13
}

// Suite is the cipher suite.
func (s *Session) Suite() uint16 { return s.suite }
