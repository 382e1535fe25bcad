package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A publication that comes a byte at a time ends, and gives its memory back. What
// only takes long to answer does not.
func TestAdminBodiesEnd(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	const timeout = 300 * time.Millisecond
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/publish", g.handlePublish)
	mux.HandleFunc("/v1/publish/batch", g.handlePublishBatch)
	gone := make(chan error, 1)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
		case <-time.After(3 * timeout):
		}
		gone <- r.Context().Err()
		io.WriteString(w, "done")
	})
	srv := httptest.NewServer(boundBodies(mux, timeout))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	for _, path := range []string{"/v1/publish", "/v1/publish/batch"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", path)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					if _, err := c.Write([]byte(" ")); err != nil {
						return
					}
				}
			}
		}()
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusRequestTimeout || time.Since(begin) < timeout {
			t.Errorf("%s: %v, %v after %v", path, resp, err, time.Since(begin))
		}
		close(stop)
		c.Close()
	}
	g.eventually("the memory to be given back", func() bool {
		ok := g.publishing.TryAcquire(g.cfg.PublishBudget)
		if ok {
			g.publishing.Release(g.cfg.PublishBudget)
		}
		return ok
	})
	for _, body := range []string{"", "x"} {
		resp, err := http.Post(srv.URL+"/slow", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := io.ReadAll(resp.Body); string(text) != "done" {
			t.Errorf("%q", text)
		}
		resp.Body.Close()
		if err := <-gone; err != nil {
			t.Errorf("with the body %q it was ended: %v", body, err)
		}
	}
}

// The connections of the admin port are bounded; one too many is told, and a place
// is free again when one leaves.
func TestAdminConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	g := newTestGateway(t, nil)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	ask := func() (net.Conn, int) {
		c, err := net.Dial("tcp", g.AdminAddr())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return c, 0 // its request met a closed socket
		}
		return c, resp.StatusCode
	}
	for range maxAdminConns {
		c, status := ask()
		held = append(held, c)
		if status != http.StatusOK {
			t.Fatalf("%d for connection %d", status, len(held))
		}
	}
	for range 5 {
		c, status := ask()
		c.Close()
		if status != http.StatusServiceUnavailable && status != 0 {
			t.Errorf("%d for one too many", status)
		}
	}
	if n := g.Stats().AdminBusy; n != 5 {
		t.Errorf("%d counted", n)
	}
	held[0].Close()
	g.eventually("a place", func() bool {
		c, status := ask()
		c.Close()
		return status == http.StatusOK
	})
}
