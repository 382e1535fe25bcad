//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Publishers at full speed fill a small container's memory with what the store keeps,
// unless they are held back: the process must live, what was acked must be stored and
// delivered in order, and clients must be let in all the while.
func TestPublishersAtFullSpeed(t *testing.T) {
	const mib, fast = 1 << 20, 8 * time.Second
	g := newMemoryGroup(t, 96*mib)
	srv := startServerBy(t, []string{"/bin/sh", "-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(g.dir, "cgroup.procs")}, freePort(t),
		"--runtime-overhead", "48MiB", "--backlog", "12MiB")

	reader, err := dialRaw(srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, send := range []string{"", `{"op":"sub","id":1,"ch":["watched"]}`} {
		if send != "" {
			if err := reader.Send(send); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := reader.Recv(); err != nil { // hello, ack
			t.Fatal(err)
		}
	}

	end := time.Now().Add(fast)
	var work sync.WaitGroup
	var mu sync.Mutex
	answers := map[int]int{} // guarded by mu; requests by status
	post := func(client *http.Client, path, body string) (status int, answer []byte) {
		resp, err := client.Post("http://"+srv.Admin+path, "application/x-ndjson", strings.NewReader(body))
		if err != nil {
			t.Errorf("the gateway is gone: %v", err)
			return 0, nil
		}
		defer resp.Body.Close()
		answer, _ = io.ReadAll(resp.Body)
		mu.Lock()
		defer mu.Unlock()
		answers[resp.StatusCode]++
		return resp.StatusCode, answer
	}
	for i := range 2 {
		batch := strings.Repeat(fmt.Sprintf(`{"ch":"flood.%d","data":"%s"}`+"\n", i, strings.Repeat("x", 1000)), 200)
		work.Go(func() {
			client := &http.Client{Timeout: 20 * time.Second}
			for time.Now().Before(end) {
				if status, _ := post(client, "/v1/publish/batch", batch); status == 0 {
					return
				}
			}
		})
	}
	var acked []uint64 // of the channel that is read
	work.Go(func() {
		client := &http.Client{Timeout: 20 * time.Second}
		for time.Now().Before(end) {
			status, answer := post(client, "/v1/publish", `{"ch":"watched","data":1}`)
			var res struct {
				Seq  uint64
				Code string
			}
			if err := json.Unmarshal(answer, &res); status == 0 || err != nil {
				t.Errorf("%d %s: %v", status, answer, err)
				return
			}
			switch {
			case status == 200:
				acked = append(acked, res.Seq)
			case status != 503 || res.Code != "busy":
				t.Errorf("%d %s", status, answer)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	work.Go(func() {
		for time.Now().Before(end) {
			c, err := dialRaw(srv.Addr)
			if err != nil {
				t.Errorf("a client that comes meanwhile: %v", err)
				return
			}
			c.Close()
			time.Sleep(100 * time.Millisecond)
		}
	})
	work.Wait()
	if t.Failed() {
		return
	}

	if len(acked) == 0 || answers[503] == 0 {
		t.Fatalf("%d acked, answers %v: nobody was held back", len(acked), answers)
	}
	var got []uint64
	for len(got) < len(acked) {
		text, err := reader.Recv()
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(got), len(acked), err)
		}
		var m struct {
			T   string
			Seq uint64
		}
		if err := json.Unmarshal(text, &m); err != nil || m.T == "gap" {
			t.Fatalf("%s: %v", text, err)
		}
		if m.T == "msg" {
			got = append(got, m.Seq)
		}
	}
	if !slices.Equal(got, acked) {
		t.Error("what arrived is not what was acked, in order")
	}
	t.Logf("answers %v; %d acked and read; %d busy, %d held", answers, len(acked), srv.Stat(t, "publishBusy"), srv.Stat(t, "publishHeld"))
}
