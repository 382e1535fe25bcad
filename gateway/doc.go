// Package gateway is the server: WebSocket clients on a public port, publishers and
// operators on an admin port, and between them the messages of a broker.Broker.
//
//	cfg := gateway.DefaultConfig()
//	cfg.Broker = b
//	gw, err := gateway.New(cfg)
//	…
//	err = gw.Start()
//	…
//	err = gw.Shutdown(ctx) // says goodbye to the clients, one by one, and closes the broker
//
// Clients belong to shards, an event loop each, and are touched by nobody else. What they
// read is in the logs of gateway/channel, once for all of them; an idle client is a slot
// and a socket. ARCHITECTURE.md is the map of the files, docs/protocol.md what is spoken.
//
// [Config] is all it is given, [Live] what of that [Gateway.Reload] can change, [Stats]
// everything it counts.
//
// It does not read flags or files of settings, does not compute how many connections fit
// (package capacity does), and knows no store but by broker.Broker.
package gateway
