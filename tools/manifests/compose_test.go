package manifests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

func dockerfile(t *testing.T) *Dockerfile {
	t.Helper()
	d, err := ReadDockerfile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestCompose(t *testing.T) {
	for _, file := range []string{"compose.yml", "cluster.yml"} {
		t.Run(file, func(t *testing.T) {
			p, err := Compose(filepath.Join(root, "deploy/compose", file))
			if err != nil {
				t.Fatal(err)
			}
			none(t, CheckCompose(p, dockerfile(t), binary))
		})
	}
}

// TestComposeCluster checks what only cluster.yml has: three of each, which know each
// other.
func TestComposeCluster(t *testing.T) {
	p, err := Compose(filepath.Join(root, "deploy/compose/cluster.yml"))
	if err != nil {
		t.Fatal(err)
	}
	gateways, brokers := 0, 0
	for name, s := range p.Services {
		switch {
		case strings.HasPrefix(name, "odin-"):
			gateways++
			if node := s.Environment["ODIN_NODE"]; node == nil || *node != name {
				t.Errorf("%s is not called so", name)
			}
			subnet := p.Networks["odin"].Ipam.Config[0].Subnet
			if proxy := s.Environment["ODIN_TRUSTED_PROXY"]; proxy == nil || *proxy != subnet {
				t.Errorf("%s does not believe HAProxy, which is in %s", name, subnet)
			}
		case strings.HasPrefix(name, "nats-"):
			brokers++
			own := false
			for _, v := range s.Volumes {
				own = own || v.Type == types.VolumeTypeVolume && v.Source == name
			}
			if is := s.Environment["NATS_NAME"]; is == nil || *is != name || !own {
				t.Errorf("%s must have its own name and data", name)
			}
		}
	}
	if gateways != 3 || brokers != 3 {
		t.Errorf("%d gateways and %d NATS servers, want three each", gateways, brokers)
	}
}

// TestComposeSecrets checks that no file has a password or a key in it.
func TestComposeSecrets(t *testing.T) {
	for _, file := range []string{"compose.yml", "cluster.yml"} {
		p, err := Compose(filepath.Join(root, "deploy/compose", file))
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range p.Services {
			for k, v := range s.Environment {
				if v != nil && (strings.Contains(k, "PASSWORD") || strings.Contains(k, "API_KEY") || strings.Contains(k, "PUBLISH_KEYS") || strings.Contains(*v, "odin_")) {
					t.Errorf("%s: %s=%s", name, k, *v)
				}
			}
		}
	}
}

// TestComposeKeys runs what makes the keys, twice as two starts would, and looks for the
// one that Prometheus is configured with.
func TestComposeKeys(t *testing.T) {
	p, err := Compose(filepath.Join(root, "deploy/compose/compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	dir, prometheus := t.TempDir(), p.Services["prometheus"]
	for range 2 {
		for _, name := range []string{"key-prometheus", "key-operator"} {
			args := strings.Split(strings.ReplaceAll(strings.Join(p.Services[name].Command, "\n"), "/data/", dir+"/"), "\n")
			if out, err := binary.run(nil, args...); err != nil || out != "" {
				t.Fatalf("%q, %v", out, err)
			}
		}
	}
	lines, err := os.ReadFile(filepath.Join(dir, "keys"))
	if text := string(lines); err != nil || strings.Count(text, "\n") != 2 || !strings.Contains(text, "prometheus metrics - ") || !strings.Contains(text, "operator admin * ") {
		t.Errorf("the gateway is given %q, %v", lines, err)
	}
	config, err := os.ReadFile(filepath.Join(root, "deploy/prometheus/prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(config), "credentials_file: ")
	file, _, _ := strings.Cut(rest, "\n")
	volume, key := filepath.Split(mountOf(&prometheus, strings.TrimSpace(file)))
	if _, err := os.Stat(filepath.Join(dir, key)); err != nil || volume != "keys/" {
		t.Errorf("Prometheus reads %q, in volume %q: %v", file, volume, err)
	}
}

// TestComposeMutants changes one thing at a time, each of which must be found.
func TestComposeMutants(t *testing.T) {
	for _, m := range []struct{ file, old, new, want string }{
		{"compose.yml", "read_only: true", "read_only: false", "read_only"},
		{"compose.yml", "cap_drop: [ALL]", "cap_drop: [CHOWN]", "cap_drop"},
		{"compose.yml", "no-new-privileges:true", "seccomp:unconfined", "no-new-privileges"},
		{"compose.yml", "max-size: 10m", "mode: blocking", "no bound"},
		{"compose.yml", "stop_grace_period: 45s", "stop_grace_period: 30s", "killed after 30s"},
		{"compose.yml", "stop_grace_period", "stop_grace_perod", "stop_grace_perod"},
		{"compose.yml", "ODIN_DRAIN: 30s", "ODIN_DRAIN: 60s", "1m0s to drain"},
		{"compose.yml", "ODIN_NODE: odin", "ODIN_NODES: odin", "ODIN_NODES"},
		{"compose.yml", "memswap_limit: 512m", "memswap_limit: 1g", "swap"},
		{"compose.yml", `"--url", "http://127.0.0.1:8081"`, `"--uri", "http://127.0.0.1:8081"`, "uri"},
		{"compose.yml", "--keep, --add-to", "--kept, --add-to", "kept"},
		{"compose.yml", "--add-to, /data/keys]", "--add-to, /tmp/keys]", "lies in no volume"},
		{"compose.yml", "ODIN_PUBLISH_KEY_FILE: /keys/keys", "ODIN_PUBLISH_KEY_FILE: /keys/key", "nobody makes"},
		{"compose.yml", "key-operator:\n        condition: service_completed_successfully", "key-operator:\n        condition: service_started", "nobody makes"},
		{"compose.yml", "      - data:/data", "      - data:/other", "can't be written to"},
		{"compose.yml", "127.0.0.1:8081:8081", "8081:8081", "port 8081 is for everybody"},
		{"compose.yml", "grafana/grafana:12.0.2", "grafana/grafana", "names no version"},
		{"compose.yml", "prom/prometheus:v3.5.0", "prom/prometheus:latest", "names no version"},
		{"compose.yml", "VERSION: ${", "RELEASE: ${", "no argument RELEASE"},
		{"compose.yml", "pull_policy: never", "pull_policy: missing", "a registry has another"},
		{"compose.yml", "restart: on-failure:3", "build: {context: ../..}", "odin is built for key-operator, too"},
		{"compose.yml", "../grafana/dashboards:", "../grafana/dashboard:", "no such file"},
		{"cluster.yml", "nats-3:4222", "nats-4:4222", "no service nats-4"},
		{"cluster.yml", "nofile: 262144", "nofile: 1024", "nofile"},
		{"cluster.yml", "context: ../..", "context: ..", "no such file"},
		{"cluster.yml", "/haproxy.cfg:ro", "/haproxy.cfg", "can be written to"},
	} {
		t.Run(m.file+"/"+m.new, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(filepath.Join(root, "deploy"))); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "deploy/compose", m.file)
			change(t, file, m.old, m.new)
			p, err := Compose(file)
			var wrong []string
			if err != nil {
				wrong = []string{err.Error()}
			} else {
				wrong = CheckCompose(p, dockerfile(t), binary)
			}
			found(t, wrong, m.want)
		})
	}
}
