//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// server is `odin serve` in a group.
type server struct {
	secure      bool
	addr, admin string
	port        uint16
	cmd         *exec.Cmd
	done        chan struct{}
	err         error // after done
	log         string
	data        string
}

// stats are what the rig reads of /stats; what this build has not is 0.
type stats struct {
	Current int              `json:"currentConnections"`
	Max     int              `json:"maxConnections"`
	Slow    int64            `json:"slowClientsDisconnected"`
	Evicted int64            `json:"evicted"`
	Held    int64            `json:"heldBack"`
	Backlog int64            `json:"backlogBytes"`
	Closes  map[string]int64 `json:"closes"`
	Reject  map[string]int64 `json:"rejected"`
	Waiting int              `json:"waiting"`
	Waited  int64            `json:"waited"`
	Memory  float64          `json:"memoryMB"`

	Subscriptions int   `json:"subscriptions"`
	MessagesOut   int64 `json:"messagesOut"`
	TLS           *struct {
		KernelRecords, OwnRecords, BadRecords int64
	} `json:"tls"`
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (r *rig) serve(g *group, name string, args ...string) (*server, error) {
	s := &server{secure: slices.Contains(args, "--tls-cert"), done: make(chan struct{}), log: filepath.Join(r.tmp, name+".log"), data: filepath.Join(r.tmp, name+".data")}
	var err error
	if s.addr, err = freeAddr(); err != nil {
		return nil, err
	}
	if s.admin, err = freeAddr(); err != nil {
		return nil, err
	}
	_, p, _ := net.SplitHostPort(s.addr)
	n, _ := strconv.Atoi(p)
	s.port = uint16(n)
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s.cmd = exec.Command(self, append([]string{
		"join", g.procs(), r.odin, "serve", "--addr", s.addr, "--admin-addr", s.admin,
		"--data-dir", s.data, "--drain", "1s",
	}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = f, f
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.err = s.cmd.Wait(); close(s.done) }()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case <-s.done:
			b, _ := os.ReadFile(s.log)
			return nil, fmt.Errorf("odin serve ended: %w\n%s", s.err, b)
		default:
		}
		if resp, err := client.Get(s.url("http") + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return s, nil
			}
		}
	}
	s.stop()
	b, _ := os.ReadFile(s.log)
	return nil, fmt.Errorf("odin serve is not ready after 60 s\n%s", b)
}

// url is where it is, for a scheme, http or ws.
func (s *server) url(scheme string) string {
	if s.secure {
		scheme += "s"
	}
	return scheme + "://" + s.addr
}

// alive says whether it still runs.
func (s *server) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	_ = os.RemoveAll(s.data)
}

var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
	DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // our own certificate, of this run
}}

func (s *server) stats() (stats, error) {
	var st stats
	resp, err := client.Get(s.url("http") + "/stats")
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // busy: a refusal has no figures
		return st, fmt.Errorf("/stats: %s", resp.Status)
	}
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// publisher publishes batches; its pace can be changed.
type publisher struct {
	sent, failed int64
	stop         context.CancelFunc
	wait         sync.WaitGroup
}

// publish sends batches of n messages of size bytes each, every pause, to the
// channels in turn, until stopped.
func (s *server) publish(channels, n, size int, pause time.Duration) *publisher {
	ctx, stop := context.WithCancel(context.Background())
	p := &publisher{stop: stop}
	p.wait.Go(func() {
		payload := bytes.Repeat([]byte("x"), max(size-2, 1))
		for i := 0; ctx.Err() == nil; {
			var b bytes.Buffer
			for range n {
				fmt.Fprintf(&b, `{"ch":"stress.%d","data":"%s"}`+"\n", i%channels, payload)
				i++
			}
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.admin+"/v1/publish/batch", &b)
			if err != nil {
				return
			}
			req.Header.Set("Content-Type", "application/x-ndjson")
			resp, err := publishing.Do(req)
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					p.sent += int64(n)
				}
			}
			if err != nil || resp.StatusCode != http.StatusOK {
				p.failed += int64(n)
				sleep(ctx, 50*time.Millisecond)
			}
			sleep(ctx, pause)
		}
	})
	return p
}

var publishing = &http.Client{Timeout: 60 * time.Second}

func (p *publisher) end() { p.stop(); p.wait.Wait() }

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
