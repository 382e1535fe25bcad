package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

func newConfig(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or check the configuration of serve",
		Args:  cobra.ArbitraryArgs,
		RunE:  group,
	}
	cmd.AddCommand(newConfigPrint(environ), newConfigCheck(environ))
	return cmd
}

func newConfigPrint(environ []string) *cobra.Command {
	var defaults, asJSON bool
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print the effective settings and where each came from",
		Long: `Print takes the flags of serve, reads the same environment and file, and prints
what serve would run with and where each value came from. Passwords in URLs are
not shown.`,
		Example: `  odin config print
  ODIN_PING=30s odin config print --config odin.yaml --max-connections 1000
  odin config print --defaults > odin.yaml    # a commented file to start from`,
		Args: nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if defaults {
				fmt.Fprintln(out, "# Odin's settings with their defaults. Run: odin serve --config FILE")
				return writeYAML(out, newServeConfig(), true, func(setting) string { return "" })
			}
			if err := checkEnv(cmd.Root(), environ); err != nil {
				return err
			}
			l, err := loadSettings(cmd.Flags(), environ)
			if err != nil {
				return err
			}
			if asJSON {
				return l.writeJSON(json.NewEncoder(out))
			}
			return writeYAML(out, l.serveConfig, false, func(s setting) string { return l.origin[s.key()] })
		},
	}
	addServeFlags(cmd)
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print a commented file of all defaults instead")
	cmd.Flags().BoolVar(&asJSON, "json", false, `print {"key":{"value":…,"from":…},…}`)
	return cmd
}

func (l *loaded) writeJSON(enc *json.Encoder) error {
	type entry struct {
		Value any    `json:"value"`
		From  string `json:"from"`
	}
	all := map[string]entry{}
	for _, s := range l.settings() {
		var value any
		switch v := s.value.(type) {
		case *count:
			value = int(*v)
		case *toggle:
			value = bool(*v)
		case *list:
			items := make([]string, len(v.items))
			for i, item := range v.items {
				items[i] = redactURL(item)
			}
			value = items
		default:
			value = redactURL(v.String())
		}
		all[s.key()] = entry{value, l.origin[s.key()]}
	}
	enc.SetIndent("", "  ")
	return enc.Encode(all)
}

func newConfigCheck(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file",
		Long: `Check reads a file as serve would, without flags, and of the environment only the
secrets that no file can have (ODIN_TOKEN_KEY, ODIN_PUBLISH_KEYS), and says what is
wrong with it and on which line. Exit code 0 means that serve takes it.`,
		Example: "  odin config check odin.yaml",
		Args:    nArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := loadLayers(args[0], secretsIn(environ), nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", args[0])
			return err
		},
	}
}
