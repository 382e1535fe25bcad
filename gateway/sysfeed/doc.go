// Package sysfeed serves one channel whose messages are made in this process, over
// WebSocket from net/http: what the status page follows.
//
//	feed := sysfeed.New(sysfeed.Config{Channel: "_sys.stats", Every: time.Second, Sample: …})
//	mux.Handle("/ws", feed)
//	feed.Close() // bye and 1012 to all
//
// It speaks odin.v1.json with the parsers and builders of gateway/wire, so the same
// client libraries follow it. Unlike the public port it has two goroutines and a
// buffer for each connection: Config.Most bounds how many there are.
//
// Epoch, seq and prev are the feed's own. The epoch changes with every Feed, seq
// counts from 1, and prev is always seq-1. Only the newest message is kept: it is
// what a snapshot, or a position to go on from, is answered with.
//
// A sample is taken once in Every for all subscribers, and only while there is one.
// Nothing waits for a page: one that takes nothing fills its queue of a few messages
// and is reset.
package sysfeed
