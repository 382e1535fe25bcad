// Package secure is a netpoll.Loop whose sockets speak TLS, so that the shards need
// not know. A handshake is another's (gateway/tls.go); its keys are given to Attach,
// and from then on Read, Write and Writev carry plain bytes.
//
//	l := secure.New(loop, secure.Config{Pool: pool, Timeout: 10 * time.Second})
//	l.Start(handler)
//	err := l.Attach(fd, keys)        // in the kernel, or in a session of 1.8 KB
//	l.Add(fd, token)                 // and so on, as ever
//
// What holds:
//
//   - No goroutine and no buffer for an idle connection. A record that has come in
//     part waits in a pooled buffer, for Config.Timeout at most.
//   - A write takes whole records. The rest of a record that the socket took in part
//     is kept, at most a page, and counts as Queued; a record of which it took
//     nothing was never sent, and its number is used again.
//   - While such a rest is there, nothing else is taken (EAGAIN) and Out is not
//     reported.
//   - A read that is shorter than the buffer has emptied the socket, or the handler
//     is called again.
//   - A peer's goodbye (close_notify) is the end of the stream. CloseWrite and Close
//     say ours.
//
// Errors of the records are errno values like the others: EPROTO for what is no
// good TLS, ETIMEDOUT for an unfinished record, ENOBUFS where no buffer is left.
package secure
