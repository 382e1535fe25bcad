//go:build linux

// Command oom proves the capacity formula around the built binary: it runs
// `odin serve` in a memory cgroup of a given limit, `odin stress` outside of it
// with exactly as many connections as the server computed, feeds them, makes
// all of them stop reading while messages are published flat out, and watches
// what the group and the server's sockets hold.
//
//	oom v1 [--odin bin/odin] [--only NAME] [--out FILE]   here: cgroup v1, root
//	oom vm [--odin bin/odin] [--only NAME] [--out FILE]   in an emulated machine: cgroup v2
//	oom guest …                                           what the latter runs inside
//
// cgroup v1 does not charge socket buffers to the group, so there the sum of the
// group's working set and the sockets' own memory (SO_MEMINFO, through the
// kernel's socket diagnosis) is held against the limit, and so is that sum plus
// the kernel's socket structures, which v1 does not charge either. cgroup v2
// charges all of it, and its OOM killer is the judge.
//
// Each scenario whose name ends in "control" runs with the budgets off and half
// as many connections more: it must fail, else the rig could not tell.
package main
