// Command gorilla is gorilla/websocket: a goroutine for each client, prepared
// messages for broadcasts.
package main

import (
	"net/http"
	"sync"

	"github.com/gorilla/websocket"

	"github.com/odin-ws/odin/bench/peers/peer"
)

type client struct {
	*websocket.Conn
	mu sync.Mutex // one writer at a time
}

func main() {
	var all peer.Set[*client]
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	peer.Main("gorilla", func(addr string) (func([]byte) (int64, int64), error) {
		err := peer.Serve(addr, func(w http.ResponseWriter, r *http.Request) {
			conn, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			c := &client{Conn: conn}
			all.Add(c)
			defer all.Remove(c)
			defer c.Close()
			for {
				kind, text, err := c.ReadMessage()
				if err != nil {
					return
				}
				c.mu.Lock()
				err = c.WriteMessage(kind, text)
				c.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
		return func(text []byte) (int64, int64) {
			m, err := websocket.NewPreparedMessage(websocket.TextMessage, text)
			if err != nil {
				panic(err) // only compression can fail
			}
			return all.Each(func(c *client) error {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.WritePreparedMessage(m)
			})
		}, err
	})
}
