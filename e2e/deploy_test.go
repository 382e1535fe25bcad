package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
)

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
