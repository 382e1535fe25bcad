package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/odin-ws/odin/capacity"
)

// The kinds of values a setting can have. Each parses the same text wherever
// it came from: a flag, the environment or the file.

// size is a number of bytes; 0 means "not given" and is written as "".
type size int64

func (s *size) Type() string { return "size" }

func (s *size) Set(text string) error {
	if text == "" {
		*s = 0
		return nil
	}
	n, err := capacity.ParseSize(text)
	if err != nil {
		return err
	}
	if n <= 0 {
		return errors.New("want a size above zero")
	}
	*s = size(n)
	return nil
}

func (s *size) String() string {
	n, unit := int64(*s), 0
	if n == 0 {
		return ""
	}
	for n%1024 == 0 && unit < 4 {
		n, unit = n/1024, unit+1
	}
	return strconv.FormatInt(n, 10) + [...]string{"B", "KiB", "MiB", "GiB", "TiB"}[unit]
}

// span is a duration, never negative; "0" needs no unit.
type span time.Duration

func (d *span) Type() string { return "duration" }

func (d *span) Set(text string) error {
	v, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return fmt.Errorf("want a duration such as 5s or 1m30s, not %q", text)
	case v < 0:
		return errors.New("want no negative duration")
	}
	*d = span(v)
	return nil
}

func (d *span) String() string {
	s := time.Duration(*d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// count is a whole number, never negative.
type count int

func (c *count) Type() string { return "int" }

func (c *count) Set(text string) error {
	v, err := strconv.Atoi(text)
	if err != nil || v < 0 {
		return fmt.Errorf("want a whole number, not %q", text)
	}
	*c = count(v)
	return nil
}

func (c *count) String() string { return strconv.Itoa(int(*c)) }

// toggle is a bool that takes what YAML writers type, too.
type toggle bool

func (b *toggle) Type() string     { return "bool" }
func (b *toggle) IsBoolFlag() bool { return true }

func (b *toggle) Set(text string) error {
	switch strings.ToLower(text) {
	case "true", "t", "1", "yes", "on":
		*b = true
	case "false", "f", "0", "no", "off":
		*b = false
	default:
		return fmt.Errorf("want true or false, not %q", text)
	}
	return nil
}

func (b *toggle) String() string { return strconv.FormatBool(bool(*b)) }

// word is free text.
type word string

func (w *word) Type() string          { return "string" }
func (w *word) Set(text string) error { *w = word(text); return nil }
func (w *word) String() string        { return string(*w) }

// choice is one of a few words.
type choice struct {
	word string
	of   []string
}

func (c *choice) Type() string   { return strings.Join(c.of, "|") }
func (c *choice) String() string { return c.word }

func (c *choice) Set(text string) error {
	for _, w := range c.of {
		if text == w {
			c.word = text
			return nil
		}
	}
	return fmt.Errorf("want one of %s, not %q", strings.Join(c.of, ", "), text)
}

// list is any number of items. In one text they are separated by commas; a
// flag given again adds to what it gave before.
type list struct {
	items []string
	check func(string) error // nil accepts all
	given bool               // by Set: the next Set adds
}

func (l *list) Type() string   { return "list" }
func (l *list) String() string { return strings.Join(l.items, ",") }

func (l *list) Set(text string) error {
	if !l.given {
		l.items, l.given = nil, true
	}
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		if l.check != nil {
			if err := l.check(item); err != nil {
				return err
			}
		}
		l.items = append(l.items, item)
	}
	return nil
}

// checkPrefix accepts an address range, or one address.
func checkPrefix(s string) error {
	_, err := parsePrefix(s)
	return err
}

func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("want an address range such as 10.0.0.0/8, not %q", s)
	}
	return p.Masked(), nil
}

var (
	_ pflag.Value = (*size)(nil)
	_ pflag.Value = (*span)(nil)
	_ pflag.Value = (*count)(nil)
	_ pflag.Value = (*toggle)(nil)
	_ pflag.Value = (*word)(nil)
	_ pflag.Value = (*choice)(nil)
	_ pflag.Value = (*list)(nil)
)
