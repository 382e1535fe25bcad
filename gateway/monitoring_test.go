package gateway

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/prometheus/client_golang/prometheus"
)

// What stands in deploy and docs about metrics is held against the metrics there are.

const (
	prometheusDir = "../deploy/prometheus"
	dashboardFile = "../deploy/grafana/dashboards/odin.json"
	runbookFile   = "../docs/operations.md"
	runbookURL    = "https://github.com/odin-ws/odin/blob/main/docs/operations.md#"
)

var update = flag.Bool("update", false, "write the table of metrics in docs/operations.md anew")

type alertRule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) (rules []alertRule) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(prometheusDir, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []alertRule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	if len(rules) < 10 {
		t.Fatalf("only %d alerts", len(rules))
	}
	return rules
}

// panel is as much of a Grafana panel as is looked at here.
type panel struct {
	ID          int
	Type, Title string
	Description string
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct{ Expr, LegendFormat string }
	FieldConfig struct {
		Defaults  struct{ Unit string }
		Overrides []override
	}
}

type override struct {
	Matcher struct{ ID, Options string }
}

// inSeconds reports whether a panel shows what is counted a second as if it were a time.
func (p *panel) inSeconds() (wrong []string) {
	if p.FieldConfig.Defaults.Unit != "s" {
		return nil
	}
	for _, q := range p.Targets {
		own := slices.ContainsFunc(p.FieldConfig.Overrides, func(o override) bool {
			return o.Matcher.ID == "byRegexp" && regexp.MustCompile(o.Matcher.Options).MatchString(q.LegendFormat)
		})
		if strings.Contains(q.Expr, "rate(") && !strings.Contains(q.Expr, "histogram_quantile(") && !own {
			wrong = append(wrong, q.LegendFormat)
		}
	}
	return wrong
}

// dashboard returns the panels and the expressions of all that ask Prometheus.
func dashboard(t *testing.T) (panels []panel, exprs []string) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID         string
		Panels      []panel
		Annotations struct{ List []struct{ Expr string } }
		Templating  struct{ List []struct{ Definition string } }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			exprs = append(exprs, q.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		exprs = append(exprs, a.Expr)
	}
	for _, v := range d.Templating.List {
		if sel, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			exprs = append(exprs, sel[:strings.LastIndex(sel, ",")])
		}
	}
	if d.UID == "" || len(exprs) < 20 {
		t.Fatalf("%d expressions on the dashboard", len(exprs))
	}
	return d.Panels, exprs
}

// series are all names a scrape gives, with the values of the one label each has, as
// Prometheus stores them.
func (g *testGateway) series() map[string][]string {
	names := map[string][]string{"up": nil}
	for name, f := range g.scrape("") {
		if f.GetMetric()[0].GetHistogram() != nil {
			for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
				names[name+suffix] = nil
			}
			continue
		}
		names[name] = nil
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				names[name] = append(names[name], l.GetName()+"="+l.GetValue())
			}
		}
	}
	return names
}

var (
	metricName = regexp.MustCompile(`\b(?:odin|go|process)_\w+|\bup\b`)
	matcher    = regexp.MustCompile(`\b(odin_\w+)\{([^}]*)\}`)
	oneMatch   = regexp.MustCompile(`(\w+)(=~?|!=)"([^"]*)"`)
)

// wantKnown checks that an expression asks only for what there is: names, and values of
// labels, which when mistyped match nothing and say nothing.
func wantKnown(t *testing.T, where, expr string, names map[string][]string) {
	t.Helper()
	for _, name := range metricName.FindAllString(expr, -1) {
		if _, is := names[name]; !is {
			t.Errorf("%s asks for %s, which /metrics does not have", where, name)
		}
	}
	for _, m := range matcher.FindAllStringSubmatch(expr, -1) {
		for _, l := range oneMatch.FindAllStringSubmatch(m[2], -1) {
			if l[1] == "job" || l[1] == "instance" {
				continue
			}
			for _, value := range strings.Split(l[3], "|") {
				if !slices.Contains(names[m[1]], l[1]+"="+value) {
					t.Errorf(`%s asks for %s{%s="%s"}, which there is not`, where, m[1], l[1], value)
				}
			}
		}
	}
}

// Every alert asks for what there is, says what it has to, and has its section in the
// runbook, which has none that is no alert's.
func TestAlerts(t *testing.T) {
	names := newTestGateway(t, nil).series()
	text, err := os.ReadFile(runbookFile)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^### (Odin\w+)$`).FindAllStringSubmatch(string(text), -1) {
		sections[m[1]] = false
	}
	for _, r := range alerts(t) {
		wantKnown(t, r.Alert, r.Expr, names)
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if len(r.Annotations["summary"]) < 10 || len(r.Annotations["description"]) < 30 {
			t.Errorf("%s does not say what is going on", r.Alert)
		}
		if want := runbookURL + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
		}
		if _, has := sections[r.Alert]; !has {
			t.Errorf("%s has no section in docs/operations.md", r.Alert)
		}
		sections[r.Alert] = true
	}
	for name, used := range sections {
		if !used {
			t.Errorf("docs/operations.md has a section %s, and there is no such alert", name)
		}
	}
}

// The dashboard asks for what there is, and shows every name that is promised.
func TestDashboard(t *testing.T) {
	names := newTestGateway(t, nil).series()
	panels, exprs := dashboard(t)
	all := strings.Join(exprs, "\n")
	for _, e := range exprs {
		wantKnown(t, "the dashboard", e, names)
	}
	for name := range promised {
		if !regexp.MustCompile(`\bodin_` + name + `(_bucket)?\b`).MatchString(all) {
			t.Errorf("odin_%s is not on the dashboard", name)
		}
	}
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("panel %q has no id of its own", p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %q shows nothing, or does not say what", p.Title)
		}
		for _, what := range p.inSeconds() {
			t.Errorf("panel %q shows %q in seconds", p.Title, what)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, is := taken[[2]int{x, y}]; is {
					t.Fatalf("panels %q and %q lie on each other", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q is beyond the edge", p.Title)
		}
	}
}

// promtool agrees with the configuration, the rules, their tests and the expressions of
// the dashboard.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		const why = "promtool is not here (Debian: apt-get install prometheus)"
		if os.Getenv("ODIN_REQUIRE_PROMETHEUS") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	run := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run(prometheusDir, "check", "config", "--syntax-only", "prometheus.yml") // the key's file is not here
	run(prometheusDir, "check", "rules", "alerts.yml")
	run(prometheusDir, "test", "rules", "alerts_test.yml")

	var tests struct {
		Tests []struct {
			Alerts []struct {
				Name string `yaml:"alertname"`
				Exp  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	text, err := os.ReadFile(filepath.Join(prometheusDir, "alerts_test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &tests); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, a := range test.Alerts {
			fires[a.Name] = fires[a.Name] || len(a.Exp) > 0
			silent[a.Name] = silent[a.Name] || len(a.Exp) == 0
		}
	}
	for _, r := range alerts(t) {
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("no test has %s fire, or none has it stay silent", r.Alert)
		}
	}

	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	_, exprs := dashboard(t)
	for i, e := range exprs {
		e = strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*").Replace(e)
		fmt.Fprintf(&rules, "  - record: query:%d\n    expr: %q\n", i, e)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dashboard.yml"), []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run(dir, "check", "rules", "dashboard.yml")
}

// The table of metrics in the runbook is what the code says; go test ./gateway -run
// TestMetricsTable -update writes it.
func TestMetricsTable(t *testing.T) {
	var lines []string
	line := func(name, label string, values []string, kind, help string) {
		labels := ""
		if label != "" {
			labels = "`" + label + "`: " + strings.Join(values, ", ")
		}
		lines = append(lines, fmt.Sprintf("| `odin_%s` | %s | %s | %s |", name, kind, strings.ReplaceAll(help, "|", `\|`), labels))
	}
	for _, m := range metrics {
		kind := "counter"
		if m.kind == prometheus.GaugeValue {
			kind = "gauge"
		}
		line(m.name, m.label, m.values, kind, m.help)
	}
	help := regexp.MustCompile(`fqName: "odin_(\w+)", help: "([^"]*)"`)
	for desc, kind := range map[*prometheus.Desc]string{buildDesc: "gauge", deliveryDesc: "histogram", loopLagDesc: "histogram"} {
		m := help.FindStringSubmatch(desc.String())
		label := ""
		if desc == buildDesc {
			label = "version"
		}
		line(m[1], label, nil, kind, m[2])
	}
	byName := func(line string) string { return strings.Split(line, "`")[1] }
	sort.Slice(lines, func(i, j int) bool { return byName(lines[i]) < byName(lines[j]) })
	table := "| name | type | what it is | label |\n| --- | --- | --- | --- |\n" + strings.Join(lines, "\n") + "\n"

	const begin, end = "<!-- metrics: written by a test -->\n", "<!-- end of metrics -->"
	text, err := os.ReadFile(runbookFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	was, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/operations.md has no place for the table: %q to %q", begin, end)
	}
	switch {
	case was == table:
	case *update:
		if err := os.WriteFile(runbookFile, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("the table of metrics in docs/operations.md is old: go test ./gateway -run TestMetricsTable -update")
	}
}
