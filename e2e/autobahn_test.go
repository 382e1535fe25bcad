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
	s := startServer(t, "--echo", "--compression", "--max-message", "17MiB")
	cases := suite.Cases()
	if os.Getenv("ODIN_LONG") == "" {
		cases = slices.DeleteFunc(cases, func(c *suite.Case) bool { return c.Heavy && c.Section() >= 12 })
	}
	declined := 0
	for _, r := range suite.Run(s.Addr, "/echo", cases, 16) {
		if !r.Pass() {
			t.Errorf("%s (%s): %s, %s: %s", r.Case.ID, r.Case.Sends, r.Behavior, r.Close, r.Detail)
		}
		if r.Behavior == suite.Unimplemented {
			declined++
			if !r.Case.SmallWindow() {
				t.Errorf("%s (%s): the offer was declined", r.Case.ID, r.Case.Sends)
			}
		}
	}
	t.Logf("%d cases offer permessage-deflate with a small window only: declined", declined)
	if n := s.Stat(t, "currentConnections"); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
