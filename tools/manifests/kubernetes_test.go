package manifests

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const manifests = root + "/deploy/kubernetes"

func offered(t *testing.T) []string {
	t.Helper()
	names, wrong, err := Adapter(filepath.Join(manifests, "prometheus-adapter.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	none(t, wrong)
	return names
}

func TestKubernetes(t *testing.T) {
	adapter := offered(t)
	for _, overlay := range []string{"single", "cluster"} {
		t.Run(overlay, func(t *testing.T) {
			c, err := Kustomize(filepath.Join(manifests, overlay))
			if err != nil {
				t.Fatal(err)
			}
			none(t, c.Check(binary, adapter))
		})
	}
}

// TestKubernetesMutants changes one thing of the manifests at a time, each of which must
// be found, and for the reason named.
func TestKubernetesMutants(t *testing.T) {
	adapter := offered(t)
	for _, m := range []struct{ overlay, file, old, new, want string }{
		{"cluster", "base/deployment.yaml", "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "killed after 30s"},
		{"cluster", "base/deployment.yaml", "value: 30s", "value: 2m", "2m0s to drain"},
		{"cluster", "base/deployment.yaml", "name: ODIN_DRAIN", "name: ODIN_DRIAN", "ODIN_DRIAN"},
		{"cluster", "base/deployment.yaml", "args: [serve]", "args: [serve, --pingg, 5s]", "pingg"},
		{"cluster", "base/deployment.yaml", "args: [serve]", "args: [health]", "want serve first"},
		{"cluster", "base/deployment.yaml", "terminationGracePeriodSeconds", "terminationGraceSeconds", "unknown field"},
		{"cluster", "base/deployment.yaml", "limits: *resources", "limits: {cpu: 2, memory: 1Gi}", "memory: request 512Mi and limit 1Gi"},
		{"cluster", "base/deployment.yaml", "containerPort: 8081", "containerPort: 8082", "port admin is 8082"},
		{"cluster", "base/deployment.yaml", "value: :8080", "value: :9090", "port public is 8080"},
		{"cluster", "base/deployment.yaml", "path: /readyz", "path: /healthz", "readiness probe asks /healthz"},
		{"cluster", "base/deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "readOnlyRootFilesystem"},
		{"cluster", "base/deployment.yaml", "drop: [ALL]", "drop: [CHOWN]", "capabilities"},
		{"cluster", "base/deployment.yaml", "runAsUser: 65532", "runAsUser: 0", "65532"},
		{"cluster", "base/deployment.yaml", "type: RuntimeDefault", "type: Unconfined", "seccomp"},
		{"cluster", "base/deployment.yaml", "enableServiceLinks: false", "enableServiceLinks: true", "enableServiceLinks"},
		{"cluster", "base/deployment.yaml", "mountPath: /tmp", "mountPath: /tmp, readOnly: true", "/tmp must be"},
		{"cluster", "base/deployment.yaml", "value: /keys/keys", "value: /keys/other", "must be an item of a Secret"},
		{"cluster", "base/deployment.yaml", "maxUnavailable: 0", "maxUnavailable: 2", "one pod at a time"},
		{"cluster", "base/deployment.yaml", "seconds: 5", "seconds: 50", "killed after 1m0s"},
		{"cluster", "base/kustomization.yaml", "newTag: dev", "newTag: latest", "names no version"},
		{"cluster", "base/service.yaml", "targetPort: public", "targetPort: http", "no port http"},
		{"cluster", "base/service.yaml", "targetPort: public", "targetPort: admin", "a service of their own"},
		{"cluster", "base/networkpolicy.yaml", "port: public", "port: admin", "more than the public port"},
		{"cluster", "base/namespace.yaml", "enforce: restricted", "enforce: privileged", "restricted profile"},
		{"cluster", "cluster/egress.yaml", "port: 4222", "port: 4223", "speak to NATS"},
		{"cluster", "cluster/nats.yaml", "ODIN_NATS_URL", "ODIN_NATS_URI", "ODIN_NATS_URI"},
		{"cluster", "cluster/autoscaler.yaml", "kind: Deployment", "kind: StatefulSet", "is not there"},
		{"cluster", "cluster/autoscaler.yaml", "name: odin_capacity_ratio", "name: odin_capacity", "not told to offer"},
		{"cluster", "cluster/autoscaler.yaml", "minReplicas: 3", "minReplicas: 1", "at least two"},
		{"cluster", "cluster/disruption.yaml", "    matchLabels:\n      app.kubernetes.io/name: odin", "    matchLabels:\n      app.kubernetes.io/name: other", "does not select"},
		{"cluster", "cluster/kustomization.yaml", "  - ../components/podmonitor\n", "  []\n", "nobody asks for them"},
		{"cluster", "components/podmonitor/podmonitor.yaml", "name: odin-keys", "name: other", "no key of the Secret"},
		{"cluster", "components/podmonitor/podmonitor.yaml", "port: admin", "port: public", "must ask /metrics"},
		{"single", "single/statefulset.yaml", "value: 1}", "value: 2}", "must be one, with a disk"},
		{"single", "single/statefulset.yaml", "value: odin-admin", "value: odin", "no headless Service"},
		{"single", "single/statefulset.yaml", "        name: data", "        name: disk", "no volume data"},
	} {
		t.Run(m.file+"/"+m.new, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "kubernetes")
			if err := os.CopyFS(dir, os.DirFS(manifests)); err != nil {
				t.Fatal(err)
			}
			change(t, filepath.Join(dir, m.file), m.old, m.new)
			c, err := Kustomize(filepath.Join(dir, m.overlay))
			var wrong []string
			if err != nil {
				wrong = []string{err.Error()}
			} else {
				wrong = c.Check(binary, adapter)
			}
			found(t, wrong, m.want)
		})
	}
}

// TestAdapterMutants does the same for the adapter's rule.
func TestAdapterMutants(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(manifests, "prometheus-adapter.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range [][3]string{
		{"seriesQuery:", "seriesQeury:", "seriesQeury"},
		{"pod: {resource: pod}", "pod: {resource: service}", "label pod"},
		{"<<.Series>>", "<<.Serie>>", "Serie"},
		{"^(.*)$", "^(.*$", "missing closing"},
		{"odin_capacity_ratio{namespace", "sum(odin_capacity_ratio){namespace", "names no series"},
	} {
		_, wrong, err := adapter([]byte(strings.Replace(string(b), m[0], m[1], 1)))
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		found(t, wrong, m[2])
	}
}

// change replaces the first old in a file; it must be there.
func change(t *testing.T, file, old, new string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s has no %q", file, old)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// found fails unless something is wrong for the reason.
func found(t *testing.T, wrong []string, reason string) {
	t.Helper()
	if !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, reason) }) {
		t.Errorf("%q was not found out: %q", reason, wrong)
	}
}
