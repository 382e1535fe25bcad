package odin

import (
	"fmt"
	"testing"
)

// holed is a client at a 101 that has been sent 105 after 103.
func holed(t *testing.T) (*fakeServer, *Client, *fakeConn, *recorder, op) {
	t.Helper()
	s, c, conn, r := following(t, "a", "b")
	conn.msg("a", 101, 100)
	conn.msg("a", 105, 103)
	conn.msg("b", 106, 100)
	r.want("a 101", "error unexplained", "b 106")
	o := conn.expect("replay")
	if o.Ch != "a" || o.Epoch != "e7" || o.From != 102 || o.To != 103 {
		t.Errorf("replay is %+v", o)
	}
	return s, c, conn, r, o
}

func TestRepairByReplay(t *testing.T) {
	_, c, conn, r, o := holed(t)
	conn.msg("a", 107, 105) // live ones wait
	conn.send(`{"t":"gap","ch":"a","after":107,"before":110,"why":"broker"}`)
	conn.msg("a", 110, 109)
	r.nothing()
	if p := c.Positions()["a"]; p.Seq != 101 {
		t.Errorf("stands at %v", p)
	}
	conn.msg("a", 101, 100)
	conn.msg("a", 102, 101)
	conn.msg("a", 103, 102)
	conn.send(`{"t":"ack","id":%d}`, o.ID)
	r.want("a 102", "a 103", "a 105", "a 107", "gap a 107 110 broker", "a 110")
	if s := c.Stats(); s.Unexplained != 1 || s.Repaired != 1 {
		t.Errorf("stats are %+v", s)
	}
}

// What the replay can't have, it says.
func TestRepairWithGap(t *testing.T) {
	_, _, conn, r, o := holed(t)
	conn.send(`{"t":"gap","ch":"a","after":101,"before":103,"why":"evicted"}`)
	conn.msg("a", 103, 102)
	conn.send(`{"t":"ack","id":%d}`, o.ID)
	r.want("gap a 101 103 evicted", "a 103", "a 105")
}

// Two holes, one behind the other.
func TestRepairTwice(t *testing.T) {
	_, _, conn, r, o := holed(t)
	conn.msg("a", 120, 110)
	conn.msg("a", 121, 120)
	conn.msg("a", 103, 101)
	conn.send(`{"t":"ack","id":%d}`, o.ID)
	r.want("a 103", "a 105", "error unexplained")
	o = conn.expect("replay")
	if o.From != 106 || o.To != 110 {
		t.Errorf("replay is %+v", o)
	}
	conn.msg("a", 110, 105)
	conn.send(`{"t":"ack","id":%d}`, o.ID)
	r.want("a 110", "a 120", "a 121")
}

// Replay refused, or with a hole itself: a new connection resumes before it.
func TestRepairByResuming(t *testing.T) {
	for name, answer := range map[string]func(*fakeConn, op){
		"refused": func(c *fakeConn, o op) { c.send(`{"t":"err","id":%d,"code":"unrecoverable"}`, o.ID) },
		"nothing": func(c *fakeConn, o op) { c.send(`{"t":"ack","id":%d}`, o.ID) },
		"holed":   func(c *fakeConn, o op) { c.msg("a", 103, 102); c.send(`{"t":"ack","id":%d}`, o.ID) },
		"overflow": func(c *fakeConn, o op) {
			for i := range uint64(maxHeld + 1) {
				c.msg("a", 200+i, 199+i)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, c, conn, r, o := holed(t)
			answer(conn, o)
			conn = s.accept()
			o = conn.expect("sub")
			if o.Since["a"].Seq != 101 || o.Since["b"].Seq != 106 {
				t.Errorf("resumes with %v", o.Since)
			}
			conn.ackAt(o, "e7", 106)
			conn.msg("a", 102, 101)
			conn.msg("a", 103, 102)
			conn.msg("a", 105, 103)
			r.want("error unexplained", "a 102", "a 103", "a 105")
			if n := c.Stats().Gaps; n != 0 {
				t.Errorf("%d gaps", n)
			}
		})
	}
}

// A hole that neither fills is told, and the channel goes on.
func TestRepairFails(t *testing.T) {
	s, c, conn, r, o := holed(t)
	conn.send(`{"t":"err","id":%d,"code":"unrecoverable"}`, o.ID)
	conn = s.accept()
	conn.ackAt(conn.expect("sub"), "e7", 105)
	conn.msg("a", 105, 103)
	conn.msg("a", 106, 105)
	o = conn.expect("replay")
	conn.send(`{"t":"err","id":%d,"code":"unrecoverable"}`, o.ID)
	r.want("error unexplained", "error unexplained", "gap a 101 105 unexplained", "a 105", "a 106")
	if n := s.count(); n != 2 {
		t.Errorf("%d connections", n)
	}
	waitFor(t, "position", func() bool { return c.Positions()["a"].Seq == 106 })
}

// A prev lower than the last message says something is wrong, but not that
// something is missing.
func TestInconsistentChain(t *testing.T) {
	_, _, conn, r := following(t, "a")
	conn.msg("a", 105, 100)
	conn.msg("a", 106, 103)
	r.want("a 105", "error chain", "a 106")
}

// Every order of two channels' frames around a repair ends with everything once.
func TestRepairModel(t *testing.T) {
	for at := range 4 {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			_, _, conn, r, o := holed(t)
			replay := []func(){
				func() { conn.msg("a", 102, 101) },
				func() { conn.msg("a", 103, 102) },
				func() { conn.send(`{"t":"ack","id":%d}`, o.ID) },
			}
			for i := range 4 {
				if i == at {
					conn.msg("a", 107, 105)
				}
				if i < 3 {
					replay[i]()
				}
			}
			r.want("a 102", "a 103", "a 105", "a 107")
		})
	}
}
