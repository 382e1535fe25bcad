// Package capacity answers how many connections this process may hold, and
// holds it to the answer.
//
//	limit, err := capacity.DetectLimit(os.DirFS("/"))  // cgroup v2, v1 or the host
//	fds, err := capacity.Descriptors()                 // soft limit raised to the hard one
//	r, err := capacity.Compute(capacity.Input{Limit: limit, Profile: capacity.EventLoop, Descriptors: fds, Backlog: capacity.DefaultBacklog})
//	log(r.Sentence()); log(r.BoundSentence())
//	shares, err := capacity.Budgets(r.Limit.Bytes, r.RuntimeOverhead)  // logs, buffers, broker, …
//	debug.SetMemoryLimit(r.GoMemLimit())
//
//	gate := capacity.NewGate(r.Max)
//	room := capacity.NewWaitingRoom(gate, places, wait)
//	if !room.TryAcquire() { … room.Enter, or 503 … }   // before the upgrade
//	gate.Release(); room.Admit()                       // when the descriptor is closed
//
//	usage, err := capacity.OpenUsage(capacity.UsageConfig{})
//	watch := capacity.NewWatch(usage.Read, capacity.DefaultThresholds)
//	watch.Run(ctx, 100*time.Millisecond, func(state capacity.State, s capacity.Sample) {
//		if s.Changed {
//			r, err = r.Recompute(s.Limit)              // Max 0 with an error: /readyz says why
//			gate.SetMax(r.Max); room.Admit()
//		}
//		… Refuse, Evict …
//	})
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
// model.go and profile.go say where each figure comes from. Sizes are binary throughout:
// 1 KB = 1 KiB = 1024 bytes, as in the formula's origin.
//
// # What holds
//
//   - A limit that cannot be read is an error that names the file, never a
//     guess; a limit that leaves no room is an error that names the flag.
//   - The smallest limit wins: the group's own, its ancestors', the host's.
//   - A Gate is never over by one, however many goroutines race for the last
//     slot and whenever its maximum is lowered.
//   - The terms (model.go, budgets.go) add up to the formula's figures, and
//     cover the structs they stand for: a test reads the gateway's source.
//   - No one overtakes in a WaitingRoom, no wait ends twice, and no slot stays
//     free while someone waits.
//   - An IPLimiter's and a WaitingRoom's memory is bounded.
//   - What can't be read while running leaves the last figures standing and is
//     counted; it never means "unlimited".
//
// # What it does not do
//
// The budgets are figures here; who holds them is elsewhere. Nothing heeds
// memory.high, swap limits or systemd's MemoryMax other than through the cgroup
// files it ends in. In a private cgroup namespace v2 ancestors above the
// namespace's root cannot be seen (v1's can, by hierarchical_memory_limit): set
// --memory-limit where only such an ancestor is limited.
package capacity
