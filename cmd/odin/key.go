package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/gateway/auth"
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "key",
		Short:   "Make API keys for the admin port",
		Example: "  odin key new feed-1 --channels 'trade.*'",
		Args:    cobra.ArbitraryArgs,
		RunE:    group,
	}
	cmd.AddCommand(newKeyNew())
	return cmd
}

func newKeyNew() *cobra.Command {
	var role, out, addTo string
	var channels list
	var keep, asJSON bool
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Make an API key",
		Long: `New makes a random key and prints it with the line that stands for it in the
file of 'odin serve --publish-key-file': name, role, channels and the key's
SHA-256. The key itself is kept nowhere and not shown again.

A key of role publish publishes to its channels, and does nothing else. One of role
metrics reads /metrics, and nothing else: it is Prometheus'. One of role admin may
see and do everything on the admin port; it publishes to its channels too, to none
without --channels.

The file is read again when it changes: a line that is taken out ends its key
within two seconds.

With --out, --keep and --add-to it makes what is missing and leaves the rest as it
is, so that it may be run before every start of serve.`,
		Example: `  odin key new feed-1 --channels 'trade.*,bbo.*'
  odin key new feed-1 --channels 'trade.*' --out feed-1.key >> /etc/odin/keys
  odin key new prometheus --role metrics --out prometheus.key >> /etc/odin/keys
  odin key new ops --role admin
  odin key new ops --role admin --out ops.key --keep --add-to /etc/odin/keys`,
		Args: nArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if auth.Role(role) == auth.RolePublish && len(channels.items) == 0 {
				return usagef("--channels: where may it publish? '*' is everywhere")
			}
			if out == "" && (keep || addTo != "") {
				return usagef("--keep and --add-to need --out: where should the key be?")
			}
			secret, line, err := auth.NewAPIKey(args[0], auth.Role(role), channels.items)
			if err != nil {
				return usageError{err}
			}
			stdout := cmd.OutOrStdout()
			if out != "" {
				if secret, err = keyFile(out, secret, keep); err != nil {
					return err
				}
				if line, err = auth.APIKeyLine(secret, args[0], auth.Role(role), channels.items); err != nil {
					return usageError{err}
				}
				secret = ""
			}
			if addTo != "" {
				return addKeyLine(addTo, line)
			}
			switch {
			case asJSON:
				return json.NewEncoder(stdout).Encode(map[string]string{"key": secret, "line": line})
			case secret == "":
				_, err = fmt.Fprintln(stdout, line)
			default:
				_, err = fmt.Fprintf(stdout, `# The key, for --api-key-file or ODIN_API_KEY. It is not shown again.
%s
# Its line, for the file of 'odin serve --publish-key-file':
%s
`, secret, line)
			}
			return err
		},
	}
	channels.check = checkPatterns
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&role, "role", "publish", "publish, metrics or admin")
	flags.Var(&channels, "channels", "where it may publish: channels, prefixes such as trade.*, or * for all")
	flags.StringVar(&out, "out", "", "put the key into this new file, for its owner alone, and print the line only")
	flags.BoolVar(&keep, "keep", false, "where the file of --out is there already, take the key in it instead of a new one")
	flags.StringVar(&addTo, "add-to", "", "add the line to this file, unless it is in it, instead of printing it")
	flags.BoolVar(&asJSON, "json", false, `print {"key":…,"line":…}`)
	return cmd
}

// keyFile puts a key into a new file, for its owner alone, and returns it. One that is
// there is an error, or with keep what has the key. The file is the key and no more: what
// is made a Kubernetes Secret of it, the Prometheus Operator passes on as it is, and with
// a newline in it no request can be sent.
func keyFile(path, secret string, keep bool) (string, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if keep && errors.Is(err, fs.ErrExist) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if secret = strings.TrimSpace(string(b)); secret == "" {
			return "", fmt.Errorf("%s has no key in it: remove it, and a new one is made", path)
		}
		return secret, nil
	}
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(secret)
	return secret, errors.Join(err, f.Close())
}

// addKeyLine adds a key's line to a file, which is made if need be. The same line twice
// is as good as once; the name of another key is an error, because serve would take
// neither.
func addKeyLine(path, line string) error {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name, _, _ := strings.Cut(line, " ")
	for have := range strings.Lines(string(b)) {
		switch fields := strings.Fields(have); {
		case strings.Join(fields, " ") == line:
			return nil
		case len(fields) > 0 && fields[0] == name:
			return fmt.Errorf("%s has another line for %s: take it out, or choose another name", path, name)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		line = "\n" + line
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Close())
}
