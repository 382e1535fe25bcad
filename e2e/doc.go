// Package e2e tests the odin binary from outside, as its users meet it: the
// real program in a process of its own, over real sockets, spoken to by clients
// that share no code with it (two Go WebSocket packages, npm's ws, a browser,
// and a reader of a hundred lines that lives here).
//
// The package has tests only. What a test needs beyond Go (Node.js, Chromium)
// it looks for and skips without, saying how to get it; ODIN_REQUIRE_JS,
// ODIN_REQUIRE_BROWSER, ODIN_REQUIRE_HAPROXY, ODIN_REQUIRE_IMAGE and
// ODIN_REQUIRE_PROMETHEUS, set to 1, make that a failure. ODIN_LONG=1 adds the replays
// that take minutes. ODIN_BIN names a binary to test instead of building one.
package e2e
