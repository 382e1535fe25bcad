package gateway

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a gateway that was shut down left a goroutine.
func TestMain(m *testing.M) {
	flag.Parse()
	before := goleak.IgnoreCurrent() // ants keeps a default pool from its init on
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(before); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}
