package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// needs skips the test, or fails it where the environment variable require is
// set: on CI nothing may be missing.
func needs(t *testing.T, require, missing string) {
	t.Helper()
	if os.Getenv(require) != "" {
		t.Fatalf("%s is set, but %s", require, missing)
	}
	t.Skip(missing)
}

// TestClientNPM lets the ws package of npm, under Node.js, play a subscriber.
func TestClientNPM(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		needs(t, "ODIN_REQUIRE_JS", "Node.js is not installed")
	}
	if _, err := os.Stat(filepath.Join("js", "node_modules", "ws")); err != nil {
		needs(t, "ODIN_REQUIRE_JS", "npm's ws is not installed: make e2e-deps")
	}
	t.Run("as it is", func(t *testing.T) { playNPM(t, node, startServer(t), "") })
	t.Run("compressed", func(t *testing.T) {
		srv := startServer(t, "--compression")
		playNPM(t, node, srv, "permessage-deflate") // without its parameters, as ws has it
		wantCompressed(t, srv, "messages", "inflated")
	})
}

// playNPM is TestClientNPM with one server, whose answer to an offer of extensions is
// given.
func playNPM(t *testing.T, node string, srv *Server, extensions string) {
	const channel, count = "npm.client", 500
	cmd := exec.CommandContext(t.Context(), node, "ws-client.mjs", srv.URL(), channel, fmt.Sprint(count))
	cmd.Dir = "js"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()

	type report struct {
		At, Why           string
		Protocol, Without string
		Extensions        string
		Pong              string
		Goodbye, Binary   int
		Messages          []received
	}
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 8<<20)
	next := func(at string) (r report) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the client ended: %v\n%s", lines.Err(), &stderr)
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil || r.At != at {
			t.Fatalf("the client says %s (%v), want it %s\n%s", lines.Bytes(), err, at, &stderr)
		}
		return r
	}
	next("subscribed")
	want := publishPayloads(t, srv, channel, count)
	r := next("done")
	compare(t, r.Messages, want)
	if r.Protocol != "odin.v1.json" || r.Without != "" {
		t.Errorf("subprotocol is %q when offered, %q when not", r.Protocol, r.Without)
	}
	if r.Extensions != extensions {
		t.Errorf("extensions are %q, want %q", r.Extensions, extensions)
	}
	if r.Pong != "are you there" {
		t.Errorf("pong says %q", r.Pong)
	}
	if r.Goodbye != 1000 || r.Binary != 1003 {
		t.Errorf("closed with %d after a goodbye and %d after binary, want 1000 and 1003", r.Goodbye, r.Binary)
	}
}

// received is one message as a client outside this process reports it.
type received struct {
	Seq uint64 `json:"seq"`
	D   string `json:"d"` // its bytes
}

// publishPayloads publishes count messages, half of them one by one and half in
// a batch, and returns what a subscriber must report.
func publishPayloads(t *testing.T, srv *Server, channel string, count int) []received {
	t.Helper()
	payloads := make([]string, count)
	for i := range payloads {
		payloads[i] = fmt.Sprintf(`{"n":%d, "text":"żółć 价 \u00e9","price":%d.50,"bids":[["%[2]d.40","1.250"],["%[2]d.30","2.250"],["%[2]d.20","0.250"]]}`, i, 1000+i)
	}
	var out []received
	for _, p := range payloads[:count/2] {
		out = append(out, received{srv.Publish(t, channel, p).Seq, p})
	}
	for i, a := range srv.PublishBatch(t, channel, payloads[count/2:]) {
		out = append(out, received{a.Seq, payloads[count/2+i]})
	}
	return out
}

func compare(t *testing.T, got, want []received) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d messages, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("message %d is %d %s, want %d %s", i, got[i].Seq, got[i].D, want[i].Seq, want[i].D)
		}
	}
}
