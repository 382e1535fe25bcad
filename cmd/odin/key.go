package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/gateway/auth"
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make API keys for the admin port",
		Args:  cobra.ArbitraryArgs,
		RunE:  group,
	}
	cmd.AddCommand(newKeyNew())
	return cmd
}

func newKeyNew() *cobra.Command {
	var role, out string
	var channels list
	var asJSON bool
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
within two seconds.`,
		Example: `  odin key new feed-1 --channels 'trade.*,bbo.*'
  odin key new feed-1 --channels 'trade.*' --out feed-1.key >> /etc/odin/keys
  odin key new prometheus --role metrics --out prometheus.key >> /etc/odin/keys
  odin key new ops --role admin`,
		Args: nArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if auth.Role(role) == auth.RolePublish && len(channels.items) == 0 {
				return usagef("--channels: where may it publish? '*' is everywhere")
			}
			secret, line, err := auth.NewAPIKey(args[0], auth.Role(role), channels.items)
			if err != nil {
				return usageError{err}
			}
			stdout := cmd.OutOrStdout()
			if out != "" {
				f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(f, secret)
				if bad := f.Close(); err == nil {
					err = bad
				}
				if err != nil {
					return err
				}
				secret = ""
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
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&role, "role", "publish", "publish, metrics or admin")
	fs.Var(&channels, "channels", "where it may publish: channels, prefixes such as trade.*, or * for all")
	fs.StringVar(&out, "out", "", "put the key into this new file, for its owner alone, and print the line only")
	fs.BoolVar(&asJSON, "json", false, `print {"key":…,"line":…}`)
	return cmd
}
