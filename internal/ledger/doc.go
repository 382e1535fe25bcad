// Package ledger checks deliveries: what was acknowledged to publishers against
// what each client received, was told it misses, or had conflated.
//
//	l := ledger.New()
//	c := l.Client("c1")
//	c.Start("trade.X", "e7", 1041)                      // everything after 1041 is owed
//	l.Acked("e7", "trade.X", 1044, ledger.Sum(payload)) // from the publisher, before or after
//	c.Message("trade.X", 1044, 1041, 0, ledger.Sum(d))  // from the client's callbacks
//	c.Gap("trade.X", 1044, 1050, "evicted", "")
//	rep := l.Check()                                    // once all is quiet
//
// A Client lasts as long as its positions do: over reconnects, to any node.
//
// # What Check finds
//
//   - missing: acknowledged after the client's first position, and neither
//     received, nor in a gap it was told of, nor counted by a skip;
//   - hole: a message whose prev is not the seq before, and no gap or skip says
//     why, whether or not anything acknowledged is missing;
//   - duplicate, order: received twice, or after a newer one;
//   - payload: not the bytes, or not the channel, that were acknowledged under that
//     number, or not what others received under it;
//   - prev: two clients were told different predecessors, or an acknowledged
//     message lies between a message and its prev;
//   - skip: not as many were passed over as the server says;
//   - gap: a gap that contradicts what was received before it;
//   - phantom: received, and published by nobody;
//   - epoch, unasked: of no epoch, or no channel, that the client was in.
//
// # How it is bounded
//
// For each message of a stream 32 bytes, once for all clients: hashes of what was
// acknowledged and of what was first received, prev, and who that was. For each
// client and channel a few words, and a range of 24 bytes for each time that its
// chain was interrupted by a gap or a skip. 5000 clients that follow one channel
// of 100 000 messages without a gap take some 4 MB. Of faults all are counted,
// the first 1000 are described.
package ledger
