package gateway

import (
	"fmt"
	"testing"

	"github.com/odin-ws/odin/gateway/channel"
)

// What this node can't vouch for is said to who resumes a wildcard.
func TestWildcardResumeBeyondTheNodesMemory(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.MaxChannels = 4 })
	old := g.publish("t.quiet", `1`)
	g.publish("t.busy", `1`)
	g.eventually("delivery", func() bool { return g.hub.Head() == old+1 })
	epoch := g.hub.Epoch()

	resume := func(since uint64, recovered bool, gaps int) {
		t.Helper()
		c := g.dial()
		c.say(`{"op":"sub","id":1,"ch":["t.*"],"since":{"t.*":{"epoch":%q,"seq":%d}}}`, epoch, since)
		if f := c.want("ack"); *f.acks()["t.*"].Recovered != recovered {
			t.Fatal(f.raw)
		}
		for range gaps {
			if f := c.want("gap"); f.channel() != "t.*" || f.After != since || f.Before <= since || f.Why != channel.WhyEvicted {
				t.Fatal(f.raw)
			}
		}
		c.CloseNow()
	}
	resume(0, true, 0)

	// A channel beyond --max-channels: its message is told as missed, and who
	// resumes from before it hears that something may be.
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["t.*"]}`)
	c.want("ack")
	for i := range 4 {
		ch := fmt.Sprintf("t.new%d", i)
		seq := g.publish(ch, `1`)
		f, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 && (f.T != "msg" || f.Seq != seq) || i >= 2 && (f.T != "gap" || f.channel() != ch || f.Before != seq+1) {
			t.Fatalf("message %d: %s", i, f.raw)
		}
	}
	c.CloseNow()
	resume(old, false, 1)
}

// One client's names don't take the places of what is published.
func TestBareNamesLeaveRoom(t *testing.T) {
	g := newTestGateway(t, func(c *Config) { c.MaxChannels = 20 })
	greedy := g.dial()
	names := ""
	for i := range 100 {
		names += fmt.Sprintf(`,"junk.%d"`, i)
	}
	greedy.say(`{"op":"sub","id":1,"ch":[%s]}`, names[1:])
	f := greedy.want("ack")
	if len(f.acks()) != 10 || len(f.Rej) != 90 || f.Rej["junk.50"] != "limit" {
		t.Fatal(f.raw)
	}
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["mkt.*"]}`)
	c.want("ack")
	for i := range 10 {
		seq := g.publish(fmt.Sprintf("mkt.%d", i), `1`)
		if f := c.want("msg"); f.Seq != seq {
			t.Fatal(f.raw)
		}
	}
}
