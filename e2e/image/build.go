//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	standIn = "localhost/odin-build-image" // for the Dockerfile's BUILD_IMAGE
	tag     = "localhost/odin"
	source  = "https://github.com/odin-ws/odin"
)

// build builds the Dockerfile and reads the image that comes of it.
func (r *rig) build(ctx context.Context) error {
	version, err := r.version(ctx)
	if err != nil {
		return err
	}
	if err := r.buildStandIn(ctx); err != nil {
		return fmt.Errorf("the stand-in for the base image: %w", err)
	}
	goEnv, err := output(exec.CommandContext(ctx, "go", "env", "-json", "GOROOT", "GOMODCACHE", "GOCACHE"))
	if err != nil {
		return err
	}
	var env struct{ GOROOT, GOMODCACHE, GOCACHE string }
	if err := json.Unmarshal([]byte(goEnv), &env); err != nil {
		return err
	}
	fill := exec.CommandContext(ctx, "go", "mod", "download")
	fill.Dir = r.source
	if _, err := output(fill); err != nil {
		return fmt.Errorf("fill the module cache, from which the image is built: %w", err)
	}
	_, err = output(r.buildah(ctx, "build", "--isolation", "chroot", "--layers=false", "--pull-never",
		"--platform", "linux/"+runtime.GOARCH, "--format", "docker", // OCI's has no health check
		"--volume", env.GOROOT+":/usr/local/go:ro",
		"--volume", env.GOCACHE+":/cache",
		"--volume", filepath.Join(env.GOMODCACHE, "cache", "download")+":/modules:ro",
		"--build-arg", "GOPROXY=file:///modules",
		"--build-arg", "BUILD_IMAGE="+standIn,
		"--build-arg", "VERSION="+version,
		"--build-arg", "REVISION="+revisionOfTest,
		"--build-arg", "SOURCE="+source,
		"--tag", tag, r.source))
	if err != nil {
		return err
	}
	dir := filepath.Join(r.tmp, "image")
	if _, err := output(r.buildah(ctx, "push", "--quiet", tag, "dir:"+dir)); err != nil {
		return err
	}
	r.image, err = readImage(dir)
	if err != nil {
		return fmt.Errorf("the image: %w", err)
	}
	r.image.version = version
	return r.image.unpack(filepath.Join(r.tmp, "rootfs"))
}

// revisionOfTest is what the image is told it was built from: labels are what they were
// told, in a checkout without git too.
const revisionOfTest = "0123456789abcdef0123456789abcdef01234567"

// version is what bin/odin says of itself, so that the image's binary can be the same.
func (r *rig) version(ctx context.Context) (string, error) {
	out, err := output(exec.CommandContext(ctx, r.odin, "version", "--json"))
	if err != nil {
		return "", err
	}
	var v struct {
		Version string `json:"version"`
	}
	return v.Version, json.Unmarshal([]byte(out), &v)
}

// buildStandIn makes an image with all that the Dockerfile's first stage asks of its base
// but Go, which is mounted.
func (r *rig) buildStandIn(ctx context.Context) error {
	root := filepath.Join(r.tmp, "base")
	for _, dir := range []string{"bin", "etc/ssl/certs", "root", "usr/local/go", "tmp", "cache"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	certificates := "/etc/ssl/certs/ca-certificates.crt"
	for _, f := range []struct {
		from, to string
		mode     os.FileMode
	}{{busybox, "bin/busybox", 0o755}, {certificates, certificates, 0o644}} {
		b, err := os.ReadFile(f.from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, f.to), b, f.mode); err != nil {
			return err
		}
	}
	for _, applet := range []string{"sh", "mkdir", "chmod", "cp"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			return err
		}
	}
	from, err := output(r.buildah(ctx, "from", "scratch"))
	if err != nil {
		return err
	}
	from = strings.TrimSpace(from)
	for _, args := range [][]string{
		{"copy", "--quiet", from, root, "/"},
		{"config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "HOME=/root", "--env", "GOPATH=/go",
			"--env", "GOCACHE=/cache", "--env", "GOTOOLCHAIN=local", "--env", "GOFLAGS=-modcacherw", from},
		{"commit", "--quiet", "--rm", from, standIn},
	} {
		if _, err := output(r.buildah(ctx, args...)); err != nil {
			return err
		}
	}
	return nil
}

// buildah is a command on a store of the rig's own.
func (r *rig) buildah(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "buildah", append([]string{
		"--root", filepath.Join(r.tmp, "store"), "--runroot", filepath.Join(r.tmp, "run"), "--storage-driver", "vfs",
	}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+r.tmp, "BUILDAH_ISOLATION=chroot")
	return cmd
}

// output runs cmd and returns its standard output; an error has what it said besides.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, tail(out.String()), tail(errs.String()))
	}
	return out.String(), nil
}

// tail is the end of a program's output, enough to see what went wrong.
func tail(s string) string {
	return s[max(0, len(s)-4000):]
}
