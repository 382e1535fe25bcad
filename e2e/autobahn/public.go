package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/odin-ws/odin/e2e/autobahn/suite"
)

// image is the public suite's own, https://github.com/crossbario/autobahn-testsuite.
const image = "docker.io/crossbario/autobahn-testsuite"

// publicTime bounds one run of it; section 9 takes its client two minutes on two
// cores, sections 12 and 13 most of an hour.
const publicTime = 2 * time.Hour

// publicSuite is a way to run the public suite here.
type publicSuite struct {
	argv []string // before wstest's own arguments
	dir  string   // the working directory as the suite sees it; "" is as we do
}

// findPublic looks for the public suite, or says why there is none.
func findPublic() (*publicSuite, string) {
	if path, err := exec.LookPath("wstest"); err == nil {
		return &publicSuite{argv: []string{path}}, ""
	}
	why := "no wstest, docker or podman on the PATH"
	for _, engine := range []string{"docker", "podman"} {
		path, err := exec.LookPath(engine)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err = exec.CommandContext(ctx, path, "info").Run()
		cancel()
		if err == nil {
			return &publicSuite{argv: []string{path, "run", "--rm", "--network", "host", "--volume", "{dir}:/suite", image, "wstest"}, dir: "/suite"}, ""
		}
		why = engine + " does not run here, and no wstest is on the PATH"
	}
	return nil, why
}

// run runs cases against ws://addr/echo and reads the suite's report. dir is
// where it may write.
func (p *publicSuite) run(addr, dir string, cases []*suite.Case) (results []suite.Result, version string, err error) {
	seen := dir
	if p.dir != "" {
		seen = p.dir
	}
	var ids []string
	for _, c := range cases {
		ids = append(ids, c.ID)
	}
	spec, err := json.Marshal(map[string]any{
		"outdir":        filepath.Join(seen, "reports"),
		"servers":       []any{map[string]any{"agent": "odin", "url": "ws://" + addr + "/echo"}},
		"cases":         ids,
		"exclude-cases": []string{}, "exclude-agent-cases": map[string]any{},
	})
	if err != nil {
		return nil, "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "client.json"), spec, 0o644); err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(filepath.Join(dir, "reports"), 0o777); err != nil {
		return nil, "", err
	}
	command := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), publicTime)
		defer cancel()
		argv := append([]string{}, p.argv...)
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], "{dir}", dir)
		}
		cmd := exec.CommandContext(ctx, argv[0], append(argv[1:], args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out[max(0, len(out)-4096):])
		}
		return string(out), nil
	}
	out, err := command("--autobahnversion")
	if err != nil {
		return nil, "", err
	}
	version = strings.Join(strings.Fields(out), " ")
	if _, err := command("-m", "fuzzingclient", "-s", filepath.Join(seen, "client.json")); err != nil {
		return nil, "", err
	}
	index, err := os.ReadFile(filepath.Join(dir, "reports", "index.json"))
	if err != nil {
		return nil, "", err
	}
	results, err = readIndex(index, cases)
	return results, version, err
}

// readIndex is what the suite's index.json says of cases. One that it does not
// name has failed.
func readIndex(index []byte, cases []*suite.Case) ([]suite.Result, error) {
	var agents map[string]map[string]struct {
		Behavior      suite.Verdict `json:"behavior"`
		BehaviorClose suite.Verdict `json:"behaviorClose"`
		Code          uint16        `json:"remoteCloseCode"`
		Duration      int64         `json:"duration"` // ms
	}
	if err := json.Unmarshal(index, &agents); err != nil {
		return nil, fmt.Errorf("the suite's index.json: %w", err)
	}
	var results []suite.Result
	for _, c := range cases {
		r := suite.Result{Case: c, Behavior: suite.Failed, Close: suite.Failed, Detail: "not in the suite's report"}
		if got, ok := agents["odin"][c.ID]; ok {
			r.Behavior, r.Close, r.Code, r.Detail = got.Behavior, got.BehaviorClose, got.Code, ""
			r.Took = time.Duration(got.Duration) * time.Millisecond
		}
		// Without the extension the suite says so and closes.
		if r.Behavior == suite.Unimplemented && c.Section() < 12 {
			r.Behavior = suite.Failed
		}
		results = append(results, r)
	}
	return results, nil
}
