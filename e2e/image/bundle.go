//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// bundle writes an OCI bundle (runtime-spec config.md) for the image: what it says of
// itself, and around it what compose.yml and the Kubernetes manifests ask for.
func (r *rig) bundle(dir, id string, net *network, data string, env, args []string) error {
	c := r.image.config.Config
	uid, gid, err := ids(c.User)
	if err != nil {
		return err
	}
	filter, err := seccomp()
	if err != nil {
		return err
	}
	cwd := c.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	if args == nil {
		args = c.Cmd
	}
	namespaces := []map[string]any{
		{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network", "path": net.path()},
	}
	if cgroupV2() { // as engines do: v2 in a namespace, v1 without
		namespaces = append(namespaces, map[string]any{"type": "cgroup"})
	}
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"hostname":   id,
		"root":       map[string]any{"path": r.image.rootfs, "readonly": true},
		"process": map[string]any{
			"user":            map[string]any{"uid": uid, "gid": gid},
			"args":            append(append([]string{}, c.Entrypoint...), args...),
			"env":             append(append([]string{}, c.Env...), env...),
			"cwd":             cwd,
			"capabilities":    map[string]any{"bounding": []string{}, "effective": []string{}, "permitted": []string{}, "inheritable": []string{}, "ambient": []string{}},
			"noNewPrivileges": true,
			"rlimits":         []map[string]any{{"type": "RLIMIT_NOFILE", "soft": r.files, "hard": r.files}},
		},
		"mounts": []mount{
			{"/proc", "proc", "proc", nil},
			{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{"/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{"/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", "ro"}},
			{"/sys/fs/cgroup", "cgroup", "cgroup", []string{"nosuid", "noexec", "nodev", "ro"}},
			{"/tmp", "tmpfs", "tmpfs", []string{"nosuid", "noexec", "nodev", "mode=1777", "size=16m"}},
			{"/data", "bind", data, []string{"bind", "rw", "nosuid", "nodev"}},
		},
		"linux": map[string]any{
			"namespaces":    namespaces,
			"cgroupsPath":   "/" + id,
			"resources":     map[string]any{"memory": map[string]any{"limit": memory}},
			"maskedPaths":   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			"seccomp":       filter,
		},
	}
	b, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
}

// mount is one of a bundle's.
type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options,omitempty"`
}

// volume makes a directory as an engine makes a named volume: with the owner and mode of
// what the image has in its place.
func (r *rig) volume(name string) (string, error) {
	dir := filepath.Join(r.tmp, "volume-"+name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for _, e := range r.image.entries {
		if e.name == "/"+name {
			if err := os.Chown(dir, e.uid, e.gid); err != nil {
				return "", err
			}
			return dir, os.Chmod(dir, e.mode)
		}
	}
	return "", fmt.Errorf("the image has no /%s", name)
}

// ids reads UID:GID.
func ids(user string) (uid, gid int, err error) {
	u, g, _ := strings.Cut(user, ":")
	if uid, err = strconv.Atoi(u); err != nil {
		return 0, 0, fmt.Errorf("the image's user %q is not numeric", user)
	}
	if gid, err = strconv.Atoi(g); err != nil {
		return 0, 0, fmt.Errorf("the image's group in %q is not numeric", user)
	}
	return uid, gid, nil
}
