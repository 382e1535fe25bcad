package main

import (
	"crypto/x509"
	"log/slog"
	"reflect"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/gateway/auth"
)

// reloader takes what has changed in the configuration file over into a running
// gateway, and the keys and certificates with it. The goroutine of serve owns it, but
// for setLimit and report.
type reloader struct {
	*loaded  // in force
	log      *slog.Logger
	level    *slog.LevelVar
	who      *access
	tls      *gateway.TLS // nil: the port is plain
	shards   int
	ownLimit bool // GOMEMLIMIT is the environment's
	gw       *gateway.Gateway

	setLimit atomic.Pointer[capacity.Limit]  // for who reads the memory in use
	followed atomic.Pointer[capacity.Limit]  // the machine's that the gateway has followed last, nil: none, or the one that is set
	report   atomic.Pointer[capacity.Report] // of the sum in force, for who looks at it
}

// recompute is a sum's gateway.Live.Recompute.
func (r *reloader) recompute(sum capacity.Result) func(capacity.Limit) (int, int64, error) {
	return func(limit capacity.Limit) (int, int64, error) {
		r.followed.Store(nil)
		if strings.HasPrefix(limit.Source, "cgroup") || strings.HasPrefix(limit.Source, "host") {
			r.followed.Store(&limit) // the machine's, not the one that is set
		}
		now, err := sum.Recompute(limit)
		if !r.ownLimit {
			debug.SetMemoryLimit(now.GoMemLimit())
		}
		r.show(now)
		return now.Max, backlogOf(now), err
	}
}

// fits is a sum under the limit that the gateway follows, where that is the smaller: a
// memory limit that is set does not lift one that has come down since.
func (r *reloader) fits(sum capacity.Result) (capacity.Result, error) {
	if limit := r.followed.Load(); limit != nil && limit.Bytes < sum.Limit.Bytes {
		return sum.Recompute(*limit)
	}
	return sum, nil
}

// show has the gateway show a sum. One that nothing fits leaves the last one standing:
// the log says why.
func (r *reloader) show(sum capacity.Result) {
	if report, err := sum.Report(); err == nil {
		r.report.Store(&report)
	}
}

// reload reads the file, the keys and the certificates again and puts them in force,
// all or, if anything is wrong, nothing. Either is logged and counted.
func (r *reloader) reload() {
	next, err := loadLayers(r.path, r.environ, r.flags)
	if err == nil {
		err = r.take(next)
	}
	if err == nil {
		return
	}
	r.gw.ReloadFailed()
	args := []any{"err", err}
	if r.path != "" {
		args = append(args, "see", "odin config check "+r.path)
	}
	r.log.Error("The configuration can't be used: nothing was changed", args...)
}

// take puts other settings in force. With an error nothing has changed.
func (r *reloader) take(next *loaded) error {
	changed, fixed := r.compare(next)
	if err := next.validate(); err != nil { // with those in it that stay
		return err
	}
	takeKeys, err := r.who.prepare(next, r.log)
	if err != nil {
		return err
	}
	takeCertificates := func() *x509.Certificate { return nil }
	if r.tls != nil {
		if takeCertificates, err = r.tls.Certificates.Prepare(string(next.TLSCert), string(next.TLSKey)); err != nil {
			return usagef("--tls-cert, --tls-key: %w", err)
		}
	}
	live, sum, err := r.live(next)
	if err != nil {
		return err
	}
	now, err := r.fits(sum)
	if err != nil {
		return err
	}
	live.MaxConnections, live.Backlog = now.Max, backlogOf(now)

	_ = r.level.UnmarshalText([]byte(next.LogLevel.word)) // a choice of its names
	takeKeys()
	if fresh := takeCertificates(); fresh != nil {
		r.gw.CertificateTaken(fresh)
	}
	if r.MemoryLimit != next.MemoryLimit {
		set := next.limitSet(sum)
		r.setLimit.Store(&set)
	}
	if !r.ownLimit {
		debug.SetMemoryLimit(now.GoMemLimit())
	}
	if err := r.gw.Reload(live); err != nil {
		return err // it is shutting down: live was checked
	}
	r.show(now)
	for _, d := range fixed {
		r.log.Warn("A setting has changed that only a restart takes over", "key", d.key, "in_force", d.was, "wanted", d.is, "from", d.from)
	}
	for _, d := range changed {
		r.log.Info("A setting has changed", "key", d.key, "was", d.was, "is", d.is, "from", d.from)
	}
	r.log.Info("The configuration was read again", "file", r.path, "changed", len(changed), "need_restart", len(fixed), "max_connections", now.Max)
	r.loaded = next
	return nil
}

// live is what the gateway is to be told of other settings, and the sum behind it.
func (r *reloader) live(next *loaded) (gateway.Live, capacity.Result, error) {
	sum, err := next.capacity(r.shards, r.log, recordsOf(r.tls))
	if err != nil {
		return gateway.Live{}, sum, err
	}
	cfg := next.gatewayConfig(sum.Max, r.shards, r.log)
	r.who.into(&cfg)
	if r.tls != nil {
		copied := *r.tls // the number of handshakes is set in it, which can't change any more
		cfg.TLS = &copied
	}
	if _, err := next.budgets(sum, &cfg); err != nil {
		return gateway.Live{}, sum, err
	}
	cfg.Recompute = r.recompute(sum)
	return cfg.Live, sum, cfg.Live.Check()
}

// difference is a setting that is not as it was, as it may be shown.
type difference struct{ key, was, is, from string }

// compare finds the settings that differ from those in force. Those that only a restart
// takes over are made as they were in next, and returned as fixed.
func (r *reloader) compare(next *loaded) (changed, fixed []difference) {
	stays := r.onOff(next)
	was, is := r.settings(), next.settings()
	for i, s := range is {
		if s.value.String() == was[i].value.String() {
			continue
		}
		d := difference{s.key(), shown(was[i]), shown(s), next.origin[s.key()]}
		if s.live != "" && !stays[s.flag] {
			changed = append(changed, d)
			continue
		}
		fixed = append(fixed, d)
		reflect.ValueOf(next.serveConfig).Elem().Field(i).Set(reflect.ValueOf(r.serveConfig).Elem().Field(i))
		next.origin[s.key()] = r.origin[s.key()]
	}
	return changed, fixed
}

// shown is a setting's value as the log may have it: of a set of keys without the query,
// as elsewhere in the log.
func shown(s setting) string {
	text := s.value.String()
	if s.flag != "jwks" {
		return redactURL(text)
	}
	names := strings.Split(text, ",")
	for i, name := range names {
		if at, err := auth.ParseKeySet(name); err == nil && at != nil {
			names[i] = auth.Shown(at)
		}
	}
	return strings.Join(names, ",")
}

// onOff names the settings that stay because they would turn something on or off that
// the sum, or the listener, was made for: TLS, tokens, API keys.
func (r *reloader) onOff(next *loaded) map[string]bool {
	stays := map[string]bool{}
	stay := func(flags ...string) {
		for _, f := range flags {
			stays[f] = true
		}
	}
	if (r.TLSCert == "") != (next.TLSCert == "") {
		stay("tls-cert", "tls-key")
	}
	if r.readersNeedTokens() != next.readersNeedTokens() {
		stay("token-key-file", "jwks", "token-issuer", "token-audience", "token-read", "anonymous-read", "revoked")
	}
	if r.publishersNeedKeys() != next.publishersNeedKeys() {
		stay("publish-key-file")
	}
	return stays
}
