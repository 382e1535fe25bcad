package tlsrec

import (
	"crypto/tls"
	"errors"
	"net"
)

// Protocol is the one application protocol spoken, RFC 7301: a WebSocket begins
// with a request of HTTP/1.1.
const Protocol = "http/1.1"

// Config is a tls.Config that both versions' records can follow: what a handshake
// must not do is off. The caller adds certificates.
func Config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		CipherSuites:           suites12,
		NextProtos:             []string{Protocol},
		SessionTicketsDisabled: true, // a ticket is a record under the keys that are handed on
		Renegotiation:          tls.RenegotiateNever,
	}
}

// Server shakes hands as the server, by conn's deadline. Not a byte behind the
// handshake has been read from conn when it returns, nor anything written but the
// handshake, or the alert that ended it.
func Server(conn net.Conn, cfg *tls.Config) (*Keys, error) { return shake(conn, cfg, true) }

// Client is Server for the other side.
func Client(conn net.Conn, cfg *tls.Config) (*Keys, error) { return shake(conn, cfg, false) }

func shake(conn net.Conn, cfg *tls.Config, server bool) (*Keys, error) {
	var log keyLog
	cfg = cfg.Clone()
	cfg.KeyLogWriter = &log
	rc := &recordConn{Conn: conn, server: server}
	var c *tls.Conn
	if server {
		c = tls.Server(rc, cfg)
	} else {
		c = tls.Client(rc, cfg)
	}
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	state := c.ConnectionState()
	keys, err := log.keys(&state, rc.random, server)
	if err != nil {
		return nil, err
	}
	keys.server = server
	return keys, nil
}

// maxHandshake bounds what a client may send before its handshake is done, bytes:
// two ClientHellos with a post-quantum key share are 4.6 KB.
const maxHandshake = 8 << 10

// ErrTooLong is the error of a handshake that would pass the bound.
var ErrTooLong = errors.New("tls: a handshake too long")

// recordConn reads no further than the record under way, so that what follows the
// handshake stays in the socket, and notes the server's random, which TLS 1.2's
// keys are made of and crypto/tls doesn't tell.
type recordConn struct {
	net.Conn
	server bool
	head   [headerLen]byte
	have   int // of head
	left   int // of the record's body
	total  int // read, and claimed by the header
	random []byte
	hello  []byte // the beginning of the server's first record, until random is known
}

func (c *recordConn) Read(p []byte) (int, error) {
	if c.have < headerLen {
		n, err := c.Conn.Read(p[:min(len(p), headerLen-c.have)])
		copy(c.head[c.have:], p[:n])
		if c.have += n; c.have == headerLen {
			c.left = int(c.head[3])<<8 | int(c.head[4])
			if c.total += headerLen + c.left; c.server && c.total > maxHandshake {
				return 0, ErrTooLong // before crypto/tls makes room for it
			}
			if c.left == 0 {
				c.have = 0
			}
		}
		c.note(p[:n], !c.server)
		return n, err
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.have = 0
	}
	c.note(p[:n], !c.server)
	return n, err
}

func (c *recordConn) Write(p []byte) (int, error) {
	c.note(p, c.server)
	return c.Conn.Write(p)
}

// note looks for the ServerHello's random, where the server's bytes begin with one:
// 5 bytes of record header, 4 of message header, 2 of version.
func (c *recordConn) note(p []byte, fromServer bool) {
	const at, end = headerLen + 6, headerLen + 6 + 32
	if !fromServer || c.random != nil {
		return
	}
	c.hello = append(c.hello, p[:min(len(p), end-len(c.hello))]...)
	if len(c.hello) < end {
		return
	}
	if Kind(c.hello[0]) == Handshake && c.hello[headerLen] == 2 {
		c.random = c.hello[at:end]
	} else {
		c.random = []byte{} // none: it would be an alert
	}
	c.hello = nil
}
