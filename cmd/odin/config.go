package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/odin-ws/odin/gateway/auth"
	"github.com/odin-ws/odin/gateway/secure"
)

func newConfig(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or check the configuration of serve",
		Example: `  odin config print --defaults > odin.yaml
  odin config check odin.yaml`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
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
			if defaults && asJSON {
				return writeSettings(json.NewEncoder(out))
			}
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
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print a commented file of all defaults instead; with --json a list of all settings")
	cmd.Flags().BoolVar(&asJSON, "json", false, `print {"key":{"value":…,"from":…},…}`)
	return cmd
}

// writeSettings writes what there is to set.
func writeSettings(enc *json.Encoder) error {
	type entry struct {
		Key     string `json:"key"`
		Flag    string `json:"flag"`
		Env     string `json:"env"`
		Default any    `json:"default"`
		Type    string `json:"type"`
		Reload  string `json:"reload"` // all, new or restart
		Usage   string `json:"usage"`
	}
	var all []entry
	for _, s := range newServeConfig().settings() {
		reload := s.live
		if reload == "" {
			reload = "restart"
		}
		all = append(all, entry{s.key(), "--" + s.flag, s.env(), plain(s.value), s.value.Type(), reload, s.usage})
	}
	enc.SetIndent("", "  ")
	return enc.Encode(all)
}

// plain is a value as JSON has it, without secrets.
func plain(value pflag.Value) any {
	switch v := value.(type) {
	case *count:
		return int(*v)
	case *toggle:
		return bool(*v)
	case *list:
		items := make([]string, len(v.items))
		for i, item := range v.items {
			items[i] = redactURL(item)
		}
		return items
	default:
		return redactURL(v.String())
	}
}

func (l *loaded) writeJSON(enc *json.Encoder) error {
	type entry struct {
		Value any    `json:"value"`
		From  string `json:"from"`
	}
	all := map[string]entry{}
	for _, s := range l.settings() {
		all[s.key()] = entry{plain(s.value), l.origin[s.key()]}
	}
	enc.SetIndent("", "  ")
	return enc.Encode(all)
}

func newConfigCheck(environ []string) *cobra.Command {
	var noFiles, asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file",
		Long: `Check reads a file as serve would, without flags, and of the environment only the
secrets that no file can have (ODIN_TOKEN_KEY, ODIN_PUBLISH_KEYS), and says what is
wrong with it and on which line. So are the files read that it names: keys,
certificates, the list of revocations. Whether the memory limit has room for a
connection, the ports are free and the data directory can be written to, serve sees
when it starts.

Run it before SIGHUP: what it refuses, a running gateway does, too.`,
		Example: `  odin config check odin.yaml
  odin config check odin.yaml --no-files     # where its keys are not
  odin config check /etc/odin/odin.yaml && systemctl reload odin`,
		Args: nArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := loadLayers(args[0], secretsIn(environ), nil)
			if err == nil && !noFiles {
				err = l.checkFiles()
			}
			out := cmd.OutOrStdout()
			if asJSON {
				faults := []string{}
				if err != nil {
					faults = strings.Split(err.Error(), "\n")
				}
				if bad := json.NewEncoder(out).Encode(map[string]any{"file": args[0], "ok": err == nil, "errors": faults}); err == nil || bad != nil {
					return bad
				}
				return usageError{errQuiet}
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "%s: ok\n", args[0])
			return err
		},
	}
	cmd.Flags().BoolVar(&noFiles, "no-files", false, "don't read the keys and certificates that it names")
	cmd.Flags().BoolVar(&asJSON, "json", false, `print {"file":…,"ok":…,"errors":[…]}`)
	return cmd
}

// checkFiles reads the files that the settings name, as serve will.
func (l *loaded) checkFiles() error {
	var errs []error
	bad := func(flag string, err error) {
		for _, s := range l.settings() {
			if s.flag == flag && err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", l.called(s), err))
			}
		}
	}
	if l.readersNeedTokens() {
		cfg, err := l.authConfig(nil)
		bad("token-key-file", err)
		if err == nil {
			keys := cfg // the sets and the list apart, so that the fault is named by its setting
			keys.KeySets, keys.Revoked = nil, ""
			if len(keys.Keys) > 0 {
				bad("token-key-file", auth.Check(keys))
			}
			if len(cfg.KeySets) > 0 {
				sets := cfg
				sets.Revoked = ""
				bad("jwks", auth.Check(sets))
			}
			if cfg.Revoked != "" {
				cfg.KeySets = nil
				cfg.Keys = append(cfg.Keys, auth.Key{})
				bad("revoked", auth.Check(cfg))
			}
		}
	} else if err := l.tokenless(); err != nil {
		errs = append(errs, err)
	}
	if lines, err := l.publishKeys(); err != nil {
		errs = append(errs, err)
	} else if l.publishersNeedKeys() {
		_, err := new(auth.APIKeys).Prepare(string(l.PublishKeyFile), lines, nil)
		if l.PublishKeyFile == "" {
			errs = append(errs, l.inPublishKeys(err))
		} else {
			bad("publish-key-file", err)
		}
	}
	if l.TLSCert != "" {
		_, err := secure.LoadCertificates(string(l.TLSCert), string(l.TLSKey))
		bad("tls-cert", err)
	}
	if l.NATSConfig != "" {
		_, err := os.Stat(string(l.NATSConfig))
		bad("nats-config", err)
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}
