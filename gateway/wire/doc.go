// Package wire is Odin's protocol as pure functions: the HTTP request head, the
// WebSocket frames a client sends, the commands inside them, and every frame
// the server sends back. It does no I/O, starts nothing, keeps no global that
// changes, and knows nothing of sockets, channels' contents or users.
//
// # A connection's life, in calls
//
//	var hs wire.HeadScanner                  // bytes arrive in any pieces
//	end, ref := hs.Scan(buf)                 // ref: answer ref.AppendResponse, close
//	req, ref := wire.ParseHead(buf[:end])    // generic HTTP rules
//	ref = wire.CheckUpgrade(&req)            // RFC 6455 section 4.2.1, for /ws only
//	ref = wire.CheckOrigin(&req, allow)
//	out, err := req.AppendUpgrade(out)       // the 101
//
//	var p wire.Parser                        // 72 bytes; needed only mid-message
//	in := buf[end:]
//	for {
//	    ev, n, cerr := p.Next(in, &limits, pool)
//	    if cerr != nil { … AppendClose(out, cerr.Code, cerr.Reason); p.Release(pool) … }
//	    in = in[n:]
//	    if ev.Kind == wire.None { break }    // all of in is consumed
//	    …                                    // ev.Payload is good until the next Next or Release
//	}
//	if p.Idle() { … the parser may be dropped … }
//
//	var cmd wire.Command
//	if e := wire.ParseCommand(ev.Payload, &cmd); e != nil {
//	    out = wire.AppendErr(out, e.ID, e.Code, e.Message, 0)
//	}
//
// # What it promises
//
//   - The outcome never depends on how bytes are cut into pieces: the fuzz
//     targets compare every input whole, cut anywhere, and byte by byte.
//   - A head is refused at its first impossible byte, a frame at the first
//     impossible bit of its header, a text at its first impossible byte. What
//     is a matter of meaning (two Hosts, no key) is refused when the head ends.
//   - Nothing is allocated for what a peer merely claims. Buffers follow bytes
//     received, at most twice as many, and only while a message is incomplete.
//   - A whole small frame in, and a frame out into a buffer with room, allocate
//     nothing.
//   - Everything appended for a client is valid UTF-8 and, but for the data of
//     a publisher (see [ValidPayload]), valid JSON.
//
// # What it does not do
//
// No deadlines, no rates, no counting of errors, no ignoring of data after a
// close, no answer to a ping: the caller sees the event and decides. Of extensions
// there is permessage-deflate, without context takeover: [Request.AcceptDeflate],
// Limits.Deflate, [Inflater] and [Deflater] are used, or not, by the caller.
//
// From gobwas/ws come the header rules (ws.CheckHeader), the mask
// (ws.Cipher) and the handshake's answer (ws.Upgrader, which here only ever
// sees a head written by this package). Not its frame loops, which block, nor
// its close codes, which refuse the registered 1012 to 1014 and admit 5000 up.
package wire
