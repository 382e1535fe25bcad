// Package capacity answers how many connections this process may hold, and
// holds it to the answer.
//
//	limit, err := capacity.DetectLimit(os.DirFS("/"))  // cgroup v2, v1 or the host
//	fds, err := capacity.Descriptors()                 // soft limit raised to the hard one
//	r, err := capacity.Compute(capacity.Input{Limit: limit, Profile: capacity.EventLoop, Descriptors: fds})
//	log(r.Sentence()); log(r.BoundSentence())
//	gate := capacity.NewGate(r.Max)
//	if !gate.TryAcquire() { … 503 … }                  // before the upgrade
//	defer gate.Release()                               // when the descriptor is closed
//
// # The formula
//
//	overhead = runtime overhead + backlog
//	memory   = (limit − overhead) / bytes per connection
//	max      = the smallest of memory, descriptors − reserve, --max-connections
//
//	profile                    bytes/conn  overhead       512 MiB   2 GiB
//	event-loop                 6 KiB       128 + limit/8   54 613   283 989
//	goroutine, --replay 100    180 KiB     128 MiB          2 184    10 922
//	goroutine, --replay 20     140 KiB     128 MiB          2 808    14 043
//	goroutine, --replay 0      50 KiB      128 MiB          7 864    39 321
//
// profile.go says where each figure comes from. Sizes are binary throughout:
// 1 KB = 1 KiB = 1024 bytes, as in the formula's origin.
//
// # What holds
//
//   - A limit that cannot be read is an error that names the file, never a
//     guess; a limit that leaves no room is an error that names the flag.
//   - The smallest limit wins: the group's own, its ancestors', the host's.
//   - A Gate is never over by one, however many goroutines race for the last
//     slot and whenever its maximum is lowered.
//
// # What it does not do
//
// Nothing here watches memory while running, heeds memory.high, swap limits or
// systemd's MemoryMax other than through the cgroup files it ends in. In a
// private cgroup namespace v2 ancestors above the namespace's root cannot be
// seen (v1's can, by hierarchical_memory_limit): set --memory-limit where only
// such an ancestor is limited.
package capacity
