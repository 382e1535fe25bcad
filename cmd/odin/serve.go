package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/capacity"
	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/gateway/broker/jetstream"
	"github.com/odin-ws/odin/internal/market"
)

// shutdownGrace is what shutdown may take beyond --drain.
const shutdownGrace = 5 * time.Second

func newServe(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Serve runs the gateway: WebSocket clients on --addr, publishers on --admin-addr,
and between them a JetStream stream, in this process or at --nats-url.

It works out from the memory limit and the descriptor limit how many connections
it can hold, logs the sum, and admits no more. GOMEMLIMIT follows from it unless
the environment sets it.

SIGHUP reads the configuration file, keys and certificates again; what is wrong with
them is logged, and nothing has changed then. 'odin config check FILE' finds it before.
Flags and environment stay as they are, and go before the file as ever. 'odin config
print --defaults' says of each setting whether SIGHUP or a restart takes it over.

SIGTERM or SIGINT drains: clients are told when to come back, over --drain; all
ends within 5 s more. A second signal ends the process at once.

Every flag can be given as ODIN_… in the environment or in --config FILE; see
'odin config print'. An ODIN_… name or key that is no setting is refused.`,
		Example: `  odin serve
  odin serve --demo
  odin serve --addr :9000 --max-connections 10000 --data-dir /srv/odin
  odin serve --nats-url nats://a:4222,nats://b:4222 --config odin.yaml`,
		Args: nArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkEnv(cmd.Root(), environ); err != nil {
				return err
			}
			l, err := loadSettings(cmd.Flags(), environ)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), l, environ, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	addServeFlags(cmd)
	return cmd
}

// serve runs a gateway until ctx ends or it fails.
func serve(ctx context.Context, l *loaded, environ []string, stdout, stderr io.Writer) error {
	hup := make(chan os.Signal, 1)     // one more is enough: it reads what is there then
	signal.Notify(hup, syscall.SIGHUP) // for good: one that comes late must not end the process with 129
	level := new(slog.LevelVar)
	log := newLogger(l, level, stderr)
	slog.SetDefault(log) // for libraries that log by themselves
	attended := isTerminal(stderr)

	encrypted, err := l.openTLS(log)
	if err != nil {
		return err
	}
	shards := l.shards()
	sum, err := l.capacity(shards, log, recordsOf(encrypted))
	if err != nil {
		return err
	}
	log.Info(sum.Sentence())
	log.Info(sum.BoundSentence())
	warnHigh(sum.Limit, log)
	_, ownLimit := lookupEnv(environ, "GOMEMLIMIT")
	if !ownLimit {
		debug.SetMemoryLimit(sum.GoMemLimit())
	}
	runtime.GOMAXPROCS(shards + 2) // a poller's wait holds a P until sysmon takes it back

	dir, temporary, err := l.dataDir(environ)
	if err != nil {
		return err
	}
	if temporary {
		defer func() { _ = os.RemoveAll(dir) }()
	}
	who, err := l.access(log)
	if err != nil {
		return err
	}
	defer who.close()
	cfg := l.gatewayConfig(sum.Max, shards, log)
	who.into(&cfg)
	cfg.TLS = encrypted
	budgets, err := l.budgets(sum, &cfg)
	if err != nil {
		return err
	}
	log.Info("Budgets", "logs", capacity.FormatSize(cfg.LogBudget), "buffers", capacity.FormatSize(cfg.BufferBudget),
		"backlog", capacity.FormatSize(cfg.Backlog), "broker", capacity.FormatSize(budgets.Broker), "handshakes", cfg.MaxHandshakes)
	re := &reloader{loaded: l, log: log, level: level, who: who, tls: encrypted, shards: shards, ownLimit: ownLimit}
	re.show(sum)
	cfg.Capacity = re.report.Load
	usage, err := l.watch(sum, &cfg, re)
	if err != nil {
		log.Warn("The memory in use can't be watched; the budgets hold all the same", "err", err)
	} else {
		defer usage.Close()
	}
	b, err := jetstream.New(jetstream.Config{
		URL: string(l.NATSURL), DataDir: dir, Listen: string(l.NATSListen), ConfigFile: string(l.NATSConfig),
		Retention: int64(l.Retention), Memory: budgets.Broker, StoreCache: storeCache(debug.SetMemoryLimit(-1), cfg.LogBudget), MaxPayload: cfg.MaxPublish, Name: string(l.Node), Log: log,
	})
	if err != nil {
		return err
	}
	cfg.Broker = b
	gw, err := gateway.New(cfg)
	if err != nil {
		return errors.Join(err, b.Close())
	}
	if err := gw.Start(); err != nil {
		return errors.Join(err, b.Close())
	}
	log.Info("Odin is up", "version", readBuildInfo().Version, "addr", gw.Addr(), "admin", gw.AdminAddr(),
		"shards", shards, "stream", streamPlace(l, dir))
	who.say(l, log)
	tell := func(state string) {
		if err := tellManager(environ, state); err != nil {
			log.Warn("The service manager can't be told how far the start or the end is", "err", err)
		}
	}
	tell(fmt.Sprintf("READY=1\nSTATUS=%d connections at most", sum.Max))

	feed := func() {}
	if l.Demo {
		feed = startDemo(b, gw, log, stdout)
	}
	re.gw = gw
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case <-gw.Done():
			running, err = false, fmt.Errorf("the gateway failed: %w", gw.Err())
		case <-hup:
			if attended && !isTerminal(stderr) { // that is why it came
				log.Info("The terminal was closed")
				running = false
			} else {
				re.reload()
			}
		}
	}
	tell("STOPPING=1\nSTATUS=draining")
	drain := time.Duration(re.loaded.Drain)
	if err == nil {
		log.Info("Draining", "for", drain)
	}
	feed()
	end, cancel := context.WithTimeout(context.Background(), drain+shutdownGrace)
	defer cancel()
	if bad := gw.Shutdown(end); bad != nil {
		return errors.Join(err, fmt.Errorf("shutdown: %w", bad))
	}
	if err == nil {
		log.Info("Stopped")
	}
	return err
}

// newLogger logs as the settings say; level can be changed later.
func newLogger(l *loaded, level *slog.LevelVar, out io.Writer) *slog.Logger {
	_ = level.UnmarshalText([]byte(l.LogLevel.word)) // a choice of its names
	opts := &slog.HandlerOptions{Level: level}
	if l.LogFormat.word == "json" {
		return slog.New(slog.NewJSONHandler(out, opts))
	}
	return slog.New(slog.NewTextHandler(out, opts))
}

// shards is how many event loops there are to be, before GOMAXPROCS is set for them.
func (l *loaded) shards() int {
	if l.Shards == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return int(l.Shards)
}

// capacity works out how many connections this process may hold.
func (l *loaded) capacity(shards int, log *slog.Logger, records capacity.TLSRecords) (capacity.Result, error) {
	descriptors, err := capacity.Descriptors()
	if err != nil {
		log.Warn("The descriptor limit could not be raised", "err", err, "limit", descriptors)
	}
	limit := capacity.Limit{Bytes: int64(l.MemoryLimit), Source: l.origin["memory_limit"]}
	if l.MemoryLimit == 0 {
		if limit, err = capacity.DetectLimit(systemRoot); err != nil {
			return capacity.Result{}, hinted{err, "Set the limit with --memory-limit."}
		}
	}
	if found, err := capacity.DetectLimit(os.DirFS("/")); err == nil && found.Bytes < limit.Bytes {
		log.Warn("--memory-limit is above what the process may use: the kernel may end it", "set", capacity.FormatSize(limit.Bytes), "limit", capacity.FormatSize(found.Bytes), "read_from", found.Source)
	}
	profile, err := capacity.ParseProfile(l.CapacityProfile.word)
	if err != nil {
		return capacity.Result{}, usageError{err}
	}
	r, err := capacity.Compute(capacity.Input{
		Compression: compressionMemory(l.Compression, shards),
		Limit:       limit, Profile: profile, BytesPerConnection: int64(l.BytesPerConnection),
		RuntimeOverhead: int64(l.RuntimeOverhead), Backlog: int64(l.Backlog), Replay: int(l.Replay),
		Descriptors: descriptors, ReservedDescriptors: reserved(descriptors, int(l.MaxHandshakes), records),
		Configured: int(l.MaxConnections), TLS: records, Tokens: l.readersNeedTokens(),
	})
	if err != nil {
		return r, usageError{err}
	}
	return r, nil
}

// compressionMemory is the term of --compression.
func compressionMemory(on toggle, shards int) int64 {
	if !on {
		return 0
	}
	return gateway.CompressionMemory(shards)
}

// systemRoot is where the cgroup's files are looked for; tests put fixtures there.
var systemRoot = os.DirFS("/")

// warnHigh says so when the kernel throttles this process below its limit.
func warnHigh(limit capacity.Limit, log *slog.Logger) {
	high, _, err := capacity.DetectHigh(systemRoot)
	if err != nil {
		log.Warn("memory.high can't be read", "err", err)
	}
	if s := capacity.HighSentence(limit, high); s != "" {
		log.Warn(s)
	}
}

// tlsDescriptors is how many descriptors a TLS handshake needs: two while it is under
// way, and one that waits to begin.
const tlsDescriptors = 3

// reserved is how many descriptors are kept from clients: the usual ones, and
// those of handshakes under way and of callers being refused, as far as a tenth
// of all goes.
func reserved(descriptors uint64, handshakes int, records capacity.TLSRecords) int {
	each := 2
	if records != capacity.TLSNone {
		each += tlsDescriptors
	}
	tenth := int(min(descriptors, 1<<30) / 10)
	return max(capacity.DefaultReservedDescriptors, min(capacity.DefaultReservedDescriptors+each*handshakes, tenth))
}

// gatewayConfig is gateway.DefaultConfig with the settings in it.
func (l *loaded) gatewayConfig(maxConnections, shards int, log *slog.Logger) gateway.Config {
	c := gateway.DefaultConfig()
	c.Addr, c.AdminAddr = string(l.Addr), string(l.AdminAddr)
	c.Shards, c.MaxConnections, c.MaxHandshakes = shards, maxConnections, int(l.MaxHandshakes)
	c.MaxMessage, c.MaxSubscriptions = int(l.MaxMessage), int(l.MaxSubscriptions)
	c.MaxChannels, c.Replay = int(l.MaxChannels), int(l.Replay)
	c.SendQueue, c.SlowTimeout = int(l.SendQueue), time.Duration(l.SlowTimeout)
	c.RateBurst, c.RatePerSec = int(l.RateBurst), int(l.RatePerSec)
	c.Heartbeat = time.Duration(l.Heartbeat)
	c.Ping, c.MaxAge, c.Drain = time.Duration(l.Ping), time.Duration(l.MaxAge), time.Duration(l.Drain)
	c.IPConnections, c.IPRate = int(l.IPConnections), int(l.IPRate)
	c.AdmissionWait, c.RejectWS = time.Duration(l.AdmissionWait), l.Reject.word == "ws"
	c.AllowOrigin, c.PublishRate = l.AllowOrigin.items, int(l.PublishRate)
	for _, item := range l.StaleAfter.items {
		if silence, err := gateway.ParseSilence(item); err == nil { // it was checked by Set
			c.Silences = append(c.Silences, silence)
		}
	}
	c.TrustedProxies = make([]netip.Prefix, 0, len(l.TrustedProxy.items))
	for _, item := range l.TrustedProxy.items {
		if p, err := parsePrefix(item); err == nil { // it was checked by Set
			c.TrustedProxies = append(c.TrustedProxies, p)
		}
	}
	c.Echo, c.Compression = bool(l.Echo), bool(l.Compression)
	c.Node, c.Version, c.Log = string(l.Node), readBuildInfo().Version, log
	return c
}

// budgets sets the shares of the memory that the sum leaves to the process, each
// enforced by who it is for. What the limit has beyond the sum (when
// descriptors or the configuration are the tighter bound) makes the logs and
// buffers larger.
func (l *loaded) budgets(sum capacity.Result, c *gateway.Config) (capacity.Shares, error) {
	longest := 4 * int64(l.MaxMessage) // a few of the longest messages at once
	spare := sum.Limit.Bytes - sum.Overhead - int64(sum.Max)*sum.BytesPerConnection
	if spare < capacity.MiB { // what the division leaves
		spare = 0
	}
	shares, err := capacity.BudgetsFor(sum.Limit.Bytes, sum.RuntimeOverhead, capacity.Needs{Buffers: max(0, longest-spare/8)})
	if err != nil {
		return shares, usageError{err}
	}
	c.LogBudget = shares.Logs + min(spare/8, capacity.GiB)
	c.BufferBudget = max(longest, shares.Buffers+min(spare/8, 256*capacity.MiB))
	c.Backlog = backlogOf(sum)
	c.PublishBudget = min(c.PublishBudget, sum.RuntimeOverhead/4)
	c.MoreSubscriptions = shares.MoreSubscriptions() + int(min(spare/8, capacity.GiB)/capacity.SubscriptionCost)
	// Half for those not upgraded yet, half for those being told that there is
	// no place. They need descriptors too.
	groups := 2
	if c.AdmissionWait > 0 {
		groups++ // as many may wait for a place
	}
	if c.Tokens != nil {
		groups++ // or for the verdict on a token
	}
	c.MaxHandshakes = max(1, min(c.MaxHandshakes, shares.Unadmitted(sum.TLS)/groups))
	if sum.Descriptors > 0 {
		spare := int(min(sum.Descriptors, 1<<30)) - sum.Max - capacity.DefaultReservedDescriptors/2
		if c.TLS != nil {
			groups += tlsDescriptors
		}
		c.MaxHandshakes = max(16, min(c.MaxHandshakes, spare/groups))
	}
	if c.TLS != nil {
		c.TLS.Handshakes = max(16, min(sum.TLSHandshakes(), c.MaxHandshakes))
	}
	return shares, nil
}

// idleHeap is what the heap holds before anyone comes, bytes, measured.
const idleHeap = 8 * capacity.MiB

// storeCache is how much of Go's memory the embedded store's blocks may have at first,
// bytes: what is left below the heap at which publishers are held back when the logs are
// full. Without a limit for Go there is no bound, 0.
func storeCache(goLimit, logs int64) int64 {
	if goLimit == math.MaxInt64 {
		return 0
	}
	return max(1, goLimit/100*int64(capacity.DefaultThresholds.LiveEase)-logs-idleHeap)
}

// backlogOf is the backlog to enforce under a sum. The goroutine profile reckons
// with none: the queues that its connections are reckoned with are not made here,
// so what they would hold is there for the sockets.
func backlogOf(sum capacity.Result) int64 {
	b := max(sum.Backlog, leastBacklog)
	if sum.Profile == capacity.Goroutine && sum.Backlog == 0 {
		b = max(b, sum.Limit.Bytes/8)
	}
	return b
}

// leastBacklog lets a few connections be written to at a time.
const leastBacklog = 256 * capacity.KiB

// watch opens the files that say how much memory is in use. Under a limit that
// changes, the gate, the backlog and, unless the user set it, GOMEMLIMIT follow;
// the budgets of logs and buffers stay as they were at start.
func (l *loaded) watch(sum capacity.Result, c *gateway.Config, re *reloader) (*capacity.Usage, error) {
	usage, err := capacity.OpenUsage(capacity.UsageConfig{Set: l.limitSet(sum)})
	if err != nil {
		return nil, err
	}
	c.Memory = func() capacity.Sample {
		if set := re.setLimit.Swap(nil); set != nil {
			usage.SetLimit(*set)
		}
		return usage.Read()
	}
	c.Recompute = re.recompute(sum)
	return usage, nil
}

// limitSet is the memory limit that the user has set, zero for none.
func (l *loaded) limitSet(sum capacity.Result) capacity.Limit {
	if l.MemoryLimit == 0 {
		return capacity.Limit{}
	}
	return sum.Limit
}

// dataDir is where the embedded stream is kept; "" with --nats-url. A temporary
// one is the caller's to remove.
func (l *loaded) dataDir(environ []string) (dir string, temporary bool, err error) {
	getenv := func(name string) string {
		text, _ := lookupEnv(environ, name)
		return text
	}
	switch {
	case l.NATSURL != "":
		return "", false, nil
	case l.DataDir != "":
		return string(l.DataDir), false, nil
	case bool(l.Demo):
		dir, err = os.MkdirTemp("", "odin-demo-")
		return dir, true, err
	case getenv("STATE_DIRECTORY") != "": // systemd's StateDirectory=
		first, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":")
		return first, false, nil
	case os.Getuid() == 0:
		return "/var/lib/odin", false, nil
	case filepath.IsAbs(getenv("XDG_STATE_HOME")):
		return filepath.Join(getenv("XDG_STATE_HOME"), "odin"), false, nil
	case filepath.IsAbs(getenv("HOME")):
		return filepath.Join(getenv("HOME"), ".local", "state", "odin"), false, nil
	}
	return "", false, usagef("no place for the stream's data: set --data-dir")
}

func streamPlace(l *loaded, dir string) string {
	if l.NATSURL != "" {
		return redactURL(string(l.NATSURL))
	}
	return dir
}

// The demo's market.
const (
	demoSymbols = 100
	demoRate    = 1000
)

// startDemo feeds a synthetic market into b and says where it can be seen. The
// function it returns ends it.
func startDemo(b batchPublisher, gw *gateway.Gateway, log *slog.Logger, stdout io.Writer) (stop func()) {
	host := dialable(gw.Addr())
	secured := ""
	if gw.Stats().TLS != nil {
		secured = "s"
	}
	fmt.Fprintf(stdout, `
A synthetic market of %d symbols, %d events a second, is running:

  watch it    odin tail --url ws%[4]s://%[3]s/ws 'trade.*'
  connect     ws%[4]s://%[3]s/ws
              {"op":"sub","id":1,"ch":["trade.*"]}
  status page http://%[5]s/
  look inside http%[4]s://%[3]s/stats
  publish     odin publish --admin-addr %[5]s demo.hello '{"text":"hi"}'

`, demoSymbols, demoRate, host, secured, dialable(gw.AdminAddr()))

	s := market.NewSynth(market.SynthConfig{Symbols: demoSymbols, Rate: demoRate, Seed: 1})
	f := &feeder{
		next:  func() (market.Event, error) { return s.Next(), nil },
		to:    &brokerTarget{to: b, name: "the broker"},
		speed: 1, retry: time.Hour,
		note: func(text string) { log.Debug("Demo: " + text) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f.run(ctx); err != nil {
			log.Error("The demo market stopped", "err", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// dialable is a listener's address as something to connect to.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
