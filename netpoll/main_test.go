package netpoll

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(exhaustedChild) != "" {
		os.Exit(exhausted())
	}
	goleak.VerifyTestMain(m)
}
