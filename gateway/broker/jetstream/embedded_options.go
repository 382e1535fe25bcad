package jetstream

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nuid"
)

const (
	streamQueueMsgs  = 16384    // messages waiting for the store before they are refused
	headerRoom       = 16 << 10 // bytes of headers on top of MaxPayload
	reconnectReports = 60       // a route that is gone is tried, and otherwise reported, every second
)

// login is how the in-process client gets in.
type login struct {
	user, pass string // "" for no need
	private    bool   // there is a client port, and it is for nobody else
	account    string // that the client is in, and so the stream
}

// serverOptions is the embedded server's configuration, and the login the
// in-process client needs.
func (c Config) serverOptions() (opts *server.Options, l login, err error) {
	opts = &server.Options{Port: -1}
	hasPort := false
	if c.ConfigFile != "" {
		if opts, err = server.ProcessConfigFile(c.ConfigFile); err != nil {
			return nil, l, fmt.Errorf("nats-server configuration: %w", err)
		}
		hasPort = opts.Port != 0 || opts.Host != ""
	}
	opts.NoSigs, opts.NoLog, opts.LogFile = true, true, ""
	opts.DontListen = !hasPort
	if c.Listen != "" {
		host, port, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return nil, l, fmt.Errorf("NATS listen address: %w", err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, l, fmt.Errorf("NATS listen address %q: the port isn't a number", c.Listen)
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
		opts.DontListen = false
	}
	l.private = opts.DontListen && opts.Cluster.Port != 0
	if l.private {
		// The server starts no routes before it takes clients: it does so where no
		// other host reaches it, for no one but us.
		opts.DontListen, opts.Host, opts.Port = false, "127.0.0.1", server.RANDOM_PORT
		opts.Cluster.NoAdvertise = true
	}
	opts.JetStream = true
	if opts.ServerName == "" {
		if opts.ServerName, err = c.serverName(); err != nil {
			return nil, l, err
		}
	}
	orDefault(&opts.StoreDir, c.DataDir)
	orDefault(&opts.MaxPayload, int32(c.MaxPayload+headerRoom))
	q := c.queues()
	orDefault(&opts.MaxPending, q.pending)
	orDefault(&opts.WriteDeadline, 10*time.Second)
	orDefault(&opts.ReconnectErrorReports, reconnectReports)
	orDefault(&opts.StreamMaxBufferedMsgs, streamQueueMsgs)
	orDefault(&opts.StreamMaxBufferedSize, q.stream)
	if c.ConfigFile == "" {
		// A fixed figure, not what the disk has free now: the reservation must not
		// fail on a disk that is nearly full because it holds our own stream.
		opts.JetStreamMaxStore = c.Retention + max(c.Retention/4, 64<<20)
		opts.JetStreamMaxMemory = embeddedMemory
	}
	err = c.login(opts, &l)
	return opts, l, err
}

// serverName is what the embedded server is called in a cluster. A replica
// belongs to a name: it must be no other server's and the same after a restart,
// where a container's host name may be neither. So it is made once and kept
// with the store.
func (c Config) serverName() (string, error) {
	file := filepath.Join(c.DataDir, "server-name")
	kept, err := os.ReadFile(file)
	if err == nil && len(kept) > 0 {
		return string(kept), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("this server's name: %w", err)
	}
	name := "odin-" + c.Name + "-" + nuid.New().Next()[:8]
	if err := os.WriteFile(file+".new", []byte(name), 0o600); err != nil {
		return "", fmt.Errorf("this server's name: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return "", fmt.Errorf("this server's name: %w", err)
	}
	return name, nil
}

// login adds a user of our own where opts would not let an anonymous client in,
// or should not, and says what it is.
func (c Config) login(opts *server.Options, l *login) error {
	l.account = server.DEFAULT_GLOBAL_ACCOUNT
	switch {
	case len(opts.TrustedOperators) > 0 || opts.Authorization != "":
		return errors.New("nats-server configuration: operators and tokens don't work with the embedded server; use users, or run nats-server itself and name it with --nats-url")
	case opts.NoAuthUser != "":
		for _, u := range opts.Users {
			if u.Username == opts.NoAuthUser && u.Account != nil {
				l.account = u.Account.Name
			}
		}
		for _, u := range opts.Nkeys {
			if u.Nkey == opts.NoAuthUser && u.Account != nil {
				l.account = u.Account.Name
			}
		}
		return nil
	case opts.Username != "":
		opts.Users = append(opts.Users, &server.User{Username: opts.Username, Password: opts.Password})
		opts.Username, opts.Password = "", ""
	case len(opts.Users) == 0 && len(opts.Nkeys) == 0 && !l.private:
		return nil
	}
	own := &server.User{Username: "odin-" + nuid.Next(), Password: nuid.Next() + nuid.Next()}
	var named []*server.Account
	for _, a := range opts.Accounts {
		if a.Name == c.Account {
			named = []*server.Account{a}
			break
		}
		if a.Name != opts.SystemAccount && a.Name != server.DEFAULT_SYSTEM_ACCOUNT {
			named = append(named, a)
		}
	}
	switch {
	case len(named) == 1:
		own.Account, l.account = named[0], named[0].Name
	case len(named) > 1:
		return errors.New("nats-server configuration names several accounts: say which one holds the stream")
	}
	opts.Users = append(opts.Users, own)
	l.user, l.pass = own.Username, own.Password
	return nil
}
