package suite

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// upgrade performs the opening handshake and holds the answer against RFC 6455
// section 4.1. It returns the extensions the server agreed to, as it wrote them.
func upgrade(conn net.Conn, in *bufio.Reader, addr, path, key string, offers []string) (extensions string, err error) {
	head := "GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: " + key + "\r\nSec-WebSocket-Version: 13\r\n"
	if len(offers) > 0 {
		head += "Sec-WebSocket-Extensions: " + strings.Join(offers, ", ") + "\r\n"
	}
	if _, err := conn.Write([]byte(head + "\r\n")); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodGet})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	h := resp.Header
	switch {
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return "", fmt.Errorf("status %s", resp.Status)
	case !strings.EqualFold(h.Get("Upgrade"), "websocket"), !strings.EqualFold(h.Get("Connection"), "upgrade"):
		return "", fmt.Errorf("101 with Upgrade %q, Connection %q", h.Get("Upgrade"), h.Get("Connection"))
	case h.Get("Sec-WebSocket-Accept") != accept(key):
		return "", fmt.Errorf("wrong Sec-WebSocket-Accept %q", h.Get("Sec-WebSocket-Accept"))
	case h.Get("Sec-WebSocket-Protocol") != "":
		return "", fmt.Errorf("subprotocol %q, which was not offered", h.Get("Sec-WebSocket-Protocol"))
	}
	extensions = strings.Join(h.Values("Sec-WebSocket-Extensions"), ", ")
	if extensions != "" && len(offers) == 0 {
		return "", fmt.Errorf("extension %q, which was not offered", extensions)
	}
	return extensions, nil
}

// accept is the answer to a key, RFC 6455 section 4.2.2.
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
