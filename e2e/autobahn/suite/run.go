package suite

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// Verdict is the suite's word on a case.
type Verdict string

// The verdicts. Of those that a case may end with, only the first three pass;
// Unimplemented says that the server has not the extension that the case is of.
const (
	OK            Verdict = "OK"
	NonStrict     Verdict = "NON-STRICT"
	Informational Verdict = "INFORMATIONAL"
	Unimplemented Verdict = "UNIMPLEMENTED"
	Unclean       Verdict = "UNCLEAN"
	WrongCode     Verdict = "WRONG CODE"
	NotDropped    Verdict = "FAILED BY CLIENT" // the server left it to us to end the connection
	Failed        Verdict = "FAILED"
)

// Result is how a case went.
type Result struct {
	Case     *Case
	Behavior Verdict // by what was received
	Close    Verdict // by how the connection ended
	Code     uint16  // of the server's close frame; 0 without one
	Detail   string  // what was wrong, or of note
	Took     time.Duration
}

// Pass reports whether the case did not fail. An unimplemented one did not.
func (r *Result) Pass() bool {
	good := func(v Verdict) bool {
		return v == OK || v == NonStrict || v == Informational || v == Unimplemented
	}
	return good(r.Behavior) && good(r.Close)
}

// Run runs cases against ws://addr/path, so many at a time, and returns their
// results in order.
func Run(addr, path string, cases []*Case, parallel int) []Result {
	results := make([]Result, len(cases))
	next := make(chan int)
	var all sync.WaitGroup
	for range max(1, parallel) {
		all.Go(func() {
			for i := range next {
				results[i] = cases[i].run(addr, path)
			}
		})
	}
	for i := range cases {
		next <- i
	}
	close(next)
	all.Wait()
	return results
}

// run is one case, from the connection's begin to its end.
func (c *Case) run(addr, path string) (r Result) {
	r = Result{Case: c, Behavior: Failed, Close: Failed}
	begin := time.Now()
	p, err := dial(addr, path, c)
	if err != nil {
		r.Detail = err.Error()
		return r
	}
	defer func() {
		p.conn.Close()
		r.Took = time.Since(begin)
	}()
	go p.receive()
	defer close(p.over)
	var got []event
	var fault string // of the rounds
	switch {
	case c.deflate != nil && p.pmd == nil:
		_ = p.close(p.answers.close(1000, ""))
		got = p.rest(got)
	case c.rounds != nil:
		fault = c.converse(p)
		_ = p.close(p.sender.close(1000, ""))
		got = p.rest(got)
	default:
		got = c.play(p)
	}
	// Only now is what receive owns anyone's to read.
	c.judge(p, got, fault, &r)
	return r
}

// rest adds what the server still sends, to its end.
func (p *peer) rest(got []event) []event {
	for e := range p.events {
		got = append(got, e)
	}
	return got
}

// play sends a script and collects what comes, to the connection's end. Where it
// is ours to close and the script does not, that is done once all has come.
func (c *Case) play(p *peer) []event {
	steps := join(c.script(p.sender))
	closes := slices.ContainsFunc(steps, func(s step) bool { return s.closing })
	waits := make(chan event)
	ended := make(chan struct{})
	played := make(chan struct{})
	go func() {
		defer close(played)
		for _, s := range steps {
			if p.write(s) != nil {
				return // receive says why
			}
			if s.wait == 0 {
				continue
			}
			select {
			case <-ended:
				return
			case <-time.After(s.wait):
			}
			// Judged before the next step is sent: what that brings about is no part
			// of this wait.
			if s.name == "" || p.first.Load() != nobody {
				continue
			}
			select {
			case <-ended:
				return
			case waits <- event{"wait", s.name}:
			}
		}
	}()
	defer func() { <-played }()
	defer close(ended)
	var got []event
	asked := false
	done := played
	for {
		if c.end.ours && !closes && !asked && done == nil && slices.Equal(got, c.want) {
			asked = true
			if p.close(p.sender.close(1000, "")) != nil {
				return p.rest(got)
			}
		}
		select {
		case e, open := <-p.events:
			if !open {
				return got
			}
			got = append(got, e)
		case e := <-waits:
			got = append(got, e)
		case <-done:
			done = nil
		}
	}
}

// join puts bytes together that the case does not want apart.
func join(steps []step) []step {
	var out []step
	for _, s := range steps {
		if n := len(out) - 1; n >= 0 && s.chop == 0 && !s.alone && out[n].chop == 0 && !out[n].alone && out[n].wait == 0 {
			out[n].data = append(out[n].data, s.data...)
			out[n].wait, out[n].name, out[n].closing = s.wait, s.name, out[n].closing || s.closing
			continue
		}
		out = append(out, s)
	}
	return out
}

// converse sends the rounds, each when the one before came back as it was sent.
// It returns what was wrong, "" if nothing.
func (c *Case) converse(p *peer) string {
	op, kind := byte(opText), "text"
	if c.rounds.binary {
		op, kind = opBinary, "binary"
	}
	for i := range c.rounds.count {
		sent := c.rounds.message(i)
		payload, rsv := sent, byte(0)
		if p.pmd != nil {
			payload, rsv = p.pmd.deflate(sent), 4
		}
		if err := p.write(step{data: p.sender.split(op, rsv, payload, c.rounds.fragment)}); err != nil {
			return fmt.Sprintf("message %d: %v", i, err)
		}
		e, open := <-p.events
		switch {
		case !open:
			return fmt.Sprintf("message %d did not come back", i)
		case e.kind != kind:
			return fmt.Sprintf("message %d: %s", i, e)
		case e.payload != string(sent):
			return fmt.Sprintf("message %d of %d bytes came back changed, %d bytes", i, len(sent), len(e.payload))
		}
	}
	return ""
}

// judge holds what came and how it ended against what the case expects.
func (c *Case) judge(p *peer, got []event, fault string, r *Result) {
	if p.end != nil {
		r.Code = p.end.code
	}
	switch {
	case fault != "":
		r.Detail = fault
	case slices.Equal(got, c.want):
		r.Behavior = OK
	case c.lenient != nil && slices.Equal(got, *c.lenient):
		r.Behavior = NonStrict
	default:
		r.Detail = "received " + list(got) + ", want " + list(c.want)
	}
	var why string
	r.Close, why = c.judgeEnd(p)
	if why != "" {
		if r.Detail != "" {
			r.Detail += "; "
		}
		r.Detail += why
	}
	switch {
	case c.undef && fault == "" && len(got) <= len(c.want) && slices.Equal(got, c.want[:len(got)]) && r.Close != NotDropped && !timedOut(p.err):
		r.Behavior, r.Close, r.Detail = Informational, Informational, "received "+list(got)+"; closed"+p.saying()
	case c.deflate != nil && p.pmd == nil && r.Pass():
		r.Behavior, r.Detail = Unimplemented, "permessage-deflate was not accepted"
	}
}

// judgeEnd is the word on the connection's end, and why.
func (c *Case) judgeEnd(p *peer) (Verdict, string) {
	first := p.first.Load()
	switch {
	case timedOut(p.err) && p.end == nil:
		return Failed, fmt.Sprintf("not over after %v", c.limit)
	case timedOut(p.err):
		return NotDropped, fmt.Sprintf("the server did not end the connection within %v of the close", dropWait)
	case c.end.ours && first != us:
		return Failed, "the server closed" + p.saying()
	case !c.end.ours && first == us:
		return Failed, "the server did not close"
	case c.end.clean && p.end == nil:
		return Unclean, fmt.Sprintf("no close frame: %v", p.err)
	case p.end != nil && p.end.code != 0 && !slices.Contains(c.end.codes, p.end.code):
		return WrongCode, fmt.Sprintf("closed%s, want %v", p.saying(), c.end.codes)
	case c.end.clean && !errors.Is(p.err, io.EOF):
		return Unclean, fmt.Sprintf("after the close frame: %v", p.err)
	}
	return OK, ""
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func (p *peer) saying() string {
	if p.end == nil {
		return " without a word"
	}
	return fmt.Sprintf(" with %d %q", p.end.code, p.end.reason)
}

// String is the event for people, shortened.
func (e event) String() string {
	const most = 40
	if len(e.payload) > most {
		return fmt.Sprintf("%s of %d bytes %q…", e.kind, len(e.payload), e.payload[:most])
	}
	return fmt.Sprintf("%s %q", e.kind, e.payload)
}

func list(events []event) string {
	if len(events) == 0 {
		return "nothing"
	}
	s := ""
	for i, e := range events {
		if i == 10 {
			return s + fmt.Sprintf(", … %d more", len(events)-i)
		}
		if i > 0 {
			s += ", "
		}
		s += e.String()
	}
	return s
}
