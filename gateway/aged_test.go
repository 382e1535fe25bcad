package gateway

import (
	"errors"
	"testing"
	"time"

	"github.com/odin-ws/odin/gateway/broker/brokertest"
	"github.com/odin-ws/odin/gateway/channel"
)

// aged is a stream whose channels t.z and z had messages, all of them evicted, and
// a node that has heard none of it. It returns the position before them, and where
// the stream begins now.
func aged(t *testing.T) (g *testGateway, epoch string, before, first uint64) {
	t.Helper()
	g = newTestGateway(t, nil)
	before = g.publish("t.a", `0`)
	g.publish("z", `1`)
	last := g.publish("t.z", `1`)
	for range 5 {
		first = g.publish("t.a", `2`)
	}
	g.eventually("delivery", func() bool { return g.hub.Head() == first })
	epoch = g.hub.Epoch()
	g.broker.Evict(last + 1)
	first = last + 1
	return newTestGatewayOver(t, g.broker.Reader(), nil), epoch, before, first
}

// All a channel had is gone, and the node never heard of it: that nothing is stored
// is not that nothing was.
func TestResumeOfWhatHasAgedOut(t *testing.T) {
	g, epoch, before, first := aged(t)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["z"],"since":{"z":{"epoch":%q,"seq":%d}}}`, epoch, before)
	if f := c.want("ack"); *f.acks()["z"].Recovered {
		t.Error(f.raw)
	}
	if f := c.want("gap"); f.channel() != "z" || f.After != before || f.Before < first || f.Why != channel.WhyEvicted {
		t.Error(f.raw)
	}
	// And first heard of by a message that nothing stored goes before.
	seq := g.publish("t.z", `3`)
	g.eventually("delivery", func() bool { return g.hub.Head() == seq })
	d := g.dial()
	d.say(`{"op":"sub","id":1,"ch":["t.z"],"since":{"t.z":{"epoch":%q,"seq":%d}}}`, epoch, before)
	if f := d.want("ack"); *f.acks()["t.z"].Recovered {
		t.Error(f.raw)
	}
	if f := d.want("gap"); f.channel() != "t.z" || f.After != before || f.Before < first || f.Before > seq || f.Why != channel.WhyEvicted {
		t.Error(f.raw)
	}
	if f := d.want("msg"); f.Seq != seq {
		t.Error(f.raw)
	}
	// A position from after it is complete, and costs no gap.
	e := g.dial()
	e.say(`{"op":"sub","id":1,"ch":["z"],"since":{"z":{"epoch":%q,"seq":%d}}}`, epoch, first)
	if f := e.want("ack"); !*f.acks()["z"].Recovered {
		t.Error(f.raw)
	}
	e.say(`{"op":"ping","id":2}`)
	e.want("pong")
}

func TestWildcardResumeOfWhatHasAgedOut(t *testing.T) {
	g, epoch, before, first := aged(t)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["t.*"],"since":{"t.*":{"epoch":%q,"seq":%d}}}`, epoch, before)
	if f := c.want("ack"); *f.acks()["t.*"].Recovered {
		t.Error(f.raw)
	}
	if f := c.want("gap"); f.channel() != "t.*" || f.After != before || f.Before != first || f.Why != channel.WhyEvicted {
		t.Error(f.raw)
	}
}

// Who follows a wildcard is told what may be lost, and that the epoch has ended, of
// channels that have no log here to say it.
func TestWildcardsAreTold(t *testing.T) {
	g := newTestGateway(t, nil)
	head := g.publish("u.a", `1`)
	g.eventually("delivery", func() bool { return g.hub.Head() == head })
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["t.*"]}`)
	c.want("ack")
	g.hub.Lost(head, head+10)
	if f := c.want("gap"); f.channel() != "t.*" || f.After != head || f.Before != head+10 || f.Why != channel.WhyBroker {
		t.Error(f.raw)
	}
	g.hub.Open("e9", 3)
	if f := c.want("gap"); f.channel() != "t.*" || f.After != head+9 || f.Before != 4 || f.Why != channel.WhyEpoch || f.Epoch != "e9" {
		t.Error(f.raw)
	}
	// Who comes now is told nothing of that.
	d := g.dial()
	d.say(`{"op":"sub","id":1,"ch":["t.*"]}`)
	d.want("ack")
	d.say(`{"op":"ping","id":2}`)
	d.want("pong")
}

// Who subscribes before the broker was reached has no position; the first epoch is
// told as any other, and gives it one.
func TestSubscribedBeforeTheBroker(t *testing.T) {
	fake := brokertest.NewFake()
	fake.SetDown(errors.New("not yet"))
	g := startTestGateway(t, fake, nil)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x","t.*"]}`)
	if f := c.want("ack"); f.acks()["x"].Epoch != "" {
		t.Fatal(f.raw)
	}
	c.want("stale")
	g.broker.SetUp()
	// Between the two names there is no order.
	got := map[string]string{}
	for range 3 {
		f, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		got[f.channel()] += " " + f.T
		if f.T == "gap" && (f.Why != channel.WhyEpoch || f.Epoch != g.broker.State().Epoch) {
			t.Error(f.raw)
		}
	}
	if got["x"] != " gap live" || got["t.*"] != " gap" {
		t.Error(got)
	}
}

// A node that can't ask does not say that an epoch it has not heard of is void.
func TestAnotherEpochIsNotDeniedUnasked(t *testing.T) {
	g := newTestGateway(t, nil)
	seq := g.publish("x", `1`)
	g.eventually("delivery", func() bool { return g.hub.Head() == seq })
	g.broker.SetDown(errors.New("gone"))
	g.eventually("the loss", func() bool { return g.hub.Stale() })
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x","t.*"],"since":{"x":{"epoch":"e77","seq":1},"t.a":{"epoch":"e77","seq":1}}}`)
	if f := c.want("ack"); f.Rej["x"] != "unrecoverable" || f.Rej["t.*"] != "unrecoverable" {
		t.Error(f.raw)
	}
}

// The position of one channel of a wildcard may be ahead of this node, as that of a
// name may.
func TestWildcardResumeAheadOfThisNode(t *testing.T) {
	g := newTestGateway(t, nil)
	seq := g.publish("t.a", `1`)
	g.eventually("delivery", func() bool { return g.hub.Head() == seq })
	g.broker.Hold(true)
	ahead := g.publish("t.a", `2`)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["t.*"],"since":{"t.*":{"epoch":%q,"seq":%d},"t.a":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), seq, g.hub.Epoch(), ahead)
	time.Sleep(50 * time.Millisecond)
	g.broker.Hold(false)
	if f := c.want("ack"); !*f.acks()["t.*"].Recovered {
		t.Fatal(f.raw)
	}
	next := g.publish("t.a", `3`)
	c.wantSeqs([]uint64{next}, ahead)
	c.say(`{"op":"sub","id":2,"ch":["t.b","u.*"],"since":{"u.x":{"epoch":%q,"seq":%d}}}`, g.hub.Epoch(), next+100)
	if f := c.want("ack"); f.Rej["u.*"] != "bad_position" {
		t.Error(f.raw)
	}
}

// After a loss the last message is still the last: who asks for it gets it, and then
// hears what may be missing behind it.
func TestSnapBehindALoss(t *testing.T) {
	g := newTestGateway(t, nil)
	g.publish("x", `1`)
	last := g.publish("x", `2`)
	g.eventually("delivery", func() bool { return g.hub.Head() == last })
	g.hub.Lost(last, last+10)
	c := g.dial()
	c.say(`{"op":"sub","id":1,"ch":["x"],"snap":true}`)
	c.want("ack")
	if f := c.want("msg"); f.Seq != last {
		t.Error(f.raw)
	}
	if f := c.want("gap"); f.After != last || f.Before != last+10 || f.Why != channel.WhyBroker {
		t.Error(f.raw)
	}
}
