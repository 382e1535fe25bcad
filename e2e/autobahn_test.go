package e2e

import (
	"os"
	"slices"
	"testing"

	"github.com/odin-ws/odin/e2e/autobahn/suite"
)

// TestAutobahn runs the Autobahn suite's cases, of the compressed ones those that
// are not megabytes; `make autobahn` runs all of them.
func TestAutobahn(t *testing.T) {
	s := startServer(t, "--echo", "--max-message", "17MiB")
	cases := suite.Cases()
	if os.Getenv("ODIN_LONG") == "" {
		cases = slices.DeleteFunc(cases, func(c *suite.Case) bool { return c.Heavy && c.Section() >= 12 })
	}
	unimplemented := 0
	for _, r := range suite.Run(s.Addr, "/echo", cases, 16) {
		if !r.Pass() {
			t.Errorf("%s (%s): %s, %s: %s", r.Case.ID, r.Case.Sends, r.Behavior, r.Close, r.Detail)
		}
		if r.Behavior == suite.Unimplemented {
			unimplemented++
		}
	}
	if unimplemented > 0 {
		t.Logf("%d cases are of permessage-deflate, which was not accepted: not run", unimplemented)
	}
	if n := s.Stat(t, "currentConnections"); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
