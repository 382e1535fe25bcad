package docs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestDefaults holds what is said of defaults to the binary: tables with a column
// "default" and one of flags, and a quantity in parentheses right behind a flag.
func TestDefaults(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	out, err := exec.Command(c.odin, "config", "print", "--defaults").Output()
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]any{}
	if err := yaml.Unmarshal(out, &defaults); err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, d := range all(t, c) {
		n, problems := defaultsOf(d, defaults)
		rows += n
		report(t, problems)
	}
	if rows < 10 {
		t.Errorf("only %d rows with a default were found", rows)
	}
}

var (
	inProse  = regexp.MustCompile("`--([a-z][a-z-]+)` \\((\\d[\\w ]*)\\)")
	flagSpan = regexp.MustCompile("`--([a-z][a-z-]+)`")
	quantity = regexp.MustCompile(`\d[\d ]*(?:\.\d+)? ?(?:KiB|MiB|GiB|ms|s\b|h\b|min\b)?`)
)

// defaultsOf compares what d says of defaults. In the rows of tables: the quantities in the column
// "default" with the flags of the row, in order. A row that begins with a word, as
// "computed" or "off", has no quantity of its own.
func defaultsOf(d *document, defaults map[string]any) (rows int, bad []problem) {
	column := -1
	for i, l := range strings.Split(string(d.src), "\n") {
		for _, m := range inProse.FindAllStringSubmatch(l, -1) {
			if def, ok := defaults[strings.ReplaceAll(m[1], "-", "_")]; ok && fmt.Sprint(def) != "" {
				rows++
				if want, got := amount(m[2]), amount(fmt.Sprint(def)); want != got {
					bad = append(bad, d.bad(i+1, "--%s is said to be %s by default, and is %v", m[1], m[2], def))
				}
			}
		}
		if !strings.HasPrefix(l, "|") {
			column = -1
			continue
		}
		cells := strings.Split(strings.Trim(l, "|"), "|")
		if column < 0 {
			for n, cell := range cells {
				if strings.TrimSpace(cell) == "default" {
					column = n
				}
			}
			continue
		}
		if column >= len(cells) || strings.Contains(l, "---") {
			continue
		}
		said := strings.TrimSpace(cells[column])
		if said == "" || said[0] < '0' || said[0] > '9' {
			continue
		}
		quantities := quantity.FindAllString(said, -1)
		for _, m := range flagSpan.FindAllStringSubmatch(strings.Join(append(cells[:column:column], cells[column+1:]...), "|"), -1) {
			if len(quantities) == 0 {
				break
			}
			rows++
			def, ok := defaults[strings.ReplaceAll(m[1], "-", "_")]
			if !ok || fmt.Sprint(def) == "" {
				continue // another command's, or computed
			}
			if want, got := amount(quantities[0]), amount(fmt.Sprint(def)); want != got {
				bad = append(bad, d.bad(i+1, "--%s is said to be %s by default, and is %v", m[1], quantities[0], def))
			}
			quantities = quantities[1:]
		}
	}
	return rows, bad
}

// amount makes "64 KiB" and "64KiB", "5 s" and "5s" the same: a number with the unit of
// bytes or seconds, or as it is.
func amount(text string) string {
	text = strings.ReplaceAll(strings.TrimSpace(text), " ", "")
	for unit, n := range map[string]float64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if v, ok := strings.CutSuffix(text, unit); ok {
			f, _ := strconv.ParseFloat(v, 64)
			return fmt.Sprintf("%.0fB", f*n)
		}
	}
	if v, err := time.ParseDuration(strings.Replace(text, "min", "m", 1)); err == nil {
		return v.String()
	}
	return text
}

// TestCapacityFigures holds the number of connections that README and docs/capacity.md
// are about to what the binary computes.
func TestCapacityFigures(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	for _, d := range all(t, c) {
		problems, err := c.capacities(d)
		if err != nil {
			t.Fatal(err)
		}
		report(t, problems)
	}
}

var (
	sizing   = regexp.MustCompile(`(?m)^\| (\d+ [MG]iB) \| \**([\d ]+)\** \| \**([\d ]+)\** \| \**([\d ]+)\** \|$`)
	inMemory = regexp.MustCompile(`(\d[\d ]*\d) (?:connections )?in (\d+) ?MiB`)
)

// capacities checks the rows of a table of container sizes (event-loop, goroutine,
// goroutine without replay) and "N in M MiB".
func (c *checker) capacities(d *document) ([]problem, error) {
	var bad []problem
	ask := func(line int, said string, args ...string) error {
		out, err := exec.Command(c.odin, append([]string{"capacity", "--json"}, args...)...).Output()
		if err != nil {
			return fmt.Errorf("odin capacity %v: %w", args, err)
		}
		var is struct{ Max int }
		if err := json.Unmarshal(out, &is); err != nil {
			return err
		}
		if strings.ReplaceAll(said, " ", "") != strconv.Itoa(is.Max) {
			bad = append(bad, d.bad(line, "%s connections are said to fit, and odin capacity %s says %d", said, strings.Join(args, " "), is.Max))
		}
		return nil
	}
	at := func(offset int) int { return 1 + bytes.Count(d.src[:offset], []byte("\n")) }
	for _, m := range sizing.FindAllSubmatchIndex(d.src, -1) {
		field := func(i int) string { return strings.TrimSpace(string(d.src[m[2*i]:m[2*i+1]])) }
		memory := strings.ReplaceAll(field(1), " ", "")
		for i, args := range [][]string{nil, {"--profile", "goroutine"}, {"--profile", "goroutine", "--replay", "0"}} {
			if err := ask(at(m[0]), field(i+2), append([]string{"--memory", memory}, args...)...); err != nil {
				return nil, err
			}
		}
	}
	for _, m := range inMemory.FindAllSubmatchIndex(d.src, -1) {
		if err := ask(at(m[0]), string(d.src[m[2]:m[3]]), "--memory", string(d.src[m[4]:m[5]])+"MiB"); err != nil {
			return nil, err
		}
	}
	return bad, nil
}
