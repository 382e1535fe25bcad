package auth

import (
	"fmt"
	"slices"
	"strings"
)

// maxChannel is the longest name of a channel or pattern, in bytes.
const maxChannel = 128

// MaxPatterns is how many patterns the claim channels may have: every connection may
// have ones of its own.
const MaxPatterns = 128

// Patterns say which channels may be named. The zero value and nil cover none.
// Immutable, so any goroutine may use them.
type Patterns struct {
	all      bool     // "*" is among them
	exact    []string // sorted
	prefixes []string // sorted; "trade." for "trade.*"
}

// ParsePatterns reads a list of patterns.
func ParsePatterns(list []string) (*Patterns, error) {
	p := new(Patterns)
	for _, text := range list {
		base, wildcard := strings.CutSuffix(text, ".*")
		switch {
		case text == "*":
			p.all = true
		case len(text) > maxChannel || !validChannel(base):
			return nil, fmt.Errorf("%.140q is no pattern: want a channel, a prefix such as trade.*, or * for all", text)
		case wildcard:
			p.prefixes = append(p.prefixes, base+".")
		default:
			p.exact = append(p.exact, text)
		}
	}
	slices.Sort(p.exact)
	slices.Sort(p.prefixes)
	p.exact, p.prefixes = slices.Compact(p.exact), slices.Compact(p.prefixes)
	return p, nil
}

// validChannel reports whether name may be a channel's: tokens of letters,
// digits, _ and - joined by dots, the first not the reserved _sys.
func validChannel(name string) bool {
	if name == "_sys" || strings.HasPrefix(name, "_sys.") {
		return false
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			return false
		}
	}
	return true
}

// Covers reports whether name, a valid channel or a wildcard such as "trade.*",
// lies wholly within one pattern. It takes as long for a channel that exists as
// for one that does not: none is looked up.
func (p *Patterns) Covers(name string) bool {
	switch {
	case p == nil:
		return false
	case p.all:
		return true
	}
	if _, ok := slices.BinarySearch(p.exact, name); ok {
		return true
	}
	for i := range len(name) {
		if name[i] != '.' {
			continue
		}
		if _, ok := slices.BinarySearch(p.prefixes, name[:i+1]); ok {
			return true
		}
	}
	return false
}

// Empty reports whether nothing is covered.
func (p *Patterns) Empty() bool {
	return p == nil || !p.all && len(p.exact)+len(p.prefixes) == 0
}

// String lists the patterns with spaces between.
func (p *Patterns) String() string {
	if p == nil {
		return ""
	}
	var list []string
	if p.all {
		list = append(list, "*")
	}
	list = append(list, p.exact...)
	for _, prefix := range p.prefixes {
		list = append(list, prefix+"*")
	}
	return strings.Join(list, " ")
}
