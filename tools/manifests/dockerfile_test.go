package manifests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// goVersion is go.mod's.
func goVersion(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\ngo ")
	version, _, _ := strings.Cut(rest, "\n")
	return version
}

func TestDockerfile(t *testing.T) {
	none(t, dockerfile(t).Check(binary, goVersion(t)))
}

func TestDockerfileMutants(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range [][3]string{
		{"ENV ODIN_DATA_DIR", "ENV ODIN_DATADIR", "ODIN_DATADIR"},
		{`"health", "--url"`, `"health", "--address"`, "address"},
		{`CMD ["/odin", "health"`, `CMD ["/bin/sh", "health"`, "own program"},
		{`CMD ["serve"]`, `CMD serve`, "want a JSON array"},
		{"USER 65532:65532", "USER odin", "the user is"},
		{"golang:1.26", "golang:1.25", "is not one of Go"},
	} {
		file := filepath.Join(t.TempDir(), "Dockerfile")
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		change(t, file, m[0], m[1])
		var wrong []string
		d, err := ReadDockerfile(file)
		if err != nil {
			wrong = []string{err.Error()}
		} else {
			wrong = d.Check(binary, goVersion(t))
		}
		found(t, wrong, m[2])
	}
}

func TestDockerignore(t *testing.T) {
	m, err := Ignored(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := CheckIgnored(root, m)
	if err != nil {
		t.Fatal(err)
	}
	none(t, wrong)
}

func TestDockerignoreMutants(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range [][3]string{
		{"!bench/suite\n", "", "bench/suite/"},
		{"!go.sum\n", "", "go.sum is needed"},
		{"*\n", "", "is not needed"},
	} {
		file := filepath.Join(t.TempDir(), ".dockerignore")
		text := "\n" + string(b)
		if !strings.Contains(text, "\n"+m[0]) {
			t.Fatalf("no %q", m[0])
		}
		if err := os.WriteFile(file, []byte(strings.Replace(text, "\n"+m[0], "\n"+m[1], 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		ignored, err := Ignored(file)
		if err != nil {
			t.Fatal(err)
		}
		wrong, err := CheckIgnored(root, ignored)
		if err != nil {
			t.Fatal(err)
		}
		found(t, wrong, m[2])
	}
}
