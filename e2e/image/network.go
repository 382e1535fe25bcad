//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// network is a network namespace of the rig's own, with loopback alone. Containers and
// their clients meet in it.
type network struct{ name string }

func newNetwork(ctx context.Context) (*network, error) {
	n := &network{fmt.Sprintf("odin-image-%d", os.Getpid())}
	if _, err := output(exec.CommandContext(ctx, "ip", "netns", "add", n.name)); err != nil {
		return nil, err
	}
	if _, err := output(exec.CommandContext(ctx, "ip", "-n", n.name, "link", "set", "lo", "up")); err != nil {
		n.remove()
		return nil, err
	}
	return n, nil
}

func (n *network) path() string { return "/run/netns/" + n.name }

func (n *network) remove() { _ = exec.Command("ip", "netns", "del", n.name).Run() }

// command is a program that runs in the namespace.
func (n *network) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.name, name}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// dial connects to a TCP address of the namespace. A socket belongs for good to the
// namespace of the thread that made it (network_namespaces(7)).
func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	type made struct {
		conn net.Conn
		err  error
	}
	c := make(chan made, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(n.path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		if err != nil {
			c <- made{nil, err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", addr)
		c <- made{conn, err}
	}()
	m := <-c
	return m.conn, m.err
}
