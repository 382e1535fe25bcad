package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/odin-ws/odin/gateway/channel"
)

// maxRate bounds the command rate: tokens are counted in tenths, in 32 bits.
const maxRate = 400_000_000

// check says what is wrong with a configuration, naming the flag to change.
func (c *Config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Broker == nil {
		bad("no broker")
	}
	if c.Shards < 0 || c.Shards > channel.MaxShards {
		bad("--shards is %d; it must be between 1 and %d, or 0 for one a core", c.Shards, channel.MaxShards)
	}
	for _, p := range []struct {
		flag  string
		value int64
		min   int64
	}{
		{"--max-connections", int64(c.MaxConnections), 1},
		{"--max-handshakes", int64(c.MaxHandshakes), 1},
		{"--max-message", int64(c.MaxMessage), 125},
		{"--max-subscriptions", int64(c.MaxSubscriptions), 1},
		{"--max-channels", int64(c.MaxChannels), 1},
		{"--replay", int64(c.Replay), 0},
		{"--send-queue", int64(c.SendQueue), 1},
		{"--rate-burst", int64(c.RateBurst), 1},
		{"--rate-per-sec", int64(c.RatePerSec), 1},
		{"MaxPublish", int64(c.MaxPublish), 1},
		{"LogBudget", c.LogBudget, 1 << 20},
		{"BufferBudget", c.BufferBudget, 1 << 20},
		{"--backlog", c.Backlog, 64 << 10},
		{"SndBuf", int64(c.SndBuf), 2048},
		{"--slow-timeout", int64(c.SlowTimeout), int64(tick)},
		{"--ping", int64(c.Ping), int64(tick)},
		{"--heartbeat", int64(c.Heartbeat), int64(tick)},
		{"the handshake timeout", int64(c.HandshakeTimeout), int64(tick)},
		{"the frame timeout", int64(c.FrameTimeout), int64(tick)},
		{"--drain", int64(c.Drain), 0},
		{"--max-age", int64(c.MaxAge), 0},
		{"--publish-rate", int64(c.PublishRate), 0},
		{"--admission-wait", int64(c.AdmissionWait), 0},
	} {
		if p.value < p.min {
			bad("%s is %d; it must be at least %d", p.flag, p.value, p.min)
		}
	}
	if c.RateBurst > maxRate || c.RatePerSec > maxRate {
		bad("--rate-burst and --rate-per-sec may be at most %d", maxRate)
	}
	if c.TLS != nil && (c.TLS.Certificates == nil || c.TLS.Handshakes < 1) {
		bad("TLS without a certificate, or without a handshake allowed")
	}
	if c.MaxMessage > 1<<30 {
		bad("--max-message is %d; it must be at most 1GiB", c.MaxMessage)
	}
	if c.APIKeys == nil && !loopback(c.AdminAddr) {
		bad("--admin-addr %s is not a loopback address, and no API key guards the admin port: use 127.0.0.1, or give --publish-key-file", c.AdminAddr)
	}
	return errors.Join(errs...)
}

// loopback reports whether an address can be reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
