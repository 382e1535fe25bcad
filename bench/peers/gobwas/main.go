// Command gobwas is gobwas/ws with a goroutine for each client: upgraded straight
// from the socket, a compiled frame for broadcasts.
package main

import (
	"bufio"
	"bytes"
	"io"
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
		// Without them a frame takes three reads and two writes.
		in := struct {
			io.Reader
			io.Writer
		}{bufio.NewReaderSize(c, 512), c}
		var out bytes.Buffer
		for {
			text, kind, err := wsutil.ReadClientData(in)
			if err != nil {
				return
			}
			out.Reset()
			_ = ws.WriteFrame(&out, ws.NewFrame(kind, true, text)) // a Buffer never fails
			if _, err := c.Write(out.Bytes()); err != nil {
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
