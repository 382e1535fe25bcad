// Package tlsrec is what is left of TLS once a handshake is over: records, as
// functions over bytes, without a connection, a goroutine or a buffer of their own.
//
//	keys, err := tlsrec.Server(conn, config)   // crypto/tls shakes hands, over blocking I/O
//	err = keys.Offload(fd)                     // the kernel does the records from here on, or:
//	s, err := keys.Session()                   // this package does
//
//	dst = s.Begin(dst)                         // a record: begin, append the bytes, seal
//	dst = append(dst, data...)
//	dst = s.Seal(dst, at, tlsrec.Data)
//	n, err := s.Length(in)                     // of the first record in what was read
//	kind, data, err := s.Open(in[:n])          // in place
//
// crypto/tls does all of the handshake, and the ciphers are Go's own. What is here
// instead of tls.Conn is the framing of RFC 8446 section 5 and RFC 5246 section 6.2,
// for AEADs only, because a tls.Conn cannot be held by tens of thousands: it wants
// a reader that blocks, allocates what a record's header claims and keeps it for
// the connection's life, and never recovers from a write that would block
// (docs/adr/0012).
//
// The traffic secrets come out of crypto/tls through its key log, one for each
// handshake, and are wiped with the keys made of them; copies that crypto/tls and the
// collector made are out of reach.
//
// What it doesn't do: client certificates, session tickets, early data and
// renegotiation are off; TLS 1.2 is the four ECDHE suites with AES-GCM and the two
// with ChaCha20.
package tlsrec
