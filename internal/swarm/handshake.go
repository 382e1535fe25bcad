package swarm

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"strconv"
)

// maxHead bounds an answer's head, bytes.
const maxHead = 16 << 10

const (
	protocol = "odin.v1.json"
	keyLen   = 24 // of 16 bytes in base64
	acceptID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// heads writes request heads, which differ in their key alone, and checks the
// answers. The key is made from the attempt's number, not kept.
type heads struct {
	text  []byte
	plain bool
	key   int // where the key lies in text
	seed  uint64
}

func newHeads(t target, plain bool, token string, seed uint64) heads {
	b := []byte("GET " + t.path + " HTTP/1.1\r\nHost: " + t.host +
		"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n")
	if !plain {
		b = append(b, "Sec-WebSocket-Protocol: "+protocol+"\r\n"...)
	}
	if token != "" {
		b = append(b, "Authorization: Bearer "+token+"\r\n"...)
	}
	b = append(b, "Sec-WebSocket-Key: "...)
	at := len(b)
	b = append(b, make([]byte, keyLen)...)
	return heads{text: append(b, "\r\n\r\n"...), plain: plain, key: at, seed: seed}
}

// request is attempt g's head, good until the next call.
func (h *heads) request(g int) []byte {
	var raw [16]byte
	binary.NativeEndian.PutUint64(raw[:], h.seed)
	binary.NativeEndian.PutUint64(raw[8:], uint64(g)*0x9e3779b97f4a7c15)
	base64.StdEncoding.Encode(h.text[h.key:], raw[:])
	return h.text
}

// answer judges a whole response head to attempt g. why is "" for an upgrade;
// odin says that the server took the subprotocol.
func (h *heads) answer(g int, head []byte) (odin bool, why string) {
	status, rest, _ := bytes.Cut(head, []byte("\r\n"))
	const version = "HTTP/1.1 "
	if len(status) < len(version)+3 || !bytes.HasPrefix(status, []byte(version)) {
		return false, "bad_handshake"
	}
	code, err := strconv.Atoi(string(status[len(version) : len(version)+3]))
	if err != nil || code < 100 || len(status) > len(version)+3 && status[len(version)+3] != ' ' {
		return false, "bad_handshake"
	}
	if code != 101 {
		return false, "http_" + strconv.Itoa(code)
	}
	var want [28]byte
	var proof [keyLen + len(acceptID)]byte
	copy(proof[:], h.request(g)[h.key:h.key+keyLen])
	copy(proof[keyLen:], acceptID)
	sum := sha1.Sum(proof[:])
	base64.StdEncoding.Encode(want[:], sum[:])

	var accepts, upgrades, connections int
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Sec-WebSocket-Accept")):
			if !bytes.Equal(value, want[:]) {
				return false, "bad_handshake"
			}
			accepts++
		case bytes.EqualFold(name, []byte("Upgrade")) && bytes.EqualFold(value, []byte("websocket")):
			upgrades++
		case bytes.EqualFold(name, []byte("Connection")) && hasToken(value, "upgrade"):
			connections++
		case bytes.EqualFold(name, []byte("Sec-WebSocket-Protocol")):
			if string(value) != protocol || h.plain {
				return false, "bad_handshake"
			}
			odin = true
		case bytes.EqualFold(name, []byte("Sec-WebSocket-Extensions")):
			return false, "bad_handshake" // none was offered
		}
	}
	if accepts != 1 || upgrades != 1 || connections != 1 {
		return false, "bad_handshake"
	}
	return odin, ""
}

// hasToken reports whether a list header names token.
func hasToken(list []byte, token string) bool {
	for item := range bytes.SplitSeq(list, []byte(",")) {
		if bytes.EqualFold(bytes.TrimSpace(item), []byte(token)) {
			return true
		}
	}
	return false
}
