package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/odin-ws/odin/gateway/channel"
)

// maxRate bounds the command rate: tokens are counted in tenths, in 32 bits.
const maxRate = 400_000_000

// check says what is wrong with a configuration, naming the flag to change.
func (c *Config) check() error {
	var errs []error
	if c.Broker == nil {
		errs = append(errs, errors.New("no broker"))
	}
	if c.TLS != nil && (c.TLS.Certificates == nil || c.TLS.Handshakes < 1) {
		errs = append(errs, errors.New("TLS without a certificate, or without a handshake allowed"))
	}
	if c.APIKeys == nil && !loopback(c.AdminAddr) {
		errs = append(errs, fmt.Errorf("--admin-addr %s is not a loopback address, and no API key guards the admin port: use 127.0.0.1, or give --publish-key-file", c.AdminAddr))
	}
	return errors.Join(append(errs, c.CheckSettings())...)
}

// CheckSettings says what is wrong with the numbers, naming the flags, a line each; New
// refuses them then.
func (c *Config) CheckSettings() error {
	var errs []error
	if c.Shards < 0 || c.Shards > channel.MaxShards {
		errs = append(errs, fmt.Errorf("--shards is %d; it must be between 1 and %d, or 0 for one a core", c.Shards, channel.MaxShards))
	}
	errs = append(errs, atLeast([]bound{
		{"--max-handshakes", int64(c.MaxHandshakes), 1},
		{"--max-channels", int64(c.MaxChannels), 1},
		{"MaxPublish", int64(c.MaxPublish), 1},
		{"PublishBudget", c.PublishBudget, publishFactor * (int64(c.MaxPublish) + 2*publishFrame)},
		{"SndBuf", int64(c.SndBuf), 2048},
	})...)
	errs = append(errs, lastAtLeast([]span{
		{"--ping", c.Ping, tick},
		{"the handshake timeout", c.HandshakeTimeout, tick},
		{"the frame timeout", c.FrameTimeout, tick},
		{"--admission-wait", c.AdmissionWait, 0},
	})...)
	return errors.Join(append(errs, c.Live.Check())...)
}

// Check says what is wrong with the settings, naming the flags; Reload refuses them then.
func (l *Live) Check() error {
	errs := atLeast([]bound{
		{"--max-connections", int64(l.MaxConnections), 1},
		{"--max-message", int64(l.MaxMessage), 125},
		{"--max-subscriptions", int64(l.MaxSubscriptions), 1},
		{"--replay", int64(l.Replay), 0},
		{"--send-queue", int64(l.SendQueue), 1},
		{"--rate-burst", int64(l.RateBurst), 1},
		{"--rate-per-sec", int64(l.RatePerSec), 1},
		{"LogBudget", l.LogBudget, 1 << 20},
		{"BufferBudget", l.BufferBudget, 1 << 20},
		{"--backlog", l.Backlog, 64 << 10},
		{"--publish-rate", int64(l.PublishRate), 0},
		{"--ip-connections", int64(l.IPConnections), 0},
		{"--ip-rate", int64(l.IPRate), 0},
	})
	errs = append(errs, lastAtLeast([]span{
		{"--slow-timeout", l.SlowTimeout, tick},
		{"--heartbeat", l.Heartbeat, tick},
		{"--drain", l.Drain, 0},
		{"--max-age", l.MaxAge, 0},
	})...)
	if l.RateBurst > maxRate || l.RatePerSec > maxRate {
		errs = append(errs, fmt.Errorf("--rate-burst and --rate-per-sec may be at most %d", maxRate))
	}
	if l.MaxMessage > 1<<30 {
		errs = append(errs, fmt.Errorf("--max-message is %d; it must be at most 1GiB", l.MaxMessage))
	}
	if max(l.IPConnections, l.IPRate, l.PublishRate) > 1<<30 {
		errs = append(errs, fmt.Errorf("--ip-connections, --ip-rate and --publish-rate may be at most %d", 1<<30))
	}
	return errors.Join(errs...)
}

// bound is a value and the least it may be.
type bound struct {
	flag       string
	value, min int64
}

func atLeast(bounds []bound) (errs []error) {
	for _, b := range bounds {
		if b.value < b.min {
			errs = append(errs, fmt.Errorf("%s is %d; it must be at least %d", b.flag, b.value, b.min))
		}
	}
	return errs
}

// span is a duration and the least it may be.
type span struct {
	flag       string
	value, min time.Duration
}

func lastAtLeast(spans []span) (errs []error) {
	for _, s := range spans {
		if s.value < s.min {
			errs = append(errs, fmt.Errorf("%s is %v; it must be at least %v", s.flag, s.value, s.min))
		}
	}
	return errs
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
