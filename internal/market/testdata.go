package market

import (
	"os"
	"path/filepath"
)

// TestData finds the directory of recordings for tests: $ODIN_TESTDATA, or
// shared/data beside the module root (../shared/data going up from the working
// directory). Without it ok is false and the test is to be skipped:
//
//	dir, ok := market.TestData()
//	if !ok {
//		t.Skip("no recordings: set ODIN_TESTDATA")
//	}
func TestData() (dir string, ok bool) {
	if dir = os.Getenv("ODIN_TESTDATA"); dir != "" {
		return dir, isDir(dir)
	}
	at, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if dir = filepath.Join(at, "..", "shared", "data"); isDir(dir) {
			return dir, true
		}
		up := filepath.Dir(at)
		if up == at {
			return "", false
		}
		at = up
	}
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
