package manifests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocs checks every command for Docker or Kubernetes in the documentation, and lists
// them: they are the ones that no test runs.
func TestDocs(t *testing.T) {
	found := 0
	for _, pattern := range []string{"README.md", "docs/*.md", "docs/adr/*.md", "clients/*/README.md", "bench/README.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			blocks, err := Blocks(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range blocks {
				found++
				where := strings.TrimPrefix(b.File, root+"/")
				for _, line := range b.Lines {
					t.Logf("%s:%d: %s", where, b.Line, line)
				}
				for _, w := range CheckBlock(b, root, dockerfile(t), binary) {
					t.Errorf("%s:%d: %s", where, b.Line, w)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no document has a block of such commands: is the convention another one?")
	}
}

// TestDocsMutants has commands with one mistake each.
func TestDocsMutants(t *testing.T) {
	for line, want := range map[string]string{
		"docker compose -f deploy/compose/clustre.yml up":                      "no such file",
		"docker compose -f deploy/compose/cluster.yml kill odin-4":             "no service odin-4",
		"docker compose -f deploy/compose/cluster.yml exec odin-1 sh":          "no other program",
		"docker compose -f deploy/compose/cluster.yml exec odin-1 /odin helth": "unknown command",
		"docker compose -f deploy/compose/cluster.yml --profile x up":          "no service has the profile",
		"docker compose up":                                               "-f FILE",
		"docker build --build-arg RELEASE=1 -t odin .":                    "no argument RELEASE",
		"docker run --rm -e ODIN_MAX_CLIENTS=1 odin":                      "ODIN_MAX_CLIENTS",
		"docker run --rm odin serve --max-clients 1":                      "max-clients",
		"docker run --rm odin capacity --mem 1GiB":                        "mem",
		"docker run --readonly odin":                                      "no check knows --readonly",
		"docker run --rm":                                                 "names no image",
		"gcloud run deploy odin --set-env-vars=ODIN_DRAIN=8s,ODIN_AGE=1h": "ODIN_AGE",
		"docker system prune":                                             "no check knows",
		"docker kill -s HUPP odin":                                        "not told by HUPP",
		"kubectl apply -k deploy/kubernetes/singel":                       "singel",
		"kubectl exec odin-0 -- /odin tale":                               "unknown command",
		"kubectl apply -f deploy/kubernetes/adapter.yaml":                 "no such file",
		"kubectl obliterate pods":                                         "no check knows",
		"odin key new prometheus --rolle admin":                           "rolle",
		"helm upgrade x y --values deploy/kubernetes/no.yaml":             "no such file",
	} {
		found(t, CheckBlock(Block{Lines: []string{line}}, root, dockerfile(t), binary), want)
	}
	found(t, CheckBlock(Block{}, root, dockerfile(t), binary), "no command")
}

func TestBlocks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.md")
	text := "```sh\nnot this\n```\n\n```sh docker\ndocker run \\\n  --rm odin   # a word\n\n# another\ndocker build .\n```\n```\nnor this\n```\n```sh kubectl\nkubectl get pods\n```\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	blocks, err := Blocks(file)
	if err != nil || len(blocks) != 2 || blocks[0].Line != 6 || blocks[0].Kind != "docker" || blocks[1].Kind != "kubectl" ||
		strings.Join(blocks[0].Lines, "|") != "docker run    --rm odin|docker build ." || strings.Join(blocks[1].Lines, "|") != "kubectl get pods" {
		t.Fatalf("%+v, %v", blocks, err)
	}
	if w := words(`a 'b c' "d 'e'" f=''`); strings.Join(w, "|") != "a|b c|d 'e'|f=" {
		t.Errorf("%q", w)
	}
}
