package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/wire"
)

// tokenProtocol begins the entry of Sec-WebSocket-Protocol that carries a token:
// all that a page can add to a handshake besides its URL, and unlike that in no
// log of a proxy. It is never echoed, so odin.v1.json must be offered with it.
const tokenProtocol = "odin.token."

// tokenParameters are the query parameters that may carry a token: RFC 6750
// section 2.3, and what people write.
var tokenParameters = []string{"access_token", "token"}

var refuseTwoTokens = &wire.Refusal{Status: http.StatusBadRequest, Code: "bad_request", Message: "show one token, in one place"}

// shownToken is the token a handshake shows, RFC 6750 section 2; shown is false
// when there is none. Two are refused, as the RFC has it.
func shownToken(req *wire.Request) (token string, shown bool, ref *wire.Refusal) {
	n := 0
	found := func(text string) { token, n = text, n+1 }
	if scheme, text, _ := strings.Cut(req.Authorization, " "); strings.EqualFold(scheme, "Bearer") {
		found(strings.TrimLeft(text, " "))
	}
	for p := range strings.SplitSeq(req.Protocols, ",") {
		if text, ok := strings.CutPrefix(strings.Trim(p, " \t"), tokenProtocol); ok {
			found(text)
		}
	}
	for pair := range strings.SplitSeq(req.Query, "&") {
		key, text, _ := strings.Cut(pair, "=")
		for _, name := range tokenParameters {
			if key == name {
				if plain, err := url.QueryUnescape(text); err == nil {
					text = plain
				}
				found(text)
			}
		}
	}
	if n > 1 {
		return "", true, refuseTwoTokens
	}
	return token, n > 0, nil
}

// tokenRefusals are the answers to a handshake, by reason.
var tokenRefusals = func() (all [auth.Reasons]*wire.Refusal) {
	for r := range auth.Reasons {
		ref := &wire.Refusal{Status: http.StatusUnauthorized, Code: "unauthorized", Message: r.Error()}
		switch challenge := `Bearer realm="odin"`; r {
		case auth.None:
			ref = &wire.Refusal{Status: http.StatusInternalServerError, Code: "internal", Message: "the token could not be looked at"}
		case auth.Unavailable:
			ref.Status, ref.Code = http.StatusServiceUnavailable, "keys_unavailable"
		case auth.Missing:
			ref.Message = "a token is needed: Authorization: Bearer TOKEN, or the subprotocol " + tokenProtocol + "TOKEN beside " + wire.Subprotocol
			ref.Header = [][2]string{{"WWW-Authenticate", challenge}}
		default: // RFC 6750 section 3
			ref.Header = [][2]string{{"WWW-Authenticate", challenge + `, error="invalid_token"`}}
		}
		all[r] = ref
	}
	return all
}()
