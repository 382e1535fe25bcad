package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// root is the repository, from here.
const root = "../.."

// binary is what is asked for its settings and flags.
var binary Odin

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "odin-manifests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary.Path = filepath.Join(dir, "odin")
	cmd := exec.Command("go", "build", "-C", root, "-o", binary.Path, "./cmd/odin")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// none fails for each thing that is wrong.
func none(t *testing.T, wrong []string) {
	t.Helper()
	for _, w := range wrong {
		t.Error(w)
	}
}
