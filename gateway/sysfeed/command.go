package sysfeed

import "github.com/odin-ws/odin/gateway/wire"

// dispatch carries out one command of a connection; on its reader.
func (f *Feed) dispatch(c *conn, cmd *wire.Command) {
	switch cmd.Op {
	case "ping":
		c.send(wire.AppendPong(nil, cmd.ID))
		return
	case "auth":
		f.authenticate(c, cmd)
		return
	}
	if !f.allowed(c.key) {
		c.send(wire.AppendErr(nil, cmd.ID, "unauthorized", "show an API key first, with the op auth", 0))
		c.fail(closeToken, "an API key is needed")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch cmd.Op {
	case "sub":
		f.subscribe(c, cmd)
	case "unsub":
		f.unsubscribe(c)
		f.acknowledge(c, cmd, nil)
	case "list":
		ack := wire.NewAck(nil, cmd.ID)
		if _, on := f.subs[c]; on {
			ack.Channel(f.cfg.Channel, f.epoch, f.seq, nil)
		}
		c.send(ack.Done())
	case "replay":
		f.replay(c, cmd)
	}
}

// authenticate takes an API key shown in-band.
func (f *Feed) authenticate(c *conn, cmd *wire.Command) {
	switch {
	case f.cfg.Allowed == nil:
		c.send(wire.AppendErr(nil, cmd.ID, "bad_request", "no API key is configured here", 0))
	case !f.cfg.Allowed(cmd.Token):
		if f.cfg.Refused != nil {
			f.cfg.Refused(c.nc.RemoteAddr().String())
		}
		c.send(wire.AppendErr(nil, cmd.ID, "unauthorized", "this is no API key of an admin", 0))
		c.fail(closeToken, "the API key is not good")
	default:
		f.mu.Lock()
		c.key = cmd.Token
		f.mu.Unlock()
		c.send(wire.AppendAck(nil, cmd.ID))
	}
}

// acknowledge answers sub and unsub: the feed's channel with its position, any other
// name with why not. It reports whether the feed's channel was named. Under mu.
func (f *Feed) acknowledge(c *conn, cmd *wire.Command, recovered *bool) (named bool) {
	ack := wire.NewAck(nil, cmd.ID)
	refused := make(map[string]bool)
	for _, name := range cmd.Ch {
		switch {
		case name == f.cfg.Channel && !named:
			named = true
			ack.Channel(name, f.epoch, f.seq, recovered)
		case name != f.cfg.Channel && !refused[name]:
			refused[name] = true
			ack.Reject(name, whyNot(name))
		}
	}
	c.send(ack.Done())
	return named
}

// whyNot is the code that refuses a name.
func whyNot(name string) string {
	if _, _, ok := wire.ParsePattern(name); ok {
		return "forbidden" // there may be such a channel, on the public port
	}
	return "bad_channel"
}

// subscribe answers a sub: the ack, then the newest message if it was asked for, then
// whatever comes. The first subscriber after a pause is not made to wait for a
// message. Under mu.
func (f *Feed) subscribe(c *conn, cmd *wire.Command) {
	if f.newest == nil {
		f.next()
	}
	at, since := cmd.Since[f.cfg.Channel]
	_, already := f.subs[c]
	if !since || already {
		if f.acknowledge(c, cmd, nil) && !already {
			f.join(c, cmd.Snap)
		}
		return
	}
	if at.Epoch == f.epoch && at.Seq > f.seq {
		ack := wire.NewAck(nil, cmd.ID)
		ack.Reject(f.cfg.Channel, "bad_position")
		c.send(ack.Done())
		return
	}
	recovered := at.Epoch == f.epoch && at.Seq+1 >= f.seq
	if !f.acknowledge(c, cmd, &recovered) {
		return
	}
	switch {
	case at.Epoch != f.epoch:
		c.send(wire.AppendEpochGap(nil, f.cfg.Channel, at.Seq, f.seq, f.epoch))
	case !recovered:
		c.send(wire.AppendGap(nil, f.cfg.Channel, at.Seq, f.seq, "evicted"))
	}
	f.join(c, at.Epoch != f.epoch || at.Seq < f.seq)
}

// join makes a connection a subscriber, and gives it the newest message first if it
// is to have that. Under mu.
func (f *Feed) join(c *conn, newest bool) {
	if newest {
		c.message(f.newest)
	}
	f.subs[c] = struct{}{}
	f.count.subs.Add(1)
	if !f.ticking {
		f.ticking = true
		f.running.Go(f.tick)
	}
}

// replay answers that nothing of the range is kept. Under mu.
func (f *Feed) replay(c *conn, cmd *wire.Command) {
	switch name := cmd.Ch[0]; {
	case name != f.cfg.Channel:
		c.send(wire.AppendErr(nil, cmd.ID, whyNot(name), "only "+f.cfg.Channel+" can be had here", 0))
	case cmd.Epoch == f.epoch && cmd.To > f.seq:
		c.send(wire.AppendErr(nil, cmd.ID, "bad_position", "the channel has not come so far", 0))
	default:
		why := "evicted"
		if cmd.Epoch != f.epoch {
			why = "epoch"
		}
		c.send(wire.AppendGap(nil, f.cfg.Channel, max(cmd.From, 1)-1, cmd.To+1, why))
		c.send(wire.AppendAck(nil, cmd.ID))
	}
}
