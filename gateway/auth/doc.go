// Package auth says who may enter: [Tokens] verifies the JSON Web Tokens of
// those who read, [APIKeys] the keys of those who publish and look after a node.
// It knows no connection and no request: text in, a verdict out.
//
// # Tokens
//
// A token is a JWT (RFC 7519), signed; nothing in it says how it is verified.
// Every key has one algorithm, its own, and a token is held against the keys of
// the algorithm it names: so "none", and HS256 keyed by a public key, find no
// key. "kid" is looked up in a table and nowhere else; "jku", "x5u", "jwk" and
// "x5c" are not looked at, and "crit" is refused because none of its extensions
// is known here.
//
// These claims count:
//
//	exp       required; a token is good until then, and not a moment longer
//	nbf       with 5 s of leeway
//	iss, aud  as configured; not looked at when nothing is
//	sub       who it is; a connection keeps its sub for life
//	jti       so that this one token can be revoked
//	channels  what may be read: an array of at most 128 patterns, or one text of
//	          them with spaces between; without it Config.DefaultRead, else nothing
//
// A pattern is a channel, a prefix such as "trade.*", or "*" for everything. A
// wildcard may be subscribed if a pattern covers all of it: "trade.*" covers
// "trade.*" and "trade.eu.*", and "trade.eu.*" does not cover "trade.*".
//
// # Files
//
// The set of keys at a URL is fetched in the background; files that may change
// while the process runs (sets of keys, revocations, API keys) are looked at once
// a second. What can't be read then leaves what was read before in force.
//
// Nothing here logs, or puts into an error, a token, a key or a part of one.
package auth
