package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// everyCommand calls f for all that a user sees.
func everyCommand(f func(*cobra.Command)) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "completion" { // cobra's own
			return
		}
		f(c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(nil))
}

// offline are the examples that need no gateway and end by themselves. They are run.
var offline = regexp.MustCompile(`^odin (version|key new|capacity|config|help)\b`)

// Every command says what it does and how it is called, every flag what it is for, and
// every example is one.
func TestEveryCommandIsDocumented(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "odin.yaml")
	if r := odin(t, nil, "", "config", "print", "--defaults"); os.WriteFile(file, []byte(r.out), 0o600) != nil {
		t.Fatal("no file")
	}
	var ran int
	everyCommand(func(c *cobra.Command) {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Example == "" || !c.HasSubCommands() && c.Name() != "help" && c.Long == "" {
			t.Errorf("%s: Short %q, %d bytes of Long, %d of Example", path, c.Short, len(c.Long), len(c.Example))
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s says nothing", path, f.Name)
			}
		})
		for line := range strings.Lines(c.Example) {
			args, environ := exampleArgs(t, line)
			if args == nil {
				t.Errorf("%s: no odin in the example %q", path, line)
				continue
			}
			root := newRoot(nil)
			found, rest, err := root.Find(args)
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = found.ValidateArgs(found.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: the example %q: %v", path, line, err)
				continue
			}
			if text := "odin " + strings.Join(args, " "); offline.MatchString(text) && !strings.Contains(text, "--measure") {
				ran++
				for i, a := range args {
					switch {
					case strings.HasSuffix(a, ".yaml"):
						args[i] = file
					case strings.HasSuffix(a, ".key"), strings.HasPrefix(a, "/etc/odin/"): // not here, and not this machine's
						args[i] = filepath.Join(t.TempDir(), filepath.Base(a))
					}
				}
				if r := odin(t, environ, "", args...); r.code != 0 {
					t.Errorf("%s: the example %q: %+v", path, line, r)
				}
			}
		}
	})
	if ran < 15 {
		t.Errorf("only %d examples were run", ran)
	}
}

// exampleArgs are what a line of an example calls odin with: what comes before it, a
// redirection, the next command and the comment are the shell's.
func exampleArgs(t *testing.T, line string) (args, environ []string) {
	t.Helper()
	words := shellWords(t, line)
	at := slices.Index(words, "odin")
	if at < 0 {
		return nil, nil
	}
	for _, w := range words[:at] {
		if strings.HasPrefix(w, "ODIN_") {
			environ = append(environ, w)
		}
	}
	args = []string{}
	for _, w := range words[at+1:] {
		if w == "|" || w == "&&" || strings.HasPrefix(w, ">") {
			break
		}
		args = append(args, w)
	}
	return args, environ
}

// shellWords splits a line at spaces outside of single quotes.
func shellWords(t *testing.T, line string) (words []string) {
	t.Helper()
	word, quoted, any := "", false, false
	for _, r := range line {
		switch {
		case r == '#' && !quoted && !any:
			return words // a comment
		case r == '\'':
			quoted, any = !quoted, true
		case !quoted && (r == ' ' || r == '\n'):
			if any {
				words = append(words, word)
			}
			word, any = "", false
		default:
			word, any = word+string(r), true
		}
	}
	if quoted {
		t.Fatalf("a quote is open in %q", line)
	}
	if any {
		words = append(words, word)
	}
	return words
}

// What can't be reached is said in a sentence, with what to do next.
func TestUnreachable(t *testing.T) {
	gone := freeAddr(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mute.Close() }()
	for _, c := range []struct{ args, want string }{
		{"health --url http://" + gone, "odin: no gateway answers at http://" + gone + "/healthz: connection refused\nIs 'odin serve' running there? --url says where it is.\n"},
		{"tail --url ws://" + gone + " a", "odin: no gateway answers at ws://" + gone + "/ws: connection refused\nIs 'odin serve' running there? --url says where it is.\n"},
		{"publish --admin-addr " + gone + " a 1", "odin: no gateway answers at http://" + gone + ": connect: connection refused\nStart one with 'odin serve'"},
		{"feed synth --limit 1 --retry 0s --admin-addr " + gone, "no gateway answers at http://" + gone},
		{"stress --connections 2 --duration 1s --url ws://" + gone, "odin: no gateway answers at ws://" + gone + "/ws: connection refused\n"},
		{"health --timeout 50ms --url http://" + mute.Addr().String(), "no answer from http://" + mute.Addr().String() + "/healthz in time\n"},
		{"health --url http://nowhere.invalid", "--url says where it is.\n"},
	} {
		if r := odin(t, nil, "", strings.Fields(c.args)...); r.code != exitFailure || !strings.Contains(r.err, c.want) {
			t.Errorf("odin %s: %+v, want %q", c.args, r, c.want)
		}
	}
}

// What is typed wrongly is answered with what was meant.
func TestSuggestions(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"serve --max-conections 5", "unknown flag: --max-conections\nDid you mean --max-connections? See 'odin serve --help'.\n"},
		{"tail --dura 5s a", "Did you mean --duration?"},
		{"serv", "Did you mean serve?"},
		{"help serv", "Did you mean serve?"},
		{"help feed repla", "Did you mean replay?"},
		{"config chek x", "Did you mean check?"},
		{"completion tcsh", "unknown command \"tcsh\""},
		{"bench --scenario idel", `no scenario "idel"; there are idle, `},
		{"feed replay /nonexistent", "no such file"},
		{"key new x", "--channels: where may it publish?"},
	} {
		if r := odin(t, nil, "", strings.Fields(c.args)...); r.code != exitUsage || !strings.Contains(r.err, c.want) {
			t.Errorf("odin %s: %+v, want %q", c.args, r, c.want)
		}
	}
	if r := odin(t, nil, "", "--version"); r.code != 0 || !strings.HasPrefix(r.out, "odin ") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("--version: %+v", r)
	}
	if r := odin(t, nil, "", "version"); !strings.Contains(r.out, "github.com/nats-io/nats-server/v2 v2.") && len(readBuildInfo().Modules) > 0 {
		t.Errorf("version: %+v", r)
	}
}

// The shell is told words, files and the channels there are.
func TestCompletion(t *testing.T) {
	g := startServe(t)
	for _, ch := range []string{"trade.BTC", "trade.ETH", "book.BTC"} {
		if r := odin(t, nil, "", "publish", "--admin-addr", g.admin, ch, "1"); r.code != 0 {
			t.Fatalf("%+v", r)
		}
	}
	environ := []string{"ODIN_ADMIN_ADDR=" + g.admin}
	for _, c := range []struct{ args, want string }{
		{"serve --log-level :", "debug\ninfo\nwarn\nerror\n:4\n"},
		{"serve --capacity-profile :", "event-loop\ngoroutine\n:4\n"},
		{"serve --config :", "yaml\nyml\n:8\n"},
		{"capacity --profile :", "event-loop\ngoroutine\n:4\n"},
		{"tail --mode :", "all\nlatest\n:4\n"},
		{"key new --role :", "publish\nmetrics\nadmin\n:4\n"},
		{"bench --server :", "odin\nraw loop\n"},
		{"bench --scenario :", "idle\tconnections that do nothing"},
		{"config check :", "yaml\nyml\n:8\n"},
		{"feed replay :", "ndjson\ngz\n:8\n"},
		{"tail trade.", "trade.BTC\ntrade.ETH\n:4\n"},
		{"publish :", "book.BTC\ntrade.BTC\ntrade.ETH\n:4\n"},
		{"stress --channel book", "book.BTC\n:4\n"},
		{"ser", "serve\tRun the gateway\n"},
	} {
		args := strings.Fields(c.args)
		if last := len(args) - 1; args[last] == ":" {
			args[last] = ""
		}
		if r := odin(t, environ, "", append([]string{"__complete"}, args...)...); r.code != 0 || !strings.HasPrefix(r.out, c.want) {
			t.Errorf("%s: %q, want %q", c.args, r.out, c.want)
		}
	}
	for shell, command := range map[string][]string{"bash": {"bash", "-n"}, "zsh": {"zsh", "-n"}, "fish": {"fish", "--no-execute"}} {
		r := odin(t, nil, "", "completion", shell)
		if r.code != 0 || len(r.out) < 1000 {
			t.Errorf("%s: %+v", shell, r)
		}
		if _, err := exec.LookPath(command[0]); err != nil {
			continue // the script is cobra's; its syntax is looked at where the shell is
		}
		if out, err := exec.Command(command[0], append(command[1:], writeFile(t, "script", r.out))...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
}

// The test binary is the program where a test starts it as one: signals and pipes need a
// process.
func init() {
	if os.Getenv("ODIN_TEST_MAIN") != "" {
		main()
	}
}

func process(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	ours := func(kv string) bool { return strings.HasPrefix(kv, "ODIN_") } // it would refuse what it does not know
	cmd.Env = append(slices.DeleteFunc(os.Environ(), ours), "ODIN_TEST_MAIN=1")
	return cmd
}

// Each exit code of the table, by a process.
func TestExitCodes(t *testing.T) {
	g := startServe(t, "--demo")
	url := "ws://" + g.addr + "/ws"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, c := range []struct {
		code int
		args []string
	}{
		{0, []string{"version"}},
		{0, []string{"health", "--url", "http://" + g.addr}},
		{0, []string{"tail", "-q", "--url", url, "--count", "3", "trade.*"}},
		{1, []string{"health", "--url", "http://" + freeAddr(t)}},
		{2, []string{"tail"}},
		{2, []string{"config", "check", "/nonexistent"}},
	} {
		err := process(ctx, c.args...).Run()
		var exit *exec.ExitError
		if code := 0; err != nil && !asExit(err, &exit) {
			t.Errorf("%q: %v", c.args, err)
		} else if exit != nil {
			if code = exit.ExitCode(); code != c.code {
				t.Errorf("%q: %d, want %d", c.args, code, c.code)
			}
		} else if c.code != 0 {
			t.Errorf("%q: 0, want %d", c.args, c.code)
		}
	}

	// Ctrl-C is an end that was asked for.
	tail := process(ctx, "tail", "--json", "--url", url, "trade.*")
	out, err := tail.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64<<10)
	if _, err := out.Read(b); err != nil {
		t.Fatal(err)
	}
	_ = tail.Process.Signal(syscall.SIGINT)
	last := ""
	for {
		n, err := out.Read(b)
		last = (last + string(b[:n]))[max(0, len(last)+n-200):]
		if err != nil {
			break
		}
	}
	if err := tail.Wait(); err != nil || !regexp.MustCompile(`\{"t":"summary","messages":\d+,"channels":\d+,"faults":0,"gaps":\d+\}\n$`).MatchString(last) {
		t.Errorf("tail after Ctrl-C: %v, ends with %q", err, last)
	}

	// Who reads has gone: it ends without a word.
	head := process(ctx, "tail", "--url", url, "trade.*")
	pipe, err := head.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said lockedBuffer
	head.Stderr = &said
	if err := head.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Read(b); err != nil {
		t.Fatal(err)
	}
	_ = pipe.Close()
	_ = head.Wait()
	if status, ok := head.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGPIPE || said.String() != "" {
		t.Errorf("tail | head: %v, %q", head.ProcessState, said.String())
	}
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // what Run returns
	*exit = e
	return ok
}
