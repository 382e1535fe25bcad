package docs

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// broken are documents with one mistake each, and a part of what must be said of it.
var broken = []struct{ name, text, want string }{
	{"a flag that is not there", "```sh docker\nodin serve --replays 5\n```\n", "unknown flag: --replays"},
	{"a value that is none", "```sh docker\nodin serve --replay many\n```\n", "whole number"},
	{"a command that is not there", "Try `odin capcity`.\n", "no such command"},
	{"a flag of a command in running text", "Try `odin capacity --user N`.\n", "unknown flag: --user"},
	{"a command of a group that is not there", "```sh\nodin config chekc odin.yml\n```\n", "no such command"},
	{"a flag in a pipe", "```sh docker\ncat x | odin publish --fast -\n```\n", "unknown flag: --fast"},
	{"a flag in running text", "Give `--replays`.\n", "no command of odin has --replays"},
	{"a variable that nothing reads", "Set `ODIN_REPLAYS`.\n", "nothing reads ODIN_REPLAYS"},
	{"a metric that is not there", "Look at `odin_captivity_ratio`.\n", "no such metric"},
	{"a key that nobody writes", "Look at `slowClientsDisconnect` in `/stats`.\n", "nothing is called slowClientsDisconnect"},
	{"a target that is not there", "```sh docker\nmake benchmark\n```\n", "no target benchmark"},
	{"a target in running text", "See `make e2e-cluster`.\n", "no target e2e-cluster"},
	{"minutes that are not the Makefile's", "```sh\nmake e2e-faults # 2 minutes\n```\n", "and \"Break what"},
	{"a file that is not there", "```sh docker\ndocker compose -f deploy/compose/one.yml up\n```\n", "no deploy/compose/one.yml"},
	{"a path in running text", "See `gateway/wirre`.\n", "no gateway/wirre"},
	{"a test that is not there", "Held by `TestNothingIsLost`.\n", "no test TestNothingIsLost"},
	{"a dead link", "[here](docs/protocoll.md)\n", "there is no docs/protocoll.md"},
	{"a dead link of ours", "[here](https://github.com/odin-ws/odin/blob/main/docs/protocoll.md)\n", "there is no docs/protocoll.md"},
	{"a dead anchor", "[here](docs/protocol.md#gabs)\n", "no heading #gabs"},
	{"a dead anchor of its own", "# One\n\n[here](#two)\n", "no heading #two"},
	{"a picture that is not there", "<picture><img src=\"docs/images/none.png\"></picture>\n", "there is no docs/images/none.png"},
	{"a command without a mark", "```\nodin tail 'trade.*'\n```\n", "nothing runs"},
	{"a command among output", "```sh\ntrue\n```\n```console\n$ make build\n```\n", "nothing runs"},
	{"a command in an indented block", "Run it:\n\n    make build\n", "nothing runs"},
	{"a command in a fence of text", "```text\nkubectl apply -k deploy/kubernetes\n```\n", "nothing runs"},
	{"a language of commands that is not sh", "```bash\nodin version\n```\n", "commands are ```sh"},
	{"a mark without a reason", "```sh not-run:\nodin version\n```\n", "wants a reason"},
	{"a mark that is none", "```sh later\nodin version\n```\n", "unknown mark later"},
	{"output of what is no command", "```yaml\na: 1\n```\n```console\nhello\n```\n", "there are none"},
	{"output after output", "```sh\necho one\n```\n```console\none\n```\n```console\ntwo\n```\n", "there are none"},
	{"commands that are only written down", "```sh file=all.sh\nfalse\n```\n", "not run"},
	{"tests that are not there", "```sh\ngo test -v -run 'TestNobodyKnows|TestNoneIs' ./e2e\n```\n", "no such test"},
	{"output of nothing", "Printed is:\n\n```console\nhello\n```\n", "there are none"},
	{"no shell", "```sh\necho 'a\n```\n", "no shell would take"},
	{"no JSON", "```json\n{\"t\":\"hb\",}\n```\n", "no JSON"},
	{"no JSON in running text", "Send `{\"op\":\"ping\",\"id\":}`.\n", "is no JSON"},
	{"no Go", "```go\nc, err := odin.Dial(ctx\n```\n", "no Go"},
	{"Go that does not compile", "```go\nc, err := odin.Dail(ctx, \"ws://a/ws\", odin.Options{})\n_, _ = c, err\n```\n", "undefined: odin.Dail"},
	{"no JavaScript", "```js\nconst = 1;\n```\n", "no JavaScript"},
	{"an import that is not there", "```js\nimport { dail } from \"@odin-ws/client\";\n```\n", "exports no dail"},
	{"a command that fails", "```sh\nodin config check nothing.yml\n```\n", "exits with 2, not 0"},
	{"a command that should fail and doesn't", "```sh exit=2\nodin version\n```\n", "exits with 0, not 2"},
	{"a gateway that does not start", "```sh\nodin serve --demo --memory-limit 1MiB &\n```\n", "exits with 97"},
	{"a path that a gateway has not", "```sh\ncurl -s http://127.0.0.1:8081/v1/chanels\n```\n", "exits with 22"},
	{"a gateway where another is", "```sh\nodin serve --demo &\nodin serve --demo &\n```\n", "answers on its admin port already"},
	{"a program in the background that is not there", "```sh\nodinn tail &\n```\n", "exits with 127"},
	{"a program in the background that fails", "```sh\nsleep 0.1 && false &\n```\n", "exits with 1, not 0"},
	{"another number", "```sh\nodin capacity --memory 512MiB\n```\n```console\n(512MB − 192MB) / 6KB = 54614\n```\n", "not printed"},
	{"output in another order", "```sh\necho one; echo two\n```\n```console\ntwo\none\n```\n", "not printed"},
	{"another key in an answer", "```sh\nodin publish a.b 1\n```\n```console\n{\"epoch\":\"e7\",\"sequence\":1051}\n```\n", "not printed"},
	{"a key too many in a session", "```text\n→ {\"op\":\"ping\",\"id\":5}\n← {\"t\":\"pong\",\"id\":5,\"ts\":1}\n```\n", "not [id t ts]"},
	{"another value in a session", "```text\n→ {\"op\":\"ping\",\"id\":5}\n← {\"t\":\"pong\",\"id\":6}\n```\n", "id is 5, not 6"},
	{"positions that do not fit", "```text\n→ {\"op\":\"sub\",\"id\":1,\"ch\":[\"a.b\"]}\n" +
		"← {\"t\":\"ack\",\"id\":1,\"ch\":{\"a.b\":{\"epoch\":\"e7\",\"seq\":10}}}\n" +
		"← {\"t\":\"msg\",\"ch\":\"a.b\",\"seq\":12,\"prev\":11,\"ts\":1,\"d\":{}}\n```\n", "prev: 10 and 11 are the same here"},
	{"a message that does not come", "```text\n→ {\"op\":\"sub\",\"id\":1,\"ch\":[\"a.c\"]}\n" +
		"← {\"t\":\"ack\",\"id\":1,\"ch\":{\"a.c\":{\"epoch\":\"e7\",\"seq\":10}}}\n" +
		"← {\"t\":\"msg\",\"ch\":\"a.c\",\"seq\":12,\"prev\":10,\"ts\":1,\"d\":{}}\n" +
		"← {\"t\":\"msg\",\"ch\":\"a.c\",\"seq\":12,\"prev\":10,\"ts\":1,\"d\":{}}\n```\n", "nothing more"},
	{"a command that is refused", "```text\n→ {\"op\":\"subscribe\",\"id\":1,\"ch\":[\"a.b\"]}\n```\n", "refuses this"},
	{"a frame with a key too many", "```json\n{\"t\":\"hb\",\"ts\":1,\"seq\":3}\n```\n", "never sends \"seq\""},
	{"a frame without a key", "Then `{\"t\":\"msg\",\"ch\":\"a\",\"seq\":1,\"ts\":1,\"d\":{}}` comes.\n", "always sends \"prev\""},
	{"a frame that is never sent", "Then `{\"t\":\"gone\"}` comes.\n", "no such frame"},
	{"an op that is none", "Send `{\"op\":\"subscribe\",\"ch\":[\"a\"]}`.\n", "refused: bad_request"},
	{"another default", "| | default | flag |\n| --- | --- | --- |\n| behind | 128, then cut | `--send-queue` |\n", "is said to be 128"},
	{"another default in running text", "For as long as `--drain` (20 s) says.\n", "is said to be 20 s"},
	{"another of two defaults", "| | default | flag |\n| --- | --- | --- |\n| commands | 100 at once, then 20 a second | `--rate-burst`, `--rate-per-sec` |\n", "is said to be 20"},
	{"another capacity", "It holds 54 614 in 512 MiB.\n", "says 54613"},
	{"another capacity in a table", "| 256 MiB | 16 385 | 728 | 2 621 |\n", "says 16384"},
}

// sound is a document in which nothing is wrong, with a bit of everything.
const sound = "# One\n\nTo [one](#one), by `odin tail` and `--replay`, see `gateway/wire` and `make bench`.\n\n" +
	"```yaml file=odin.yml\nreplay: 50\n```\n\n" +
	"```sh\nodin config check odin.yml\nodin serve --demo --config odin.yml &   # ready when the next line is typed\n" +
	"odin tail 'trade.*'\nodin publish a.b '{\"x\":1}'\n```\n```console\n{\"epoch\":\"e7\",\"seq\":1051}\n```\n\n" +
	"```sh exit=2\nodin serve --replay many\n```\n\n```sh not-run: nobody is there to see it\nmake bench\n```\n\n" +
	"```text\n→ {\"op\":\"ping\",\"id\":5}\n← {\"t\":\"pong\",\"id\":5}\n```\n"

// TestBrokenDocuments is the test's own: each mistake must be found, and by its name;
// in a sound document nothing must be.
func TestBrokenDocuments(t *testing.T) {
	t.Parallel()
	c := newChecker(t)
	g := startGateway(t, c)
	seen := everyFrame(t, c)
	defaults := map[string]any{}
	out, err := exec.Command(c.odin, "config", "print", "--defaults").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(out, &defaults); err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, text string) []problem {
		t.Helper()
		d := parse("README.md", []byte(text))
		bad := append(c.fencesOf(d), c.linksOf(d)...)
		bad = append(bad, c.static(d)...)
		bad = append(bad, c.jsonOf(d)...)
		_, more := defaultsOf(d, defaults)
		bad = append(bad, more...)
		add := func(more []problem, err error) {
			if err != nil {
				t.Fatal(err)
			}
			bad = append(bad, more...)
		}
		add(c.capacities(d))
		add(c.jsOf(d, t.TempDir()))
		for _, f := range d.fences {
			if f.lang == "go" {
				dir := t.TempDir()
				add(c.goOf([]*document{d}, dir, append(environ(t, dir), "CGO_ENABLED=0")))
			}
			if lines := session(f); lines != nil {
				p := newPlayer(g)
				p.patience = 5 * time.Second // what is missing will not come
				add(p.play(d, lines))
			}
		}
		bad = append(bad, framesOf(d, seen)...)
		bad = append(bad, opsOf(d, g, t)...)
		if len(bad) > 0 {
			return bad
		}
		dir := t.TempDir()
		typed, err := c.run(d, dir, environ(t, dir))
		if errors.Is(err, errNoNamespace) && !required() {
			t.Skip("note: ", err)
		}
		add(typed.problems, err)
		return bad
	}
	t.Run("a sound one", func(t *testing.T) {
		report(t, check(t, sound))
	})
	for _, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			if strings.HasPrefix(b.want, "no JavaScript") {
				if _, err := exec.LookPath("node"); err != nil {
					t.Skip("note: node is not installed")
				}
			}
			bad := check(t, b.text)
			for _, p := range bad {
				if strings.Contains(p.what, b.want) {
					return
				}
			}
			t.Errorf("not found; found was %v", bad)
		})
	}
}
