package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// checkYAML checks that b is one mapping of known keys to plain values and
// returns each key's line. Errors begin "path:line: ".
func checkYAML(path string, b []byte, all []setting) (map[string]int, error) {
	keys := make([]string, len(all))
	for i, s := range all {
		keys[i] = s.key()
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document", path)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil // comments alone
	}
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: want settings as key: value", path, top.Line)
	}
	lines := map[string]int{}
	for i := 0; i < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		if err := checkPair(key, value, keys, all); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, key.Line, err)
		}
		if first, twice := lines[key.Value]; twice {
			return nil, fmt.Errorf("%s:%d: %s was already given on line %d", path, key.Line, key.Value, first)
		}
		lines[key.Value] = key.Line
	}
	return lines, nil
}

func checkPair(key, value *yaml.Node, keys []string, all []setting) error {
	if key.Kind != yaml.ScalarNode {
		return errors.New("want a setting's name as the key")
	}
	var s setting
	for _, one := range all {
		if one.key() == key.Value {
			s = one
		}
	}
	if s.value == nil {
		return fmt.Errorf("unknown key %q%s", key.Value, didYouMean(key.Value, keys))
	}
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	_, many := s.value.(*list)
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		return fmt.Errorf(`%s has no value; write "" for an empty one or remove the line`, key.Value)
	case value.Kind == yaml.ScalarNode:
		return nil
	case value.Kind != yaml.SequenceNode || !many:
		return fmt.Errorf("%s: want one value", key.Value)
	}
	for _, item := range value.Content {
		if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
			return fmt.Errorf("%s: want a list of plain values", key.Value)
		}
	}
	return nil
}

// writeYAML writes c's settings; note says what comes after each value.
// With long, each is preceded by what it means.
func writeYAML(w io.Writer, c *serveConfig, long bool, note func(setting) string) error {
	var b strings.Builder
	for i, s := range c.settings() {
		if s.group != "" {
			if i > 0 {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "# %s\n", s.group)
		}
		if long {
			b.WriteByte('\n')
			for _, l := range wrap(s.usage, 76) {
				fmt.Fprintf(&b, "# %s\n", l)
			}
			fmt.Fprintf(&b, "# flag --%s, environment %s\n", s.flag, s.env())
		}
		pair := s.key() + ": " + yamlValue(s.value)
		if n := note(s); n != "" {
			pair = fmt.Sprintf("%-40s # %s", pair, n)
		}
		b.WriteString(pair + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// yamlValue writes a value as YAML: numbers and booleans plain, the rest quoted
// where a plain word could be read as something else.
func yamlValue(v pflagValue) string {
	text := v.String()
	switch v := v.(type) {
	case *list:
		quoted := make([]string, len(v.items))
		for i, item := range v.items {
			quoted[i] = strconv.Quote(redactURL(item))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case *word:
		return strconv.Quote(redactURL(text))
	}
	if text == "" {
		return `""`
	}
	return text
}

type pflagValue interface{ String() string }

// wrap breaks text into lines of at most width bytes, at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
