package capacity

// TokensPerConnection is what a connection that has shown a token costs besides,
// bytes: measured 601 B for a subject and two patterns of its own, what looks them up
// included, and 94 B of the session in its shard's map where that has just doubled.
// Where many have the same patterns it is less; one with 128 long ones of its own has
// up to ten times that, which the watch over the memory in use sees.
const TokensPerConnection = 768

// tokensPerConnection is that where tokens are configured.
func tokensPerConnection(configured bool) int64 {
	if configured {
		return TokensPerConnection
	}
	return 0
}

// tokenTerms are the same as terms.
func tokenTerms(configured bool) []Term {
	if !configured {
		return nil
	}
	return []Term{{"token", "who it is of, what it may read and until when: a subject and two patterns of its own", TokensPerConnection, PerConnection, "gateway/auth, held by TestGrantMemory; 94 B in gateway/session.go"}}
}
