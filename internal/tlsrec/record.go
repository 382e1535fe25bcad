package tlsrec

import (
	"crypto/cipher"
	"crypto/tls"
	"encoding/binary"
	"fmt"
)

// Kind is a record's content type, RFC 8446 section 5.1.
type Kind byte

// The kinds there are after a handshake.
const (
	changeCipher Kind = 20 // refused by then
	AlertKind    Kind = 21
	Handshake    Kind = 22
	Data         Kind = 23
)

const (
	headerLen = 5
	tagLen    = 16
	// MaxPlain is the most one record may carry, bytes.
	MaxPlain = 1 << 14
	// MaxRecord is the longest record of either version, bytes: TLS 1.3 may pad by
	// 256, TLS 1.2 with these suites adds 24 at most.
	MaxRecord = headerLen + MaxPlain + 256
	// MaxOverhead is what a record adds to the bytes in it at most, bytes: header,
	// tag, and TLS 1.2's explicit nonce or TLS 1.3's content type.
	MaxOverhead = headerLen + 8 + tagLen
	// maxUseless is how many records in a row may carry no data.
	maxUseless = 32
)

// Session seals and opens the records of one connection. It belongs to one
// goroutine.
type Session struct {
	in, out half
	suite   uint16
	v12     bool
	server  bool
	owes    bool  // the peer asked for a KeyUpdate
	useless uint8 // records in a row that carried no data

	// Scratch of Seal and Open, here because what an interface is given escapes.
	nonce [12]byte
	ad    [13]byte
}

// half is one direction: 1.3 KB with its cipher.
type half struct {
	aead   cipher.AEAD
	seq    uint64
	iv     [12]byte
	secret [48]byte // TLS 1.3, for the next key
}

// Session makes one of the keys of a handshake.
func (k *Keys) Session() (*Session, error) {
	s := &Session{suite: k.Suite, v12: k.Version == tls.VersionTLS12, server: k.server}
	for _, p := range []struct {
		h *half
		d *direction
	}{{&s.in, &k.in}, {&s.out, &k.out}} {
		aead, err := suites[k.Suite].aead(p.d.key)
		if err != nil {
			return nil, err
		}
		p.h.aead, p.h.seq = aead, p.d.seq
		copy(p.h.iv[:], p.d.iv)
		copy(p.h.secret[:], p.d.secret)
	}
	return s, nil
}

// explicit is the length of the nonce that goes with each record: TLS 1.2's
// AES-GCM has one, RFC 5288 section 3.
func (s *Session) explicit() int {
	if s.v12 && !suites[s.suite].chacha {
		return 8
	}
	return 0
}

// nonces sets the scratch to the nonce of a half's next record. Where none is sent
// with the record it is made of the whole iv and the number, RFC 8446 section 5.3,
// RFC 7905 section 2.
func (s *Session) nonces(h *half, explicit []byte) {
	s.nonce = h.iv
	if len(explicit) > 0 {
		copy(s.nonce[4:], explicit)
		return
	}
	binary.BigEndian.PutUint64(s.nonce[4:], binary.BigEndian.Uint64(s.nonce[4:])^h.seq)
}

// additional sets the scratch to TLS 1.2's additional data, RFC 5246 section
// 6.2.3.3.
func (s *Session) additional(h *half, kind Kind, n int) {
	binary.BigEndian.PutUint64(s.ad[:], h.seq)
	s.ad[8], s.ad[9], s.ad[10] = byte(kind), 3, 3
	binary.BigEndian.PutUint16(s.ad[11:], uint16(n))
}

// Begin appends the beginning of a record to dst; its bytes, MaxPlain at most, are
// appended next, and Seal finishes it.
func (s *Session) Begin(dst []byte) []byte {
	dst = append(dst, 0, 3, 3, 0, 0)
	if s.explicit() > 0 {
		dst = binary.BigEndian.AppendUint64(dst, s.out.seq) // a counter: unique under its key
	}
	return dst
}

// Seal encrypts the record that began at from, in place but for the tag, and
// takes the next number.
func (s *Session) Seal(dst []byte, from int, kind Kind) []byte {
	h := &s.out
	body := from + headerLen + s.explicit()
	s.nonces(h, dst[from+headerLen:body])
	ad := s.ad[:]
	if s.v12 {
		s.additional(h, kind, len(dst)-body)
		dst[from] = byte(kind)
		binary.BigEndian.PutUint16(dst[from+3:], uint16(len(dst)-from-headerLen+tagLen))
	} else {
		dst = append(dst, byte(kind))
		dst[from] = byte(Data)
		binary.BigEndian.PutUint16(dst[from+3:], uint16(len(dst)-body+tagLen))
		ad = ad[:copy(ad, dst[from:body])]
	}
	dst = h.aead.Seal(dst[:body], s.nonce[:], dst[body:], ad)
	h.seq++
	return dst
}

// Unseal gives back the numbers of the last n records, not a byte of which may
// have left the process: their numbers, and so their nonces, are used again.
func (s *Session) Unseal(n int) { s.out.seq -= uint64(n) }

// Length is that of the record that begins b, header included; 0 when b is too
// short to tell. An Alert tells what to answer.
func (s *Session) Length(b []byte) (int, error) {
	if len(b) < headerLen {
		return 0, nil
	}
	if b[1] != 3 || b[2] != 3 {
		return 0, protocolVersion
	}
	n := headerLen + int(binary.BigEndian.Uint16(b[3:]))
	switch {
	case n > MaxRecord:
		return 0, recordOverflow
	case n < headerLen+s.explicit()+tagLen:
		return 0, badRecordMAC
	case !s.v12 && Kind(b[0]) != Data:
		return 0, UnexpectedMessage // after the handshake nothing is in the clear
	}
	return n, nil
}

// Open decrypts one whole record in place. data is what it carried, and lies
// within it.
func (s *Session) Open(record []byte) (kind Kind, data []byte, err error) {
	h := &s.in
	body := headerLen + s.explicit()
	s.nonces(h, record[headerLen:body])
	ad := record[:headerLen]
	if s.v12 {
		kind = Kind(record[0])
		s.additional(h, kind, len(record)-body-tagLen)
		ad = s.ad[:]
	}
	data, err = h.aead.Open(record[body:body], s.nonce[:], record[body:], ad)
	if err != nil {
		return 0, nil, badRecordMAC
	}
	h.seq++
	if !s.v12 {
		n := len(data) // the type is the last byte that is not 0, RFC 8446 section 5.4
		for n > 0 && data[n-1] == 0 {
			n--
		}
		if n == 0 {
			return 0, nil, UnexpectedMessage
		}
		kind, data = Kind(data[n-1]), data[:n-1]
	}
	if len(data) > MaxPlain {
		return 0, nil, recordOverflow
	}
	if kind == Data && len(data) > 0 {
		s.useless = 0
	} else if s.useless++; s.useless > maxUseless {
		return 0, nil, UnexpectedMessage
	}
	return kind, data, nil
}

// Alert is an alert's description, RFC 8446 section 6: as an error, what is to be
// told to the peer before the connection is closed.
type Alert byte

// The alerts used here.
const (
	CloseNotify       Alert = 0
	UnexpectedMessage Alert = 10
	badRecordMAC      Alert = 20
	recordOverflow    Alert = 22
	decodeError       Alert = 50
	protocolVersion   Alert = 70
	internalError     Alert = 80
	userCanceled      Alert = 90
	noRenegotiation   Alert = 100
)

func (a Alert) Error() string { return fmt.Sprintf("tls: alert %d", byte(a)) }

// Level is the byte that goes before it.
func (a Alert) Level() byte {
	if a == CloseNotify {
		return 1
	}
	return 2
}

// AppendAlert appends a record that says a.
func (s *Session) AppendAlert(dst []byte, a Alert) []byte {
	at := len(dst)
	return s.Seal(append(s.Begin(dst), a.Level(), byte(a)), at, AlertKind)
}
