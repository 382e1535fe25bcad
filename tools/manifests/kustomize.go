package manifests

import (
	"errors"
	"fmt"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// Kustomize builds a directory as `kubectl apply -k` does, and reads every object
// strictly: a field that the API has not is an error.
func Kustomize(dir string) (*Cluster, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	var c Cluster
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			return nil, err
		}
		if err := c.Add(text); err != nil {
			return nil, fmt.Errorf("%s: %w", r.CurId(), err)
		}
	}
	return &c, nil
}

// Cluster is what a directory of manifests makes, by kind. One goroutine uses it.
type Cluster struct {
	Namespaces   []*core.Namespace
	Deployments  []*apps.Deployment
	StatefulSets []*apps.StatefulSet
	Services     []*core.Service
	Policies     []*networking.NetworkPolicy
	Budgets      []*policy.PodDisruptionBudget
	Autoscalers  []*autoscaling.HorizontalPodAutoscaler
	PodMonitors  []*monitoring.PodMonitor
}

var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		apps.AddToScheme, autoscaling.AddToScheme, core.AddToScheme, monitoring.AddToScheme, networking.AddToScheme, policy.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err) // two types of one name: a mistake in the list above
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// Add reads one object in YAML.
func (c *Cluster) Add(text []byte) error {
	o, _, err := decoder.Decode(text, nil, nil)
	if err != nil {
		return err
	}
	switch o := o.(type) {
	case *core.Namespace:
		c.Namespaces = append(c.Namespaces, o)
	case *apps.Deployment:
		c.Deployments = append(c.Deployments, o)
	case *apps.StatefulSet:
		c.StatefulSets = append(c.StatefulSets, o)
	case *core.Service:
		c.Services = append(c.Services, o)
	case *networking.NetworkPolicy:
		c.Policies = append(c.Policies, o)
	case *policy.PodDisruptionBudget:
		c.Budgets = append(c.Budgets, o)
	case *autoscaling.HorizontalPodAutoscaler:
		c.Autoscalers = append(c.Autoscalers, o)
	case *monitoring.PodMonitor:
		c.PodMonitors = append(c.PodMonitors, o)
	default:
		return errors.New("no check knows this kind: add one")
	}
	return nil
}
