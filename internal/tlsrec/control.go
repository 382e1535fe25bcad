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

// Control handles a record that carried no data; what must be answered is noted, see
// Owes. io.EOF: the peer has said goodbye; an Alert is what to tell it before
// closing; any other error closes without a word. A server's session takes no
// handshake record without an error but a KeyUpdate, which costs some microseconds.
func (s *Session) Control(kind Kind, data []byte) error {
	switch kind {
	case Data:
		return nil // an empty one
	case AlertKind:
		return CheckAlert(data, s.v12)
	case Handshake:
		return s.handshake(data)
	}
	return UnexpectedMessage
}

// Owes reports that the peer has asked for new keys of ours: AppendKeyUpdate must
// come before the next data, and one answers all that was asked until then (RFC
// 8446 section 4.6.3).
func (s *Session) Owes() bool { return s.owes }

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
func (s *Session) handshake(data []byte) error {
	switch {
	case len(data) == 0:
		return UnexpectedMessage
	case !s.server && (data[0] == newSessionTicket || s.v12 && data[0] == helloRequest):
		return nil // tickets are not used; to renegotiate is not a must
	case s.v12:
		return noRenegotiation
	case data[0] != keyUpdate:
		return UnexpectedMessage
	case len(data) != 5 || data[1] != 0 || data[2] != 0 || data[3] != 1 || data[4] > 1:
		return decodeError
	}
	if err := s.in.update(suites[s.suite]); err != nil {
		return internalError
	}
	s.owes = s.owes || data[4] == 1
	return nil
}

// AppendKeyUpdate appends a KeyUpdate, RFC 8446 section 4.6.3, and goes on with
// the next key; nothing is owed then. With ask the peer is to change its own.
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
	s.owes = false
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
