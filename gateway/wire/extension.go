package wire

import (
	"strings"
)

// deflateName is the one extension there is, RFC 7692.
const deflateName = "permessage-deflate"

// acceptDeflate is what every accepted offer is answered with. The server keeps no
// state from one message to the next, and inflates none that a client kept; every
// client must take the second (section 7.1.1.2), whether it offered it or not.
const acceptDeflate = deflateName + "; server_no_context_takeover; client_no_context_takeover"

// AcceptDeflate takes the first offer of permessage-deflate that can be had, of a
// request that passed [CheckUpgrade]: AppendUpgrade then says so. It reports false
// when there is none. RFC 7692 section 7.1: an offer is declined for a parameter
// that is unknown, given twice, or of a value it may not have, and for a
// server_max_window_bits below 15, because frames are compressed once for all.
func (r *Request) AcceptDeflate() bool {
	for offer := range strings.SplitSeq(r.Extensions, ",") {
		if answer, ok := judgeOffer(offer); ok {
			r.deflate = answer
			return true
		}
	}
	return false
}

// judgeOffer returns the answer to one offer.
func judgeOffer(offer string) (answer string, ok bool) {
	name, rest, more := strings.Cut(offer, ";")
	if strings.Trim(name, " \t") != deflateName {
		return "", false
	}
	answer = acceptDeflate
	seen := make(map[string]bool, 4)
	for more {
		var param string
		param, rest, more = strings.Cut(rest, ";")
		key, value, valued := strings.Cut(strings.Trim(param, " \t"), "=")
		if seen[key] {
			return "", false
		}
		seen[key] = true
		value = strings.Trim(value, `"`) // CheckUpgrade has seen that there are two or none
		switch key {
		case "server_no_context_takeover", "client_no_context_takeover": // 7.1.1
			if valued {
				return "", false
			}
		case "server_max_window_bits": // 7.1.2.1: the answer says so too
			if value != "15" {
				return "", false
			}
			answer += "; server_max_window_bits=15"
		case "client_max_window_bits": // 7.1.2.2: a hint; any window is inflated
			if valued && !windowBits(value) {
				return "", false
			}
		default:
			return "", false
		}
	}
	return answer, true
}

// windowBits reports whether a value is a number from 8 to 15, without zeros before it.
func windowBits(value string) bool {
	switch value {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		return true
	}
	return false
}
