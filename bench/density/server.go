package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kind is a server that can be measured.
type kind struct {
	name  string
	start func(ctx context.Context, o *options, dataDir string) (*server, error)
}

// server is one running server. Fields are static once it has started.
type server struct {
	url       string // WebSocket
	channel   string // to subscribe to, "" where there is no such thing
	readyURL  string
	pprofURL  string // goroutine profile, "" for none
	broadcast func(ctx context.Context, p phase) (messages int, err error)

	cmd  *exec.Cmd
	done chan struct{}
	log  *bytes.Buffer // readable once done is closed
}

func startOdin(ctx context.Context, o *options, dataDir string) (*server, error) {
	addr, admin := freePort(), freePort()
	s := &server{
		url:      "ws://" + addr + "/ws",
		channel:  "bench",
		readyURL: "http://" + addr + "/readyz",
		pprofURL: "http://" + admin + "/debug/pprof/goroutine?debug=1",
	}
	// What surrounds the payload in a message, with numbers of usual length.
	const around = `{"t":"msg","ch":"bench","seq":123,"prev":122,"ts":1767000000123,"d":""}`
	body := fmt.Sprintf(`{"ch":"bench","data":"%s"}`, strings.Repeat("x", max(0, o.size-len(around))))
	s.broadcast = func(ctx context.Context, p phase) (int, error) {
		return p.count, publish(ctx, "http://"+admin+"/v1/publish", body, p)
	}
	args := append([]string{"serve", "--addr", addr, "--admin-addr", admin, "--data-dir", dataDir, "--drain", "1s"}, o.odinArgs...)
	if err := s.start(ctx, o.odin, args...); err != nil {
		return nil, err
	}
	// The channel exists before ten thousand clients ask for it at once, as a
	// market's channels do.
	if _, err := s.broadcast(ctx, phase{rate: 1, count: 1}); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func startRawLoop(ctx context.Context, o *options, _ string) (*server, error) {
	addr, control := freePort(), freePort()
	s := &server{
		url:      "ws://" + addr + "/",
		readyURL: "http://" + control + "/readyz",
	}
	s.broadcast = func(ctx context.Context, p phase) (int, error) {
		var done struct{ Messages int }
		b, err := post(ctx, fmt.Sprintf("http://%s/broadcast?rate=%g&count=%d", control, p.rate, p.count), "")
		if err == nil {
			err = json.Unmarshal(b, &done)
		}
		return done.Messages, err
	}
	if err := s.start(ctx, o.rawloop, "--addr", addr, "--control", control, "--size", strconv.Itoa(o.size)); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *server) start(ctx context.Context, bin string, args ...string) error {
	s.log = &bytes.Buffer{}
	s.done = make(chan struct{})
	s.cmd = exec.Command(bin, args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		select {
		case <-s.done:
			return fmt.Errorf("%s ended: %s\n%s", bin, s.cmd.ProcessState, s.log)
		case <-ctx.Done():
			s.stop()
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := get(s.readyURL); err == nil {
			return nil
		}
	}
	s.stop()
	return fmt.Errorf("%s is not ready after 20 s\n%s", bin, s.log)
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// cpu is the user and system time the server has used.
func (s *server) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid()))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold spaces; the fields after it do not.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", s.pid(), stat)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = time.Second / 100 // USER_HZ, 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// rss is the server's resident memory, bytes.
func (s *server) rss() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no VmRSS", s.pid())
}

// goroutines is how many the server runs, -1 if it can't be asked.
func (s *server) goroutines() (int, error) {
	if s.pprofURL == "" {
		return -1, nil
	}
	b, err := get(s.pprofURL)
	if err != nil {
		return 0, err
	}
	head, _, _ := strings.Cut(string(b), "\n")
	_, count, _ := strings.Cut(head, "total ")
	return strconv.Atoi(count)
}

// publish sends p.count messages, p.rate a second, some at a time so that a slow
// answer does not slow the pace.
func publish(ctx context.Context, url, body string, p phase) error {
	const atOnce = 16
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
		errs  = make(chan error, p.count)
		start = time.Now()
	)
	for i := range p.count {
		time.Sleep(time.Until(start.Add(time.Duration(float64(i) / p.rate * float64(time.Second)))))
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := post(ctx, url, body); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

var client = &http.Client{
	Timeout:   2 * time.Minute,
	Transport: &http.Transport{MaxIdleConnsPerHost: 16},
}

func post(ctx context.Context, url, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return answer(client.Do(req))
}

func get(url string) ([]byte, error) { return answer(client.Get(url)) }

func answer(resp *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return b, err
}

func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}
