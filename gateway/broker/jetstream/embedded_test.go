package jetstream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/odin-ws/odin/gateway/broker"
	"github.com/odin-ws/odin/gateway/broker/brokertest"
)

func TestDataDirInUse(t *testing.T) {
	r := start(t, nil)
	second := newBroker(t, r.cfg)
	err := second.Start(brokertest.NewRecorder(t))
	if err == nil || !strings.Contains(err.Error(), "in use by another odin process") {
		t.Fatalf("%v", err)
	}
	_ = r.Close()
	start(t, func(c *Config) { c.DataDir = r.cfg.DataDir })
}

func TestDataDirUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.DataDir = filepath.Join(file, "sub")
	err := newBroker(t, cfg).Start(brokertest.NewRecorder(t))
	if err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Fatalf("%v", err)
	}
	// A directory that exists, with something in the store's place.
	cfg.DataDir = t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.DataDir, "jetstream"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = newBroker(t, cfg).Start(brokertest.NewRecorder(t))
	if err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Fatalf("%v", err)
	}
}

// TestRestartKeepsAll: what was acked is there after a restart over the
// directory, with the same epoch; deliveries go on after it.
func TestRestartKeepsAll(t *testing.T) {
	r := start(t, nil)
	for range 10 {
		r.put(t, "a", `"kept"`)
	}
	epoch := r.State().Epoch
	_ = r.Close()
	r = start(t, func(c *Config) { c.DataDir = r.cfg.DataDir })
	if got := r.sink.Opens()[0]; got != (brokertest.Opened{Epoch: epoch, Head: 10}) {
		t.Errorf("opened at %+v, epoch was %s", got, epoch)
	}
	if m, err := r.Get(t.Context(), "a", 1); err != nil || m.Seq != 1 || string(m.Data) != `"kept"` {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestListen(t *testing.T) {
	r := start(t, func(c *Config) { c.Listen = "127.0.0.1:0" })
	nc := dial(t, r.ClientURL())
	seq := inject(t, jetStream(t, nc), &nats.Msg{Subject: inPrefix + "native", Data: []byte(`1`)})
	brokertest.Wait(t, "it arrives", func() bool { return r.sink.Reached(seq) })
	if start(t, nil).ClientURL() != "" {
		t.Error("listens without being told")
	}
}

func TestConfigFile(t *testing.T) {
	for name, c := range map[string]struct{ conf, account, fails string }{
		"bare":         {conf: `max_payload: 2MB`},
		"users":        {conf: `authorization { users = [ {user: a, password: b} ] }`},
		"one user":     {conf: `authorization { user: a, password: b }`},
		"account":      {conf: `accounts { A { jetstream: enabled, users = [ {user: a, password: b} ] } }`},
		"accounts":     {conf: `accounts { A { jetstream: enabled, users = [ {user: a, password: b} ] }, B { users = [ {user: c, password: d} ] } }`, account: "A"},
		"which one":    {conf: `accounts { A { jetstream: enabled, users = [ {user: a, password: b} ] }, B { users = [ {user: c, password: d} ] } }`, fails: "several accounts"},
		"token":        {conf: `authorization { token: t }`, fails: "token"},
		"syntax error": {conf: `accounts {`, fails: "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "nats.conf")
			conf := "listen: 127.0.0.1:-1\n" + c.conf
			if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.fails != "" {
				cfg := testConfig()
				cfg.DataDir, cfg.ConfigFile, cfg.Account = t.TempDir(), file, c.account
				err := newBroker(t, cfg).Start(brokertest.NewRecorder(t))
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("%v", err)
				}
				return
			}
			cfg := testConfig()
			cfg.DataDir, cfg.ConfigFile, cfg.Account = t.TempDir(), file, c.account
			b, sink := newBroker(t, cfg), brokertest.NewRecorder(t)
			if err := b.Start(sink); err != nil {
				t.Fatal(err)
			}
			brokertest.Wait(t, "up", sink.Up)
			if _, err := b.Publish(t.Context(), broker.Publication{Channel: "a", Data: []byte(`1`)}); err != nil {
				t.Error(err)
			}
			if name != "bare" {
				nc := dial(t, b.ClientURL(), nats.UserInfo("a", "b"))
				inject(t, jetStream(t, nc), &nats.Msg{Subject: inPrefix + "native", Data: []byte(`1`)})
			}
		})
	}
}

// TestDiskFull: publishers get errors, and it works again by itself once there
// is space. It needs the right to mount.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r := start(t, func(c *Config) { c.DataDir, c.AckTimeout = dir, time.Second })
	_ = r.nc.Drain()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 12<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	data := []byte(`"` + strings.Repeat("x", 100_000) + `"`)
	var acked uint64
	var kinds = map[string]int{}
	brokertest.Wait(t, "publishes are refused as full", func() bool {
		ack, err := r.Publish(t.Context(), broker.Publication{Channel: "a", Data: data})
		switch {
		case err == nil:
			acked = ack.Seq
		case errors.Is(err, broker.ErrFull):
			kinds["full"]++
		default:
			kinds["other"]++
		}
		return errors.Is(err, broker.ErrFull)
	})
	since := time.Now()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	var ack broker.Ack
	brokertest.Wait(t, "it works again", func() (ok bool) {
		time.Sleep(20 * time.Millisecond)
		var err error
		ack, err = r.Publish(t.Context(), broker.Publication{Channel: "a", Data: []byte(`"again"`)})
		return err == nil
	})
	t.Logf("%v; %d stored when full; works again after %v", kinds, acked, time.Since(since))
	if ack.Seq <= acked {
		t.Errorf("seq %d was given out again (%d was acked)", ack.Seq, acked)
	}
	brokertest.Wait(t, "all arrive", func() bool { return r.sink.Reached(ack.Seq) })
	if got := fmt.Sprint(r.sink.Losses()); got != "[]" {
		t.Errorf("losses %v", got)
	}
}
