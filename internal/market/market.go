// Package market is where events come from when no exchange is at hand: it
// reads recordings of real market data and makes an endless synthetic market.
//
// A recording is NDJSON, plain or gzipped, one event a line:
//
//	{"ts":1723161501051162096,"channel":"trade.BINANCE_USDM.BTCUSDT","data":{…}}
//
// Reader streams one without holding it; Synth deals events for ever, the same
// ones for the same seed. Both give data as the exact bytes that a publisher
// would send. Neither sleeps, publishes or knows a gateway: playing events at
// their pace is the business of whoever reads them (cmd/odin's feeder).
package market

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Event is one message of a market at a moment of its own clock.
type Event struct {
	TS      int64  // Unix nanoseconds on the recorder's (or the synthetic) clock; 0 if the line had none
	Channel string // kind.VENUE.SYMBOL in the recordings; any valid channel elsewhere
	Data    []byte // the payload's JSON, byte for byte as it was in the line; the receiver's to keep
	Key     string // deduplication key, "" for none
}

// MaxChannel is the longest channel name, bytes.
const MaxChannel = 128

// line is the shape of one NDJSON event. "ch" is what the HTTP API calls the
// channel; publishers may use either name.
type line struct {
	TS      *int64          `json:"ts"`
	Channel string          `json:"channel"`
	Ch      string          `json:"ch"`
	Key     string          `json:"key"`
	Data    json.RawMessage `json:"data"`
}

// ParseEvent reads one NDJSON line {"channel":…,"data":…} with optional "ts"
// and "key"; "ch" is accepted for "channel". Data is copied out of b.
func ParseEvent(b []byte) (Event, error) {
	var l line
	if !utf8.Valid(b) {
		return Event{}, errors.New("not valid UTF-8")
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return Event{}, jsonError(b, err)
	}
	if l.Channel == "" {
		l.Channel = l.Ch
	} else if l.Ch != "" && l.Ch != l.Channel {
		return Event{}, fmt.Errorf(`"channel" %q and "ch" %q disagree: give one`, l.Channel, l.Ch)
	}
	if l.Channel == "" {
		return Event{}, errors.New(`no "channel"`)
	}
	if err := CheckChannel(l.Channel); err != nil {
		return Event{}, err
	}
	if l.Data == nil {
		return Event{}, errors.New(`no "data"`)
	}
	e := Event{Channel: l.Channel, Data: l.Data, Key: l.Key}
	if l.TS != nil {
		e.TS = *l.TS
		if e.TS <= 0 {
			return Event{}, fmt.Errorf(`"ts" %d: want Unix nanoseconds`, e.TS)
		}
	}
	return e, nil
}

// jsonError says what is wrong with b in a user's words.
func jsonError(b []byte, err error) error {
	var syn *json.SyntaxError
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syn):
		return fmt.Errorf("not JSON at byte %d: %s (%s)", syn.Offset, syn.Error(), excerpt(b))
	case errors.As(err, &typ) && typ.Field != "":
		return fmt.Errorf("%q is a JSON %s, want %s", typ.Field, typ.Value, typ.Type)
	case errors.As(err, &typ):
		return fmt.Errorf("a JSON %s, want an object (%s)", typ.Value, excerpt(b))
	}
	return err
}

// excerpt is the beginning of b, short enough for an error message.
func excerpt(b []byte) string {
	const most = 40
	if len(b) <= most {
		return string(b)
	}
	return string(bytes.ToValidUTF8(b[:most], nil)) + "…"
}

// CheckChannel reports why s is not a channel name: tokens of [A-Za-z0-9_-]
// joined by dots, at most MaxChannel bytes. It does not know which first
// tokens a gateway reserves.
func CheckChannel(s string) error {
	if len(s) > MaxChannel {
		return fmt.Errorf("channel of %d bytes: the longest is %d", len(s), MaxChannel)
	}
	empty := true
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
			empty = false
		case c == '.' && !empty:
			empty = true
		default:
			return fmt.Errorf("channel %q: want [A-Za-z0-9_-]+ joined by dots", s)
		}
	}
	if empty {
		return fmt.Errorf("channel %q: want [A-Za-z0-9_-]+ joined by dots", s)
	}
	return nil
}
