package jetstream

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	startTimeout   = 30 * time.Second // a large store is read at start
	restartPause   = 5 * time.Second  // between attempts to get a broken store back
	restartSpace   = 8 << 20          // free bytes below which an attempt is not made
	embeddedMemory = 32 << 20         // JetStream's own memory store, which Odin doesn't use
)

// embedded is the nats-server in this process. It survives its server: a store
// that had a write error (a full disk) refuses everything until it is opened
// anew, so repair shuts the server down and starts another over the same files.
type embedded struct {
	// Static after construction.
	cfg  Config
	log  *serverLog
	lock *os.File // the flock on DataDir

	// Static after the first start.
	clustered bool                                     // the server is one of a cluster
	limits    map[string]server.JetStreamAccountLimits // the account's, by tier, as the operator wants them
	limited   bool                                     // see limited

	mu          sync.Mutex
	srv         *server.Server // guarded by mu; nil while repairing
	as          login          // guarded by mu
	lastRestart time.Time      // owned by the delivery goroutine

	held *server.Server // guarded by mu; the one that was told to store nothing, nil for none
}

// startEmbedded locks the data directory and starts a server over it.
func startEmbedded(cfg Config) (*embedded, error) {
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	e := &embedded{cfg: cfg, log: &serverLog{log: cfg.Log}, lock: lock}
	if err := e.start(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return e, nil
}

// lockDir makes dir if need be and takes the lock that keeps a second process
// out of it. The kernel drops the lock when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	const hint = "choose another with --data-dir"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("can't make the data directory: %w; %s or make it writable for user %d", err, hint, os.Getuid())
	}
	f, err := os.OpenFile(filepath.Join(dir, "odin.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("can't write to the data directory: %w; %s or make it writable for user %d", err, hint, os.Getuid())
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("the data directory %s is in use by another odin process; stop that one or %s", dir, hint)
	} else if err != nil {
		err = fmt.Errorf("can't lock %s: %w; %s, on a local file system", f.Name(), err, hint)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// start starts a server and makes it the current one.
func (e *embedded) start() error {
	opts, login, err := e.cfg.serverOptions()
	if err != nil {
		return err
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("embedded nats-server: %w", err)
	}
	e.log.forget()
	e.log.ownUser = login.private && len(opts.Users) == 1
	srv.SetLogger(e.log, false, false)
	srv.Start()
	ready, why := false, ""
	for end := time.Now().Add(startTimeout); !ready && why == "" && time.Now().Before(end); {
		ready = srv.ReadyForConnections(100 * time.Millisecond)
		why = e.log.lastFatal()
	}
	if !ready || why != "" || !srv.JetStreamEnabled() {
		if why == "" {
			why = fmt.Sprintf("not ready within %v", startTimeout)
		}
		srv.Shutdown()
		srv.WaitForShutdown()
		return fmt.Errorf("embedded nats-server over %s didn't start: %s; check the directory's owner and free space, or choose another with --data-dir", e.cfg.DataDir, why)
	}
	if e.limits == nil {
		e.clustered = srv.JetStreamIsClustered()
		// What it may store in this account; unknown, nothing is ever changed of it.
		e.limits, err = accountLimits(srv, login.account)
		if err != nil {
			e.cfg.Log.Warn("publications over NATS can't be held back if memory gets short", "account", login.account, "err", err)
			e.limits = map[string]server.JetStreamAccountLimits{}
		}
		e.limited = limited(e.limits)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv, e.as = srv, login
	return nil
}

// InProcessConn implements nats.InProcessConnProvider for whichever server is
// the current one.
func (e *embedded) InProcessConn() (net.Conn, error) {
	srv := e.server()
	if srv == nil {
		return nil, errors.New("embedded nats-server is restarting")
	}
	return srv.InProcessConn()
}

func (e *embedded) login() login {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.as
}

func (e *embedded) userInfo() (user, pass string) {
	l := e.login()
	return l.user, l.pass
}

func (e *embedded) server() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.srv
}

// replica reports whether the server of a cluster stores the stream.
func (e *embedded) replica() bool {
	srv := e.server()
	return srv != nil && srv.JetStreamIsStreamAssigned(e.login().account, streamName)
}

// peers is how many servers could hold a replica, as far as this one knows.
func (e *embedded) peers() int {
	srv := e.server()
	if srv == nil || !srv.JetStreamIsClustered() {
		return 1
	}
	// The first is exact, but known to the cluster's leader alone.
	return max(1, len(srv.JetStreamClusterPeers()), len(srv.ActivePeers()))
}

// trouble says why the store takes no writes, nil when it does.
func (e *embedded) trouble() error {
	srv := e.server()
	if srv == nil {
		return errors.New("embedded nats-server is not running")
	}
	if !srv.JetStreamEnabled() {
		return errors.New("embedded JetStream was disabled, as it is when the disk is full")
	}
	h := srv.Healthz(&server.HealthzOptions{})
	if h.Error == "" || strings.HasPrefix(h.Error, notReady) || !srv.JetStreamEnabled() || srv.JetStreamIsClustered() {
		return nil
	}
	return errors.New(h.Error)
}

// notReady begins what Healthz says of a server that did not get to answer
// within a millisecond: a busy machine, not a store in trouble.
const notReady = "failed to be ready for connections"

// repair replaces a server in trouble by a new one, if there is space to write
// and the last attempt is long enough ago. Publishers' connections see a
// disconnect and come back. It blocks for the restart.
func (e *embedded) repair() error {
	if time.Since(e.lastRestart) < restartPause {
		return nil
	}
	e.lastRestart = time.Now()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(e.cfg.DataDir, &fs); err == nil && fs.Bavail*uint64(fs.Bsize) < restartSpace {
		return nil
	}
	e.cfg.Log.Warn("restarting the embedded nats-server to get its store back")
	e.shutdown()
	return e.start()
}

func (e *embedded) shutdown() {
	e.mu.Lock()
	srv := e.srv
	e.srv, e.held = nil, nil
	e.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

// close stops the server, waits for it and gives the directory free.
func (e *embedded) close() error {
	e.shutdown()
	return e.lock.Close()
}

// hold makes the server refuse what anyone publishes, or take it again. It does so by
// the account's limit, which the stream's leader asks before each message, from
// whichever node that comes, and answers with codeAccountFull; nothing stored is
// touched. It does nothing where the operator has limited the account, and in a cluster
// where the leader is another: it would keep nothing away, and a replica can't take
// over a change of the stream's configuration while it is on, or be made.
func (e *embedded) hold(on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.srv == nil || !on && e.held != e.srv || e.limited {
		return nil
	}
	account, err := e.srv.LookupAccount(e.as.account)
	if err != nil {
		return err
	}
	if on = on && account.JetStreamIsStreamLeader(streamName); on == (e.held == e.srv) {
		return nil
	}
	limits := e.limits
	if on {
		limits = make(map[string]server.JetStreamAccountLimits, len(e.limits))
		for tier, l := range e.limits {
			l.MaxStore = 0
			limits[tier] = l
		}
	}
	if err := account.UpdateJetStreamLimits(limits); err != nil {
		return err
	}
	e.held = nil
	if on {
		e.held = e.srv
	}
	return nil
}

// limited reports whether the operator has limited what an account may store. Such a
// limit can't be taken away for a while and given back: what streams reserve of it
// would count twice.
func limited(limits map[string]server.JetStreamAccountLimits) bool {
	for _, l := range limits {
		if l.MaxStore >= 0 {
			return true
		}
	}
	return len(limits) == 0
}

// accountLimits are the limits of an account, by tier; "" where it has none.
func accountLimits(srv *server.Server, name string) (map[string]server.JetStreamAccountLimits, error) {
	account, err := srv.LookupAccount(name)
	if err != nil {
		return nil, err
	}
	usage := account.JetStreamUsage()
	if len(usage.Tiers) == 0 {
		return map[string]server.JetStreamAccountLimits{"": usage.Limits}, nil
	}
	limits := make(map[string]server.JetStreamAccountLimits, len(usage.Tiers))
	for tier, t := range usage.Tiers {
		limits[tier] = t.Limits
	}
	return limits, nil
}
