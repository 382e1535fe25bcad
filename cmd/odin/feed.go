package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/internal/market"
)

func newFeed() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "feed",
		Short: "Play a recording or a synthetic market into a gateway",
		Example: `  odin feed synth --rate 1000
  odin feed replay --speed 10 day.ndjson.gz`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(newFeedReplay(), newFeedSynth())
	return cmd
}

const feedHelp = `
Events that are due go out together, one batch at a time, payloads byte for
byte. While the gateway refuses (503, broker_down) or is not there, the batch is
sent again with back-off for --retry; the schedule runs on, and the summary says
how far the feed fell behind. When the connection breaks in the middle, the
batch is counted as uncertain and not sent twice.

Ctrl-C finishes the batch under way and prints the summary. Exit code 1 means
that an event failed or is uncertain.`

// feedFlags are common to both feeds.
type feedFlags struct {
	target targetFlags
	speed  float64
	limit  count
	retry  span
	asJSON bool
}

func (f *feedFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.Float64Var(&f.speed, "speed", 1, "times the events' own pace; 0: as fast as they are acknowledged")
	fs.Var(&f.limit, "limit", "stop after this many events; 0: no limit")
	f.retry = span(30 * time.Second)
	fs.Var(&f.retry, "retry", "how long a refused batch is tried again before giving up")
	fs.BoolVar(&f.asJSON, "json", false, "print the summary as JSON")
	f.target.add(cmd)
}

// run plays next and prints the summary.
func (f *feedFlags) run(cmd *cobra.Command, next func() (market.Event, error)) error {
	if f.speed < 0 {
		return usagef("--speed %g: want 0 or more", f.speed)
	}
	to, err := f.target.open(cmd)
	if err != nil {
		return err
	}
	defer to.close()
	stderr := cmd.ErrOrStderr()
	fd := &feeder{
		next: next, to: to, speed: f.speed, limit: int(f.limit), retry: time.Duration(f.retry),
		note: func(s string) { fmt.Fprintln(stderr, "odin:", s) },
	}
	last := feedStats{started: time.Now()}
	show := startProgress(stderr, func() string {
		s := fd.snapshot()
		rate := float64(s.Acked-last.Acked) / max((s.Elapsed-last.Elapsed).Seconds(), 1e-9)
		last = s
		return fmt.Sprintf("%d acked, %.0f/s, %d failed, lag %s", s.Acked, rate, s.failures(), s.Lag.Round(time.Millisecond))
	})
	err = fd.run(cmd.Context())
	show.end()

	s := fd.snapshot()
	if f.asJSON {
		_ = json.NewEncoder(cmd.OutOrStdout()).Encode(s)
	} else {
		fmt.Fprintln(cmd.OutOrStdout(), s)
	}
	if err != nil {
		return err
	}
	if s.failures() > 0 {
		return errQuiet
	}
	return nil
}

func newFeedReplay() *cobra.Command {
	var f feedFlags
	var loop bool
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Play a recording",
		Long: `Replay plays a recording, NDJSON or gzipped NDJSON ("-" is standard input):

  {"ts":1723161501051162096,"channel":"trade.BINANCE_USDM.BTCUSDT","data":{…}}

"ts" is Unix nanoseconds; the first event goes out at once, the others as much
later as they were then.
` + feedHelp,
		Example: `  odin feed replay binance-burst-60s.ndjson.gz
  odin feed replay --speed 10 --loop day.ndjson
  odin feed replay --speed 0 --limit 100000 day.ndjson.gz    # a load test`,
		Args: nArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if loop && args[0] == "-" {
				return usagef("--loop needs a file: standard input can't be read twice")
			}
			r := &replay{path: args[0], loop: loop}
			if args[0] == "-" {
				in, err := market.NewReader("standard input", cmd.InOrStdin())
				if err != nil {
					return err
				}
				r.in = in
			} else if err := r.open(); err != nil {
				return usageError{err}
			}
			defer r.close()
			return f.run(cmd, r.next)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&loop, "loop", false, "begin again at the end, for ever")
	return cmd
}

// replay reads a recording once or for ever; its clock goes on at each turn.
type replay struct {
	path string
	loop bool

	in          *market.Reader
	shift       int64 // ns, added to this turn's times
	first, last int64 // ns, of this turn as recorded
	any         bool  // an event came in this turn
}

func (r *replay) open() error {
	in, err := market.Open(r.path)
	r.in = in
	return err
}

func (r *replay) close() { _ = r.in.Close() }

func (r *replay) next() (market.Event, error) {
	for {
		e, err := r.in.Next()
		if err == nil {
			if !r.any {
				r.any, r.first = true, e.TS
			}
			r.last = max(r.last, e.TS)
			e.TS += r.shift
			return e, nil
		}
		if !errors.Is(err, io.EOF) || !r.loop || !r.any {
			return market.Event{}, err
		}
		r.close()
		if err := r.open(); err != nil {
			return market.Event{}, err
		}
		r.shift += r.last - r.first + int64(time.Millisecond)
		r.any, r.last = false, 0
	}
}

func newFeedSynth() *cobra.Command {
	var f feedFlags
	var symbols count = 100
	var seed uint64
	var rate float64
	var duration span
	cmd := &cobra.Command{
		Use:   "synth",
		Short: "Play a synthetic market",
		Long: `Synth plays a made-up market: trade.SYNTH.*, bbo.SYNTH.* and book.SYNTH.* of some
symbols, with bursts, sizes and popularity like those of recorded markets. The
same seed gives the same events.
` + feedHelp,
		Example: `  odin feed synth
  odin feed synth --symbols 500 --rate 20000 --duration 1m
  odin feed synth --speed 0 --limit 1000000                # a load test`,
		Args: nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if symbols == 0 || rate <= 0 {
				return usagef("--symbols and --rate: want more than 0")
			}
			s := market.NewSynth(market.SynthConfig{Symbols: int(symbols), Rate: rate, Seed: seed})
			first := int64(0)
			return f.run(cmd, func() (market.Event, error) {
				e := s.Next()
				if first == 0 {
					first = e.TS
				}
				if duration > 0 && e.TS-first >= int64(duration) {
					return market.Event{}, io.EOF
				}
				return e, nil
			})
		},
	}
	fs := cmd.Flags()
	fs.Var(&symbols, "symbols", "number of symbols, three channels each")
	fs.Float64Var(&rate, "rate", 1000, "events a second, on average")
	fs.Uint64Var(&seed, "seed", 1, "same seed, same events")
	fs.Var(&duration, "duration", "length on the market's clock; 0: endless")
	f.add(cmd)
	return cmd
}
