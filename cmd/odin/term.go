package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether w is a terminal, where a line may be rewritten.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// progress shows one line about what goes on: rewritten every 200 ms on a
// terminal, written anew every 5 s elsewhere.
type progress struct {
	out  io.Writer
	live bool
	line func() string
	stop chan struct{}
	done sync.WaitGroup
	wide int // of the line shown last; owned by the goroutine, then by end
}

// startProgress calls line from its own goroutine until end.
func startProgress(out io.Writer, line func() string) *progress {
	p := &progress{out: out, live: isTerminal(out), line: line, stop: make(chan struct{})}
	p.done.Go(p.loop)
	return p
}

func (p *progress) loop() {
	every := 5 * time.Second
	if p.live {
		every = 200 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			p.show(p.line())
		}
	}
}

func (p *progress) show(text string) {
	if !p.live {
		fmt.Fprintln(p.out, text)
		return
	}
	fmt.Fprintf(p.out, "\r%s%s", text, strings.Repeat(" ", max(0, p.wide-len(text))))
	p.wide = len(text)
}

// end stops showing and clears the line.
func (p *progress) end() {
	close(p.stop)
	p.done.Wait()
	if p.live && p.wide > 0 {
		fmt.Fprintf(p.out, "\r%s\r", strings.Repeat(" ", p.wide))
	}
}
