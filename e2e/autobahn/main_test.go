package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/odin-ws/odin/e2e/autobahn/suite"
)

// fakeSuite is a wstest that writes a report and says what it was asked for.
const fakeSuite = `#!/bin/sh
if [ "$1" = --autobahnversion ]; then printf 'Autobahn 0\nAutobahnTestSuite 1\n'; exit; fi
[ "$1 $2 $3" = "-m fuzzingclient -s" ] || exit 3
cp "$4" "$ASKED"
out=$(sed 's/.*"outdir":"\([^"]*\)".*/\1/' "$4")
cat > "$out/index.json" <<'JSON'
{"odin": {
  "1.1.1": {"behavior": "OK", "behaviorClose": "OK", "duration": 7, "remoteCloseCode": 1000, "reportfile": "x.json"},
  "3.2": {"behavior": "NON-STRICT", "behaviorClose": "OK", "duration": 1, "remoteCloseCode": null},
  "7.13.1": {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL", "duration": 1, "remoteCloseCode": 1002},
  "7.3.1": {"behavior": "OK", "behaviorClose": "FAILED BY CLIENT", "duration": 1, "remoteCloseCode": null},
  "7.3.2": {"behavior": "OK", "behaviorClose": "WRONG CODE", "duration": 1, "remoteCloseCode": 1000},
  "9.1.1": {"behavior": "UNIMPLEMENTED", "behaviorClose": "OK", "duration": 1, "remoteCloseCode": 1000},
  "12.1.1": {"behavior": "UNIMPLEMENTED", "behaviorClose": "OK", "duration": 1, "remoteCloseCode": 1000},
  "13.3.1": {"behavior": "UNIMPLEMENTED", "behaviorClose": "OK", "duration": 1, "remoteCloseCode": 1000},
  "13.7.1": {"behavior": "UNIMPLEMENTED", "behaviorClose": "OK", "duration": 1, "remoteCloseCode": 1000}
}}
JSON
`

func TestPublicSuite(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "wstest"), []byte(fakeSuite), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	asked := filepath.Join(dir, "asked")
	t.Setenv("ASKED", asked)
	public, why := findPublic()
	if public == nil {
		t.Fatal(why)
	}
	cases := suite.Select(suite.Cases(), "1.1.1", "1.1.2", "3.2", "7.3.1", "7.3.2", "7.13.1", "9.1.1", "12.1.1", "13.3.1", "13.7.1")
	results, version, err := public.run("127.0.0.1:1", dir, cases)
	if err != nil || version != "Autobahn 0 AutobahnTestSuite 1" {
		t.Fatal(version, err)
	}
	spec, err := os.ReadFile(asked)
	if err != nil || !strings.Contains(string(spec), `"ws://127.0.0.1:1/echo"`) || !strings.Contains(string(spec), `"1.1.1","1.1.2","3.2"`) {
		t.Errorf("asked for %s, %v", spec, err)
	}
	// Only small windows may be declined.
	good := map[string]bool{"1.1.1": true, "3.2": true, "7.13.1": true, "13.3.1": true}
	for _, r := range results {
		if pass(&r) != good[r.Case.ID] {
			t.Errorf("%s: %s, %s", r.Case.ID, r.Behavior, r.Close)
		}
	}
	rep := report{version: "odin x", at: time.Unix(0, 0), columns: []*column{{name: "fake", results: results}}}
	if rep.failed() != 6 {
		t.Errorf("%d failed", rep.failed())
	}
	for _, want := range []string{
		"fake: 10 cases, 1 OK, 1 NON-STRICT, 1 INFORMATIONAL, 1 UNIMPLEMENTED, 6 FAILED", "Section 13: 1 cases offer permessage-deflate only with a window below 32 KiB",
		"| 1.1.1 | text of 0 bytes | OK | OK 1000 | 7 |", "| 1.1.2 | text of 125 bytes | FAILED | FAILED | 0 |",
	} {
		if !strings.Contains(rep.text(), want) {
			t.Errorf("the report does not say %q:\n%s", want, rep.text())
		}
	}
	if !strings.Contains(rep.summary(), "1.1.2 (text of 125 bytes): FAILED, FAILED: not in the suite's report") {
		t.Error(rep.summary())
	}
}

// Without wstest, and with an engine that does not run, there is no public suite.
func TestNoPublicSuite(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if p, why := findPublic(); p != nil || !strings.Contains(why, "no wstest") {
		t.Error(p, why)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if p, why := findPublic(); p != nil || !strings.Contains(why, "docker does not run here") {
		t.Error(p, why)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]options{
		"no case is called 99 or x":          {cases: []string{"99", "x"}, suite: "own"},
		`--suite is own, public or auto`:     {cases: []string{"1"}, suite: "mine"},
		"no case is called 1.1":              {cases: []string{"1.1"}, skip: []string{"1"}, suite: "own"},
		"/nowhere/odin version: fork/exec /": {cases: []string{"1.1.1"}, suite: "own", odin: "/nowhere/odin"},
	} {
		if err := run(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
