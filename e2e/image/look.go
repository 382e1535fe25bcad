//go:build linux

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxUnpacked bounds the image, bytes: what it grows by should be noticed.
const maxUnpacked = 30 << 20

// wanted is all that may be in the image: mode and owner by name.
var wanted = map[string]string{
	"/odin":                              "-rwxr-xr-x 0:0",
	"/LICENSE":                           "-rw-r--r-- 0:0",
	"/etc/":                              "drwxr-xr-x 0:0",
	"/etc/ssl/":                          "drwxr-xr-x 0:0",
	"/etc/ssl/certs/":                    "drwxr-xr-x 0:0",
	"/etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- 0:0",
	"/data/":                             "drwxr-xr-x 65532:65532",
	"/tmp/":                              "dtrwxrwxrwx 0:0",
}

// look checks what the image says of itself and what is in it.
func (r *rig) look(context.Context) error {
	c := r.image.config.Config
	r.check("user", c.User == "65532:65532", "%s, numeric", c.User)
	r.check("program", slices.Equal(c.Entrypoint, []string{"/odin"}) && slices.Equal(c.Cmd, []string{"serve"}), "%q %q", c.Entrypoint, c.Cmd)
	_, data := c.Volumes["/data"]
	_, port := c.ExposedPorts["8080/tcp"]
	r.check("volumes and ports", data && len(c.Volumes) == 1 && port && len(c.ExposedPorts) == 1, "%q, %q, and not the admin port",
		slices.Collect(maps.Keys(c.Volumes)), slices.Collect(maps.Keys(c.ExposedPorts)))
	r.check("health check", len(c.Healthcheck.Test) > 2 && slices.Equal(c.Healthcheck.Test[:3], []string{"CMD", "/odin", "health"}), "%q", c.Healthcheck.Test)
	r.check("stop signal", c.StopSignal == "SIGTERM", "%s", c.StopSignal)
	label := func(name string) string { return c.Labels["org.opencontainers.image."+name] }
	r.check("labels", label("version") == r.image.version && label("revision") == revisionOfTest && label("source") == source && label("licenses") == "Apache-2.0",
		"version %s, revision, source, licenses %s as they were given", label("version"), label("licenses"))

	seen := map[string]bool{}
	var list, strange []string
	for _, e := range r.image.entries {
		name := e.name
		if e.mode.IsDir() {
			name += "/"
		}
		seen[name] = true
		list = append(list, name)
		if is := fmt.Sprintf("%s %d:%d", e.mode, e.uid, e.gid); wanted[name] != is {
			strange = append(strange, fmt.Sprintf("%s is %s, want %q", name, is, wanted[name]))
		}
	}
	for name := range wanted {
		if !seen[name] {
			strange = append(strange, name+" is missing")
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if r.check("files", len(strange) == 0, "%s", strings.Join(append(list, strange...), " ")); len(strange) > 0 {
		return nil
	}
	r.check("size", r.image.unpacked() < maxUnpacked, "%.1f MiB unpacked, %.1f MiB to transfer", mib(r.image.unpacked()), mib(r.image.packed))

	theirs, err := os.ReadFile(filepath.Join(r.image.rootfs, "odin"))
	if err != nil {
		return err
	}
	ours, err := os.ReadFile(r.odin)
	if err != nil {
		return err
	}
	r.check("binary", bytes.Equal(ours, theirs), "the same bytes as make build's (%d and %d)", len(theirs), len(ours))
	e, err := elf.NewFile(bytes.NewReader(theirs))
	if err != nil {
		return err
	}
	static := !slices.ContainsFunc(e.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC })
	r.check("static", static, "no interpreter, no shared library")
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
