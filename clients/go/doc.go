// Package odin is a client for Odin, the WebSocket gateway that never loses a
// message without saying so.
//
// [Dial] connects, and from then on the [Client] keeps the connection: it comes
// back after a loss with jittered back-off, to the same node or the next of
// several, and goes on from where each channel stood. [Client.Subscribe] follows
// channels ("trade.BTC-USD") and wildcards ("quote.*").
//
// # What it promises
//
// Of every channel a subscription follows, each message is given to OnMessage
// once and in order, or OnGap says which numbers were not. The client checks it
// itself: a message names the one before it, so a hole shows whatever the server
// says. A hole the server did not explain is reported to OnError and repaired: by
// the op replay, else by reconnecting at the position before it. If both fail,
// OnGap is told with the reason "unexplained".
//
// # Callbacks
//
// All callbacks run on one goroutine, in the order of the connection, and the
// next frame is read when the last callback has returned. There is no queue
// between them, so nothing can be lost in one: a callback that is slow fills the
// socket, and the server then conflates (Latest, SlowLatest) or closes with 4101,
// after which the client resumes. A callback that blocks for longer than two
// server pings (40 s by default) costs the connection. A callback must not call
// [Client.Subscribe], which waits for an answer that could then not be read;
// start a goroutine for it. The other methods are safe everywhere.
//
// # Positions
//
// [Client.Positions] is how far each channel and wildcard has been handled: a
// message counts when its callback has returned. Saved (it is JSON), and given to
// another process as SubscribeOptions.Since, it goes on there. What was being
// handled when a process died comes again.
//
// # Bounds
//
// The client follows at most 65536 names and channels, has at most 16 commands
// on the way, and holds back at most 4096 messages or 8 MiB of a channel whose
// hole is being repaired. It paces its commands by the rate the server announces.
// It runs two goroutines of its own while connected and one while not.
//
// # What it does not do
//
// Publish, decode payloads, or follow one channel twice: subscriptions of one
// client may not overlap, because the server delivers a channel to a connection
// once. Open a second client for a second view.
package odin
