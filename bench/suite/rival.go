package suite

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// Rival is a server from outside, measured like those of bench/peers.
type Rival struct {
	Name string

	// Command starts it: a shell's command line with {addr} (host:port), {port},
	// {control}, {control_port} and {size} filled in. It must not leave the
	// foreground, must serve the wire of bench/peers/peer, and ends on SIGTERM.
	// What is measured is the process and its children.
	Command string

	// URL, PID and Control are of one that runs already: Command is "" then. It is
	// not restarted between trials, so that its memory is judged by growth alone.
	// Without Control (the base of POST /broadcast) it only holds connections and
	// echoes.
	URL, Control string
	PID          int
}

// ParseRival reads NAME=COMMAND, or NAME=ws://HOST:PORT/PATH,pid=N[,control=URL].
func ParseRival(text string) (Rival, error) {
	name, rest, ok := strings.Cut(text, "=")
	if !ok || name == "" || rest == "" || strings.ContainsAny(name, " ,/") {
		return Rival{}, fmt.Errorf("%q: want NAME=COMMAND, or NAME=ws://HOST:PORT/PATH,pid=N", text)
	}
	r := Rival{Name: name}
	if !strings.HasPrefix(rest, "ws://") {
		r.Command = rest
		return r, nil
	}
	parts := strings.Split(rest, ",")
	r.URL = parts[0]
	for _, p := range parts[1:] {
		key, value, _ := strings.Cut(p, "=")
		switch key {
		case "pid":
			pid, err := strconv.Atoi(value)
			if err != nil || pid < 1 {
				return Rival{}, fmt.Errorf("%q: %q is no process", text, value)
			}
			r.PID = pid
		case "control":
			if u, err := url.Parse(value); err != nil || u.Scheme != "http" || u.Host == "" {
				return Rival{}, fmt.Errorf("%q: control wants http://HOST:PORT", text)
			}
			r.Control = strings.TrimSuffix(value, "/")
		default:
			return Rival{}, fmt.Errorf("%q: %q is not pid or control", text, key)
		}
	}
	if r.PID == 0 {
		return Rival{}, fmt.Errorf("%q: without pid=N there is nothing to measure", text)
	}
	return r, nil
}

func (r Rival) contender() contender {
	return contender{name: r.Name, wire: peerWire, start: r.start}
}

func (r Rival) start(ctx context.Context, n need) (*server, error) {
	if r.Command == "" {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", r.PID)); err != nil {
			return nil, fmt.Errorf("%s: process %d: %w", r.Name, r.PID, err)
		}
		s := peerServer(r.URL, r.Control)
		s.proc = process{r.PID}
		return s, nil
	}
	addr, control := freePort(), freePort()
	_, port, _ := net.SplitHostPort(addr)
	_, controlPort, _ := net.SplitHostPort(control)
	line := strings.NewReplacer("{addr}", addr, "{port}", port, "{control}", control, "{control_port}", controlPort, "{size}", strconv.Itoa(n.size)).Replace(r.Command)
	s := peerServer("ws://"+addr+"/ws", "http://"+control)
	return s, s.start(ctx, "/bin/sh", "-c", "exec "+line)
}
