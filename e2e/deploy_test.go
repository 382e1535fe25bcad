package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// compose is as much of the compose file format as ours use: a key that is not
// here is a mistake, or belongs here.
type compose struct {
	Name     string             `yaml:"name"`
	Services map[string]service `yaml:"services"`
	Volumes  map[string]any     `yaml:"volumes"`
	Networks map[string]struct {
		IPAM struct {
			Config []struct {
				Subnet string `yaml:"subnet"`
			} `yaml:"config"`
		} `yaml:"ipam"`
	} `yaml:"networks"`
	Odin any `yaml:"x-odin"`
	NATS any `yaml:"x-nats"`
}

type service struct {
	Build       string            `yaml:"build"`
	Image       string            `yaml:"image"`
	Command     []string          `yaml:"command"`
	Restart     string            `yaml:"restart"`
	MemLimit    string            `yaml:"mem_limit"`
	DependsOn   []string          `yaml:"depends_on"`
	Networks    []string          `yaml:"networks"`
	Ports       []string          `yaml:"ports"`
	Environment map[string]string `yaml:"environment"`
	Volumes     []string          `yaml:"volumes"`
	StopGrace   string            `yaml:"stop_grace_period"`
	Ulimits     map[string]int    `yaml:"ulimits"`
	Healthcheck struct {
		Test     []string `yaml:"test"`
		Interval string   `yaml:"interval"`
		Timeout  string   `yaml:"timeout"`
		Retries  int      `yaml:"retries"`
	} `yaml:"healthcheck"`
}

// TestComposeCluster checks deploy/compose/cluster.yml as far as that goes without
// Docker: what it refers to is there, and each program takes its part of it.
func TestComposeCluster(t *testing.T) {
	const dir = "../deploy/compose"
	b, err := os.ReadFile(filepath.Join(dir, "cluster.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		t.Fatal(err)
	}
	gateways, brokers := 0, 0
	for name, s := range c.Services {
		if s.Image == "" {
			t.Errorf("%s has no image", name)
		}
		for _, d := range s.DependsOn {
			if _, ok := c.Services[d]; !ok {
				t.Errorf("%s depends on %s, which is no service", name, d)
			}
		}
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s: no network %s", name, n)
			}
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(from, ".") {
				if _, err := os.Stat(filepath.Join(dir, from)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else if _, ok := c.Volumes[from]; !ok {
				t.Errorf("%s: no volume %s", name, from)
			}
		}
		switch {
		case strings.HasPrefix(name, "odin-"):
			gateways++
			if s.Environment["ODIN_TRUSTED_PROXY"] != c.Networks["odin"].IPAM.Config[0].Subnet {
				t.Errorf("%s believes %s, and HAProxy is in %s", name, s.Environment["ODIN_TRUSTED_PROXY"], c.Networks["odin"].IPAM.Config[0].Subnet)
			}
			cmd := exec.Command(odin(t), "config", "print")
			cmd.Env = cleanEnv()
			for k, v := range s.Environment {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: odin config print: %v\n%s", name, err, out)
			}
			grace, err := time.ParseDuration(s.StopGrace)
			drain, err2 := time.ParseDuration(s.Environment["ODIN_DRAIN"])
			if err != nil || err2 != nil || grace < drain+5*time.Second {
				t.Errorf("%s is killed after %s, and may drain for %s and 5 s", name, s.StopGrace, s.Environment["ODIN_DRAIN"])
			}
		case strings.HasPrefix(name, "nats-"):
			brokers++
			if s.Environment["NATS_NAME"] != name || !slices.ContainsFunc(s.Volumes, func(v string) bool { return strings.HasPrefix(v, name+":") }) {
				t.Errorf("%s must have its own name and data: %+v", name, s)
			}
		}
	}
	if gateways != 3 || brokers != 3 {
		t.Errorf("%d gateways and %d NATS servers, want three each", gateways, brokers)
	}
}

// TestNATSConfig has nats-server read the configuration that is shipped.
func TestNATSConfig(t *testing.T) {
	dir, err := buildFaults()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "nats-server"), "-t", "-c", "../deploy/nats/cluster.conf")
	cmd.Env = append(cleanEnv(), "NATS_NAME=nats-1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestHAProxyConfig has HAProxy read the configuration that is shipped.
func TestHAProxyConfig(t *testing.T) {
	if haproxy() == "" {
		needs(t, "ODIN_REQUIRE_HAPROXY", "no HAProxy here (Debian: apt-get install haproxy)")
	}
	cmd := exec.Command(haproxy(), "-c", "-f", "../deploy/haproxy/haproxy.cfg")
	cmd.Env = cleanEnv() // its defaults name the services of the compose file
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
