// Package swarm is many WebSocket clients in little memory: what `odin stress`
// loads a gateway with, and the checker of what it delivers.
//
//	s, err := swarm.Start(swarm.Config{URL: "ws://127.0.0.1:8080/ws", Connections: 10_000, Channels: []string{"stress.0"}})
//	s.Counts()            // so far; any goroutine
//	s.Published(entries)  // what was acknowledged to the publisher, for the ledger
//	rep, err := s.Finish(time.Now().Add(3*time.Second))
//
// A connection is a descriptor and 72 bytes (16 more a channel with a ledger);
// there is no goroutine, timer or buffer of its own. One goroutine a process
// reads them all through one epoll instance and one buffer (a TLS handshake has a
// goroutine of its own, and a session 1.8 KB); what is cut off at
// a read's end waits in a borrowed buffer until the next. More than a process's descriptors allow are spread
// over several: Start runs the program again (Config.Child), tells each copy
// its share as JSON on its standard input, and adds up what they report. The
// program must call Child where it is asked to.
//
// # Attempts
//
// Each connection is attempted once. It is connected when the server has shown
// that it takes it: it answered 101 with the right Sec-WebSocket-Accept and
// acknowledged every subscription (without channels: said hello, or, not
// knowing the subprotocol, nothing more). Whatever comes instead is the
// attempt's one error, by name: http_503, close_1013, ECONNRESET, timeout, …
// A subscription that the server is too busy for is repeated when it says so.
// So Connections = Connected + the sum of Errors, always; what ended later, by
// the server's will, is counted apart, as Ended.
//
// # Roles
//
//   - normal reads everything and answers pings;
//   - slow reads a byte a second (Config.SlowRead) into a small receive buffer;
//   - flood sends pings and commands as fast as the socket takes them, and reads
//     nothing;
//   - drip sends one byte a second: every other one its request head, the rest
//     a frame once they are connected.
//
// The roles are spread evenly over the attempts. A slow or flooding client that
// the server has hung up on reads what is left, to learn why.
//
// # The ledger
//
// With Config.Check everything the server sends is read as odin.v1.json, and
//
//	published = delivered + conflated ("skip") + announced gaps
//
// must hold for each connection and channel. Kept are, for each connection, the
// last seq of each channel, and for each message, once a process, who published
// and who saw what under its seq. That suffices, because
//
//   - a connection's chain leaves nothing out: each message's prev is the seq
//     before, unless a gap or skip says otherwise (seq never repeats or falls);
//   - what prev says is true: it is the same on every connection, and no
//     acknowledged message of the channel lies between it and seq;
//   - what skip says is true: that many acknowledged messages were passed over;
//   - payload and channel are those that were published under that seq;
//   - at the end every connection has come to the last acknowledged message.
//
// What nobody published through Start's owner is checked as far as the server's
// own numbers go: the first rule, and that all connections are told the same.
//
// # What it does not do
//
// No compression, no HTTP redirect, no reconnecting. Of the gateway's code it shares
// the records of TLS alone, which crypto/tls judges, so that both don't err alike; it is the one other place
// with an epoll loop (package netpoll is the gateway's), because its own needs
// neither closures nor wake-ups: a connection's number travels in the event.
package swarm
