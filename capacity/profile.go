package capacity

import "fmt"

// Profile is a way to hold connections, with its costs.
type Profile string

const (
	// EventLoop is the gateway's own: no goroutine, buffer or queue of a
	// connection's own, and one backlog budget shared by all.
	EventLoop Profile = "event-loop"
	// Goroutine is a goroutine or two and a queue for each connection, the
	// design the formula comes from; kept to compare with and to plan by.
	Goroutine Profile = "goroutine"
)

// ParseProfile returns the profile of that name, or an error that lists them.
func ParseProfile(s string) (Profile, error) {
	switch p := Profile(s); p {
	case EventLoop, Goroutine:
		return p, nil
	}
	return "", fmt.Errorf("capacity: unknown profile %q: want %q or %q (--capacity-profile)", s, EventLoop, Goroutine)
}

// What the terms of the formula are where nothing is set, bytes.
const (
	// DefaultRuntimeOverhead is for the runtime, code, broker and all that does
	// not grow with connections.
	DefaultRuntimeOverhead = 128 * MiB

	// KernelPerConnection is an idle accepted TCP socket with its descriptor
	// and epoll entry: measured 3.8–3.9 KB on Linux 6.18, 4.9 KB as cgroup v2
	// charges it on 6.1. It lies outside Go's heap.
	KernelPerConnection = 5 * KiB
	// OwnPerConnection is this process's part: slot, positions, membership and
	// maps at up to 16 subscriptions.
	OwnPerConnection = 1 * KiB

	// The goroutine profile: a send queue of 256 messages, a replay buffer, the
	// rest. A message counts for 512 bytes. Without a replay buffer the origin
	// budgets its first phase, whose queue was smaller.
	goroutineQueue      = 128 * KiB
	goroutineMessage    = 512
	goroutineRest       = 2 * KiB
	goroutineWithoutLog = 50 * KiB
)

// DefaultReplay is the number of messages kept where nothing is set.
const DefaultReplay = 100

// maxReplay keeps the products of the formula far from overflow.
const maxReplay = 1 << 40

// DefaultReservedDescriptors is what is kept from clients: listeners, epolls,
// the broker's files and connections, the admin port, one to refuse with.
const DefaultReservedDescriptors = 256

// bytesPerConnection returns the profile's cost at that replay, ≥ 0 messages.
func (p Profile) bytesPerConnection(replay int) int64 {
	if p == EventLoop {
		return KernelPerConnection + OwnPerConnection // replay is the channel's
	}
	if replay == 0 {
		return goroutineWithoutLog
	}
	return goroutineQueue + int64(replay)*goroutineMessage + goroutineRest
}

// backlog returns the profile's default backlog budget under a limit, bytes.
func (p Profile) backlog(limit int64) int64 {
	if p == EventLoop {
		return limit / 8
	}
	return 0 // the queue is counted per connection
}
