// Package suite is a runner of the public Autobahn test suite's cases against a
// WebSocket server that echoes, keyed by the suite's own case numbers: sections
// 1 to 7, 9 and 10, and 12 and 13 where the server accepts permessage-deflate.
//
//	for _, r := range suite.Run("127.0.0.1:8080", "/echo", suite.Cases(), 8) {
//		fmt.Println(r.Case.ID, r.Behavior, r.Close)
//	}
//
// It speaks RFC 6455 by itself, over plain TCP: it has to send what no library
// would, in the pieces that a case asks for, and must share no mistake with the
// server under test. What it was sent is compared byte for byte, also in section
// 9, where the public suite looks at lengths only, and every frame of the
// server's is held against the RFC: unmasked, minimal, UTF-8, nothing behind its
// close.
//
// Verdicts are the suite's: a case has one for what was received and one for how
// the connection ended. It is not the suite: no reports of wire logs, no client
// under test.
package suite
