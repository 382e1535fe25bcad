// Package broker is the seam between a gateway and the durable log behind it.
//
// A broker stores what publishers send, numbers it once for all nodes, and
// hands every stored message to each node's Sink in stream order. The gateway
// never sees NATS: it sees this interface, and every implementation passes the
// suite in broker/brokertest.
package broker

import (
	"context"
	"errors"
)

// Errors a Broker returns. They are wrapped with the cause; compare with errors.Is.
var (
	// ErrDown means the broker can't be reached now: nothing was stored as far
	// as is known, and the publisher may try again.
	ErrDown = errors.New("broker down")
	// ErrUncertain means the publish was sent and no ack came back in time: it
	// may or may not be stored. A publisher that used a key may repeat it safely.
	ErrUncertain = errors.New("broker ack missing")
	// ErrFull means the broker's store refuses more for now (disk, limits).
	ErrFull = errors.New("broker store full")
	// ErrBusy means that memory is short where the store is, and that it takes no
	// more for the moment: nothing was stored, and the publisher may try again.
	ErrBusy = errors.New("broker busy")
	// ErrTooLarge means the message exceeds what the broker takes.
	ErrTooLarge = errors.New("message too large for the broker")
	// ErrTooMany means there is more than the caller wanted to hear of.
	ErrTooMany = errors.New("too many")
	// ErrNotFound means the stream holds no such message.
	ErrNotFound = errors.New("no such message")
)

// Message is one stored message as the broker delivers it.
type Message struct {
	// Channel is the name without the broker's subject prefix. It is not
	// validated: a native publisher may have used any subject.
	Channel string
	// Seq is the stream sequence, the number clients see.
	Seq uint64
	// Prev is the stream sequence of the message before it on the same channel,
	// 0 when the broker doesn't know one (the first, or the one before has aged out).
	Prev uint64
	// Time is when the stream stored it, Unix milliseconds; equal on every node.
	Time int64
	// Nanos is what Time leaves out, nanoseconds below a millisecond, as far as the
	// broker knows.
	Nanos int64
	// Data is the publisher's payload, unchecked. The Sink may read it during
	// the call only and never writes to it.
	Data []byte
}

// Stored is Time and Nanos in one, Unix nanoseconds; 0 without a time.
func (m *Message) Stored() int64 { return m.Time*1e6 + m.Nanos }

// Sink receives what a Broker delivers. All its methods are called from one
// goroutine at a time, in stream order, and must not block for long: while one
// runs, deliveries queue in the broker's bounded channel, and past its bound
// they are dropped by the client library and fetched again from the stream.
type Sink interface {
	// Open says that the stream is reachable: its epoch (the stream's life; a
	// new value voids every position) and the sequence after which deliveries
	// begin. It comes before the first Message, and again after each Down.
	// With the same epoch as before, deliveries go on from where they stopped:
	// head is then the last sequence delivered, and what was missed meanwhile
	// comes as Messages (or Lost) before anything newer.
	Open(epoch string, head uint64)
	// Live says that all the stream held at the last Open has been delivered:
	// what comes from here on is news. It comes once after each Open, unless
	// Down or another Open comes first.
	Live()
	// Message delivers one stored message. Seq grows strictly within an epoch.
	Message(m *Message)
	// Lost says that the stream's messages with after < seq < before were
	// stored but can't be had any more (retention ran out, store damaged).
	// Which channels they were on isn't known.
	Lost(after, before uint64)
	// Down says that the broker can't be reached; Open follows when it can.
	Down(err error)
}

// Publication is one message to store.
type Publication struct {
	Channel string // a valid channel name; the caller has checked it
	Data    []byte // valid JSON; the caller has checked it; not retained after the call returns
	Key     string // deduplication key per channel, "" for none
}

// Ack is the broker's word that a message is stored.
type Ack struct {
	Epoch     string
	Seq       uint64
	Duplicate bool // the key was seen within the window; Seq is the first one's
}

// Result is the outcome of one Publication of a batch: Ack when Err is nil.
type Result struct {
	Ack Ack
	Err error
}

// HistoryRequest asks for a part of what is stored of one channel.
type HistoryRequest struct {
	Channel  string
	From, To uint64 // From ≤ Seq ≤ To
	Messages int    // at most so many, at least 1
	Bytes    int    // of data, about; the first message comes whatever its size
}

// Page is the answer to a HistoryRequest.
type Page struct {
	// Messages are in stream order and leave none out. The Prev of the first is
	// the Seq of the stored message before it on its channel, 0 when none is
	// stored; of each other it is the Seq of the one before. Data is the caller's.
	Messages []Message
	// More says that the page ended before To was reached.
	More bool
	// Epoch is the stream's, First and Last its first and last stored sequence
	// (First is Last+1 when it is empty), read after the messages were: what was
	// stored of the channel from First on is in Messages, as far as the page goes.
	Epoch       string
	First, Last uint64
}

// StreamState is how far the stream goes, by the word of its leader.
type StreamState struct {
	Epoch       string
	First, Last uint64 // its first and last stored sequence; First is Last+1 when it is empty
}

// ChannelHead is a channel with something stored, and its newest message's Seq.
type ChannelHead struct {
	Channel string
	Last    uint64
}

// State is a broker's condition at one moment.
type State struct {
	Connected bool   // publishes and reads work
	Epoch     string // "" until first connected
	Head      uint64 // last stream sequence handed to the Sink
	Err       error  // why it is not connected, nil otherwise
	Throttled bool   // publishes fail with ErrBusy; see Broker.Throttle
}

// Counters are monotonic since Start. Every drop has a name here.
type Counters struct {
	Delivered  uint64 // messages handed to the Sink
	Refetched  uint64 // messages that were missed live and read from the stream
	Lost       uint64 // sequences reported by Sink.Lost
	Duplicates uint64 // live copies of messages already handed over, ignored
	Overflows  uint64 // times the live subscription outran its bounded channel
	Reconnects uint64
}

// Broker stores and delivers. Methods may be called from any goroutine.
type Broker interface {
	// Start begins delivery to sink and returns without waiting for a
	// connection; it keeps trying until Close. Call it once.
	Start(sink Sink) error
	// Publish stores one message and waits for the ack, or ctx.
	Publish(ctx context.Context, p Publication) (Ack, error)
	// PublishBatch stores messages in order, pipelined, and returns a result
	// for each, in the same order; len(results) == len(ps). A failed item does
	// not stop those after it.
	PublishBatch(ctx context.Context, ps []Publication) []Result
	// Last returns the newest stored message of a channel (Prev is 0), or
	// ErrNotFound. Data is the caller's.
	Last(ctx context.Context, channel string) (Message, error)
	// Get returns the first stored message of a channel with Seq >= from (Prev
	// is 0), or ErrNotFound. Data is the caller's.
	Get(ctx context.Context, channel string, from uint64) (Message, error)
	// History reads a part of a channel's stored messages. A page without
	// messages and without More is the word of the stream's leader, not of a
	// replica that may be behind, that nothing is stored there.
	History(ctx context.Context, r HistoryRequest) (Page, error)
	// Channels lists the channels whose names begin with prefix ("" or ending in
	// a dot) and of which something is stored. ErrTooMany when they are more
	// than limit.
	Channels(ctx context.Context, prefix string, limit int) ([]ChannelHead, error)
	// Stream asks the stream's leader how far the stream goes now.
	Stream(ctx context.Context) (StreamState, error)
	// Throttle says whether memory is short in this process. It wants to be called
	// several times a second, also while it is not. A broker whose store is in this
	// process then takes less, as far as its share, and refuses the rest with
	// ErrBusy, whoever publishes; to any other it means nothing. It does not wait.
	Throttle(short bool)
	// State never blocks.
	State() State
	// Counters never blocks.
	Counters() Counters
	// Close stops delivery, waits for the Sink's last call to return and
	// releases everything. Idempotent.
	Close() error
}
