package main

import (
	"fmt"
	"strings"
)

// chains verifies seq and prev of every channel, as a client can without asking
// the server (PROTOCOL, section 2):
//
//   - the first message after the subscription starts a channel's chain; after a
//     resume it must have prev ≤ the position resumed from < seq;
//   - seq grows, and prev equals the seq before;
//   - a jump is explained by a gap before it (prev is then in [after, before)),
//     or in latest mode by the message's own skip.
type chains struct {
	byChannel map[string]*chain
	patterns  []pattern // subscribed wildcards that were resumed

	messages, gaps int
	faults         int
}

// chain is one channel's.
type chain struct {
	started bool
	resumed bool   // not started: last is the position resumed from
	last    uint64 // seq
	gaps    []gap  // announced since last
}

type gap struct{ after, before uint64 }

type pattern struct {
	name string
	at   uint64
}

func newChains() *chains {
	return &chains{byChannel: map[string]*chain{}}
}

// resumed says that the server promised everything of ch (a channel or a
// wildcard) after seq.
func (c *chains) resumed(ch string, seq uint64) {
	if strings.HasSuffix(ch, "*") {
		c.patterns = append(c.patterns, pattern{ch, seq})
		return
	}
	c.byChannel[ch] = &chain{resumed: true, last: seq}
}

func (c *chains) get(ch string) *chain {
	if one := c.byChannel[ch]; one != nil {
		return one
	}
	one := new(chain)
	for _, p := range c.patterns {
		if matches(p.name, ch) {
			one.resumed, one.last = true, p.at
		}
	}
	c.byChannel[ch] = one
	return one
}

// message checks one message; the error says what is wrong with it.
func (c *chains) message(ch string, seq, prev, skip uint64) error {
	c.messages++
	one := c.get(ch)
	err := one.check(seq, prev, skip)
	if err != nil {
		c.faults++
		err = fmt.Errorf("%s: %w", ch, err)
	}
	one.started, one.last, one.gaps = true, max(seq, one.last), one.gaps[:0]
	return err
}

func (one *chain) check(seq, prev, skip uint64) error {
	switch {
	case prev >= seq:
		return fmt.Errorf("seq %d has prev %d", seq, prev)
	case !one.started && !one.resumed:
		return nil
	case seq <= one.last:
		return fmt.Errorf("seq %d came after %d", seq, one.last)
	case prev == one.last, !one.started && prev < one.last:
		return nil
	case skip > 0 && prev > one.last:
		return nil
	}
	for _, g := range one.gaps {
		if g.after <= prev && prev < g.before {
			return nil
		}
	}
	return fmt.Errorf("seq %d has prev %d, but the last was %d and no gap or skip explains it", seq, prev, one.last)
}

// gap takes note of an announced hole; why "epoch" voids the chain.
func (c *chains) gap(ch string, after, before uint64, why string) {
	c.gaps++
	note := func(one *chain) {
		if why == "epoch" {
			*one = chain{}
			return
		}
		one.gaps = append(one.gaps, gap{after, before})
	}
	if !strings.HasSuffix(ch, "*") {
		note(c.get(ch))
		return
	}
	for name, one := range c.byChannel {
		if matches(ch, name) {
			note(one)
		}
	}
	// Channels not seen yet start where they start.
	kept := c.patterns[:0]
	for _, p := range c.patterns {
		if p.name != ch {
			kept = append(kept, p)
		}
	}
	c.patterns = kept
}

// matches reports whether wildcard covers a channel: "trade.*" what begins
// "trade.", "*" everything.
func matches(wildcard, ch string) bool {
	head, ok := strings.CutSuffix(wildcard, "*")
	return ok && strings.HasPrefix(ch, head)
}
