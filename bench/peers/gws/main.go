// Command gws is lxzan/gws: a goroutine for each client, its Broadcaster for
// broadcasts.
package main

import (
	"net/http"

	"github.com/lxzan/gws"

	"github.com/odin-ws/odin/bench/peers/peer"
)

type handler struct {
	gws.BuiltinEventHandler
	all peer.Set[*gws.Conn]
}

func (h *handler) OnOpen(c *gws.Conn)           { h.all.Add(c) }
func (h *handler) OnClose(c *gws.Conn, _ error) { h.all.Remove(c) }
func (h *handler) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = c.WriteMessage(m.Opcode, m.Bytes()) // OnClose hears of an error
}

func main() {
	h := &handler{}
	upgrader := gws.NewUpgrader(h, &gws.ServerOption{})
	peer.Main("gws", func(addr string) (func([]byte) (int64, int64), error) {
		err := peer.Serve(addr, func(w http.ResponseWriter, r *http.Request) {
			c, err := upgrader.Upgrade(w, r)
			if err != nil {
				return
			}
			go c.ReadLoop()
		})
		return func(text []byte) (int64, int64) {
			b := gws.NewBroadcaster(gws.OpcodeText, text)
			defer b.Close()
			return h.all.Each(b.Broadcast)
		}, err
	})
}
