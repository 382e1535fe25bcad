package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/internal/market"
	"github.com/odin-ws/odin/internal/swarm"
)

const stressHelp = `
Stress opens many connections to a gateway, subscribes each to the channels and
reads what comes, until --duration has passed or nothing is left open. Each
connection is attempted once. It is connected when its subscriptions are
acknowledged; whatever comes instead is its error, named by what happened:

  http_503, http_NNN   refused with that status
  close_1013, …        upgraded, and closed with that code before it was ready
  ECONNRESET, …        the kernel's error (ECONNREFUSED, EADDRNOTAVAIL, EMFILE, …)
  timeout, eof         no answer for --timeout; hung up without a word
  tls_certificate, tls_handshake
                       of wss: the server's certificate is not believed (--tls-ca,
                       --insecure); the handshake came to nothing
  bad_handshake, bad_frame, err_…, rej_…
                       an answer no WebSocket server, or Odin, may give; a
                       subscription refused with that code
  unfinished, not_attempted
                       the end came first

So connections = connected + the errors' sum. A connection that was connected
and that the server ended later stays connected in that count; why it ended is
in "Ended early" (and, while clients had stopped reading, after
--stall-after or because of a SIGUSR1, in "Ended while stalled"). Output ends with two lines:

  Progress: 2184/10000 connections (21.8% success rate)
  Error breakdown: {"http_503": 7816}

Some of the connections can misbehave: --slow ones read --slow-read bytes a
second into a small receive buffer, --flood ones send pings and commands and
read nothing, --drip ones send one byte a second: every other one its request
head, the rest a frame.

--publish-rate publishes as well, to the channels in turn (to x.0 for x.*),
through the admin port, and shows the delay from there to the clients. --check
keeps a ledger: for every connection, what was published and acknowledged must
be what was delivered, conflated (skip) and announced as a gap, nothing twice,
in order, byte for byte. Without --publish-rate it checks seq and prev, and that
all connections are told the same.

Exit code 0 means that expectations held:
  - every attempt was connected, or refused with 503 or 1013 (of --drip: or
    ended in any other way); with --expect, exactly that many connected; with
    --expect-errors, exactly that breakdown;
  - no client that behaved and read was cut, except with 1012 (going away);
  - everything published was acknowledged; the ledger has no difference.
--allow names more errors and ends that are all right.

More connections than one process may have descriptors for are spread over
several. From loopback each process then has its own address, 127.0.0.1,
127.0.0.2, …; --source gives other ones.`

// stressFlags are what stress can be told.
type stressFlags struct {
	url, mode, expectErrors                  string
	token                                    secretFlag
	connections, slow, flood, drip, slowRead count
	ms, inFlight, processes, publishSize     count
	expect                                   int
	rate, publishRate                        float64
	duration, timeout, stall, resume         span
	settle, pause                            span
	channels, sources, allow                 list
	rcvBuf                                   size
	check, asJSON, noSubscribe               bool
	tls                                      clientTLS
	target                                   targetFlags
}

func newStress() *cobra.Command {
	f := stressFlags{
		connections: 1000, slowRead: 1, inFlight: 512, publishSize: 150,
		duration: span(240 * time.Second), timeout: span(30 * time.Second), settle: span(5 * time.Second),
		channels: list{items: []string{"stress.0"}, check: checkPattern},
		sources:  list{check: checkPrefix},
	}
	cmd := &cobra.Command{
		Use:   "stress",
		Short: "Load a gateway with many connections and check what they get",
		Long:  strings.TrimPrefix(stressHelp, "\n"),
		Example: `  odin stress --connections 10000 --duration 240s
  odin stress --connections 1000 --duration 30s --publish-rate 100 --check
  odin stress --connections 30000 --stall-after 20s --duration 60s --rcvbuf 4KiB
  odin stress --connections 2185 --expect 2184 --expect-errors '{"http_503": 1}'`,
		Args: nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.url, "url", "ws://127.0.0.1:8080/ws", "the gateway")
	f.tls.add(fs)
	fs.Var(&f.connections, "connections", "how many, those below included")
	fs.Var(&f.duration, "duration", "how long in all")
	fs.Var(&f.channels, "channel", "subscribe to this; may be given again")
	fs.Var(&f.slow, "slow", "clients that hardly read")
	fs.Var(&f.flood, "flood", "clients that send without end and read nothing")
	fs.Var(&f.drip, "drip", "clients that send one byte a second")
	fs.BoolVar(&f.check, "check", false, "keep the ledger of what was published and delivered")
	fs.Float64Var(&f.publishRate, "publish-rate", 0, "messages to publish a second")
	fs.Var(&f.publishSize, "publish-size", "bytes of each one's payload")
	fs.IntVar(&f.expect, "expect", -1, "fail unless exactly this many connect; -1: any number")
	fs.StringVar(&f.expectErrors, "expect-errors", "", `fail unless the errors are exactly these, e.g. '{"http_503": 7816}'`)
	fs.Var(&f.allow, "allow", "errors and early ends that don't make it fail, e.g. ECONNRESET,close_4101")
	fs.Float64Var(&f.rate, "rate", 2000, "connections to begin a second; 0: as many as --in-flight lets")
	fs.Var(&f.inFlight, "in-flight", "handshakes under way at once; 0: no bound")
	fs.Var(&f.timeout, "timeout", "how long one attempt may take")
	fs.Var(&f.stall, "stall-after", "all normal clients stop reading after this long, or at SIGUSR1; 0: at SIGUSR1 only")
	fs.Var(&f.resume, "resume-after", "and read again after so much longer; 0: never")
	fs.Var(&f.slowRead, "slow-read", "bytes a second that a slow client reads")
	fs.Var(&f.rcvBuf, "rcvbuf", "SO_RCVBUF of each connection (default: the kernel's; 4KiB for --slow and --flood)")
	fs.Var(&f.sources, "source", "local addresses or ranges to connect from, in turn")
	fs.Var(&f.processes, "processes", "over how many to spread; 0: as descriptors require, at most 15000 connections each")
	fs.Var(&f.settle, "settle", "how long to wait at the end for the last message to arrive everywhere")
	fs.Var(&f.pause, "pause", "let messages pile up this long before reading: cheaper, and delays that much coarser")
	fs.StringVar(&f.mode, "mode", "all", "subscribe with mode all or latest")
	fs.Var(&f.ms, "ms", "milliseconds between messages of a channel in latest mode")
	fs.BoolVar(&f.noSubscribe, "no-subscribe", false, "subscribe to nothing")
	f.token.add(cmd, "token", "token to authenticate with")
	f.target.add(cmd)
	fs.BoolVar(&f.asJSON, "json", false, "print one JSON object instead of lines")
	return cmd
}

// newSwarmChild is a part of stress in a process of its own.
func newSwarmChild() *cobra.Command {
	return &cobra.Command{
		Use:    swarmChild,
		Hidden: true,
		Args:   nArgs(0, 0),
		RunE:   func(cmd *cobra.Command, _ []string) error { return swarm.Child(cmd.InOrStdin(), cmd.OutOrStdout()) },
	}
}

const swarmChild = "swarm-child"

// config checks the flags.
func (f *stressFlags) config() (swarm.Config, error) {
	u, err := siteURL(f.url, "ws")
	if err != nil {
		return swarm.Config{}, err
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/ws"
	}
	switch {
	case f.connections < 1:
		return swarm.Config{}, usagef("--connections: want at least 1")
	case f.slow+f.flood+f.drip > f.connections:
		return swarm.Config{}, usagef("--slow, --flood and --drip are of the --connections: %d of %d", f.slow+f.flood+f.drip, f.connections)
	case f.mode != "all" && f.mode != "latest":
		return swarm.Config{}, usagef("--mode %q: want all or latest", f.mode)
	case f.ms > 0 && f.mode != "latest":
		return swarm.Config{}, usagef("--ms belongs to --mode latest")
	case f.rate < 0 || f.publishRate < 0:
		return swarm.Config{}, usagef("a rate is below 0")
	case f.duration == 0:
		return swarm.Config{}, usagef("--duration: want more than 0")
	case f.expect > int(f.connections):
		return swarm.Config{}, usagef("--expect %d of %d --connections", f.expect, f.connections)
	case f.noSubscribe && (f.check || f.publishRate > 0):
		return swarm.Config{}, usagef("--no-subscribe leaves nothing to publish to or to check")
	}
	self, err := os.Executable()
	if err != nil {
		return swarm.Config{}, err
	}
	c := swarm.Config{
		URL: u.String(), Insecure: f.tls.insecure,
		Connections: int(f.connections), Slow: int(f.slow), Flood: int(f.flood), Drip: int(f.drip),
		SlowRead: int(f.slowRead), RcvBuf: int(f.rcvBuf),
		Channels: f.channels.items, Mode: f.mode, MS: int(f.ms),
		Rate: f.rate, InFlight: int(f.inFlight), Timeout: time.Duration(f.timeout),
		StallAfter: time.Duration(f.stall), ResumeAfter: time.Duration(f.resume),
		Check: f.check, Mark: swarm.NewMark(), Pause: time.Duration(f.pause),
		Processes: int(f.processes), Child: []string{self, swarmChild},
	}
	if f.tls.ca != "" {
		if _, err := f.tls.config(); err != nil { // a file without a certificate
			return c, err
		}
		pem, err := os.ReadFile(f.tls.ca)
		if err != nil {
			return c, usagef("--tls-ca: %w", err)
		}
		c.CA = string(pem)
	}
	if f.noSubscribe {
		c.Channels = nil
	}
	if f.publishRate == 0 {
		c.Mark = ""
	}
	for _, s := range f.sources.items {
		p, err := parsePrefix(s)
		if err != nil {
			return c, usageError{err}
		}
		c.Sources = append(c.Sources, p)
	}
	return c, nil
}

// expected is what --expect-errors says, nil for nothing.
func (f *stressFlags) expected() (swarm.Breakdown, error) {
	if f.expectErrors == "" {
		return nil, nil
	}
	b := swarm.Breakdown{}
	if err := json.Unmarshal([]byte(f.expectErrors), &b); err != nil {
		return nil, usagef(`--expect-errors: want JSON such as {"http_503": 7816}: %w`, err)
	}
	return b, nil
}

func (f *stressFlags) run(cmd *cobra.Command) error {
	cfg, err := f.config()
	if err != nil {
		return err
	}
	if cfg.Token, err = f.token.value(cmd); err != nil {
		return err
	}
	expected, err := f.expected()
	if err != nil {
		return err
	}
	var to target
	if f.publishRate > 0 {
		if to, err = f.target.open(cmd); err != nil {
			return err
		}
		defer to.close()
	}
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1) // from before there is anyone to stall: never a death by it
	defer signal.Stop(usr1)
	began := time.Now()
	s, err := swarm.Start(cfg)
	if err != nil {
		return err
	}
	pub := startPublisher(cmd.Context(), f, cfg.Mark, to, s, cmd.ErrOrStderr())
	show := startProgress(cmd.ErrOrStderr(), stressLine(s, cfg.Connections))
	timer := time.NewTimer(time.Duration(f.duration))
	defer timer.Stop()
	for over := false; !over; {
		select {
		case <-usr1:
			s.Stall()
			continue
		case <-cmd.Context().Done():
		case <-timer.C:
		case <-s.Done():
		}
		over = true
	}
	o := stressOutcome{flags: f, cfg: &cfg, expected: expected, processes: s.Processes()}
	o.published, o.publishErr = pub.stop()
	o.elapsed = time.Since(began)
	end := swarm.End{Last: pub.last, Uncertain: pub.uncertain, Settle: time.Duration(f.settle)}
	if cmd.Context().Err() != nil {
		end.Settle = min(end.Settle, time.Second)
	}
	o.rep, o.swarmErr = s.Finish(end)
	show.end()
	o.judge()
	o.print(cmd.OutOrStdout())
	counts := s.Counts()
	if counts.Total().Errors["ECONNREFUSED"] == cfg.Connections {
		fmt.Fprintf(cmd.ErrOrStderr(), "odin: no gateway answers at %s: connection refused\nIs 'odin serve' running there? --url says where it is.\n", cfg.URL)
	}
	if len(o.unexpected) > 0 {
		return errQuiet
	}
	return nil
}

// stressLine is the live line.
func stressLine(s *swarm.Swarm, n int) func() string {
	var last uint64
	at := time.Now()
	return func() string {
		c, now := s.Counts(), time.Now()
		rate := float64(c.Messages-last) / max(now.Sub(at).Seconds(), 1e-9)
		last, at = c.Messages, now
		t := c.Total()
		return fmt.Sprintf("%s, %d attempted, %d open, %.0f messages/s, errors %s",
			swarm.ProgressLine(t.Connected, n), t.Attempts, t.Open, rate, t.Errors)
	}
}

// stressPublisher publishes while a stress run lasts: a feeder over a target
// that tells the swarm what was acknowledged.
type stressPublisher struct {
	target
	mark  string
	swarm *swarm.Swarm

	feed   *feeder
	cancel context.CancelFunc
	done   sync.WaitGroup
	err    error // of the feed, once done

	// Owned by the feeding goroutine until stop.
	last      map[string]uint64
	uncertain bool
}

// startPublisher feeds to until stop; a nil target publishes nothing.
func startPublisher(ctx context.Context, f *stressFlags, mark string, to target, s *swarm.Swarm, notes io.Writer) *stressPublisher {
	p := &stressPublisher{target: to, mark: mark, swarm: s, last: map[string]uint64{}}
	if to == nil {
		return p
	}
	var channels []string
	for _, ch := range f.channels.items {
		if head, ok := strings.CutSuffix(ch, "*"); ok {
			ch = head + "0"
		}
		channels = append(channels, ch)
	}
	n, began := uint64(0), time.Now()
	p.feed = &feeder{
		to: p, speed: 1, retry: 10 * time.Second,
		note: func(text string) { fmt.Fprintln(notes, "odin:", text) },
		next: func() (market.Event, error) {
			e := market.Event{
				TS:      began.UnixNano() + int64(float64(n)/f.publishRate*1e9),
				Channel: channels[n%uint64(len(channels))],
				Data:    swarm.AppendPayload(nil, mark, n, int(f.publishSize)),
			}
			n++
			return e, nil
		},
	}
	ctx, p.cancel = context.WithCancel(ctx)
	p.done.Go(func() { p.err = p.feed.run(ctx) })
	return p
}

// publish implements target.
func (p *stressPublisher) publish(ctx context.Context, events []market.Event) ([]outcome, error) {
	now := time.Now()
	for _, e := range events {
		swarm.Stamp(e.Data, p.mark, now)
	}
	out, err := p.target.publish(ctx, events)
	if err != nil {
		var whole *batchError
		p.uncertain = p.uncertain || !errors.As(err, &whole) || whole.code == codeUncertain
		return out, err
	}
	entries := make([]swarm.Entry, 0, len(out))
	for i, o := range out {
		switch o.Code {
		case codeUncertain:
			p.uncertain = true
		case "":
			e := &events[i]
			entries = append(entries, swarm.Entry{Epoch: o.Epoch, Channel: e.Channel, Seq: o.Seq, Hash: swarm.Hash(e.Data)})
			p.last[e.Channel] = max(p.last[e.Channel], o.Seq)
		}
	}
	p.swarm.Published(entries)
	return out, nil
}

// stop ends the feed after the batch under way; nil when there was none.
func (p *stressPublisher) stop() (*feedStats, error) {
	if p.feed == nil {
		return nil, nil
	}
	p.cancel()
	p.done.Wait()
	s := p.feed.snapshot()
	return &s, p.err
}

// stressOutcome is a finished run.
type stressOutcome struct {
	flags      *stressFlags
	cfg        *swarm.Config
	expected   swarm.Breakdown
	processes  int
	elapsed    time.Duration
	rep        swarm.Report
	swarmErr   error
	published  *feedStats
	publishErr error

	unexpected []string // why the exit code is 1
}

// judge compares what happened with what was expected.
func (o *stressOutcome) judge() {
	add := func(format string, args ...any) { o.unexpected = append(o.unexpected, fmt.Sprintf(format, args...)) }
	t := o.rep.Total()
	if o.swarmErr != nil {
		add("%v", o.swarmErr)
	}
	if o.flags.expect >= 0 && t.Connected != o.flags.expect {
		add("%d connected, not %d", t.Connected, o.flags.expect)
	}
	allowed := func(b swarm.Breakdown, also ...string) swarm.Breakdown {
		bad := swarm.Breakdown{}
		for why, n := range b {
			if !slices.Contains(also, why) && !slices.Contains(o.flags.allow.items, why) {
				bad[why] = n
			}
		}
		return bad
	}
	if o.expected != nil {
		if !maps.Equal(o.expected, t.Errors) {
			add("the errors are not %s", o.expected)
		}
	} else {
		for role := range swarm.Drip {
			if bad := allowed(o.rep.Roles[role].Errors, "http_503", "close_1013"); len(bad) > 0 {
				add("%s clients failed to connect: %s", role, bad)
			}
		}
	}
	if bad := allowed(o.rep.Roles[swarm.Normal].Ended, "close_1012"); len(bad) > 0 {
		add("clients that read were cut: %s", bad)
	}
	if o.publishErr != nil {
		add("publishing: %v", o.publishErr)
	}
	if s := o.published; s != nil && s.failures() > 0 {
		add("%d messages were not acknowledged: %s", s.failures(), swarm.Breakdown(s.Failed))
	}
	if l := o.rep.Ledger; l != nil {
		if n := l.Faults.Sum(); n > 0 {
			add("the ledger has %d differences: %s", n, l.Faults)
		}
		if l.Checked == 0 && t.Connected > 0 {
			add("the ledger has nothing to check: no message arrived")
		}
	}
}

// stressDelays are a histogram's figures.
type stressDelays struct {
	N    uint64        `json:"n"`
	P50  time.Duration `json:"p50_ns"`
	P90  time.Duration `json:"p90_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p999_ns"`
	Max  time.Duration `json:"max_ns"`
}

func (o *stressOutcome) delays() *stressDelays {
	d := o.rep.Delays()
	if d.N() == 0 {
		return nil
	}
	return &stressDelays{d.N(), d.Quantile(.5), d.Quantile(.9), d.Quantile(.99), d.Quantile(.999), d.Max()}
}

func (o *stressOutcome) print(out io.Writer) {
	if o.flags.asJSON {
		o.printJSON(out)
		return
	}
	t := o.rep.Total()
	for role, r := range o.rep.Roles {
		if r.Attempts > 0 && r.Attempts < t.Attempts {
			fmt.Fprintf(out, "%-10s%d of %d connected, %d still open\n", swarm.Role(role), r.Connected, r.Attempts, r.Open)
		}
	}
	if d := o.rep.Settled; d > 0 {
		fmt.Fprintf(out, "attempts  all answered after %s, %.0f/s\n", d.Round(10*time.Millisecond), float64(o.cfg.Connections)/d.Seconds())
	}
	seconds := max(o.elapsed.Seconds(), 1e-9)
	fmt.Fprintf(out, "received  %d messages, %.0f/s; %d frames, %.1f MB; %d gaps announced\n",
		o.rep.Messages, float64(o.rep.Messages)/seconds, o.rep.Frames, float64(o.rep.Bytes)/1e6, o.rep.Gaps)
	if s := o.published; s != nil {
		fmt.Fprintf(out, "published %d, %d acknowledged, %.0f/s, lag at most %s\n", s.Sent, s.Acked, s.Rate, s.MaxLag.Round(10*time.Microsecond))
	}
	if d := o.delays(); d != nil {
		r := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
		fmt.Fprintf(out, "delay     p50 %s, p90 %s, p99 %s, p99.9 %s, max %s\n", r(d.P50), r(d.P90), r(d.P99), r(d.P999), r(d.Max))
	}
	fmt.Fprintf(out, "clients   %d process(es), %.2f s CPU, %.1f MB resident\n", o.processes, o.rep.CPU, float64(o.rep.RSS)/1e6)
	if l := o.rep.Ledger; l != nil {
		verdict := "no difference"
		if n := l.Faults.Sum(); n > 0 {
			verdict = "DIFFERENCES " + l.Faults.String()
		}
		fmt.Fprintf(out, "ledger    %d published, %d deliveries checked, %d conflated, %d gaps announced, %d not comparable: %s\n",
			l.Published, l.Checked, l.Skipped, l.Gaps, l.Unchecked, verdict)
		for _, e := range l.Examples {
			fmt.Fprintln(out, "          "+e)
		}
	}
	for _, u := range o.unexpected {
		fmt.Fprintln(out, "Unmet: "+u)
	}
	if len(t.Stalled) > 0 {
		fmt.Fprintln(out, "Ended while stalled:", t.Stalled)
	}
	fmt.Fprintln(out, "Ended early:", t.Ended)
	fmt.Fprintln(out, swarm.ProgressLine(t.Connected, o.cfg.Connections))
	fmt.Fprintln(out, "Error breakdown:", t.Errors)
}

func (o *stressOutcome) printJSON(out io.Writer) {
	t := o.rep.Total()
	byRole := map[string]swarm.RoleCounts{}
	for role, r := range o.rep.Roles {
		byRole[swarm.Role(role).String()] = r
	}
	orEmpty := func(b swarm.Breakdown) swarm.Breakdown {
		if b == nil {
			return swarm.Breakdown{}
		}
		return b
	}
	_ = json.NewEncoder(out).Encode(struct {
		OK          bool                        `json:"ok"`
		Unmet       []string                    `json:"unmet"`
		URL         string                      `json:"url"`
		Connections int                         `json:"connections"`
		Connected   int                         `json:"connected"`
		Open        int                         `json:"open"`
		Success     float64                     `json:"success_rate"`
		Errors      swarm.Breakdown             `json:"errors"`
		Ended       swarm.Breakdown             `json:"ended_early"`
		Stalled     swarm.Breakdown             `json:"ended_stalled"`
		Roles       map[string]swarm.RoleCounts `json:"roles"`
		Elapsed     time.Duration               `json:"elapsed_ns"`
		swarm.Counts
		Delay     *stressDelays       `json:"delay,omitempty"`
		Published *feedStats          `json:"published,omitempty"`
		Ledger    *swarm.LedgerReport `json:"ledger,omitempty"`
		Processes int                 `json:"processes"`
	}{
		len(o.unexpected) == 0, append([]string{}, o.unexpected...), o.cfg.URL,
		o.cfg.Connections, t.Connected, t.Open, float64(t.Connected) / float64(o.cfg.Connections),
		orEmpty(t.Errors), orEmpty(t.Ended), orEmpty(t.Stalled), byRole, o.elapsed,
		o.rep.Counts, o.delays(), o.published, o.rep.Ledger, o.processes,
	})
}

var _ target = (*stressPublisher)(nil)
