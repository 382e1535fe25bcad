package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a container runs at every start makes a key once, and mends what is half there.
func TestKeyKeep(t *testing.T) {
	dir := t.TempDir()
	key, keys := filepath.Join(dir, "ops.key"), filepath.Join(dir, "keys")
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	run := func(code int, says string, args ...string) {
		t.Helper()
		if r := odin(t, nil, "", append([]string{"key", "new"}, args...)...); r.code != code || !strings.Contains(r.out+r.err, says) {
			t.Fatalf("odin key new %q: %+v, want code %d and %q", args, r, code, says)
		}
	}
	same := []string{"ops", "--role", "admin", "--out", key, "--keep", "--add-to", keys}
	run(0, "", same...)
	secret, line := read(key), read(keys)
	if !strings.HasPrefix(secret, "odin_") || strings.TrimSpace(secret) != secret || !strings.HasPrefix(line, "ops admin - sha256:") || strings.Count(line, "\n") != 1 {
		t.Fatalf("the key is %q, its line %q", secret, line)
	}
	for _, name := range []string{key, keys} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v, %v", name, info.Mode(), err)
		}
	}
	run(0, "", same...)
	if read(key) != secret || read(keys) != line {
		t.Errorf("the second time changed %q to %q, %q to %q", secret, read(key), line, read(keys))
	}
	// The line got lost, or the file was written by hand and has no newline at its end.
	if err := os.WriteFile(keys, []byte("# ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(0, "", same...)
	if read(key) != secret || read(keys) != "# ours\n"+line {
		t.Errorf("mended to %q, %q", read(key), read(keys))
	}
	run(0, "", "feed", "--channels", "trade.*", "--out", filepath.Join(dir, "feed.key"), "--add-to", keys)
	if got := read(keys); !strings.HasPrefix(got, "# ours\n"+line+"feed publish trade.* sha256:") {
		t.Errorf("a second key: %q", got)
	}

	run(1, "another line for ops", "ops", "--role", "admin", "--out", filepath.Join(dir, "other.key"), "--add-to", keys)
	run(1, "exists", "ops", "--role", "admin", "--out", key, "--add-to", keys)
	run(2, "need --out", "ops", "--role", "admin", "--keep")
	run(2, "need --out", "ops", "--role", "admin", "--add-to", keys)
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run(1, "has no key in it", same...)
}
