package main

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/odin-ws/odin/bench/suite"
	"github.com/odin-ws/odin/gateway/auth"
)

// completionWait is how long the shell may wait for a gateway's channels: who presses
// the key notices no less.
const completionWait = 500 * time.Millisecond

// valuesOf are the words that flags of these names take, beside those whose values say
// so themselves.
var valuesOf = map[string][]string{
	"mode":     {"all", "latest"},
	"role":     {string(auth.RolePublish), string(auth.RoleMetrics), string(auth.RoleAdmin)},
	"server":   suite.Servers(),
	"scenario": scenarioNames(),
}

// scenarioNames are those of bench, with what they measure.
func scenarioNames() (all []string) {
	for _, s := range suite.Scenarios() {
		all = append(all, cobra.CompletionWithDesc(s[0], s[1]))
	}
	return all
}

// filesOf are the endings of the files that flags of these names take.
var filesOf = map[string][]string{
	"config":   {"yaml", "yml"},
	"tls-cert": {"pem", "crt"}, "tls-key": {"pem", "key"}, "tls-ca": {"pem", "crt"},
	"nats-config": {"conf"}, "recording": {"ndjson", "gz"},
}

// addCompletions teaches the shell the values of flags and the channels there are.
func addCompletions(root *cobra.Command, environ []string) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			words := valuesOf[f.Name]
			if c, ok := f.Value.(*choice); ok {
				words = c.of
			}
			var err error
			switch {
			case words != nil:
				err = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
			case filesOf[f.Name] != nil:
				err = cmd.MarkFlagFilename(f.Name, filesOf[f.Name]...)
			case f.Name == "data-dir":
				err = cmd.MarkFlagDirname(f.Name)
			case f.Name == "channel":
				err = cmd.RegisterFlagCompletionFunc(f.Name, channelsOf(environ))
			case !strings.HasSuffix(f.Name, "-file") && !slices.Contains([]string{"jwks", "revoked", "out", "help"}, f.Name):
				err = cmd.RegisterFlagCompletionFunc(f.Name, cobra.NoFileCompletions)
			}
			if err != nil {
				panic(cmd.CommandPath() + " --" + f.Name + ": " + err.Error()) // registered twice
			}
		})
		switch cmd.Name() {
		case "tail":
			cmd.ValidArgsFunction = channelsOf(environ)
		case "publish":
			cmd.ValidArgsFunction = firstOnly(channelsOf(environ))
		case "replay":
			cmd.ValidArgsFunction = firstOnly(cobra.FixedCompletions([]string{"ndjson", "gz"}, cobra.ShellCompDirectiveFilterFileExt))
		case "check":
			cmd.ValidArgsFunction = firstOnly(cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt))
		default:
			if !cmd.HasSubCommands() {
				cmd.ValidArgsFunction = cobra.NoFileCompletions
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// addCompletion adds cobra's own command, which prints to the root's output as that is
// now. Of a shell that it does not know it would print its help, and be content.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, group
		}
	}
}

func firstOnly(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, prefix)
	}
}

// channelsOf asks the gateway at --admin-addr, or at the one the environment names, for
// its channels. Where none answers there is nothing to say.
func channelsOf(environ []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return askChannels(cmd, environ, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

func askChannels(cmd *cobra.Command, environ []string, prefix string) (names []string) {
	setting := func(flag, otherwise string) string {
		if f := cmd.Flags().Lookup(flag); f != nil && f.Changed {
			return f.Value.String()
		}
		if text, ok := lookupEnv(environ, envName(flag)); ok && text != "" {
			return text
		}
		return otherwise
	}
	base, err := adminURL(setting("admin-addr", "127.0.0.1:8081"))
	if err != nil {
		return nil
	}
	req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, base+"/v1/channels", nil)
	if err != nil {
		return nil
	}
	key := setting("api-key", "")
	if file := setting("api-key-file", ""); key == "" && file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil
		}
		key = strings.TrimSpace(string(text))
	}
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	client := http.Client{Timeout: completionWait, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	var answer struct {
		Channels []struct {
			Ch string `json:"ch"`
		} `json:"channels"`
	}
	if json.NewDecoder(res.Body).Decode(&answer) != nil {
		return nil
	}
	for _, ch := range answer.Channels {
		if strings.HasPrefix(ch.Ch, prefix) {
			names = append(names, ch.Ch)
		}
	}
	return names
}
