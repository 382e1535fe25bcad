package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestLeak connects and disconnects 10 000 times in every way a connection can
// end, and expects descriptors, goroutines, pooled bytes and the heap back where
// they were. The client is a process of its own, so that nothing of it is counted.
func TestLeak(t *testing.T) {
	const rounds = 10_000
	srv := startServer(t)

	// The first connections grow what is kept on purpose: slabs, pools, workers.
	visit(t, srv, rounds/10)
	before := settle(t, srv, resources{})
	live := srv.Live(t)
	visit(t, srv, rounds)
	after := settle(t, srv, before)
	// The broker's own state moves a little; what a connection takes is some 500 B.
	grown := srv.Live(t) - live
	t.Logf("the heap grew by %d bytes from %d", grown, live)
	if grown > rounds*50 {
		t.Errorf("the heap grew by %d bytes, %d a connection", grown, grown/rounds)
	}
	t.Logf("before %+v, after %d connections %+v", before, rounds, after)
	if after.Descriptors > before.Descriptors || after.Goroutines > before.Goroutines || after.Pooled > before.Pooled || after.Connections != 0 {
		t.Errorf("before %+v, after %d connections %+v", before, rounds, after)
	}
	if n := srv.Publish(t, "leak.after", `"still here"`).Seq; n == 0 {
		t.Error("publishing does not work any more")
	}
}

type resources struct {
	Descriptors, Goroutines int
	Pooled, Connections     int64
}

// settle reads what the server holds until it is no more than want, or, when
// there is nothing to want yet, until it holds still.
func settle(t *testing.T, srv *Server, want resources) resources {
	t.Helper()
	var now, last resources
	still := 0
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		last, now = now, resources{
			Descriptors: srv.Descriptors(t),
			Goroutines:  srv.Goroutines(t),
			Pooled:      srv.Stat(t, "pooledBytes"),
			Connections: srv.Stat(t, "currentConnections"),
		}
		if now == last {
			still++
		} else {
			still = 0
		}
		least := now.Connections == 0 && now.Descriptors <= want.Descriptors && now.Goroutines <= want.Goroutines && now.Pooled <= want.Pooled
		if least || want == (resources{}) && still >= 20 && now.Connections == 0 {
			break
		}
	}
	return now
}

// visit has a client process connect n times.
func visit(t *testing.T, srv *Server, n int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "ODIN_E2E_CHILD=visitor", "ODIN_E2E_ADDR="+srv.Addr, "ODIN_E2E_COUNT="+strconv.Itoa(n))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("visitor: %v\n%s", err, out)
	}
	t.Logf("visits: %s", out)
}

// runChild is main in a process that a test started.
func runChild(role string) int {
	if role != "visitor" {
		fmt.Fprintln(os.Stderr, "no such role:", role)
		return 2
	}
	n, err := strconv.Atoi(os.Getenv("ODIN_E2E_COUNT"))
	if err == nil {
		err = visitor(os.Getenv("ODIN_E2E_ADDR"), n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// The ways a visit ends. Each is given a fresh TCP connection and closes it.
var visits = []struct {
	name string
	make func(conn *net.TCPConn, addr string) error
}{
	{"clean", func(conn *net.TCPConn, addr string) error {
		c, err := arrive(conn, addr)
		if err != nil {
			return err
		}
		if err := c.write(opClose, []byte{0x03, 0xe8}); err != nil {
			return err
		}
		_, err = c.Recv()
		if closed := (closeError{}); !errors.As(err, &closed) || closed.code != 1000 {
			return fmt.Errorf("goodbye was answered with %w", err)
		}
		return nil
	}},
	{"reset", func(conn *net.TCPConn, addr string) error {
		if _, err := arrive(conn, addr); err != nil {
			return err
		}
		return conn.SetLinger(0)
	}},
	{"half-way through the head", func(conn *net.TCPConn, addr string) error {
		head := upgradeHead(addr)
		_, err := io.WriteString(conn, head[:len(head)/2])
		return err
	}},
	{"half-way through the head, reset", func(conn *net.TCPConn, addr string) error {
		head := upgradeHead(addr)
		if _, err := io.WriteString(conn, head[:len(head)-1]); err != nil {
			return err
		}
		return conn.SetLinger(0)
	}},
	{"half-way through a frame", func(conn *net.TCPConn, addr string) error {
		c, err := arrive(conn, addr)
		if err != nil {
			return err
		}
		frame := maskedFrame(opText, make([]byte, 3000))
		_, err = c.conn.Write(frame[:len(frame)/2])
		return err
	}},
	{"half-way through a frame's header, reset", func(conn *net.TCPConn, addr string) error {
		c, err := arrive(conn, addr)
		if err != nil {
			return err
		}
		if _, err := c.conn.Write(maskedFrame(opText, make([]byte, 3000))[:3]); err != nil {
			return err
		}
		return conn.SetLinger(0)
	}},
	{"with an unread message, reset", func(conn *net.TCPConn, addr string) error {
		c, err := arrive(conn, addr)
		if err != nil {
			return err
		}
		if err := c.Send(`{"op":"ping","id":1}`); err != nil {
			return err
		}
		return conn.SetLinger(0)
	}},
}

// arrive upgrades and subscribes to a channel.
func arrive(conn *net.TCPConn, addr string) (*rawClient, error) {
	c := newRawClient(conn)
	if err := c.upgrade(addr); err != nil {
		return nil, err
	}
	if err := c.Send(`{"op":"sub","id":1,"ch":["leak.one","leak.two"]}`); err != nil {
		return nil, err
	}
	for range 2 {
		if _, err := c.Recv(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// visitor makes n visits, some at a time, and prints how many of each kind.
func visitor(addr string, n int) error {
	const atOnce = 32
	var (
		mu     sync.Mutex
		failed error
		counts = make(map[string]int)
		next   int
		wg     sync.WaitGroup
	)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next - 1, next <= n && failed == nil
	}
	for range atOnce {
		wg.Go(func() {
			for i, ok := take(); ok; i, ok = take() {
				v := visits[i%len(visits)]
				err := visitOnce(v.make, addr)
				mu.Lock()
				if counts[v.name]++; err != nil && failed == nil {
					failed = fmt.Errorf("visit %d, %s: %w", i, v.name, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return failed
	}
	return json.NewEncoder(os.Stdout).Encode(counts)
}

func visitOnce(visit func(*net.TCPConn, string) error, addr string) error {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return visit(conn.(*net.TCPConn), addr)
}
