package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const envPrefix = "ODIN_"

// envName is the environment name of a flag, keyName its key in the file.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func keyName(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

// lookupEnv is os.LookupEnv on a given environment; the last entry counts.
func lookupEnv(environ []string, name string) (string, bool) {
	for _, kv := range slices.Backward(environ) {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}

// layered marks a command that reads file and environment by loadSettings.
const layered = "odin:layered"

// flagsFromEnv sets the flags that the command line left alone from the
// environment. Their Changed stays false: what was typed can be told apart.
func flagsFromEnv(cmd *cobra.Command, environ []string) error {
	if cmd.Annotations[layered] != "" {
		return nil
	}
	var err error
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || err != nil {
			return
		}
		if text, ok := lookupEnv(environ, envName(f.Name)); ok && text != "" {
			if bad := f.Value.Set(text); bad != nil {
				err = usagef("%s: %w", envName(f.Name), bad)
			}
		}
	})
	return err
}

// kubernetes matches what a pod finds in its environment for every Service of
// its namespace; for one called odin… the names look like ours.
var (
	kubernetesHost = regexp.MustCompile(`^[A-Z0-9_]+_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$`)
	kubernetesPort = regexp.MustCompile(`^[A-Z0-9_]+_PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$`)
)

func fromKubernetes(name, value string) bool {
	if kubernetesHost.MatchString(name) {
		return true
	}
	// ODIN_PORT=8080 is somebody's mistake and must be told; Kubernetes says tcp://….
	return kubernetesPort.MatchString(name) &&
		(strings.Contains(value, "://") || regexp.MustCompile(`_[0-9]+_(TCP|UDP|SCTP)_`).MatchString(name))
}

// checkEnv fails on ODIN_ names that no flag of any command has: a setting
// that does nothing is worse than a refusal to start.
func checkEnv(root *cobra.Command, environ []string) error {
	known := []string{envTokenKey, envPublishKeys}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, envName(f.Name)) })
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) ||
			strings.HasPrefix(name, "ODIN_TEST") || fromKubernetes(name, value) {
			continue
		}
		return usagef("unknown setting %s%s", name, didYouMean(name, known))
	}
	return nil
}

// didYouMean suggests the nearest of known, when one is near.
func didYouMean(name string, known []string) string {
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

// nearest is the one of known that begins with name, or else takes the fewest changes to
// become it, "" if none is near.
func nearest(name string, known []string) string {
	best, least := "", 1+len(name)/2
	for _, k := range known {
		if len(name) >= 3 && strings.HasPrefix(k, name) {
			return k
		}
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's: how many letters to change, add or drop.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
