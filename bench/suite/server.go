package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// wire is what a server speaks.
type wire int

const (
	odinWire wire = iota // docs/protocol.md: channels, commands, publishing by HTTP
	peerWire             // bench/peers/peer: one broadcast, and echo
)

// contender is a server that can be measured.
type contender struct {
	name string
	wire wire
	// own is odin, or what it is held against in every scenario; the rest are
	// rivals, which may get fewer rounds.
	own     bool
	library bool // of bench/peers
	start   func(ctx context.Context, n need) (*server, error)
}

// need is what a trial wants of its server.
type need struct {
	size int    // bytes of a broadcast message as a client receives it
	data string // a directory for the server alone
	odin []string
	nats bool
}

// server is one running server. Fields are static once it has started.
type server struct {
	url       string // WebSocket
	echo      string // WebSocket, where texts come back; "" for nowhere
	channel   string // to subscribe to for broadcasts, "" where there is no such thing
	admin     string // base URL of the publishing API, "" for none
	nats      string // "" for none
	readyURL  string
	pprofURL  string // goroutine profile, "" for none
	broadcast func(ctx context.Context, p phase) (messages int, err error)

	proc process
	cmd  *exec.Cmd // nil: it ran before
	done chan struct{}
	log  *bytes.Buffer // readable once done is closed
}

// phase is one load: count messages to every connection, rate of them a second.
type phase struct {
	rate  float64
	count int
}

func during(rate float64, d time.Duration) phase {
	return phase{rate, max(1, int(rate*d.Seconds()))}
}

// unlimited are flags that lift the limits on a client's commands: they are there
// to be measured, and still counted.
var unlimited = []string{"--rate-burst", "100000000", "--rate-per-sec", "1000000"}

func startOdin(bin string, extra []string) func(context.Context, need) (*server, error) {
	return func(ctx context.Context, n need) (*server, error) {
		addr, admin := freePort(), freePort()
		s := odinServer(addr, admin, n.size)
		s.echo = "ws://" + addr + "/echo"
		args := append([]string{"serve", "--addr", addr, "--admin-addr", admin, "--data-dir", n.data, "--drain", "100ms", "--echo", "--log-level", "warn"}, unlimited...)
		if n.nats {
			port := freePort()
			s.nats = "nats://" + port
			args = append(args, "--nats-listen", port)
		}
		return s, s.start(ctx, bin, append(append(args, n.odin...), extra...)...)
	}
}

func startBaseline(bin string) func(context.Context, need) (*server, error) {
	return func(ctx context.Context, n need) (*server, error) {
		addr, admin := freePort(), freePort()
		s := odinServer(addr, admin, n.size)
		return s, s.start(ctx, bin, append([]string{"--addr", addr, "--admin-addr", admin}, unlimited...)...)
	}
}

func odinServer(addr, admin string, size int) *server {
	s := &server{
		url:      "ws://" + addr + "/ws",
		channel:  "bench",
		admin:    "http://" + admin,
		readyURL: "http://" + addr + "/readyz",
		pprofURL: "http://" + admin + "/debug/pprof/goroutine?debug=1",
	}
	// What surrounds the payload in a message, with numbers of usual length.
	const around = `{"t":"msg","ch":"bench","seq":123,"prev":122,"ts":1767000000123,"d":""}`
	body := fmt.Sprintf(`{"ch":"bench","data":"%s"}`, strings.Repeat("x", max(0, size-len(around))))
	s.broadcast = func(ctx context.Context, p phase) (int, error) {
		return p.count, publish(ctx, s.admin+"/v1/publish", body, p)
	}
	return s
}

// startPeer runs a server that takes --addr, --control and --size, and args.
func startPeer(bin string, profiles bool, args ...string) func(context.Context, need) (*server, error) {
	return func(ctx context.Context, n need) (*server, error) {
		addr, control := freePort(), freePort()
		s := peerServer("ws://"+addr+"/ws", "http://"+control)
		if profiles {
			s.pprofURL = "http://" + control + "/debug/pprof/goroutine?debug=1"
		}
		return s, s.start(ctx, bin, append([]string{"--addr", addr, "--control", control, "--size", strconv.Itoa(n.size)}, args...)...)
	}
}

func peerServer(url, control string) *server {
	s := &server{url: url, echo: url, readyURL: control + "/readyz"}
	if control == "" {
		return s
	}
	s.broadcast = func(ctx context.Context, p phase) (int, error) {
		var done struct{ Messages int }
		b, err := post(ctx, fmt.Sprintf("%s/broadcast?rate=%g&count=%d", control, p.rate, p.count), "")
		if err == nil {
			err = json.Unmarshal(b, &done)
		}
		return done.Messages, err
	}
	return s
}

// start runs the process and waits until it is ready.
func (s *server) start(ctx context.Context, bin string, args ...string) error {
	s.log = &bytes.Buffer{}
	s.done = make(chan struct{})
	s.cmd = exec.Command(bin, args...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.proc = process{s.cmd.Process.Pid}
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		select {
		case <-s.done:
			return fmt.Errorf("%s ended: %s\n%s", bin, s.cmd.ProcessState, s.log)
		case <-ctx.Done():
			s.stop()
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := get(s.readyURL); err == nil {
			return nil
		}
	}
	s.stop()
	return fmt.Errorf("%s is not ready after 30 s\n%s", bin, s.log)
}

// stop ends a server that start began.
func (s *server) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
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

// build compiles a main package as it is shipped; dir is the module's.
func build(ctx context.Context, dir, pkg, to string) (string, error) {
	bin := filepath.Join(to, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, pkg)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s in %s: %w\n%s", pkg, dir, err, out)
	}
	return bin, nil
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
		if ctx.Err() != nil {
			break
		}
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
	if err := <-errs; err != nil {
		return err
	}
	return ctx.Err()
}

var client = &http.Client{
	Timeout:   5 * time.Minute,
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

// Checkout finds the module's root from the working directory up; "" for none.
func Checkout() string {
	at, err := os.Getwd()
	for err == nil {
		b, _ := os.ReadFile(filepath.Join(at, "go.mod"))
		if bytes.HasPrefix(b, []byte("module github.com/odin-ws/odin\n")) {
			return at
		}
		up := filepath.Dir(at)
		if up == at {
			break
		}
		at = up
	}
	return ""
}
