package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The licence of this repository, which is Apache-2.0.
func own(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("../../LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestJudge(t *testing.T) {
	apache := scan("LICENSE", own(t))
	if len(apache.ids) != 1 || apache.ids[0] != "Apache-2.0" {
		t.Fatalf("our own licence is taken for %v", apache.ids)
	}
	half := scan("LICENSE", append(own(t)[:3000:3000], bytes.Repeat([]byte("And whoever uses it owes us a house. "), 500)...))
	for name, row := range map[string]struct {
		files []file
		want  string // in the complaint; "": none
	}{
		"allowed":       {[]file{apache}, ""},
		"none":          {nil, "has no licence"},
		"not all known": {[]file{half}, "somebody has to read it"},
		"unknown":       {[]file{scan("LICENSE", []byte("All rights reserved."))}, "somebody has to read it"},
		"copyleft":      {[]file{{name: "COPYING", ids: []string{"GPL-3.0"}, percent: 100}}, "GPL-3.0, which is not among those allowed"},
		"also copyleft": {[]file{apache, {name: "sub/LICENSE", ids: []string{"MIT", "AGPL-3.0"}, percent: 100}}, "AGPL-3.0"},
	} {
		t.Run(name, func(t *testing.T) {
			m := module{path: "example.com/m", version: "v1", files: row.files}
			said := ""
			for _, err := range m.judge() {
				said += err.Error() + "\n"
			}
			if row.want == "" && said != "" || !strings.Contains(said, row.want) {
				t.Errorf("%q, want %q", said, row.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	yes := []string{"LICENSE", "LICENCE.md", "license.txt", "LICENSE-MIT", "COPYING", "UNLICENSE", "LICENSES.txt"}
	no := []string{"NOTICE", "licenses_test.go", "license.go", "README.md", "licensed"}
	for _, name := range append(yes, no...) {
		if err := os.WriteFile(filepath.Join(dir, name), own(t), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := licences(dir, dir, named)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(yes) {
		t.Errorf("%v", files)
	}
}

// The page that is committed is held against what is built in CI, by
// make licences-check; here, that what is not up to date is told.
func TestStale(t *testing.T) {
	page := filepath.Join(t.TempDir(), "licences.md")
	args := []string{".:."}
	if err := run(args, page, false, "", nil); err != nil {
		t.Fatal(err)
	}
	if err := run(args, page, true, "", nil); err != nil {
		t.Errorf("just written: %v", err)
	}
	b, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(b), "| github.com/google/licensecheck | v0.3.1 | BSD-3-Clause | LICENSE |") {
		t.Errorf("%v\n%s", err, b)
	}
	if err := os.WriteFile(page, bytes.Replace(b, []byte("v0.3.1"), []byte("v0.3.0"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(args, page, true, "", nil); err == nil || !strings.Contains(err.Error(), "out of date") {
		t.Errorf("another version: %v", err)
	}
}

// Every module of the page has its text in the other file.
func TestTexts(t *testing.T) {
	out := filepath.Join(t.TempDir(), "LICENCES.txt")
	if err := run([]string{".:."}, "", false, out, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	for _, want := range []string{"github.com/google/licensecheck v0.3.1, LICENSE\n\nCopyright", "Go's standard library, LICENSE\n\nCopyright", "Redistribution and use"} {
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("no %q: %v", want, err)
		}
	}
}
