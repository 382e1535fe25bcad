package wire

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

// The Append functions below append one or more whole frames, unmasked and final (RFC
// 6455 section 5.1), or for AppendHeader and AppendMsgSkip the beginning of one,
// and allocate nothing when dst has room. Channels are written unescaped: give
// them only names that passed ValidChannel or ParsePattern. Times are Unix
// milliseconds.

// AppendHeader appends the header, 2, 4 or 10 bytes, of a frame of n ≥ 0 bytes.
func AppendHeader(dst []byte, op byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, 0x80|op, byte(n))
	case n < 1<<16:
		return append(dst, 0x80|op, 126, byte(n>>8), byte(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 0x80|op, 127), uint64(n))
	}
}

// headerLen is what AppendHeader appends.
func headerLen(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	default:
		return 10
	}
}

// AppendFrame appends a frame; of a control op the payload is at most 125 bytes.
func AppendFrame(dst []byte, op byte, payload []byte) []byte {
	return append(AppendHeader(dst, op, len(payload)), payload...)
}

// AppendClose appends a close frame. A code that may not be sent (1005, the
// answer to an empty close) makes it empty; a reason is cut at the last whole
// character within 123 bytes.
func AppendClose(dst []byte, code uint16, reason string) []byte {
	if !ValidCloseCode(code) {
		return AppendHeader(dst, OpClose, 0)
	}
	if len(reason) > 123 {
		n := 123
		for n > 120 && !utf8.RuneStart(reason[n]) {
			n--
		}
		reason = reason[:n]
	}
	dst = AppendHeader(dst, OpClose, 2+len(reason))
	return append(binary.BigEndian.AppendUint16(dst, code), reason...)
}

// The constant parts of a message, around its values.
const (
	msgCh, msgSeq, msgPrev, msgTS = `{"t":"msg","ch":"`, `","seq":`, `,"prev":`, `,"ts":`
	msgSkip, msgData, msgEnd      = `,"skip":`, `,"d":`, `}`
	msgFixed                      = len(msgCh + msgSeq + msgPrev + msgTS + msgData + msgEnd)
)

// msgLen is the length of a message's payload without "skip".
func msgLen(ch string, seq, prev uint64, ts int64, data int) int {
	return msgFixed + len(ch) + uintLen(seq) + uintLen(prev) + intLen(ts) + data
}

// MsgFrameLen is the exact number of bytes AppendMsg appends for data bytes of
// payload.
func MsgFrameLen(ch string, seq, prev uint64, ts int64, data int) int {
	n := msgLen(ch, seq, prev, ts, data)
	return headerLen(n) + n
}

// AppendMsg appends {"t":"msg","ch":…,"seq":…,"prev":…,"ts":…,"d":data}. data
// is one that passed ValidPayload; it stands at the frame's end but for one
// byte, "}".
func AppendMsg(dst []byte, ch string, seq, prev uint64, ts int64, data []byte) []byte {
	dst = AppendHeader(dst, OpText, msgLen(ch, seq, prev, ts, len(data)))
	dst = appendEnvelope(dst, ch, seq, prev, ts)
	dst = append(dst, msgData...)
	dst = append(dst, data...)
	return append(dst, msgEnd...)
}

// AppendMsgSkip begins the frame of mode "latest" for a message whose AppendMsg
// frame is msg: it appends the header and the payload up to and with
// "skip":skip. The rest of the payload, "d" and its data, is the tail of msg that
// it returns: two buffers for one writev, and no copy of the data.
func AppendMsgSkip(dst, msg []byte, skip uint64) (begun, tail []byte) {
	payload := msg[payloadAt(msg):]
	// No channel name and no number has a quote in it: the first "d" is ours.
	at := bytes.Index(payload, []byte(msgData))
	dst = AppendHeader(dst, OpText, len(payload)+len(msgSkip)+uintLen(skip))
	dst = append(dst, payload[:at]...)
	dst = append(dst, msgSkip...)
	return strconv.AppendUint(dst, skip, 10), payload[at:]
}

// IsContent reports whether a frame of a channel is a message or a gap, and not
// word of how fresh the channel is.
func IsContent(frame []byte) bool {
	return bytes.HasPrefix(frame[payloadAt(frame):], []byte(`{"t":"msg"`)) || IsGap(frame)
}

// IsGap reports whether a frame is a gap.
func IsGap(frame []byte) bool {
	return bytes.HasPrefix(frame[payloadAt(frame):], []byte(`{"t":"gap"`))
}

// payloadAt is where the payload of an unmasked frame begins.
func payloadAt(frame []byte) int {
	switch frame[1] {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// appendEnvelope appends a message up to its "ts".
func appendEnvelope(dst []byte, ch string, seq, prev uint64, ts int64) []byte {
	dst = append(dst, msgCh...)
	dst = append(dst, ch...)
	dst = append(dst, msgSeq...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, msgPrev...)
	dst = strconv.AppendUint(dst, prev, 10)
	dst = append(dst, msgTS...)
	return strconv.AppendInt(dst, ts, 10)
}

// uintLen is the number of decimal digits of n.
func uintLen(n uint64) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// intLen is the number of bytes of n in decimal.
func intLen(n int64) int {
	if n < 0 {
		return 1 + uintLen(-uint64(n))
	}
	return uintLen(uint64(n))
}

// AppendGap says that what lies after seq after and before seq before can't be
// had; why is evicted, epoch, slow, broker or invalid.
func AppendGap(dst []byte, ch string, after, before uint64, why string) []byte {
	at := len(dst)
	dst = appendGap(dst, ch, after, before, why)
	return finish(append(dst, `"}`...), at)
}

// AppendEpochGap says that seq after was a number of an epoch that has ended, and
// that what lies before seq before of the new one, which is named, can't be had.
func AppendEpochGap(dst []byte, ch string, after, before uint64, epoch string) []byte {
	at := len(dst)
	dst = appendGap(dst, ch, after, before, "epoch")
	dst = append(dst, `","epoch":`...)
	return finish(append(appendString(dst, epoch), '}'), at)
}

// appendGap is a gap's frame up to its reason.
func appendGap(dst []byte, ch string, after, before uint64, why string) []byte {
	dst = begin(dst, `{"t":"gap","ch":"`)
	dst = append(dst, ch...)
	dst = append(dst, `","after":`...)
	dst = strconv.AppendUint(dst, after, 10)
	dst = append(dst, `,"before":`...)
	dst = strconv.AppendUint(dst, before, 10)
	dst = append(dst, `,"why":"`...)
	return append(dst, why...)
}

// Hello is what the server says first.
type Hello struct {
	Conn, Node string // any text
	PingMs     int    // between WebSocket pings
	Replay     int    // messages of a channel kept in memory
	MaxCh      int    // subscriptions of one connection
	Burst      int    // commands at once
	PerSec     int    // commands a second in the long run
}

// AppendHello appends {"t":"hello",…}.
func AppendHello(dst []byte, h *Hello) []byte {
	at := len(dst)
	dst = begin(dst, `{"t":"hello","conn":`)
	dst = appendString(dst, h.Conn)
	dst = append(dst, `,"node":`...)
	dst = appendString(dst, h.Node)
	dst = append(dst, `,"v":1,"ping_ms":`...)
	dst = strconv.AppendInt(dst, int64(h.PingMs), 10)
	dst = append(dst, `,"replay":`...)
	dst = strconv.AppendInt(dst, int64(h.Replay), 10)
	dst = append(dst, `,"max_ch":`...)
	dst = strconv.AppendInt(dst, int64(h.MaxCh), 10)
	dst = append(dst, `,"rate":{"burst":`...)
	dst = strconv.AppendInt(dst, int64(h.Burst), 10)
	dst = append(dst, `,"per_sec":`...)
	dst = strconv.AppendInt(dst, int64(h.PerSec), 10)
	return finish(append(dst, "}}"...), at)
}

// AppendErr appends {"t":"err",…}; an absent id, an empty message and a retryMs
// of 0 or less are left out. message is any text.
func AppendErr(dst []byte, id ID, code, message string, retryMs int) []byte {
	at := len(dst)
	dst = id.append(begin(dst, `{"t":"err"`))
	dst = append(dst, `,"code":`...)
	dst = appendString(dst, code)
	if message != "" {
		dst = append(dst, `,"message":`...)
		dst = appendString(dst, message)
	}
	if retryMs > 0 {
		dst = append(dst, `,"retry_ms":`...)
		dst = strconv.AppendInt(dst, int64(retryMs), 10)
	}
	return finish(append(dst, '}'), at)
}

// AppendRefusedMatch appends {"t":"err","code":"limit","ch":…}: a wildcard of the
// connection matches this channel beyond its limit, and it will not be delivered.
func AppendRefusedMatch(dst []byte, ch string) []byte {
	at := len(dst)
	dst = begin(dst, `{"t":"err","code":"limit","ch":"`)
	dst = append(dst, ch...)
	return finish(append(dst, `","message":"a wildcard matches this channel beyond the connection's limit: it is not delivered"}`...), at)
}

// AppendForbidden appends {"t":"err","code":"forbidden","ch":…}: a subscription of
// the connection, to a channel or a wildcard, has ended because its new token does
// not allow it, or what everybody may read has become less.
func AppendForbidden(dst []byte, ch string) []byte {
	at := len(dst)
	dst = begin(dst, `{"t":"err","code":"forbidden","ch":"`)
	dst = append(dst, ch...)
	return finish(append(dst, `","message":"this may no longer be read: the subscription has ended"}`...), at)
}

// AppendPong appends {"t":"pong","id":…}, the answer to the op ping.
func AppendPong(dst []byte, id ID) []byte { return appendPlain(dst, "pong", id) }

// AppendAck appends {"t":"ack","id":…} without channels: the end of the
// answers to the op replay, the answer to auth.
func AppendAck(dst []byte, id ID) []byte { return appendPlain(dst, "ack", id) }

// appendPlain appends {"t":t,"id":…}.
func appendPlain(dst []byte, t string, id ID) []byte {
	at := len(dst)
	dst = append(begin(dst, `{"t":"`), t...)
	dst = append(dst, '"')
	return finish(append(id.append(dst), '}'), at)
}

// AppendHB appends {"t":"hb","ts":…}.
func AppendHB(dst []byte, ts int64) []byte {
	at := len(dst)
	dst = strconv.AppendInt(begin(dst, `{"t":"hb","ts":`), ts, 10)
	return finish(append(dst, '}'), at)
}

// AppendStale appends {"t":"stale","ch":…}: the channel may lag its publishers.
func AppendStale(dst []byte, ch string) []byte { return appendState(dst, "stale", ch) }

// AppendLive appends {"t":"live","ch":…}: the channel no longer lags.
func AppendLive(dst []byte, ch string) []byte { return appendState(dst, "live", ch) }

// appendState appends {"t":t,"ch":…}.
func appendState(dst []byte, t, ch string) []byte {
	at := len(dst)
	dst = append(begin(dst, `{"t":"`), t...)
	dst = append(dst, `","ch":"`...)
	dst = append(dst, ch...)
	return finish(append(dst, `"}`...), at)
}

// AppendBye appends {"t":"bye","code":…,"retry_ms":…}: a close frame follows.
func AppendBye(dst []byte, code, retryMs int) []byte {
	at := len(dst)
	dst = strconv.AppendInt(begin(dst, `{"t":"bye","code":`), int64(code), 10)
	dst = strconv.AppendInt(append(dst, `,"retry_ms":`...), int64(retryMs), 10)
	return finish(append(dst, '}'), at)
}

// begin leaves room for the shortest header and appends the payload's begin.
func begin(dst []byte, head string) []byte {
	return append(append(dst, 0, 0), head...)
}

// finish writes the header of the text frame begun at offset at, moving the
// payload when it needs a longer one.
func finish(dst []byte, at int) []byte {
	n := len(dst) - at - 2
	if more := headerLen(n) - 2; more > 0 {
		dst = append(dst, "........"[:more]...)
		copy(dst[at+2+more:], dst[at+2:at+2+n])
	}
	AppendHeader(dst[:at], OpText, n)
	return dst
}
