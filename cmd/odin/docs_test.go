package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/configuration.md anew")

// settingsTable is the reference in docs/configuration.md.
func settingsTable() string {
	var b strings.Builder
	for _, s := range newServeConfig().settings() {
		if s.group != "" {
			fmt.Fprintf(&b, "\n### %s\n\n| key | default | SIGHUP | |\n| --- | --- | --- | --- |\n", s.group)
		}
		def, live := s.value.String(), s.live
		if def != "" {
			def = "`" + def + "`"
		}
		if live == "" {
			live = "restart"
		}
		usage := s.usage
		if c, ok := s.value.(*choice); ok {
			usage += " (" + strings.Join(c.of, ", ") + ")"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.key(), def, live, strings.NewReplacer("|", `\|`, "*", `\*`).Replace(usage))
	}
	return b.String()
}

// The page has every setting as the struct has it. With -update it is written.
func TestConfigurationDocs(t *testing.T) {
	const path = "../../docs/configuration.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(b), "-update` -->\n")
	_, tail, ok := strings.Cut(rest, "\n<!-- end -->")
	if !ok {
		if _, tail, ok = strings.Cut(rest, "<!-- end -->"); !ok {
			t.Fatal("the marks of the table are gone")
		}
	}
	want := head + "-update` -->\n" + settingsTable() + "\n<!-- end -->" + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(b) != want {
		t.Error("docs/configuration.md is not as the settings are: go test ./cmd/odin -run TestConfigurationDocs -update")
	}
}
