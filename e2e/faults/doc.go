//go:build linux

// Command faults breaks things around the built binary, and checks that nothing
// was lost in silence and how soon all was well again.
//
//	faults [--hostile] [--only NAME,…] [--fast] [--list] [--out FILE]
//
// Each scenario runs `odin serve`, where it needs them nats-server and HAProxy,
// and clients that resume (clients/go) in this process, breaks something, and
// ends with a row of a table: how long it took until every client was given what
// was published after the fault, and what the ledger (internal/ledger) says of
// all that was acknowledged. Without a word lost means that each acknowledged
// message reached each client, or that the client was told that it doesn't.
//
// With --hostile it is clients that break things: half-sent frames, handshakes that
// never end, floods, storms, descriptors and system calls that fail, handlers that
// panic. There the legitimate clients' delays are measured beside them.
//
// Scenarios with iptables, namespaces or a small file system need root.
// --fast runs the short form of those that CI runs.
//
// It is a module of its own, because it brings NATS and WebSocket clients that the
// product must not depend on, and shares no code with the gateway.
package main
