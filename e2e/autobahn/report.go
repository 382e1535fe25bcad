package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/odin-ws/odin/e2e/autobahn/suite"
)

// column is one runner's results.
type column struct {
	name    string
	results []suite.Result // in the cases' order, the same in every column
	took    time.Duration
}

// report is one or two runners' results beside one another.
type report struct {
	version string
	cores   int
	at      time.Time
	columns []*column
}

func (r *report) add(c *column) { r.columns = append(r.columns, c) }

// failed is how many results, of whatever runner, did not pass.
func (r *report) failed() (n int) {
	for _, c := range r.columns {
		for i := range c.results {
			if !pass(&c.results[i]) {
				n++
			}
		}
	}
	return n
}

// pass is Result.Pass of a server that accepts permessage-deflate unless it is to use a
// small window.
func pass(x *suite.Result) bool {
	return x.Pass() && (x.Behavior != suite.Unimplemented || x.Case.SmallWindow())
}

// summary is a line a runner, and one a failure.
func (r *report) summary() string {
	var b strings.Builder
	for _, c := range r.columns {
		fmt.Fprintf(&b, "%s: %s in %.1f s\n", c.name, counts(c.results), c.took.Seconds())
		for i := range c.results {
			if x := &c.results[i]; !pass(x) {
				fmt.Fprintf(&b, "  %s (%s): %s, %s: %s\n", x.Case.ID, x.Case.Sends, x.Behavior, x.Close, x.Detail)
			}
		}
	}
	return b.String()
}

// counts is how many results have which verdict.
func counts(results []suite.Result) string {
	n := map[suite.Verdict]int{}
	for i := range results {
		if x := &results[i]; pass(x) {
			n[x.Behavior]++
		} else {
			n[suite.Failed]++
		}
	}
	s := fmt.Sprintf("%d cases", len(results))
	for _, v := range []suite.Verdict{suite.OK, suite.NonStrict, suite.Informational, suite.Unimplemented, suite.Failed} {
		if n[v] > 0 || v == suite.Failed {
			s += fmt.Sprintf(", %d %s", n[v], v)
		}
	}
	return s
}

// text is the whole report, in Markdown.
func (r *report) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# make autobahn\n\n%s, %s, %d CPUs.\n", r.version, r.at.Format("2006-01-02 15:04 UTC"), r.cores)
	b.WriteString("Against `odin serve --echo --compression --max-message 17MiB`; what each runner looks at: [conformance.md](../conformance.md).\n\n")
	for _, c := range r.columns {
		fmt.Fprintf(&b, "- %s: %s in %.1f s.\n", c.name, counts(c.results), c.took.Seconds())
	}
	r.unimplemented(&b)
	b.WriteString("\n| case | sent |")
	for _, c := range r.columns {
		fmt.Fprintf(&b, " %s | close | ms |", c.name)
	}
	b.WriteString("\n| --- | --- |" + strings.Repeat(" --- | --- | ---: |", len(r.columns)) + "\n")
	for i := range r.columns[0].results {
		c := r.columns[0].results[i].Case
		if r.nowhere(i) {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s |", c.ID, strings.ReplaceAll(c.Sends, "|", "\\|"))
		for _, col := range r.columns {
			x := &col.results[i]
			end := string(x.Close)
			if x.Code > 0 {
				end += fmt.Sprintf(" %d", x.Code)
			}
			fmt.Fprintf(&b, " %s | %s | %d |", x.Behavior, end, x.Took.Milliseconds())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// nowhere reports whether no runner could run the i-th case, because its offers of the
// extension are declined.
func (r *report) nowhere(i int) bool {
	for _, c := range r.columns {
		if c.results[i].Behavior != suite.Unimplemented || !pass(&c.results[i]) {
			return false
		}
	}
	return true
}

// unimplemented says of how many cases of which section the offers are declined.
func (r *report) unimplemented(b *strings.Builder) {
	n := map[int]int{}
	for i := range r.columns[0].results {
		if r.nowhere(i) {
			n[r.columns[0].results[i].Case.Section()]++
		}
	}
	for _, section := range []int{12, 13} {
		if n[section] > 0 {
			fmt.Fprintf(b, "- Section %d: %d cases offer permessage-deflate only with a window below 32 KiB for the server, which it declines: not run.\n", section, n[section])
		}
	}
}
