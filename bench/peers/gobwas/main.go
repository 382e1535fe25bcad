// Command gobwas is gobwas/ws with a goroutine for each client: upgraded straight
// from the socket, a compiled frame for broadcasts.
package main

import (
	"net"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/odin-ws/odin/bench/peers/peer"
)

func main() {
	var all peer.Set[net.Conn]
	serve := func(c net.Conn) {
		defer c.Close()
		if _, err := ws.Upgrade(c); err != nil {
			return
		}
		all.Add(c)
		defer all.Remove(c)
		for {
			text, kind, err := wsutil.ReadClientData(c)
			if err != nil {
				return
			}
			if err := wsutil.WriteServerMessage(c, kind, text); err != nil {
				return
			}
		}
	}
	peer.Main("gobwas", func(addr string) (func([]byte) (int64, int64), error) {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					panic(err)
				}
				go serve(c)
			}
		}()
		return func(text []byte) (int64, int64) {
			frame := ws.MustCompileFrame(ws.NewTextFrame(text))
			return all.Each(func(c net.Conn) error {
				_, err := c.Write(frame)
				return err
			})
		}, nil
	})
}
