package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// scratch holds what the tests build; TestMain removes it.
var scratch string

// TestMain runs the tests, or, started again by one of them with
// ODIN_E2E_CHILD set, plays the client that the test wants in a process of its
// own.
func TestMain(m *testing.M) {
	if role := os.Getenv("ODIN_E2E_CHILD"); role != "" {
		os.Exit(runChild(role))
	}
	dir, err := os.MkdirTemp("", "odin-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratch = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var buildOdin = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("ODIN_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	return build("odin", "../cmd/odin")
})

// build compiles a main package as it is shipped: static, and without the race
// detector that the test itself may run under.
func build(name, pkg string) (string, error) {
	bin := filepath.Join(scratch, name)
	cmd := exec.Command("go", "build", "-o", bin, pkg)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return bin, nil
}

// odin returns the path of the binary under test.
func odin(t testing.TB) string {
	t.Helper()
	bin, err := buildOdin()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
