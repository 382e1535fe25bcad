//go:build linux

// Command image builds the container image of this checkout and runs it as a careful
// operator would: one container with 512 MiB, a root that can't be written to, no
// capabilities, no way to new privileges, a seccomp filter, and the limit of open
// files that this machine allows.
//
//	image [--quick] [--out FILE] [--odin bin/odin]
//
// There need be no container engine and no registry. buildah builds the Dockerfile,
// with a stand-in for its base image (busybox's shell and this machine's CA
// certificates; Go, its module cache and its build cache are mounted from this
// machine), and crun or runc runs the result: an OCI bundle whose process, environment
// and user are the image's. What a test says of a container is asked from outside of it
// (/proc, the cgroup, sockets in its network namespace) or by running the image's own
// program in it, as `docker exec` would: the image has no other.
//
// It needs root, memory cgroups (v1 or v2) and Debian's packages buildah, crun,
// busybox-static and iproute2. Neither a cgroup, namespace, process nor file is left
// behind, interrupted or not.
package main
