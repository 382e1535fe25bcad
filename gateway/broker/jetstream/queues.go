package jetstream

// Figures without a Config.Memory.
const (
	defaultPending = 16 << 20
	defaultStream  = 32 << 20
	defaultUnacked = 16 << 20
	defaultLive    = 64 << 20
	defaultStored  = 16 << 20
)

// liveMessage is what the client library keeps for a message that waits, beside
// its payload, bytes: its structure, subject and the map of its headers.
const liveMessage = 1 << 10

// queues are the bounds of all that may wait between the node and the stream,
// bytes. They are terms of the memory formula.
type queues struct {
	pending int64 // of the embedded server for one client, which is cut beyond it
	stream  int64 // for the store, refused beyond it
	unacked int64 // published and not acked yet; callers wait
	live    int64 // of payload delivered and not taken yet; beyond it dropped and read again
	liveN   int   // the same in messages, for what they have beside the payload
	fetch   int   // the delivery's batched direct gets under way
	depth   int   // how many those are
	reads   int64 // all other batched direct gets under way
	stored  int64 // in the store's blocks, which keep it for cacheTime; more while memory is not short
}

// queues splits Memory: half for what the server has for a client, an eighth for
// what waits for the store, a quarter for what waits live, and the rest for the
// store's caches and index. What is unacked waits for the store, so it is half
// of that, and others may publish too; and an eighth of what the server may have
// for us, because it acks a message before we have it, and cuts whom it has too
// much for. No queue is so small that the largest message would not pass.
func (c Config) queues() queues {
	longest := int64(c.MaxPayload) + headerRoom
	q := queues{pending: defaultPending, stream: defaultStream, unacked: defaultUnacked, live: defaultLive / 2, fetch: fetchBytes, stored: defaultStored}
	if c.Memory > 0 {
		eighth := c.Memory / 8
		q = queues{pending: 4 * eighth, stream: eighth, unacked: eighth / 2, live: eighth, fetch: int(min(fetchBytes, eighth)), stored: eighth}
	}
	q.liveN = int(max(1, min(int64(c.Queue), q.live/liveMessage)))
	// Each of a fetch may pass its bytes by one message, and so may a read.
	q.depth = int(max(1, min(fetchDepth, int64(q.fetch)/longest)))
	q.pending = max(q.pending, 4*longest, int64(q.fetch)+pageBytes+int64(q.depth+1)*longest)
	q.unacked = max(q.unacked, longest)
	q.stream = max(q.stream, 2*q.unacked)
	q.live = max(q.live, 2*longest)
	q.reads = max(pageBytes, q.pending/4)
	q.stored = max(q.stored, 2*longest)
	return q
}
