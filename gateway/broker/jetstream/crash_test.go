package jetstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker"
)

// crashDir tells the test binary to be the process that gets killed; with
// crashConf it is a node of a cluster.
const (
	crashDir  = "ODIN_TEST_CRASH_DIR"
	crashConf = "ODIN_TEST_CRASH_CONF"
	crashName = "ODIN_TEST_CRASH_NAME"
)

// crashData is what it publishes, on channel c0.
var crashData = strings.Repeat("x", 300)

// crashChild publishes over the directory as fast as it can and prints each
// acked sequence once it has the ack.
func crashChild(dir string) {
	b, err := New(Config{DataDir: dir, ConfigFile: os.Getenv(crashConf), Name: os.Getenv(crashName), Log: quiet()})
	if err == nil {
		err = b.Start(&countingSink{})
	}
	for err == nil || errors.Is(err, broker.ErrDown) {
		var ack broker.Ack
		ack, err = b.Publish(context.Background(), broker.Publication{Channel: "c0", Data: []byte(crashData)})
		if err == nil {
			fmt.Println(ack.Seq)
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// runAndKill runs crashChild, kills it -9 once when says so of the number of
// acks it printed, and returns all it printed.
func runAndKill(t *testing.T, cfg Config, when func(acks int) bool) (acked []uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+cfg.DataDir, crashConf+"="+cfg.ConfigFile, crashName+"="+cfg.Name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for killed := false; ; {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		var seq uint64
		if err == nil {
			_, err = fmt.Sscan(line, &seq)
		}
		if err != nil {
			_ = cmd.Process.Kill()
			t.Fatal(err)
		}
		acked = append(acked, seq)
		if !killed && when(len(acked)) {
			killed = true
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	return acked
}

// TestKill9: an acked publish survives the process.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		acked := runAndKill(t, Config{DataDir: dir}, func(n int) bool { return n == 200 })
		last := acked[len(acked)-1]
		r := start(t, func(c *Config) { c.DataDir = dir })
		if head := r.sink.Opens()[0].Head; last < 200 || head < last {
			t.Errorf("round %d: %d was acked, the stream ends at %d", round, last, head)
		}
		_ = r.Close()
	}
}
