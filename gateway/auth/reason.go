package auth

// Reason is why somebody was refused; OK that nobody was. It is an error with a
// sentence for whom it was: that says nothing of keys, and never quotes.
type Reason uint8

// Reasons, in no order that matters.
const (
	None        Reason = iota // no verdict was reached
	OK                        // the token is good
	Missing                   // there is none where one is needed
	Malformed                 // not a signed JWT, too long, or with a critical extension
	Algorithm                 // of an algorithm that no key has
	UnknownKey                // signed with a key that is not known
	Signature                 // not signed with the key it names
	Claims                    // exp is missing, or a claim is of the wrong form
	Expired                   // exp has passed
	NotYet                    // nbf has not come
	Issuer                    // of an issuer that is not trusted
	Audience                  // for another audience
	Revoked                   // it, or its subject, was revoked
	Identity                  // good, but of another subject than the connection's
	BadAPIKey                 // no API key, or one that is not known
	Fetching                  // the key may be in a set that is being fetched: ask again soon
	Unavailable               // its key may be in a set that can't be fetched just now
	Reasons                   // how many there are
)

// reasons are the name of each in counters, and its sentence.
var reasons = [Reasons]struct{ name, text string }{
	None:        {"none", "no verdict was reached"},
	OK:          {"ok", ""},
	Missing:     {"missing", "a token is needed here"},
	Malformed:   {"malformed", "the token is not a signed JWT that is understood here"},
	Algorithm:   {"algorithm", "the token's algorithm is not accepted"},
	UnknownKey:  {"unknown_key", "the token's key is not known"},
	Signature:   {"signature", "the token's signature is wrong"},
	Claims:      {"claims", "the token lacks exp, or has a claim of the wrong form"},
	Expired:     {"expired", "the token has expired"},
	NotYet:      {"not_yet", "the token is not valid yet"},
	Issuer:      {"issuer", "the token's issuer is not trusted here"},
	Audience:    {"audience", "the token is for another audience"},
	Revoked:     {"revoked", "the token was revoked"},
	Identity:    {"identity", "the token is another identity's than the connection's"},
	BadAPIKey:   {"api_key", "an API key is needed here: Authorization: Bearer, or X-API-Key"},
	Fetching:    {"fetching", "the keys are being fetched"},
	Unavailable: {"unavailable", "the keys to verify this token with could not be fetched yet"},
}

// String is the reason's name in counters and logs.
func (r Reason) String() string { return reasons[r].name }

// Error is the reason as a sentence for whom it refuses.
func (r Reason) Error() string { return reasons[r].text }
