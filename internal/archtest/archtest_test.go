package archtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/odin-ws/odin"

// A rule forbids edges from one set of packages to another. A pattern is an
// import path; "./x" is relative to this module, a trailing "/..." also matches
// what lies below.
type rule struct {
	name    string
	from    []string // whose imports are looked at; of this module only
	except  []string // … but not these
	to      []string // what they must not import
	deep    bool     // nor reach through other packages
	because string
}

// Test files are exempt: a test may bring another client, a real server, a leak
// checker.
var rules = []rule{
	{
		name:    "leaves",
		from:    []string{"./netpoll/...", "./bufpool/...", "./capacity/...", "./internal/tlsrec/...", "./gateway/auth/...", "./internal/market/...", "./internal/ledger/...", "./web/...", "./internal/histogram/..."},
		to:      []string{"./..."},
		deep:    true,
		because: "each can be read, tested and reused without the rest",
	},
	{
		name:    "swarm",
		from:    []string{"./internal/swarm/..."},
		to:      []string{"./gateway/...", "./netpoll/...", "./bufpool/...", "./capacity/...", "./bench/...", "./cmd/..."},
		deep:    true,
		because: "who loads the gateway shares none of its code but the records of TLS, which crypto/tls has judged",
	},
	{
		name:    "secure",
		from:    []string{"./gateway/secure/..."},
		to:      []string{"./gateway", "./gateway/wire/...", "./gateway/channel/...", "./gateway/broker/...", "./capacity/...", "./cmd/..."},
		deep:    true,
		because: "TLS below a loop knows descriptors and bytes, not what is said over them",
	},
	{
		name:    "sysfeed",
		from:    []string{"./gateway/sysfeed/..."},
		to:      []string{"./gateway", "./gateway/channel/...", "./gateway/broker/...", "./netpoll/...", "./cmd/..."},
		deep:    true,
		because: "a channel made in this process is told what it says, and knows no shard and no store",
	},
	{
		name:    "x/crypto",
		from:    []string{"./..."},
		except:  []string{"./internal/tlsrec"},
		to:      []string{"golang.org/x/crypto/..."},
		because: "one home, tlsrec, for the one cipher that Go's own packages lack",
	},
	{
		name:    "wire",
		from:    []string{"./gateway/wire/..."},
		to:      []string{"./gateway", "./gateway/channel/...", "./gateway/broker/...", "./netpoll/...", "./cmd/..."},
		deep:    true,
		because: "the protocol is pure functions: bytes in, bytes and verdicts out",
	},
	{
		name:    "channel",
		from:    []string{"./gateway/channel/..."},
		to:      []string{"./gateway", "./gateway/broker/jetstream/...", "./netpoll/...", "./cmd/..."},
		deep:    true,
		because: "the log knows no connection and no descriptor, and of the store only its interface",
	},
	{
		name:    "broker",
		from:    []string{"./gateway/broker/..."},
		to:      []string{"./gateway", "./gateway/wire/...", "./gateway/channel/...", "./netpoll/...", "./cmd/..."},
		deep:    true,
		because: "a broker delivers to a Sink and doesn't know what stands behind it",
	},
	{
		name:    "gateway and its store",
		from:    []string{"./gateway"},
		to:      []string{"./gateway/broker/jetstream/...", "./gateway/broker/brokertest/...", "./cmd/...", "./internal/market/..."},
		deep:    true,
		because: "the gateway is given a broker.Broker; which one is the command's choice",
	},
	{
		name:    "bench",
		from:    []string{"./bench/..."},
		to:      []string{"./gateway/...", "./cmd/...", "./netpoll/...", "./bufpool/...", "./capacity/..."},
		deep:    true,
		because: "bench is an outsider: it measures the binary users run, over a socket",
	},
	{
		name:    "autobahn",
		from:    []string{"./e2e/autobahn/..."},
		to:      []string{"./gateway/...", "./clients/...", "./cmd/...", "./internal/..."},
		deep:    true,
		because: "the suite's frames are of its own making: a mistake it shared with the server would pass",
	},
	{
		name:    "measured, not measuring",
		from:    []string{"./..."},
		except:  []string{"./bench/...", "./cmd/..."},
		to:      []string{"./bench/..."},
		because: "what is measured must not know the measure; only the command odin bench does",
	},
	{
		name:    "commands",
		from:    []string{"./..."},
		except:  []string{"./cmd/..."},
		to:      []string{"./cmd/..."},
		because: "nothing is built on a command",
	},
	{
		name:    "easygo",
		from:    []string{"./..."},
		except:  []string{"./netpoll", "./bench/rawloop"},
		to:      []string{"github.com/mailru/easygo/..."},
		because: "one home, netpoll, where its traps are fenced in; bench/rawloop is the floor netpoll is measured against",
	},
	{
		name:    "nats",
		from:    []string{"./..."},
		except:  []string{"./gateway/broker/jetstream/...", "./bench/suite"},
		to:      []string{"github.com/nats-io/..."},
		because: "one home, gateway/broker/jetstream; everyone else sees broker.Broker (bench/suite is a publisher from outside)",
	},
	{
		name:    "gobwas",
		from:    []string{"./..."},
		except:  []string{"./gateway/wire", "./gateway", "./bench/rawloop"},
		to:      []string{"github.com/gobwas/..."},
		because: "two homes, the frames in gateway/wire and the upgrade",
	},
	{
		name:    "tokens",
		from:    []string{"./..."},
		except:  []string{"./gateway/auth"},
		to:      []string{"github.com/golang-jwt/...", "github.com/MicahParks/..."},
		because: "one home, gateway/auth, where every key has its one algorithm",
	},
	{
		name:    "compress",
		from:    []string{"./..."},
		except:  []string{"./gateway/wire", "./e2e/autobahn/..."},
		to:      []string{"github.com/klauspost/compress/...", "compress/flate"},
		because: "one home, gateway/wire, where what is inflated is bounded; the conformance suite is a client with its own",
	},
	{
		name:    "ants",
		from:    []string{"./..."},
		except:  []string{"./gateway"},
		to:      []string{"github.com/panjf2000/ants/..."},
		because: "one home, gateway, so that work that may wait is bounded in one place",
	},
	{
		name:    "prometheus",
		from:    []string{"./..."},
		except:  []string{"./gateway"},
		to:      []string{"github.com/prometheus/...", "google.golang.org/protobuf/..."},
		because: "one home, gateway, where a scrape reads the counters there are; nobody else counts for it",
	},
	{
		name:    "command line",
		from:    []string{"./..."},
		except:  []string{"./cmd/..."},
		to:      []string{"github.com/spf13/...", "github.com/knadh/koanf/..."},
		because: "flags, files and the environment belong to cmd; a library takes a Config",
	},
	{
		name:    "test clients",
		from:    []string{"./..."},
		except:  []string{"./cmd/...", "./bench/...", "./e2e/image"},
		to:      []string{"github.com/coder/websocket/...", "github.com/gorilla/websocket/...", "go.uber.org/goleak/...", "github.com/stretchr/..."},
		because: "other people's WebSocket stacks judge the gateway; it isn't made of them",
	},
}

// pkg is the part of `go list -json` looked at here.
type pkg struct {
	ImportPath string
	Module     *struct{ Path string }
	Imports    []string // of the package itself, tests left out
	Deps       []string // with everything below
}

func TestImportDirections(t *testing.T) {
	for _, v := range violations(rules, list(t)) {
		t.Error(v)
	}
}

// Each rule must bite: for every one of them, a package that breaks it is made
// up and must be found.
func TestEveryRuleBites(t *testing.T) {
	for _, r := range rules {
		for _, from := range r.from {
			for _, to := range r.to {
				imported := below(to, "bitten")
				p := pkg{ImportPath: below(from, "biter"), Imports: []string{imported}}
				if len(violations([]rule{r}, []pkg{p})) == 0 {
					t.Errorf("rule %q does not see %s import %s", r.name, p.ImportPath, imported)
				}
				if through := (pkg{ImportPath: p.ImportPath, Deps: []string{imported}}); r.deep && len(violations([]rule{r}, []pkg{through})) == 0 {
					t.Errorf("rule %q does not see %s reach %s", r.name, p.ImportPath, imported)
				}
			}
		}
	}
}

// violations says each edge of pkgs that a rule forbids.
func violations(rules []rule, pkgs []pkg) []string {
	var out []string
	for _, p := range pkgs {
		for _, r := range rules {
			if !matchAny(r.from, p.ImportPath) || matchAny(r.except, p.ImportPath) {
				continue
			}
			for _, imp := range p.Imports {
				if matchAny(r.to, imp) && !sameHome(r, p.ImportPath, imp) {
					out = append(out, fmt.Sprintf("%s imports %s, which rule %q forbids: %s", p.ImportPath, imp, r.name, r.because))
				}
			}
			if !r.deep {
				continue
			}
			for _, dep := range p.Deps {
				if matchAny(r.to, dep) && !sameHome(r, p.ImportPath, dep) && !slices.Contains(p.Imports, dep) {
					out = append(out, fmt.Sprintf("%s reaches %s through another package, which rule %q forbids: %s", p.ImportPath, dep, r.name, r.because))
				}
			}
		}
	}
	return out
}

// sameHome is true for an edge inside one of the rule's own sets: netpoll may
// use netpoll/netpolltest.
func sameHome(r rule, a, b string) bool {
	return slices.ContainsFunc(r.from, func(from string) bool {
		return from != "./..." && match(from, a) && match(from, b)
	})
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, path) })
}

func match(pattern, path string) bool {
	pattern = absolute(pattern)
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return path == pattern
}

// below is an import path that pattern matches.
func below(pattern, name string) string {
	if base, ok := strings.CutSuffix(absolute(pattern), "/..."); ok {
		return base + "/" + name
	}
	return absolute(pattern)
}

func absolute(pattern string) string {
	if rest, ok := strings.CutPrefix(pattern, "./"); ok {
		return module + "/" + rest
	}
	return pattern
}

// list returns this module's packages as `go list` sees them for Linux, the
// only system the gateway runs on.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Module,Imports,Deps", module+"/...")
	cmd.Env = append(cmd.Environ(), "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			if len(pkgs) < 2 {
				t.Fatal("go list found hardly a package: this test would check nothing")
			}
			return pkgs
		case err != nil:
			t.Fatalf("go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}
