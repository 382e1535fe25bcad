//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/coder/websocket"
)

const (
	public = "127.0.0.1:8080"
	// grace is compose.yml's stop_grace_period.
	grace = 45 * time.Second
)

// whole runs the image as it comes: its start-up log, who it is and what it may, a
// message from a publisher to a client, the stop.
func (r *rig) whole(ctx context.Context, net *network, data string) error {
	c, err := r.start(ctx, "whole", net, data, nil, nil)
	if err != nil {
		return err
	}
	defer c.remove()
	limit, err := groupBytes(c.id, "memory.max", "memory.limit_in_bytes")
	if err != nil {
		return err
	}
	r.check("memory limit", limit == memory, "%d bytes, set by %s", limit, ociRuntime())
	sum := c.line("Calculated max connections: ")
	want := "Calculated max connections: "
	if r.files >= 65536 {
		want += "54613 (based on 6KB per connection + 192MB overhead)"
	}
	r.check("start-up log, the sum", strings.Contains(sum, want), "%s", after(sum, "Calculated"))
	why := c.line("Bound by ")
	r.check("start-up log, where from", strings.Contains(why, "memory allows 54613") && strings.Contains(why, "memory limit 512MB read from cgroup"), "%s", after(why, "Bound by"))
	if r.files < 65536 {
		r.check("open files", strings.Contains(why, "Bound by file descriptors"), "the hard limit of this machine is %d a process: it, not memory, is the bound here", r.files)
	}
	if err := r.confined(ctx, c); err != nil {
		return err
	}
	text, err := c.exec(ctx, r.image.config.Config.Healthcheck.Test[1:]...)
	r.check("the image's health check", err == nil, "%s%s", text, said(err))
	if err := r.message(ctx, net, c); err != nil {
		return err
	}
	if !r.quick {
		if err := r.many(ctx, net, c); err != nil {
			return err
		}
	}
	if n, err := kills(c.id); err != nil || n > 0 {
		r.check("OOM kills", false, "%d%s", n, said(err))
	}
	code, took, err := c.stop(ctx, grace)
	r.check("SIGTERM", err == nil && code == 0, "exit code %d after %.1f s%s", code, took.Seconds(), said(err))
	return nil
}

// confined checks the process from outside, and what it may write from inside.
func (r *rig) confined(ctx context.Context, c *container) error {
	pid, err := c.pid(ctx)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	is := map[string]string{}
	for l := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(l, ":")
		is[k] = strings.Join(strings.Fields(v), " ")
	}
	id := "65532 65532 65532 65532"
	r.check("user of the process", is["Uid"] == id && is["Gid"] == id && is["Groups"] == "", "uid %s, gid %s, no other group", is["Uid"], is["Gid"])
	none := "0000000000000000"
	r.check("capabilities", is["CapEff"] == none && is["CapPrm"] == none && is["CapBnd"] == none && is["NoNewPrivs"] == "1" && is["Seccomp"] == "2",
		"effective %s, permitted %s, bounding %s; no_new_privs %s, seccomp %s", is["CapEff"], is["CapPrm"], is["CapBnd"], is["NoNewPrivs"], is["Seccomp"])

	_, err = c.exec(ctx, "/odin", "key", "new", "x", "--role", "admin", "--out", "/x")
	r.check("the root can't be written to", err != nil && strings.Contains(err.Error(), "read-only file system"), "`odin key new --out /x`: %s", lastLine(err))
	for _, dir := range []string{"/tmp", "/data"} {
		_, err = c.exec(ctx, "/odin", "key", "new", "x", "--role", "admin", "--out", dir+"/x")
		r.check(dir+" can", err == nil, "`odin key new --out %s/x`%s", dir, said(err))
	}
	return nil
}

// message has a client, by a WebSocket library of others, be given what another program
// publishes.
func (r *rig) message(ctx context.Context, net *network, c *container) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: net.dial, DisableKeepAlives: true}}
	//nolint:bodyclose // Dial closes it
	ws, _, err := websocket.Dial(ctx, "ws://"+public+"/ws", &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"odin.v1.json"}})
	if err != nil {
		return fmt.Errorf("a client can't connect: %w", err)
	}
	defer func() { _ = ws.CloseNow() }() // it has been judged by then
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"op":"sub","id":1,"ch":["demo.hello"]}`)); err != nil {
		return err
	}
	await := func(t string) ([]byte, error) {
		for {
			_, b, err := ws.Read(ctx)
			if err != nil {
				return nil, fmt.Errorf("waiting for %s: %w", t, err)
			}
			var head struct{ T string }
			if err := json.Unmarshal(b, &head); err != nil {
				return nil, err
			}
			if head.T == t {
				return b, nil
			}
		}
	}
	if _, err := await("ack"); err != nil {
		return err
	}
	published, err := c.exec(ctx, "/odin", "publish", "demo.hello", `{"text":"from a container"}`)
	if err != nil {
		return err
	}
	b, err := await("msg")
	if err != nil {
		return err
	}
	var msg struct {
		Ch string
		D  struct{ Text string }
	}
	if err := json.Unmarshal(b, &msg); err != nil {
		return err
	}
	r.check("published in it, received outside", msg.Ch == "demo.hello" && msg.D.Text == "from a container", "%s → `%s`", strings.TrimSpace(published), b)
	return nil
}

// many fills it with 10 000 clients of this machine, each of which is given messages.
func (r *rig) many(ctx context.Context, net *network, c *container) error {
	const clients = 10000
	res, err := r.stress(ctx, net, "--connections", "10000", "--expect", "10000", "--duration", "40s", "--check", "--publish-rate", "2")
	r.check("10 000 clients", err == nil && res.OK && res.Connected == clients && res.Gaps == 0,
		"%d connected, %d messages, %d gaps%s", res.Connected, res.Messages, res.Gaps, said(err))
	peak, err := groupBytes(c.id, "memory.peak", "memory.max_usage_in_bytes")
	if err != nil {
		return err
	}
	r.check("memory of the group", peak < memory, "%.0f MiB charged at its peak, page cache included, of %d", mib(peak), memory>>20)
	return nil
}

// full overfills a gateway that takes 50, on the volume of the one before, and stops it
// while it has clients.
func (r *rig) full(ctx context.Context, net *network, data string) error {
	c, err := r.start(ctx, "full", net, data, []string{"ODIN_MAX_CONNECTIONS=50", "ODIN_DRAIN=5s"}, nil)
	if err != nil {
		return err
	}
	defer c.remove()
	client := &http.Client{Transport: &http.Transport{DialContext: net.dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}

	history, err := get(client, "http://127.0.0.1:8081/v1/channels/demo.hello/history?from=1")
	r.check("another container, the same volume", err == nil && strings.Contains(history.body, "from a container"), "its history has the message: `%s`%s", history.body, said(err))

	res, err := r.stress(ctx, net, "--connections", "80", "--expect", "50", "--expect-errors", `{"http_503": 30}`, "--duration", "2s", "--settle", "0s")
	errs, _ := json.Marshal(res.Errors)
	r.check("80 clients where 50 may be", err == nil && res.OK && res.Connected == 50, "%d connected, errors `%s`%s", res.Connected, errs, said(err))

	// Fifty who stay, to see what the next one is told, and what they are at the end.
	holding := make(chan stressed, 1)
	hold, release := context.WithCancel(ctx)
	defer release()
	go func() {
		res, err := r.stress(hold, net, "--connections", "50", "--duration", "2m", "--settle", "0s", "--allow", "close_1012")
		holding <- stressed{res, err}
	}()
	if err := await(ctx, client, 50); err != nil {
		return err
	}
	one, err := get(client, "http://"+public+"/ws", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	var refusal struct {
		Code, Message string
		RetryAfterMs  int `json:"retry_after_ms"`
	}
	_ = json.Unmarshal([]byte(one.body), &refusal) // an answer that is none has no code
	r.check("the next one is told", err == nil && one.status == 503 && refusal.Code == "at_capacity" && refusal.Message != "" && refusal.RetryAfterMs > 0 && one.header.Get("Retry-After") != "",
		"%d, Retry-After %s, `%s`%s", one.status, one.header.Get("Retry-After"), one.body, said(err))

	code, took, err := c.stop(ctx, grace)
	var held stressed
	select { // it ends by itself once it has no client left
	case held = <-holding:
	case <-time.After(30 * time.Second):
		release()
		held = <-holding
	}
	ended, _ := json.Marshal(held.Ended)
	r.check("SIGTERM with clients", err == nil && code == 0 && held.Ended["close_1012"] == 50, "exit code %d after %.1f s; how they ended: `%s`%s", code, took.Seconds(), ended, said(errors.Join(err, held.err)))
	return nil
}

// await waits until so many clients are in.
func await(ctx context.Context, client *http.Client, want int) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		a, err := get(client, "http://"+public+"/stats")
		var s struct{ CurrentConnections int }
		if err == nil {
			err = json.Unmarshal([]byte(a.body), &s)
		}
		if err == nil && s.CurrentConnections == want {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%d clients are in, want %d (%w)", s.CurrentConnections, want, err)
		}
	}
}

// answer is an HTTP answer, read.
type answer struct {
	status int
	header http.Header
	body   string
}

func get(client *http.Client, url string, headers ...string) (answer, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return answer{res.StatusCode, res.Header, strings.TrimSpace(string(b))}, err
}

// result is what odin stress says at its end.
type result struct {
	OK        bool             `json:"ok"`
	Connected int              `json:"connected"`
	Errors    map[string]int64 `json:"errors"`
	Ended     map[string]int64 `json:"ended_early"`
	Messages  int64            `json:"messages"`
	Gaps      int64            `json:"gaps"`
}

// stressed is a run of odin stress.
type stressed struct {
	result
	err error
}

// stress runs odin stress beside the container, against its public port.
func (r *rig) stress(ctx context.Context, net *network, args ...string) (result, error) {
	var res result
	text, err := output(net.command(ctx, r.odin, append([]string{"stress", "--json", "--url", "ws://" + public + "/ws"}, args...)...))
	if i := strings.IndexByte(text, '{'); i >= 0 {
		if bad := json.Unmarshal([]byte(text[i:]), &res); err == nil {
			err = bad
		}
	}
	return res, err
}

// after is s from a word on, for the table; all of s without it.
func after(s, word string) string {
	if i := strings.Index(s, word); i >= 0 {
		return strings.TrimSuffix(s[i:], `"`)
	}
	return s
}

// said is an error for the end of a line, "" for none.
func said(err error) string {
	if err == nil {
		return ""
	}
	return ": " + strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", " ")
}

// lastLine is the last line of an error, which is what the program said; "" for none.
func lastLine(err error) string {
	if err == nil {
		return ""
	}
	text := strings.TrimSpace(err.Error())
	return text[strings.LastIndexByte(text, '\n')+1:]
}
