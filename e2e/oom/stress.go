//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// stress is a running `odin stress`, outside of the group.
type stress struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	errs bytes.Buffer
	done chan struct{}
	err  error
}

// result is what it printed.
type result struct {
	OK        bool             `json:"ok"`
	Unmet     []string         `json:"unmet"`
	Connected int              `json:"connected"`
	Open      int              `json:"open"`
	Errors    map[string]int64 `json:"errors"`
	Ended     map[string]int64 `json:"ended_early"`
	Stalled   map[string]int64 `json:"ended_stalled"`
	Messages  int64            `json:"messages"`
	Gaps      int64            `json:"gaps"`
	Settled   int64            `json:"settled_ns"`
}

func (r *rig) stress(s *server, n int, d time.Duration, args ...string) (*stress, error) {
	st := &stress{done: make(chan struct{})}
	st.cmd = exec.Command(r.odin, append([]string{
		"stress", "--json", "--url", s.url("ws") + "/ws", "--insecure",
		"--connections", strconv.Itoa(n), "--duration", d.String(), "--settle", "0s",
	}, args...)...)
	st.cmd.Stdout, st.cmd.Stderr = &st.out, &st.errs
	st.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := st.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { st.err = st.cmd.Wait(); close(st.done) }()
	return st, nil
}

// stall makes its clients stop reading now.
func (st *stress) stall() { _ = st.cmd.Process.Signal(syscall.SIGUSR1) }

// end asks it to finish, if it hasn't, and returns what it saw.
func (st *stress) end() (result, error) {
	_ = st.cmd.Process.Signal(os.Interrupt)
	return st.wait()
}

func (st *stress) wait() (result, error) {
	var res result
	select {
	case <-st.done:
	case <-time.After(10 * time.Minute):
		_ = st.cmd.Process.Kill()
		<-st.done
		return res, fmt.Errorf("odin stress did not end: %s", &st.errs)
	}
	if err := json.Unmarshal(st.out.Bytes(), &res); err != nil {
		return res, fmt.Errorf("odin stress: %w: %s%s", err, &st.out, &st.errs)
	}
	return res, nil
}
