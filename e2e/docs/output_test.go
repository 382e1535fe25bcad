package docs

import (
	"regexp"
	"strings"
)

// varying are the parts of output that are another each time, and what stands for each.
var varying = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(?:Z|[+-]\d\d:\d\d)`), "<time>"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d(?:\.\d+)?\b`), "<time>"},
	{regexp.MustCompile(`"(epoch|node|conn)":"[^"]*"`), `"$1":"<id>"`},
	{regexp.MustCompile(`"(seq|prev|ts|after|before|from|to|next|retry_ms|retry_after_ms|pid)":\d+`), `"$1":<n>`},
	{regexp.MustCompile(`\b(epoch|node|pid|seq)=\S+`), "$1=<id>"},
	{regexp.MustCompile(`\be[0-9a-z]{1,16}:\d+\b`), "<position>"},
}

var digits = regexp.MustCompile(`\d+(?:[.,]\d+)*`)

// steady replaces what is another each time.
func steady(line string, numbers bool) string {
	line = strings.TrimSpace(line)
	for _, v := range varying {
		line = v.what.ReplaceAllString(line, v.with)
	}
	if numbers {
		line = digits.ReplaceAllString(line, "<n>")
	}
	return line
}

// missing returns the first line of shown that printed does not have behind the ones
// before it, or "".
func missing(shown, printed string, numbers bool) string {
	lines := strings.Split(printed, "\n")
	for _, want := range strings.Split(shown, "\n") {
		if strings.TrimSpace(want) == "" || strings.TrimSpace(want) == "…" {
			continue
		}
		parts := strings.Split(steady(want, numbers), "…")
		for i, p := range parts {
			parts[i] = regexp.QuoteMeta(p)
		}
		fits := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
		found := false
		for i, got := range lines {
			if fits.MatchString(steady(got, numbers)) {
				lines, found = lines[i+1:], true
				break
			}
		}
		if !found {
			return want
		}
	}
	return ""
}
