//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is the table, and how many of its rows did not hold.
func (r *rig) report() (string, int) {
	version, _ := exec.Command(r.odin, "--version").Output() // an empty one is seen
	runtime, _ := exec.Command(ociRuntime(), "--version").Output()
	builder, _ := exec.Command("buildah", "--version").Output()
	var u unix.Utsname
	_ = unix.Uname(&u)
	cgroups := "v1, which charge no sockets and no buffers of sockets to a group"
	if cgroupV2() {
		cgroups = "v2"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# make e2e-image\n\n%s, %s.\nLinux %s, cgroups %s; %s, %s.\n\n| what | seen | |\n| --- | --- | --- |\n",
		first(version), time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		unix.ByteSliceToString(u.Release[:]), cgroups, first(builder), first(runtime))
	faults := 0
	for _, c := range r.checks {
		verdict := "held"
		if !c.ok {
			verdict = "**FAULT**"
			faults++
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.what, strings.NewReplacer("|", "/", "\n", " ").Replace(c.seen), verdict)
	}
	return b.String(), faults
}

// first is a program's first line.
func first(out []byte) string {
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
