package odin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// frame is any of the server's.
type frame struct {
	T  string          `json:"t"`
	ID *uint64         `json:"id"`
	Ch json.RawMessage `json:"ch"` // a name, except in an ack

	Seq  *uint64         `json:"seq"`
	Prev *uint64         `json:"prev"`
	TS   int64           `json:"ts"`
	Skip uint64          `json:"skip"`
	D    json.RawMessage `json:"d"`

	After  *uint64 `json:"after"`
	Before *uint64 `json:"before"`
	Why    string  `json:"why"`
	Epoch  string  `json:"epoch"` // of why epoch, the new one's name

	Code    json.RawMessage   `json:"code"` // a word in err, a number in bye
	Message string            `json:"message"`
	RetryMS int64             `json:"retry_ms"`
	Rej     map[string]string `json:"rej"`

	Conn   string `json:"conn"`
	Node   string `json:"node"`
	V      int    `json:"v"`
	PingMS int64  `json:"ping_ms"`
	Rate   struct {
		Burst  int `json:"burst"`
		PerSec int `json:"per_sec"`
	} `json:"rate"`

	name string              // Ch, in msg, gap, stale and live; in err too where it is about one
	acks map[string]ackEntry // Ch, in ack
}

// ackEntry is one name of an ack.
type ackEntry struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// parseFrame reads a frame, and refuses one that lacks what its type must have.
func parseFrame(b []byte) (*frame, error) {
	f := new(frame)
	if err := json.Unmarshal(b, f); err != nil {
		return nil, fmt.Errorf("not a frame: %w", err)
	}
	switch f.T {
	case "":
		return nil, errors.New(`a frame without "t"`)
	case "msg":
		if f.Seq == nil || f.Prev == nil || f.D == nil || *f.Prev >= *f.Seq {
			return nil, errors.New("a msg without seq, a lesser prev and d")
		}
	case "gap":
		if f.After == nil || f.Before == nil {
			return nil, errors.New("a gap without after and before")
		}
	case "err":
		_ = json.Unmarshal(f.Ch, &f.name) // mostly it is about none
	case "ack":
		if len(f.Ch) > 0 {
			if err := json.Unmarshal(f.Ch, &f.acks); err != nil {
				return nil, fmt.Errorf("an ack's ch: %w", err)
			}
		}
	}
	switch f.T {
	case "msg", "gap", "stale", "live":
		if err := json.Unmarshal(f.Ch, &f.name); err != nil || f.name == "" {
			return nil, fmt.Errorf("a %s without a channel", f.T)
		}
	}
	return f, nil
}

// code is an err frame's word.
func (f *frame) code() string { return string(bytes.Trim(f.Code, `"`)) }

// subCommand is the op sub.
type subCommand struct {
	Op    string    `json:"op"`
	ID    uint64    `json:"id"`
	Ch    []string  `json:"ch"`
	Since Positions `json:"since,omitempty"`
	Mode  string    `json:"mode,omitempty"`
	MS    int64     `json:"ms,omitempty"`
	Slow  string    `json:"slow,omitempty"`
	Snap  bool      `json:"snap,omitempty"`
}

// marshal can't fail for what is given to it here.
func marshal(v any) []byte {
	b, _ := json.Marshal(v)
	return b
}

// isWildcard reports whether a name stands for many channels.
func isWildcard(name string) bool { return strings.HasSuffix(name, ".*") }

// matches reports whether a wildcard covers a channel or another wildcard.
func matches(wildcard, name string) bool {
	return isWildcard(wildcard) && strings.HasPrefix(name, wildcard[:len(wildcard)-1])
}

// checkName says what is wrong with a channel or wildcard, or "".
func checkName(name string) string {
	rest := strings.TrimSuffix(name, ".*")
	if len(name) > 128 || rest == "" {
		return "a channel has 1 to 128 bytes"
	}
	for _, token := range strings.Split(rest, ".") {
		if token == "" || strings.ContainsFunc(token, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-')
		}) {
			return "a channel is tokens of A-Z a-z 0-9 _ - joined by dots, and may end in .*"
		}
	}
	return ""
}
