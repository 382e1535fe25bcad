package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/odin-ws/odin/gateway"
)

// serveConfig is all that `odin serve` can be told. The tags are its only
// description: the flag's name (key and environment name follow from it), the
// default, whether SIGHUP takes a change over, for all connections or for new ones
// (live; without it only a restart does), and what help and `config print --defaults`
// say. A blank line here is one in the file.
type serveConfig struct {
	Addr      word   `flag:"addr" default:":8080" group:"Listeners" usage:"public listener: /ws, /healthz, /readyz, /stats"`
	AdminAddr word   `flag:"admin-addr" default:"127.0.0.1:8081" usage:"admin listener: publish, channels, profiles; only with --publish-key-file on another address than loopback"`
	TLSCert   word   `flag:"tls-cert" default:"" live:"new" usage:"certificate of the public listener, PEM, its chain below it; with it the port speaks TLS only. Read again when it changes"`
	TLSKey    word   `flag:"tls-key" default:"" live:"new" usage:"its unencrypted key, PEM"`
	TLSKernel choice `flag:"tls-kernel" default:"off" of:"auto,off" usage:"auto: let the kernel encrypt where it can (module tls), which takes more memory and bears no change of keys"`

	DataDir    word `flag:"data-dir" default:"" group:"Storage" usage:"where the embedded stream is kept; empty: $STATE_DIRECTORY, else /var/lib/odin for root, else $XDG_STATE_HOME/odin or ~/.local/state/odin (with --demo: a temporary one)"`
	NATSURL    word `flag:"nats-url" default:"" usage:"NATS servers with JetStream to use, e.g. nats://a:4222,nats://b:4222; empty: an embedded server"`
	NATSListen word `flag:"nats-listen" default:"" usage:"client port of the embedded NATS server, e.g. 127.0.0.1:4222, for publishers that speak NATS; empty: none"`
	NATSConfig word `flag:"nats-config" default:"" usage:"nats-server configuration file for the embedded server: routes, leaf nodes, accounts, TLS"`
	Retention  size `flag:"retention" default:"256MiB" usage:"bytes the stream keeps on disk; the oldest messages go first"`

	MemoryLimit        size   `flag:"memory-limit" default:"" live:"all" group:"Capacity" usage:"memory the formula shares out; empty: the cgroup's limit, else the host's memory"`
	MaxConnections     count  `flag:"max-connections" default:"0" live:"new" usage:"connections admitted at once, lowered by what memory and descriptors allow; 0: as many as the formula gives"`
	CapacityProfile    choice `flag:"capacity-profile" default:"event-loop" of:"event-loop,goroutine" usage:"cost model of the formula: event-loop (this server) or goroutine (a goroutine-per-connection server's, 180KB each)"`
	BytesPerConnection size   `flag:"bytes-per-connection" default:"" usage:"memory one connection is reckoned with, kernel included; empty: the profile's"`
	RuntimeOverhead    size   `flag:"runtime-overhead" default:"" usage:"memory set aside for the process itself; empty: the profile's"`
	Backlog            budget `flag:"backlog" default:"" live:"all" usage:"memory for bytes sent and not yet acknowledged, all clients together; empty: an eighth of the limit; 0: none"`
	Shards             count  `flag:"shards" default:"0" usage:"event loops; 0: one for each CPU the process may use"`
	MaxHandshakes      count  `flag:"max-handshakes" default:"1024" usage:"connections not upgraded yet; past it the oldest is answered 408"`

	Replay           count `flag:"replay" default:"100" live:"all" group:"Channels" usage:"messages each channel keeps in memory for clients that resume"`
	StaleAfter       list  `flag:"stale-after" default:"" live:"all" check:"silence" usage:"tell a channel's followers that it is stale after so long without a message, e.g. trade.*=5s; the longest pattern counts, * is all"`
	MaxChannels      count `flag:"max-channels" default:"100000" usage:"channels known at once"`
	MaxSubscriptions count `flag:"max-subscriptions" default:"1024" live:"all" usage:"subscriptions of one connection; a wildcard counts its matches"`
	MaxMessage       size  `flag:"max-message" default:"64KiB" live:"all" usage:"longest message a client may send (close code 1009)"`

	SendQueue     count  `flag:"send-queue" default:"256" live:"all" group:"Clients" usage:"messages a client may be behind before it counts as slow"`
	SlowTimeout   span   `flag:"slow-timeout" default:"5s" live:"all" usage:"how long a client with something to read may take no byte"`
	RateBurst     count  `flag:"rate-burst" default:"100" live:"all" usage:"commands a client may send at once"`
	PublishRate   count  `flag:"publish-rate" default:"0" live:"all" usage:"messages a second the publish API takes, all publishers together; 0: no bound"`
	RatePerSec    count  `flag:"rate-per-sec" default:"10" live:"all" usage:"commands a second a client may send after the burst"`
	Ping          span   `flag:"ping" default:"20s" usage:"interval of WebSocket pings; silence for two of them ends the connection (4201)"`
	Heartbeat     span   `flag:"heartbeat" default:"15s" live:"all" usage:"after how much silence a client is sent a heartbeat; clients in the field count on 15s"`
	MaxAge        span   `flag:"max-age" default:"0s" live:"all" usage:"close connections after about this long (1012), so that clients spread over new nodes; 0: never"`
	IPConnections count  `flag:"ip-connections" default:"0" live:"new" usage:"connections one client address may have at once; 0: no bound"`
	IPRate        count  `flag:"ip-rate" default:"0" live:"new" usage:"connections one client address may open a second; 0: no bound"`
	AdmissionWait span   `flag:"admission-wait" default:"0s" usage:"how long a caller may wait for a place when all are taken; 0s: refused at once"`
	Reject        choice `flag:"reject" default:"http" live:"new" of:"http,ws" usage:"how a caller without a place, or without a good token, is refused: http (503, 401) or ws (upgraded, then closed with 1013, 4001, which browsers can see)"`
	Compression   toggle `flag:"compression" default:"false" usage:"accept permessage-deflate from clients that offer it: half the traffic, for CPU by the message, not by the client"`
	Drain         span   `flag:"drain" default:"30s" live:"all" usage:"how long shutdown spreads the goodbyes over"`

	TokenKeyFile   list `flag:"token-key-file" default:"" live:"new" check:"token key" group:"Access" usage:"keys that readers' tokens (JWT) are signed with, [ALG:]FILE: public keys or certificates in PEM, or a secret for HMAC; ODIN_TOKEN_KEY has the text itself. Each key is for one algorithm: RS256, ES256 and so on by the curve, EdDSA or HS256 unless ALG says another. Without this and --jwks anyone may read"`
	JWKS           list `flag:"jwks" default:"" live:"new" check:"key set" usage:"sets of such keys (JWKS): files, or https URLs, which are fetched every 5 minutes and when a token names a key that is new"`
	TokenIssuer    list `flag:"token-issuer" default:"" live:"new" usage:"a token's iss must be one of these; empty: it is not looked at"`
	TokenAudience  list `flag:"token-audience" default:"" live:"new" usage:"a token's aud must have one of these; empty: it is not looked at"`
	TokenRead      list `flag:"token-read" default:"" live:"new" check:"patterns" usage:"what a token without the claim channels may read, e.g. trade.*, or * for all; empty: nothing"`
	AnonymousRead  list `flag:"anonymous-read" default:"" live:"all" check:"patterns" usage:"what may be read without a token where token keys are configured, e.g. public.*; empty: nothing, and no token is 401"`
	Revoked        word `flag:"revoked" default:"" live:"all" usage:"file of tokens and subjects that are refused, and whose connections end: a line for each, jti ID or sub NAME; read again when it changes"`
	PublishKeyFile word `flag:"publish-key-file" default:"" live:"all" usage:"file of API keys for the admin port, as 'odin key new' prints them; ODIN_PUBLISH_KEYS has the lines themselves; read again when it changes. Without one, whoever reaches the admin port may publish"`

	AllowOrigin  list   `flag:"allow-origin" default:"" live:"new" usage:"browser origins admitted besides the server's own, e.g. https://app.example.com; * admits all"`
	TrustedProxy list   `flag:"trusted-proxy" default:"" live:"new" check:"prefix" usage:"address ranges of proxies whose X-Forwarded-For is believed"`
	Echo         toggle `flag:"echo" default:"false" usage:"serve /echo, which sends every message back, for conformance suites"`

	Node      word   `flag:"node" default:"" group:"Operation" usage:"this node's name to clients; empty: a random one"`
	LogLevel  choice `flag:"log-level" default:"info" live:"all" of:"debug,info,warn,error" usage:"least level logged: debug, info, warn or error"`
	LogFormat choice `flag:"log-format" default:"text" of:"text,json" usage:"format of the log on standard error: text or json"`
	Demo      toggle `flag:"demo" default:"false" usage:"run a synthetic market inside the process, to look around"`
}

// setting is one field of a serveConfig.
type setting struct {
	flag, def, usage string
	group            string // set on the first of a group
	live             string // whom a change on SIGHUP reaches: liveAll, liveNew, "" nobody
	value            pflag.Value
}

// What a setting's tag live says.
const (
	liveAll = "all" // whoever is connected, too
	liveNew = "new" // connections, or requests, from then on
)

func (s setting) key() string { return keyName(s.flag) }
func (s setting) env() string { return envName(s.flag) }

// settings lists c's fields in order.
func (c *serveConfig) settings() []setting {
	v := reflect.ValueOf(c).Elem()
	all := make([]setting, v.NumField())
	for i := range all {
		tag := v.Type().Field(i).Tag
		value, ok := v.Field(i).Addr().Interface().(pflag.Value)
		if !ok {
			panic("serveConfig." + v.Type().Field(i).Name + " is no setting")
		}
		switch value := value.(type) {
		case *choice:
			value.of = strings.Split(tag.Get("of"), ",")
		case *list:
			switch tag.Get("check") {
			case "prefix":
				value.check = checkPrefix
			case "token key":
				value.check = checkTokenKey
			case "key set":
				value.check = checkKeySet
			case "patterns":
				value.check = checkPatterns
			case "silence":
				value.check = func(item string) error { _, err := gateway.ParseSilence(item); return err }
			}
		}
		all[i] = setting{
			flag: tag.Get("flag"), def: tag.Get("default"), usage: tag.Get("usage"),
			group: tag.Get("group"), live: tag.Get("live"), value: value,
		}
	}
	return all
}

// newServeConfig returns the defaults.
func newServeConfig() *serveConfig {
	c := new(serveConfig)
	for _, s := range c.settings() {
		if err := s.value.Set(s.def); err != nil {
			panic("default of --" + s.flag + ": " + err.Error())
		}
		if l, ok := s.value.(*list); ok {
			l.given = false
		}
	}
	return c
}

// addServeFlags gives cmd the flags of serve. What they hold is only read
// through loadSettings.
func addServeFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SortFlags = false
	for _, s := range newServeConfig().settings() {
		f := fs.VarPF(s.value, s.flag, "", s.usage)
		if _, ok := s.value.(*toggle); ok {
			f.NoOptDefVal = "true"
		}
	}
	fs.String("config", "", "configuration file (YAML); see 'odin config print --defaults'")
	cmd.Annotations = map[string]string{layered: "yes"}
}

// loaded is a serveConfig and where each of its values came from, by key.
type loaded struct {
	*serveConfig
	origin  map[string]string
	path    string // of the file, "" for none
	environ []string
	flags   *pflag.FlagSet // nil: none
}

// loadSettings puts the layers together: default < file < environment < flag.
func loadSettings(fs *pflag.FlagSet, environ []string) (*loaded, error) {
	path := ""
	if f := fs.Lookup("config"); f != nil {
		path = f.Value.String()
		if text, ok := lookupEnv(environ, envName("config")); ok && !f.Changed {
			path = text
		}
	}
	return loadLayers(path, environ, fs)
}

// loadLayers is loadSettings with the file's path found ("" for none); fs may
// be nil.
func loadLayers(path string, environ []string, fs *pflag.FlagSet) (*loaded, error) {
	l := &loaded{serveConfig: newServeConfig(), origin: map[string]string{}, path: path, environ: environ, flags: fs}
	all := l.settings()
	byEnv, byFlag := map[string]setting{}, map[string]setting{}
	defaults := map[string]any{}
	for _, s := range all {
		byEnv[s.env()], byFlag[s.flag] = s, s
		defaults[s.key()] = s.def
		l.origin[s.key()] = "default"
	}

	k := koanf.New(".")
	if err := k.Load(confmap.Provider(defaults, ""), nil); err != nil {
		return nil, err
	}
	if path != "" {
		lines, err := loadFile(k, path, all)
		if err != nil {
			return nil, err
		}
		for key, line := range lines {
			l.origin[key] = fmt.Sprintf("%s:%d", path, line)
		}
	}
	// An empty variable is one that is not set: compose files and unit files
	// pass such on. An empty value can be given in the file or by a flag.
	fromEnv := env.Provider("", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			s, ok := byEnv[name]
			if !ok || value == "" {
				return "", nil
			}
			l.origin[s.key()] = "env " + name
			return s.key(), value
		},
	})
	if err := k.Load(fromEnv, nil); err != nil {
		return nil, err
	}
	if fs != nil {
		fromFlags := posflag.ProviderWithFlag(fs, "", nil, func(f *pflag.Flag) (string, any) {
			s, ok := byFlag[f.Name]
			if !ok || !f.Changed {
				return "", nil
			}
			l.origin[s.key()] = "flag --" + f.Name
			return s.key(), f.Value.String()
		})
		if err := k.Load(fromFlags, nil); err != nil {
			return nil, err
		}
	}

	for _, s := range all {
		if err := s.value.Set(asText(k.Get(s.key()))); err != nil {
			return nil, usagef("%s: %w", l.called(s), err)
		}
	}
	return l, l.validate()
}

// called is how the user gave a setting, for messages about it.
func (l *loaded) called(s setting) string {
	switch from := l.origin[s.key()]; {
	case strings.HasPrefix(from, "env "):
		return from[len("env "):]
	case strings.HasPrefix(from, "flag "), from == "default":
		return "--" + s.flag
	default:
		return from + ": " + s.key()
	}
}

// loadFile merges a YAML file into k and returns the line of each key in it.
func loadFile(k *koanf.Koanf, path string, all []setting) (map[string]int, error) {
	f := file.Provider(path)
	b, err := f.ReadBytes()
	if err != nil {
		return nil, usagef("configuration file: %w", err)
	}
	lines, err := checkYAML(path, b, all)
	if err != nil {
		return nil, usageError{err}
	}
	if len(lines) == 0 {
		return nil, nil // empty, or comments alone
	}
	if err := k.Load(f, yaml.Parser()); err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	return lines, nil
}

// asText is a value from the YAML parser as a setting's Set takes it.
func asText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case float64:
		return strings.TrimSuffix(fmt.Sprintf("%f", v), ".000000")
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			parts[i] = asText(item)
		}
		return strings.Join(parts, ",")
	default:
		return fmt.Sprint(v)
	}
}

// validate checks what no single value can know.
func (l *loaded) validate() error {
	var errs []error
	bad := func(flag, format string, args ...any) {
		for _, s := range l.settings() {
			if s.flag == flag {
				errs = append(errs, fmt.Errorf("%s: %s", l.called(s), fmt.Sprintf(format, args...)))
			}
		}
	}
	for flag, addr := range map[string]word{"addr": l.Addr, "admin-addr": l.AdminAddr, "nats-listen": l.NATSListen} {
		if flag == "nats-listen" && addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(string(addr)); err != nil {
			bad(flag, "want HOST:PORT or :PORT, not %q", addr)
		}
	}
	if host, _, err := net.SplitHostPort(string(l.AdminAddr)); err == nil && !isLoopback(host) {
		lines, _ := lookupEnv(l.environ, envPublishKeys)
		if l.PublishKeyFile == "" && lines == "" {
			bad("admin-addr", "%s is no loopback address, and no API key guards the admin port: use 127.0.0.1, or give --publish-key-file", l.AdminAddr)
		}
	}
	if err := emptySecrets(l.environ); err != nil {
		errs = append(errs, err)
	}
	if (l.TLSCert == "") != (l.TLSKey == "") {
		bad("tls-cert", "a certificate and its key go together: give --tls-cert and --tls-key, or neither")
	}
	if l.NATSURL != "" {
		for _, one := range strings.Split(string(l.NATSURL), ",") {
			if u, err := url.Parse(strings.TrimSpace(one)); err != nil || u.Host == "" {
				bad("nats-url", "want nats://HOST:PORT, not %q", cutUser(string(l.NATSURL)))
			}
		}
		if l.NATSListen != "" {
			bad("nats-listen", "belongs to the embedded server, and --nats-url names another")
		}
		if l.NATSConfig != "" {
			bad("nats-config", "belongs to the embedded server, and --nats-url names another")
		}
	}
	for flag, n := range map[string]size{"retention": l.Retention, "max-message": l.MaxMessage} {
		if n < 1 {
			bad(flag, "want a size")
		}
	}
	if len(errs) == 0 { // what the gateway itself refuses is worth saying of good values only
		c := l.gatewayConfig(1, int(l.Shards), nil)
		errs = append(errs, l.place(c.CheckSettings()))
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}

// place gives errors that begin with a flag's name, on lines of their own, the name
// that the user gave the setting by, and its place.
func (l *loaded) place(err error) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		for _, s := range l.settings() {
			if rest, ok := strings.CutPrefix(line, "--"+s.flag+" "); ok {
				lines[i] = l.called(s) + " " + rest
			}
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}

// hidden stands for a secret in what is shown.
const hidden = "xxxxx"

// redactURL hides who a URL, or a list of them, that is about to be shown is for: a
// name alone may be a token. What can't be read as URLs is cut up to its last @, but
// for paths.
func redactURL(text string) string {
	parts := strings.Split(text, ",")
	for i, p := range parts {
		u, err := url.Parse(strings.TrimSpace(p))
		switch {
		case err != nil || u.User == nil && !isPath(p) && strings.Contains(p, "@"):
			return cutUser(text)
		case u.User != nil:
			u.User = url.User(hidden)
			parts[i] = u.String()
		}
	}
	return strings.Join(parts, ",")
}

// isPath reports whether an @ in text is in a file's name rather than behind a user's.
func isPath(text string) bool {
	before, _, _ := strings.Cut(text, "@")
	return !strings.Contains(text, "://") && strings.Contains(before, "/")
}

// cutUser hides all up to the last @.
func cutUser(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		return hidden + text[at:]
	}
	return text
}
