//go:build linux

package main

import "testing"

// A file that has rows of other scenarios keeps them, in order; those that were
// played again are replaced.
func TestMerge(t *testing.T) {
	old := "# head\n\nold\n\n| scenario | fault |\n| --- | --- |\n| kill-broker | old |\n| poison | old |\n"
	text := "# head\n\nnew\n\n| scenario | fault |\n| --- | --- |\n| kill-gateway | new |\n| poison | new |\n"
	want := "# head\n\nnew\n\n| scenario | fault |\n| --- | --- |\n| kill-gateway | new |\n| kill-broker | old |\n| poison | new |\n"
	if got := merge(scenarios, old, text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := merge(scenarios, "", text); got != text {
		t.Errorf("got\n%s", got)
	}
}
