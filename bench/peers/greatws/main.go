// Command greatws is antlabs/greatws: event loops.
package main

import (
	"log/slog"
	"net/http"

	"github.com/antlabs/greatws"

	"github.com/odin-ws/odin/bench/peers/peer"
)

type handler struct{ all peer.Set[*greatws.Conn] }

func (h *handler) OnOpen(c *greatws.Conn)           { h.all.Add(c) }
func (h *handler) OnClose(c *greatws.Conn, _ error) { h.all.Remove(c) }
func (h *handler) OnMessage(c *greatws.Conn, op greatws.Opcode, text []byte) {
	_ = c.WriteMessage(op, text) // OnClose hears of an error
}

func main() {
	h := &handler{}
	loops := greatws.NewMultiEventLoopMust(greatws.WithEventLoops(0), greatws.WithMaxEventNum(256), greatws.WithLogLevel(slog.LevelError))
	loops.Start()
	peer.Main("greatws", func(addr string) (func([]byte) (int64, int64), error) {
		err := peer.Serve(addr, func(w http.ResponseWriter, r *http.Request) {
			_, _ = greatws.Upgrade(w, r,
				greatws.WithServerReplyPing(), greatws.WithServerIgnorePong(),
				greatws.WithServerCallback(h), greatws.WithServerMultiEventLoop(loops))
		})
		return func(text []byte) (int64, int64) {
			return h.all.Each(func(c *greatws.Conn) error { return c.WriteMessage(greatws.Text, text) })
		}, err
	})
}
