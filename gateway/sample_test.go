package gateway

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A flood is a few lines a second and one that says how many are missing, told when
// the flood is over, too; other kinds are not concerned.
func TestLogFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := new(lines)
		g := &Gateway{log: out.logger()}
		count := func(what string) int { return strings.Count(out.String(), what) }
		for i := range 1000 {
			g.sampled("token", "a token was refused", "n", i)
		}
		g.sampledAt(slog.LevelError, "panic", "a handler panicked")
		if count("a token was refused") != sampledLines || count("a handler panicked") != 1 || count("left out") != 0 || count("level=ERROR") != 1 {
			t.Errorf("%s", out)
		}
		g.tellSampled(time.Now())
		if count("left out") != 0 {
			t.Error("told before the second was over")
		}
		time.Sleep(sampleWindow)
		g.tellSampled(time.Now())
		g.tellSampled(time.Now())
		missing := fmt.Sprintf("kind=token lines=%d", 1000-sampledLines)
		if count("left out") != 1 || count(missing) != 1 {
			t.Errorf("no %q in %s", missing, out)
		}
		// A new second, without anybody telling in between.
		for range 2 * sampledLines {
			g.sampled("token", "a token was refused")
		}
		time.Sleep(sampleWindow)
		g.sampled("token", "a token was refused")
		if count("a token was refused") != 2*sampledLines+1 || count(fmt.Sprintf("kind=token lines=%d", sampledLines)) != 1 {
			t.Errorf("%s", out)
		}
		if n := g.sampler.leftOut.Load(); n != 1000 {
			t.Errorf("%d left out", n)
		}
	})
}

// What the level hides is neither written nor missing, and who writes of a flood holds
// up nobody who asks whether he may.
func TestLogFloodHidden(t *testing.T) {
	out := new(lines)
	g := &Gateway{log: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelError}))}
	for range 3 * sampledLines {
		g.sampled("token", "a token was refused")
	}
	if n := g.sampler.leftOut.Load(); n != 0 || out.String() != "" {
		t.Errorf("%d left out: %s", n, out)
	}
	asked := false
	g.log = slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		if bytes.Contains(b, []byte("left out")) {
			if !g.sampler.mu.TryLock() {
				t.Error("it writes with the lock held")
				return len(b), nil
			}
			g.sampler.mu.Unlock()
			asked = true
		}
		return len(b), nil
	}), nil))
	for range 3 * sampledLines {
		g.sampled("token", "a token was refused")
	}
	g.tellSampled(time.Now().Add(sampleWindow))
	if !asked {
		t.Error("nothing was said of the flood")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A client that floods with what is refused can't flood the log, whatever it does.
func TestRefusalsDoNotFloodTheLog(t *testing.T) {
	out := new(lines)
	g := newTestGateway(t, func(c *Config) {
		c.Log = out.logger()
		_, line := made(t, "ops", "admin")
		c.APIKeys = keysOf(t, line)
	})
	const n = 200
	for range n {
		if got := g.adminStatus("wrong", "GET", "/connz", ""); got != "401" {
			t.Fatal(got)
		}
	}
	g.eventually("word of the lines left out", func() bool { return strings.Contains(out.String(), "log lines of one kind were left out") })
	said, left := strings.Count(out.String(), "an API key was refused"), g.Stats().LogLinesLeftOut
	if said+int(left) != n || left == 0 {
		t.Errorf("%d requests: %d lines, %d left out", n, said, left)
	}
}
