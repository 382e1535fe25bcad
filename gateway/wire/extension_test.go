package wire

import (
	"bufio"
	"bytes"
	"net/http"
	"testing"
)

// Offers of permessage-deflate and what RFC 7692 section 7.1 has them answered with.
func TestAcceptDeflate(t *testing.T) {
	const plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for offer, want := range map[string]string{
		"":                   "",
		"permessage-deflate": plain,
		"permessage-deflate; server_no_context_takeover":                             plain,
		"permessage-deflate; client_no_context_takeover":                             plain,
		"permessage-deflate;client_no_context_takeover;server_no_context_takeover":   plain,
		"permessage-deflate; client_max_window_bits":                                 plain,
		"permessage-deflate; client_max_window_bits=8":                               plain,
		"permessage-deflate; client_max_window_bits=15":                              plain,
		`permessage-deflate; client_max_window_bits="10"`:                            plain,
		"permessage-deflate; server_max_window_bits=15":                              plain + "; server_max_window_bits=15",
		`permessage-deflate; server_max_window_bits="15"; client_max_window_bits=12`: plain + "; server_max_window_bits=15",

		// What can't be honoured, because a message is compressed once for all.
		"permessage-deflate; server_max_window_bits=14": "",
		"permessage-deflate; server_max_window_bits=8":  "",

		// Values there may not be.
		"permessage-deflate; server_max_window_bits":                                 "",
		"permessage-deflate; server_max_window_bits=16":                              "",
		"permessage-deflate; server_max_window_bits=015":                             "",
		"permessage-deflate; server_max_window_bits=+15":                             "",
		"permessage-deflate; client_max_window_bits=7":                               "",
		"permessage-deflate; client_max_window_bits=16":                              "",
		"permessage-deflate; client_max_window_bits=08":                              "",
		"permessage-deflate; client_max_window_bits=1e1":                             "",
		"permessage-deflate; client_no_context_takeover=1":                           "",
		`permessage-deflate; server_no_context_takeover="true"`:                      "",
		"permessage-deflate; server_no_context_takeover; x":                          "",
		"permessage-deflate; Client_Max_Window_Bits":                                 "",
		"permessage-deflate; client_max_window_bits; mode=x":                         "",
		"permessage-deflate; permessage-deflate":                                     "",
		"permessage-deflate; client_max_window_bits=10; client_max_window_bits=10":   "",
		"permessage-deflate; client_no_context_takeover; client_no_context_takeover": "",

		// Other extensions, and several offers: the first that can be had.
		"x-webkit-deflate-frame":  "",
		"permessage-bzip2; a=b":   "",
		"permessage-deflate-2":    "",
		"foo, permessage-deflate": plain,
		"foo; a=1, bar , permessage-deflate ; client_max_window_bits":                                  plain,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":                            plain,
		"permessage-deflate; server_max_window_bits=10; client_max_window_bits, permessage-deflate; x": "",
		"permessage-deflate; server_max_window_bits=15, permessage-deflate":                            plain + "; server_max_window_bits=15",
		"permessage-deflate, permessage-deflate; server_max_window_bits=15":                            plain,
	} {
		var edits []string
		if offer != "" {
			edits = append(edits, "Sec-WebSocket-Extensions: "+offer)
		}
		r, ref := ParseHead([]byte(head(edits...)))
		if ref == nil {
			ref = CheckUpgrade(&r)
		}
		if ref != nil {
			t.Errorf("%q: %v", offer, ref)
			continue
		}
		if got := r.AcceptDeflate(); got != (want != "") {
			t.Errorf("%q: accepted: %v", offer, got)
		}
		out, err := r.AppendUpgrade(nil)
		if err != nil {
			t.Fatalf("%q: %v", offer, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%q: %v %v", offer, resp, err)
		}
		if got := resp.Header.Values("Sec-WebSocket-Extensions"); len(got) > 1 || want == "" && got != nil || want != "" && (got == nil || got[0] != want) {
			t.Errorf("%q: answered %q, want %q", offer, got, want)
		}
	}
}

// Offers on several lines are one list, RFC 6455 section 9.1.
func TestAcceptDeflateOnTwoLines(t *testing.T) {
	r, ref := ParseHead([]byte(head("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9", "+Sec-WebSocket-Extensions: permessage-deflate")))
	if ref == nil {
		ref = CheckUpgrade(&r)
	}
	if ref != nil || !r.AcceptDeflate() {
		t.Errorf("refused: %v", ref)
	}
}
