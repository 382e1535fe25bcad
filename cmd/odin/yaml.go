package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
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
		return nil, syntaxError(path, err)
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

// syntaxError is a parser's error with the place in front, as in all others.
func syntaxError(path string, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := lineInError.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s:%s: %s", path, m[1], text[len(m[0]):])
	}
	return fmt.Errorf("%s:1: %s", path, text) // the parser leaves the first line out
}

var lineInError = regexp.MustCompile(`^line (\d+): `)

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
			for _, l := range wrap(strings.TrimSuffix(s.usage+". "+kindOf(s.value), " "), 76) {
				fmt.Fprintf(&b, "# %s\n", l)
			}
			fmt.Fprintf(&b, "# flag --%s, environment %s\n# %s\n", s.flag, s.env(), s.reaches())
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

// kindOf says what may be written for a value, with its units.
func kindOf(v pflagValue) string {
	switch v := v.(type) {
	case *size, *budget:
		return "A size: bytes, or with a unit KiB, MiB, GiB (KB is 1024 B too)."
	case *span:
		return "A duration: 500ms, 20s, 1m30s, 1h."
	case *count:
		return "A whole number."
	case *toggle:
		return "true or false."
	case *choice:
		return "One of: " + strings.Join(v.of, ", ") + "."
	case *list:
		return "A list, [a, b], or one value."
	}
	return ""
}

// reaches says who is reached by a change that SIGHUP takes over.
func (s setting) reaches() string {
	switch s.live {
	case liveAll:
		return "changed by SIGHUP, for all connections"
	case liveNew:
		return "changed by SIGHUP, for new connections"
	}
	return "changed by a restart only"
}
