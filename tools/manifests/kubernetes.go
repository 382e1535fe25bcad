package manifests

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// workload is the one Deployment or StatefulSet of a Cluster.
type workload struct {
	kind, name, namespace string
	template              *core.PodTemplateSpec
	selector              *meta.LabelSelector
	replicas              *int32
	claims                []string
	service               string // a StatefulSet's
}

func (c *Cluster) workload() (*workload, error) {
	if len(c.Deployments)+len(c.StatefulSets) != 1 {
		return nil, fmt.Errorf("%d Deployments and %d StatefulSets, want one of either", len(c.Deployments), len(c.StatefulSets))
	}
	for _, d := range c.Deployments {
		return &workload{"Deployment", d.Name, d.Namespace, &d.Spec.Template, d.Spec.Selector, d.Spec.Replicas, nil, ""}, nil
	}
	s := c.StatefulSets[0]
	w := &workload{"StatefulSet", s.Name, s.Namespace, &s.Spec.Template, s.Spec.Selector, s.Spec.Replicas, nil, s.Spec.ServiceName}
	for _, v := range s.Spec.VolumeClaimTemplates {
		w.claims = append(w.claims, v.Name)
	}
	return w, nil
}

// selects says whether a selector is there and finds the pods.
func (w *workload) selects(s *meta.LabelSelector) bool {
	if s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return false
	}
	sel, err := meta.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labels.Set(w.template.Labels))
}

// Check returns what is wrong with a gateway's manifests. adapter are the metrics that
// prometheus-adapter is told to offer.
func (c *Cluster) Check(odin Odin, adapter []string) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	w, err := c.workload()
	if err != nil {
		return []string{err.Error()}
	}
	if len(c.Namespaces) != 1 || c.Namespaces[0].Name != w.namespace {
		bad("the namespace %s is not among them", w.namespace)
	} else if c.Namespaces[0].Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		bad("the namespace does not enforce the restricted profile")
	}
	settings, more := checkPod(w.template, w.claims, odin)
	wrong = append(wrong, more...)
	if settings == nil {
		return wrong
	}
	if !w.selects(w.selector) {
		bad("the %s does not select its own pods", w.kind)
	}
	for _, t := range w.template.Spec.TopologySpreadConstraints {
		if !w.selects(t.LabelSelector) {
			bad("the spread over %s does not count these pods", t.TopologyKey)
		}
	}
	wrong = append(wrong, c.checkReplicas(w, settings)...)
	wrong = append(wrong, c.checkServices(w)...)
	wrong = append(wrong, c.checkPolicies(w, settings)...)
	wrong = append(wrong, c.checkAutoscaling(w, adapter)...)
	return append(wrong, c.checkMonitors(w)...)
}

// checkReplicas checks that there is one gateway with a stream of its own, or several on
// one elsewhere, and how they are replaced.
func (c *Cluster) checkReplicas(w *workload, settings map[string]string) (wrong []string) {
	embedded := settings["nats_url"] == ""
	if embedded && (w.kind != "StatefulSet" || w.replicas == nil || *w.replicas != 1 || len(c.Autoscalers) > 0 || len(w.claims) == 0) {
		wrong = append(wrong, "a gateway with the stream in it must be one, with a disk, and stay one: a StatefulSet with replicas: 1, a claim and no autoscaler")
	}
	for _, d := range c.Deployments {
		u := d.Spec.Strategy.RollingUpdate
		if u == nil || u.MaxSurge == nil || u.MaxUnavailable == nil || u.MaxSurge.IntValue() != 1 || u.MaxUnavailable.IntValue() != 0 {
			wrong = append(wrong, "clients live long: replace one pod at a time, the new one first (maxSurge 1, maxUnavailable 0)")
		}
	}
	return wrong
}

// checkServices checks that there is a service for clients without the admin port, and
// a headless one for that.
func (c *Cluster) checkServices(w *workload) (wrong []string) {
	container := &w.template.Spec.Containers[0]
	found := map[string]bool{}
	for _, s := range c.Services {
		if !w.selects(&meta.LabelSelector{MatchLabels: s.Spec.Selector}) {
			wrong = append(wrong, "Service "+s.Name+" does not select the pods")
		}
		for _, p := range s.Spec.Ports {
			if containerPort(container, p.TargetPort) == 0 {
				wrong = append(wrong, fmt.Sprintf("Service %s: the container has no port %s", s.Name, p.TargetPort.String()))
			}
			headless := s.Spec.ClusterIP == core.ClusterIPNone
			if p.TargetPort.StrVal == "admin" && !headless || p.TargetPort.StrVal == "public" && headless {
				wrong = append(wrong, fmt.Sprintf("Service %s: clients have a service of their own, and the admin port a headless one", s.Name))
			}
			found[p.TargetPort.StrVal] = true
		}
	}
	if !found["public"] || !found["admin"] {
		wrong = append(wrong, "a Service is missing: there is one for port public and one for port admin")
	}
	if w.kind == "StatefulSet" {
		ok := false
		for _, s := range c.Services {
			ok = ok || s.Name == w.service && s.Spec.ClusterIP == core.ClusterIPNone
		}
		if !ok {
			wrong = append(wrong, "the StatefulSet's service "+w.service+" is no headless Service")
		}
	}
	return wrong
}

// checkPolicies checks that the pods are shielded: the admin port is not for all, and
// they reach what they need.
func (c *Cluster) checkPolicies(w *workload, settings map[string]string) (wrong []string) {
	container := &w.template.Spec.Containers[0]
	open, shielded, brokers := false, false, false
	for _, p := range c.Policies {
		if !w.selects(&p.Spec.PodSelector) {
			wrong = append(wrong, "NetworkPolicy "+p.Name+" does not select the pods")
		}
		shielded = shielded || len(p.Spec.PolicyTypes) == 2
		for _, in := range p.Spec.Ingress {
			for _, port := range in.Ports {
				if port.Port == nil || containerPort(container, *port.Port) == 0 {
					wrong = append(wrong, fmt.Sprintf("NetworkPolicy %s: the container has no port %v", p.Name, port.Port))
					continue
				}
				if len(in.From) == 0 && port.Port.StrVal != "public" {
					wrong = append(wrong, "NetworkPolicy "+p.Name+" opens more than the public port to all")
				}
				open = open || len(in.From) == 0
			}
			if len(in.Ports) == 0 {
				wrong = append(wrong, "NetworkPolicy "+p.Name+" opens all ports")
			}
		}
		for _, out := range p.Spec.Egress {
			for _, port := range out.Ports {
				brokers = brokers || port.Port != nil && *port.Port == intstr.FromInt32(4222)
			}
		}
	}
	if !shielded || !open {
		wrong = append(wrong, "a NetworkPolicy for both directions must let clients in, and no more")
	}
	if settings["nats_url"] != "" && !brokers {
		wrong = append(wrong, "the gateway is to speak to NATS, and no NetworkPolicy lets it")
	}
	return wrong
}

// checkAutoscaling checks autoscalers and disruption budgets.
func (c *Cluster) checkAutoscaling(w *workload, adapter []string) (wrong []string) {
	for _, b := range c.Budgets {
		if !w.selects(b.Spec.Selector) {
			wrong = append(wrong, "PodDisruptionBudget "+b.Name+" does not select the pods")
		}
	}
	for _, a := range c.Autoscalers {
		if t := a.Spec.ScaleTargetRef; t.Kind != w.kind || t.Name != w.name || t.APIVersion != "apps/v1" {
			wrong = append(wrong, fmt.Sprintf("the autoscaler is for %s %s, which is not there", t.Kind, t.Name))
		}
		if w.replicas != nil {
			wrong = append(wrong, "with an autoscaler the workload must not say replicas: applying it would take back what the autoscaler decided")
		}
		if a.Spec.MinReplicas == nil || *a.Spec.MinReplicas < 2 || len(c.Budgets) == 0 {
			wrong = append(wrong, "several gateways are at least two, and have a PodDisruptionBudget")
		}
		for _, m := range a.Spec.Metrics {
			if m.Pods == nil || !slices.Contains(adapter, m.Pods.Metric.Name) {
				wrong = append(wrong, "the autoscaler goes by a metric that prometheus-adapter is not told to offer: "+strings.Join(adapter, ", ")+" is")
			}
		}
	}
	return wrong
}

// checkMonitors checks that Prometheus finds the pods, their port and its key.
func (c *Cluster) checkMonitors(w *workload) (wrong []string) {
	for _, m := range c.PodMonitors {
		if !w.selects(&m.Spec.Selector) {
			wrong = append(wrong, "PodMonitor "+m.Name+" does not select the pods")
		}
		for _, e := range m.Spec.PodMetricsEndpoints {
			if e.Port == nil || *e.Port != "admin" || e.Path != "/metrics" {
				wrong = append(wrong, "PodMonitor "+m.Name+" must ask /metrics on port admin")
			}
			auth := e.Authorization
			if auth == nil || auth.Credentials == nil || !secretOf(w, auth.Credentials.Name) {
				wrong = append(wrong, "PodMonitor "+m.Name+" has no key of the Secret that the pods have their keys from")
			}
		}
	}
	if len(c.Autoscalers) > 0 && len(c.PodMonitors) == 0 {
		wrong = append(wrong, "the autoscaler goes by metrics, and nobody asks for them")
	}
	return wrong
}

// secretOf says whether a Secret is a volume of the pods.
func secretOf(w *workload, name string) bool {
	for _, v := range w.template.Spec.Volumes {
		if v.Secret != nil && v.Secret.SecretName == name {
			return true
		}
	}
	return false
}
