package ledger

import (
	"encoding/json"
	"fmt"
)

// Frame notes a frame of the server as it came from the socket, for clients that
// keep no positions themselves: msg, gap, and the ack of a subscription, which
// starts its channels unless they have been. Others are passed over.
func (c *Client) Frame(b []byte) error {
	var f struct {
		T             string
		Ch            json.RawMessage
		Seq, Prev     uint64
		Skip          uint64
		After, Before uint64
		Why, Epoch    string
		D             json.RawMessage
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("not a frame: %w: %.100s", err, b)
	}
	switch f.T {
	case "msg", "gap":
		var ch string
		if err := json.Unmarshal(f.Ch, &ch); err != nil {
			return fmt.Errorf("a %s without a channel: %.100s", f.T, b)
		}
		if f.T == "msg" {
			c.Message(ch, f.Seq, f.Prev, f.Skip, Sum(f.D))
		} else {
			c.Gap(ch, f.After, f.Before, f.Why, f.Epoch)
		}
	case "ack":
		var chs map[string]struct {
			Epoch string
			Seq   uint64
		}
		if len(f.Ch) == 0 {
			return nil
		}
		if err := json.Unmarshal(f.Ch, &chs); err != nil {
			return fmt.Errorf("an ack's channels: %w: %.100s", err, b)
		}
		for ch, at := range chs {
			if !c.started(ch) {
				c.Start(ch, at.Epoch, at.Seq)
			}
		}
	}
	return nil
}

func (c *Client) started(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.chains[c.l.number(name)] != nil {
		return true
	}
	for _, w := range c.wilds {
		if w.prefix+"*" == name {
			return true
		}
	}
	return false
}
