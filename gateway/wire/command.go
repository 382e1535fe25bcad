package wire

import (
	"encoding/json"
	"unicode/utf8"
)

// Bounds of a command besides the size of its message.
const (
	MaxDepth = 16        // brackets open at once
	MaxMS    = 3_600_000 // "ms", an hour
)

// Position is a place in a channel: the seq of the last message seen, in the
// stream's life that epoch names.
type Position struct {
	Epoch string
	Seq   uint64
}

// Command is what a client asks. It shares nothing with the payload it was
// parsed from.
type Command struct {
	Op string // sub, unsub, list, ping, auth or replay
	ID ID

	Ch    []string            // sub, unsub: one or more names, of any text and not checked; replay: exactly one
	Since map[string]Position // sub: nil when absent; may name channels that are not in Ch
	Mode  string              // sub: "", "all" or "latest"
	Slow  string              // sub: "" or "latest"
	MS    int                 // sub: milliseconds, 0 to MaxMS
	Snap  bool                // sub

	Token    string // auth: not empty
	Epoch    string // replay
	From, To uint64 // replay: From ≤ To
}

// CommandError is the answer to a command that can't be understood.
type CommandError struct {
	Code    string // "bad_request"
	Message string // never quotes the command
	ID      ID     // the command's, when that much could be read
}

// Error is "code: message".
func (e *CommandError) Error() string { return e.Code + ": " + e.Message }

// field is a key of a command.
type field uint8

const (
	fOp field = iota
	fID
	fCh
	fSince
	fMode
	fSlow
	fMS
	fSnap
	fToken
	fEpoch
	fFrom
	fTo
	fields
)

// fieldOf names the field of a key, or fields for one unknown.
func fieldOf(key []byte) field {
	switch string(key) {
	case "op":
		return fOp
	case "id":
		return fID
	case "ch":
		return fCh
	case "since":
		return fSince
	case "mode":
		return fMode
	case "slow":
		return fSlow
	case "ms":
		return fMS
	case "snap":
		return fSnap
	case "token":
		return fToken
	case "epoch":
		return fEpoch
	case "from":
		return fFrom
	case "to":
		return fTo
	}
	return fields
}

// ParseCommand reads one command, a JSON object, into c, which it resets first
// and leaves unspecified on an error. Keys that are unknown, or that the op has
// no use for, are ignored whatever their value. A known key twice, null, a
// number that is not a plain integer in its range, a string or a boolean of
// another type, more than MaxDepth brackets, or anything behind the object is
// bad_request. A ping costs no allocation.
func ParseCommand(payload []byte, c *Command) *CommandError {
	*c = Command{}
	if nestedOver(payload, MaxDepth) {
		return badRequest("nested too deep", ID{})
	}
	if !utf8.Valid(payload) || !json.Valid(payload) {
		return badRequest("not JSON", ID{})
	}
	w, ok := walk(payload, '{')
	if !ok {
		return badRequest("not a JSON object", ID{})
	}
	var raw [fields][]byte // the value of each known key, nil when absent
	why := ""
	for w.next() {
		key, _ := text(w.key)
		if f := fieldOf(key); f < fields {
			if raw[f] != nil {
				why = "the same key twice"
			}
			raw[f] = w.val
		}
	}
	if raw[fID] != nil {
		n, ok := integer(raw[fID], MaxID)
		if !ok {
			return badRequest("id must be an integer from 0 to 2^53", ID{})
		}
		c.ID = IntID(n)
	}
	if why == "" {
		why = c.fill(&raw)
	}
	if why != "" {
		return badRequest(why, c.ID)
	}
	return nil
}

// badRequest is the only kind of CommandError there is.
func badRequest(message string, id ID) *CommandError {
	return &CommandError{Code: "bad_request", Message: message, ID: id}
}

// fill sets c from the fields its op uses, and says what is wrong, or "".
func (c *Command) fill(raw *[fields][]byte) (why string) {
	op, _ := text(raw[fOp])
	switch string(op) {
	case "ping":
		c.Op = "ping"
	case "list":
		c.Op = "list"
	case "sub":
		c.Op = "sub"
		return c.sub(raw)
	case "unsub":
		c.Op = "unsub"
		return c.channels(raw[fCh])
	case "auth":
		c.Op = "auth"
		token, ok := text(raw[fToken])
		if !ok || len(token) == 0 {
			return "token must be a string"
		}
		c.Token = string(token)
	case "replay":
		c.Op = "replay"
		return c.replay(raw)
	default:
		return "op must be one of sub, unsub, list, ping, auth, replay"
	}
	return ""
}

// sub sets the fields of the op sub.
func (c *Command) sub(raw *[fields][]byte) (why string) {
	if why := c.channels(raw[fCh]); why != "" {
		return why
	}
	if raw[fSince] != nil && !c.since(raw[fSince]) {
		return `since must be an object of {"epoch":string,"seq":integer}`
	}
	if raw[fMode] != nil {
		switch mode, ok := text(raw[fMode]); {
		case ok && string(mode) == "latest":
			c.Mode = "latest"
		case ok && string(mode) == "all":
			c.Mode = "all"
		case !ok || len(mode) > 0:
			return "mode must be all or latest"
		}
	}
	if raw[fSlow] != nil {
		switch slow, ok := text(raw[fSlow]); {
		case ok && string(slow) == "latest":
			c.Slow = "latest"
		case !ok || len(slow) > 0:
			return "slow must be latest"
		}
	}
	if raw[fMS] != nil {
		ms, ok := integer(raw[fMS], MaxMS)
		if !ok {
			return "ms must be an integer from 0 to 3600000"
		}
		c.MS = int(ms)
	}
	switch string(raw[fSnap]) {
	case "true":
		c.Snap = true
	case "false", "":
	default:
		return "snap must be a boolean"
	}
	return ""
}

// channels sets Ch from an array of strings.
func (c *Command) channels(raw []byte) (why string) {
	const must = "ch must be an array of one or more strings"
	w, ok := walk(raw, '[')
	if !ok {
		return must
	}
	for w.next() {
		ch, ok := text(w.val)
		if !ok {
			return must
		}
		c.Ch = append(c.Ch, string(ch))
	}
	if len(c.Ch) == 0 {
		return must
	}
	return ""
}

// since sets Since from an object of positions.
func (c *Command) since(raw []byte) (ok bool) {
	w, ok := walk(raw, '{')
	if !ok {
		return false
	}
	c.Since = make(map[string]Position)
	for w.next() {
		ch, _ := text(w.key)
		if _, twice := c.Since[string(ch)]; twice {
			return false
		}
		var at Position
		if !at.parse(w.val) {
			return false
		}
		c.Since[string(ch)] = at
	}
	return true
}

// parse sets p from an object that has both members, each once.
func (p *Position) parse(raw []byte) (ok bool) {
	w, ok := walk(raw, '{')
	if !ok {
		return false
	}
	epochs, seqs := 0, 0
	for w.next() {
		switch key, _ := text(w.key); string(key) {
		case "epoch":
			epoch, ok := text(w.val)
			if !ok {
				return false
			}
			p.Epoch = string(epoch)
			epochs++
		case "seq":
			if p.Seq, ok = integer(w.val, 1<<64-1); !ok {
				return false
			}
			seqs++
		}
	}
	return epochs == 1 && seqs == 1
}

// replay sets the fields of the op replay.
func (c *Command) replay(raw *[fields][]byte) (why string) {
	ch, ok := text(raw[fCh])
	if !ok {
		return "ch must be a string"
	}
	c.Ch = []string{string(ch)}
	epoch, ok := text(raw[fEpoch])
	if !ok {
		return "epoch must be a string"
	}
	c.Epoch = string(epoch)
	var okFrom, okTo bool
	c.From, okFrom = integer(raw[fFrom], 1<<64-1)
	c.To, okTo = integer(raw[fTo], 1<<64-1)
	if !okFrom || !okTo || c.From > c.To {
		return "from and to must be integers, from ≤ to"
	}
	return ""
}
