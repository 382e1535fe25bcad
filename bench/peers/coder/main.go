// Command coder is coder/websocket: a goroutine for each client.
package main

import (
	"context"
	"net/http"

	"github.com/coder/websocket"

	"github.com/odin-ws/odin/bench/peers/peer"
)

func main() {
	var all peer.Set[*websocket.Conn]
	ctx := context.Background() // one that can end costs a registration for every read and write
	peer.Main("coder", func(addr string) (func([]byte) (int64, int64), error) {
		err := peer.Serve(addr, func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			all.Add(c)
			defer all.Remove(c)
			defer c.CloseNow()
			for {
				kind, text, err := c.Read(ctx)
				if err != nil {
					return
				}
				if err := c.Write(ctx, kind, text); err != nil {
					return
				}
			}
		})
		return func(text []byte) (int64, int64) {
			return all.Each(func(c *websocket.Conn) error { return c.Write(ctx, websocket.MessageText, text) })
		}, err
	})
}
