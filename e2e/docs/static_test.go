package docs

import (
	"context"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// checker holds documents to a checkout and a binary. Any goroutine.
type checker struct {
	*repo
	odin string // absolute path of the binary

	mu    sync.Mutex
	help  map[string]string // what a call of odin with --help printed, or said was wrong
	flags map[string]bool   // of all commands of odin; see allFlags
}

// mark is what the words behind ```sh say.
type mark struct {
	unrun   string // why the block is not run; "" if it is
	exit    int
	bad     string // what is wrong with the mark
	numbers bool
	file    string
}

var fileName = regexp.MustCompile(`^[\w.-]+(/[\w.-]+)*$`)

// readMark understands the words behind a fence's language.
func readMark(words string) mark {
	var m mark
	if reason, ok := strings.CutPrefix(words, "not-run:"); ok {
		if m.unrun = strings.TrimSpace(reason); m.unrun == "" {
			m.bad = "not-run: wants a reason behind it"
		}
		return m
	}
	for _, w := range strings.Fields(words) {
		key, value, _ := strings.Cut(w, "=")
		switch {
		case marks[w] != "":
			m.unrun = marks[w]
		case w == "exit=1":
			m.exit = 1
		case w == "exit=2":
			m.exit = 2
		case w == "numbers":
			m.numbers = true
		case key == "file" && fileName.MatchString(value):
			m.file = value
		default:
			m.bad = "unknown mark " + w + ": want docker, kubectl, not-run: REASON, exit=1, exit=2, file=NAME or numbers"
		}
	}
	return m
}

// languages of fences, and whether they may hold commands that nobody runs.
var languages = map[string]bool{
	"sh": false, "go": false, "js": false, "html": false, "json": false, "yaml": false, "ini": false, "dockerfile": false, "promql": false,
	"": true, "text": true, "console": true, "indented": true,
}

// fences checks how each block is marked: nothing that looks like a command may be
// anywhere but in an sh block.
func (c *checker) fencesOf(d *document) []problem {
	var bad []problem
	for _, f := range d.fences {
		output, known := languages[f.lang]
		switch {
		case !known:
			bad = append(bad, d.bad(f.line, "a fence of language %q: commands are ```sh, output ```console, anything else ```text", f.lang))
			continue
		case f.lang == "sh":
			if m := readMark(f.mark); m.bad != "" {
				bad = append(bad, d.bad(f.line, "```sh %s: %s", f.mark, m.bad))
			} else if m.file != "" {
				bad = append(bad, d.bad(f.line, "```sh %s: what is written to a file is not run; mark it with another language", f.mark))
			}
		case f.mark != "":
			if m := readMark(f.mark); m.bad != "" || m.unrun != "" || m.exit != 0 {
				bad = append(bad, d.bad(f.line, "```%s %s: only file=NAME and numbers go here", f.lang, f.mark))
			}
		}
		if f.lang == "console" && !f.follows {
			bad = append(bad, d.bad(f.line, "```console is what the commands right above it print, and there are none; mark it ```text"))
		}
		if !output {
			continue
		}
		for i, l := range strings.Split(f.text, "\n") {
			if commandLike.MatchString(l) {
				bad = append(bad, d.bad(f.line+i, "%q looks like a command that nothing runs: put it in a ```sh block (doc.go of e2e/docs says how)", strings.TrimSpace(l)))
			}
		}
	}
	return bad
}

// static checks commands without running them: those of all blocks, and those in
// running text.
func (c *checker) static(d *document) []problem {
	var bad []problem
	for _, f := range d.fences {
		if f.lang != "sh" {
			continue
		}
		commands, err := parseShell(f)
		if err != nil {
			bad = append(bad, d.bad(f.line, "no shell would take this block: %v", err))
			continue
		}
		for i, cmd := range commands {
			if i == len(commands)-1 && readMark(f.mark).exit != 0 {
				continue // a mistake that is shown
			}
			for _, call := range cmd.calls {
				bad = append(bad, c.checkCall(d, cmd.line, call, cmd.note)...)
			}
			if f.mark != "" || unrunReason(cmd.text) != "" {
				bad = append(bad, c.checkPaths(d, cmd)...)
			}
		}
	}
	for _, s := range d.spans {
		bad = append(bad, c.checkSpan(d, s)...)
	}
	return bad
}

var (
	spanCommand = regexp.MustCompile(`^(?:make|odin|bin/odin|go test) [\w-]`)
	spanFlag    = regexp.MustCompile(`^--[a-z][a-z0-9-]+`)
	spanEnv     = regexp.MustCompile(`\bODIN_[A-Z][A-Z_]*[A-Z]\b`)
	spanMetric  = regexp.MustCompile(`^odin_[a-z0-9_]+$`)
	spanCamel   = regexp.MustCompile(`^[a-z]+(?:[A-Z][a-z]+)+$`)
	spanTest    = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	spanPath    = regexp.MustCompile(`^\.?[\w-]+(/[\w.*-]+)+/?$`)
	minutes     = regexp.MustCompile(`(\d+) min`)
)

// checkSpan checks code in running text: commands of make and odin, flags, names from
// the environment, tests, paths.
func (c *checker) checkSpan(d *document, s span) []problem {
	var bad []problem
	for _, env := range spanEnv.FindAllString(s.text, -1) {
		flag := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(env, "ODIN_")), "_", "-")
		if !c.allFlags()["--"+flag] && !strings.Contains(c.source, env) {
			bad = append(bad, d.bad(s.line, "nothing reads %s", env))
		}
	}
	switch {
	case spanCommand.MatchString(s.text) && !strings.Contains(s.text, "…"):
		commands, err := parseShell(fence{line: s.line, text: s.text})
		if err != nil {
			return append(bad, d.bad(s.line, "`%s`: %v", s.text, err))
		}
		for _, cmd := range commands {
			for _, call := range cmd.calls {
				bad = append(bad, c.checkMention(d, s.line, call)...)
			}
		}
	case spanFlag.MatchString(s.text):
		flag := spanFlag.FindString(s.text)
		if !c.allFlags()[flag] && foreign[flag] == "" && !c.toolFlags[flag[2:]] && !wholeWord(c.source, flag) {
			bad = append(bad, d.bad(s.line, "no command of odin has %s; if it is another program's, put it into the table foreign of e2e/docs/unrun_test.go", flag))
		}
	case spanMetric.MatchString(s.text):
		if !strings.Contains(c.source, `"`+strings.TrimPrefix(s.text, "odin_")) && !strings.Contains(c.source, s.text) {
			bad = append(bad, d.bad(s.line, "there is no such metric as %s", s.text))
		}
	case spanCamel.MatchString(s.text):
		if !c.words[s.text] && foreign[s.text] == "" {
			bad = append(bad, d.bad(s.line, "nothing is called %s here; if it is another program's, put it into the table foreign of e2e/docs/unrun_test.go", s.text))
		}
	case spanTest.MatchString(s.text):
		if name := spanTest.FindString(s.text); !c.tests[name] {
			bad = append(bad, d.bad(s.line, "there is no test %s", name))
		}
	case spanPath.MatchString(s.text) && c.below(s.text):
		if !c.has(s.text) && !d.writes(s.text) && !strings.HasPrefix(s.text, "docs/results/bench-quick.") {
			bad = append(bad, d.bad(s.line, "there is no %s here", s.text))
		}
	}
	return bad
}

// writes reports whether a block of the document is written to the file.
func (d *document) writes(file string) bool {
	return slices.ContainsFunc(d.fences, func(f fence) bool { return readMark(f.mark).file == file })
}

// wholeWord reports whether a flag stands in text, and not only as the beginning of another.
func wholeWord(text, flag string) bool {
	return regexp.MustCompile(regexp.QuoteMeta(flag) + `(?:[^a-z0-9-]|$)`).MatchString(text)
}

// checkCall checks one call of make or odin: that there is such a target, such a
// command, and that it takes these flags and values.
func (c *checker) checkCall(d *document, line int, call []string, note string) []problem {
	switch name(call) {
	case "make":
		return c.checkMake(d, line, call, note)
	case "go":
		return c.checkGoTest(d, line, call)
	case "odin":
		if what := c.dry(call[1:]); what != "" {
			return []problem{d.bad(line, "odin %s: %s", strings.Join(call[1:], " "), what)}
		}
	}
	return nil
}

// checkMention checks a call in running text: that there is such a target or command,
// and that it has the flags. They may stand there without values, or with N for one.
func (c *checker) checkMention(d *document, line int, call []string) []problem {
	if name(call) != "odin" {
		return c.checkCall(d, line, call, "")
	}
	var path []string
	for _, w := range call[1:] {
		if !lower.MatchString(w) {
			break
		}
		path = append(path, w)
	}
	if what := c.dry(path); what != "" {
		return []problem{d.bad(line, "odin %s: %s", strings.Join(path, " "), what)}
	}
	cmd := exec.Command(c.odin, append(slices.Clone(path), "--help")...)
	cmd.Env = []string{}
	help, err := cmd.Output()
	if err != nil {
		return []problem{d.bad(line, "odin %s --help: %v", strings.Join(path, " "), err)}
	}
	var bad []problem
	for _, w := range call[1:] {
		if flag := spanFlag.FindString(w); flag != "" && !wholeWord(string(help), flag) {
			bad = append(bad, d.bad(line, "odin %s: unknown flag: %s", strings.Join(path, " "), flag))
		}
	}
	return bad
}

var lower = regexp.MustCompile(`^[a-z]+$`)

func (c *checker) checkMake(d *document, line int, call []string, note string) []problem {
	var bad []problem
	for _, w := range call[1:] {
		if strings.Contains(w, "=") || strings.HasPrefix(w, "-") || w == "1" {
			continue
		}
		help, ok := c.targets[w]
		if !ok {
			bad = append(bad, d.bad(line, "the Makefile has no target %s", w))
			continue
		}
		for _, m := range minutes.FindAllString(note, -1) {
			if strings.Contains(help, " min") && !strings.Contains(help, m) {
				bad = append(bad, d.bad(line, "make %s: says %q here, and %q in the Makefile", w, note, help))
			}
		}
	}
	return bad
}

// checkGoTest wants what -run, -bench and -fuzz select to be there: go test is content
// with nothing.
func (c *checker) checkGoTest(d *document, line int, call []string) []problem {
	var bad []problem
	if len(call) < 2 || call[1] != "test" {
		return nil
	}
	for flag, kind := range map[string]string{"-run": "Test", "-bench": "Benchmark", "-fuzz": "Fuzz"} {
		pattern := flagValue(call, flag, "^$")
		if pattern == "^$" || pattern == "1" || pattern == "." {
			continue
		}
		pattern, _, _ = strings.Cut(pattern, "/")
		fits, err := regexp.Compile(pattern)
		if err != nil {
			bad = append(bad, d.bad(line, "go test %s: %v", flag, err))
			continue
		}
		found := false
		for name := range c.tests {
			found = found || strings.HasPrefix(name, kind) && fits.MatchString(name)
		}
		if !found {
			bad = append(bad, d.bad(line, "go test %s %s: there is no such test", flag, pattern))
		}
	}
	return bad
}

// dry parses a call of odin by asking it for help behind everything else, and says
// what is wrong, or nothing.
func (c *checker) dry(args []string) string {
	// Whatever is not a flag could be a pipe's data or a file; flags come with their
	// values, and help comes last, so all before it is parsed.
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	key := strings.Join(args, "\x00")
	c.mu.Lock()
	defer c.mu.Unlock()
	if said, ok := c.help[key]; ok {
		return said
	}
	if c.help == nil {
		c.help = map[string]string{}
	}
	c.help[key] = c.ask(args)
	return c.help[key]
}

var usageLine = regexp.MustCompile(`(?m)^Usage:\n  (odin(?: [a-z]+)*)`)

func (c *checker) ask(args []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.odin, append(slices.Clone(args), "--help")...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		first, _, _ := strings.Cut(string(out), "\n")
		return first
	}
	m := usageLine.FindStringSubmatch(string(out))
	if m == nil {
		return "its help names no usage"
	}
	path := strings.Fields(m[1])[1:]
	group := strings.Contains(string(out), "Available Commands:")
	if len(args) > len(path) && group && !strings.HasPrefix(args[len(path)], "-") && args[len(path)] != "help" {
		return "there is no such command"
	}
	return ""
}

// allFlags are the flags of all commands of odin.
func (c *checker) allFlags() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flags != nil {
		return c.flags
	}
	c.flags = map[string]bool{}
	var walk func(path []string)
	walk = func(path []string) {
		cmd := exec.Command(c.odin, append(slices.Clone(path), "--help")...)
		cmd.Env = []string{}
		out, _ := cmd.Output()
		for _, m := range helpFlag.FindAllString(string(out), -1) {
			c.flags[strings.TrimSpace(m)] = true
		}
		_, commands, _ := strings.Cut(string(out), "Available Commands:\n")
		commands, _, _ = strings.Cut(commands, "\n\n")
		for _, l := range strings.Split(commands, "\n") {
			if f := strings.Fields(l); len(f) > 0 && f[0] != "help" && len(path) < 3 {
				walk(append(slices.Clone(path), f[0]))
			}
		}
	}
	walk(nil)
	return c.flags
}

var helpFlag = regexp.MustCompile(`--[a-z][a-z0-9-]+`)

// checkPaths wants what a command names below a directory of the repository to be
// there. For what is run there is no need: it would fail.
func (c *checker) checkPaths(d *document, cmd command) []problem {
	var bad []problem
	for _, call := range cmd.calls {
		for _, w := range call[1:] {
			_, value, ok := strings.Cut(w, "=")
			if !ok {
				value = w
			}
			value = strings.TrimPrefix(value, "./")
			if spanPath.MatchString(value) && c.below(value) && !c.has(value) {
				bad = append(bad, d.bad(cmd.line, "there is no %s here", value))
			}
		}
	}
	return bad
}
