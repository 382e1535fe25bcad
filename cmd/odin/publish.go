package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/internal/market"
)

func newPublish() *cobra.Command {
	var to targetFlags
	var key string
	cmd := &cobra.Command{
		Use:   "publish CHANNEL JSON | publish [CHANNEL] -",
		Short: "Publish messages",
		Long: `Publish stores one message, or with "-" one for each line of standard input, and
prints an ack a line, in order:

  {"epoch":"e7","seq":1044}

A line of input is {"channel":…,"data":…} ("ch" will do, "key" is optional); with
a CHANNEL before "-" it is just the JSON payload. Payloads go out byte for byte.
With --key, a repetition on the same channel within 2 minutes is stored once, and
the ack has the first one's seq.

A refused message prints {"code":…,"message":…} in its place and makes the exit
code 1; the others are published all the same. Nothing is tried again. The code
"uncertain" means that no answer came: the message may be stored or not.`,
		Example: `  odin publish trade.BTC-USD '{"price":"61650.10","size":"0.25"}'
  odin publish --key order-17 orders.done '{"id":17}'
  tail -f events.ndjson | odin publish -
  generate | odin publish --nats-url nats://127.0.0.1:4222 status.eu -`,
		Args: nArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			stdin := args[len(args)-1] == "-"
			switch {
			case len(args) == 1 && !stdin:
				return usagef("no message: give it as JSON after the channel, or - to read events from standard input")
			case stdin && key != "":
				return usagef(`--key is for one message; lines of input carry their own "key"`)
			}
			channel := ""
			if len(args) == 2 {
				channel = args[0]
				if err := market.CheckChannel(channel); err != nil {
					return usageError{err}
				}
			}
			var one market.Event
			if !stdin {
				one = market.Event{Channel: channel, Data: []byte(args[1]), Key: key}
				if err := checkPayload(one.Data); err != nil {
					return usageError{err}
				}
			}
			t, err := to.open(cmd)
			if err != nil {
				return err
			}
			defer t.close()
			if stdin {
				return publishLines(cmd.Context(), t, channel, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return publishOne(cmd.Context(), t, one, cmd.OutOrStdout())
		},
	}
	to.add(cmd)
	cmd.Flags().StringVar(&key, "key", "", "deduplication key of the message")
	return cmd
}

// checkPayload says why data can't be published.
func checkPayload(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("the message is not valid UTF-8")
	}
	if err := json.Unmarshal(data, new(json.RawMessage)); err != nil {
		return hinted{fmt.Errorf("the message is not JSON: %w", err), `A string needs its quotes: '"text"'.`}
	}
	return nil
}

func publishOne(ctx context.Context, t target, e market.Event, out io.Writer) error {
	var o outcome
	var err error
	if a, ok := t.(*adminTarget); ok {
		o, err = a.publishOne(ctx, e)
	} else {
		var all []outcome
		if all, err = t.publish(ctx, []market.Event{e}); err == nil {
			o = all[0]
		}
	}
	if err != nil {
		return err
	}
	if o.Code != "" {
		return fmt.Errorf("%s: %s", o.Code, o.Message)
	}
	return json.NewEncoder(out).Encode(o)
}

// publishLines publishes each line of in as it comes: what has arrived while a
// batch was under way makes the next.
func publishLines(ctx context.Context, t target, channel string, in io.Reader, out, notes io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	events := make(chan market.Event, batchEvents)
	ended := make(chan error, 1)
	go func() {
		defer close(events)
		ended <- readLines(ctx, channel, in, events)
	}()
	var sent, failed atomic.Int64
	if isTerminal(notes) && !isTerminal(out) { // else the acks are seen, or nobody looks
		began := time.Now()
		defer startProgress(notes, func() string {
			n := sent.Load()
			return fmt.Sprintf("%d published, %.0f/s, %d refused", n, float64(n)/time.Since(began).Seconds(), failed.Load())
		}).end()
	}
	enc := json.NewEncoder(out)
	for {
		batch := collect(ctx, events)
		if len(batch) == 0 {
			break
		}
		results, err := t.publish(context.WithoutCancel(ctx), batch)
		if err != nil {
			return err
		}
		sent.Add(int64(len(results)))
		for _, o := range results {
			if o.Code != "" {
				failed.Add(1)
			}
			if err := enc.Encode(o); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err := <-ended; err != nil {
		return err
	}
	if n := failed.Load(); n > 0 {
		return fmt.Errorf("%d of %d messages were refused", n, sent.Load())
	}
	return nil
}

// collect waits for an event and takes those that are there with it. None mean
// the end of input or of ctx.
func collect(ctx context.Context, events <-chan market.Event) []market.Event {
	var batch []market.Event
	size := 0
	select {
	case <-ctx.Done():
		return nil
	case e, ok := <-events:
		if !ok {
			return nil
		}
		batch, size = append(batch, e), len(e.Data)
	}
	for len(batch) < batchEvents && size < batchBytes {
		select {
		case e, ok := <-events:
			if !ok {
				return batch
			}
			batch, size = append(batch, e), size+len(e.Data)
		default:
			return batch
		}
	}
	return batch
}

// readLines sends each line as an event. A bad line ends it: those before are
// published, none after.
func readLines(ctx context.Context, channel string, in io.Reader, events chan<- market.Event) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), market.MaxLine)
	for n := 1; lines.Scan(); n++ {
		b := bytes.TrimSpace(lines.Bytes())
		if len(b) == 0 {
			continue
		}
		var e market.Event
		var err error
		if channel != "" {
			e = market.Event{Channel: channel, Data: bytes.Clone(b)}
			err = checkPayload(b)
		} else {
			e, err = market.ParseEvent(b)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		select {
		case events <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	return nil
}
