package docs

import "strings"

// unrun are commands that documents may show and the test does not run, by how they
// begin, and why. Whoever meets one of them in a document finds it in the test's list.
var unrun = []struct{ command, because string }{
	{"make test", "runs this test"},
	{"make check", "runs this test"},
	{".ci/run", "runs this test, and installs packages"},
	{"make bench", "measures for minutes, on a machine that does nothing else"},
	{"make bench-full", "measures for half an hour, on a machine that does nothing else"},
	{"make bench-uws", "fetches and builds C++"},
	{"make bench-go", "measures for minutes"},
	{"odin bench", "measures for minutes, on a machine that does nothing else"},
	{"make autobahn", "takes minutes; TestAutobahn is its short form"},
	{"make fuzz", "fuzzes for as long as it is told, each target"},
	{"make e2e-faults", "takes 25 minutes; TestFaults is its short form"},
	{"make e2e-hostile", "takes 15 minutes; TestHostile is its short form"},
	{"make e2e-oom", "takes five minutes, and cgroup v1"},
	{"make e2e-vm", "boots an emulated machine"},
	{"make e2e-ktls", "boots an emulated machine"},
	{"make clients", "is a part of make check"},
	{"make clients-js", "is a part of make check, and wants the npm registry"},
	{"make stress", "loads a gateway for minutes"},
	{"make sbom", "fetches a tool"},
	{"make tools", "builds tools for minutes"},
	{"make repro", "is a part of make check"},
	{"bin/faults", "is built by make e2e-faults"},
	{"bin/oom", "is built by make e2e-oom"},
	{"go test", "is a part of make test"},
	{"npm ci", "wants the npm registry"},
	{"npm install", "wants the npm registry, and a release"},
	{"npx", "wants the npm registry"},
	{"go get github.com/odin-ws/odin", "wants the network, and a release"},
	{"odin capacity --measure", "wants a quiet machine"},
}

// unrunReason is why a command is not run, or "" if it is. The longest beginning
// counts, so that make bench is not make bench-full.
func unrunReason(command string) string {
	command = strings.TrimPrefix(command, "bin/odin")
	if strings.HasPrefix(command, " ") {
		command = "odin" + command
	}
	best, why := 0, ""
	for _, u := range unrun {
		rest, ok := strings.CutPrefix(command, u.command)
		if ok && (rest == "" || strings.ContainsAny(rest[:1], " /\n") || strings.HasSuffix(u.command, "odin")) && len(u.command) > best {
			best, why = len(u.command), u.because
		}
	}
	return why
}

// foreign are flags and names of other programs that documents name alone, and whose they are.
var foreign = map[string]string{
	"--concurrency":            "gcloud run",
	"--max-instances":          "gcloud run",
	"--no-cpu-throttling":      "gcloud run",
	"--conntrack-max-per-core": "kube-proxy",
}

// marks are the words behind ```sh that say where a block is run instead.
var marks = map[string]string{
	"docker":  "needs a container engine",
	"kubectl": "needs a Kubernetes cluster",
}
