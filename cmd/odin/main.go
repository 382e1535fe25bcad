// Odin is a gateway that brings market data to many WebSocket clients. This
// command runs it (serve), feeds it (publish, feed), reads it (tail) and looks
// after it (health, config). See odin --help.
//
// One file a command; what several share has a file of its own: settings.go
// (flags, environment, file), feeder.go (playing events at their pace),
// target.go (the two ways to a gateway), chain.go (verifying seq and prev).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	exitOK          = 0
	exitFailure     = 1   // it ran and did not succeed
	exitUsage       = 2   // it was called or configured wrongly: nothing was done
	exitInterrupted = 130 // a second signal, without waiting for the end
)

// usageError is the caller's mistake; it ends in exitUsage.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// hinted is an error with what to do about it, shown on a line of its own.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// errQuiet fails the command without another word: all was said already.
var errQuiet = errors.New("failed")

func main() {
	ctx, stop := untilSignal()
	code := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// sameSignal is how soon after the first a signal still is the first: timeout(1)
// and some supervisors signal the process and then its group, so it comes twice.
const sameSignal = 500 * time.Millisecond

// untilSignal returns a context that the first SIGINT or SIGTERM ends. A
// second one ends the process at once.
func untilSignal() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if _, ok := <-signals; !ok {
			return
		}
		cancel()
		first := time.Now()
		for range signals {
			if time.Since(first) > sameSignal {
				os.Exit(exitInterrupted)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}

// run is the program with everything it touches from outside as a parameter.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(environ)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	addCompletion(root)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errQuiet) {
		fmt.Fprintln(stderr, "odin:", err)
		var more hinted
		if errors.As(err, &more) {
			fmt.Fprintln(stderr, more.hint)
		}
	}
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

func newRoot(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "odin",
		Short: "Market data to many WebSocket clients",
		Long: `Odin is a gateway that brings market data to many WebSocket clients: it keeps
what was published in a durable stream, numbers it, and hands every client each
message once, in order, with every hole explained.

Every flag of every command has an environment name: --max-connections is
ODIN_MAX_CONNECTIONS. The flags of serve are keys of its configuration file as
well (max_connections). A flag beats the environment, that the file, that the
default.

Exit codes of all commands: 0 it succeeded; 1 it ran and did not; 2 it was called or
configured wrongly, and nothing was done; 130 a second signal ended it before its end;
141 who read its output has gone (SIGPIPE). What 1 means to a command its help says.`,
		Example: `  odin serve --demo                            # a gateway with a synthetic market in it
  odin tail 'trade.*'                          # what its clients see
  odin publish trade.BTC-USD '{"price":61650}' # one message`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagsFromEnv(cmd, environ)
		},
	}
	root.Version = readBuildInfo().String()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	root.AddCommand(
		newServe(environ), newPublish(), newFeed(), newTail(), newStress(), newBench(), newSwarmChild(),
		newCapacity(environ), newConfig(environ), newKey(), newHealth(), newVersion(),
	)
	addCompletions(root, environ)
	return root
}

// newHelp is `odin help COMMAND`, the same as --help, but for commands that there are
// none of.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Help about a command",
		Example: "  odin help serve\n  odin help feed replay",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				if found == nil {
					found = cmd.Root()
				}
				return group(found, rest)
			}
			return found.Help()
		},
	}
}

// group is the RunE of a command that only has subcommands.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	hint := fmt.Sprintf("See '%s --help'.", cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("Did you mean %s? %s", strings.Join(near, " or "), hint)
	}
	return usageError{hinted{fmt.Errorf("unknown command %q", args[0]), hint}}
}

// nArgs wants between least and most arguments (most < 0: any number), and
// names what is missing by the command's usage line.
func nArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		var err error
		switch {
		case len(args) < least:
			err = errors.New("too few arguments")
		case most >= 0 && len(args) > most:
			err = fmt.Errorf("too many arguments: %q", args[most:])
		default:
			return nil
		}
		return usageError{hinted{err, "Usage: " + cmd.UseLine()}}
	}
}
