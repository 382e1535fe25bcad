package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/odin-ws/odin/gateway"
	"github.com/odin-ws/odin/gateway/auth"
)

// Secrets that serve also takes from the environment itself. They are no flags'
// names: what is typed can be seen by every user of the machine.
const (
	envTokenKey    = "ODIN_TOKEN_KEY"    // as in a file of --token-key-file, perhaps with ALG: before it
	envPublishKeys = "ODIN_PUBLISH_KEYS" // lines as in --publish-key-file
)

// secretsIn is the part of an environment that has them.
func secretsIn(environ []string) (some []string) {
	for _, name := range []string{envTokenKey, envPublishKeys} {
		if text, set := lookupEnv(environ, name); set {
			some = append(some, name+"="+text)
		}
	}
	return some
}

// emptySecrets refuses those that are there and empty. Elsewhere that is as good as
// not there; here it would open what was to be closed.
func emptySecrets(environ []string) error {
	var errs []error
	for _, kv := range secretsIn(environ) {
		if name, text, _ := strings.Cut(kv, "="); strings.TrimSpace(text) == "" {
			errs = append(errs, fmt.Errorf("%s is empty, which would let everybody in: give it, or unset it", name))
		}
	}
	return errors.Join(errs...)
}

// maxSecretFile bounds a file with keys or a secret, bytes.
const maxSecretFile = 1 << 20

// checkTokenKey accepts [ALG:]FILE; the file is read when serve starts.
func checkTokenKey(item string) error {
	if _, file := auth.CutAlgorithm(item); file == "" {
		return fmt.Errorf("want [ALG:]FILE, not %q", item)
	}
	return nil
}

// checkKeySet accepts a file or a URL.
func checkKeySet(item string) error {
	_, err := auth.ParseKeySet(item)
	return err
}

// checkPatterns accepts a pattern of channels.
func checkPatterns(item string) error {
	_, err := auth.ParsePatterns([]string{item})
	return err
}

// access is who may enter: nil fields let everybody.
type access struct {
	tokens *auth.Tokens
	keys   *auth.APIKeys
}

// access reads the keys that the settings and the environment name.
func (l *loaded) access(log *slog.Logger) (a *access, err error) {
	a = new(access)
	defer func() {
		if err != nil {
			a.close()
			err = usageError{err}
		}
	}()
	if l.readersNeedTokens() {
		cfg, err := l.authConfig(log)
		if err != nil {
			return a, err
		}
		if a.tokens, err = auth.NewTokens(cfg); err != nil {
			return a, err
		}
	} else if err = l.tokenless(); err != nil {
		return a, err
	}
	lines, err := l.publishKeys()
	if err == nil && l.publishersNeedKeys() {
		a.keys, err = auth.NewAPIKeys(string(l.PublishKeyFile), lines, log)
		err = l.inPublishKeys(err)
	}
	return a, err
}

// prepare reads all keys anew, and returns what puts them in force. Whether there are
// any is as it was.
func (a *access) prepare(l *loaded, log *slog.Logger) (take func(), err error) {
	defer func() {
		if err != nil {
			err = usageError{err}
		}
	}()
	takeTokens, takeKeys := func() {}, func() {}
	if a.tokens != nil {
		cfg, err := l.authConfig(log)
		if err != nil {
			return nil, err
		}
		if takeTokens, err = a.tokens.Prepare(cfg); err != nil {
			return nil, err
		}
	} else if err := l.tokenless(); err != nil {
		return nil, err
	}
	lines, err := l.publishKeys()
	if err != nil {
		return nil, err
	}
	if a.keys != nil {
		if takeKeys, err = a.keys.Prepare(string(l.PublishKeyFile), lines, log); err != nil {
			return nil, l.inPublishKeys(err)
		}
	}
	return func() { takeTokens(); takeKeys() }, nil
}

// authConfig is what tokens are to be held against.
func (l *loaded) authConfig(log *slog.Logger) (cfg auth.Config, err error) {
	cfg = auth.Config{
		KeySets: l.JWKS.items, Issuers: l.TokenIssuer.items, Audiences: l.TokenAudience.items,
		DefaultRead: l.TokenRead.items, AnonymousRead: l.AnonymousRead.items, Revoked: string(l.Revoked), Log: log,
	}
	cfg.Keys, err = l.tokenKeys()
	return cfg, err
}

// publishKeys are the lines of the environment, if the keys are there.
func (l *loaded) publishKeys() ([]byte, error) {
	lines, _ := lookupEnv(l.environ, envPublishKeys)
	if l.PublishKeyFile != "" && lines != "" {
		return nil, fmt.Errorf("--publish-key-file and %s are two places for the same keys: give one", envPublishKeys)
	}
	return []byte(lines), nil
}

// inPublishKeys says of an error that it is in the lines of the environment.
func (l *loaded) inPublishKeys(err error) error {
	if err != nil && l.PublishKeyFile == "" {
		return fmt.Errorf("%s: %w", envPublishKeys, err)
	}
	return err
}

// publishersNeedKeys reports whether the admin port is guarded.
func (l *loaded) publishersNeedKeys() bool {
	lines, _ := lookupEnv(l.environ, envPublishKeys)
	return l.PublishKeyFile != "" || lines != ""
}

// readersNeedTokens reports whether a token key is configured.
func (l *loaded) readersNeedTokens() bool {
	text, _ := lookupEnv(l.environ, envTokenKey)
	return text != "" || len(l.TokenKeyFile.items)+len(l.JWKS.items) > 0
}

// tokenKeys reads the keys of --token-key-file and of the environment.
func (l *loaded) tokenKeys() (keys []auth.Key, err error) {
	add := func(where, alg string, text []byte) error {
		some, err := auth.ParseKeys(alg, text)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		keys = append(keys, some...)
		return nil
	}
	for _, item := range l.TokenKeyFile.items {
		alg, file := auth.CutAlgorithm(item)
		text, err := readSmall(file)
		if err != nil {
			return nil, err
		}
		if err := add(file, alg, text); err != nil {
			return nil, err
		}
	}
	if text, _ := lookupEnv(l.environ, envTokenKey); text != "" {
		alg, text := auth.CutAlgorithm(text)
		if err := add(envTokenKey, alg, []byte(text)); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// tokenless refuses settings that restrict nobody without a token key: whoever
// gave them believes that they do.
func (l *loaded) tokenless() error {
	for _, s := range l.settings() {
		switch s.flag {
		case "token-issuer", "token-audience", "token-read", "anonymous-read", "revoked":
			if s.value.String() != "" {
				return fmt.Errorf("%s restricts nobody: without a token key anyone may read; give --token-key-file or --jwks", l.called(s))
			}
		}
	}
	return nil
}

func (a *access) close() {
	if a.tokens != nil {
		a.tokens.Close()
	}
	if a.keys != nil {
		a.keys.Close()
	}
}

// into puts the keys into a configuration.
func (a *access) into(c *gateway.Config) { c.Tokens, c.APIKeys = a.tokens, a.keys }

// say logs who may do what, as an operator must know it.
func (a *access) say(l *loaded, log *slog.Logger) {
	if a.tokens == nil {
		log.Info("No token key is configured: whoever reaches the public port may read")
	} else {
		log.Info("Readers need a token", "keys", a.tokens.Stats().Keys, "sets", len(l.JWKS.items),
			"issuers", l.TokenIssuer.String(), "audiences", l.TokenAudience.String(),
			"without_channels_read", l.TokenRead.String(), "without_token_read", l.AnonymousRead.String())
		if len(l.TokenAudience.items) == 0 {
			log.Warn("No audience is configured: a token that the same issuer made for another service is taken, too; see --token-audience")
		}
		for _, name := range l.JWKS.items {
			if at, err := auth.ParseKeySet(name); err == nil && auth.Exposed(at) {
				log.Warn("A set of token keys is fetched in the clear: who can change it on its way can make tokens; use https", "url", auth.Shown(at))
			}
		}
	}
	if a.keys == nil {
		log.Info("No publish key is configured: whoever reaches the admin port may publish")
	} else {
		log.Info("The admin port needs an API key", "keys", a.keys.Len())
	}
	if host, _, err := net.SplitHostPort(string(l.NATSListen)); err == nil && !isLoopback(host) && (a.tokens != nil || a.keys != nil) {
		log.Warn("The NATS port asks for no token and no API key: who reaches it may read and publish everything, unless --nats-config has users for it", "addr", string(l.NATSListen))
	}
}

// isLoopback reports whether a host reaches this machine only.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// readSmall reads a file with a secret or keys.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSecretFile {
		return nil, fmt.Errorf("%s has more than %d bytes: that is no key", path, maxSecretFile)
	}
	return os.ReadFile(path)
}

// secretFlag is a client's secret: by a file, by the environment, or, since it is
// convenient and can be seen by others, typed.
type secretFlag struct{ name, text, file string }

// add gives cmd the flags --NAME and --NAME-file.
func (s *secretFlag) add(cmd *cobra.Command, name, what string) {
	s.name = name
	fs := cmd.Flags()
	fs.StringVar(&s.file, name+"-file", "", "file with the "+what)
	fs.StringVar(&s.text, name, "", what+"; every user of the machine can see what is typed here: better --"+name+"-file, or "+envName(name)+" in the environment")
}

// value is the secret, "" for none. What was typed counts more than the
// environment.
func (s *secretFlag) value(cmd *cobra.Command) (string, error) {
	typed, typedFile := cmd.Flags().Changed(s.name), cmd.Flags().Changed(s.name+"-file")
	switch {
	case s.file == "" || s.text != "" && typed && !typedFile:
		return s.text, nil
	case s.text != "" && typed == typedFile:
		return "", usagef("--%s and --%s-file are two ways to give the same: give one", s.name, s.name)
	}
	text, err := readSmall(s.file)
	if err != nil {
		return "", usageError{err}
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", usageError{errors.New(s.file + ": want the secret alone, on one line")}
	}
	return secret, nil
}
