//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is a process of a scenario. Static after start, but for what restart does.
type proc struct {
	r    *run
	name string
	args []string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // after done
}

func (r *run) start(name string, args ...string) *proc {
	p := &proc{r: r, name: name, args: args}
	p.restart()
	r.atEnd(func() { p.kill() })
	return p
}

// restart runs the same again. The log goes on.
func (p *proc) restart() {
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	p.r.must(err)
	defer log.Close()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ODIN_") {
			p.cmd.Env = append(p.cmd.Env, kv)
		}
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.r.must(p.cmd.Start())
	done := make(chan struct{})
	p.done = done
	cmd := p.cmd
	go func() {
		p.err = cmd.Wait()
		close(done)
	}()
}

func (p *proc) log() string { return filepath.Join(p.r.dir, p.name+".log") }

func (p *proc) pid() int { return p.cmd.Process.Pid }

func (p *proc) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill is kill -9.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *proc) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// cpu is how much processor time it has used.
func (p *proc) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	p.r.must(err)
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// rss is its resident memory, bytes.
func (p *proc) rss() int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.pid()))
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// ends waits for the process's end after SIGTERM, and returns how long it took.
func (p *proc) ends(since time.Time, limit time.Duration) time.Duration {
	return p.r.within(since, limit, p.name+" ended", func() bool { return !p.alive() })
}

// tail is the end of its log.
func (p *proc) tail() string {
	b, _ := os.ReadFile(p.log())
	l := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(l[max(0, len(l)-15):], "\n")
}

// node is an `odin serve`.
type node struct {
	*proc
	addr, admin string
	api         *http.Client // its admin port, in its network
}

// node starts one. Its data directory and ports stay
// the same over restarts.
func (r *run) node(name string, args ...string) *node {
	return r.nodeAt(nil, name, r.free(), r.free(), args...)
}

// nodeAt starts a node by a command before it ("ip netns exec …"), at addresses.
func (r *run) nodeAt(before []string, name, addr, admin string, args ...string) *node {
	n := &node{addr: addr, admin: admin, api: publishing}
	all := append(before, r.odin, "serve", "--node", name, "--addr", n.addr, "--admin-addr", n.admin,
		"--data-dir", filepath.Join(r.dir, name+".data"), "--drain", "1s")
	n.proc = r.start(name, append(all, args...)...)
	r.nodes = append(r.nodes, n)
	return n
}

// logged is a number that the node's start-up log names, 0 if it doesn't.
func (n *node) logged(name string) int {
	b, _ := os.ReadFile(n.log())
	_, rest, _ := strings.Cut(string(b), " "+name+"=")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	number, _, _ = strings.Cut(number, "\n")
	i, _ := strconv.Atoi(number)
	return i
}

func (n *node) waitReady() {
	since := time.Now()
	n.r.within(since, 60*time.Second, n.name+" ready", func() bool {
		if !n.alive() {
			n.r.must(fmt.Errorf("%s ended: %w\n%s", n.name, n.err, n.tail()))
		}
		return n.ready()
	})
}

func waitReady(ns ...*node) {
	for _, n := range ns {
		n.waitReady()
	}
}

func (n *node) url() string { return "ws://" + n.addr + "/ws" }

// web makes a connection for each request, as health checks do.
var web = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (n *node) ready() bool {
	resp, err := web.Get("http://" + n.addr + "/readyz")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stats are what the rig reads of /stats.
type stats struct {
	Current       int               `json:"currentConnections"`
	Max           int               `json:"maxConnections"`
	Slow          uint64            `json:"slowClientsDisconnected"`
	Subscriptions int64             `json:"subscriptions"`
	Goroutines    int               `json:"goroutines"`
	Closes        map[string]uint64 `json:"closes"`
	Gaps          map[string]uint64 `json:"gaps"`
	LateTicks     uint64            `json:"lateTicks"`
	Invalid       uint64            `json:"invalidMessages"`
	BadChannel    uint64            `json:"badChannelMessages"`
	Skipped       uint64            `json:"skippedMessages"`
	Evicted       uint64            `json:"evicted"`
	Panics        uint64            `json:"poolPanics"`
	LoopPanics    uint64            `json:"loopPanics"`
	Handshakes    int64             `json:"handshakes"`
	Pooled        int64             `json:"pooledBytes"`
	PollRefused   uint64            `json:"pollRefused"`
	AcceptRefused uint64            `json:"acceptRefused"`
	SlowBy        map[string]uint64 `json:"slow"`
	Broker        struct {
		Connected bool   `json:"connected"`
		Epoch     string `json:"epoch"`
		Head      uint64 `json:"head"`
	} `json:"broker"`
}

func (n *node) stats() (stats, error) {
	var s stats
	resp, err := web.Get("http://" + n.addr + "/stats")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, errors.New(resp.Status)
	}
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// usage is what nodes take.
type usage struct {
	nodes, fds, goroutines int
	mb                     float64
	pids                   string
}

// usage sums up what nodes take, those that are alive.
func use(ns ...*node) usage {
	var u usage
	for _, n := range ns {
		if !n.alive() {
			continue
		}
		s, err := n.stats()
		if err != nil {
			continue
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid()))
		if err != nil {
			continue
		}
		u.mb += float64(n.rss()) / (1 << 20)
		u.nodes++
		u.fds += len(fds)
		u.goroutines += s.Goroutines
		u.pids += fmt.Sprint(n.pid(), " ")
	}
	return u
}

// broker is a nats-server.
type broker struct {
	*proc
	addr string
}

func (b *broker) url() string { return "nats://" + b.addr }

// broker starts a nats-server and waits until it listens. conf is added to its
// configuration.
func (r *run) broker(name, addr, conf string) *broker {
	b := r.brokerLater(name, addr, conf)
	b.waitUp()
	return b
}

// brokerLater starts a nats-server.
func (r *run) brokerLater(name, addr, conf string) *broker {
	if _, err := os.Stat(r.nats); err != nil {
		r.must(fmt.Errorf("%w: go build -o bin/nats-server github.com/nats-io/nats-server/v2", err))
	}
	if addr == "" {
		addr = r.free()
	}
	file := filepath.Join(r.dir, name+".conf")
	r.must(os.WriteFile(file, fmt.Appendf(nil, `server_name: %s
listen: "%s"
jetstream { store_dir: "%s" }
%s`, name, addr, filepath.Join(r.dir, name+".data"), conf), 0o644))
	return &broker{addr: addr, proc: r.start(name, r.nats, "-c", file)}
}

func (b *broker) waitUp() {
	since := time.Now()
	b.r.within(since, 30*time.Second, b.name+" up", func() bool {
		if !b.alive() {
			b.r.must(fmt.Errorf("%s ended: %w\n%s", b.name, b.err, b.tail()))
		}
		c, err := net.DialTimeout("tcp", b.addr, time.Second)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

// sh runs a command and ends the scenario if it fails.
func (r *run) sh(args ...string) string {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		r.must(fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out))
	}
	return string(out)
}

// quiet runs a command that may fail.
func quiet(args ...string) { _ = exec.Command(args[0], args[1:]...).Run() }

// post sends a request to a node's admin port.
func (n *node) post(path, kind string, body []byte) (int, []byte, error) {
	resp, err := n.api.Post("http://"+n.admin+path, kind, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

var publishing = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}}
