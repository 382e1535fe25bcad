//go:build linux

package main

import (
	"fmt"
	"runtime"
	"slices"
)

// profile is where Debian's containers-common keeps the default filter of system calls,
// the one that engines and Kubernetes' RuntimeDefault go by.
const profile = "/usr/share/containers/seccomp.json"

// seccomp reads the default profile as it is for a container of this machine's
// architecture without a capability (runtime-spec config-linux.md, Seccomp).
func seccomp() (map[string]any, error) {
	type condition struct{ Arches, Caps []string }
	var p struct {
		DefaultAction   string
		DefaultErrnoRet uint
		Syscalls        []struct {
			Names              []string
			Action             string
			ErrnoRet           *uint
			Args               []map[string]any
			Includes, Excludes condition
		}
	}
	if err := readJSON(profile, &p); err != nil {
		return nil, fmt.Errorf("%w (Debian: apt-get install golang-github-containers-common)", err)
	}
	var calls []map[string]any
	for _, s := range p.Syscalls {
		if len(s.Includes.Caps) > 0 || len(s.Includes.Arches) > 0 && !slices.Contains(s.Includes.Arches, runtime.GOARCH) ||
			slices.Contains(s.Excludes.Arches, runtime.GOARCH) {
			continue
		}
		call := map[string]any{"names": s.Names, "action": s.Action}
		if len(s.Args) > 0 {
			call["args"] = s.Args
		}
		if s.ErrnoRet != nil {
			call["errnoRet"] = *s.ErrnoRet
		}
		calls = append(calls, call)
	}
	arch := map[string]string{"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}[runtime.GOARCH]
	return map[string]any{
		"defaultAction": p.DefaultAction, "defaultErrnoRet": p.DefaultErrnoRet,
		"architectures": []string{arch}, "syscalls": calls,
	}, nil
}
