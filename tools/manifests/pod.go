package manifests

import (
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// checkPod checks the pod of a gateway, and returns its effective settings too. claims are
// the names of the volumes that a StatefulSet adds.
func checkPod(p *core.PodTemplateSpec, claims []string, odin Odin) (settings map[string]string, wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	s := &p.Spec
	if len(s.Containers) != 1 {
		return nil, []string{fmt.Sprintf("%d containers, want one", len(s.Containers))}
	}
	c := &s.Containers[0]
	if !pinned(c.Image) {
		bad("image %s names no version", c.Image)
	}
	if s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken {
		bad("the pod is given a token for the API server, of which it asks nothing")
	}
	if s.EnableServiceLinks == nil || *s.EnableServiceLinks {
		bad("Kubernetes' own variables for a service odin begin as the gateway's do: enableServiceLinks must be false")
	}

	settings, err := odin.Settings(environment(c), serveFlags(c.Args, &wrong))
	if err != nil {
		return nil, append(wrong, err.Error())
	}
	before := time.Duration(0)
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil && c.Lifecycle.PreStop.Sleep != nil {
		before = time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	} else {
		bad("without a pause before the signal, nodes that haven't heard of it yet send clients to a pod that drains")
	}
	if s.TerminationGracePeriodSeconds == nil {
		bad("no terminationGracePeriodSeconds")
	} else {
		wrong = append(wrong, enoughGrace(time.Duration(*s.TerminationGracePeriodSeconds)*time.Second, before, settings)...)
	}

	wrong = append(wrong, checkSecurity(s, c)...)
	for _, name := range []core.ResourceName{core.ResourceMemory, core.ResourceCPU} {
		request, limit := c.Resources.Requests[name], c.Resources.Limits[name]
		if limit.IsZero() || request.Cmp(limit) != 0 {
			bad("%s: request %s and limit %s must be there, and the same", name, request.String(), limit.String())
		}
	}
	for name, want := range map[string]string{"public": settings["addr"], "admin": settings["admin_addr"]} {
		if got := containerPort(c, intstr.FromString(name)); got == 0 || got != portOf(want) {
			bad("port %s is %d, and the gateway listens on %s", name, got, want)
		}
	}
	for name, probe := range map[string]struct {
		*core.Probe
		path string
	}{"startup": {c.StartupProbe, "/healthz"}, "liveness": {c.LivenessProbe, "/healthz"}, "readiness": {c.ReadinessProbe, "/readyz"}} {
		switch get := probe.Probe; {
		case get == nil || get.HTTPGet == nil:
			bad("no %s probe by HTTP", name)
		case get.HTTPGet.Path != probe.path || containerPort(c, get.HTTPGet.Port) != portOf(settings["addr"]):
			bad("the %s probe asks %s on port %s; it is %s on the public one", name, get.HTTPGet.Path, get.HTTPGet.Port.String(), probe.path)
		}
	}
	return settings, append(wrong, checkVolumes(s, c, claims, settings)...)
}

// checkSecurity holds a pod against the restricted profile of the pod security standards,
// and to a root that can't be written to.
func checkSecurity(s *core.PodSpec, c *core.Container) (wrong []string) {
	pod, own := s.SecurityContext, c.SecurityContext
	if pod == nil || own == nil {
		return []string{"no security context"}
	}
	yes := func(b *bool) bool { return b != nil && *b }
	for what, ok := range map[string]bool{
		"runAsNonRoot must be true":                                          yes(pod.RunAsNonRoot),
		"runAsUser, runAsGroup and fsGroup must be the image's user, 65532":  is(pod.RunAsUser) && is(pod.RunAsGroup) && is(pod.FSGroup),
		"seccompProfile must be RuntimeDefault":                              pod.SeccompProfile != nil && pod.SeccompProfile.Type == core.SeccompProfileTypeRuntimeDefault,
		"readOnlyRootFilesystem must be true":                                yes(own.ReadOnlyRootFilesystem),
		"allowPrivilegeEscalation must be false":                             own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation,
		"all capabilities must be dropped":                                   own.Capabilities != nil && slices.Contains(own.Capabilities.Drop, "ALL") && len(own.Capabilities.Add) == 0,
		"the container must not be privileged or take the host's namespaces": !yes(own.Privileged) && !s.HostNetwork && !s.HostPID && !s.HostIPC,
	} {
		if !ok {
			wrong = append(wrong, what)
		}
	}
	return wrong
}

func is(id *int64) bool { return id != nil && *id == 65532 }

// checkVolumes checks that what is mounted is there, what is there is mounted, and the
// gateway may write where it has to and has its keys from a Secret.
func checkVolumes(s *core.PodSpec, c *core.Container, claims []string, settings map[string]string) (wrong []string) {
	have := map[string]*core.Volume{}
	for i := range s.Volumes {
		have[s.Volumes[i].Name] = &s.Volumes[i]
	}
	for _, name := range claims {
		if have[name] != nil {
			wrong = append(wrong, "volume "+name+" is there twice")
		}
		have[name] = &core.Volume{Name: name}
	}
	mounted := map[string]*core.VolumeMount{}
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		if have[m.Name] == nil {
			wrong = append(wrong, "no volume "+m.Name+", which is mounted")
		}
		mounted[m.MountPath] = m
	}
	for name := range have {
		if !slices.ContainsFunc(c.VolumeMounts, func(m core.VolumeMount) bool { return m.Name == name }) {
			wrong = append(wrong, "volume "+name+" is mounted nowhere")
		}
	}
	// The image's ODIN_DATA_DIR, unless another is set.
	for _, dir := range []string{"/tmp", "/data"} {
		if m := mounted[dir]; m == nil || m.ReadOnly {
			wrong = append(wrong, dir+" must be a volume that can be written to")
		}
	}
	dir, file := splitPath(settings["publish_key_file"])
	m := mounted[dir]
	if m == nil || !m.ReadOnly || have[m.Name] == nil || have[m.Name].Secret == nil ||
		!slices.ContainsFunc(have[m.Name].Secret.Items, func(i core.KeyToPath) bool { return i.Path == file }) {
		wrong = append(wrong, "the keys of the admin port, "+settings["publish_key_file"]+", must be an item of a Secret, mounted to read")
	}
	return wrong
}

// splitPath is a file's directory, without the slash, and name.
func splitPath(path string) (dir, file string) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	return path[:i], path[i+1:]
}

// environment is what a container's process gets, with examples for what only a cluster
// knows. The image's own is not in it.
func environment(c *core.Container) map[string]string {
	env := map[string]string{}
	for _, e := range c.Env {
		switch {
		case e.ValueFrom == nil:
			env[e.Name] = e.Value
		case e.ValueFrom.SecretKeyRef != nil && strings.HasSuffix(e.Name, "_URL"):
			env[e.Name] = "nats://user:password@nats.example:4222"
		default:
			env[e.Name] = "example"
		}
	}
	return env
}

// serveFlags are the flags in the arguments of a container that serves.
func serveFlags(args []string, wrong *[]string) []string {
	if len(args) == 0 || args[0] != "serve" {
		*wrong = append(*wrong, fmt.Sprintf("the arguments are %q, want serve first", args))
		return nil
	}
	return args[1:]
}

// containerPort is the number of a port that is given by name or number, 0 for one that
// the container doesn't have.
func containerPort(c *core.Container, port intstr.IntOrString) int {
	for _, p := range c.Ports {
		if p.Name == port.StrVal && port.Type == intstr.String || port.Type == intstr.Int && p.ContainerPort == port.IntVal {
			return int(p.ContainerPort)
		}
	}
	return 0
}
