// Command nbio is lesismal/nbio: event loops, in its nonblocking mode.
package main

import (
	"net/http"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"

	"github.com/odin-ws/odin/bench/peers/peer"
)

func main() {
	logging.SetLevel(logging.LevelError)
	var all peer.Set[*websocket.Conn]
	upgrader := websocket.NewUpgrader()
	upgrader.CheckOrigin = func(*http.Request) bool { return true }
	upgrader.KeepaliveTime = 0
	upgrader.OnOpen(all.Add)
	upgrader.OnClose(func(c *websocket.Conn, _ error) { all.Remove(c) })
	upgrader.OnMessage(func(c *websocket.Conn, kind websocket.MessageType, text []byte) {
		_ = c.WriteMessage(kind, text) // OnClose hears of an error
	})
	peer.Main("nbio", func(addr string) (func([]byte) (int64, int64), error) {
		engine := nbhttp.NewEngine(nbhttp.Config{
			Network: "tcp", Addrs: []string{addr}, IOMod: nbhttp.IOModNonBlocking, ReleaseWebsocketPayload: true,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = upgrader.Upgrade(w, r, nil) // answered by Upgrade
			}),
		})
		return func(text []byte) (int64, int64) {
			return all.Each(func(c *websocket.Conn) error { return c.WriteMessage(websocket.TextMessage, text) })
		}, engine.Start()
	})
}
