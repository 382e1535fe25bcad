package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// server is `odin serve --echo --compression`.
type server struct {
	addr    string // host:port
	version string // what `odin version` says
	log     string // path
	cmd     *exec.Cmd
	done    chan struct{}
	err     error // after done
}

// serve starts one with its data and its log below dir, and waits until it is
// ready.
func serve(odin, dir string) (*server, error) {
	odin, err := filepath.Abs(odin)
	if err != nil {
		return nil, err
	}
	version, err := exec.Command(odin, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s version: %w (make build)", odin, err)
	}
	s := &server{version: strings.TrimSpace(string(version)), log: filepath.Join(dir, "odin.log"), done: make(chan struct{})}
	if s.addr, err = freeAddr(); err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The suite's largest messages are 16 MiB.
	s.cmd = exec.Command(odin, "serve", "--addr", s.addr, "--admin-addr", admin, "--data-dir", filepath.Join(dir, "data"),
		"--echo", "--compression", "--max-message", "17MiB", "--drain", "1s")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	if err := s.ready(); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *server) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.done:
			return errors.New("odin ended before it was ready")
		case <-ctx.Done():
			return errors.New("odin was not ready within 30 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends it in order; one that does not end so, or has ended, is an error
// with its log.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	if s.err == nil {
		return nil
	}
	log, _ := os.ReadFile(s.log)
	return fmt.Errorf("odin serve: %w\n%s", s.err, log)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
