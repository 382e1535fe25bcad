package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a running `odin serve`. Its fields are static after startServer.
type Server struct {
	Addr  string // public listener, host:port
	Admin string // admin listener, host:port
	PID   int

	cmd  *exec.Cmd
	log  *tailBuffer
	done chan struct{} // closed once the process has ended
	err  error         // its end, readable after done
}

// startServer starts `odin serve` with a data directory and ports of its own
// and waits until it is ready. The test's end stops it and fails the test if it
// did not stop in order.
func startServer(t testing.TB, args ...string) *Server {
	t.Helper()
	return startServerAt(t, freePort(t), args...)
}

// startServerAt is startServer with the public address given.
func startServerAt(t testing.TB, addr string, args ...string) *Server {
	t.Helper()
	return startServerBy(t, nil, addr, args...)
}

// startServerBy is startServerAt with a command before odin's own, which must
// become it (exec).
func startServerBy(t testing.TB, by []string, addr string, args ...string) *Server {
	t.Helper()
	s := &Server{
		Addr:  addr,
		Admin: freePort(t),
		log:   &tailBuffer{},
		done:  make(chan struct{}),
	}
	args = append([]string{
		"serve", "--addr", s.Addr, "--admin-addr", s.Admin, "--data-dir", t.TempDir(), "--drain", "1s",
	}, args...)
	argv := slices.Concat(by, []string{odin(t)}, args)
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = cleanEnv()
	// Not even a killed test leaves a gateway behind.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("start odin: %v", err)
	}
	s.PID = s.cmd.Process.Pid
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.Stop(t)
		if t.Failed() {
			t.Logf("odin %s\n%s", strings.Join(args, " "), s.log)
		}
	})
	s.waitReady(t)
	return s
}

func (s *Server) waitReady(t testing.TB) {
	t.Helper()
	last := "no answer"
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-s.done:
			t.Fatalf("odin ended before it was ready: %v", s.err)
		default:
		}
		resp, err := once.Get("http://" + s.Addr + "/readyz")
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		last = fmt.Sprintf("%d %s", resp.StatusCode, body)
	}
	t.Fatalf("odin is not ready after 30 s: %s", last)
}

// Stop ends the server with SIGTERM, as a supervisor would, and then by force.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-s.done:
		if s.cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("odin: %v", s.err)
		}
		return
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
		if s.err != nil {
			t.Errorf("odin after SIGTERM: %v", s.err)
		}
	case <-time.After(15 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
		t.Error("odin did not end within 15 s of SIGTERM")
	}
}

// URL is the WebSocket endpoint.
func (s *Server) URL() string { return "ws://" + s.Addr + "/ws" }

// ack is the admin API's answer to a publish.
type ack struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// Publish stores one message through the admin API and returns where it went.
func (s *Server) Publish(t testing.TB, channel, data string) ack {
	t.Helper()
	body := fmt.Sprintf(`{"ch":%q,"data":%s}`, channel, data)
	resp, err := http.Post("http://"+s.Admin+"/v1/publish", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	var a ack
	if err := json.Unmarshal(answer, &a); err != nil || resp.StatusCode != http.StatusOK || a.Seq == 0 || a.Epoch == "" {
		t.Fatalf("publish %s: %s %s", body, resp.Status, answer)
	}
	return a
}

// PublishBatch stores messages in order through the NDJSON batch API and
// returns one ack for each.
func (s *Server) PublishBatch(t testing.TB, channel string, data []string) []ack {
	t.Helper()
	var body bytes.Buffer
	for _, d := range data {
		fmt.Fprintf(&body, `{"ch":%q,"data":%s}`+"\n", channel, d)
	}
	resp, err := http.Post("http://"+s.Admin+"/v1/publish/batch", "application/x-ndjson", &body)
	if err != nil {
		t.Fatalf("publish batch: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(resp.Body)
		t.Fatalf("publish batch: %s %s", resp.Status, answer)
	}
	var acks []ack
	for dec := json.NewDecoder(resp.Body); ; {
		var a ack
		err := dec.Decode(&a)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || a.Seq == 0 {
			t.Fatalf("publish batch: result %d: %+v %v", len(acks), a, err)
		}
		acks = append(acks, a)
	}
	if len(acks) != len(data) {
		t.Fatalf("publish batch: %d results for %d messages", len(acks), len(data))
	}
	return acks
}

// Know waits until the node has been given the message with this number. A
// publish is acknowledged once it is stored; the node hears of it, like every
// other, a moment later.
func (s *Server) Know(t testing.TB, seq uint64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if broker, ok := s.Stats(t)["broker"].(map[string]any); ok {
			if head, ok := broker["head"].(float64); ok && uint64(head) >= seq {
				return
			}
		}
	}
	t.Fatalf("the node has not been given seq %d after 5 s", seq)
}

// Stats is the public /stats.
func (s *Server) Stats(t testing.TB) map[string]any {
	t.Helper()
	var stats map[string]any
	if err := json.Unmarshal(s.get(t, s.Addr, "/stats"), &stats); err != nil {
		t.Fatalf("/stats: %v", err)
	}
	return stats
}

// Stat is one number of /stats.
func (s *Server) Stat(t testing.TB, key string) int64 {
	t.Helper()
	stats := s.Stats(t)
	n, ok := stats[key].(float64)
	if !ok {
		t.Fatalf("/stats has no number %q: %v", key, stats)
	}
	return int64(n)
}

// Goroutines is how many the server runs, itself asked.
func (s *Server) Goroutines(t testing.TB) int {
	t.Helper()
	head, _, _ := bytes.Cut(s.get(t, s.Admin, "/debug/pprof/goroutine?debug=1"), []byte("\n"))
	_, count, found := strings.Cut(string(head), "total ")
	n, err := strconv.Atoi(count)
	if !found || err != nil {
		t.Fatalf("goroutine profile begins %q", head)
	}
	return n
}

// Live is how many bytes of the server's heap are in use after a collection.
func (s *Server) Live(t testing.TB) int64 {
	t.Helper()
	s.get(t, s.Admin, "/debug/pprof/heap?gc=1") // what pools keep goes with the second one
	_, rest, _ := strings.Cut(string(s.get(t, s.Admin, "/debug/pprof/heap?gc=1&debug=1")), "\n# HeapAlloc = ")
	count, _, found := strings.Cut(rest, "\n")
	n, err := strconv.ParseInt(count, 10, 64)
	if !found || err != nil {
		t.Fatalf("heap profile without HeapAlloc: %q", count)
	}
	return n
}

// Descriptors is how many the server's process has open, the kernel asked.
func (s *Server) Descriptors(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// once makes a connection for each request: one that a pool kept open would be
// among the descriptors that tests count.
var once = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (s *Server) get(t testing.TB, addr, path string) []byte {
	t.Helper()
	resp, err := once.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s %v %s", path, resp.Status, err, body)
	}
	return body
}

// freePort finds a port nobody listens on, below the range the kernel hands out
// to outgoing connections, of which these tests make thousands.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// cleanEnv is the environment without settings that would change the server.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ODIN_") {
			env = append(env, kv)
		}
	}
	return env
}

// tailBuffer keeps the last part of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	const most = 64 << 10
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	if len(b.buf) > 2*most {
		b.buf = append(b.buf[:0], b.buf[len(b.buf)-most:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}
