package capacity

import (
	"fmt"
	"math"
)

// Input is what the formula is computed from. Limit and Profile are needed.
// The zero values of Backlog and Replay mean none, the others the default.
type Input struct {
	// Limit is the memory limit; see DetectLimit. Where the user set it, Source
	// is "--memory-limit".
	Limit Limit
	// Profile decides the defaults below.
	Profile Profile
	// BytesPerConnection overrides the profile's figure if above 0.
	BytesPerConnection int64
	// RuntimeOverhead is kept from connections, bytes; 0 or -1 means 128 MiB.
	RuntimeOverhead int64
	// Backlog is the budget for bytes clients have not taken yet, all together;
	// DefaultBacklog means the profile's: an eighth of the limit for event-loop,
	// none for goroutine.
	Backlog int64
	// Compression is what permessage-deflate may hold, bytes; 0: it is off.
	Compression int64
	// Replay is the messages kept for resuming. The goroutine profile keeps
	// them per connection, at 512 B each; event-loop per channel, at no cost
	// here.
	Replay int
	// TLS is who does the records of the public port; the zero value: it is plain.
	TLS TLSRecords
	// Tokens says that readers show tokens, which are kept.
	Tokens bool
	// Descriptors is the limit of open files; see Descriptors. 0: not applied.
	Descriptors uint64
	// ReservedDescriptors is how many of them are not for clients; 0 means 256.
	ReservedDescriptors int
	// Configured is --max-connections; 0 means not configured.
	Configured int
}

// DefaultBacklog is the Input.Backlog that stands for the profile's own.
const DefaultBacklog = -1

// What Result.Bound may be.
const (
	BoundMemory      = "memory"
	BoundDescriptors = "file descriptors"
	BoundConfigured  = "configured"
)

// Result is the formula worked out, with each of its terms.
type Result struct {
	// Max is the number of connections to enforce, at least 1: the smallest of
	// the bounds.
	Max int `json:"max"`
	// Bound says which bound Max is; memory before descriptors before
	// configured where they are equal.
	Bound string `json:"bound"`
	// ByMemory is what memory allows, at least 1.
	ByMemory int `json:"by_memory"`
	// ByDescriptors is what the descriptor limit allows, at least 1; 0 if it
	// was not applied.
	ByDescriptors int `json:"by_descriptors"`
	// Configured is --max-connections; 0 if not configured.
	Configured int `json:"configured"`

	// The terms, with the defaults filled in; bytes unless they say otherwise.

	Limit               Limit   `json:"limit"`
	Profile             Profile `json:"profile"`
	BytesPerConnection  int64   `json:"bytes_per_connection"`
	RuntimeOverhead     int64   `json:"runtime_overhead"`
	Backlog             int64   `json:"backlog"`
	Compression         int64   `json:"compression,omitempty"`
	Overhead            int64   `json:"overhead"`             // RuntimeOverhead + Backlog + TLSHandshakeBytes + Compression
	Replay              int     `json:"replay"`               // messages
	Descriptors         uint64  `json:"descriptors"`          // a number; 0 if not applied
	ReservedDescriptors int     `json:"reserved_descriptors"` // a number

	Tokens            bool       `json:"tokens,omitempty"`
	TLS               TLSRecords `json:"tls,omitempty"`
	TLSHandshakeBytes int64      `json:"tls_handshake_bytes,omitempty"`

	in Input // what it was computed from, for Recompute
}

// Compute works the formula out. Its errors name the flag to change: a negative
// term, a limit that the overhead uses up or that has no room for a single
// connection, descriptors that the reserve uses up.
func Compute(in Input) (Result, error) {
	r, err := in.terms()
	if err != nil {
		return Result{}, err
	}
	if r.ByMemory, err = r.byMemory(); err != nil {
		return Result{}, err
	}
	r.Max, r.Bound = r.ByMemory, BoundMemory
	if r.Descriptors > 0 {
		if r.ByDescriptors, err = r.byDescriptors(); err != nil {
			return Result{}, err
		}
		if r.ByDescriptors < r.Max {
			r.Max, r.Bound = r.ByDescriptors, BoundDescriptors
		}
	}
	if r.Configured > 0 && r.Configured < r.Max {
		r.Max, r.Bound = r.Configured, BoundConfigured
	}
	return r, nil
}

// Recompute works the formula out anew under another memory limit, for a limit
// that changes while running. The terms that follow the limit follow it, the
// rest stays. With an error, which says why nothing fits, the result's Max and
// ByMemory are 0 and its other terms stand: it can be recomputed again.
func (r Result) Recompute(limit Limit) (Result, error) {
	in := r.in
	in.Limit = limit
	n, err := Compute(in)
	if err == nil {
		return n, nil
	}
	n, bad := in.terms()
	if bad != nil { // r is no result of Compute
		return Result{in: in}, bad
	}
	n.ByDescriptors, n.Bound = r.ByDescriptors, BoundMemory
	return n, err
}

// leastPerConnection is the least that --bytes-per-connection may say, bytes: what
// of a connection is this process's own memory, the kernel's left out, as a cgroup
// v1 without kmem accounting does.
const leastPerConnection = 1 << 10

// terms checks the input and fills its defaults in.
func (in Input) terms() (Result, error) {
	if _, err := ParseProfile(string(in.Profile)); err != nil {
		return Result{}, err
	}
	if _, err := ParseTLSRecords(string(in.TLS)); err != nil {
		return Result{}, err
	}
	for _, f := range []struct {
		flag       string
		value, min int64
	}{
		{"--bytes-per-connection", in.BytesPerConnection, 0},
		{"--runtime-overhead", in.RuntimeOverhead, -1},
		{"--backlog", in.Backlog, DefaultBacklog},
		{"the memory of --compression", in.Compression, 0},
		{"--replay", int64(in.Replay), 0},
		{"--max-connections", int64(in.Configured), 0},
		{"the descriptor reserve", int64(in.ReservedDescriptors), 0},
	} {
		if f.value < f.min {
			return Result{}, fmt.Errorf("capacity: %s is negative (%d)", f.flag, f.value)
		}
	}
	if n := in.BytesPerConnection; n > 0 && n < leastPerConnection {
		return Result{}, fmt.Errorf("capacity: --bytes-per-connection %d is less than this process itself spends on one, %d: leave it out for the profile's figure", n, leastPerConnection)
	}
	if int64(in.Replay) > maxReplay {
		return Result{}, fmt.Errorf("capacity: --replay %d is beyond %d", in.Replay, int64(maxReplay))
	}
	r := Result{
		Configured:          in.Configured,
		Limit:               in.Limit,
		Profile:             in.Profile,
		BytesPerConnection:  in.BytesPerConnection,
		RuntimeOverhead:     in.RuntimeOverhead,
		Backlog:             in.Backlog,
		Compression:         in.Compression,
		Replay:              in.Replay,
		Descriptors:         in.Descriptors,
		ReservedDescriptors: in.ReservedDescriptors,
		Tokens:              in.Tokens,
		TLS:                 in.TLS,

		in: in,
	}
	if r.BytesPerConnection == 0 {
		r.BytesPerConnection = r.Profile.bytesPerConnection(r.Replay) + r.TLS.perConnection() + tokensPerConnection(r.Tokens)
	}
	if r.RuntimeOverhead <= 0 {
		r.RuntimeOverhead = DefaultRuntimeOverhead
	}
	if r.Backlog == DefaultBacklog {
		r.Backlog = r.Profile.backlog(max(r.Limit.Bytes, 0))
	}
	if r.ReservedDescriptors == 0 {
		r.ReservedDescriptors = DefaultReservedDescriptors
	}
	r.TLSHandshakeBytes = r.TLS.handshakes(r.Limit.Bytes)
	for _, term := range []int64{r.RuntimeOverhead, r.Backlog, r.TLSHandshakeBytes, r.Compression} {
		if term > math.MaxInt64-r.Overhead {
			return Result{}, fmt.Errorf("capacity: --runtime-overhead and --backlog add up to more than 2^63 bytes")
		}
		r.Overhead += term
	}
	return r, nil
}

func (r Result) byMemory() (int, error) {
	limit := FormatSize(r.Limit.Bytes)
	if r.Limit.Bytes <= 0 {
		return 0, fmt.Errorf("capacity: a memory limit of %s (from %s) holds nothing: raise it or set --memory-limit", limit, r.Limit.Source)
	}
	if r.Limit.Bytes <= r.Overhead {
		more := ""
		if r.Compression > 0 {
			more = " + " + FormatSize(r.Compression) + " compression"
		}
		return 0, fmt.Errorf("capacity: the memory limit of %s (from %s) leaves nothing beyond the overhead of %s (%s runtime + %s backlog%s): raise %s, or lower --runtime-overhead or --backlog",
			limit, r.Limit.Source, FormatSize(r.Overhead), FormatSize(r.RuntimeOverhead), FormatSize(r.Backlog), more, r.Limit.flag())
	}
	n := (r.Limit.Bytes - r.Overhead) / r.BytesPerConnection
	if n == 0 {
		return 0, fmt.Errorf("capacity: the memory limit of %s (from %s) leaves %s beyond the overhead of %s, too little for one connection of %s: raise %s, or lower --runtime-overhead, --backlog or --bytes-per-connection",
			limit, r.Limit.Source, FormatSize(r.Limit.Bytes-r.Overhead), FormatSize(r.Overhead), FormatSize(r.BytesPerConnection), r.Limit.flag())
	}
	return int(min(n, math.MaxInt)), nil
}

func (r Result) byDescriptors() (int, error) {
	reserve := uint64(r.ReservedDescriptors)
	if r.Descriptors <= reserve {
		return 0, fmt.Errorf("capacity: the limit of %d open files leaves none for clients beyond the %d reserved: raise it (ulimit -n, LimitNOFILE=)", r.Descriptors, reserve)
	}
	return int(min(r.Descriptors-reserve, math.MaxInt)), nil
}
