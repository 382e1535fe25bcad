package archtest

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// releaseConfig is all of .goreleaser.yaml that we use: another key is a slip, or has to
// be written down here.
type releaseConfig struct {
	Version     int
	ProjectName string `yaml:"project_name"`
	Before      struct{ Hooks []string }
	Builds      []struct {
		ID, Main, Binary         string
		Env, Goos, Goarch, Flags []string
		Ldflags                  []string
		ModTimestamp             string `yaml:"mod_timestamp"`
	}
	Archives []struct {
		ID              string
		Formats         []string
		NameTemplate    string         `yaml:"name_template"`
		WrapInDirectory bool           `yaml:"wrap_in_directory"`
		BuildsInfo      map[string]any `yaml:"builds_info"`
		Files           []struct {
			Src, Dst    string
			StripParent bool `yaml:"strip_parent"`
			Info        map[string]any
		}
	}
	Nfpms []struct {
		ID, Vendor, Maintainer, Homepage, License, Section, Description, Bindir, Mtime string
		PackageName                                                                    string `yaml:"package_name"`
		IDs                                                                            []string
		Formats                                                                        []string
		Contents                                                                       []struct {
			Src, Dst, Type, Packager string
			FileInfo                 map[string]any `yaml:"file_info"`
		}
		Scripts map[string]string
	}
	Sboms []struct {
		ID, Artifacts, Cmd string
		Args, Documents    []string
	}
	DockersV2 []struct {
		ID, Dockerfile    string
		IDs, Images, Tags []string
		Platforms         []string
		Sbom              bool
		ExtraFiles        []string `yaml:"extra_files"`
		Labels            map[string]string
	} `yaml:"dockers_v2"`
	Checksum struct {
		NameTemplate string `yaml:"name_template"`
		Algorithm    string
	}
	Snapshot  map[string]string
	Changelog struct {
		Use, Sort string
		Abbrev    int
		Filters   map[string][]string
	}
	Release struct {
		GitHub             struct{ Owner, Name string } `yaml:"github"`
		Draft              bool
		Prerelease, Header string
	}
}

func readRepo(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// variable is what a Makefile sets a name to.
func variable(t *testing.T, makefile, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` *[:?]?= *(.*)$`).FindStringSubmatch(makefile)
	if m == nil {
		t.Fatalf("the Makefile has no %s", name)
	}
	return m[1]
}

// What is released is what `make build` builds: same package, flags and version.
func TestReleaseBuildsAsMakeDoes(t *testing.T) {
	makefile := readRepo(t, "Makefile")
	var c releaseConfig
	dec := yaml.NewDecoder(bytes.NewReader([]byte(readRepo(t, ".goreleaser.yaml"))))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if len(c.Builds) != 1 || len(c.Sboms) != 1 {
		t.Fatal("one build, and one list of what is in it, are held here")
	}
	b := c.Builds[0]
	build := variable(t, makefile, "BUILD")
	flags := strings.Fields(strings.TrimPrefix(build[:strings.Index(build, " -ldflags")], "env -u GOFLAGS go build "))
	if !slices.Equal(b.Flags, flags) {
		t.Errorf("flags %q, make build has %q", b.Flags, flags)
	}
	// git describe --tags --always --dirty is goreleaser's {{ .Summary }}.
	if v := variable(t, makefile, "VERSION"); v != "$(shell git describe --tags --always --dirty 2>/dev/null || echo dev)" {
		t.Errorf("make's version is %s: is it still goreleaser's Summary?", v)
	}
	ldflags := strings.ReplaceAll(variable(t, makefile, "LDFLAGS"), "$(VERSION)", "{{ .Summary }}")
	if !slices.Equal(b.Ldflags, []string{ldflags}) {
		t.Errorf("ldflags %q, make build has %q", b.Ldflags, ldflags)
	}
	if !strings.Contains(makefile, "$(BUILD) -o $(BIN) "+b.Main+"\n") || !slices.Equal(b.Env, []string{"CGO_ENABLED=0"}) || !strings.Contains(makefile, "export CGO_ENABLED := 0") {
		t.Errorf("it builds %s with %q", b.Main, b.Env)
	}
	if !slices.Equal(b.Goos, []string{"linux"}) || !slices.Equal(b.Goarch, []string{"amd64", "arm64"}) {
		t.Errorf("for %q %q: tools/licences reads what linux/amd64 and linux/arm64 are made of", b.Goos, b.Goarch)
	}
	sbom := "cyclonedx-gomod " + strings.NewReplacer("{{ .Summary }}", "$(VERSION)", "$document", "bin/odin.cdx.json", "$artifact", "$(BIN)").Replace(strings.Join(c.Sboms[0].Args, " "))
	if !strings.Contains(makefile, sbom) {
		t.Errorf("make sbom does not run %s", sbom)
	}

	// Everything that goes in is there, or made by make release-files.
	made := makefile[strings.Index(makefile, "\nrelease-files:"):]
	made = made[:strings.Index(made, "\n\n")]
	there := func(path string) {
		if path = strings.TrimSuffix(path, "/*"); strings.HasPrefix(path, "bin/release/") {
			if !strings.Contains(made, path) {
				t.Errorf("make release-files does not make %s", path)
			}
		} else if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
			t.Error(err)
		}
	}
	for _, f := range c.Archives[0].Files {
		there(f.Src)
	}
	for _, f := range c.Nfpms[0].Contents {
		there(f.Src)
	}
	for _, f := range c.Nfpms[0].Scripts {
		there(f)
	}
	for _, f := range append(c.DockersV2[0].ExtraFiles, c.DockersV2[0].Dockerfile) {
		there(f)
	}
	for _, hook := range c.Before.Hooks {
		if target, ok := strings.CutPrefix(hook, "make "); !ok || !strings.Contains(makefile, "\n"+target+":") {
			t.Errorf("hook %q", hook)
		}
	}
}

// The image of a release runs as the one that is built from source does.
func TestReleaseImage(t *testing.T) {
	runs := func(path string) (lines []string) {
		text := readRepo(t, path)
		for line := range strings.Lines(text[strings.LastIndex(text, "\nFROM "):]) {
			word, _, _ := strings.Cut(line, " ")
			if slices.Contains([]string{"ENV", "VOLUME", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "WORKDIR"}, word) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		slices.Sort(lines)
		return lines
	}
	source, release := runs("Dockerfile"), runs("deploy/release/Dockerfile")
	if len(source) == 0 || !slices.Equal(source, release) {
		t.Errorf("Dockerfile has\n%s\ndeploy/release/Dockerfile has\n%s", strings.Join(source, "\n"), strings.Join(release, "\n"))
	}
}

// The unit gives the process its settings, its descriptors, a limit for its memory, and
// time to drain, and its reload is a SIGHUP.
func TestUnit(t *testing.T) {
	unit := readRepo(t, "deploy/systemd/odin.service")
	for _, line := range []string{
		"ExecStart=/usr/bin/odin serve --config /etc/odin/odin.yaml", "ExecReload=/bin/kill -HUP $MAINPID", "StateDirectory=odin",
		"LimitNOFILE=1048576", "MemoryMax=2G", "TimeoutStopSec=45", "User=odin", "NoNewPrivileges=yes", "ProtectSystem=strict",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
}
