package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3". Without it
// the module's version or the commit stands in.
var version string

// buildInfo is what `odin version` knows.
type buildInfo struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Time     string `json:"time,omitempty"` // of the commit
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`

	// Modules are the versions of those that the gateway stands on.
	Modules map[string]string `json:"modules,omitempty"`
}

// standsOn are the modules that a report of a fault has to name.
var standsOn = []string{
	"github.com/mailru/easygo", "github.com/gobwas/ws", "github.com/panjf2000/ants/v2",
	"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go",
}

func readBuildInfo() buildInfo {
	b := buildInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" {
			b.Version = info.Main.Version
		}
		for _, m := range info.Deps {
			if !slices.Contains(standsOn, m.Path) {
				continue
			}
			if m.Replace != nil {
				m = m.Replace
			}
			if b.Modules == nil {
				b.Modules = map[string]string{}
			}
			b.Modules[m.Path] = m.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.time":
				b.Time = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	return b
}

func (b buildInfo) String() string {
	s := "odin " + b.Version
	if b.Commit != "" {
		s += " commit " + b.Commit[:min(12, len(b.Commit))]
		if b.Modified {
			s += "+changes"
		}
		s += " of " + b.Time
	}
	return s + ", " + b.Go + " " + b.Platform
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Version prints the version, the commit where the build knew it, and Go's; then the
modules that the gateway stands on. 'odin --version' prints the first line alone.

A binary of 'make build' or of a release has its version from the tag, one of 'go
install' from its module.`,
		Example: "  odin version\n  odin version --json",
		Args:    nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := readBuildInfo()
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(b)
			}
			lines := []string{b.String()}
			for _, path := range standsOn {
				if v := b.Modules[path]; v != "" {
					lines = append(lines, "  "+path+" "+v)
				}
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(lines, "\n"))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}
