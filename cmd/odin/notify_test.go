package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A service manager that asks is told when clients can come, and when the end begins:
// until the first, systemd holds a reload back, whose signal would end the process.
func TestServiceManagerIsTold(t *testing.T) {
	dir, err := os.MkdirTemp("", "odin") // the socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for name, addr := range map[string]string{
		"a path":   filepath.Join(dir, "notify"),
		"abstract": fmt.Sprintf("@odin-test-%d", os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer manager.Close()
			heard := func() []string {
				t.Helper()
				buf := make([]byte, 4096)
				_ = manager.SetReadDeadline(time.Now().Add(20 * time.Second))
				n, err := manager.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				return strings.Split(string(buf[:n]), "\n")
			}
			public := freeAddr(t)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan result, 1)
			go func() {
				done <- odinContext(ctx, []string{"NOTIFY_SOCKET=" + addr}, "", "serve", "--addr", public, "--admin-addr", freeAddr(t), "--data-dir", t.TempDir(), "--drain", "0s", "--max-connections", "77")
			}()
			if told := heard(); !slices.Contains(told, "READY=1") || !slices.Contains(told, "STATUS=77 connections at most") {
				t.Errorf("told %q", told)
			}
			c, err := net.Dial("tcp", public)
			if err != nil {
				t.Errorf("ready, and nobody listens: %v", err)
			} else {
				_ = c.Close()
			}
			stop()
			if told := heard(); !slices.Contains(told, "STOPPING=1") {
				t.Errorf("told %q", told)
			}
			if r := <-done; r.code != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
	if err := tellManager([]string{"NOTIFY_SOCKET=" + filepath.Join(dir, "none")}, "READY=1"); err == nil || !strings.Contains(err.Error(), "NOTIFY_SOCKET") {
		t.Errorf("nobody there: %v", err)
	}
}
