package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pinned is an action by the commit it was read at, with the tag it had.
var pinned = regexp.MustCompile(`^[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+(\.\d+)*$`)

// forTags matches a workflow that runs when a tag is pushed and never else: it may
// write what is released.
var forTags = regexp.MustCompile(`(?m)^on:\n  push:\n    tags: \[[^\n]*\]\n\n`)

// faultsOfWorkflow is what a workflow may not do: run what can be exchanged under
// its name, hold a token it does not need, or run a stranger's change with ours.
func faultsOfWorkflow(text string) (faults []string) {
	permissions := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if _, uses, ok := strings.Cut(line, "uses: "); ok && !pinned.MatchString(uses) && !strings.HasPrefix(uses, "./") {
			faults = append(faults, "not pinned by commit: "+uses)
		}
		if strings.HasPrefix(line, "permissions:") {
			permissions = line == "permissions:" || line == "permissions: {}"
		}
		if strings.Contains(line, "pull_request_target") {
			faults = append(faults, "pull_request_target gives a stranger's change our token")
		}
		if strings.Contains(line, "write-all") || strings.Contains(line, "contents: write") && !forTags.MatchString(text) {
			faults = append(faults, "more than it needs: "+strings.TrimSpace(line))
		}
	}
	if !permissions {
		faults = append(faults, "no permissions of its own: it has the repository's")
	}
	return faults
}

func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob("../../.github/workflows/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatal("no workflows", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range faultsOfWorkflow(string(b)) {
			t.Errorf("%s: %s", filepath.Base(file), f)
		}
	}
}

func TestEveryWorkflowRuleBites(t *testing.T) {
	good := "on: push\npermissions:\n  contents: read\njobs:\n  a:\n    steps:\n      - uses: actions/checkout@" + strings.Repeat("a", 40) + " # v7.0.1\n"
	if f := faultsOfWorkflow(good); len(f) > 0 {
		t.Fatal(f)
	}
	release := strings.NewReplacer("on: push\n", "on:\n  push:\n    tags: [v*]\n\n", "contents: read", "contents: write").Replace(good)
	if f := faultsOfWorkflow(release); len(f) > 0 {
		t.Fatal(f)
	}
	for name, bad := range map[string]string{
		"tag":           strings.Replace(good, "@"+strings.Repeat("a", 40), "@v7", 1),
		"short hash":    strings.Replace(good, strings.Repeat("a", 40), "aaaaaaa", 1),
		"no tag said":   strings.Replace(good, " # v7.0.1", "", 1),
		"none":          strings.Replace(good, "permissions:\n  contents: read\n", "", 1),
		"all":           strings.Replace(good, "permissions:\n  contents: read\n", "permissions: write-all\n", 1),
		"writes":        strings.Replace(good, "contents: read", "contents: write", 1),
		"not for tags":  strings.NewReplacer("on: push\n", "on:\n  push:\n    tags: [v*]\n    branches: [main]\n\n", "contents: read", "contents: write").Replace(good),
		"for strangers": strings.Replace(good, "on: push", "on: pull_request_target", 1),
	} {
		if len(faultsOfWorkflow(bad)) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
}
