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

// crashDir tells the test binary to be the process that gets killed.
const crashDir = "ODIN_TEST_CRASH_DIR"

// crashChild publishes over the directory as fast as it can and prints each
// acked sequence once it has the ack.
func crashChild(dir string) {
	b, err := New(Config{DataDir: dir, Log: quiet()})
	if err == nil {
		err = b.Start(&countingSink{})
	}
	for err == nil || errors.Is(err, broker.ErrDown) {
		var ack broker.Ack
		ack, err = b.Publish(context.Background(), broker.Publication{Channel: "a", Data: []byte(strings.Repeat("x", 300))})
		if err == nil {
			fmt.Println(ack.Seq)
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestKill9: an acked publish survives the process.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		var last uint64
		for n := 0; ; n++ {
			line, err := lines.ReadString('\n')
			if err == nil {
				_, err = fmt.Sscan(line, &last)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if n == 200 {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		r := start(t, func(c *Config) { c.DataDir = dir })
		if head := r.sink.Opens()[0].Head; last < 200 || head < last {
			t.Errorf("round %d: %d was acked, the stream ends at %d", round, last, head)
		}
		_ = r.Close()
	}
}
