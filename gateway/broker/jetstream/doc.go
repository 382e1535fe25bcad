// Package jetstream is the broker.Broker of Odin: a NATS JetStream stream, in
// this process or in a cluster elsewhere, by the same code. No other package
// imports nats.go or nats-server.
//
// # The stream
//
// One stream, ODIN, takes odin.in.>, keeps it in files bounded by bytes and age,
// and republishes each stored message to odin.out.> with its sequence, time and
// the sequence before it on its subject in headers. That is where the numbers
// clients see come from; every node gets the same.
//
// # Delivery
//
// Each node has one core subscription, odin.out.>, into one bounded channel,
// read by one goroutine, which alone calls the Sink. Stream sequences are
// consecutive on it, so whatever was missed (the channel overflowed, the
// connection broke, a republish got lost) shows as a hole at the next message
// of any channel; a loss at the end of a burst shows in the audit, which
// compares a silent subscription with the stream. A hole is filled by batched
// direct get before anything newer goes out. What a replica doesn't have is
// asked of the stream's leader; what the leader doesn't have is Lost.
//
// Fetched messages carry no prev. It comes from the last sequence of each
// channel delivered (a bounded map), else from one multi_last request a batch:
// the last of each channel before the batch.
//
// What comes on odin.out.> with the next number is believed: only the server may
// be allowed to publish there. One with a number the stream doesn't have is left
// out.
//
// The epoch is the stream's creation time. It is compared before a number that
// was seen already is judged a late copy, and before a hole is filled. A stream
// that is gone is made anew, and all of the new one is delivered. One that
// merely lost its end (a restored backup, a power cut) keeps its creation time:
// it gets a mark in its metadata, which is part of the epoch.
//
// # Reads
//
// Any replica answers a direct get, also one that is behind. What it gives is a
// part of the stream without a hole; that there is nothing more, or nothing
// before, or what is newest, is asked of the leader. While the stream has no
// leader, or one that hears no majority of its replicas, the broker is down.
//
// # Publishing
//
// Publishes go out in order on a connection of their own (measured: 5 to 15 %
// faster than sharing one with the deliveries), at most 4096 or 16 MiB
// unacked, and are refused at once while the broker is away: nothing is
// buffered. An acked message survives kill -9 of everything; it survives a
// power cut only with sync_interval: always in the server's configuration.
//
// # What it does not do
//
// It keeps no consumers, repairs no outside server's store, and lowers no
// stream's replicas: it raises them to three once the cluster has three servers.
// It needs nats-server 2.11 or later.
package jetstream
