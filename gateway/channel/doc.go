// Package channel is what a node remembers: for each channel a log of encoded
// frames, and who is to be given them from where.
//
// The log is the send queue. A message is encoded once, into the channel's
// newest chunk, and every subscriber's socket is written from there. A
// subscriber owns a position and nothing else; replay and resume are a
// position set back. (docs/adr/0002)
//
//	broker goroutine → Hub.Message → Log.append → dirty mark, one wake a shard
//	shard            → Hub.Take → for each Member: Log.Read from its position → socket
//
// Invariants, held by the model test in this package and in gateway:
//
//   - Bytes of a chunk below its published length never change. A shard may
//     therefore be inside write(2) while the channel is appended to or trimmed.
//   - An entry is one or more whole WebSocket frames, so that a position is
//     always between frames.
//   - Ordinals count a log's entries from 0 and never repeat; every position
//     lies in [First, Next], or its member has fallen off the log and is told.
//   - Within a channel's log, the sequence never falls but at a change of epoch,
//     which is an entry of its own.
//   - Only the hub's writer appends and trims (Hub.mu); only the owning shard
//     touches a Members.
//   - Chunks are dropped whole. The collector frees them when the last reader
//     is done; a chunk pinned by a half-written frame counts against the budget
//     until it is unpinned.
package channel
