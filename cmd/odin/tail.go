package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/internal/market"
)

// tailReadLimit is the largest frame tail takes; a gateway's message is its
// --max-publish and an envelope, an ack of many channels some KiB.
const tailReadLimit = 64 << 20

// tailSubBatch is how many channels go into one sub command.
const tailSubBatch = 200

// tailFlags are what tail can be told.
type tailFlags struct {
	url, since, mode            string
	token                       secretFlag
	ms, count                   count
	duration                    span
	check, snap, pretty, silent bool
	summary                     bool
	tls                         clientTLS
}

func newTail() *cobra.Command {
	var f tailFlags
	cmd := &cobra.Command{
		Use:   "tail CHANNEL…",
		Short: "Subscribe and print what comes",
		Long: `Tail subscribes to channels ("trade.*" takes all that begin "trade.") and prints
each frame about them (msg, gap, stale, live) as it came, one a line. It does not
reconnect: when the server closes, it says why and the exit code is 1.

With --check it verifies every channel's chain: the next message's prev must be
the last one's seq; a jump must be explained by a gap frame, or by "skip" in
latest mode. Faults go to standard error and make the exit code 1; explained
gaps do not.

Frames are JSON as they are. --json ends them with a line about them all,
{"t":"summary","messages":…,"channels":…,"faults":…,"gaps":…}, faults being those
that --check found.

Ctrl-C, --count and --duration are ends that were asked for: exit code 0.`,
		Example: `  odin tail 'trade.*'
  odin tail --check --quiet --duration 1m 'trade.*' 'book.*'
  odin tail --since e7:1041 trade.BTC-USD
  odin tail --mode latest --ms 250 --pretty 'quote.*'`,
		Args: nArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := newTailer(f, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if t.token, err = f.token.value(cmd); err != nil {
				return err
			}
			return t.run(cmd.Context())
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.url, "url", "ws://127.0.0.1:8080/ws", "the gateway")
	f.tls.add(fs)
	fs.BoolVar(&f.check, "check", false, "verify every seq and prev")
	fs.StringVar(&f.since, "since", "", "resume every channel after this position, EPOCH:SEQ")
	fs.StringVar(&f.mode, "mode", "all", "all, or latest: only the newest message of each --ms")
	fs.Var(&f.ms, "ms", "milliseconds between messages of a channel in latest mode")
	fs.BoolVar(&f.snap, "snap", false, "begin with the last message of each channel")
	f.token.add(cmd, "token", "token to authenticate with")
	fs.Var(&f.count, "count", "end after this many messages; 0: no limit")
	fs.Var(&f.duration, "duration", "end after this long; 0: no limit")
	fs.BoolVar(&f.pretty, "pretty", false, "print time, channel, seq and payload instead of the frame")
	fs.BoolVar(&f.summary, "json", false, "end with a summary as JSON")
	fs.BoolVarP(&f.silent, "quiet", "q", false, "print no frames")
	return cmd
}

// frame is any of the server's. Ch is a name, except in an ack.
type frame struct {
	T       string            `json:"t"`
	ID      int               `json:"id"`
	Ch      json.RawMessage   `json:"ch"`
	Seq     uint64            `json:"seq"`
	Prev    uint64            `json:"prev"`
	Skip    uint64            `json:"skip"`
	TS      int64             `json:"ts"`
	D       json.RawMessage   `json:"d"`
	After   uint64            `json:"after"`
	Before  uint64            `json:"before"`
	Why     string            `json:"why"`
	Code    json.RawMessage   `json:"code"` // a word in err, a number in bye
	Message string            `json:"message"`
	RetryMS int64             `json:"retry_ms"`
	Rej     map[string]string `json:"rej"`
}

// ackEntry is one channel of an ack.
type ackEntry struct {
	Epoch     string `json:"epoch"`
	Seq       uint64 `json:"seq"`
	Recovered bool   `json:"recovered"`
}

// tailer is one run of tail.
type tailer struct {
	// Static after construction.
	flags  tailFlags
	subs   [][]byte // sub commands, ids from 1
	url    *url.URL
	token  string // "" for none
	epoch  string // of --since, "" without
	seq    uint64
	live   bool // stdout is a terminal: every line at once
	stderr io.Writer

	// Owned by the reading goroutine.
	chains *chains
	acks   int                 // sub commands answered
	seen   map[string]struct{} // channels of messages, for the summary; nil without one

	messages atomic.Int64

	outMu sync.Mutex
	out   *bufio.Writer // guarded by outMu
}

func newTailer(f tailFlags, channels []string, stdout, stderr io.Writer) (*tailer, error) {
	t := &tailer{
		flags: f, stderr: stderr, live: isTerminal(stdout),
		out: bufio.NewWriterSize(stdout, 64<<10), chains: newChains(),
	}
	if f.summary {
		t.seen = map[string]struct{}{}
	}
	var err error
	if t.url, err = siteURL(f.url, "ws"); err != nil {
		return nil, err
	}
	if t.url.Path == "" || t.url.Path == "/" {
		t.url.Path = "/ws"
	}
	for _, ch := range channels {
		if err := checkPattern(ch); err != nil {
			return nil, usageError{err}
		}
	}
	switch {
	case f.mode != "all" && f.mode != "latest":
		return nil, usagef("--mode %q: want all or latest", f.mode)
	case f.ms > 0 && f.mode != "latest":
		return nil, usagef("--ms belongs to --mode latest")
	case f.summary && f.pretty:
		return nil, usagef("--json and --pretty are two ways to print: give one")
	case f.snap && f.since != "":
		return nil, usagef("--snap and --since are two ways to begin: give one")
	}
	if f.since != "" {
		epoch, seq, ok := strings.Cut(f.since, ":")
		t.seq, err = strconv.ParseUint(seq, 10, 64)
		if !ok || epoch == "" || err != nil {
			return nil, usagef("--since %q: want EPOCH:SEQ, as in an ack or a msg", f.since)
		}
		t.epoch = epoch
	}
	for part := range slices.Chunk(channels, tailSubBatch) {
		t.subs = append(t.subs, t.subscription(len(t.subs)+1, part))
	}
	return t, nil
}

// checkPattern accepts a channel, or a prefix that ends in ".*".
func checkPattern(s string) error {
	if s == "*" {
		return nil // for the server to judge
	}
	return market.CheckChannel(strings.TrimSuffix(s, ".*"))
}

func (t *tailer) subscription(id int, channels []string) []byte {
	type position struct {
		Epoch string `json:"epoch"`
		Seq   uint64 `json:"seq"`
	}
	sub := struct {
		Op    string              `json:"op"`
		ID    int                 `json:"id"`
		Ch    []string            `json:"ch"`
		Since map[string]position `json:"since,omitempty"`
		Mode  string              `json:"mode,omitempty"`
		MS    int                 `json:"ms,omitempty"`
		Snap  bool                `json:"snap,omitempty"`
	}{Op: "sub", ID: id, Ch: channels, MS: int(t.flags.ms), Snap: t.flags.snap}
	if t.flags.mode != "all" {
		sub.Mode = t.flags.mode
	}
	if t.epoch != "" {
		sub.Since = map[string]position{}
		for _, ch := range channels {
			sub.Since[ch] = position{t.epoch, t.seq}
		}
	}
	b, _ := json.Marshal(sub) // strings and numbers can't fail
	return b
}

// errEnough ends a tail that has seen --count messages.
var errEnough = errors.New("enough")

func (t *tailer) run(ctx context.Context) error {
	if t.flags.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t.flags.duration))
		defer cancel()
	}
	err := t.follow(ctx)
	t.summarize()
	_ = t.flush()
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		err = nil // that was the end asked for
	}
	if t.flags.check {
		c := t.chains
		fmt.Fprintf(t.stderr, "checked %d messages on %d channels: %d faults, %d announced gaps\n",
			c.messages, len(c.byChannel), c.faults, c.gaps)
		if err == nil && c.faults > 0 {
			return errQuiet
		}
	}
	return err
}

// summarize writes the last line of --json.
func (t *tailer) summarize() {
	if !t.flags.summary {
		return
	}
	c := t.chains
	t.outMu.Lock()
	defer t.outMu.Unlock()
	_ = json.NewEncoder(t.out).Encode(struct {
		T        string `json:"t"`
		Messages int64  `json:"messages"`
		Channels int    `json:"channels"`
		Faults   int    `json:"faults"`
		Gaps     int    `json:"gaps"`
	}{"summary", t.messages.Load(), len(t.seen), c.faults, c.gaps})
}

// follow connects, subscribes and reads until something ends it.
func (t *tailer) follow(ctx context.Context) error {
	conn, err := t.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	for _, sub := range t.subs {
		if err := conn.Write(ctx, websocket.MessageText, sub); err != nil {
			return fmt.Errorf("subscribing: %w", err)
		}
	}

	stop := t.startFlushing()
	defer stop()
	if isTerminal(t.stderr) && (t.flags.silent || !t.live) {
		defer t.startRate().end()
	}
	var bye string
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return t.closed(err, bye)
		}
		if err := t.frame(b, &bye); err != nil {
			if errors.Is(err, errEnough) {
				_ = conn.Close(websocket.StatusNormalClosure, "")
			}
			return err
		}
	}
}

func (t *tailer) dial(ctx context.Context) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cfg, err := t.flags.tls.config()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: cfg, Proxy: http.ProxyFromEnvironment}
	defer transport.CloseIdleConnections()
	opts := &websocket.DialOptions{
		Subprotocols: []string{"odin.v1.json"}, HTTPHeader: http.Header{}, HTTPClient: &http.Client{Transport: transport},
	}
	if t.token != "" {
		opts.HTTPHeader.Set("Authorization", "Bearer "+t.token)
	}
	conn, res, err := websocket.Dial(ctx, t.url.String(), opts) //nolint:bodyclose // its documentation: never needed
	switch {
	case err == nil:
		conn.SetReadLimit(tailReadLimit)
		return conn, nil
	case res != nil && res.StatusCode != http.StatusSwitchingProtocols:
		b, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return nil, fmt.Errorf("%s refused the connection with %s: %s", t.url, res.Status, strings.TrimSpace(string(b)))
	}
	return nil, unreachable(t.url.String(), err, "--url")
}

// closed puts the end of the connection into words.
func (t *tailer) closed(err error, bye string) error {
	var end websocket.CloseError
	if !errors.As(err, &end) {
		return fmt.Errorf("the connection broke: %w%s", err, bye)
	}
	what := map[websocket.StatusCode]string{
		1000: "closed", 1001: "going away", 1002: "framing error", 1007: "bad UTF-8", 1008: "abuse after warnings",
		1009: "message too big", 1012: "the server drains", 1013: "at capacity", 4001: "bad or expired token",
		4003: "forbidden", 4101: "this client was too slow", 4102: "rate limit", 4201: "no pong",
	}[end.Code]
	return fmt.Errorf("the server closed the connection: %d %s %s%s", int(end.Code), what, end.Reason, bye)
}

// frame handles one of the server's frames.
func (t *tailer) frame(b []byte, bye *string) error {
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("the server sent what is no JSON object: %w: %.100s", err, b)
	}
	switch f.T {
	case "msg":
		return t.message(&f, b)
	case "gap":
		t.chains.gap(f.channel(), f.After, f.Before, f.Why)
		t.print(&f, b)
	case "stale", "live":
		t.print(&f, b)
	case "ack":
		return t.ack(&f)
	case "err":
		return t.refused(&f)
	case "bye":
		*bye = fmt.Sprintf("; it asks to come back in %d ms", f.RetryMS)
	}
	return nil
}

func (f *frame) channel() string {
	var s string
	_ = json.Unmarshal(f.Ch, &s) // "" is no channel
	return s
}

func (t *tailer) message(f *frame, b []byte) error {
	n := t.messages.Add(1)
	t.print(f, b)
	if t.seen != nil {
		t.seen[f.channel()] = struct{}{}
	}
	if t.flags.check {
		if err := t.chains.message(f.channel(), f.Seq, f.Prev, f.Skip); err != nil {
			fmt.Fprintln(t.stderr, "odin: fault:", err)
		}
	}
	if t.flags.count > 0 && n >= int64(t.flags.count) {
		return errEnough
	}
	return nil
}

func (t *tailer) ack(f *frame) error {
	if len(f.Rej) > 0 {
		var parts []string
		for _, ch := range slices.Sorted(maps.Keys(f.Rej)) {
			parts = append(parts, ch+": "+f.Rej[ch])
		}
		return fmt.Errorf("the server refused %s", strings.Join(parts, ", "))
	}
	var entries map[string]ackEntry
	if f.ID < 1 || f.ID > len(t.subs) || json.Unmarshal(f.Ch, &entries) != nil {
		return nil
	}
	t.acks++
	for ch, e := range entries {
		if t.epoch == "" || e.Epoch != t.epoch {
			continue
		}
		// Recovered or not: what is missing after the position must be said.
		t.chains.resumed(ch, t.seq)
		if !e.Recovered {
			fmt.Fprintf(t.stderr, "odin: %s could not be resumed whole from %s:%d\n", ch, t.epoch, t.seq)
		}
	}
	return nil
}

// refused handles an err frame: fatal where it answers a subscription.
func (t *tailer) refused(f *frame) error {
	err := fmt.Errorf("the server says %s %s", strings.Trim(string(f.Code), `"`), f.Message)
	if f.ID >= 1 && f.ID <= len(t.subs) {
		return err
	}
	fmt.Fprintln(t.stderr, "odin:", err)
	return nil
}

func (t *tailer) print(f *frame, b []byte) {
	if t.flags.silent {
		return
	}
	t.outMu.Lock()
	defer t.outMu.Unlock()
	if t.flags.pretty {
		_, _ = t.out.WriteString(pretty(f))
	} else {
		_, _ = t.out.Write(b)
	}
	_ = t.out.WriteByte('\n')
	if t.live {
		_ = t.out.Flush()
	}
}

func pretty(f *frame) string {
	switch f.T {
	case "gap":
		return fmt.Sprintf("%-12s %s gap after %d before %d: %s", "", f.channel(), f.After, f.Before, f.Why)
	case "msg":
		at := time.UnixMilli(f.TS).Format("15:04:05.000")
		skip := ""
		if f.Skip > 0 {
			skip = fmt.Sprintf(" (%d skipped)", f.Skip)
		}
		return fmt.Sprintf("%s %s %d%s %s", at, f.channel(), f.Seq, skip, f.D)
	}
	return fmt.Sprintf("%-12s %s %s", "", f.channel(), f.T)
}

// startFlushing writes buffered lines out every 50 ms until stop.
func (t *tailer) startFlushing() (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				_ = t.flush()
			}
		}
	})
	return func() {
		close(ended)
		wg.Wait()
	}
}

func (t *tailer) flush() error {
	t.outMu.Lock()
	defer t.outMu.Unlock()
	return t.out.Flush()
}

func (t *tailer) startRate() *progress {
	began, last, at := time.Now(), int64(0), time.Now()
	return startProgress(t.stderr, func() string {
		n, now := t.messages.Load(), time.Now()
		rate := float64(n-last) / max(now.Sub(at).Seconds(), 1e-9)
		last, at = n, now
		return fmt.Sprintf("%d messages in %s, %.0f/s", n, now.Sub(began).Round(time.Second), rate)
	})
}
