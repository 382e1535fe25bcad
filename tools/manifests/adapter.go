package manifests

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"text/template"

	"go.yaml.in/yaml/v3"
)

// adapterValues are as many of the values of prometheus-adapter's chart as ours has:
// another key is a mistake, or belongs here.
type adapterValues struct {
	Rules struct {
		Default *bool `yaml:"default"`
		Custom  []struct {
			SeriesQuery string `yaml:"seriesQuery"`
			Resources   struct {
				Overrides map[string]struct {
					Resource string `yaml:"resource"`
				} `yaml:"overrides"`
			} `yaml:"resources"`
			Name struct {
				Matches string `yaml:"matches"`
				As      string `yaml:"as"`
			} `yaml:"name"`
			MetricsQuery string `yaml:"metricsQuery"`
		} `yaml:"custom"`
	} `yaml:"rules"`
}

var seriesName = regexp.MustCompile(`^([a-z_]+)\{`)

// Adapter reads the values for prometheus-adapter, and returns the names of the metrics
// that it will offer and what is wrong with the rules.
func Adapter(file string) (names, wrong []string, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	return adapter(b)
}

func adapter(text []byte) (names, wrong []string, err error) {
	var v adapterValues
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&v); err != nil {
		return nil, nil, err
	}
	for i, r := range v.Rules.Custom {
		series := seriesName.FindStringSubmatch(r.SeriesQuery)
		if series == nil {
			wrong = append(wrong, fmt.Sprintf("rule %d: %q names no series", i, r.SeriesQuery))
			continue
		}
		for _, label := range []string{"namespace", "pod"} {
			if r.Resources.Overrides[label].Resource != label {
				wrong = append(wrong, fmt.Sprintf("rule %d: the label %s is not said to be one", i, label))
			}
		}
		re, err := regexp.Compile(r.Name.Matches)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("rule %d: %v", i, err))
			continue
		}
		names = append(names, re.ReplaceAllString(series[1], r.Name.As))
		// The adapter's own templates: delimiters << and >>, and these fields.
		t, err := template.New("").Delims("<<", ">>").Option("missingkey=error").Parse(r.MetricsQuery)
		if err == nil {
			err = t.Execute(&bytes.Buffer{}, map[string]string{"Series": "s", "LabelMatchers": "a=b", "GroupBy": "pod"})
		}
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("rule %d: %v", i, err))
		}
	}
	return names, wrong, nil
}
