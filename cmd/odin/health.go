package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealth() *cobra.Command {
	var at string
	var ready, asJSON bool
	var trust clientTLS
	timeout := span(3 * time.Second)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a gateway whether it is well",
		Long: `Health asks /healthz (do its loops turn?), or with --ready /readyz (does it take
clients?), prints the answer and makes it the exit code: 0 well, 1 not, or no answer
within --timeout. It is
meant for container health checks. The admin port answers too, and never speaks TLS.`,
		Example: `  odin health
  odin health --ready --url http://127.0.0.1:9000
  odin health --url https://gateway.example --tls-ca ca.pem
  odin health --url http://127.0.0.1:8081`,
		Args: nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			base, err := siteURL(at, "http")
			if err != nil {
				return err
			}
			base.Path = "/healthz"
			if ready {
				base.Path = "/readyz"
			}
			cfg, err := trust.config()
			if err != nil {
				return err
			}
			client := &http.Client{Timeout: time.Duration(timeout), Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
			req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, base.String(), nil)
			if err != nil {
				return usageError{err}
			}
			status, body := 0, ""
			res, err := client.Do(req)
			if err == nil {
				defer func() { _ = res.Body.Close() }()
				b, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
				status, body = res.StatusCode, strings.TrimSpace(string(b))
			} else {
				body = err.Error()
			}
			ok := status/100 == 2
			if asJSON {
				_ = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
					"url": base.String(), "ok": ok, "status": status, "body": body,
				})
			} else if ok {
				fmt.Fprintln(cmd.OutOrStdout(), body)
			}
			switch {
			case ok:
				return nil
			case asJSON:
				return errQuiet
			case status == 0:
				return unreachable(base.String(), err, "--url")
			}
			return fmt.Errorf("%s answered %d: %s", base, status, body)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&at, "url", "http://127.0.0.1:8080", "the gateway's public port, or its admin port")
	trust.add(fs)
	fs.BoolVar(&ready, "ready", false, "ask /readyz")
	fs.Var(&timeout, "timeout", "how long to wait for an answer")
	fs.BoolVar(&asJSON, "json", false, "print the answer as JSON")
	return cmd
}

// siteURL reads a URL of the public port for a scheme, "http" or "ws". The
// other one's URL will do, and so will HOST:PORT: ODIN_URL is one name for
// several commands.
func siteURL(text, scheme string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = scheme + "://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, usagef("--url: want %s://HOST:PORT, not %q", scheme, text)
	}
	secure := ""
	switch u.Scheme {
	case "http", "ws":
	case "https", "wss":
		secure = "s"
	default:
		return nil, usagef("--url: want %s://HOST:PORT, not %q", scheme, text)
	}
	u.Scheme = scheme + secure
	return u, nil
}
